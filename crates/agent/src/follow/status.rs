//! How the two loops stand, for `status`, and the number that both need.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shorepass_core::time::Timestamp;

/// How the issuer tells of ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether a stream is open and has caught up.
    pub connected: bool,
    /// When the issuer last answered or said something.
    pub last_heard: Option<Timestamp>,
    /// The number of the last event that a stream told.
    seen: u64,
}

/// The same, shared. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<Status>>);

impl Standing {
    /// How it is now.
    pub fn now(&self) -> Status {
        *self.lock()
    }

    pub(super) fn seen(&self) -> u64 {
        self.lock().seen
    }

    pub(super) fn saw(&self, sequence: u64) {
        self.lock().seen = sequence;
    }

    pub(super) fn heard(&self, now: Timestamp) {
        self.lock().last_heard = Some(now);
    }

    pub(super) fn connected(&self) {
        self.lock().connected = true;
    }

    pub(super) fn disconnected(&self) {
        self.lock().connected = false;
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        // Nothing in here is half changed by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
