//! What the ledgers promise: one suite for both, and for the one on disk what files, crashes and damage do to it.

mod conformance;
mod conformance_adoption;
mod conformance_identities;
mod conformance_tokens;
mod crash;
mod disk;
mod full;
mod gone;
mod history;
mod leases;
mod lost;
mod offline;
mod regain;
mod running;
mod syncs;
mod unfinished;

/// Opens records beside the store. Their lock outlives a moment with a child process that another test is just starting: it has the
/// file too, until it is another program.
fn records_in(directory: impl AsRef<std::path::Path>) -> sled::Db {
    for _ in 0..250 {
        match sled::open(&directory) {
            Err(sled::Error::Io(cause)) if cause.to_string().contains("could not acquire lock") => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            opened => return opened.unwrap(),
        }
    }
    panic!("somebody has {} open", directory.as_ref().display());
}

#[test]
fn limits_change_only_on_purpose() {
    use crate::{manifest::EVERY, records::CACHE, sled_ledger::QUEUE, storage::BATCH};
    assert_eq!((QUEUE, BATCH, CACHE, EVERY), (1024, 256, 16 << 20, 1024));
}
