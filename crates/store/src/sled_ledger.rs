//! The ledger on sled.
//!
//! Commits go through one bounded queue to one thread (`storage`) that owns all writes; reads go to the database at
//! once. A reader may see rows before their commit is acknowledged; they are durable then all the same, in the audit
//! file, which is synced before the records are touched.
//!
//! After a failed write of the records nothing is read or written until they could be opened again, by itself; what the
//! audit file has and the records do not is brought in then. A commit that was refused as unavailable may so take effect
//! after all; one that was refused because of the audit file never does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use shorepass_core::ledger::{Change, LedgerError};
use shorepass_core::security::SecurityState;
use shorepass_core::time::{Clock, Entropy};
use tokio::sync::{mpsc, oneshot};

use crate::error::OpenError;
use crate::files::{Disk, Fdatasync};
use crate::opening::{Opening, Options};
use crate::panics::describe;
use crate::place::{Lock, Place};
use crate::storage::{self, Item, State};
use crate::tables::{ReadError, View};

/// How many commits may wait; more wait for a place in the queue.
pub(crate) const QUEUE: usize = 1024;

/// A ledger on disk.
pub struct Store {
    queue: Mutex<Option<mpsc::Sender<Item>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) state: Arc<State>,
    /// Held for as long as the ledger is open; dropped last.
    _lock: Lock,
}

impl Store {
    /// Opens the ledger in `directory`, which is there and ours alone.
    ///
    /// Reads the leases that have not ended and the security state, and brings in what the audit file has and the records
    /// do not. Blocks meanwhile. Where there is no room for that, it is unavailable until there is.
    pub fn open(
        directory: &Path,
        options: Options,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        Self::open_on(Box::new(Fdatasync), directory, options, clock, entropy)
    }

    /// The same with other syncs.
    pub(crate) fn open_on(
        disk: Box<dyn Disk>,
        directory: &Path,
        options: Options,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let place = Place::new(directory);
        let lock = place.lock()?;
        let state = Arc::<State>::default();
        let (queue, waiting) = mpsc::channel(QUEUE);
        let opening = Opening { disk, place, options, clock, entropy };
        let thread = storage::start(opening, waiting, Arc::clone(&state))?;
        let (queue, thread) = (Mutex::new(Some(queue)), Mutex::new(Some(thread)));
        Ok(Self { queue, thread, state, _lock: lock })
    }

    /// Takes no more commits, and blocks until those that wait are durable. Later calls are `Unavailable`.
    pub fn shutdown(&self) {
        drop(take(&self.queue));
        if let Some(thread) = take(&self.thread) {
            // It catches its panics and tells them as `failed`.
            let _ = thread.join();
        }
        self.state.told().failed.get_or_insert_with(|| "it was shut down".to_owned());
        // The database closes with its last user.
        *self.state.records.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) async fn record(&self, changes: Vec<Change>) -> Result<(), LedgerError> {
        self.state.check()?;
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queue = queue.ok_or_else(|| self.state.gone())?;
        let (answer, answered) = oneshot::channel();
        queue.send(Item { changes, answer }).await.map_err(|_| self.state.gone())?;
        drop(queue);
        answered.await.unwrap_or_else(|_| Err(self.state.gone()))
    }

    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&dyn View) -> Result<T, ReadError>,
    ) -> Result<T, LedgerError> {
        let shown = self.state.shown().ok_or_else(|| self.state.gone())?;
        // Nothing of ours is left half changed by a panic in there: reading changes nothing.
        match catch_unwind(AssertUnwindSafe(|| read(&shown.view()))) {
            Ok(read) => Ok(read?),
            Err(panic) => Err(LedgerError::Unavailable(describe(panic.as_ref()))),
        }
    }

    pub(crate) fn healthy(&self) -> Result<(), LedgerError> {
        self.state.check()?;
        let problem = self.state.told().audit_problem.clone();
        problem.map_or(Ok(()), |problem| Err(LedgerError::AuditUnavailable(problem)))
    }

    pub(crate) fn last(&self) -> Option<Duration> {
        self.state.told().last_commit
    }

    pub(crate) fn security_state(&self) -> SecurityState {
        self.state.security()
    }

    pub(crate) fn told_alarm(&self) -> Option<String> {
        let alarm = self.state.told().alarm.clone();
        match (self.state.security().problem(), alarm) {
            (Some(problem), Some(alarm)) => Some(format!("{problem}; {alarm}")),
            (problem, alarm) => problem.or(alarm),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}
