//! Records that are lost: what is made anew and from what, what is told, and that a crash at any step forgets nothing.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shorepass_core::lease::Lease;
use shorepass_core::ledger::{Change, Ledger as _, LedgerError};
use shorepass_core::security::SecurityState;

use crate::files::Disk;
use crate::testing::*;
use crate::{AuditError, OnFailure, OpenError, Options, Store};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, on_failure: OnFailure) -> Result<Store, OpenError> {
        open_with(self.0.path(), Options { on_failure, retention: None })
    }

    fn go_on(&self) -> Store {
        self.open(OnFailure::Continue).unwrap()
    }

    fn open_on(&self, disk: impl Disk + 'static, on_failure: OnFailure) -> Result<Store, OpenError> {
        let options = Options { on_failure, retention: None };
        Store::open_on(Box::new(disk), self.0.path(), options, Arc::new(Still), Arc::new(Seed::new(1)))
    }

    fn refused(&self) -> OpenError {
        match self.open(OnFailure::Stop) {
            Ok(_) => panic!("it opened"),
            Err(error) => error,
        }
    }

    /// A lease, a job, a used join token, an enrolment and a block.
    async fn fill(&self) {
        let store = self.go_on();
        for changes in filling() {
            store.commit(changes).await.unwrap();
        }
    }

    /// The audit file begins anew: what was before is nowhere but in the records and the copy.
    async fn rotate(&self) {
        fs::rename(self.path("audit.jsonl"), self.path("audit.1")).unwrap();
        let Change::LeasePending { lease, request } = lease_pending(9) else { panic!("it grants a lease") };
        let lease = Lease { role: Some(name("another")), ..lease };
        self.go_on().commit(vec![job_started(9), Change::LeasePending { lease, request }]).await.unwrap();
    }

    fn lose_records(&self) {
        fs::write(self.path("ledger/db"), [0; 100_000]).unwrap();
        for entry in fs::read_dir(self.path("ledger")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("snap") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    fn moved_aside(&self) -> Vec<String> {
        crate::place::Place::new(self.0.path()).moved_aside()
    }
}

fn filling() -> Vec<Vec<Change>> {
    vec![
        vec![job_started(1), lease_pending(1)],
        vec![join_token_created(1)],
        vec![join_token_taken(1, 1), enrolled(1)],
        vec![Change::BlockSet { block: block(1) }],
        vec![job_started_by_token(2, 2)],
    ]
}

fn assert_leases(store: &Store, expected: &[u8]) {
    let leases = store.leases(&Default::default(), None, 10).unwrap();
    assert_eq!(
        leases.iter().map(|lease| lease.id).collect::<Vec<_>>(),
        expected.iter().map(|n| lease(*n).id).collect::<Vec<_>>()
    );
    for lease in leases {
        assert!(store.job(lease.job.unwrap()).unwrap().is_some(), "a lease without its job");
    }
}

fn assert_security(store: &Store) {
    assert_eq!(store.security(), SecurityState::Whole);
    assert!(store.join_token(join_token(1).digest).unwrap().unwrap().taken.is_some());
    assert_eq!(store.latest_enrolment(&owner().spiffe_id).unwrap().unwrap(), enrolment(1));
    let spent = job_by_token(2, 2).spent_token().unwrap();
    assert_eq!(store.spent_token(spent.replay).unwrap(), Some(spent));
    assert_eq!(store.blocks(&owner().spiffe_id, &name("web-deployer")).unwrap(), [block(1)]);
}

#[tokio::test]
async fn a_ledger_that_lost_its_records_says_so_and_stays_closed_if_told_to() {
    let place = Place::new();
    place.fill().await;
    place.rotate().await;
    place.lose_records();
    let error = place.refused();
    assert!(error.loses_records(), "{error}");
    assert!(error.to_string().contains("store rebuild"), "{error}");
    fs::remove_dir_all(place.path("ledger")).unwrap();
    let error = place.refused();
    assert!(matches!(error, OpenError::CutShort { records: 0, known: 9, .. }), "{error}");
    assert_eq!(place.moved_aside(), Vec::<String>::new());
}

#[tokio::test]
async fn with_a_whole_audit_file_everything_comes_back() {
    for copy in [true, false] {
        let place = Place::new();
        place.fill().await;
        place.lose_records();
        if !copy {
            fs::remove_file(place.path("security.log")).unwrap();
        }
        let store = place.go_on();
        assert_security(&store);
        assert_leases(&store, &[1]);
        assert!(store.alarm().unwrap().contains("all of them came back"), "{:?}", store.alarm());
    }
}

#[tokio::test]
async fn with_a_rotated_audit_file_security_state_comes_from_its_copy_and_an_alarm_is_raised() {
    let place = Place::new();
    place.fill().await;
    place.rotate().await;
    place.lose_records();
    let store = place.go_on();
    assert_security(&store);
    // Lease 1 stands in the older file alone.
    assert_leases(&store, &[9]);
    let alarm = store.alarm().unwrap();
    assert!(alarm.contains("line 8") && alarm.contains("no security state is missing"), "{alarm}");
    assert!(store.health().is_ok());
    let again = store.commit(vec![join_token_taken(1, 2)]).await;
    assert!(matches!(again, Err(LedgerError::Conflict(_))), "{again:?}");
    store.commit(vec![job_started(3)]).await.unwrap();
    drop(store);
    let store = place.open(OnFailure::Stop).unwrap();
    assert_security(&store);
    assert!(store.alarm().unwrap().contains("ledger.damaged-"), "{:?}", store.alarm());
    assert_eq!(place.moved_aside().len(), 1);
}

#[tokio::test]
async fn a_lease_whose_job_is_lost_can_still_be_listed() {
    let place = Place::new();
    place.fill().await;
    fs::rename(place.path("audit.jsonl"), place.path("audit.1")).unwrap();
    let active = lease(1).activate(pins(), second(2)).unwrap();
    place.go_on().commit(vec![Change::LeaseActive { lease: active }]).await.unwrap();
    place.lose_records();
    assert_leases(&place.go_on(), &[1]);
}

#[tokio::test]
async fn with_neither_the_security_state_is_lost_and_stays_so() {
    for harm in ["gone", "damaged", "cut short", "of another ledger"] {
        let place = Place::new();
        place.fill().await;
        place.rotate().await;
        place.lose_records();
        let copy = place.path("security.log");
        let bytes = fs::read(&copy).unwrap();
        match harm {
            "gone" => fs::remove_file(&copy).unwrap(),
            "damaged" => fs::write(&copy, [&bytes[..40], b"????", &bytes[44..]].concat()).unwrap(),
            "cut short" => fs::write(&copy, &bytes[..27]).unwrap(),
            _ => {
                let other = Place::new();
                let store = Store::open(
                    other.0.path(),
                    Options { on_failure: OnFailure::Stop, retention: None },
                    Arc::new(Still),
                    Arc::new(Seed::new(77)),
                );
                drop(store.unwrap());
                fs::copy(other.path("security.log"), &copy).unwrap();
            }
        }
        let store = place.go_on();
        assert_eq!(store.security(), SecurityState::LostSince(second(0)), "{harm}");
        assert!(store.alarm().unwrap().contains("--accept-loss"), "{harm}");
        store.commit(vec![job_started(3), lease_pending(3)]).await.expect("issuing goes on");
        drop(store);
        // Also where the manifest is lost, and with new records that are whole.
        for manifest in [true, false] {
            if !manifest {
                fs::remove_file(place.path("MANIFEST")).unwrap();
            }
            assert_eq!(place.go_on().security(), SecurityState::LostSince(second(0)), "{harm}");
        }
    }
}

#[tokio::test]
async fn a_copy_that_is_lost_is_made_anew_and_one_that_has_more_gives_it_back() {
    let place = Place::new();
    place.fill().await;
    for bytes in [None, Some(b"something else".as_slice())] {
        match bytes {
            None => fs::remove_file(place.path("security.log")).unwrap(),
            Some(bytes) => fs::write(place.path("security.log"), bytes).unwrap(),
        }
        assert_security(&place.open(OnFailure::Stop).unwrap());
        let rows = |found| match found {
            crate::copy::Found::Read(contents) => contents.rows.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(rows(crate::copy::read(&place.path("security.log")).unwrap()), 6);
    }
    let records = super::records_in(place.path("ledger"));
    for table in crate::tables::Table::ALL.into_iter().filter(|table| table.is_security()) {
        for key in records.scan_prefix([table as u8]).keys() {
            records.remove(key.unwrap()).unwrap();
        }
    }
    drop(records);
    assert_security(&place.open(OnFailure::Stop).unwrap());
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_copy_already() {
    let place = Place::new();
    let store = place.go_on();
    for changes in filling() {
        store.commit(changes).await.unwrap();
    }
    // As after a power failure that took all but the two small files, and all lines of a third.
    let left = Place::new();
    let _ = ["security.log", "MANIFEST"].map(|file| fs::copy(place.path(file), left.path(file)).unwrap());
    assert!(matches!(left.open(OnFailure::Continue), Err(OpenError::Audit(AuditError::Missing { .. }))));
    fs::write(left.path("audit.jsonl"), "").unwrap();
    assert_security(&left.go_on());
}

#[tokio::test]
async fn the_newer_of_two_rows_counts() {
    let place = Place::new();
    place.fill().await;
    let older = fs::read(place.path("security.log")).unwrap();
    let lifted = block(1).lift(second(5), operator());
    place.go_on().commit(vec![Change::BlockLifted { block: lifted.clone() }]).await.unwrap();
    fs::write(place.path("security.log"), older).unwrap();
    // It is behind what the manifest says, and the records are whole.
    let store = place.open(OnFailure::Stop).unwrap();
    assert_eq!(store.block(block(1).id).unwrap(), Some(lifted));
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_refused_and_left_alone() {
    let place = Place::new();
    place.fill().await;
    let records = super::records_in(place.path("ledger"));
    let (key, mut value) =
        records.scan_prefix([2]).next().unwrap().map(|(key, value)| (key, value.to_vec())).unwrap();
    value[0] = 2;
    records.insert(key, value).unwrap();
    drop(records);
    for file in ["ledger", "MANIFEST", "security.log"] {
        let text = match file {
            "MANIFEST" => "{\"format\":9}\n",
            _ => "shorepass security state 9\n",
        };
        if file != "ledger" {
            fs::write(place.path(file), text).unwrap();
        }
        let Err(error @ OpenError::Newer { .. }) = place.open(OnFailure::Continue) else {
            panic!("{file}: it opened")
        };
        assert!(error.to_string().contains("run that version or a newer one"), "{error}");
        fs::remove_file(place.path(file)).or_else(|_| fs::remove_dir_all(place.path(file))).unwrap();
    }
    assert_eq!(place.moved_aside(), Vec::<String>::new());
}

#[tokio::test]
async fn parts_of_two_ledgers_are_told_and_not_mixed() {
    let place = Place::new();
    place.fill().await;
    let other = Place::new();
    let seed = Arc::new(Seed::new(77));
    let options = Options { on_failure: OnFailure::Stop, retention: None };
    drop(Store::open(other.0.path(), options, Arc::new(Still), seed).unwrap());
    fs::copy(other.path("MANIFEST"), place.path("MANIFEST")).unwrap();
    let Err(error @ OpenError::Mixed { .. }) = place.open(OnFailure::Continue) else { panic!("it opened") };
    assert!(error.to_string().contains("from one backup"), "{error}");
}

#[tokio::test]
async fn an_audit_file_may_be_gone_after_an_orderly_stop_and_not_after_another() {
    let place = Place::new();
    place.fill().await;
    let clean = fs::read(place.path("MANIFEST")).unwrap();
    fs::remove_file(place.path("audit.jsonl")).unwrap();
    drop(place.open(OnFailure::Stop).unwrap());
    let text = String::from_utf8(clean).unwrap();
    let line = text.lines().next().unwrap().replace("\"clean\":true", "\"clean\":false");
    fs::write(place.path("MANIFEST"), format!("{line}\ncrc32c {:08x}\n", crc32c::crc32c(line.as_bytes())))
        .unwrap();
    fs::remove_file(place.path("audit.jsonl")).unwrap();
    let error = place.refused();
    assert!(matches!(error, OpenError::Audit(AuditError::Missing { .. })), "{error}");
    fs::write(place.path("audit.jsonl"), "").unwrap();
    assert_security(&place.open(OnFailure::Stop).unwrap());
}

/// Fails at one step and at every step after it, as a crash there would.
struct Crashing(Arc<AtomicUsize>);

impl Crashing {
    fn step(&self) -> io::Result<()> {
        let left = self.0.load(Ordering::SeqCst);
        if left == 0 {
            return Err(io::Error::other("crashed"));
        }
        self.0.store(left - 1, Ordering::SeqCst);
        Ok(())
    }
}

impl Disk for Crashing {
    fn sync_audit(&self, file: &File) -> io::Result<()> {
        Crashing::step(self)?;
        file.sync_data()
    }

    fn sync_records(&self, file: &File) -> io::Result<()> {
        Crashing::step(self)?;
        file.sync_data()
    }

    fn sync_copy(&self, file: &File) -> io::Result<()> {
        Crashing::step(self)?;
        file.sync_data()
    }

    fn step(&self, _step: &'static str) -> io::Result<()> {
        Crashing::step(self)
    }
}

/// Commits until a crash; how many were acknowledged.
async fn until_the_crash(place: &Place, on_failure: OnFailure, crash: usize) -> (usize, bool) {
    let left = Arc::new(AtomicUsize::new(crash));
    let mut acknowledged = 0;
    if let Ok(store) = place.open_on(Crashing(Arc::clone(&left)), on_failure) {
        for changes in filling() {
            match store.commit(changes).await {
                Ok(_) => acknowledged += 1,
                Err(_) => break,
            }
        }
    }
    (acknowledged, left.load(Ordering::SeqCst) == 0)
}

fn assert_acknowledged(store: &Store, acknowledged: usize, crash: usize) {
    let there = [
        store.lease(lease(1).id).unwrap().is_some(),
        store.join_token(join_token(1).digest).unwrap().is_some(),
        store.latest_enrolment(&owner().spiffe_id).unwrap().is_some(),
        store.block(block(1).id).unwrap().is_some(),
        store.job(job(2).id).unwrap().is_some(),
    ];
    assert!(there[..acknowledged].iter().all(|there| *there), "crash at step {crash}: {there:?}");
    assert_eq!(store.security(), SecurityState::Whole, "crash at step {crash}");
}

#[tokio::test]
async fn a_crash_at_any_step_of_opening_and_committing_loses_nothing_acknowledged() {
    let mut crash = 0;
    loop {
        let place = Place::new();
        let (acknowledged, crashed) = until_the_crash(&place, OnFailure::Stop, crash).await;
        let store =
            place.open(OnFailure::Stop).unwrap_or_else(|error| panic!("crash at step {crash}: {error}"));
        assert_acknowledged(&store, acknowledged, crash);
        if !crashed {
            assert!(crash > 25, "only {crash} steps were crashed at");
            return;
        }
        crash += 1;
    }
}

#[tokio::test]
async fn a_crash_at_any_step_of_making_records_anew_forgets_no_loss() {
    for lost in [false, true] {
        let mut crash = 0;
        loop {
            let place = Place::new();
            place.fill().await;
            place.rotate().await;
            place.lose_records();
            if lost {
                fs::remove_file(place.path("security.log")).unwrap();
            }
            let left = Arc::new(AtomicUsize::new(crash));
            drop(place.open_on(Crashing(Arc::clone(&left)), OnFailure::Continue));
            let store = place.go_on();
            if lost {
                assert_eq!(store.security(), SecurityState::LostSince(second(0)), "crash at step {crash}");
            } else {
                assert_security(&store);
            }
            assert!(store.lease(lease(9).id).unwrap().is_some(), "crash at step {crash}");
            if left.load(Ordering::SeqCst) > 0 {
                assert!(crash > 15, "only {crash} steps were crashed at");
                break;
            }
            crash += 1;
        }
    }
}

/// Waits until the ledger records again.
async fn until_it_works(store: &Store, change: Change) {
    let started = Instant::now();
    loop {
        match store.commit(vec![change.clone()]).await {
            // It may have been recorded by a try that was told to have failed.
            Ok(_) | Err(LedgerError::Conflict(_)) => return,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(30), "last seen: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn it_mends_itself_when_copy_or_records_can_be_written_again() {
    struct Flaky(Arc<AtomicUsize>, bool);
    impl Flaky {
        fn fails(&self) -> io::Result<()> {
            let failing = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if failing.is_ok() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }
    impl Disk for Flaky {
        fn sync_audit(&self, file: &File) -> io::Result<()> {
            file.sync_data()
        }
        fn sync_records(&self, file: &File) -> io::Result<()> {
            if self.1 { self.fails() } else { file.sync_data() }
        }
        fn sync_copy(&self, file: &File) -> io::Result<()> {
            if self.1 { file.sync_data() } else { self.fails() }
        }
    }
    for records in [true, false] {
        let place = Place::new();
        let left = Arc::new(AtomicUsize::new(0));
        place.go_on().commit(vec![join_token_created(1)]).await.unwrap();
        let store = place.open_on(Flaky(Arc::clone(&left), records), OnFailure::Stop).unwrap();
        left.store(2, Ordering::SeqCst);
        let taken = store.commit(vec![join_token_taken(1, 1)]).await;
        // The records are written a moment later.
        assert!(taken.is_ok() == records || matches!(taken, Err(LedgerError::Unavailable(_))), "{taken:?}");
        let started = Instant::now();
        while store.health().is_ok() {
            assert!(started.elapsed() < Duration::from_secs(30), "nothing was seen of it");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(matches!(store.job(job(1).id), Err(LedgerError::Unavailable(_))));
        until_it_works(&store, job_started(1)).await;
        assert!(store.health().is_ok());
        // What was acknowledged stands, and what was refused does not come to be after all.
        let taken = store.join_token(join_token(1).digest).unwrap().unwrap().taken;
        assert_eq!(taken.is_some(), records);
        drop(store);
        let text = fs::read_to_string(place.path("audit.jsonl")).unwrap();
        let numbers: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        assert!(place.open(OnFailure::Stop).unwrap().job(job(1).id).unwrap().is_some());
    }
}
