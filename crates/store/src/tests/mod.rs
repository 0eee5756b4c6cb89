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
mod syncs;
mod unfinished;

#[test]
fn limits_change_only_on_purpose() {
    use crate::{manifest::EVERY, records::CACHE, sled_ledger::QUEUE, storage::BATCH};
    assert_eq!((QUEUE, BATCH, CACHE, EVERY), (1024, 256, 16 << 20, 1024));
}
