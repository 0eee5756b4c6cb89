//! The storage thread: owns all writes, and writes many commits at a time.
//!
//! For each batch: plan; append to the audit file and fdatasync it; apply to sled, `flush()`, and fdatasync sled's file
//! (`flush` alone is sync_file_range, which does not empty a disk's cache); then answer. `flush_async` is not used, it
//! can hang for ever. A batch is what waited while the one before it was written, so a slow disk makes larger batches
//! and no timer is needed.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use shorepass_core::ledger::{Change, LedgerError};
use shorepass_core::time::Clock;
use tokio::sync::{mpsc, oneshot};

use crate::audit::AuditFile;
use crate::files::{self, Disk};
use crate::plan::{self, Batch, Planned};
use crate::rows;
use crate::sled_ledger::{OpenError, State, describe};
use crate::tables::{ReadError, Writes};

/// How many commits are written together at most.
pub(crate) const BATCH: usize = 256;
/// How many audit lines are brought in together at most.
const REPLAY: u64 = 1024;
/// How much of the records sled keeps in memory, in bytes; its default is a gigabyte.
pub(crate) const CACHE: u64 = 16 * 1024 * 1024;
/// How often sled's own lock is tried.
const LOCK_TRIES: u32 = 100;
/// How long after one try the next comes.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// What sled says when its lock is taken; it has no kind of error for that.
const LOCK_TAKEN: &str = "could not acquire lock";

/// A commit that waits.
pub(crate) struct Item {
    /// What to record.
    pub(crate) changes: Vec<Change>,
    /// Who waits for it; nobody, if the call was cancelled.
    pub(crate) answer: oneshot::Sender<Result<(), LedgerError>>,
}

/// What the thread needs.
pub(crate) struct Opening {
    /// How to sync.
    pub(crate) disk: Box<dyn Disk>,
    /// Where the records are.
    pub(crate) directory: PathBuf,
    /// Where the audit file is.
    pub(crate) audit: PathBuf,
    /// For how long commits take.
    pub(crate) clock: Arc<dyn Clock>,
    /// The queue.
    pub(crate) waiting: mpsc::Receiver<Item>,
}

/// Opens the records on a thread of their own, which then serves the queue until its senders are gone.
pub(crate) fn start(opening: Opening, state: Arc<State>) -> Result<(sled::Db, JoinHandle<()>), OpenError> {
    let directory = opening.directory.clone();
    let damaged = move |problem| OpenError::Damaged { directory: directory.clone(), problem };
    let ended = damaged.clone();
    let (opened, result) = std::sync::mpsc::sync_channel(1);
    let body = move || {
        let storage = catch_unwind(AssertUnwindSafe(|| Storage::open(opening, Arc::clone(&state))));
        // Nobody takes the answer only if `start` is gone, and with it the queue.
        match storage.unwrap_or_else(|panic| Err(damaged(describe(panic.as_ref())))) {
            Ok((storage, waiting)) => {
                let _ = opened.send(Ok(storage.records.clone()));
                serve(storage, waiting, &state);
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        }
    };
    let thread = std::thread::Builder::new().name("shorepass-ledger".to_owned()).spawn(body);
    let thread = thread.map_err(|error| ended(format!("no thread could be started: {error}")))?;
    match result.recv() {
        Ok(opened) => Ok((opened?, thread)),
        Err(_) => Err(ended("the storage thread ended".to_owned())),
    }
}

/// Serves until the queue's senders are gone or the records have failed.
fn serve(mut storage: Storage, mut waiting: mpsc::Receiver<Item>, state: &State) {
    let served = catch_unwind(AssertUnwindSafe(|| {
        while let Some(first) = waiting.blocking_recv() {
            let mut items = vec![first];
            while items.len() < BATCH
                && let Ok(next) = waiting.try_recv()
            {
                items.push(next);
            }
            storage.commit(items)?;
        }
        Ok(())
    }));
    let reason = match served {
        Ok(Ok(())) => return,
        Ok(Err(Failed(reason))) => reason,
        Err(panic) => describe(panic.as_ref()),
    };
    tracing::error!(reason, "the ledger takes nothing more until the issuer is restarted");
    let _ = state.failed.set(reason);
}

/// The records cannot be written; nothing goes on.
struct Failed(String);

struct Storage {
    records: sled::Db,
    file: File,
    audit: AuditFile,
    disk: Box<dyn Disk>,
    clock: Arc<dyn Clock>,
    /// The number of the last audit line, which is in the records.
    sequence: u64,
    state: Arc<State>,
}

impl Storage {
    fn open(opening: Opening, state: Arc<State>) -> Result<(Self, mpsc::Receiver<Item>), OpenError> {
        let Opening { disk, directory, audit, clock, waiting } = opening;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::File { path, source }
        };
        let records = open_records(&directory)?;
        let path = directory.join("db");
        let file = File::open(&path).map_err(failed(&path))?;
        files::sync_directory(&directory).map_err(failed(&directory))?;
        let damaged = |problem: ReadError| OpenError::Damaged {
            directory: directory.clone(),
            problem: problem.to_string(),
        };
        let unindexed = scan(&records).map_err(damaged)?;
        let sequence = rows::progress(&records).map_err(damaged)?;
        let mut audit = AuditFile::open(&audit)?;
        audit.settle(sequence)?;
        if (1..sequence).contains(&audit.last()) {
            tracing::warn!(
                records = sequence,
                audit = audit.last(),
                "the audit file ends before the records"
            );
        }
        let mut storage = Self { records, file, audit, disk, clock, sequence, state };
        // First: what is replayed next is newer.
        storage.reindex(unindexed).map_err(|Failed(problem)| unwritten(&directory, problem))?;
        storage.replay(&directory)?;
        Ok((storage, waiting))
    }

    /// Brings the indices up to the rows.
    fn reindex(&self, unindexed: Writes) -> Result<(), Failed> {
        if unindexed.is_empty() { Ok(()) } else { self.write(unindexed) }
    }

    /// Brings in what the audit file has and the records do not.
    fn replay(&mut self, directory: &Path) -> Result<(), OpenError> {
        let from = self.sequence;
        let write = |mut rows: Writes, sequence| {
            plan::put_progress(sequence, &mut rows);
            self.write(rows).map_err(|Failed(problem)| unwritten(directory, problem))
        };
        let (mut rows, mut sequence) = (Writes::default(), from);
        for entry in self.audit.entries_after(from)? {
            let entry = entry?;
            if let Some(change) = &entry.change {
                plan::puts(change, &mut rows);
            }
            sequence = entry.sequence;
            if (sequence - from).is_multiple_of(REPLAY) {
                write(std::mem::take(&mut rows), sequence)?;
            }
        }
        if sequence > from {
            write(rows, sequence)?;
            tracing::info!(from, to = sequence, "brought the records up to the audit file");
        }
        self.sequence = sequence;
        Ok(())
    }

    /// Writes what waits, and answers.
    fn commit(&mut self, items: Vec<Item>) -> Result<(), Failed> {
        let started = self.clock.since_boot();
        let mut batch = Batch::over(&self.records, self.sequence);
        let planned: Vec<_> = items.into_iter().map(|item| (batch.add(&item.changes), item.answer)).collect();
        let Planned { rows, lines, sequence } = batch.finish();
        if !lines.is_empty() {
            if let Err(error) = self.audit.append(&lines, self.disk.as_ref()) {
                *self.state.audit_problem.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(error.to_string());
                // Also for what conflicted: it may have conflicted with what is now not recorded.
                for (_, answer) in planned {
                    let _ = answer.send(Err(LedgerError::AuditUnavailable(error.to_string())));
                }
                return Ok(());
            }
            *self.state.audit_problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
            if let Err(failed) = self.write(rows) {
                // Told before the waiting are let go, so that they learn why.
                let _ = self.state.failed.set(failed.0.clone());
                return Err(failed);
            }
            self.sequence = sequence;
        }
        let took = self.clock.since_boot().saturating_sub(started);
        *self.state.last_commit.lock().unwrap_or_else(PoisonError::into_inner) = Some(took);
        for (outcome, answer) in planned {
            let _ = answer.send(outcome);
        }
        Ok(())
    }

    /// Makes rows durable, all or none.
    fn write(&self, rows: Writes) -> Result<(), Failed> {
        let mut batch = sled::Batch::default();
        for (key, value) in rows.into_rows() {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let failed = |error: sled::Error| Failed(format!("the records cannot be written: {error}"));
        self.records.apply_batch(batch).map_err(failed)?;
        self.records.flush().map_err(failed)?;
        let synced = self.disk.sync_records(&self.file);
        synced.map_err(|error| Failed(format!("the records cannot be synced: {error}")))
    }
}

fn open_records(directory: &Path) -> Result<sled::Db, OpenError> {
    // No flusher thread: each batch is flushed where it is written.
    let config = sled::Config::new().path(directory).cache_capacity(CACHE).flush_every_ms(None);
    let mut tries = LOCK_TRIES;
    loop {
        match config.open() {
            Ok(records) => return Ok(records),
            // We hold the directory's lock, so whoever has sled's is on its way out.
            Err(sled::Error::Io(source)) if source.to_string().contains(LOCK_TAKEN) && tries > 0 => {
                tries -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(sled::Error::Io(source)) => {
                return Err(OpenError::File { path: directory.to_owned(), source });
            }
            Err(other) => {
                return Err(OpenError::Damaged {
                    directory: directory.to_owned(),
                    problem: other.to_string(),
                });
            }
        }
    }
}

/// Reads everything once: damage is found at the start and not in the middle of an act. Gives what the indices lack.
fn scan(records: &sled::Db) -> Result<Writes, ReadError> {
    let mut unindexed = Writes::default();
    for entry in records.iter() {
        let (key, value) = entry.map_err(crate::sled_ledger::engine)?;
        rows::check(&key, &value)?;
        unindexed.absorb(plan::unindexed(records, &key, &value)?);
    }
    Ok(unindexed)
}

fn unwritten(directory: &Path, problem: String) -> OpenError {
    OpenError::File { path: directory.to_owned(), source: std::io::Error::other(problem) }
}
