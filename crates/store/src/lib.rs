//! The ledger, on sled and in memory, with its audit file; and the annotation that anchors carry.
//!
//! The only user of a database. What is recorded is decided by `core`; this crate makes it durable: which rows a change
//! writes and what it must not find (`plan`) is one pure piece of code, used by both engines, and tested by one suite.
//! No token and no secret of a join token ever comes here: the types that it is given hold digests.
//!
//! What is not here: deleting any record, and more than one issuer on one ledger.

mod annotation;
mod audit;
mod convert;
mod files;
mod ledger;
mod memory;
mod plan;
mod record;
mod rows;
mod sled_ledger;
mod storage;
mod tables;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use annotation::{Sealer, SealerError};
pub use audit::AuditError;
pub use memory::MemoryLedger;
pub use sled_ledger::{OpenError, Store};
