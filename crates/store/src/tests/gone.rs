//! What a crash leaves beside whole records, and a directory from which all of them are gone.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use shorepass_core::ledger::{Change, Ledger as _};
use shorepass_core::security::SecurityState;

use crate::testing::*;
use crate::{Offline, OnFailure, Options, Store};

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

/// What may become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    None,
    Removed,
    Emptied,
    Garbled,
    /// Only of an audit file: its last lines are missing.
    Cut,
}

impl Harm {
    fn on(self, path: &Path) {
        match self {
            Self::None => {}
            Self::Removed => fs::remove_file(path).unwrap(),
            Self::Emptied => fs::write(path, "").unwrap(),
            Self::Garbled => fs::write(path, [0xa5; 300]).unwrap(),
            Self::Cut => {
                let text = fs::read_to_string(path).unwrap();
                let lines: Vec<_> = text.split_inclusive('\n').collect();
                fs::write(path, lines[..lines.len() / 2].concat()).unwrap();
            }
        }
    }
}

/// A directory with a block in it, as an orderly stop leaves it, or as a crash does in the very first run.
async fn blocked(orderly: bool) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let manifest = fs::read(directory.path().join("MANIFEST")).unwrap();
    store.commit(vec![job_started(1), lease_pending(1)]).await.unwrap();
    store.commit(vec![Change::BlockSet { block: block(1) }]).await.unwrap();
    drop(store);
    if !orderly {
        fs::write(directory.path().join("MANIFEST"), manifest).unwrap();
    }
    directory
}

#[tokio::test]
async fn records_that_are_gone_with_their_copy_are_never_a_first_start() {
    use Harm::{Cut, Emptied, Garbled, None, Removed};
    let options = Options { on_failure: OnFailure::Continue, retention: Option::None };
    for orderly in [true, false] {
        for copy in [Removed, Emptied, Garbled] {
            for manifest in [None, Removed, Garbled] {
                for audit in [None, Removed, Emptied, Cut] {
                    let what =
                        format!("orderly {orderly}, copy {copy:?}, manifest {manifest:?}, audit {audit:?}");
                    let directory = blocked(orderly).await;
                    fs::remove_dir_all(directory.path().join("ledger")).unwrap();
                    copy.on(&directory.path().join("security.log"));
                    manifest.on(&directory.path().join("MANIFEST"));
                    audit.on(&directory.path().join("audit.jsonl"));
                    let stopped = Options { on_failure: OnFailure::Stop, ..options };
                    let Err(refused) = open_with(directory.path(), stopped) else {
                        panic!("{what}: it opened")
                    };
                    assert!(refused.loses_records(), "{what}: {refused}");
                    for _ in 0..2 {
                        let store = open_with(directory.path(), options).unwrap();
                        let known = orderly && manifest == None && audit == None;
                        let blocks = store.blocks(&owner().spiffe_id, &name("web-deployer")).unwrap();
                        assert_eq!(store.security() == SecurityState::Whole, known, "{what}");
                        assert_eq!(blocks.len(), usize::from(audit == None), "{what}");
                        assert!(store.alarm().is_some(), "{what}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn an_import_that_fails_leaves_a_directory_as_new_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let export = directory.path().join("export");
    fs::write(&export, "{}\n").unwrap();
    let state = tempfile::tempdir().unwrap();
    let options = Options { on_failure: OnFailure::Continue, retention: None };
    let offline = Offline::lock(state.path(), options, Arc::new(Still), Arc::new(Seed::new(1))).unwrap();
    offline.import(&export).unwrap_err();
    drop(offline);
    assert_eq!(open(state.path()).security(), SecurityState::Whole);
}

/// A copy from a backup is as old as that, and the audit file was rotated since.
#[tokio::test]
async fn a_copy_of_before_lines_that_are_nowhere_is_not_whole() {
    for orderly in [true, false] {
        let directory = blocked(orderly).await;
        let path = |name: &str| directory.path().join(name);
        let backup = ["MANIFEST", "security.log"].map(|name| (name, fs::read(path(name)).unwrap()));
        open(directory.path()).commit(vec![Change::BlockSet { block: block(2) }]).await.unwrap();
        fs::remove_file(path("audit.jsonl")).unwrap();
        open(directory.path()).commit(vec![job_started(3)]).await.unwrap();
        for (name, bytes) in backup {
            fs::write(path(name), bytes).unwrap();
        }
        fs::remove_dir_all(path("ledger")).unwrap();
        let options = Options { on_failure: OnFailure::Continue, retention: None };
        let offline =
            Offline::lock(directory.path(), options, Arc::new(Still), Arc::new(Seed::new(1))).unwrap();
        let refused = offline.rebuild(false).unwrap_err().to_string();
        assert!(refused.contains("whole up to line 3, and lines 4 to 4 are nowhere"), "{orderly}: {refused}");
        drop(offline);
        let store = open_with(directory.path(), options).unwrap();
        assert!(matches!(store.security(), SecurityState::LostSince(_)), "{orderly}");
        assert!(store.block(block(1).id).unwrap().is_some(), "what it has is there all the same");
    }
}
