//! Strict and unbound leases: what is recorded before the cluster is asked, and what an end says that it cannot do.

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::ban::BanKey;
use shorepass_core::caller::Caller;
use shorepass_core::cluster::MintError;
use shorepass_core::gives::{Gives, RbacName, Rights, RoleRef, Strict, StrictBinding};
use shorepass_core::id::LeaseId;
use shorepass_core::lease::{EndCause, Mode, State};
use shorepass_core::ledger::{LeaseFilter, Ledger};
use shorepass_core::role::{Role, Target};
use shorepass_core::time::{Timestamp, after};
use shorepass_rpc::api::{Administration, Credentials, Outcome, Revocation};
use shorepass_rpc::refused::Reason;
use tokio::sync::mpsc;

use super::revocation::revoke;
use super::{Bench, name, reason, role};
use crate::revoke::sweeper::Sweeper;

/// Roles `deploy`, `release` (strict), `status` (unbound), `needy`, which needs something, and `vault`, for others.
pub(super) fn roles() -> Vec<Role> {
    let existing = RoleRef::Role(RbacName::parse("deployer").unwrap());
    let bindings = vec![StrictBinding { namespace: name("web"), rights: Rights::Existing(existing) }];
    let strict = Strict { cluster: name("staging"), namespace: name("shorepass-strict"), bindings };
    let (cluster, namespace) = (name("staging"), name("web"));
    let status = Target { cluster, namespace, service_account: "status".to_owned() };
    let giving = |text: &str, gives: Gives| {
        let like = role();
        let subjects = like.subjects().to_vec();
        Role::new(name(text), gives, like.token(), like.lease(), subjects, like.digest()).unwrap()
    };
    let needy = giving("needy", role().gives().clone()).with_needs(super::reviews::needs());
    let vault = giving("vault", role().gives().clone()).with_audiences(super::audiences::vault()).unwrap();
    vec![role(), giving("release", strict.into()), giving("status", Gives::Unbound(status)), needy, vault]
}

#[tokio::test]
async fn a_strict_lease_names_everything_durably_before_the_cluster_is_asked() {
    let bench = Bench::new();
    let ledger = bench.ledger.clone();
    bench.cluster.during_mint(Box::new(move |order| {
        let recorded = ledger.lease(order.lease_id()).unwrap().unwrap();
        assert_eq!(&recorded, order.lease());
        let Mode::Strict { bindings } = &recorded.mode else { panic!("{:?}", recorded.mode) };
        assert_eq!(bindings[0].name, format!("{}-0", recorded.target.service_account));
    }));
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let delivery = bench.issue_of("release", &caller, &job, bench.request()).await.unwrap();
    assert_eq!(delivery.issued.lease.working_namespace(), &name("web"));
    let pending = bench.ledger.audit_lines().into_iter().find(|line| line.contains("lease.pending")).unwrap();
    let anchor = delivery.issued.lease.anchor.as_str();
    assert!(pending.contains(&format!("\"bindings\":[\"web/{anchor}-0=Role/deployer\"]")), "{pending}");
    assert!(pending.contains("\"mode\":\"strict\""), "{pending}");
}

#[tokio::test]
async fn strict_leases_end_at_their_deadline_too() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let lease = bench.issue_of("release", &caller, &job, bench.request()).await.unwrap().issued.lease;
    assert_eq!(bench.cluster.anchors(), [lease.anchor.as_str()]);
    let mut sweeper = Sweeper::new(bench.use_cases.ends.clone(), name("staging"));
    bench.clock.advance(Duration::from_secs(3600));
    sweeper.sweep().await.unwrap();
    assert_eq!(bench.lease(lease.id).end_cause().unwrap().0, &EndCause::Deadline);
    bench.until("the end", || matches!(bench.lease(lease.id).state, State::Ended { .. })).await;
    assert!(bench.cluster.anchors().is_empty());
}

#[tokio::test]
async fn a_generated_service_account_that_somebody_deleted_has_ended_its_lease_and_nobody_is_to_create_it() {
    for (role, expected, says) in [
        ("release", Reason::LeaseEnded, "was deleted or replaced: ask for a new one"),
        ("deploy", Reason::ServiceAccountMissing, "create it, or correct the role"),
    ] {
        let bench = Bench::new();
        let caller = bench.caller("runner/prod-1");
        let job = bench.job(&caller).await;
        let lease = bench.issue_of(role, &caller, &job, bench.request()).await.unwrap().issued.lease;
        let (namespace, name) = (lease.target.namespace.to_string(), lease.target.service_account.clone());
        bench.cluster.fail_next_mint(MintError::ServiceAccountMissing { namespace, name });
        let refused = bench.refresh(&caller, lease.id).await.unwrap_err();
        assert_eq!(refused.reason, expected);
        assert!(refused.message.contains(says), "{refused}");
        bench.until("the lease to end", || !bench.lease(lease.id).is_live()).await;
        assert_eq!(bench.lease(lease.id).end_cause().unwrap().0, &EndCause::ServiceAccountReplaced);
    }
}

#[tokio::test]
async fn a_mint_for_which_nothing_was_made_ends_at_once_and_any_other_is_cut() {
    let early = MintError::ForbiddenToBegin { rule: "get roles".to_owned() };
    let late = MintError::Forbidden { rule: "create secrets in namespace \"shorepass-strict\"".to_owned() };
    for (cause, settled) in [(early, true), (late, false)] {
        let bench = Bench::new();
        let caller = bench.caller("runner/prod-1");
        let job = bench.job(&caller).await;
        bench.cluster.fail_next_mint(cause);
        let refused = bench.issue_of("release", &caller, &job, bench.request()).await;
        assert_eq!(reason(refused), Reason::IssuerForbidden);
        let events = bench.events();
        assert_eq!(events.iter().any(|event| event == "lease.ended"), settled, "{events:?}");
    }
}

#[tokio::test]
async fn revoking_an_unbound_lease_says_until_when_its_tokens_work() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let delivery = bench.issue_of("status", &caller, &job, bench.request()).await.unwrap();
    let (id, expires) = (delivery.issued.lease.id, delivery.issued.record.expires);
    assert!(bench.cluster.anchors().is_empty());
    let (sender, mut steps) = mpsc::channel(8);
    let filter = LeaseFilter { lease: Some(id), ..LeaseFilter::default() };
    let revocation = Revocation { filter, reason: "leaked".to_owned(), dry_run: false, wait: false };
    bench.use_cases.revoke(&bench.operator(), revocation, sender).await.unwrap();
    let step = steps.recv().await.unwrap().unwrap();
    assert_eq!(step.outcome, Outcome::TokensRemain);
    let until = after(expires, Duration::from_secs(70));
    assert_eq!(step.view.lease.mode, Mode::Unbound { tokens_until: Some(until) });
    assert!(matches!(bench.lease(id).state, State::Ended { .. }));
    let ended = bench.ledger.audit_lines().into_iter().find(|line| line.contains("lease.ended")).unwrap();
    assert!(ended.contains(&format!("\"tokensUntil\":\"{until}\"")), "{ended}");
    assert!(ended.contains("\"mode\":\"unbound\"") && !ended.contains("\"anchor\""), "{ended}");
}

#[tokio::test]
async fn revoking_an_unbound_lease_that_ended_before_says_that_its_tokens_work_until_they_do_not() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let lease = bench.issue_of("status", &caller, &job, bench.request()).await.unwrap().issued.lease;
    bench.use_cases.release(&caller, lease.id).await.unwrap();
    for (passed, expected) in [(0, Outcome::TokensRemain), (1800 + 70, Outcome::AlreadyEnded)] {
        bench.clock.advance(Duration::from_secs(passed));
        let (sender, mut steps) = mpsc::channel(8);
        let filter = LeaseFilter { lease: Some(lease.id), ..LeaseFilter::default() };
        let revocation = Revocation { filter, reason: "leaked".to_owned(), dry_run: false, wait: false };
        bench.use_cases.revoke(&bench.operator(), revocation, sender).await.unwrap();
        assert_eq!(steps.recv().await.unwrap().unwrap().outcome, expected);
    }
}

/// Caller `prod-1` has given an unbound lease back; its token works until then.
async fn given_back(bench: &Bench) -> (Caller, LeaseId, Timestamp) {
    let caller = bench.caller("runner/prod-1");
    bench.enrol(&caller).await;
    let job = bench.job(&caller).await;
    let bound = bench.issue(&caller, &job, bench.request()).await.unwrap().issued.lease;
    let issued = bench.issue_of("status", &caller, &job, bench.request()).await.unwrap().issued;
    for lease in [bound.id, issued.lease.id] {
        bench.use_cases.release(&caller, lease).await.unwrap();
    }
    (caller, issued.lease.id, after(issued.record.expires, Duration::from_secs(70)))
}

#[tokio::test]
async fn a_ban_tells_of_unbound_leases_that_were_given_back_before_while_their_tokens_work() {
    for enrolment in [false, true] {
        let bench = Bench::new();
        let (caller, _, until) = given_back(&bench).await;
        let bench = bench.restarted();
        let whom = match enrolment {
            true => BanKey::Enrolment(caller.enrolment()),
            false => BanKey::Name(caller.spiffe_id().clone()),
        };
        for (passed, outliving, tokens_until) in [(0, 1, Some(until)), (1800 + 70, 0, None)] {
            bench.clock.advance(Duration::from_secs(passed));
            let shutout =
                bench.use_cases.ban(&bench.operator(), whom.clone(), "stolen".to_owned()).await.unwrap();
            assert_eq!((shutout.leases, shutout.unbound, shutout.outliving), (0, 0, outliving));
            assert_eq!(shutout.tokens_until, tokens_until);
        }
    }
}

#[tokio::test]
async fn a_revocation_by_any_selector_tells_of_unbound_leases_that_were_given_back_before() {
    let bench = Bench::new();
    let (caller, lease, until) = given_back(&bench).await;
    let bench = bench.restarted();
    let caller = Some(caller.spiffe_id().clone());
    for filter in [
        LeaseFilter { caller: caller.clone(), ..LeaseFilter::default() },
        LeaseFilter { role: Some(name("status")), ..LeaseFilter::default() },
        LeaseFilter { cluster: Some(name("staging")), ..LeaseFilter::default() },
        LeaseFilter { lease: Some(lease), ..LeaseFilter::default() },
        LeaseFilter::default(),
    ] {
        for dry_run in [true, false] {
            let steps = revoke(&bench, filter.clone(), dry_run).await;
            let told: Vec<_> = steps.iter().map(|step| (step.view.lease.id, step.total)).collect();
            assert_eq!(told, [(lease, 1)], "{filter:?}");
            assert_eq!(steps[0].outcome, Outcome::TokensRemain);
            assert_eq!(steps[0].view.lease.mode, Mode::Unbound { tokens_until: Some(until) });
        }
    }
    bench.clock.advance(Duration::from_secs(1800 + 70));
    let steps = revoke(&bench, LeaseFilter { caller, ..LeaseFilter::default() }, false).await;
    assert!(steps.is_empty(), "its tokens are over");
}

#[tokio::test]
async fn a_ban_ends_leases_of_every_mode_and_says_whose_tokens_live_on() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    bench.enrol(&caller).await;
    let job = bench.job(&caller).await;
    let mut leases = Vec::new();
    for role in ["deploy", "release", "status"] {
        leases.push(bench.issue_of(role, &caller, &job, bench.request()).await.unwrap().issued.lease.id);
    }
    let whom = BanKey::Name(caller.spiffe_id().clone());
    let shutout = bench.use_cases.ban(&bench.operator(), whom, "stolen".to_owned()).await.unwrap();
    assert_eq!((shutout.leases, shutout.unbound, shutout.outliving), (3, 1, 0));
    assert!(shutout.tokens_until.is_some());
    bench
        .until("all of them to end", || leases.iter().all(|id| bench.lease(*id).state_name() == "ended"))
        .await;
    assert!(bench.cluster.anchors().is_empty());
    assert!(matches!(bench.lease(leases[2]).mode, Mode::Unbound { tokens_until: Some(_) }));
}

#[tokio::test]
async fn a_request_that_comes_again_gives_the_same_lease_in_every_mode() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    for role in ["deploy", "release", "status"] {
        let request = bench.request();
        let first = bench.issue_of(role, &caller, &job, request).await.unwrap().issued;
        let again = bench.issue_of(role, &caller, &job, request).await.unwrap().issued;
        assert_eq!((again.lease.id, &again.lease.mode), (first.lease.id, &first.lease.mode), "{role}");
        assert_eq!((&again.lease.target, &again.lease.state), (&first.lease.target, &first.lease.state));
        assert_ne!(again.record.jti, first.record.jti, "{role}");
        assert_eq!(bench.ledger.tokens(first.lease.id, 9).unwrap().len(), 2, "{role}");
    }
    assert_eq!(bench.cluster.anchors().len(), 2, "one for each that has any, and none made twice");
}

#[tokio::test]
async fn an_unbound_lease_outlives_its_longest_token_and_not_its_newest() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let first = bench.issue_of("status", &caller, &job, bench.request()).await.unwrap().issued;
    let shorter = Some(Duration::from_secs(600));
    bench.use_cases.refresh(&caller, &bench.call(), first.lease.id, shorter).await.unwrap();
    let ended = bench.use_cases.release(&caller, first.lease.id).await.unwrap();
    let until = after(first.record.expires, Duration::from_secs(70));
    assert_eq!(ended.mode, Mode::Unbound { tokens_until: Some(until) });
}

#[tokio::test]
async fn a_failed_unbound_mint_leaves_nothing_to_settle() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let cause = "no answer within 8 s".to_owned();
    bench.cluster.fail_next_mint(MintError::Unreachable { cluster: name("staging"), cause });
    let refused = bench.issue_of("status", &caller, &job, bench.request()).await;
    assert_eq!(reason(refused), Reason::ClusterUnreachable);
    let lease =
        Arc::clone(&bench.ledger).leases(&LeaseFilter { include_ended: true, ..Default::default() }, None, 1);
    let lease = lease.unwrap().pop().unwrap();
    assert!(matches!(lease.state, State::Ended { .. }), "{lease:?}");
    assert_eq!(lease.mode, Mode::Unbound { tokens_until: None });
}
