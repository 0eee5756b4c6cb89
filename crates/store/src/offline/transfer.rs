//! All records in one file, and back.
//!
//! ```text
//! {"shorepassLedger":1,"sequence":4096}
//! {"key":"<base64>","value":"<base64>"}
//! ...
//! {"rows":123,"crc32c":"1c291ca3"}
//! ```
//!
//! Keys and values are those of the records, so that a value keeps its version and checksum. The audit file is not part of
//! it: it is a file that can be copied as it is. An import makes another ledger, with its own id.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::Offline;
use crate::error::OpenError;
use crate::files;
use crate::manifest::Manifest;
use crate::opening::{OnFailure, Patience};
use crate::plan;
use crate::records::Records;
use crate::rows;
use crate::tables::{Table, Writes};

const FORMAT: u32 = 1;
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
    #[error("{} is there: records are imported only where there are none", path.display())]
    NotEmpty {
        /// Which file or directory.
        path: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(rename = "shorepassLedger")]
    format: u32,
    sequence: u64,
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
    /// Writes all records to a new file; gives how many.
    pub fn export(&self, path: &Path) -> Result<u64, TransferError> {
        let opened = self.opening.open(OnFailure::Stop)?;
        let failed = |source| TransferError::File { path: path.to_owned(), source };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let mut writer = BufWriter::new(file);
        let mut patience = Patience::new(self.opening.clock.as_ref());
        let (mut rows, mut checksum) = (0, 0);
        let head = Head { format: FORMAT, sequence: opened.sequence };
        write_line(&mut writer, &head).map_err(failed)?;
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
        self.close(opened)?;
        Ok(rows)
    }

    /// Makes the records of an export, where there are none; gives how many.
    pub fn import(&self, path: &Path) -> Result<u64, TransferError> {
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
        let sequence = match self.read_export(path, |_| Ok(())) {
            Ok((sequence, _)) => sequence,
            Err(cause) => {
                if !had_begun {
                    place.undo_begin().map_err(|source| OpenError::file(place.directory(), source))?;
                }
                return Err(cause);
            }
        };
        let mut manifest = Manifest::generate(self.opening.entropy.as_ref());
        manifest.sequence = sequence.max(1);
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
        Ok(rows)
    }

    /// Reads an export and gives its rows away; tells its sequence and how many rows it has.
    fn read_export(
        &self,
        path: &Path,
        mut take: impl FnMut(Writes) -> Result<(), OpenError>,
    ) -> Result<(u64, u64), TransferError> {
        let failed = |source| TransferError::File { path: path.to_owned(), source };
        let damaged = |line, problem| TransferError::Damaged { path: path.to_owned(), line, problem };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut lines = BufReader::new(file).lines();
        let head = lines.next().transpose().map_err(failed)?.unwrap_or_default();
        let head: Head = serde_json::from_str(&head).map_err(|error| damaged(1, error.to_string()))?;
        if head.format != FORMAT {
            return Err(damaged(
                1,
                format!("it has format {}, and this program reads format {FORMAT}", head.format),
            ));
        }
        let mut patience = Patience::new(self.opening.clock.as_ref());
        let (mut rows, mut checksum, mut writes) = (0_u64, 0, Writes::default());
        for (number, line) in (2..).zip(lines) {
            let line = line.map_err(failed)?;
            match serde_json::from_str(&line).map_err(|error| damaged(number, error.to_string()))? {
                Line::Row(row) => {
                    let (key, value) = read_row(&row).map_err(|problem| damaged(number, problem))?;
                    checksum = sum(checksum, &key, &value);
                    writes.put(key, value);
                    rows += 1;
                }
                Line::Foot(foot) if foot.rows == rows && foot.crc32c == format!("{checksum:08x}") => {
                    take(writes)?;
                    return Ok((head.sequence, rows));
                }
                Line::Foot(_) => return Err(damaged(number, "rows are missing or altered".to_owned())),
            }
            if rows.is_multiple_of(TOGETHER) {
                take(std::mem::take(&mut writes))?;
            }
            patience.tell("records read", rows);
        }
        Err(damaged(rows + 2, "its end is missing".to_owned()))
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
