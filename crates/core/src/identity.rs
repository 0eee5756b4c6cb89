//! Identities of operators and platforms: what is known of one that was made.
//!
//! They are made with the CA's key beside the daemon, by whoever may read that key, and handed over to the daemon in a
//! file. No decision stands on what is said here; it is for the audit.

use crate::caller::Owner;
use crate::digest::Digest;
use crate::time::Timestamp;

/// An identity that was made and handed out. It never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedIdentity {
    /// SHA-256 of its certificate: its key in the ledger.
    pub certificate: Digest,
    /// Whose it is. All identities of one caller have the same enrolment.
    pub owner: Owner,
    /// When it was made.
    pub created: Timestamp,
    /// When its certificate ends.
    pub expires: Timestamp,
    /// The uid of who made it.
    pub uid: u32,
    /// Where its line ends in the file that hands identities over, in bytes from the start: reading goes on there.
    pub line_end: u64,
}
