//! History: what is removed when, that space and starts do not grow with it, and what is never removed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use shorepass_core::id::{JobId, LeaseId, RequestId};
use shorepass_core::job::Job;
use shorepass_core::lease::{EndCause, Lease, Mode};
use shorepass_core::ledger::{Change, Ledger as _, MintedToken};
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_core::time::{Clock, Timestamp};

use crate::tables::Table;
use crate::testing::*;
use crate::{OnFailure, Options, Store};

/// A clock that is set.
#[derive(Default)]
struct Hand(AtomicI64);

impl Hand {
    fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        second(self.0.load(Ordering::SeqCst))
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst).unsigned_abs())
    }
}

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Of leases that come and go, a hundred in each.
const ROUNDS: u32 = 12;
/// How many seconds are between two of them.
const APART: u32 = 36;

fn open_kept(directory: &Path, clock: &Arc<Hand>, retention: Option<i64>) -> Store {
    let retention = retention.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    let options = Options { on_failure: OnFailure::Stop, retention };
    Store::open(directory, options, clock.clone(), Arc::new(Seed::new(1))).unwrap()
}

fn id(number: u32) -> String {
    format!("01a0c450-0000-7000-8000-0000{number:08x}")
}

/// A job with one lease and token, from its begin to its end, in `number`'s second.
fn cycle(number: u32) -> Vec<Change> {
    let at = i64::from(number);
    let job = Job { id: JobId::parse(&id(number)).unwrap(), started: second(at), ..job(1) };
    let lease = Lease {
        id: LeaseId::parse(&id(number)).unwrap(),
        job: Some(job.id),
        created: second(at),
        deadline: second(at + HOUR),
        ..lease(1)
    };
    let request = |method, outcome| Request {
        id: RequestId::parse(&id(number)).unwrap(),
        ..request(1, method, outcome)
    };
    let active = lease.clone().activate(pins(), second(at)).unwrap();
    let ending = active.clone().begin_end(EndCause::Released, second(at)).unwrap();
    let ended = ending.clone().finish_end(second(at)).unwrap();
    let token = MintedToken { jti: format!("jti-{number}"), lease: lease.id, ..token(1, 0) };
    vec![
        Change::JobStarted { request: request(Method::StartJob, Outcome::Job(job.id)), job: job.clone() },
        Change::LeasePending { request: request(Method::Issue, Outcome::Lease(lease.id)), lease },
        Change::LeaseActive { lease: active },
        Change::TokenMinted { token, owner: owner() },
        Change::LeaseEnding { lease: ending },
        Change::LeaseEnded { lease: ended },
        Change::JobEnded { job: Job { ended: Some(second(at)), revision: job.revision.next(), ..job } },
    ]
}

fn rows(store: &Store) -> Vec<(Table, usize)> {
    let count = |table| store.read(|view| Ok(view.newest_first(table, &[], None).count())).unwrap();
    Table::ALL.into_iter().map(|table| (table, count(table))).filter(|(_, count)| *count > 0).collect()
}

fn count(store: &Store, table: Table) -> usize {
    rows(store).into_iter().find(|(found, _)| *found == table).map_or(0, |(_, count)| count)
}

#[tokio::test]
async fn an_answer_is_kept_for_the_life_of_its_lease_and_an_hour() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand::default());
    let store = open_kept(directory.path(), &clock, None);
    store.commit(vec![job_started(1), lease_pending(1), join_token_created(1)]).await.unwrap();
    let there = |store: &Store| {
        let request = request(1, Method::Issue, Outcome::Lease(lease(1).id));
        store.request(&request.owner, request.job, request.method, request.id).unwrap().is_some()
    };
    // Its deadline is at 3601; it is still live, so that the request is kept however late it is.
    for at in [2 * HOUR, 9 * HOUR] {
        clock.set(at);
        store.commit(vec![refused()]).await.unwrap();
        assert!(there(&store), "at {at}");
    }
    assert_eq!(count(&store, Table::Request), 2, "that of the join token is over, that of the job goes on");
    let ending = lease(1).begin_end(EndCause::Deadline, second(9 * HOUR)).unwrap();
    let ended = ending.clone().finish_end(second(9 * HOUR)).unwrap();
    let over = Job { ended: Some(second(9 * HOUR)), revision: job(1).revision.next(), ..job(1) };
    store
        .commit(vec![
            Change::LeaseEnding { lease: ending },
            Change::LeaseEnded { lease: ended },
            Change::JobEnded { job: over },
        ])
        .await
        .unwrap();
    clock.set(10 * HOUR - 1);
    store.commit(vec![refused()]).await.unwrap();
    assert!(there(&store));
    clock.set(30 * HOUR);
    store.commit(vec![refused()]).await.unwrap();
    assert_eq!(count(&store, Table::Request), 0);
    assert!(store.lease(lease(1).id).unwrap().is_some(), "without a retention history is kept");
}

#[tokio::test]
async fn what_is_over_is_removed_after_the_retention_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand::default());
    let store = open_kept(directory.path(), &clock, Some(30 * DAY));
    store.commit(vec![job_started(2), lease_pending(2)]).await.unwrap();
    store.commit(cycle(1)).await.unwrap();
    store.commit(vec![join_token_created(1), join_token_taken(1, 1), enrolled(1)]).await.unwrap();
    store.commit(vec![Change::BlockSet { block: block(1) }]).await.unwrap();
    let before = rows(&store);
    clock.set(30 * DAY);
    store.commit(vec![refused()]).await.unwrap();
    let history = |rows: &[(Table, usize)]| {
        rows.iter()
            .filter(|(table, _)| !matches!(table, Table::Request | Table::Due))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(history(&rows(&store)), history(&before));
    // Renewed in time: it goes on.
    let renewed = enrolment(1).again(second(90 * DAY));
    store.commit(vec![Change::Renewed { enrolment: renewed.clone(), at: second(0) }]).await.unwrap();
    clock.set(31 * DAY);
    store.commit(vec![refused()]).await.unwrap();
    clock.set(31 * DAY + 60);
    store.commit(vec![refused()]).await.unwrap();
    assert_eq!(store.latest_enrolment(&owner().spiffe_id).unwrap(), Some(renewed));
    assert_eq!(store.lease(lease(2).id).unwrap(), Some(lease(2)), "a lease that goes on is kept");
    assert!(store.job(job(2).id).unwrap().is_some(), "and its job");
    for gone in [Table::Token, Table::TokensOfLease, Table::JoinToken, Table::Block, Table::BlocksOfCaller] {
        assert_eq!(count(&store, gone), 0, "{gone:?}");
    }
    for (table, left) in
        [(Table::Lease, 1), (Table::LeasesOfJob, 1), (Table::LeasesOfCaller, 1), (Table::Job, 1)]
    {
        assert_eq!(count(&store, table), left, "{table:?}");
    }
    clock.set(121 * DAY);
    store.commit(vec![refused()]).await.unwrap();
    assert_eq!(store.latest_enrolment(&owner().spiffe_id).unwrap(), None);
    drop(store);
    // Its second copy has lost them too, and they do not come back from there.
    let store = open_kept(directory.path(), &clock, Some(30 * DAY));
    assert_eq!((count(&store, Table::Enrolment), count(&store, Table::JoinToken)), (0, 0));
}

#[tokio::test]
async fn space_stays_flat_while_leases_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand::default());
    let store = open_kept(directory.path(), &clock, Some(HOUR));
    let mut sizes = Vec::new();
    let mut most = 0;
    for round in 0..ROUNDS {
        for commit in 0..4 {
            let first = (round * 4 + commit) * 25;
            clock.set(i64::from(first * APART));
            let changes = (first..first + 25).flat_map(|number| cycle(number * APART));
            store.commit(changes.collect()).await.unwrap();
        }
        most = most.max(rows(&store).iter().map(|(_, count)| count).sum());
        sizes.push(fs::metadata(directory.path().join("ledger/db")).unwrap().len());
    }
    // 1,200 leases came and went. An hour has 100 of them, and their requests stay for two.
    assert!(count(&store, Table::Lease) <= 150, "{:?}", rows(&store));
    assert!(most < 2_500, "{most} rows");
    assert!(sizes[11] <= sizes[5] * 2, "the file grew: {sizes:?}");
}

#[tokio::test]
async fn a_start_reads_what_goes_on_and_no_history() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand::default());
    let read = |cycles: std::ops::Range<u32>| {
        let (directory, clock) = (directory.path().to_owned(), clock.clone());
        async move {
            let store = open_kept(&directory, &clock, None);
            for number in cycles {
                store.commit(cycle(number)).await.unwrap();
            }
            drop(store);
            let store = open_kept(&directory, &clock, None);
            store.state.told().read
        }
    };
    let store = open_kept(directory.path(), &clock, None);
    store
        .commit((1..=10).flat_map(|number| [job_started(number), lease_pending(number)]).collect())
        .await
        .unwrap();
    drop(store);
    let few = read(100..101).await;
    let many = read(101..140).await;
    assert_eq!((few, many), (2 + 10 * 3, 2 + 10 * 3));
}

#[tokio::test]
async fn a_spent_token_is_known_as_long_as_it_could_come_again_and_no_longer() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand::default());
    let store = open_kept(directory.path(), &clock, None);
    let spent = job_by_token(1, 1).spent_token().unwrap();
    store.commit(vec![job_started_by_token(1, 1)]).await.unwrap();
    for (at, number, known) in [(300, 5, true), (400, 6, false)] {
        clock.set(at);
        store.commit(vec![job_started(number)]).await.unwrap();
        assert_eq!(store.spent_token(spent.replay).unwrap().is_some(), known, "at {at} s");
    }
    assert!(store.job(job(1).id).unwrap().is_some(), "the session is history, which is kept for ever here");
}

#[tokio::test]
async fn a_lease_that_its_tokens_outlive_leaves_that_queue_with_the_last_of_them_and_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand::default());
    let store = open_kept(directory.path(), &clock, None);
    let lease = Lease { mode: Mode::Unbound { tokens_until: None }, ..lease(1) };
    let ending = lease.clone().begin_end(EndCause::Released, second(1)).unwrap();
    let ended = ending.clone().outlived(Some(second(100))).finish_end(second(1)).unwrap();
    let pending = lease_pending_in(1, lease.mode.clone());
    store
        .commit(vec![
            pending,
            Change::LeaseEnding { lease: ending },
            Change::LeaseEnded { lease: ended.clone() },
        ])
        .await
        .unwrap();
    let queued = || store.read(|view| Ok(view.newest_first(Table::Due, &[7], None).count())).unwrap();
    for (at, left) in [(99, 1), (160, 0)] {
        clock.set(at);
        store.commit(vec![refused()]).await.unwrap();
        assert_eq!(queued(), left, "at {at}");
    }
    assert_eq!(store.lease(lease.id).unwrap(), Some(ended));
}
