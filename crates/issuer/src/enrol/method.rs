//! Ways to prove which machine wants to be let in.
//!
//! A method looks at what was shown and may ask others about it. What it found good is asked again under the gate, for each
//! attempt to record it, because a join token may have been taken and a name given away in between. Which runner names and
//! labels come of it, and whom it may replace, is each method's own policy; what all have in common is in
//! [`Enrolling`](super::Enrolling).

use async_trait::async_trait;
use shorepass_core::enrolment::{Enrolment, Origin, Taken};
use shorepass_core::id::EnrolmentId;
use shorepass_core::labels::Labels;
use shorepass_core::ledger::Change;
use shorepass_core::name::Name;
use shorepass_rpc::refused::Refused;

use super::Asked;

/// A way to prove which machine it is.
#[async_trait]
pub(super) trait Method: Send + Sync {
    /// Whether what was shown is good for a runner of this name. Whoever is stopped here has cost little: it bounds itself
    /// what a stranger can make it do.
    async fn look(&self, name: &Name) -> Result<Box<dyn Admits>, Rejected>;
}

/// What was shown, and found good.
pub(super) trait Admits: Send + Sync {
    /// What it gives now.
    fn admit(&self, asked: &Asked) -> Result<Admission, Refused>;
}

/// What a method gives.
pub(super) enum Admission {
    /// A new enrolment.
    First(Gives),
    /// This enrolment once more, and what is used up by that: the reply was lost, and the same key asks again.
    Again(EnrolmentId, Option<Uses>),
}

/// Of what a new enrolment is made.
pub(super) struct Gives {
    /// Its labels.
    pub(super) labels: Labels,
    /// By what it was let in.
    pub(super) origin: Option<Origin>,
    /// Whom it may replace.
    pub(super) replaces: Replaces,
    /// What is used up by it.
    pub(super) uses: Option<Uses>,
}

/// Which enrolment of the same name may give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaces {
    /// None that lives.
    Nothing,
    /// Any.
    Any,
    /// That of the same pod, or of one that it came in the place of.
    ItsPod,
}

impl Gives {
    /// Whether it may take the name of one that holds it.
    pub(super) fn may_replace(&self, held: &Enrolment) -> bool {
        let pod = |origin: &Option<Origin>| origin.as_ref().and_then(Origin::pod).cloned();
        match self.replaces {
            Replaces::Nothing => false,
            Replaces::Any => true,
            // Of a cloned one an operator has to find the copy first.
            Replaces::ItsPod => {
                let both = pod(&self.origin).zip(pod(&held.origin));
                both.is_some_and(|(ours, theirs)| ours.follows(&theirs)) && held.cloned.is_none()
            }
        }
    }
}

/// What is recorded of what is used up.
pub(super) type Uses = Box<dyn FnOnce(Taken) -> Change + Send>;

/// Why somebody is not let in: what is told, and what only operators are told.
pub(super) struct Rejected {
    pub(super) refused: Refused,
    pub(super) explanation: String,
}

impl From<Refused> for Rejected {
    fn from(refused: Refused) -> Self {
        Self { explanation: refused.message.clone(), refused }
    }
}

#[cfg(test)]
mod tests {
    use shorepass_core::caller::SpiffeId;
    use shorepass_core::digest::Digest;
    use shorepass_core::enrolment::{CloneCause, Cloned, Life};
    use shorepass_core::pod::Pod;
    use shorepass_core::time::Timestamp;

    use super::*;

    fn pod(cluster: &str, namespace: &str, name: &str, uid: &str) -> Option<Origin> {
        let part = |text| Name::parse(text).unwrap();
        let (cluster, namespace) = (part(cluster), part(namespace));
        Some(Origin::Pod(Pod { cluster, namespace, name: name.to_owned(), uid: uid.to_owned() }))
    }

    fn held(origin: Option<Origin>) -> Enrolment {
        let id = EnrolmentId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap();
        let spiffe_id = SpiffeId::parse("spiffe://ci.example.org/runner/prod-1").unwrap();
        let from = Timestamp::from_second(1_700_000_000).unwrap();
        let life = Life { from, until: from };
        Enrolment::first(id, spiffe_id, Labels::default(), Digest::of_bytes(b"key"), life).by(origin)
    }

    fn gives(origin: Option<Origin>, replaces: Replaces) -> Gives {
        Gives { labels: Labels::default(), origin, replaces, uses: None }
    }

    #[test]
    fn a_pod_takes_the_place_of_the_pod_of_its_name_in_its_namespace_and_cluster_alone() {
        let ours = || gives(pod("staging", "ci", "runner-0", "u-1"), Replaces::ItsPod);
        for (theirs, may) in [
            (pod("staging", "ci", "runner-0", "u-1"), true),
            (pod("staging", "ci", "runner-0", "u-0"), true),
            (pod("staging", "ci", "runner-1", "u-1"), false),
            (pod("staging", "web", "runner-0", "u-1"), false),
            (pod("prod", "ci", "runner-0", "u-1"), false),
            (None, false),
        ] {
            let held = held(theirs);
            assert_eq!(ours().may_replace(&held), may, "{held:?}");
            assert!(!gives(held.origin.clone(), Replaces::Nothing).may_replace(&held));
            assert!(gives(None, Replaces::Any).may_replace(&held));
        }
    }

    #[test]
    fn nobody_but_an_operator_gives_the_name_of_a_cloned_runner_anew() {
        let mut held = held(pod("staging", "ci", "runner-0", "u-0"));
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        held.cloned = Some(Cloned { at, cause: CloneCause::Used, certificate: Digest::of_bytes(b"older") });
        assert!(!gives(held.origin.clone(), Replaces::ItsPod).may_replace(&held));
        assert!(gives(None, Replaces::Any).may_replace(&held));
    }
}
