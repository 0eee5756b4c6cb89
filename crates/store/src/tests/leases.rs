//! Which leases are read to find leases, and that the indices are right after any start.

use std::cell::Cell;
use std::sync::Arc;

use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::id::LeaseId;
use shorepass_core::lease::{EndCause, Lease, Mode};
use shorepass_core::ledger::{Change, LeaseFilter, Ledger};

use crate::tables::{Entries, LEDGER_IDENTITY, ReadError, Table, View};
use crate::testing::*;
use crate::{MemoryLedger, OnFailure, Options, Store, rows, trim};

/// The same key space, and how many leases were read in it.
struct Counted<'a> {
    view: &'a dyn View,
    leases: Cell<usize>,
}

impl Counted<'_> {
    fn count(&self, table: Table) {
        self.leases.set(self.leases.get() + usize::from(table == Table::Lease));
    }
}

impl View for Counted<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.count(table);
        self.view.get(table, key)
    }

    fn newest_first(&self, table: Table, prefix: &[u8], before: Option<&[u8]>) -> Entries<'_> {
        Box::new(self.view.newest_first(table, prefix, before).inspect(move |_| self.count(table)))
    }
}

/// The numbers of the leases that were found, and how many were read for it.
fn found(view: &dyn View, filter: &LeaseFilter, before: Option<u8>) -> (Vec<u8>, usize) {
    let counted = Counted { view, leases: Cell::new(0) };
    let leases = rows::leases(&counted, filter, before.map(|number| lease(number).id), 100).unwrap();
    (leases.iter().map(|lease| number(lease.id)).collect(), counted.leases.get())
}

fn number(id: LeaseId) -> u8 {
    (0..100).find(|number| lease(*number).id == id).unwrap()
}

fn unfinished(view: &dyn View) -> Vec<Vec<u8>> {
    view.newest_first(Table::UnfinishedLeases, &[], None).map(|entry| entry.unwrap().0).collect()
}

fn other() -> SpiffeId {
    // The first runner's name is the beginning of this one's.
    SpiffeId::parse("spiffe://ci.example.org/runner/prod-10").unwrap()
}

/// The lease of that number; those above 20 are all of job 1, those above 30 all of another runner as well.
fn of_number(number: u8) -> Lease {
    let owner = if number > 30 { Owner { spiffe_id: other(), ..owner() } } else { owner() };
    let job = if number > 20 { job(1).id } else { job(number).id };
    Lease { job: Some(job), owner: owner.into(), ..lease(number) }
}

fn pending(number: u8) -> Change {
    let Change::LeasePending { request, .. } = lease_pending(number) else { panic!("it grants a lease") };
    Change::LeasePending { lease: of_number(number), request }
}

fn ending(number: u8) -> Lease {
    of_number(number).begin_end(EndCause::Released, second(50)).unwrap()
}

fn end(number: u8) -> Vec<Change> {
    let ended = ending(number).finish_end(second(51)).unwrap();
    vec![Change::LeaseEnding { lease: ending(number) }, Change::LeaseEnded { lease: ended }]
}

/// Forty leases: 7, 23 and 33 are pending, 8, 24 and 34 ending, all others ended.
async fn fill(ledger: &dyn Ledger) {
    for number in 1..=40 {
        ledger.commit(vec![pending(number)]).await.unwrap();
        let changes = match number {
            7 | 23 | 33 => continue,
            8 | 24 | 34 => vec![Change::LeaseEnding { lease: ending(number) }],
            _ => end(number),
        };
        ledger.commit(changes).await.unwrap();
    }
}

fn all() -> LeaseFilter {
    LeaseFilter { include_ended: true, ..LeaseFilter::default() }
}

fn check_reads(view: &dyn View) {
    let live = LeaseFilter::default;
    let of_job = LeaseFilter { job: Some(job(1).id), ..live() };
    let of_other = LeaseFilter { caller: Some(other()), ..live() };
    assert_eq!(found(view, &live(), None), (vec![34, 33, 24, 23, 8, 7], 6));
    assert_eq!(found(view, &live(), Some(24)), (vec![23, 8, 7], 3));
    assert_eq!(found(view, &of_job, None), (vec![34, 33, 24, 23], 6));
    assert_eq!(found(view, &of_other, None), (vec![34, 33], 6));
    assert_eq!(found(view, &LeaseFilter { lease: Some(lease(9).id), ..live() }, None), (vec![], 1));
    let of_job = LeaseFilter { include_ended: true, ..of_job };
    let of_other = LeaseFilter { include_ended: true, ..of_other };
    let of_first = LeaseFilter { caller: Some(owner().spiffe_id), ..all() };
    let down = |from: u8, to: u8| (to..=from).rev().collect::<Vec<_>>();
    assert_eq!(found(view, &of_job, None), ([down(40, 21), vec![1]].concat(), 21));
    assert_eq!(found(view, &of_job, Some(22)), (vec![21, 1], 2));
    assert_eq!(found(view, &of_other, None), (down(40, 31), 10));
    assert_eq!(found(view, &of_first, Some(11)), (down(10, 1), 10));
    assert_eq!(found(view, &all(), None), (down(40, 1), 40));
    assert_eq!(unfinished(view).len(), 6);
}

fn checked<T>(store: &Store, check: impl FnOnce(&dyn View) -> T) -> T {
    store.read(|view| Ok(check(view))).unwrap()
}

#[tokio::test]
async fn leases_that_ended_are_not_read_to_find_others() {
    let memory = MemoryLedger::new(Arc::new(Still));
    fill(&memory).await;
    memory
        .read(|view| {
            check_reads(view);
            Ok(())
        })
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    fill(&store).await;
    checked(&store, check_reads);
    drop(store);
    checked(&open(directory.path()).unwrap(), check_reads);
}

#[tokio::test]
async fn a_lease_that_begins_and_ends_in_one_commit_is_not_left_unfinished() {
    let memory = MemoryLedger::new(Arc::new(Still));
    memory.commit([vec![pending(1)], end(1)].concat()).await.unwrap();
    assert_eq!(memory.read(|view| Ok(unfinished(view))).unwrap(), Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn the_indices_of_records_made_anew_from_the_audit_file_are_right() {
    let directory = tempfile::tempdir().unwrap();
    fill(&open(directory.path()).unwrap()).await;
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let options = Options { on_failure: OnFailure::Continue, retention: None };
    checked(&open_with(directory.path(), options).unwrap(), check_reads);
}

#[tokio::test]
async fn a_ledger_from_before_there_were_indices_gets_them_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    fill(&open(directory.path()).unwrap()).await;
    let records = super::records_in(directory.path().join("ledger"));
    for table in [Table::UnfinishedLeases, Table::LeasesOfJob, Table::LeasesOfCaller] {
        for key in records.scan_prefix(table.key(&[])).keys() {
            records.remove(key.unwrap()).unwrap();
        }
    }
    records.remove(Table::Meta.key(LEDGER_IDENTITY)).unwrap();
    // And one that ended since, by a program that knew of no indices.
    records.insert(Table::UnfinishedLeases.key(lease(1).id.as_bytes()), vec![]).unwrap();
    drop(records);
    for _ in 0..2 {
        checked(&open(directory.path()).unwrap(), check_reads);
    }
}

/// Leases 41 to 43 are unbound and ended; the last of their tokens are refused at 141, 142 and 143.
async fn fill_unbound(ledger: &dyn Ledger) {
    for number in 41..=43 {
        let until = Some(second(100 + i64::from(number)));
        let lease = Lease { mode: Mode::Unbound { tokens_until: None }, ..of_number(number) };
        let Change::LeasePending { request, .. } = lease_pending(number) else { panic!("it grants a lease") };
        let ending = lease.clone().begin_end(EndCause::Released, second(50)).unwrap();
        let ended = ending.clone().outlived(until).finish_end(second(51)).unwrap();
        let changes = vec![Change::LeasePending { lease, request }, Change::LeaseEnding { lease: ending }];
        ledger.commit(changes).await.unwrap();
        ledger.commit(vec![Change::LeaseEnded { lease: ended }]).await.unwrap();
    }
}

/// The numbers of the unbound leases whose tokens work then, and how many leases were read for it.
fn outliving(view: &dyn View, filter: &LeaseFilter, at: i64) -> (Vec<u8>, usize) {
    let counted = Counted { view, leases: Cell::new(0) };
    let leases = trim::outliving(&counted, filter, second(at)).unwrap();
    (leases.iter().map(|lease| number(lease.id)).collect(), counted.leases.get())
}

fn check_outliving(view: &dyn View) {
    let every = LeaseFilter::default;
    assert_eq!(outliving(view, &every(), 140), (vec![43, 42, 41], 3));
    assert_eq!(outliving(view, &every(), 141), (vec![43, 42], 2), "refused at that time");
    assert_eq!(outliving(view, &every(), 143), (vec![], 0));
    let of_first = LeaseFilter { caller: Some(owner().spiffe_id), ..every() };
    let of_other = LeaseFilter { caller: Some(other()), ..every() };
    assert_eq!((outliving(view, &of_first, 0).0, outliving(view, &of_other, 0).0.len()), (vec![], 3));
}

#[tokio::test]
async fn unbound_leases_that_ended_are_found_while_their_tokens_work_and_no_other_is_read() {
    let memory = MemoryLedger::new(Arc::new(Still));
    fill(&memory).await;
    fill_unbound(&memory).await;
    let check = |view: &dyn View| {
        check_outliving(view);
        Ok(())
    };
    memory.read(check).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    fill(&store).await;
    fill_unbound(&store).await;
    checked(&store, check_outliving);
    drop(store);
    // Records of before have no such queue; and those that are made anew have it again.
    let records = super::records_in(directory.path().join("ledger"));
    for key in records.scan_prefix(Table::Due.key(&[])).keys() {
        records.remove(key.unwrap()).unwrap();
    }
    records.remove(Table::Meta.key(LEDGER_IDENTITY)).unwrap();
    drop(records);
    checked(&open(directory.path()).unwrap(), check_outliving);
    std::fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    let options = Options { on_failure: OnFailure::Continue, retention: None };
    checked(&open_with(directory.path(), options).unwrap(), check_outliving);
}
