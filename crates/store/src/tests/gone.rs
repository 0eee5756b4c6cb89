//! What a crash leaves beside whole records, and a directory from which all of them are gone.

use std::fs;
use std::path::Path;

use shorepass_core::ledger::Ledger as _;
use shorepass_core::security::SecurityState;

use crate::testing::*;
use crate::{OnFailure, Options, Store};

fn open(directory: &Path) -> Store {
    open_with(directory, Options { on_failure: OnFailure::Stop, retention: None }).unwrap()
}

async fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert_eq!(store.security(), SecurityState::Whole, "a first start");
    store.commit(vec![job_started(1), lease_pending(1)]).await.unwrap();
    drop(store);
    directory
}

#[tokio::test]
async fn a_snapshot_that_was_never_finished_damages_nothing() {
    let directory = filled().await;
    for half in [b"".as_slice(), &[7; 5000]] {
        fs::write(directory.path().join("ledger/snap.000000000060B6F7.generating"), half).unwrap();
        let store = open(directory.path());
        assert!(store.lease(lease(1).id).unwrap().is_some());
        assert_eq!(store.alarm(), None);
        drop(store);
    }
}

#[tokio::test]
async fn a_directory_that_lost_everything_is_not_a_first_start() {
    let directory = filled().await;
    fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    for file in ["audit.jsonl", "security.log", "MANIFEST"] {
        fs::remove_file(directory.path().join(file)).unwrap();
    }
    for _ in 0..2 {
        let store = open(directory.path());
        assert!(matches!(store.security(), SecurityState::LostSince(_)), "{:?}", store.security());
        drop(store);
    }
}
