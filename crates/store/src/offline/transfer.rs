//! All records in one file, and back.
//!
//! ```text
//! {"shorepassLedger":2,"sequence":4096,"lost":"2026-01-02T03:04:05Z"}
//! {"key":"<base64>","value":"<base64>"}
//! ...
//! {"rows":123,"crc32c":"1c291ca3"}
//! ```
//!
//! Keys and values are those of the records, so that a value keeps its version and checksum. The last line's checksum is of
//! the first line and of all keys and values, and nothing may follow it. `lost` is there where security state was found lost
//! and that was not accepted: the import is in that state too. Format 1 had neither, and is refused. The audit file is not
//! part of it: it is a file that can be copied as it is. An import makes another ledger, with its own id.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use shorepass_core::time::Timestamp;

use super::Offline;
use crate::error::OpenError;
use crate::files;
use crate::manifest::Manifest;
use crate::opening::{OnFailure, Opened, Patience};
use crate::plan;
use crate::records::Records;
use crate::rows;
use crate::tables::{Table, Writes};

const FORMAT: u32 = 2;
/// How many rows are written together.
const TOGETHER: u64 = 1024;

/// Why nothing was exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// The file cannot be written or read.
    #[error("cannot use {}: to export it must not exist, to import it must be readable", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in the file is no whole export.
    #[error("{} is no whole export, line {line}: {problem}; nothing was imported", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// There is something that the import would overwrite.
    #[error(
        "{} is there: records are imported only where there are none; if it was left by an import that did not end, remove \
         `ledger`, `MANIFEST` and `security.log` from that directory, and nothing else, and import again",
        path.display()
    )]
    NotEmpty {
        /// Which file or directory.
        path: PathBuf,
    },
}

/// What was exported or imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// How many records.
    pub rows: u64,
    /// When security state was found lost, where that was not accepted.
    pub lost: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Format {
    #[serde(rename = "shorepassLedger")]
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(rename = "shorepassLedger")]
    format: u32,
    sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Foot {
    rows: u64,
    crc32c: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Row(Row),
    Foot(Foot),
}

impl Offline {
    /// Writes all records to a new file.
    pub fn export(&self, path: &Path) -> Result<Transferred, TransferError> {
        let opened = self.opening.open(OnFailure::Stop)?;
        let failed = |source| TransferError::File { path: path.to_owned(), source };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let exported = self.export_into(file, path, &opened).inspect_err(|_| {
            let _ = std::fs::remove_file(path); // it is no whole export, and would stand in the way of the next
        })?;
        self.close(opened)?;
        Ok(exported)
    }

    fn export_into(&self, file: File, path: &Path, opened: &Opened) -> Result<Transferred, TransferError> {
        let failed = |source| TransferError::File { path: path.to_owned(), source };
        let mut writer = BufWriter::new(file);
        let mut patience = Patience::new(self.opening.clock.as_ref());
        let lost = opened.manifest.lost;
        let head = Head { format: FORMAT, sequence: opened.sequence, lost };
        let head = serde_json::to_vec(&head).map_err(|error| failed(error.into()))?;
        let (mut rows, mut checksum) = (0, crc32c::crc32c(&head));
        writer.write_all(&head).and_then(|()| writer.write_all(b"\n")).map_err(failed)?;
        let exported = opened.records.read(|view| {
            for table in Table::ALL.into_iter().filter(|table| *table != Table::Meta) {
                for entry in view.newest_first(table, &[], None) {
                    let (key, value) = entry?;
                    let key = table.key(&key);
                    rows::check(&key, &value)?;
                    checksum = sum(checksum, &key, &value);
                    let row = Row { key: BASE64.encode(&key), value: BASE64.encode(&value) };
                    if let Err(error) = write_line(&mut writer, &row) {
                        return Ok(Err(error));
                    }
                    rows += 1;
                    patience.tell("records exported", rows);
                }
            }
            Ok(Ok(()))
        });
        exported?.map_err(failed)?;
        write_line(&mut writer, &Foot { rows, crc32c: format!("{checksum:08x}") }).map_err(failed)?;
        let file = writer.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().and_then(|()| files::sync_parent(path)).map_err(failed)?;
        Ok(Transferred { rows, lost })
    }

    /// Makes the records of an export, where there are none.
    pub fn import(&self, path: &Path) -> Result<Transferred, TransferError> {
        let place = &self.opening.place;
        if let Some(path) =
            [place.records(), place.manifest(), place.copy()].into_iter().find(|path| path.exists())
        {
            return Err(TransferError::NotEmpty { path });
        }
        // Whoever imports had records: a start before they are whole must not take itself for the first.
        let had_begun = place.has_begun();
        place.begin().map_err(|source| OpenError::file(place.directory(), source))?;
        // All of it is read before anything is made.
        let Head { format: _, sequence, lost } = match self.read_export(path, |_| Ok(())) {
            Ok((head, _)) => head,
            Err(cause) => {
                if !had_begun {
                    place.undo_begin().map_err(|source| OpenError::file(place.directory(), source))?;
                }
                return Err(cause);
            }
        };
        let mut manifest = Manifest::generate(self.opening.entropy.as_ref());
        (manifest.sequence, manifest.lost) = (sequence.max(1), lost);
        self.opening.write_manifest(&manifest)?;
        let records = Records::open(&place.records())?;
        let rows = self.read_export(path, |writes| self.opening.write(&records, writes))?.1;
        let mut last = Writes::default();
        plan::put_progress(sequence, &mut last);
        self.opening.write(&records, last)?;
        self.opening.stamp(&records, &manifest)?;
        drop(records);
        (manifest.sequence, manifest.clean) = (sequence, true);
        self.opening.write_manifest(&manifest)?;
        let opened = self.opening.open(OnFailure::Stop)?;
        self.close(opened)?;
        Ok(Transferred { rows, lost })
    }

    /// Reads an export and gives its rows away; tells its first line and how many rows it has.
    fn read_export(
        &self,
        path: &Path,
        mut take: impl FnMut(Writes) -> Result<(), OpenError>,
    ) -> Result<(Head, u64), TransferError> {
        let failed = |source| TransferError::File { path: path.to_owned(), source };
        let damaged = |line, problem| TransferError::Damaged { path: path.to_owned(), line, problem };
        let mut lines = BufReader::new(std::fs::File::open(path).map_err(failed)?);
        let first = next_line(&mut lines).map_err(failed)?;
        let head = read_head(&first).map_err(|problem| damaged(1, problem))?;
        let mut patience = Patience::new(self.opening.clock.as_ref());
        let (mut rows, mut checksum, mut writes) = (0_u64, crc32c::crc32c(&first), Writes::default());
        for number in 2.. {
            let line = next_line(&mut lines).map_err(failed)?;
            if line.is_empty() {
                return Err(damaged(number, "its end is missing".to_owned()));
            }
            match serde_json::from_slice(&line).map_err(|error| damaged(number, error.to_string()))? {
                Line::Row(row) => {
                    let (key, value) = read_row(&row).map_err(|problem| damaged(number, problem))?;
                    checksum = sum(checksum, &key, &value);
                    writes.put(key, value);
                    rows += 1;
                }
                Line::Foot(foot) if foot.rows != rows || foot.crc32c != format!("{checksum:08x}") => {
                    return Err(damaged(number, "lines are missing or altered".to_owned()));
                }
                Line::Foot(_) if !lines.fill_buf().map_err(failed)?.is_empty() => {
                    return Err(damaged(number + 1, "something follows its end".to_owned()));
                }
                Line::Foot(_) => break,
            }
            if rows.is_multiple_of(TOGETHER) {
                take(std::mem::take(&mut writes))?;
            }
            patience.tell("records read", rows);
        }
        take(writes)?;
        Ok((head, rows))
    }
}

/// The next line without its newline; empty at the end.
fn next_line(lines: &mut impl io::BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line)?;
    line.pop_if(|last| *last == b'\n');
    Ok(line)
}

fn read_head(line: &[u8]) -> Result<Head, String> {
    let text = |error: serde_json::Error| error.to_string();
    match serde_json::from_slice::<Format>(line).map_err(text)?.format {
        FORMAT => serde_json::from_slice(line).map_err(text),
        1 => Err("it has format 1, which does not tell whether security state was lost: export the ledger again with this \
                  program"
            .to_owned()),
        format => Err(format!("it has format {format}, and this program reads format {FORMAT}")),
    }
}

fn write_line(writer: &mut impl io::Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, line)?;
    writer.write_all(b"\n")
}

fn sum(checksum: u32, key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(checksum, key), value)
}

fn read_row(row: &Row) -> Result<(Vec<u8>, Vec<u8>), String> {
    let decode = |text: &str| BASE64.decode(text.as_bytes()).map_err(|error| error.to_string());
    let (key, value) = (decode(&row.key)?, decode(&row.value)?);
    rows::check(&key, &value).map_err(|error| error.to_string())?;
    Ok((key, value))
}
