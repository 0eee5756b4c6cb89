//! Anchors that were found in a cluster, rather than known from the records: which of them are nobody's, and may go.
//!
//! Whoever can edit Secrets can edit what an anchor carries, so nothing is believed without the issuer's own MAC. And
//! records that were lost do not make a lease nobody's: while there is a sign that some were, nothing is removed.

use std::time::Duration;

use async_trait::async_trait;

use crate::cluster::CutError;
use crate::digest::Digest;
use crate::id::LeaseId;
use crate::lease::{AnchorName, Lease, State};
use crate::name::Name;
use crate::role::LEASE_LIFETIME_CEILING;
use crate::time::{Timestamp, after};

/// A Secret of the lease type with this issuer's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAnchor {
    /// Where.
    pub namespace: Name,
    /// Its name.
    pub name: AnchorName,
    /// Its UID.
    pub uid: String,
    /// When it was made, by the API server's clock.
    pub created: Timestamp,
    /// What it carries; none if that was taken away, or never was there.
    pub annotation: Option<String>,
}

/// What the annotation of an anchor says, once its MAC was found to be ours for that anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The lease.
    pub lease: LeaseId,
    /// Stands for its owner.
    pub owner: Digest,
    /// Of its role's document when it was granted.
    pub role: Digest,
    /// When it ends at the latest.
    pub deadline: Timestamp,
    /// Of a strict lease: where its bindings are, in their order. Empty of a bound one.
    pub bindings: Vec<Name>,
}

/// All that was made for a lease, as far as its anchor tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Where the anchor is.
    pub namespace: Name,
    /// The anchor; in a strict lease the ServiceAccount has its name.
    pub anchor: AnchorName,
    /// The RoleBindings of a strict lease, by namespace and name.
    pub bindings: Vec<(Name, String)>,
}

impl Remains {
    /// Of the lease whose anchor was found.
    pub fn of(found: &FoundAnchor, sealed: &Sealed) -> Self {
        let named = |(index, namespace): (usize, &Name)| {
            (namespace.clone(), crate::gives::binding_name(found.name.as_str(), index))
        };
        Self {
            namespace: found.namespace.clone(),
            anchor: found.name.clone(),
            bindings: sealed.bindings.iter().enumerate().map(named).collect(),
        }
    }
}

/// What an anchor is to the issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A record has it.
    Claimed,
    /// No record has it, for less than the grace.
    Waiting,
    /// It carries no MAC of ours: nothing is believed of it, and nothing is done to it.
    Unauthenticated,
    /// No record has it, and records may have been lost: it is left alone.
    Kept,
    /// No record has it, and its lease has not reached its deadline: records were lost, because each is durable before its
    /// anchor is made and is kept for longer than any lease lasts. It is adopted ([`crate::adoption`]).
    Lost,
    /// No record has it: it goes.
    Unclaimed,
}

/// What one anchor is. `record` is the lease that its annotation names; `whole` is whether there are records, and nothing says
/// that some were lost.
pub fn stand(
    found: &FoundAnchor,
    sealed: Option<&Sealed>,
    record: Option<&Lease>,
    whole: bool,
    grace: Duration,
    now: Timestamp,
) -> Standing {
    let Some(sealed) = sealed else { return Standing::Unauthenticated };
    let record =
        record.filter(|lease| lease.anchor == found.name && lease.target.namespace == found.namespace);
    let since = match record.map(|lease| &lease.state) {
        Some(State::Pending | State::Active { .. } | State::Ending { .. }) => return Standing::Claimed,
        Some(State::Ended { gone, .. }) => (*gone).max(found.created),
        None => found.created,
    };
    let over = now >= sealed.deadline.min(after(found.created, LEASE_LIFETIME_CEILING));
    if record.is_none() && !over {
        Standing::Lost
    } else if now < after(since, grace) {
        Standing::Waiting
    } else if whole {
        Standing::Unclaimed
    } else {
        Standing::Kept
    }
}

/// Why anchors could not be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The credential may not.
    #[error(
        "the cluster forbids to list secrets in namespace \"{0}\": apply what `shorepass-issuer rbac --listing` prints"
    )]
    Forbidden(Name),
    /// No answer, or none that can be understood.
    #[error("anchors cannot be listed: {0}")]
    Unreachable(String),
}

/// The port to anchors that are found by listing, with a credential of its own.
#[async_trait]
pub trait Anchors: Send + Sync {
    /// All Secrets of the lease type with this issuer's label in the namespace. Their data is not asked for.
    async fn list(&self, namespace: &Name) -> Result<Vec<FoundAnchor>, ListError>;

    /// Deletes all of it: bindings, then anchor, then the ServiceAccount of a strict lease. May repeat: yes.
    async fn remove(&self, remains: &Remains) -> Result<(), CutError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{EndCause, tests::lease};

    const GRACE: Duration = Duration::from_secs(600);

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn found() -> FoundAnchor {
        let lease = lease();
        let (namespace, name) = (lease.target.namespace, lease.anchor);
        FoundAnchor { namespace, name, uid: "uid".to_owned(), created: second(100), annotation: None }
    }

    fn sealed() -> Sealed {
        let Lease { id, owner, role_digest, .. } = lease();
        let (owner, deadline, bindings) = (owner.digest(), second(10_000), Vec::new());
        Sealed { lease: id, owner, role: role_digest, deadline, bindings }
    }

    fn at(record: Option<&Lease>, whole: bool, now: i64) -> Standing {
        stand(&found(), Some(&sealed()), record, whole, GRACE, second(now))
    }

    #[test]
    fn what_no_record_has_is_lost_until_its_deadline_and_then_goes() {
        assert_eq!(at(None, true, 9_999), Standing::Lost);
        assert_eq!(at(None, true, 10_000), Standing::Unclaimed);
        let foreign = Lease { anchor: AnchorName::from_random([9; 16]), ..lease() };
        assert_eq!(at(Some(&foreign), true, 9_999), Standing::Lost, "the record has another anchor");
        let short = Sealed { deadline: second(400), ..sealed() };
        let standing = |now| stand(&found(), Some(&short), None, true, GRACE, second(now));
        assert_eq!((standing(699), standing(700)), (Standing::Waiting, Standing::Unclaimed));
    }

    #[test]
    fn what_a_record_has_stays_until_it_has_ended_for_the_grace() {
        assert_eq!(at(Some(&lease()), true, 90_000), Standing::Claimed);
        let ending = lease().begin_end(EndCause::Released, second(300)).unwrap();
        assert_eq!(at(Some(&ending), true, 90_000), Standing::Claimed);
        let ended = ending.finish_end(second(1_000)).unwrap();
        assert_eq!(at(Some(&ended), true, 1_599), Standing::Waiting);
        assert_eq!(at(Some(&ended), true, 1_600), Standing::Unclaimed);
        assert_eq!(at(Some(&ended), false, 1_600), Standing::Kept);
    }

    #[test]
    fn without_our_mac_nothing_is_done() {
        let standing = stand(&found(), None, None, true, GRACE, second(1_000_000));
        assert_eq!(standing, Standing::Unauthenticated);
    }

    #[test]
    fn an_empty_store_and_one_that_lost_records_remove_nothing() {
        assert_eq!(at(None, false, 9_000), Standing::Lost);
        assert_eq!(at(None, false, 20_000), Standing::Kept, "even past its deadline");
    }

    #[test]
    fn a_deadline_is_believed_no_further_than_any_role_goes() {
        let sealed = Sealed { deadline: second(100_000_000), ..sealed() };
        let past = 100 + LEASE_LIFETIME_CEILING.as_secs() as i64;
        let standing = |now| stand(&found(), Some(&sealed), None, true, GRACE, second(now));
        assert_eq!((standing(past - 1), standing(past)), (Standing::Lost, Standing::Unclaimed));
    }

    #[test]
    fn all_of_a_strict_lease_is_told_by_its_anchor() {
        let namespaces = ["web", "api"].map(|name| Name::parse(name).unwrap()).to_vec();
        let sealed = Sealed { bindings: namespaces.clone(), ..sealed() };
        let remains = Remains::of(&found(), &sealed);
        let anchor = found().name;
        let bindings = remains.bindings.iter().map(|(namespace, name)| (namespace.clone(), name.as_str()));
        let names = [format!("{}-0", anchor.as_str()), format!("{}-1", anchor.as_str())];
        assert_eq!(
            bindings.collect::<Vec<_>>(),
            [(namespaces[0].clone(), &*names[0]), (namespaces[1].clone(), &*names[1])]
        );
    }
}
