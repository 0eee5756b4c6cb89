//! The storage thread: owns all writes, writes many commits at a time, and mends itself when the disk comes back.
//!
//! For each batch: plan; append to the audit file and sync it; append to the security copy and sync it, if the batch
//! touches security state; show the rows to whoever reads; then answer. That is durable: a start brings into the records what
//! the audit file has and they do not. The rows are written to the records and synced [`FLUSH`] later, those of all batches
//! of that time together, and before the MANIFEST's mark moves. A batch is what waited while the one before it was written, so a slow disk makes larger batches.
//!
//! With a batch goes the removal of what is over ([`crate::trim`]): where nothing is recorded, nothing grows.
//!
//! A failed write of the audit file is undone and refuses its batch alone. After a failed write of copy or records their
//! state is unknown, while the audit file has the batch: everything is closed, commits and reads are refused, and every
//! [`RETRY`] the ledger is opened as at a start, which brings in what the audit file has, or makes records anew that are
//! damaged; where security state would be lost by that it stays closed until the issuer is started anew. That is sound after a failed
//! fsync too: nothing is believed but what can be read back, and what is missing then or later is in the audit file.
//!
//! A ledger that cannot be opened at the start for want of room (sled writes to be opened) begins in that state.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use shorepass_core::ledger::{Change, LedgerError};
use shorepass_core::security::SecurityState;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::copy::{self, SecurityCopy};
use crate::error::OpenError;
use crate::layers::Layered;
use crate::manifest;
use crate::opening::{OnFailure, Opened, Opening};
use crate::panics::describe;
use crate::plan::{Batch, Planned};
use crate::tables::Writes;

/// How many commits are written together at most.
pub(crate) const BATCH: usize = 256;
/// How long after one try to open the ledger again the next comes.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// How often history is looked at, by a commit that comes after that time.
const TRIM: Duration = Duration::from_secs(60);
/// How long rows that stand in the audit file wait for their sync in the records: a start brings in as much from there.
const FLUSH: Duration = Duration::from_millis(200);
/// How often the queue is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// A commit that waits.
pub(crate) struct Item {
    /// What to record.
    pub(crate) changes: Vec<Change>,
    /// Who waits for it; nobody, if the call was cancelled.
    pub(crate) answer: oneshot::Sender<Result<(), LedgerError>>,
}

/// What the storage thread tells.
#[derive(Default)]
pub(crate) struct State {
    /// The records to read; none while they are not open.
    pub(crate) records: RwLock<Option<Shown>>,
    told: Mutex<Told>,
}

/// The records as who reads sees them. A copy costs nothing, and whoever reads long from one holds up no commit.
#[derive(Clone)]
pub(crate) struct Shown {
    db: sled::Db,
    /// What stands in the audit file and is not written to the records yet.
    unwritten: Arc<Writes>,
}

impl Shown {
    /// To read from.
    pub(crate) fn view(&self) -> Layered<'_> {
        Layered { base: &self.db, writes: &self.unwritten }
    }
}

/// What is told besides the records.
#[derive(Clone, Default)]
pub(crate) struct Told {
    /// Why nothing works at the moment.
    pub(crate) failed: Option<String>,
    /// Why the audit file could not be written the last time.
    pub(crate) audit_problem: Option<String>,
    /// How long the last batch took.
    pub(crate) last_commit: Option<Duration>,
    /// What an operator should look at.
    pub(crate) alarm: Option<String>,
    /// When security state was found lost.
    pub(crate) lost: Option<shorepass_core::time::Timestamp>,
    /// How many entries were read to open the records.
    pub(crate) read: usize,
}

impl State {
    /// What is told.
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything works at the moment.
    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        self.told().failed.clone().map_or(Ok(()), |reason| Err(LedgerError::Unavailable(reason)))
    }

    /// The records as they are now, if they are open.
    pub(crate) fn shown(&self) -> Option<Shown> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the queue is closed.
    pub(crate) fn gone(&self) -> LedgerError {
        let reason = self.told().failed.clone();
        LedgerError::Unavailable(reason.unwrap_or_else(|| "it was shut down".to_owned()))
    }

    /// What is known of the security state.
    pub(crate) fn security(&self) -> SecurityState {
        SecurityState::of(self.told().lost)
    }

    fn opened(&self, opened: &Opened) {
        let shown = Shown { db: opened.records.db().clone(), unwritten: Arc::default() };
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        let mut told = self.told();
        (told.failed, told.audit_problem) = (None, None);
        told.alarm = opened.alarm.clone().or(told.alarm.take());
        told.lost = opened.manifest.lost;
        told.read = opened.read;
    }

    /// Nothing works any more. Told before the records are closed, so that who reads learns why.
    fn failed(&self, reason: String) {
        self.told().failed = Some(reason);
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Opens the ledger on a thread of its own, which then serves the queue until its senders are gone.
pub(crate) fn start(
    opening: Opening,
    waiting: mpsc::Receiver<Item>,
    state: Arc<State>,
) -> Result<JoinHandle<()>, OpenError> {
    let directory = opening.place.records();
    let failed = |problem: String| OpenError::Damaged { directory: directory.clone(), problem };
    let timer = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let timer = timer.map_err(|error| failed(format!("no timer could be made: {error}")))?;
    let (told, result) = std::sync::mpsc::sync_channel(1);
    // Nobody takes the answer only if `start` is gone, and with it the queue.
    let body = move || match open(&opening, Opening::open) {
        Ok(opened) => {
            state.opened(&opened);
            let _ = told.send(Ok(()));
            Thread { opening, waiting, state, timer }.run(opened);
        }
        Err(error @ OpenError::DiskFull { .. }) => {
            let problem = error.in_full();
            tracing::error!(problem, "the ledger stays closed until there is room; it is tried every second");
            state.failed(problem);
            let _ = told.send(Ok(()));
            Thread { opening, waiting, state, timer }.begin_later();
        }
        Err(error) => {
            let _ = told.send(Err(error));
        }
    };
    let thread = std::thread::Builder::new().name("shorepass-ledger".to_owned()).spawn(body);
    let thread = thread.map_err(|error| failed(format!("no thread could be started: {error}")))?;
    match result.recv() {
        Ok(opened) => opened.map(|()| thread),
        Err(_) => Err(failed("the storage thread ended".to_owned())),
    }
}

/// How it is opened: at a start, or again.
type Way = fn(&Opening, OnFailure) -> Result<Opened, OpenError>;

fn open(opening: &Opening, way: Way) -> Result<Opened, OpenError> {
    let opened = catch_unwind(AssertUnwindSafe(|| way(opening, opening.options.on_failure)));
    opened.unwrap_or_else(|panic| {
        Err(OpenError::Damaged { directory: opening.place.records(), problem: describe(panic.as_ref()) })
    })
}

struct Thread {
    opening: Opening,
    waiting: mpsc::Receiver<Item>,
    state: Arc<State>,
    /// To wait for a commit, but not for ever.
    timer: Runtime,
}

/// Copy or records cannot be written; everything must be opened again.
struct Failed(String);

impl Thread {
    fn run(mut self, opened: Opened) {
        let mut opened = Some(opened);
        while let Some(open) = opened.take() {
            let mut storage = Storage {
                opened: open,
                next_trim: Duration::ZERO,
                next_flush: None,
                opening: &self.opening,
                state: &self.state,
            };
            let served = catch_unwind(AssertUnwindSafe(|| storage.serve(&mut self.waiting, &self.timer)));
            let reason = match served {
                Ok(Ok(())) => return storage.close(),
                Ok(Err(Failed(reason))) => reason,
                Err(panic) => describe(panic.as_ref()),
            };
            tracing::error!(reason, "the ledger takes nothing until its files can be written again");
            self.state.failed(reason);
            // Before it is opened again: sled has a lock of its own.
            drop(storage);
            opened = self.mend(Opening::open_again);
        }
    }

    /// The start that there was no room for.
    fn begin_later(mut self) {
        if let Some(opened) = self.mend(Opening::open) {
            self.run(opened);
        }
    }

    /// Opens the ledger again as soon as that works; none once nobody wants it any more.
    fn mend(&mut self, way: Way) -> Option<Opened> {
        loop {
            if !self.refuse_for(RETRY) {
                return None;
            }
            match open(&self.opening, way) {
                Ok(opened) => {
                    self.state.opened(&opened);
                    tracing::warn!(sequence = opened.sequence, "the ledger works again");
                    return Some(opened);
                }
                Err(error) => {
                    let error = error.in_full();
                    tracing::warn!(error, "the ledger does not work yet");
                    self.state.told().failed = Some(error);
                }
            }
        }
    }

    /// Refuses what comes meanwhile; false once nothing can come any more.
    fn refuse_for(&mut self, time: Duration) -> bool {
        let mut left = time;
        loop {
            match self.waiting.try_recv() {
                Ok(Item { answer, .. }) => {
                    let _ = answer.send(Err(self.state.gone()));
                }
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
                Err(mpsc::error::TryRecvError::Empty) if left.is_zero() => return true,
                Err(mpsc::error::TryRecvError::Empty) => {
                    std::thread::sleep(LOOK);
                    left = left.saturating_sub(LOOK);
                }
            }
        }
    }
}

/// What a commit is answered when it is durable.
struct Answer {
    outcome: Result<(), LedgerError>,
    to: oneshot::Sender<Result<(), LedgerError>>,
}

impl Answer {
    fn plan(Item { changes, answer: to }: Item, batch: &mut Batch<'_>) -> Self {
        Self { outcome: batch.add(&changes), to }
    }

    /// Nobody may wait for it any more.
    fn give(self, outcome: Result<(), LedgerError>) {
        let _ = self.to.send(outcome);
    }

    fn give_planned(self) {
        let _ = self.to.send(self.outcome);
    }
}

struct Storage<'a> {
    opened: Opened,
    /// When history is looked at again.
    next_trim: Duration,
    /// When the records are to be synced; none while nothing waits for that.
    next_flush: Option<Duration>,
    opening: &'a Opening,
    state: &'a State,
}

impl Storage<'_> {
    /// Serves until the queue's senders are gone.
    fn serve(&mut self, waiting: &mut mpsc::Receiver<Item>, timer: &Runtime) -> Result<(), Failed> {
        loop {
            let left = self.next_flush.map(|due| due.saturating_sub(self.opening.clock.since_boot()));
            let first = match left {
                None => waiting.blocking_recv(),
                Some(left) => match timer.block_on(async { timeout(left, waiting.recv()).await }) {
                    Ok(first) => first,
                    Err(_) => {
                        self.flush()?;
                        continue;
                    }
                },
            };
            let Some(first) = first else { return Ok(()) };
            let mut items = vec![first];
            while items.len() < BATCH
                && let Ok(next) = waiting.try_recv()
            {
                items.push(next);
            }
            self.commit(items)?;
        }
    }

    /// Writes what waits, and answers.
    fn commit(&mut self, items: Vec<Item>) -> Result<(), Failed> {
        let started = self.opening.clock.since_boot();
        let (planned, Planned { rows, lines, sequence }) = self.plan(items, started)?;
        if !lines.is_empty() {
            let before = self.opened.audit.length();
            if let Err(error) = self.opened.audit.append(&lines, self.opening.disk.as_ref()) {
                self.state.told().audit_problem = Some(error.to_string());
                // Also for what conflicted: it may have conflicted with what is now not recorded.
                for answer in planned {
                    answer.give(Err(LedgerError::AuditUnavailable(error.to_string())));
                }
                return Ok(());
            }
            self.state.told().audit_problem = None;
            if let Err(failed) = self.show(rows, sequence, before) {
                // Told before the waiting are let go, so that they learn why.
                self.state.failed(failed.0.clone());
                return Err(failed);
            }
        }
        let took = self.opening.clock.since_boot().saturating_sub(started);
        self.state.told().last_commit = Some(took);
        planned.into_iter().for_each(Answer::give_planned);
        self.keep_up()
    }

    fn plan(&mut self, items: Vec<Item>, now: Duration) -> Result<(Vec<Answer>, Planned), Failed> {
        let shown = self.state.shown().ok_or_else(closed)?;
        let view = shown.view();
        let mut batch = Batch::over(&view, self.opened.sequence);
        let planned = items.into_iter().map(|item| Answer::plan(item, &mut batch)).collect();
        if !batch.is_empty() && now >= self.next_trim {
            let more = batch.trim(self.opening.clock.now(), self.opening.options.retention);
            self.next_trim = if more { now } else { now + TRIM };
        }
        Ok((planned, batch.finish()))
    }

    /// Shows the rows of lines that are in the audit file, from byte `before` on; those of security state are in the copy then,
    /// too. If that fails, nothing of it is anywhere, so that what is refused does not come to be after all.
    fn show(&mut self, rows: Writes, sequence: u64, before: u64) -> Result<(), Failed> {
        let Opened { audit, copy, .. } = &mut self.opened;
        if let Err(error) = copy.append(self.opening.disk.as_ref(), sequence, &rows) {
            // In this order: a copy that is ahead of the audit file would be taken for a sign of loss.
            if let Err(error) = copy.take_back().and_then(|()| audit.take_back(before)) {
                tracing::error!(%error, "what is refused now is in the audit file, and takes effect at the next start");
            }
            return Err(Failed(format!("the copy of the security state cannot be written: {error}")));
        }
        let mut shown = self.state.records.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut shown.as_mut().ok_or_else(closed)?.unwritten).absorb(rows);
        self.opened.sequence = sequence;
        self.next_flush.get_or_insert_with(|| self.opening.clock.since_boot() + FLUSH);
        Ok(())
    }

    /// Writes to the records what only the audit file has, durably.
    fn flush(&mut self) -> Result<(), Failed> {
        if self.next_flush.take().is_none() {
            return Ok(());
        }
        let rows = self.state.shown().ok_or_else(closed)?.unwritten;
        let written = self.opened.records.write(&rows, self.opening.disk.as_ref());
        written.map_err(|error| Failed(format!("the records cannot be written: {error}")))?;
        // This thread alone adds to them.
        let mut shown = self.state.records.write().unwrap_or_else(PoisonError::into_inner);
        shown.as_mut().ok_or_else(closed)?.unwritten = Arc::default();
        Ok(())
    }

    /// Moves the manifest's mark and compacts the copy, when it is time; nobody waits for that.
    fn keep_up(&mut self) -> Result<(), Failed> {
        if self.opened.copy.has_grown() {
            self.flush()?;
            let rows = self.opened.records.read(copy::rows_of).map_err(|error| Failed(error.to_string()))?;
            let path = self.opening.place.copy();
            let id = self.opened.manifest.id;
            let written =
                SecurityCopy::write(self.opening.disk.as_ref(), &path, id, self.opened.sequence, &rows);
            self.opened.copy = written.map_err(|error| {
                Failed(format!("the copy of the security state cannot be compacted: {error}"))
            })?;
        }
        let marked = self.opened.manifest.sequence;
        // The first line at once: a mark of 0 proves nothing.
        if self.opened.sequence >= marked + if marked == 0 { 1 } else { manifest::EVERY } {
            self.flush()?;
            self.mark(false);
        } else if self.next_flush.is_some_and(|due| due <= self.opening.clock.since_boot()) {
            self.flush()?;
        }
        Ok(())
    }

    /// Moves the manifest's mark to where the records are, durably. Where that fails the old mark stands, which proves less.
    fn mark(&mut self, clean: bool) {
        let manifest = &mut self.opened.manifest;
        (manifest.sequence, manifest.clean) = (self.opened.sequence, clean);
        manifest.security = self.opened.copy.sequence();
        if let Err(error) = self.opening.write_manifest(manifest) {
            tracing::warn!(%error, "the MANIFEST was not brought up to date");
        }
    }

    /// The orderly end.
    fn close(mut self) {
        match self.flush() {
            Ok(()) => self.mark(true),
            Err(Failed(reason)) => {
                tracing::warn!(
                    reason,
                    "not all records were written; the next start does that from the audit file"
                );
            }
        }
    }
}

fn closed() -> Failed {
    Failed("the records are closed".to_owned())
}
