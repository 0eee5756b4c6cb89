//! What the ledgers promise: one suite for both, and for the one on disk what files, crashes and damage do to it.

mod conformance;
mod crash;
mod disk;
mod leases;

#[test]
fn limits_change_only_on_purpose() {
    use crate::{sled_ledger::QUEUE, storage::BATCH, storage::CACHE};
    assert_eq!((QUEUE, BATCH, CACHE), (1024, 256, 16 << 20));
}
