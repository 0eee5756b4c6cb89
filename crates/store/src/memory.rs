//! The ledger in memory: for tests, and as the second engine that keeps the planning honest.
//!
//! It stores the same bytes under the same keys as the other and writes the same audit lines. It lasts as long as the
//! process, so nothing that mints real tokens should stand on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shorepass_core::ledger::{Change, LedgerError};
use shorepass_core::security::SecurityState;
use shorepass_core::time::Clock;

use crate::plan::{Batch, Planned};
use crate::tables::{ReadError, Space, View};

/// A ledger that ends with the process.
pub struct MemoryLedger {
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    rows: Space,
    lines: Vec<String>,
    sequence: u64,
    last_commit: Option<Duration>,
}

impl MemoryLedger {
    /// An empty one.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, memory: Mutex::default() }
    }

    /// The audit lines so far, without their newlines.
    pub fn audit_lines(&self) -> Vec<String> {
        self.memory().lines.clone()
    }

    pub(crate) async fn record(&self, changes: Vec<Change>) -> Result<(), LedgerError> {
        let started = self.clock.since_boot();
        let mut memory = self.memory();
        let mut batch = Batch::over(&memory.rows, memory.sequence);
        batch.add(&changes)?;
        let Planned { rows, lines, sequence } = batch.finish();
        memory.rows.apply(rows);
        memory.lines.extend(lines);
        memory.sequence = sequence;
        memory.last_commit = Some(self.clock.since_boot().saturating_sub(started));
        Ok(())
    }

    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&dyn View) -> Result<T, ReadError>,
    ) -> Result<T, LedgerError> {
        Ok(read(&self.memory().rows)?)
    }

    pub(crate) fn healthy(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    pub(crate) fn last(&self) -> Option<Duration> {
        self.memory().last_commit
    }

    /// It loses nothing but all of it, with the process.
    pub(crate) fn security_state(&self) -> SecurityState {
        SecurityState::Whole
    }

    pub(crate) fn told_alarm(&self) -> Option<String> {
        None
    }

    /// A panic while it was held cannot have left half a commit: everything is planned before anything is written.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
