//! The records: sled's directory, opened, looked through and written to.
//!
//! For each write: apply, `flush()`, and fdatasync sled's file (`flush` alone is sync_file_range, which does not empty a
//! disk's cache). `flush_async` is not used, it can hang for ever. There is no flusher thread.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shorepass_proto::store::v1::LedgerIdentity;

use crate::error::OpenError;
use crate::files::{self, Disk};
use crate::panics::describe;
use crate::rows;
use crate::tables::{Entries, Entry, ReadError, Table, View, Writes, range};

/// How much of the records sled keeps in memory, in bytes; its default is a gigabyte.
pub(crate) const CACHE: u64 = 16 * 1024 * 1024;
/// How often sled's own lock is tried.
const LOCK_TRIES: u32 = 100;
/// How long after one try the next comes.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// What sled says when its lock is taken; it has no kind of error for that.
const LOCK_TAKEN: &str = "could not acquire lock";

/// The open records.
pub(crate) struct Records {
    db: sled::Db,
    file: File,
    directory: PathBuf,
}

/// What a look at the records found.
#[derive(Debug)]
pub(crate) struct Look {
    /// The last line of the audit file that is in them.
    pub(crate) progress: u64,
    /// Which ledger they are.
    pub(crate) identity: Option<LedgerIdentity>,
    /// How many entries were read for it.
    pub(crate) read: usize,
}

impl Records {
    /// Opens them, or makes new ones in a directory with mode 0700.
    pub(crate) fn open(directory: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::file(directory, source);
        files::create_directory(directory).map_err(failed)?;
        if let Some(exposed) = files::exposure(directory).map_err(failed)? {
            return Err(OpenError::Exposed { directory: directory.to_owned(), mode: exposed.mode });
        }
        remove_unfinished_snapshots(directory).map_err(failed)?;
        let db = guarded(directory, || open_sled(directory))??;
        let path = directory.join("db");
        let file = File::open(&path).map_err(|source| OpenError::file(&path, source))?;
        files::sync_directory(directory).map_err(failed)?;
        Ok(Self { db, file, directory: directory.to_owned() })
    }

    /// The database.
    pub(crate) fn db(&self) -> &sled::Db {
        &self.db
    }

    /// Reads what the issuer goes on with: the leases that have not ended, and the security state. What is history is
    /// looked at when it is asked for, or by `store verify`.
    pub(crate) fn look(&self) -> Result<Look, OpenError> {
        let looked = guarded(&self.directory, || look(&self.db))?;
        looked.map_err(|error| OpenError::unreadable(&self.directory, error))
    }

    /// Reads from them; damage is told as such, a panic of the database too.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&dyn View) -> Result<T, ReadError>,
    ) -> Result<T, OpenError> {
        let read = guarded(&self.directory, || read(&self.db))?;
        read.map_err(|error| OpenError::unreadable(&self.directory, error))
    }

    /// Makes rows durable, all or none.
    pub(crate) fn write(&self, rows: &Writes, disk: &dyn Disk) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in rows.iter() {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        disk.step("write the records")?;
        self.db.apply_batch(batch).map_err(io_error)?;
        self.db.flush().map_err(io_error)?;
        disk.sync_records(&self.file)
    }
}

fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// sled panics on some damaged files (the binary must unwind on panic).
fn guarded<T>(directory: &Path, act: impl FnOnce() -> T) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| OpenError::Damaged {
        directory: directory.to_owned(),
        problem: describe(panic.as_ref()),
    })
}

/// Removes what a crash or a full disk left of a snapshot that was being written. The database writes one at each opening, under
/// this name until it is whole, and takes a half one for damage of its own.
fn remove_unfinished_snapshots(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::info!(path = %path.display(), "removing an unfinished snapshot");
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn open_sled(directory: &Path) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new().path(directory).cache_capacity(CACHE).flush_every_ms(None);
    let mut tries = LOCK_TRIES;
    loop {
        match config.open() {
            Ok(records) => return Ok(records),
            // We hold the ledger's lock, so whoever has sled's is on its way out, or too old to know ours.
            Err(sled::Error::Io(source)) if source.to_string().contains(LOCK_TAKEN) => {
                if tries == 0 {
                    return Err(OpenError::Locked { directory: directory.to_owned() });
                }
                tries -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(sled::Error::Io(source)) if is_about_content(source.kind()) => {
                return Err(OpenError::Damaged {
                    directory: directory.to_owned(),
                    problem: source.to_string(),
                });
            }
            Err(sled::Error::Io(source)) => return Err(OpenError::file(directory, source)),
            Err(other) => {
                return Err(OpenError::Damaged {
                    directory: directory.to_owned(),
                    problem: other.to_string(),
                });
            }
        }
    }
}

/// Whether such an error is about what is in a file, and not about who may use it, or room.
fn is_about_content(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

fn look(view: &dyn View) -> Result<Look, ReadError> {
    let mut look = Look { progress: rows::progress(view)?, identity: rows::ledger_identity(view)?, read: 2 };
    for table in Table::ALL.into_iter().filter(|table| table.is_security()) {
        for entry in view.newest_first(table, &[], None) {
            let (key, value) = entry?;
            rows::check(&table.key(&key), &value)?;
            look.read += 1;
        }
    }
    for lease in rows::unfinished(view) {
        if let Some(job) = lease?.job {
            rows::job(view, job)?;
        }
        look.read += 3;
    }
    Ok(look)
}

impl View for sled::Db {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let value = sled::Tree::get(self, table.key(key)).map_err(engine)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn newest_first(&self, table: Table, prefix: &[u8], before: Option<&[u8]>) -> Entries<'_> {
        let (start, end) = range(table, prefix, before);
        Box::new(up_to_an_error(self.range(start..end).rev()))
    }

    fn oldest_first(&self, table: Table, prefix: &[u8], before: &[u8]) -> Entries<'_> {
        let (start, end) = range(table, prefix, Some(before));
        Box::new(up_to_an_error(self.range(start..end)))
    }
}

/// The entries, an error the last of them: sled does not come past a page that cannot be read, and gives that error for ever.
/// Every key must begin with its table's byte.
fn up_to_an_error(
    entries: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
) -> impl Iterator<Item = Result<Entry, ReadError>> {
    let mut failed = false;
    entries.map_while(move |entry| {
        if std::mem::replace(&mut failed, entry.is_err()) {
            return None;
        }
        Some(entry.map(|(key, value)| (key[1..].to_vec(), value.to_vec())).map_err(engine))
    })
}

/// An error of sled's in our words.
pub(crate) fn engine(error: sled::Error) -> ReadError {
    ReadError::Engine(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_comes_for_ever_comes_once() {
        let entry = || Ok((vec![1, 2].into(), vec![3].into()));
        let damaged = || Err(sled::Error::Unsupported("on purpose".to_owned()));
        let found: Vec<_> =
            up_to_an_error(std::iter::once_with(entry).chain(std::iter::repeat_with(damaged))).collect();
        assert!(matches!(&found[..], [Ok(first), Err(ReadError::Engine(_))] if *first == (vec![2], vec![3])));
    }
}
