//! Records that are made anew again and again, because there is too little room: one directory aside, and no more.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shorepass_core::ledger::Ledger as _;

use crate::files::Disk;
use crate::place::Place;
use crate::testing::*;
use crate::{OnFailure, Options, Store};

const OPTIONS: Options = Options { on_failure: OnFailure::Continue, retention: None };

/// Lies beside the lost records, so that they are told from others.
const MARK: &str = "these-were-lost";

/// Has room for so many steps.
struct Scarce(Arc<AtomicUsize>);

impl Scarce {
    fn takes(&self) -> io::Result<()> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::ErrorKind::StorageFull.into())
    }
}

impl Disk for Scarce {
    fn sync_audit(&self, file: &File) -> io::Result<()> {
        self.takes().and_then(|()| file.sync_data())
    }

    fn sync_records(&self, file: &File) -> io::Result<()> {
        self.takes().and_then(|()| file.sync_data())
    }

    fn sync_copy(&self, file: &File) -> io::Result<()> {
        self.takes().and_then(|()| file.sync_data())
    }

    fn step(&self, _: &'static str) -> io::Result<()> {
        self.takes()
    }
}

/// How many steps are left after one try.
fn try_with(steps: usize, directory: &Path) -> usize {
    let left = Arc::new(AtomicUsize::new(steps));
    let disk = Box::new(Scarce(Arc::clone(&left)));
    drop(Store::open_on(disk, directory, OPTIONS, Arc::new(Still), Arc::new(Seed::new(1))));
    left.load(Ordering::SeqCst)
}

async fn filled(directory: &Path) {
    let store = open_with(directory, OPTIONS).unwrap();
    for change in [lease_pending(1), join_token_created(1)] {
        store.commit(vec![change]).await.unwrap();
    }
}

fn lose(directory: &Path) {
    fs::write(directory.join("ledger/db"), [0; 100_000]).unwrap();
    fs::write(directory.join("ledger").join(MARK), "").unwrap();
    for entry in fs::read_dir(directory.join("ledger")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("snap") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[tokio::test]
async fn however_often_records_are_made_anew_only_the_lost_ones_are_aside_in_the_end() {
    let mut steps = 0;
    loop {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path());
        filled(directory.path()).await;
        lose(directory.path());
        let left = (0..3).map(|_| try_with(steps, directory.path())).min().unwrap();
        let store = open_with(directory.path(), OPTIONS).unwrap();
        let aside = place.moved_aside();
        assert_eq!(aside.len(), 1, "{steps} steps: {aside:?}");
        assert!(directory.path().join(&aside[0]).join(MARK).exists(), "{steps} steps");
        assert!(!place.making().exists(), "{steps} steps");
        assert!(store.lease(lease(1).id).unwrap().is_some(), "{steps} steps");
        if left > 0 {
            assert!(steps > 10, "there was room enough after {steps} steps");
            return;
        }
        steps += 1;
    }
}

#[tokio::test]
async fn what_is_lost_later_is_moved_aside_and_not_taken_for_unfinished() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await;
    for times in 1..3 {
        lose(directory.path());
        drop(open_with(directory.path(), OPTIONS).unwrap());
        // As a crash right before its end leaves it.
        let aside = Place::new(directory.path()).moved_aside();
        fs::write(directory.path().join("ledger.making"), &aside[0]).unwrap();
        drop(open_with(directory.path(), OPTIONS).unwrap());
        assert_eq!(aside.len(), times);
    }
}
