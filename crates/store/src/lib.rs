//! The ledger, on sled and in memory, with its audit file; and the annotation that anchors carry.
//!
//! The only user of a database. What is recorded is decided by `core`; this crate makes it durable: which rows a change
//! writes and what it must not find (`plan`) is one pure piece of code, used by both engines, and tested by one suite.
//! No token and no secret of a join token ever comes here: the types that it is given hold digests.
//!
//! What is not here: more than one issuer on one ledger.

mod anew;
mod annotation;
mod audit;
mod convert;
mod copy;
mod error;
mod files;
mod layers;
mod ledger;
mod manifest;
mod memory;
mod offline;
mod opening;
mod panics;
mod place;
mod plan;
mod record;
mod records;
mod regain;
mod restore;
mod rows;
mod sled_ledger;
mod storage;
mod tables;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trim;

pub use annotation::{Sealer, SealerError};
pub use audit::{AuditError, recorded_change};
pub use error::OpenError;
pub use memory::MemoryLedger;
pub use offline::{Offline, Rebuilt, Report, TransferError, Transferred};
pub use opening::{OnFailure, Options};
pub use sled_ledger::Store;
