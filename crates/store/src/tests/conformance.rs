//! One suite for both engines. What is claimed here, users of the port may rely on.

use std::sync::Arc;

use serde_json::Value;
use shorepass_core::audit;
use shorepass_core::block::Block;
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{CloneCause, Cloned};
use shorepass_core::id::LeaseId;
use shorepass_core::lease::{EndCause, Lease, Mode};
use shorepass_core::ledger::{BlockFilter, Change, LeaseFilter, Ledger, LedgerError};
use shorepass_core::receipt::{Receipt, Verdict, Why};
use shorepass_core::request::{Method, Outcome, Request};

use crate::MemoryLedger;
use crate::testing::*;

/// A ledger and its audit lines.
pub(super) struct Subject {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) audit_lines: Box<dyn Fn() -> Vec<String>>,
    _directory: Option<tempfile::TempDir>,
}

impl Subject {
    pub(super) fn memory() -> Self {
        let ledger = Arc::new(MemoryLedger::new(Arc::new(Still)));
        let reader = Arc::clone(&ledger);
        Self { ledger, audit_lines: Box::new(move || reader.audit_lines()), _directory: None }
    }

    pub(super) fn sled() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let audit = directory.path().join("audit.jsonl");
        let store = open(directory.path()).unwrap();
        let read = move || std::fs::read_to_string(&audit).unwrap().lines().map(str::to_owned).collect();
        Self { ledger: Arc::new(store), audit_lines: Box::new(read), _directory: Some(directory) }
    }

    pub(super) async fn commit(&self, changes: Vec<Change>) -> Result<(), LedgerError> {
        self.ledger.commit(changes).await.map(|_| ())
    }

    pub(super) async fn committed(&self, changes: Vec<Change>) {
        self.commit(changes).await.unwrap();
    }

    pub(super) async fn conflicts(&self, changes: Vec<Change>) {
        let lines = (self.audit_lines)().len();
        let result = self.commit(changes).await;
        assert!(matches!(result, Err(LedgerError::Conflict(_))), "{result:?}");
        assert_eq!((self.audit_lines)().len(), lines, "a refused commit has no audit line");
    }
}

macro_rules! on_both {
    ($($claim:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $claim() {
                super::$claim($crate::tests::conformance::Subject::memory()).await;
            })*
        }

        mod sled {
            $(#[tokio::test]
            async fn $claim() {
                super::$claim($crate::tests::conformance::Subject::sled()).await;
            })*
        }
    };
}

pub(super) use on_both;

on_both!(
    a_job_is_read_back_open_and_ended,
    a_lease_is_read_back_in_each_state,
    a_receipt_is_read_back_and_written_over_the_revision_before,
    a_control_is_found_until_it_is_gone,
    a_token_opens_one_session,
    a_block_of_a_job_session_is_found_by_it,
    a_lease_is_read_back_in_each_mode,
    a_lease_and_its_first_token_are_one_commit,
    tokens_come_newest_first_and_by_jti,
    a_jti_is_recorded_once,
    blocks_are_found_by_id_and_by_caller_and_role,
    blocks_are_listed_newest_first_and_filtered,
    a_join_token_is_read_back_before_and_after_its_use,
    one_of_a_hundred_parallel_takes_wins,
    the_latest_enrolment_is_the_one_made_last,
    a_row_is_written_over_the_revision_before_and_no_other,
    a_commit_is_recorded_whole_or_not_at_all,
    commits_beside_a_refused_one_go_on,
    a_request_is_answered_once,
    a_request_is_found_by_its_owner_and_method_only,
    a_request_of_one_job_is_not_found_for_another,
    a_request_from_before_jobs_told_them_apart_is_found_for_its_own,
    leases_are_paged_newest_first,
    leases_are_filtered,
    every_change_has_its_audit_line_in_order,
    a_refusal_is_recorded_in_the_audit_alone,
    no_lease_begins_on_an_ended_job,
    no_lease_begins_under_a_block,
    no_lease_begins_for_a_replaced_enrolment,
    no_lease_begins_for_a_cloned_runner,
    no_token_is_recorded_on_a_lease_that_ends,
    a_live_name_is_not_enrolled_twice,
    the_last_commit_is_timed,
);

async fn a_job_is_read_back_open_and_ended(subject: Subject) {
    assert_eq!(subject.ledger.job(job(1).id).unwrap(), None);
    subject.committed(vec![job_started(1)]).await;
    assert_eq!(subject.ledger.job(job(1).id).unwrap(), Some(job(1)));
    let ended = job(1).end(second(9));
    subject.committed(vec![Change::JobEnded { job: ended.clone() }]).await;
    assert_eq!(subject.ledger.job(job(1).id).unwrap(), Some(ended));
}

async fn a_receipt_is_read_back_and_written_over_the_revision_before(subject: Subject) {
    subject.committed(vec![lease_pending(1)]).await;
    let ending = lease(1).begin_end(EndCause::Released, second(2)).unwrap();
    subject.committed(vec![Change::LeaseEnding { lease: ending.clone() }]).await;
    let verdict = Verdict::Unproved(Why::NoAnswer.because("10.0.0.1:6443: reset"));
    let receipt = Receipt { verdict, endpoints: vec![], canaries: vec!["c".to_owned()], made: second(3) };
    let with = ending.clone().receive(receipt).unwrap();
    subject.committed(vec![Change::LeaseReceipt { lease: with.clone() }]).await;
    assert_eq!(subject.ledger.lease(lease(1).id).unwrap(), Some(with));
    // Who did not see the receipt may not end the lease over it.
    let stale = ending.finish_end(second(4)).unwrap();
    subject.conflicts(vec![Change::LeaseEnded { lease: stale }]).await;
}

async fn a_control_is_found_until_it_is_gone(subject: Subject) {
    let found = |cluster: &str| subject.ledger.controls(&name(cluster)).unwrap();
    subject.committed(vec![Change::ControlPlanned { control: control(1) }]).await;
    subject.committed(vec![Change::ControlPlanned { control: control(2) }]).await;
    assert_eq!((found("staging"), found("other")), (vec![control(2), control(1)], vec![]));
    subject.conflicts(vec![Change::ControlPlanned { control: control(1) }]).await;
    let gone = || Change::ControlGone { control: control(1), at: second(9) };
    subject.committed(vec![gone()]).await;
    assert_eq!(found("staging"), [control(2)]);
    subject.committed(vec![gone()]).await; // two who see it gone
}

async fn a_block_of_a_job_session_is_found_by_it(subject: Subject) {
    let session = job_by_token(1, 1).id;
    let of_job = Block { job: Some(session), ..block(3) };
    subject.committed(vec![job_started_by_token(1, 1), job_started_by_token(2, 2)]).await;
    subject.committed(vec![Change::BlockSet { block: of_job.clone() }]).await;
    assert!(subject.ledger.blocks_of_caller(&of_job.caller).unwrap().contains(&of_job));
    // Its job gets nothing, whatever the role; other jobs of the caller do.
    let Change::LeasePending { lease, request } = lease_pending(1) else { panic!("it grants a lease") };
    let another_role = Lease { role: Some(name("another")), ..lease.clone() };
    for lease in [lease, another_role] {
        subject.conflicts(vec![Change::LeasePending { lease, request: request.clone() }]).await;
    }
    subject.committed(vec![lease_pending(2)]).await;
}

async fn a_token_opens_one_session(subject: Subject) {
    let spent = job_by_token(1, 1).spent_token().unwrap();
    let read = || subject.ledger.spent_token(spent.replay).unwrap();
    assert_eq!(read(), None);
    subject.committed(vec![job_started_by_token(1, 1)]).await;
    assert_eq!(subject.ledger.job(job(1).id).unwrap(), Some(job_by_token(1, 1)));
    assert_eq!(read(), Some(spent.clone()));
    subject.conflicts(vec![job_started_by_token(2, 1)]).await;
    assert_eq!(subject.ledger.job(job(2).id).unwrap(), None);
    subject.committed(vec![job_started_by_token(2, 2)]).await;
    // Over is not forgotten.
    subject.committed(vec![Change::JobEnded { job: job_by_token(1, 1).end(second(9)) }]).await;
    subject.conflicts(vec![job_started_by_token(3, 1)]).await;
}

async fn a_lease_is_read_back_in_each_state(subject: Subject) {
    let read = || subject.ledger.lease(lease(1).id).unwrap();
    assert_eq!(read(), None);
    subject.committed(vec![lease_pending(1)]).await;
    assert_eq!(read(), Some(lease(1)));
    let active = lease(1).activate(pins(), second(2)).unwrap();
    subject.committed(vec![Change::LeaseActive { lease: active.clone() }]).await;
    assert_eq!(read(), Some(active.clone()));
    let cause = EndCause::Revoked { by: operator(), reason: "leaked".to_owned() };
    let ending = active.begin_end(cause, second(3)).unwrap();
    subject.committed(vec![Change::LeaseEnding { lease: ending.clone() }]).await;
    assert_eq!(read(), Some(ending.clone()));
    let ended = ending.finish_end(second(4)).unwrap();
    subject.committed(vec![Change::LeaseEnded { lease: ended.clone() }]).await;
    assert_eq!(read(), Some(ended));
}

async fn a_lease_is_read_back_in_each_mode(subject: Subject) {
    for (number, mode) in [(1, strict()), (2, Mode::Unbound { tokens_until: None })] {
        subject.committed(vec![lease_pending_in(number, mode.clone())]).await;
        let lease = Lease { mode, ..lease(number) };
        assert_eq!(subject.ledger.lease(lease.id).unwrap(), Some(lease.clone()));
        let ending = lease.begin_end(EndCause::Released, second(3)).unwrap();
        subject.committed(vec![Change::LeaseEnding { lease: ending.clone() }]).await;
        // What is known of a strict lease's bindings, and how long an unbound one's tokens live, outlasts its end.
        let ended = ending.outlived(Some(second(9))).finish_end(second(4)).unwrap();
        subject.committed(vec![Change::LeaseEnded { lease: ended.clone() }]).await;
        assert_eq!(subject.ledger.lease(ended.id).unwrap(), Some(ended));
    }
}

async fn a_lease_and_its_first_token_are_one_commit(subject: Subject) {
    subject.committed(vec![lease_pending(1)]).await;
    let active = lease(1).activate(pins(), second(2)).unwrap();
    subject.committed(vec![Change::LeaseActive { lease: active }, token_minted(1, 0)]).await;
    assert_eq!(subject.ledger.tokens(lease(1).id, 10).unwrap(), [token(1, 0)]);
}

async fn tokens_come_newest_first_and_by_jti(subject: Subject) {
    subject.committed(vec![lease_pending(1), lease_pending(2)]).await;
    for change in [token_minted(1, 2), token_minted(1, 0), token_minted(2, 9), token_minted(1, 1)] {
        subject.committed(vec![change]).await;
    }
    let tokens = |limit| subject.ledger.tokens(lease(1).id, limit).unwrap();
    assert_eq!(tokens(10), [token(1, 2), token(1, 1), token(1, 0)]);
    assert_eq!(tokens(2), [token(1, 2), token(1, 1)]);
    assert_eq!(subject.ledger.token("jti-2-9").unwrap(), Some(token(2, 9)));
    assert_eq!(subject.ledger.token("jti-2-").unwrap(), None);
}

async fn a_jti_is_recorded_once(subject: Subject) {
    subject.committed(vec![lease_pending(1), token_minted(1, 0)]).await;
    subject.conflicts(vec![token_minted(1, 0)]).await;
}

async fn blocks_are_found_by_id_and_by_caller_and_role(subject: Subject) {
    let other_role = Block { role: name("web"), ..block(3) };
    let set = [block(1), block(2), other_role.clone()].map(|block| Change::BlockSet { block });
    subject.committed(set.to_vec()).await;
    let lifted = block(1).lift(second(5), operator());
    subject.committed(vec![Change::BlockLifted { block: lifted.clone() }]).await;
    let caller = owner().spiffe_id;
    assert_eq!(subject.ledger.block(block(1).id).unwrap(), Some(lifted.clone()));
    assert_eq!(subject.ledger.blocks(&caller, &block(1).role).unwrap(), [block(2), lifted]);
    assert_eq!(subject.ledger.blocks(&caller, &name("web")).unwrap(), [other_role]);
    let longer = SpiffeId::parse(&format!("{caller}0")).unwrap();
    assert_eq!(subject.ledger.blocks(&longer, &block(1).role).unwrap(), []);
}

async fn blocks_are_listed_newest_first_and_filtered(subject: Subject) {
    let other = Block { caller: operator(), role: name("web"), ..block(4) };
    let set = [block(2), block(1), block(3), other.clone()].map(|block| Change::BlockSet { block });
    subject.committed(set.to_vec()).await;
    let lifted = block(2).lift(second(5), operator());
    subject.committed(vec![Change::BlockLifted { block: lifted.clone() }]).await;
    let all = BlockFilter::default;
    let found =
        |filter: BlockFilter, before, limit| subject.ledger.find_blocks(&filter, before, limit).unwrap();
    assert_eq!(found(all(), None, 2), [other.clone(), block(3)]);
    assert_eq!(found(all(), Some(block(3).id), 2), [lifted, block(1)]);
    let in_force = BlockFilter { in_force: Some(second(9)), ..all() };
    assert_eq!(found(in_force, Some(other.id), 9), [block(3), block(1)]);
    assert_eq!(
        found(BlockFilter { in_force: Some(second(3603)), ..all() }, None, 9),
        std::slice::from_ref(&other)
    );
    assert_eq!(
        found(BlockFilter { caller: Some(operator()), ..all() }, None, 9),
        std::slice::from_ref(&other)
    );
    assert_eq!(found(BlockFilter { role: Some(name("web")), ..all() }, None, 9), [other]);
}

async fn a_join_token_is_read_back_before_and_after_its_use(subject: Subject) {
    subject.committed(vec![join_token_created(1)]).await;
    let read = || subject.ledger.join_token(join_token(1).digest).unwrap();
    assert_eq!(read(), Some(join_token(1)));
    subject.committed(vec![join_token_taken(1, 7)]).await;
    assert_eq!(read().unwrap().taken.unwrap().enrolment, enrolment(7).id);
}

async fn one_of_a_hundred_parallel_takes_wins(subject: Subject) {
    subject.committed(vec![join_token_created(1)]).await;
    let mut takes = tokio::task::JoinSet::new();
    for number in 0..100 {
        let ledger = Arc::clone(&subject.ledger);
        takes.spawn(async move { ledger.commit(vec![join_token_taken(1, number)]).await.map(|_| number) });
    }
    let outcomes = takes.join_all().await;
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(LedgerError::Conflict(_)))).count();
    let winners: Vec<u8> = outcomes.into_iter().filter_map(Result::ok).collect();
    assert_eq!((winners.len(), refused), (1, 99));
    let taken = subject.ledger.join_token(join_token(1).digest).unwrap().unwrap().taken.unwrap();
    assert_eq!(taken.enrolment, enrolment(winners[0]).id);
    assert_eq!((subject.audit_lines)().len(), 2);
}

async fn the_latest_enrolment_is_the_one_made_last(subject: Subject) {
    let latest = || subject.ledger.latest_enrolment(&owner().spiffe_id).unwrap();
    assert_eq!(latest(), None);
    subject.committed(vec![enrolled(1)]).await;
    let renewed = enrolment(1).again(second(9000));
    subject.committed(vec![Change::Renewed { enrolment: renewed.clone(), at: second(9) }]).await;
    assert_eq!(latest(), Some(renewed.clone()));
    let replaced = renewed.replace(second(10));
    let replace = Change::EnrolmentReplaced { enrolment: replaced.clone() };
    // The newer one has the lower id: what counts is the order of the commits.
    subject.committed(vec![replace, enrolled(0)]).await;
    assert_eq!(latest(), Some(enrolment(0)));
    assert_eq!(subject.ledger.enrolment(enrolment(1).id).unwrap(), Some(replaced));
}

async fn a_row_is_written_over_the_revision_before_and_no_other(subject: Subject) {
    let ending = lease(1).begin_end(EndCause::Released, second(2)).unwrap();
    let ended = ending.clone().finish_end(second(3)).unwrap();
    subject.conflicts(vec![Change::LeaseEnding { lease: ending.clone() }]).await;
    subject.committed(vec![lease_pending(1)]).await;
    subject.conflicts(vec![Change::LeaseEnded { lease: ended.clone() }]).await;
    subject.conflicts(vec![Change::LeaseActive { lease: lease(1) }]).await;
    subject.committed(vec![Change::LeaseEnding { lease: ending.clone() }]).await;
    subject.conflicts(vec![Change::LeaseEnding { lease: ending }]).await;
    subject.committed(vec![Change::LeaseEnded { lease: ended }]).await;
}

async fn a_commit_is_recorded_whole_or_not_at_all(subject: Subject) {
    subject.committed(vec![join_token_created(1), join_token_taken(1, 0)]).await;
    subject.conflicts(vec![job_started(1), enrolled(1), join_token_taken(1, 1)]).await;
    assert_eq!(subject.ledger.job(job(1).id).unwrap(), None);
    assert_eq!(subject.ledger.latest_enrolment(&owner().spiffe_id).unwrap(), None);
}

async fn commits_beside_a_refused_one_go_on(subject: Subject) {
    let mut commits = tokio::task::JoinSet::new();
    for number in [1, 1, 2, 2, 3, 3] {
        let ledger = Arc::clone(&subject.ledger);
        commits.spawn(async move { ledger.commit(vec![job_started(number)]).await.is_ok() });
    }
    assert_eq!(commits.join_all().await.into_iter().filter(|ok| *ok).count(), 3);
    for number in 1..=3 {
        assert_eq!(subject.ledger.job(job(number).id).unwrap(), Some(job(number)));
    }
}

async fn a_request_is_answered_once(subject: Subject) {
    subject.committed(vec![job_started(1)]).await;
    let Change::JobStarted { request, .. } = job_started(1) else { panic!("it starts a job") };
    subject.conflicts(vec![Change::JobStarted { job: job(2), request }]).await;
    assert_eq!(subject.ledger.job(job(2).id).unwrap(), None);
}

async fn a_request_is_found_by_its_owner_and_method_only(subject: Subject) {
    subject.committed(vec![job_started(1)]).await;
    let Change::JobStarted { request, .. } = job_started(1) else { panic!("it starts a job") };
    let find = |owner: &Owner, method| subject.ledger.request(owner, None, method, request.id).unwrap();
    assert_eq!(find(&owner(), Method::StartJob), Some(request.clone()));
    assert_eq!(find(&owner(), Method::Issue), None);
    let enrolled_anew = Owner { enrolment: enrolment(5).id, ..owner() };
    assert_eq!(find(&enrolled_anew, Method::StartJob), None);
    let somebody = Owner { spiffe_id: operator(), ..owner() };
    assert_eq!(find(&somebody, Method::StartJob), None);
}

async fn a_request_of_one_job_is_not_found_for_another(subject: Subject) {
    let Change::LeasePending { request, .. } = lease_pending(1) else { panic!("it grants a lease") };
    let of_other = Request { job: Some(job(2).id), outcome: Outcome::Lease(lease(2).id), ..request.clone() };
    subject.committed(vec![lease_pending(1)]).await;
    let find =
        |number| subject.ledger.request(&owner(), Some(job(number).id), Method::Issue, request.id).unwrap();
    assert_eq!((find(1), find(2)), (Some(request.clone()), None));
    subject.committed(vec![Change::LeasePending { lease: lease(2), request: of_other.clone() }]).await;
    assert_eq!((find(1), find(2)), (Some(request.clone()), Some(of_other)));
}

async fn a_request_from_before_jobs_told_them_apart_is_found_for_its_own(subject: Subject) {
    let Change::LeasePending { request, .. } = lease_pending(1) else { panic!("it grants a lease") };
    let older = Request { job: None, ..request.clone() };
    subject.committed(vec![Change::LeasePending { lease: lease(1), request: older.clone() }]).await;
    let find =
        |number| subject.ledger.request(&owner(), Some(job(number).id), Method::Issue, request.id).unwrap();
    assert_eq!((find(1), find(2)), (Some(older), None));
}

async fn leases_are_paged_newest_first(subject: Subject) {
    for number in [3, 1, 5, 2, 4] {
        subject.committed(vec![lease_pending(number)]).await;
    }
    let page = |before: Option<LeaseId>, limit| {
        let leases = subject.ledger.leases(&LeaseFilter::default(), before, limit).unwrap();
        leases.into_iter().map(|lease| lease.id).collect::<Vec<_>>()
    };
    let ids = |numbers: &[u8]| numbers.iter().map(|number| lease(*number).id).collect::<Vec<_>>();
    assert_eq!(page(None, 2), ids(&[5, 4]));
    assert_eq!(page(Some(lease(4).id), 2), ids(&[3, 2]));
    assert_eq!(page(Some(lease(2).id), 2), ids(&[1]));
    assert_eq!(page(Some(lease(1).id), 2), ids(&[]));
}

async fn leases_are_filtered(subject: Subject) {
    subject.committed((1..=4).map(lease_pending).collect()).await;
    let ending = lease(2).begin_end(EndCause::Deadline, second(9)).unwrap();
    let ended = ending.clone().finish_end(second(9)).unwrap();
    subject.committed(vec![Change::LeaseEnding { lease: ending }, Change::LeaseEnded { lease: ended }]).await;
    let found = |filter: LeaseFilter| {
        let leases = subject.ledger.leases(&filter, None, 2).unwrap();
        leases.into_iter().map(|lease| lease.id).collect::<Vec<_>>()
    };
    let all = LeaseFilter::default;
    assert_eq!(found(LeaseFilter { lease: Some(lease(1).id), ..all() }), [lease(1).id]);
    assert_eq!(found(LeaseFilter { job: Some(job(3).id), ..all() }), [lease(3).id]);
    for (namespace, account, expected) in
        [("web", "deployer", 2), ("web", "other", 0), ("dev", "deployer", 0)]
    {
        let service_account = Some(account.to_owned());
        let filter = LeaseFilter { namespace: Some(name(namespace)), service_account, ..all() };
        assert_eq!(found(filter).len(), expected, "{namespace}/{account}");
    }
    assert_eq!(found(LeaseFilter { lease: Some(lease(2).id), ..all() }), []);
    let ended = LeaseFilter { lease: Some(lease(2).id), include_ended: true, ..all() };
    assert_eq!(found(ended), [lease(2).id]);
    assert_eq!(found(LeaseFilter { caller: Some(operator()), ..all() }), []);
    assert_eq!(found(LeaseFilter { caller: Some(owner().spiffe_id), ..all() }), [lease(4).id, lease(3).id]);
}

async fn every_change_has_its_audit_line_in_order(subject: Subject) {
    let active = Change::LeaseActive { lease: lease(1).activate(pins(), second(2)).unwrap() };
    let changes = [job_started(1), refused(), lease_pending(1), active, token_minted(1, 0), job_started(2)];
    subject.committed(changes[..2].to_vec()).await;
    subject.conflicts(changes[..1].to_vec()).await;
    subject.committed(changes[2..].to_vec()).await;
    let lines = (subject.audit_lines)();
    assert_eq!(lines.len(), changes.len());
    for (index, (line, change)) in lines.iter().zip(&changes).enumerate() {
        let mut read: Value = serde_json::from_str(line).unwrap();
        let fields = read.as_object_mut().unwrap();
        assert_eq!(fields.remove("seq"), Some(Value::from(index + 1)));
        // The first of a batch says nothing of it; the third began the second commit.
        let batch = [None, Some(1), None, Some(3), Some(3), Some(3)][index];
        assert_eq!(fields.remove("batch"), batch.map(Value::from));
        assert!(fields.remove("crc32c").is_some());
        assert_eq!(fields.remove("record").is_some(), !matches!(change, Change::Refused { .. }));
        assert_eq!(read, serde_json::to_value(audit::line(change)).unwrap());
    }
}

async fn a_refusal_is_recorded_in_the_audit_alone(subject: Subject) {
    subject.committed(vec![refused()]).await;
    assert!((subject.audit_lines)()[0].starts_with("{\"seq\":1,\"time\":"));
}

async fn no_lease_begins_on_an_ended_job(subject: Subject) {
    subject.committed(vec![job_started(1), Change::JobEnded { job: job(1).end(second(2)) }]).await;
    subject.conflicts(vec![lease_pending(1)]).await;
}

async fn no_lease_begins_under_a_block(subject: Subject) {
    subject.committed(vec![Change::BlockSet { block: block(1) }]).await;
    subject.conflicts(vec![lease_pending(2)]).await;
    let lifted = block(1).lift(second(5), operator());
    subject.committed(vec![Change::BlockLifted { block: lifted }, lease_pending(2)]).await;
    // And within one commit.
    subject.conflicts(vec![Change::BlockSet { block: block(2) }, lease_pending(3)]).await;
}

async fn no_lease_begins_for_a_replaced_enrolment(subject: Subject) {
    let enrolment = shorepass_core::enrolment::Enrolment { id: owner().enrolment, ..enrolment(1) };
    let replaced = Change::EnrolmentReplaced { enrolment: enrolment.clone().replace(second(2)) };
    subject.committed(vec![Change::Enrolled { enrolment }, lease_pending(1), replaced]).await;
    subject.conflicts(vec![lease_pending(2)]).await;
}

async fn no_lease_begins_for_a_cloned_runner(subject: Subject) {
    let enrolment = shorepass_core::enrolment::Enrolment { id: owner().enrolment, ..enrolment(1) };
    let (at, certificate) = (second(2), Digest::of_bytes(b"older"));
    let cloned = enrolment.clone().found_cloned(Cloned { at, cause: CloneCause::Used, certificate });
    let found = Change::EnrolmentCloned { enrolment: cloned.clone() };
    subject.committed(vec![Change::Enrolled { enrolment }, lease_pending(1), found]).await;
    subject.conflicts(vec![lease_pending(2)]).await;
    assert_eq!(subject.ledger.enrolment(owner().enrolment).unwrap(), Some(cloned));
}

async fn no_token_is_recorded_on_a_lease_that_ends(subject: Subject) {
    let active = lease(1).activate(pins(), second(2)).unwrap();
    let ending = active.clone().begin_end(EndCause::Released, second(3)).unwrap();
    subject
        .committed(vec![lease_pending(1), Change::LeaseActive { lease: active }, token_minted(1, 0)])
        .await;
    subject.committed(vec![Change::LeaseEnding { lease: ending }]).await;
    subject.conflicts(vec![token_minted(1, 1)]).await;
}

async fn a_live_name_is_not_enrolled_twice(subject: Subject) {
    subject.committed(vec![enrolled(1)]).await;
    subject.conflicts(vec![enrolled(2)]).await;
    let after_expiry = shorepass_core::enrolment::Enrolment { created: second(3601), ..enrolment(2) };
    subject.committed(vec![Change::Enrolled { enrolment: after_expiry }]).await;
}

async fn the_last_commit_is_timed(subject: Subject) {
    assert_eq!(subject.ledger.last_commit(), None);
    subject.committed(vec![job_started(1)]).await;
    assert!(subject.ledger.last_commit().is_some());
}
