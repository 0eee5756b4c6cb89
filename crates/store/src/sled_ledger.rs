//! The ledger on sled.
//!
//! Commits go through one bounded queue to one thread (`storage`) that owns all writes; reads go to the database at
//! once. A reader may see rows before their commit is acknowledged; they are durable then all the same, in the audit
//! file, which is synced before the records are touched.
//!
//! sled panics on some damaged files, so it is opened and read behind `catch_unwind` (the binary must unwind on panic).
//! After one failed write of the records, nothing is read or written any more until a restart: what the audit file has
//! and the records do not is brought in then. A commit that was refused as unavailable may so take effect after all;
//! one that was refused because of the audit file never does.

use std::any::Any;
use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use shorepass_core::ledger::{Change, LedgerError};
use shorepass_core::time::Clock;
use tokio::sync::{mpsc, oneshot};

use crate::audit::AuditError;
use crate::files::{self, Disk, Fdatasync};
use crate::storage::{self, Item};
use crate::tables::{Entries, ReadError, Table, View, range};

/// How many commits may wait; more wait for a place in the queue.
pub(crate) const QUEUE: usize = 1024;

/// Why a ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
    #[error("{} is in use by another process: stop the other issuer, or give this one its own directory", directory.display())]
    Locked {
        /// Which directory.
        directory: PathBuf,
    },
    /// Others may look at or change what is in it.
    #[error("{} may be used by others (mode {mode:04o}): run chmod 0700 on it", directory.display())]
    Exposed {
        /// Which directory.
        directory: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It cannot be created, read or written.
    #[error("{} cannot be used: it must be in a directory that exists and be writable for this user", path.display())]
    File {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it cannot be read.
    #[error(
        "the records in {} are damaged ({problem}): move the directory away; the records are made anew from the audit \
         file, if that goes back to its first line",
        directory.display()
    )]
    Damaged {
        /// Which directory.
        directory: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The audit file cannot be used.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// A ledger on disk.
pub struct Store {
    records: sled::Db,
    queue: Mutex<Option<mpsc::Sender<Item>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    state: Arc<State>,
    /// Held for as long as the ledger is open; dropped last.
    _lock: Lock,
}

/// What the storage thread tells.
#[derive(Default)]
pub(crate) struct State {
    /// Why nothing works any more.
    pub(crate) failed: OnceLock<String>,
    /// Why the audit file could not be written the last time.
    pub(crate) audit_problem: Mutex<Option<String>>,
    /// How long the last batch took.
    pub(crate) last_commit: Mutex<Option<Duration>>,
}

impl State {
    fn check(&self) -> Result<(), LedgerError> {
        match self.failed.get() {
            Some(reason) => Err(LedgerError::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }

    fn gone(&self) -> LedgerError {
        let reason = self.failed.get().map_or("it was shut down or gave up", String::as_str);
        LedgerError::Unavailable(reason.to_owned())
    }
}

impl Store {
    /// Opens the ledger in `directory` (its own, created with mode 0700 if its parent is there) with its audit file.
    ///
    /// Reads every record once, and brings in what the audit file has and the records do not. Blocks meanwhile.
    pub fn open(directory: &Path, audit: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_on(Box::new(Fdatasync), directory, audit, clock)
    }

    /// The same with other syncs.
    pub(crate) fn open_on(
        disk: Box<dyn Disk>,
        directory: &Path,
        audit: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let lock = lock(directory)?;
        let state = Arc::<State>::default();
        let (queue, waiting) = mpsc::channel(QUEUE);
        let opening = storage::Opening {
            disk,
            directory: directory.to_owned(),
            audit: audit.to_owned(),
            clock,
            waiting,
        };
        let (records, thread) = storage::start(opening, Arc::clone(&state))?;
        let (queue, thread) = (Mutex::new(Some(queue)), Mutex::new(Some(thread)));
        Ok(Self { records, queue, thread, state, _lock: lock })
    }

    /// Takes no more commits, and blocks until those that wait are durable. Later calls are `Unavailable`.
    pub fn shutdown(&self) {
        drop(take(&self.queue));
        if let Some(thread) = take(&self.thread) {
            // It catches its panics and tells them as `failed`.
            let _ = thread.join();
        }
        let _ = self.state.failed.set("it was shut down".to_owned());
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
        self.state.check()?;
        // Nothing of ours is left half changed by a panic in there: reading changes nothing.
        match catch_unwind(AssertUnwindSafe(|| read(&self.records))) {
            Ok(read) => Ok(read?),
            Err(panic) => Err(LedgerError::Unavailable(describe(panic.as_ref()))),
        }
    }

    pub(crate) fn healthy(&self) -> Result<(), LedgerError> {
        self.state.check()?;
        let problem = self.state.audit_problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        problem.map_or(Ok(()), |problem| Err(LedgerError::AuditUnavailable(problem)))
    }

    pub(crate) fn last(&self) -> Option<Duration> {
        *self.state.last_commit.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What a panic said.
pub(crate) fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the database gave up: {}", text.unwrap_or("without a word"))
}

/// The lock on a directory. It is ours and not sled's, which says too little when it is taken.
struct Lock(File);

impl Drop for Lock {
    /// Closing the file is not enough: a process that is being started elsewhere in this one has it too for a moment.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Makes the directory ours alone.
fn lock(directory: &Path) -> Result<Lock, OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::File { path, source }
    };
    files::create_directory(directory).map_err(failed(directory))?;
    if let Some(exposed) = files::exposure(directory).map_err(failed(directory))? {
        return Err(OpenError::Exposed { directory: directory.to_owned(), mode: exposed.mode });
    }
    let path = directory.join("lock");
    let file = files::open_or_create(&path).map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { directory: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(OpenError::File { path, source }),
    }
}

impl View for sled::Db {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let value = sled::Tree::get(self, table.key(key)).map_err(engine)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn newest_first(&self, table: Table, prefix: &[u8], before: Option<&[u8]>) -> Entries<'_> {
        let (start, end) = range(table, prefix, before);
        let entries = self.range(start..end).rev();
        // Every key in the range begins with the table's byte.
        Box::new(
            entries
                .map(|entry| entry.map(|(key, value)| (key[1..].to_vec(), value.to_vec())).map_err(engine)),
        )
    }
}

/// An error of sled's in our words.
pub(crate) fn engine(error: sled::Error) -> ReadError {
    ReadError::Engine(error.to_string())
}
