//! How callers stay heard and are told of ends: the trait behind Heartbeat and Watch, in the words of the domain.

use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::caller::Caller;
use shorepass_core::id::LeaseId;
use shorepass_core::lease::Lease;

use crate::refused::Refused;

/// What a caller keeps and has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The leases, as it says.
    pub leases: Vec<LeaseId>,
    /// The number of the last event that it has seen; 0 for none.
    pub sequence: u64,
}

/// How its leases are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// The shortest limit of those that live.
    pub silence: Option<Duration>,
    /// Those that have ended.
    pub ended: Vec<Lease>,
    /// Those that it does not own, or that do not exist.
    pub unavailable: Vec<LeaseId>,
    /// Whether there is something that it has not seen.
    pub behind: bool,
}

/// What a caller is told on its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// One of its leases has ended.
    Ended {
        /// The number of the event.
        sequence: u64,
        /// The lease, with its end.
        lease: Box<Lease>,
    },
    /// The role of one of its leases was changed.
    RoleChanged {
        /// The number of the event before.
        sequence: u64,
        /// The lease.
        lease: LeaseId,
    },
    /// Everything that had happened before has been told.
    CaughtUp {
        /// The number of the newest event.
        sequence: u64,
    },
    /// Events were lost: it is to open another stream.
    StartOver,
}

/// One open stream. Dropping it closes it.
#[async_trait]
pub trait Notices: Send {
    /// What happens next. May be cancelled without losing anything.
    async fn next(&mut self) -> Notice;
}

/// What runners and platforms call to stay heard.
#[async_trait]
pub trait Following: Send + Sync {
    /// The caller keeps these leases.
    async fn heartbeat(&self, caller: &Caller, beat: Beat) -> Result<Pulse, Refused>;

    /// The caller wants to be told. What it missed comes first.
    async fn watch(&self, caller: &Caller, beat: Beat) -> Result<Box<dyn Notices>, Refused>;
}
