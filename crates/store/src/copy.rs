//! The second copy of the security state: an append-only file that does not depend on the database.
//!
//! ```text
//! shorepass security state 1\n
//! [length u32, big-endian][frame of a store.v1.SecurityEntry] ...
//! ```
//!
//! It holds the rows of the security tables ([`Table::is_security`]), byte for byte as they are in the records. A commit
//! that writes one is appended and synced after the audit file and before the records, so that what was acknowledged is
//! here. It is compacted by writing all rows anew and renaming, at a start that finds it different from the records, and
//! when it has grown to several times what it was.
//!
//! An entry at the end that is not whole is what a crash leaves, or one that was damaged: the copy alone cannot tell, so
//! that such a copy counts as whole only together with the audit lines after it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use shorepass_proto::store::v1::{SecurityEntry, SecurityRow};

use crate::error::OpenError;
use crate::files::{self, Disk};
use crate::record::{frame, unframe};
use crate::tables::{ReadError, Table, View, Writes};

const HEADER: &[u8] = b"shorepass security state 1\n";
const HEADER_START: &[u8] = b"shorepass security state ";
/// It is compacted when it is that many times as large as after the last time.
const GROWTH: u64 = 4;
/// And not before it has this many bytes.
const SMALL: u64 = 1024 * 1024;

/// The rows of the security tables, by whole keys.
pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// What there is in the copy's place.
#[derive(Debug)]
pub(crate) enum Found {
    /// No file.
    Nothing,
    /// A file that cannot be read to its end, and not only for an entry that a crash left there; why.
    Damaged(String),
    /// All that can be read.
    Read(Contents),
}

/// What a copy holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The rows.
    pub(crate) rows: Rows,
    /// The last audit line that is in it.
    pub(crate) sequence: u64,
    /// The ledger's id; none in an empty one.
    pub(crate) ledger: Option<Vec<u8>>,
    /// Whether there is something at the end that is not whole.
    pub(crate) torn: bool,
}

/// Reads the file. Changes nothing.
pub(crate) fn read(path: &Path) -> Result<Found, OpenError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(OpenError::file(path, error)),
    };
    let Some(mut rest) = bytes.strip_prefix(HEADER) else {
        return match bytes.strip_prefix(HEADER_START) {
            Some(version) => {
                let found =
                    String::from_utf8_lossy(version.split(|&byte| byte == b'\n').next().unwrap_or_default());
                Err(OpenError::Newer { path: path.to_owned(), found: format!("format {found}") })
            }
            None => Ok(Found::Damaged("it does not begin like one".to_owned())),
        };
    };
    let mut contents = Contents::default();
    while !rest.is_empty() {
        let Some((value, after)) = next_entry(rest) else {
            contents.torn = true;
            break;
        };
        match unframe::<SecurityEntry>(value) {
            Ok(entry) => contents.add(entry),
            Err(damage) => {
                let offset = bytes.len() - rest.len();
                return match OpenError::newer(path, &damage) {
                    Some(newer) => Err(newer),
                    None if after.is_empty() => {
                        contents.torn = true;
                        Ok(Found::Read(contents))
                    }
                    None => Ok(Found::Damaged(format!("at byte {offset}: {damage}"))),
                };
            }
        }
        rest = after;
    }
    Ok(Found::Read(contents))
}

fn next_entry(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = rest.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

impl Contents {
    fn add(&mut self, entry: SecurityEntry) {
        self.sequence = self.sequence.max(entry.sequence);
        self.ledger = Some(entry.ledger);
        for SecurityRow { place: key, value } in entry.rows {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }
}

/// The rows of the security tables in a key space.
pub(crate) fn rows_of(view: &dyn View) -> Result<Rows, ReadError> {
    let mut rows = Rows::new();
    for table in Table::ALL.into_iter().filter(|table| table.is_security()) {
        for entry in view.newest_first(table, &[], None) {
            let (key, value) = entry?;
            rows.insert(table.key(&key), value);
        }
    }
    Ok(rows)
}

/// The open file.
pub(crate) struct SecurityCopy {
    file: File,
    ledger: [u8; 16],
    length: u64,
    /// What it had when it was last written anew.
    compacted: u64,
    /// The last audit line that is in it.
    sequence: u64,
}

impl SecurityCopy {
    /// Writes all rows anew, in place of what is there.
    pub(crate) fn write(
        disk: &dyn Disk,
        path: &Path,
        ledger: [u8; 16],
        sequence: u64,
        rows: &Rows,
    ) -> io::Result<Self> {
        let entry = SecurityEntry {
            sequence,
            ledger: ledger.to_vec(),
            rows: rows.iter().map(|(key, value)| row(key, Some(value))).collect(),
        };
        let mut bytes = HEADER.to_vec();
        push(&entry, &mut bytes)?;
        let file = files::replace(disk, path, &bytes)?;
        let length = bytes.len() as u64;
        Ok(Self { file, ledger, length, compacted: length, sequence })
    }

    /// Goes on with a file that was read, is whole and holds these rows.
    pub(crate) fn open(path: &Path, ledger: [u8; 16], sequence: u64, rows: &Rows) -> io::Result<Self> {
        let file = files::open_or_create(path)?;
        let length = file.metadata()?.len();
        let compacted = rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        Ok(Self { file, ledger, length, compacted, sequence })
    }

    /// Appends what a batch writes to the security tables, durably; nothing, if it writes none.
    ///
    /// After an error the end of the file is unknown: it must be opened again.
    pub(crate) fn append(&mut self, disk: &dyn Disk, sequence: u64, writes: &Writes) -> io::Result<()> {
        let rows: Vec<SecurityRow> = writes
            .iter()
            .filter(|(key, _)| Table::split(key).is_some_and(|(table, _)| table.is_security()))
            .map(|(key, value)| row(key, value))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        push(&SecurityEntry { sequence, ledger: self.ledger.to_vec(), rows }, &mut bytes)?;
        disk.step("append to the copy")?;
        self.file.write_all_at(&bytes, self.length)?;
        disk.sync_copy(&self.file)?;
        self.length += bytes.len() as u64;
        self.sequence = sequence;
        Ok(())
    }

    /// Takes back what an append that failed may have left.
    pub(crate) fn take_back(&self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_data()
    }

    /// Whether it should be written anew.
    pub(crate) fn has_grown(&self) -> bool {
        self.length > SMALL && self.length > self.compacted.saturating_mul(GROWTH)
    }

    /// The last audit line that is in it.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }
}

fn row(key: &[u8], value: Option<&[u8]>) -> SecurityRow {
    SecurityRow { place: key.to_vec(), value: value.map(<[u8]>::to_vec) }
}

fn push(entry: &SecurityEntry, bytes: &mut Vec<u8>) -> io::Result<()> {
    let value = frame(entry);
    let length = u32::try_from(value.len()).map_err(io::Error::other)?;
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&value);
    Ok(())
}

#[cfg(test)]
mod tests;
