//! Decisions, by the table.

mod decisions;

use super::*;
use crate::caller::{LeaseOwner, SpiffeId, VerifiedPeer};
use crate::digest::Digest;
use crate::gives::{RbacName, Rights, RoleRef, StrictBinding};
use crate::id::{BlockId, EnrolmentId};
use crate::job::{AssertedJob, Evidence};
use crate::name::{NamePattern, TrustDomain};
use crate::role::{Lifetime, Subject};

const ID: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
const HOUR: Duration = Duration::from_secs(3600);

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn caller(id: &str) -> Caller {
    Caller::from_verified_peer(VerifiedPeer {
        spiffe_id: SpiffeId::parse(&format!("spiffe://d/{id}")).unwrap(),
        enrolment: EnrolmentId::parse(ID).unwrap(),
        issued: second(0),
        expires: second(100_000),
        authority: Digest::of_bytes(b"authority"),
        certificate: Digest::of_bytes(b"certificate"),
        key: Digest::of_bytes(b"key"),
    })
}

fn policy(accept_asserted_jobs: bool) -> Policy {
    let subject = Subject {
        runners: vec![NamePattern::parse("prod-*").unwrap()],
        platforms: vec![NamePattern::parse("portal").unwrap()],
        accept_asserted_jobs,
        ..Subject::default()
    };
    let target =
        Target { cluster: name("c"), namespace: name("web"), service_account: "deployer".to_owned() };
    let token = Lifetime { default: HOUR / 2, max: HOUR };
    let lease = Lifetime { default: HOUR, max: HOUR * 6 };
    let role = Role::new(name("deploy"), target, token, lease, vec![subject], Digest::of_bytes(b"role"));
    Policy::new(vec![role.unwrap()]).unwrap()
}

fn job(owner: &Caller) -> Job {
    let asserted = AssertedJob::new("jenkins".to_owned(), "1".to_owned(), String::new()).unwrap();
    Job {
        id: JobId::parse(ID).unwrap(),
        owner: owner.owner(),
        evidence: Evidence::Asserted(asserted),
        started: second(0),
        latest_end: None,
        ended: None,
        revision: Revision::FIRST,
    }
}

fn ask(role: &str) -> Ask {
    Ask { role: name(role), lease_lifetime: None, token_lifetime: None }
}

fn decide(accept_asserted: bool, id: &str, role: &str) -> Result<Grant, Denial> {
    let caller = caller(id);
    policy(accept_asserted).decide(&caller, &job(&caller), &ask(role), &[], second(0))
}

#[test]
fn grants_what_a_subject_names() {
    assert!(decide(true, "runner/prod-1", "deploy").is_ok());
    assert!(decide(false, "platform/portal", "deploy").is_ok());
}

#[test]
fn a_name_of_another_trust_domain_is_another_caller() {
    let partner = TrustDomain::parse("partner").unwrap();
    let own = policy(true).role(&name("deploy")).unwrap().subjects()[0].clone();
    let its = Subject { trust_domain: Some(partner), ..own.clone() };
    let hour = Lifetime { default: HOUR, max: HOUR };
    let decide = |subject: &Subject, caller: &Caller| {
        let target =
            Target { cluster: name("c"), namespace: name("web"), service_account: "deployer".to_owned() };
        let digest = Digest::of_bytes(b"role");
        let role = Role::new(name("deploy"), target, hour, hour, vec![subject.clone()], digest).unwrap();
        let policy = Policy::new(vec![role]).unwrap();
        policy.decide(caller, &job(caller), &ask("deploy"), &[], second(0)).is_ok()
    };
    for id in ["runner/prod-1", "platform/portal"] {
        let ours = caller(id);
        let theirs = of_bundle("partner", id);
        assert!(decide(&own, &ours) && decide(&its, &theirs), "{id}");
        assert!(!decide(&own, &theirs) && !decide(&its, &ours), "{id}");
        assert!(!decide(&its, &of_bundle("third", id)), "{id}");
    }
}

/// Somebody with a certificate of a trust bundle.
fn of_bundle(domain: &str, id: &str) -> Caller {
    let spiffe_id = SpiffeId::parse(&format!("spiffe://{domain}/{id}")).unwrap();
    Caller::from_verified_peer(VerifiedPeer {
        enrolment: EnrolmentId::of_bundle(&name(domain), &spiffe_id),
        spiffe_id,
        issued: second(0),
        expires: second(100_000),
        authority: Digest::of_bytes(b"authority"),
        certificate: Digest::of_bytes(b"certificate"),
        key: Digest::of_bytes(b"key"),
    })
}

#[test]
fn denies_everything_else_alike() {
    let cases = [
        (true, "runner/dev-1", "deploy"),
        (true, "runner/prod-1", "other"),
        (true, "platform/prod-1", "deploy"),
        (true, "operator/prod-1", "deploy"),
        (true, "issuer/prod-1", "deploy"),
        (false, "runner/prod-1", "deploy"),
    ];
    for (accept_asserted, id, role) in cases {
        let denial = decide(accept_asserted, id, role).unwrap_err();
        assert!(matches!(denial.reason, DenialReason::RoleNotAvailable(_)), "{id} {role}");
        assert!(!denial.explanation.is_empty());
    }
}

#[test]
fn a_block_in_force_denies_and_says_who() {
    let caller = caller("runner/prod-1");
    let block = Block {
        job: None,
        id: BlockId::parse(ID).unwrap(),
        caller: caller.spiffe_id().clone(),
        role: name("deploy"),
        set: second(0),
        until: second(100),
        by: SpiffeId::parse("spiffe://d/operator/alice").unwrap(),
        reason: "leaked".to_owned(),
        lease: LeaseId::parse(ID).unwrap(),
        lifted: None,
        revision: Revision::FIRST,
    };
    let decide = |block: &Block, now| {
        policy(true).decide(&caller, &job(&caller), &ask("deploy"), std::slice::from_ref(block), second(now))
    };
    let denial = decide(&block, 99).unwrap_err();
    assert!(matches!(denial.reason, DenialReason::Blocked(_)));
    assert!(denial.explanation.contains("operator/alice"));
    assert!(decide(&block, 100).is_ok());
    let lifted = block.lift(second(1), SpiffeId::parse("spiffe://d/operator/bob").unwrap());
    assert!(decide(&lifted, 50).is_ok());
}

#[test]
fn lifetimes_are_cut_to_the_role_and_the_job() {
    let caller = caller("runner/prod-1");
    let long = Ask { lease_lifetime: Some(HOUR * 100), token_lifetime: Some(HOUR * 100), ..ask("deploy") };
    let grant = policy(true).decide(&caller, &job(&caller), &long, &[], second(0)).unwrap();
    assert_eq!(grant.deadline, after(second(0), HOUR * 6));
    assert_eq!(grant.token_lifetime, HOUR);
    let short_job = Job { latest_end: Some(second(700)), ..job(&caller) };
    let grant = policy(true).decide(&caller, &short_job, &long, &[], second(0)).unwrap();
    assert_eq!(grant.deadline, second(700));
    assert_eq!(grant.token_lifetime, Duration::from_secs(700));
    let shorter_job = Job { latest_end: Some(second(60)), ..job(&caller) };
    let grant = policy(true).decide(&caller, &shorter_job, &long, &[], second(0)).unwrap();
    assert_eq!(grant.token_lifetime, Duration::from_secs(600), "Kubernetes gives no less");
}

#[test]
fn an_ended_job_yields_nothing() {
    let caller = caller("runner/prod-1");
    let ended = job(&caller).end(second(1));
    let expired = Job { latest_end: Some(second(2)), ..job(&caller) };
    for job in [ended, expired] {
        let denial = policy(true).decide(&caller, &job, &ask("deploy"), &[], second(2)).unwrap_err();
        assert_eq!(denial.reason, DenialReason::JobEnded);
    }
}

#[test]
fn the_stretched_lifetime_is_never_ordered() {
    let caller = caller("runner/prod-1");
    let mut roles = policy(true);
    let role = roles.roles.remove(&name("deploy")).unwrap();
    let token = Lifetime { default: HOUR, max: HOUR * 2 };
    let role = Role::new(
        name("deploy"),
        role.gives().clone(),
        token,
        role.lease(),
        role.subjects().to_vec(),
        role.digest(),
    );
    let policy = Policy::new(vec![role.unwrap()]).unwrap();
    let granted = |wanted| {
        let ask = Ask { lease_lifetime: Some(HOUR * 2), token_lifetime: Some(wanted), ..ask("deploy") };
        policy.decide(&caller, &job(&caller), &ask, &[], second(0)).unwrap().token_lifetime
    };
    for fraction in [0, 1, 500, 999] {
        assert_eq!(granted(STRETCHED_LIFETIME + Duration::from_millis(fraction)), HOUR);
    }
    assert_eq!(granted(STRETCHED_LIFETIME + Duration::from_secs(1)), HOUR + Duration::from_secs(8));
}

fn giving(gives: impl Into<Gives>) -> Role {
    let role = policy(true).roles.remove(&name("deploy")).unwrap();
    let (token, lease, digest) = (role.token(), role.lease(), role.digest());
    Role::new(name("deploy"), gives, token, lease, role.subjects().to_vec(), digest).unwrap()
}

fn strict() -> Strict {
    let existing = RoleRef::Role(RbacName::parse("deployer").unwrap());
    let bindings = vec![StrictBinding { namespace: name("web"), rights: Rights::Existing(existing) }];
    Strict { cluster: name("c"), namespace: name("generated"), bindings }
}

#[test]
fn a_lease_records_all_that_will_exist_for_it() {
    let caller = caller("runner/prod-1");
    let ordered = |gives: Gives| {
        let policy = Policy::new(vec![giving(gives)]).unwrap();
        let grant = policy.decide(&caller, &job(&caller), &ask("deploy"), &[], second(0)).unwrap();
        grant.into_order(LeaseId::parse(ID).unwrap(), AnchorName::from_random([0; 16])).lease
    };
    let lease = ordered(strict().into());
    assert_eq!(lease.target.namespace, name("generated"));
    assert_eq!(lease.target.service_account, lease.anchor.as_str());
    let Mode::Strict { bindings } = &lease.mode else { panic!("{:?}", lease.mode) };
    assert_eq!(bindings.len(), 1);
    assert_eq!(bindings[0].name, format!("{}-0", lease.anchor.as_str()));
    assert_eq!(lease.working_namespace(), &name("web"));
    let lease =
        ordered(Gives::Unbound(policy(true).roles[&name("deploy")].gives().existing().unwrap().clone()));
    assert!(!lease.has_anchor() && lease.target.service_account == "deployer");
}

#[test]
fn a_namespace_of_generated_service_accounts_is_shared_with_nothing() {
    let other = |namespace: &str| {
        let (cluster, service_account) = (name("c"), "a".to_owned());
        giving(Target { cluster, namespace: name(namespace), service_account })
    };
    assert_eq!(check_strict_namespaces(&[giving(strict()), other("web")]), Ok(()));
    let refused = Policy::new(vec![giving(strict()), other("generated")]).unwrap_err();
    assert!(refused.to_string().contains("spec.strict.namespace of deploy"), "{refused}");
}

#[test]
fn a_refresh_is_decided_again() {
    let caller = caller("runner/prod-1");
    let grant = decide(true, "runner/prod-1", "deploy").unwrap();
    let order = grant.into_order(LeaseId::parse(ID).unwrap(), AnchorName::from_random([0; 16]));
    let refresh = |policy: Policy, lease: Lease, now| {
        policy
            .decide_refresh(&caller, Some(&job(&caller)), lease, None, second(now))
            .map(|_| ())
            .map_err(|d| d.reason)
    };
    let lease = order.lease.clone();
    assert_eq!(refresh(policy(true), lease.clone(), 1), Ok(()));
    assert_eq!(refresh(Policy::default(), lease.clone(), 1), Err(DenialReason::RoleNotAvailable(None)));
    assert!(matches!(refresh(policy(false), lease.clone(), 1), Err(DenialReason::RoleNotAvailable(Some(_)))));
    assert!(matches!(refresh(policy(true), lease.clone(), 3600), Err(DenialReason::LeaseEnded(_))));
    let ended = lease.begin_end(crate::lease::EndCause::Released, second(1)).unwrap();
    assert!(matches!(refresh(policy(true), ended, 2), Err(DenialReason::LeaseEnded(_))));
}

#[test]
fn a_lease_for_others_than_the_role_names_now_is_something_else() {
    let caller = caller("runner/prod-1");
    let audiences = |named: &[&str]| crate::audience::tests::audiences(named).unwrap();
    let of = |named: Option<&[&str]>| {
        let role = policy(true).role(&name("deploy")).unwrap().clone();
        let role = named.map_or(Ok(role.clone()), |named| role.with_audiences(audiences(named))).unwrap();
        Policy::new(vec![role]).unwrap()
    };
    let lease = |policy: &Policy| {
        let grant = policy.decide(&caller, &job(&caller), &ask("deploy"), &[], second(0)).unwrap();
        grant.into_order(LeaseId::parse(ID).unwrap(), AnchorName::from_random([0; 16])).lease
    };
    let roles = [of(None), of(Some(&["vault"])), of(Some(&["vault", "registry"]))];
    assert_eq!(lease(&roles[1]).audiences, Some(audiences(&["vault"])));
    for (granted, then) in roles.iter().enumerate() {
        for (number, now) in roles.iter().enumerate() {
            let refreshed = now.decide_refresh(&caller, Some(&job(&caller)), lease(then), None, second(1));
            match refreshed {
                Ok(order) => assert!(number == granted && order.lease == lease(then)),
                Err(denial) => {
                    assert!(number != granted && denial.explanation.contains("something else"), "{denial:?}");
                }
            }
        }
    }
}

#[test]
fn an_adopted_lease_is_refreshed_by_who_could_have_it_for_an_asserted_job() {
    let caller = caller("runner/prod-1");
    let grant = decide(true, "runner/prod-1", "deploy").unwrap();
    let order = grant.into_order(LeaseId::parse(ID).unwrap(), AnchorName::from_random([0; 16]));
    let adopted = Lease { job: None, owner: LeaseOwner::Digest(caller.owner().digest()), ..order.lease };
    let refresh = |policy: Policy, lease: Lease| policy.decide_refresh(&caller, None, lease, None, second(1));
    let order = refresh(policy(true), adopted.clone()).unwrap();
    assert_eq!(order.owner, caller.owner());
    let denied = |policy, lease| refresh(policy, lease).unwrap_err();
    assert!(denied(policy(false), adopted.clone()).explanation.contains("the job is not known any more"));
    assert_eq!(denied(Policy::default(), adopted.clone()).reason, DenialReason::RoleNotAvailable(None));
    let without_role = Lease { role: None, ..adopted };
    assert!(denied(policy(true), without_role).explanation.contains("no role is as its role was"));
}
