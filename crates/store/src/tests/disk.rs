//! The ledger on disk: reopened, damaged, full, and the order in which it syncs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use shorepass_core::lease::EndCause;
use shorepass_core::ledger::{Change, Ledger, LedgerError};

use crate::files::Disk;
use crate::tables::{Table, View as _};
use crate::testing::*;
use crate::{OnFailure, OpenError, Options, Store};

/// A directory with a ledger and its audit file.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("ledger")
    }

    fn audit(&self) -> PathBuf {
        self.0.path().join("audit.jsonl")
    }

    fn open(&self) -> Result<Store, OpenError> {
        open(self.0.path())
    }

    /// Opens it on another disk. It was open before, so that opening it writes no records.
    fn open_on(&self, disk: impl Disk + 'static) -> Store {
        drop(self.open().unwrap());
        let options = Options { on_failure: OnFailure::Stop, retention: None };
        Store::open_on(Box::new(disk), self.0.path(), options, Arc::new(Still), Arc::new(Seed::new(1)))
            .unwrap()
    }

    /// Opens it, commits, closes it.
    async fn commit(&self, changes: Vec<Change>) {
        self.open().unwrap().commit(changes).await.unwrap();
    }

    fn lines(&self) -> usize {
        fs::read_to_string(self.audit()).unwrap().lines().count()
    }

    /// Makes the records and what stands beside them what they were when the copy was made, as a crash might.
    fn go_back(&self, copy: PathBuf) {
        fs::rename(copy.join("MANIFEST"), self.0.path().join("MANIFEST")).unwrap();
        fs::remove_dir_all(self.directory()).unwrap();
        fs::rename(copy, self.directory()).unwrap();
    }

    fn copy_of_directory(&self) -> PathBuf {
        let copy = self.0.path().join("copy");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(self.directory()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
        }
        fs::copy(self.0.path().join("MANIFEST"), copy.join("MANIFEST")).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
        copy
    }
}

fn has(store: &Store, number: u8) -> bool {
    store.job(job(number).id).unwrap() == Some(job(number))
}

/// What happened, in order.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn push(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Tells of each sync, then asks whether it works.
struct Told<F> {
    events: Events,
    works: F,
}

impl<F: Fn(&str) -> bool + Send> Told<F> {
    fn sync(&self, what: &str, file: &File) -> io::Result<()> {
        let metadata = file.metadata()?;
        self.events.push(format!("{what} inode {} length {}", metadata.ino(), metadata.len()));
        if (self.works)(what) { file.sync_data() } else { Err(io::Error::other("pulled out")) }
    }
}

impl<F: Fn(&str) -> bool + Send> Disk for Told<F> {
    fn sync_audit(&self, file: &File) -> io::Result<()> {
        self.sync("audit", file)
    }

    fn sync_records(&self, file: &File) -> io::Result<()> {
        self.sync("records", file)
    }

    fn sync_copy(&self, file: &File) -> io::Result<()> {
        self.sync("copy", file)
    }
}

#[tokio::test]
async fn a_reopened_ledger_has_everything_and_goes_on_counting() {
    let place = Place::new();
    for number in 0..5 {
        place.commit(vec![job_started(number), lease_pending(number)]).await;
    }
    let store = place.open().unwrap();
    assert!((0..5).all(|number| has(&store, number)));
    assert_eq!(store.leases(&Default::default(), None, 10).unwrap().len(), 5);
    let text = fs::read_to_string(place.audit()).unwrap();
    assert!(text.lines().last().unwrap().starts_with("{\"seq\":10,"));
}

#[tokio::test]
async fn the_audit_file_is_synced_before_a_commit_is_acknowledged_and_the_records_before_the_end() {
    let place = Place::new();
    let events = Events::default();
    let store = place.open_on(Told { events: events.clone(), works: |_: &str| true });
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    for number in 0..3 {
        store.commit(vec![job_started(number)]).await.unwrap();
        events.push("acknowledged");
        let mut seen = events.take();
        seen.retain(|event| !event.starts_with("records")); // those of before
        // The line was in the file when it was synced.
        let length = fs::metadata(place.audit()).unwrap().len();
        let audit = format!("audit inode {} length {length}", inode(&place.audit()));
        assert_eq!(seen, [audit.as_str(), "acknowledged"]);
        assert!(has(&store, number), "who was answered reads it");
    }
    drop(store);
    let db = format!("records inode {} ", inode(&place.directory().join("db")));
    assert!(events.take().last().unwrap().starts_with(&db));
}

#[tokio::test]
async fn who_reads_for_long_holds_up_no_commit_and_reads_on() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.commit(vec![job_started(1)]).await.unwrap();
    let shown = store.state.shown().unwrap();
    let view = shown.view();
    let mut jobs = view.newest_first(Table::Job, &[], None);
    store.commit(vec![job_started(2)]).await.unwrap();
    assert!(jobs.next().is_some() && jobs.next().is_none(), "it reads what was there when it began");
    assert!(has(&store, 2));
}

#[tokio::test]
async fn commits_that_wait_are_written_together() {
    let place = Place::new();
    let events = Events::default();
    let (open_gate, gate) = mpsc::channel::<()>();
    let waits_once = move |what: &str| {
        if what == "audit" {
            // Later ones find the other end gone, and do not wait.
            let _ = gate.recv();
        }
        true
    };
    let store = Arc::new(place.open_on(Told { events: events.clone(), works: waits_once }));
    let mut commits = tokio::task::JoinSet::new();
    for number in 0..50 {
        let store = Arc::clone(&store);
        commits.spawn(async move { store.commit(vec![job_started(number)]).await.is_ok() });
    }
    // This runtime has one thread: after a turn each, all of them are in the queue.
    let started = Instant::now();
    while !events.0.lock().unwrap().iter().any(|event| event.starts_with("audit")) {
        assert!(started.elapsed() < Duration::from_secs(30), "last seen: {:?}", events.take());
        tokio::task::yield_now().await;
    }
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    open_gate.send(()).unwrap();
    drop(open_gate);
    assert!(commits.join_all().await.into_iter().all(|ok| ok));
    assert!(events.take().iter().filter(|event| event.starts_with("audit")).count() <= 2);
}

#[tokio::test]
async fn what_stands_in_the_audit_file_alone_is_brought_in_from_there() {
    let place = Place::new();
    let active = lease(1).activate(pins(), second(2)).unwrap();
    place.commit(vec![job_started(1), lease_pending(1)]).await;
    place.commit(vec![Change::LeaseActive { lease: active }, token_minted(1, 0)]).await;
    let store = place.open_on(Told { events: Events::default(), works: |what: &str| what == "audit" });
    store.commit(vec![token_minted(1, 1)]).await.unwrap();
    drop(store);
    assert_eq!(place.open().unwrap().tokens(lease(1).id, 10).unwrap(), [token(1, 1), token(1, 0)]);
    let store = place.open_on(Told { events: Events::default(), works: |what: &str| what == "records" });
    let refused = store.commit(vec![token_minted(1, 2)]).await;
    assert!(matches!(refused, Err(LedgerError::AuditUnavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn without_its_audit_line_nothing_is_recorded() {
    let place = Place::new();
    symlink("/dev/full", place.audit()).unwrap();
    let store = place.open().unwrap();
    for _ in 0..2 {
        let refused = store.commit(vec![job_started(1)]).await;
        assert!(matches!(refused, Err(LedgerError::AuditUnavailable(_))), "{refused:?}");
        assert!(!has(&store, 1));
    }
    drop(store);
    fs::remove_file(place.audit()).unwrap();
    assert!(!has(&place.open().unwrap(), 1));
}

#[tokio::test]
async fn the_audit_file_may_come_back() {
    let place = Place::new();
    let failed_once = AtomicBool::new(false);
    let works = move |what: &str| what == "records" || failed_once.swap(true, Ordering::Relaxed);
    let store = place.open_on(Told { events: Events::default(), works });
    let refused = store.commit(vec![job_started(1)]).await;
    assert!(matches!(refused, Err(LedgerError::AuditUnavailable(_))), "{refused:?}");
    assert_eq!(place.lines(), 0);
    assert!(matches!(store.health(), Err(LedgerError::AuditUnavailable(_))));
    store.commit(vec![job_started(2)]).await.unwrap();
    assert!(store.health().is_ok());
    assert!(!has(&store, 1) && has(&store, 2));
    assert_eq!(place.lines(), 1);
}

#[tokio::test]
async fn after_a_failed_sync_of_the_records_nothing_works_until_a_restart() {
    let place = Place::new();
    let store = place.open_on(Told { events: Events::default(), works: |what: &str| what == "audit" });
    store.commit(vec![job_started(1)]).await.unwrap();
    let started = Instant::now();
    let why = loop {
        match store.commit(vec![job_started(1)]).await {
            Err(LedgerError::Unavailable(why)) => break why,
            Err(LedgerError::Conflict(_)) if started.elapsed() < Duration::from_secs(30) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(why.contains("pulled out"), "{why}");
    assert!(matches!(store.job(job(1).id), Err(LedgerError::Unavailable(_))));
    drop(store);
    assert!(has(&place.open().unwrap(), 1));
}

#[tokio::test]
async fn records_behind_the_audit_file_are_brought_up_to_it() {
    let place = Place::new();
    place.commit(vec![job_started(1)]).await;
    let behind = place.copy_of_directory();
    let active = lease(1).activate(pins(), second(2)).unwrap();
    place.commit(vec![job_started(2), lease_pending(1), refused()]).await;
    place.commit(vec![Change::LeaseActive { lease: active.clone() }, token_minted(1, 0)]).await;
    place.go_back(behind);
    for _ in 0..2 {
        let store = place.open().unwrap();
        assert!(has(&store, 1) && has(&store, 2));
        assert_eq!(store.lease(lease(1).id).unwrap(), Some(active.clone()));
        assert_eq!(store.tokens(lease(1).id, 10).unwrap(), [token(1, 0)]);
    }
    place.commit(vec![job_started(3)]).await;
    assert_eq!(place.lines(), 7);
}

#[tokio::test]
async fn lost_records_are_made_anew_from_the_audit_file() {
    let place = Place::new();
    // More than are brought in at once.
    let store = place.open().unwrap();
    store.commit(std::iter::repeat_n(refused(), 1500).collect()).await.unwrap();
    store.commit(vec![join_token_created(1), join_token_taken(1, 0)]).await.unwrap();
    store.commit(vec![identity_created(1), identity_created(2)]).await.unwrap();
    drop(store);
    fs::remove_dir_all(place.directory()).unwrap();
    assert!(matches!(place.open(), Err(OpenError::CutShort { records: 0, known: 1504, .. })));
    let options = Options { on_failure: OnFailure::Continue, retention: None };
    let store = open_with(place.0.path(), options).unwrap();
    for change in [join_token_taken(1, 1), identity_created(1)] {
        let again = store.commit(vec![change]).await;
        assert!(matches!(again, Err(LedgerError::Conflict(_))), "{again:?}");
    }
    assert_eq!(store.latest_identity().unwrap(), Some(identity(2)));
}

#[tokio::test]
async fn a_rotated_audit_file_is_gone_on_from_and_not_enough_without_records() {
    let place = Place::new();
    place.commit(vec![job_started(1)]).await;
    fs::remove_file(place.audit()).unwrap();
    place.commit(vec![job_started(2)]).await;
    let text = fs::read_to_string(place.audit()).unwrap();
    assert!(text.starts_with("{\"seq\":2,"), "{text}");
    fs::remove_dir_all(place.directory()).unwrap();
    let refused = place.open().err();
    assert!(matches!(refused, Some(OpenError::CutShort { records: 0, known: 2, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_torn_last_line_is_forgotten() {
    let place = Place::new();
    place.commit(vec![job_started(1)]).await;
    let behind = place.copy_of_directory();
    place.commit(vec![job_started(2)]).await;
    place.go_back(behind);
    let text = fs::read_to_string(place.audit()).unwrap();
    fs::write(place.audit(), &text[..text.len() - 2]).unwrap();
    let store = place.open().unwrap();
    assert!(has(&store, 1) && !has(&store, 2));
    assert_eq!(place.lines(), 1);
    store.commit(vec![job_started(2)]).await.unwrap();
    assert_eq!(fs::read_to_string(place.audit()).unwrap(), text);
}

#[tokio::test]
async fn a_torn_batch_is_forgotten_from_its_first_missing_line_on() {
    let place = Place::new();
    place.commit(vec![job_started(0)]).await;
    let behind = place.copy_of_directory();
    place.commit((1..60).map(job_started).collect()).await;
    place.go_back(behind);
    let mut bytes = fs::read(place.audit()).unwrap();
    bytes[8192..12288].fill(0);
    fs::write(place.audit(), bytes).unwrap();
    let store = place.open().unwrap();
    let kept = place.lines() as u8;
    assert!((2..30).contains(&kept), "{kept}");
    assert!((0..60).all(|number| has(&store, number) == (number < kept)));
    store.commit(vec![job_started(kept)]).await.unwrap();
    drop(store);
    assert!(has(&place.open().unwrap(), kept));
}

#[tokio::test]
async fn after_a_shutdown_it_is_unavailable_and_closed() {
    let place = Place::new();
    let store = place.open().unwrap();
    store.commit(vec![job_started(1)]).await.unwrap();
    store.shutdown();
    store.shutdown();
    assert!(matches!(store.commit(vec![job_started(2)]).await, Err(LedgerError::Unavailable(_))));
    assert!(matches!(store.job(job(1).id), Err(LedgerError::Unavailable(_))));
    drop(store);
    assert!(has(&place.open().unwrap(), 1));
}

#[test]
fn an_open_directory_is_locked() {
    let place = Place::new();
    let _store = place.open().unwrap();
    assert!(matches!(place.open(), Err(OpenError::Locked { .. })));
}

#[test]
fn directory_and_audit_file_are_ours_alone() {
    let place = Place::new();
    drop(place.open().unwrap());
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(place.directory()), mode(place.audit())), (0o700, 0o600));
    fs::set_permissions(place.directory(), fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(place.open(), Err(OpenError::Exposed { mode: 0o750, .. })));
}

#[test]
fn a_place_that_cannot_be_used_is_named() {
    let place = Place::new();
    fs::write(place.0.path().join("file"), "").unwrap();
    for nowhere in ["file", "nowhere"] {
        let Err(error) = open(&place.0.path().join(nowhere)) else { panic!("it opened") };
        assert!(error.to_string().contains(&format!("{nowhere}/ledger.lock cannot be used")), "{error}");
    }
    for taken in ["ledger", "audit.jsonl"] {
        let place = Place::new();
        symlink("/proc/nothing/there", place.0.path().join(taken)).unwrap();
        let Err(error) = place.open() else { panic!("it opened") };
        assert!(error.to_string().contains(&format!("{taken} cannot be used")), "{error}");
    }
}

/// Flips a bit in the newest row of a table.
fn damage(place: &Place, table: Table) {
    let records = super::records_in(place.directory());
    let (key, value) = records.scan_prefix([table as u8]).map(Result::unwrap).last().unwrap();
    let mut value = value.to_vec();
    *value.last_mut().unwrap() ^= 1;
    records.insert(key, value).unwrap();
}

#[tokio::test]
async fn damage_in_what_the_issuer_goes_on_with_is_found_at_the_start() {
    for table in [Table::Lease, Table::Job, Table::JoinToken, Table::Enrolment, Table::Meta] {
        let place = Place::new();
        place.commit(vec![job_started(1), lease_pending(1), join_token_created(1), enrolled(1)]).await;
        damage(&place, table);
        let Err(error @ OpenError::Damaged { .. }) = place.open() else { panic!("it opened") };
        for part in ["checksum", "store verify", "store rebuild"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

#[tokio::test]
async fn damage_in_history_is_found_when_it_is_asked_for() {
    let place = Place::new();
    let ending = lease(1).begin_end(EndCause::Released, second(2)).unwrap();
    let ended = ending.clone().finish_end(second(3)).unwrap();
    let changes = vec![Change::LeaseEnding { lease: ending }, Change::LeaseEnded { lease: ended }];
    place.commit([vec![job_started(1), lease_pending(1)], changes].concat()).await;
    damage(&place, Table::Lease);
    let store = place.open().unwrap();
    let Err(LedgerError::Unavailable(why)) = store.lease(lease(1).id) else { panic!("it was read") };
    assert!(why.contains("checksum"), "{why}");
    store.commit(vec![job_started(2)]).await.unwrap();
}

/// Bits flipped, pages zeroed, the file cut short: sled often opens such a file with rows missing and says nothing. The
/// number of the last audit line goes back with them, behind the mark in the MANIFEST.
#[tokio::test]
async fn a_damaged_file_is_whole_or_told() {
    let place = Place::new();
    let store = place.open().unwrap();
    for number in 0..50 {
        store.commit(vec![job_started(number), lease_pending(number)]).await.unwrap();
    }
    drop(store);
    let whole = place.copy_of_directory();
    let length = fs::metadata(whole.join("db")).unwrap().len() as usize;
    type Harm = fn(&mut Vec<u8>, usize);
    let harms: [Harm; 3] = [
        |bytes, at| bytes[at] ^= 4,
        |bytes, at| bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
        |bytes, at| bytes.truncate(at),
    ];
    for (index, harm) in harms.into_iter().enumerate() {
        for at in (0..length).step_by(length / 8) {
            fs::remove_dir_all(place.directory()).unwrap();
            let mut bytes = fs::read(whole.join("db")).unwrap();
            harm(&mut bytes, at);
            fs::create_dir(place.directory()).unwrap();
            fs::set_permissions(place.directory(), fs::Permissions::from_mode(0o700)).unwrap();
            fs::copy(whole.join("conf"), place.directory().join("conf")).unwrap();
            fs::write(place.directory().join("db"), bytes).unwrap();
            match place.open() {
                Ok(store) => assert!((0..50).all(|number| has(&store, number)), "harm {index} at {at}"),
                Err(error) => {
                    assert!(error.loses_records(), "harm {index} at {at}: {error}")
                }
            }
        }
    }
}

#[tokio::test]
async fn a_panic_while_writing_is_an_error_and_the_end() {
    let place = Place::new();
    let works = |what: &str| if what == "records" { panic!("out of a clear sky") } else { true };
    let store = place.open_on(Told { events: Events::default(), works });
    store.commit(vec![job_started(1)]).await.unwrap();
    store.shutdown();
    let Err(LedgerError::Unavailable(why)) = store.commit(vec![job_started(2)]).await else {
        panic!("it went on")
    };
    assert!(why.contains("out of a clear sky"), "{why}");
    drop(store);
    assert!(has(&place.open().unwrap(), 1));
}
