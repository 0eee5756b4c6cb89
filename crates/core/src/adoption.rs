//! Adoption: the lease of an anchor whose record was lost, as far as the anchor tells.
//!
//! Only what carries the issuer's own MAC for its name and namespace comes here ([`Sealed`]), and only while
//! [`stand`](crate::anchors::stand) says that its record was lost. What the annotation does not have (it stands in the open)
//! is found again by digest: the role among those of now, the owner among the enrolments that are known. What is not found
//! stays unknown, and the lease can be ended all the same; it yields tokens only where the role was found.
//!
//! For whom its tokens are is the role's to say, whose document is the same to the byte. Where the role is not known that is not
//! either, nor the ServiceAccount: then there are no canaries, and nothing is proved of its end. A strict lease has no others.

use crate::anchors::{FoundAnchor, Sealed};
use crate::caller::{LeaseOwner, Owner};
use crate::gives::binding_name;
use crate::lease::{Binding, Lease, Mode, Pins, State};
use crate::ledger::Revision;
use crate::name::Name;
use crate::policy::{Policy, target_and_mode};
use crate::role::{LEASE_LIFETIME_CEILING, Role, Target};
use crate::time::{Timestamp, after};

/// The lease of an anchor in that cluster. `owner` is whose digest the annotation has, if that is known.
pub fn adopt(
    found: &FoundAnchor,
    sealed: &Sealed,
    cluster: &Name,
    policy: &Policy,
    owner: Option<Owner>,
    now: Timestamp,
) -> Lease {
    let mut same = policy.roles().filter(|role| role.cluster() == cluster && role.digest() == sealed.role);
    let granted = same.find_map(|role| by_role(found, sealed, role));
    let longest = granted.as_ref().map_or(LEASE_LIFETIME_CEILING, |(role, ..)| role.lease().max);
    let role = granted.as_ref().map(|(role, ..)| role.name().clone());
    let audiences = granted.as_ref().and_then(|(role, ..)| role.audiences().cloned());
    let (target, mode) = match granted {
        Some((_, target, mode)) => (target, mode),
        None => by_anchor(found, sealed, cluster),
    };
    let pins = Pins { anchor_uid: found.uid.clone(), service_account_uid: String::new() };
    Lease {
        id: sealed.lease,
        job: None,
        owner: owner.map_or(LeaseOwner::Digest(sealed.owner), Into::into),
        role,
        role_digest: sealed.role,
        target,
        audiences,
        anchor: found.name.clone(),
        mode,
        created: found.created,
        deadline: sealed.deadline.min(after(found.created, longest)),
        state: State::Active { pins, since: now },
        receipt: None,
        policy: None,
        not_removed: None,
        revision: Revision::FIRST,
    }
}

/// What the role gave out, if it gave out what was found.
fn by_role<'r>(found: &FoundAnchor, sealed: &Sealed, role: &'r Role) -> Option<(&'r Role, Target, Mode)> {
    let (target, mode) = target_and_mode(role, &found.name);
    let bound_in: Vec<&Name> = match &mode {
        Mode::Strict { bindings } => bindings.iter().map(|binding| &binding.namespace).collect(),
        Mode::Bound => Vec::new(),
        Mode::Unbound { .. } => return None,
    };
    let fits = target.namespace == found.namespace && bound_in.into_iter().eq(&sealed.bindings);
    fits.then_some((role, target, mode))
}

/// What can be deleted without knowing the role: that is all of it.
fn by_anchor(found: &FoundAnchor, sealed: &Sealed, cluster: &Name) -> (Target, Mode) {
    let (cluster, namespace) = (cluster.clone(), found.namespace.clone());
    if sealed.bindings.is_empty() {
        return (Target { cluster, namespace, service_account: String::new() }, Mode::Bound);
    }
    let service_account = found.name.as_str().to_owned();
    let binding = |(index, namespace): (usize, &Name)| Binding {
        namespace: namespace.clone(),
        name: binding_name(&service_account, index),
        role: None,
    };
    let bindings = sealed.bindings.iter().enumerate().map(binding).collect();
    (Target { cluster, namespace, service_account }, Mode::Strict { bindings })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::digest::Digest;
    use crate::gives::{Gives, RbacName, Rights, RoleRef, Strict, StrictBinding};
    use crate::lease::EndCause;
    use crate::lease::tests::lease;
    use crate::name::NamePattern;
    use crate::role::{Lifetime, Subject};

    const HOUR: Duration = Duration::from_secs(3600);

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn role(gives: impl Into<Gives>) -> Role {
        let subject = Subject {
            runners: vec![NamePattern::parse("prod-*").unwrap()],
            accept_asserted_jobs: true,
            ..Subject::default()
        };
        let token = Lifetime { default: HOUR, max: HOUR };
        let lifetime = Lifetime { default: HOUR, max: HOUR };
        Role::new(name("deploy"), gives, token, lifetime, vec![subject], Digest::of_bytes(b"role")).unwrap()
    }

    fn bound() -> Role {
        role(Target { cluster: name("c"), namespace: name("web"), service_account: "deployer".to_owned() })
    }

    fn strict() -> Role {
        let rights = Rights::Existing(RoleRef::Role(RbacName::parse("deployer").unwrap()));
        let bindings = vec![StrictBinding { namespace: name("api"), rights }];
        role(Strict { cluster: name("c"), namespace: name("web"), bindings })
    }

    fn sealed(deadline: i64) -> Sealed {
        let Lease { id, owner, role_digest, .. } = lease();
        let (owner, deadline) = (owner.digest(), second(deadline));
        Sealed { lease: id, owner, role: role_digest, deadline, bindings: Vec::new() }
    }

    fn adopted_from(sealed: &Sealed, roles: Vec<Role>, owner: Option<Owner>) -> Lease {
        let (namespace, uid) = (name("web"), "uid".to_owned());
        let found =
            FoundAnchor { namespace, name: lease().anchor, uid, created: second(1_000), annotation: None };
        adopt(&found, sealed, &name("c"), &Policy::new(roles).unwrap(), owner, second(2_000))
    }

    #[test]
    fn what_digests_lead_to_is_known_again_and_the_job_is_not() {
        let owner = lease().owner.known().cloned();
        let adopted = adopted_from(&sealed(3_000), vec![bound()], owner.clone());
        assert!(adopted.is_adopted() && adopted.is_live() && adopted.is_incomplete());
        assert_eq!((adopted.id, adopted.anchor.clone()), (lease().id, lease().anchor));
        assert_eq!((adopted.role_name(), adopted.target.service_account.as_str()), ("deploy", "deployer"));
        assert_eq!((adopted.owner.known(), adopted.mode.clone()), (owner.as_ref(), Mode::Bound));
        assert_eq!((adopted.created, adopted.deadline), (second(1_000), second(3_000)));
        assert_eq!(adopted.pins().map(|pins| pins.anchor_uid.as_str()), Some("uid"));
    }

    #[test]
    fn for_whom_its_tokens_are_is_known_by_its_role() {
        let vault = crate::audience::tests::audiences(&["vault"]).unwrap();
        let role = bound().with_audiences(vault.clone()).unwrap();
        assert_eq!(adopted_from(&sealed(3_000), vec![role], None).audiences, Some(vault));
        assert_eq!(adopted_from(&sealed(3_000), vec![bound()], None).audiences, None);
        let unknown = adopted_from(&sealed(3_000), vec![], None);
        assert!(unknown.target.service_account.is_empty(), "nothing is asked of whom nobody knows");
    }

    #[test]
    fn without_owner_and_role_there_is_still_a_lease_that_can_be_ended() {
        for roles in [vec![], vec![strict()]] {
            let adopted = adopted_from(&sealed(3_000), roles, None);
            assert_eq!(adopted.owner, LeaseOwner::Digest(lease().owner.digest()));
            assert_eq!(
                (adopted.role.clone(), adopted.mode.clone()),
                (None, Mode::Bound),
                "not the same role"
            );
            assert!(adopted.begin_end(EndCause::Deadline, second(3_000)).is_ok());
        }
        let other = Sealed { role: Digest::of_bytes(b"changed"), ..sealed(3_000) };
        assert_eq!(adopted_from(&other, vec![bound()], None).role, None, "the role is another one now");
    }

    #[test]
    fn all_of_a_strict_lease_comes_with_it_whether_the_role_is_known_or_not() {
        let sealed = Sealed { bindings: vec![name("api")], ..sealed(3_000) };
        let account = lease().anchor.as_str().to_owned();
        for (roles, known) in [(vec![strict()], true), (vec![], false)] {
            let adopted = adopted_from(&sealed, roles, None);
            let Mode::Strict { bindings } = &adopted.mode else { panic!("{:?}", adopted.mode) };
            assert_eq!(adopted.target.service_account, account);
            assert_eq!(
                (bindings[0].namespace.clone(), bindings[0].name.clone()),
                (name("api"), format!("{account}-0"))
            );
            assert_eq!(
                (bindings.len(), bindings[0].role.is_some(), adopted.role.is_some()),
                (1, known, known)
            );
        }
    }

    #[test]
    fn a_deadline_is_believed_no_further_than_its_role_goes() {
        let deadline = |roles| adopted_from(&sealed(100_000_000), roles, None).deadline;
        assert_eq!(deadline(vec![bound()]), after(second(1_000), HOUR));
        assert_eq!(deadline(vec![]), after(second(1_000), LEASE_LIFETIME_CEILING));
    }

    #[test]
    fn its_owner_makes_it_whole_and_only_once() {
        let owner = lease().owner.known().cloned().unwrap();
        let adopted = adopted_from(&sealed(3_000), vec![bound()], None);
        let pins = Pins { anchor_uid: "uid".to_owned(), service_account_uid: "account".to_owned() };
        let whole = adopted.clone().recognise(owner.clone(), pins.clone()).unwrap();
        assert!(whole.is_adopted() && !whole.is_incomplete());
        assert_eq!((whole.owner.known(), whole.pins()), (Some(&owner), Some(&pins)));
        assert_eq!(
            (whole.revision, whole.activation().map(|(_, since)| since)),
            (adopted.revision.next(), Some(second(2_000)))
        );
        let granted = lease().activate(pins.clone(), second(1)).unwrap();
        assert!(granted.recognise(owner, pins).is_err(), "it was never adopted");
    }
}
