//! Records that turn out to be damaged while the ledger is open.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shorepass_core::ledger::{Change, Ledger as _};
use shorepass_core::security::SecurityState;

use crate::files::Disk;
use crate::testing::*;
use crate::{OnFailure, Options, Store};

/// Once `harm` is set it spoils the records instead of syncing them.
struct Spoiling {
    directory: PathBuf,
    harm: Arc<AtomicBool>,
    copy: bool,
}

impl Disk for Spoiling {
    fn sync_audit(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_records(&self, file: &File) -> io::Result<()> {
        if !self.harm.swap(false, Ordering::SeqCst) {
            return file.sync_data();
        }
        fs::write(self.directory.join("ledger/db"), [0xa5; 100_000])?;
        if self.copy {
            fs::write(self.directory.join("security.log"), "rubbish")?;
        }
        Err(io::Error::other("on purpose"))
    }

    fn sync_copy(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// A store whose records, and perhaps their copy, are spoilt after a lease and a block were recorded.
async fn spoilt(directory: &Path, on_failure: OnFailure, copy: bool) -> Store {
    let harm = Arc::new(AtomicBool::new(false));
    let disk = Spoiling { directory: directory.to_owned(), harm: harm.clone(), copy };
    let options = Options { on_failure, retention: None };
    let entropy = Arc::new(Seed::new(1));
    let store = Store::open_on(Box::new(disk), directory, options, Arc::new(Still), entropy).unwrap();
    store.commit(vec![job_started(1), lease_pending(1)]).await.unwrap();
    // What went before it is in the records then, and a mark of that.
    store.commit(vec![Change::BlockSet { block: block(1) }]).await.unwrap();
    harm.store(true, Ordering::SeqCst);
    store.commit(vec![job_started(2)]).await.unwrap();
    let started = Instant::now();
    while store.health().is_ok() {
        assert!(started.elapsed() < Duration::from_secs(30), "nothing was seen of it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store
}

async fn works_again(store: &Store) -> bool {
    let started = Instant::now();
    while store.health().is_err() && started.elapsed() < Duration::from_secs(4) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.health().is_ok()
}

#[tokio::test]
async fn they_are_made_anew_and_it_goes_on_unless_told_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let store = spoilt(directory.path(), OnFailure::Continue, false).await;
    assert!(works_again(&store).await, "{:?}", store.health());
    assert!(store.lease(lease(1).id).unwrap().is_some());
    assert_eq!(store.block(block(1).id).unwrap(), Some(block(1)));
    assert_eq!(store.security(), SecurityState::Whole);
    assert!(store.alarm().unwrap().contains("were made anew"), "{:?}", store.alarm());
    assert!(store.job(job(2).id).unwrap().is_some());
    store.commit(vec![job_started(3)]).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let store = spoilt(directory.path(), OnFailure::Stop, false).await;
    assert!(!works_again(&store).await);
}

#[tokio::test]
async fn where_security_state_would_be_lost_it_stays_closed_until_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = spoilt(directory.path(), OnFailure::Continue, true).await;
    assert!(!works_again(&store).await);
    assert!(store.health().unwrap_err().to_string().contains("security state"), "{:?}", store.health());
    drop(store);
    let options = Options { on_failure: OnFailure::Continue, retention: None };
    let store = open_with(directory.path(), options).unwrap();
    assert!(matches!(store.security(), SecurityState::LostSince(_)));
}
