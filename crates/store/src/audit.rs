//! The audit file: one JSON line for each change, in the order of the changes.
//!
//! ```text
//! {"seq":7,"time":...,"event":"lease.active",...,"record":"<base64 of the framed store.v1.Change>"}\n
//! ```
//!
//! It is written and synced *before* the records, which are an index of it: whatever a reader of the records sees is
//! durable here already, and start-up replays the lines that the records do not have. `record` is absent where a change
//! has no row.
//!
//! Only what was never acknowledged is ever cut off: lines at the very end that are not whole, and only while the records
//! have none of them. A file that does not begin like an audit file is not touched. The file is opened once: who rotates
//! it restarts the issuer, and numbers go on in the new file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use shorepass_core::audit::{Line, line};
use shorepass_core::ledger::Change;

use crate::convert;
use crate::files::{self, Disk};
use crate::record::{frame, unframe};

/// What a line begins with.
const START: &[u8] = b"{\"seq\":";

/// Why the audit file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It cannot be opened, read or cut.
    #[error("the audit file {} cannot be used: it must be a file that this user may read and write", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "{} is not an audit file of shorepass: name another one, or move this one away",
        path.display()
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// A line is damaged that was whole once, or a line is missing.
    #[error(
        "the audit file {} is damaged at byte {offset} ({problem}): restore it from a copy",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where the line begins.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The lines between the records and the file are nowhere.
    #[error(
        "the records end with audit line {records} and the audit file {} begins with line {first}: what happened in \
         between is lost, used join tokens and blocks among it; restore the records or the older audit file",
        path.display()
    )]
    Gap {
        /// Which file.
        path: PathBuf,
        /// The last line that is in the records.
        records: u64,
        /// The first line after it that is in the file.
        first: u64,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    seq: u64,
    #[serde(flatten)]
    line: &'a Line,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
}

#[derive(Deserialize)]
struct Read {
    seq: u64,
    record: Option<String>,
}

/// The line of a change, without its newline.
pub(crate) fn entry(seq: u64, change: &Change) -> String {
    let record = convert::stored_change(change).map(|record| BASE64.encode(&frame(&record)));
    let written = Written { seq, line: &line(change), record };
    serde_json::to_string(&written).expect("a line has string keys and nothing that can fail to be written")
}

/// A line that was read.
pub(crate) struct Entry {
    /// Its number.
    pub(crate) sequence: u64,
    /// What it records; none where the change has no row.
    pub(crate) change: Option<Change>,
}

fn parse(line: &[u8]) -> Result<Entry, String> {
    let read: Read = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let change = read.record.as_deref().map(parse_record).transpose()?;
    Ok(Entry { sequence: read.seq, change })
}

fn parse_record(text: &str) -> Result<Change, String> {
    let value = BASE64.decode(text.as_bytes()).map_err(|error| error.to_string())?;
    let record = unframe(&value).map_err(|damage| damage.to_string())?;
    convert::change(record).map_err(|malformed| malformed.to_string())
}

/// The open audit file.
pub(crate) struct AuditFile {
    file: File,
    path: PathBuf,
    /// Up to here it is whole.
    length: u64,
    /// Whether there may be something behind that.
    ragged: bool,
    /// The number of the last whole line when it was opened; 0 if there was none.
    last: u64,
}

impl AuditFile {
    /// Opens it, or creates it with mode 0600. Changes nothing in it.
    pub(crate) fn open(path: &Path) -> Result<Self, AuditError> {
        let failed = |source| AuditError::File { path: path.to_owned(), source };
        let file = files::open_or_create(path).map_err(failed)?;
        let end = file.metadata().map_err(failed)?.len();
        let (length, last) = last_whole_line(&file, end).map_err(failed)?;
        let audit = Self { file, path: path.to_owned(), length, ragged: length < end, last };
        if audit.begins_like_one(end).map_err(failed)? {
            Ok(audit)
        } else {
            Err(AuditError::Foreign { path: audit.path })
        }
    }

    /// The number of its last line when it was opened; 0 if it had none.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Cuts off what a crash left unfinished at its end, after line `records` is known to be in the records.
    pub(crate) fn settle(&mut self, records: u64) -> Result<(), AuditError> {
        let failed = |source| AuditError::File { path: self.path.clone(), source };
        if self.ragged && self.last < records {
            // Either an acknowledged line was damaged, or this file is new and its first line was never finished.
            let number = self.ragged_number().map_err(failed)?;
            if number.is_none_or(|number| number <= records) {
                return Err(self.damaged(self.length, "it was acknowledged and is not whole".to_owned()));
            }
        }
        self.cut().map_err(|source| AuditError::File { path: self.path.clone(), source })
    }

    /// The lines after line `sequence`, in order and without a gap.
    pub(crate) fn entries_after(
        &self,
        sequence: u64,
    ) -> Result<impl Iterator<Item = Result<Entry, AuditError>>, AuditError> {
        let failed = |source| AuditError::File { path: self.path.clone(), source };
        let start = self.offset_after(sequence)?;
        let mut file = self.file.try_clone().map_err(failed)?;
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        let mut reader = BufReader::new(io::Read::take(file, self.length - start));
        let (mut offset, mut expected) = (start, sequence + 1);
        Ok(std::iter::from_fn(move || {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(source) => return Some(Err(AuditError::File { path: self.path.clone(), source })),
            }
            let entry = self.expect(&line, offset, expected, sequence);
            offset += line.len() as u64;
            expected += 1;
            Some(entry)
        }))
    }

    /// Appends lines and makes them durable. On an error the file is as it was before.
    ///
    /// Where cutting it back fails too, the next append tries that again first; if the issuer ends before one succeeds,
    /// its next start may find lines that nobody was told of.
    pub(crate) fn append(&mut self, lines: &[String], disk: &dyn Disk) -> io::Result<()> {
        self.cut()?;
        let mut bytes = Vec::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        self.ragged = true;
        match self.file.write_all_at(&bytes, self.length).and_then(|()| disk.sync_audit(&self.file)) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                self.ragged = false;
                Ok(())
            }
            Err(error) => {
                // What counts is why it could not be written; a failure to cut comes up with the next append.
                let _ = self.cut();
                Err(error)
            }
        }
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.ragged {
            self.file.set_len(self.length)?;
            self.file.sync_data()?;
            self.ragged = false;
        }
        Ok(())
    }

    /// The number of the line that is not whole, where that much of it can be read.
    fn ragged_number(&self) -> io::Result<Option<u64>> {
        let mut start = [0; 32];
        let length = self.file.read_at(&mut start, self.length)?;
        let rest = start[..length].strip_prefix(START).and_then(|rest| std::str::from_utf8(rest).ok());
        Ok(rest.and_then(|rest| rest.split_once(',')).and_then(|(number, _)| number.parse().ok()))
    }

    /// Whether its first bytes are those of a line, as far as it has them.
    fn begins_like_one(&self, end: u64) -> io::Result<bool> {
        let mut start = vec![0; START.len().min(usize::try_from(end).unwrap_or(START.len()))];
        self.file.read_exact_at(&mut start, 0)?;
        Ok(START.starts_with(&start))
    }

    fn expect(&self, line: &[u8], offset: u64, expected: u64, records: u64) -> Result<Entry, AuditError> {
        let entry = parse(line).map_err(|problem| self.damaged(offset, problem))?;
        if entry.sequence == expected {
            return Ok(entry);
        }
        if expected == records + 1 {
            return Err(AuditError::Gap { path: self.path.clone(), records, first: entry.sequence });
        }
        Err(self.damaged(offset, format!("it is line {} and should be line {expected}", entry.sequence)))
    }

    /// Where the lines after line `sequence` begin: at the start, or as far back from the end as needed.
    fn offset_after(&self, sequence: u64) -> Result<u64, AuditError> {
        let mut end = self.length;
        while end > 0 && sequence > 0 {
            let (start, line) = line_before(&self.file, end)
                .map_err(|source| AuditError::File { path: self.path.clone(), source })?;
            let entry = parse(&line).map_err(|problem| self.damaged(start, problem))?;
            if entry.sequence <= sequence {
                return Ok(end);
            }
            end = start;
        }
        Ok(0)
    }

    fn damaged(&self, offset: u64, problem: String) -> AuditError {
        AuditError::Damaged { path: self.path.clone(), offset, problem }
    }
}

/// Where the last line ends that is whole and can be read, and its number.
fn last_whole_line(file: &File, end: u64) -> io::Result<(u64, u64)> {
    let mut end = end;
    while end > 0 {
        let (start, line) = line_before(file, end)?;
        if line.ends_with(b"\n")
            && let Ok(entry) = parse(&line)
        {
            return Ok((end, entry.sequence));
        }
        end = start;
    }
    Ok((0, 0))
}

/// The line that ends at `end`, with its newline if it has one, and where it begins.
fn line_before(file: &File, end: u64) -> io::Result<(u64, Vec<u8>)> {
    const BLOCK: u64 = 4096;
    let mut line = Vec::new();
    let mut start = end;
    while start > 0 {
        let from = start.saturating_sub(BLOCK);
        let mut block = vec![0; (start - from) as usize];
        file.read_exact_at(&mut block, from)?;
        // The newline at `end` belongs to this line; the one before it ends the line before.
        let searched = if start == end { &block[..block.len() - 1] } else { &block[..] };
        let newline = searched.iter().rposition(|&byte| byte == b'\n');
        let kept = newline.map_or(0, |newline| newline + 1);
        line.splice(0..0, block[kept..].iter().copied());
        start = from + kept as u64;
        if newline.is_some() {
            break;
        }
    }
    Ok((start, line))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::Fdatasync;
    use crate::testing;

    struct Scene {
        directory: tempfile::TempDir,
        changes: Vec<Change>,
    }

    impl Scene {
        /// An audit file of five lines.
        fn new() -> Self {
            let scene = Self {
                directory: tempfile::tempdir().unwrap(),
                changes: (0..5).map(testing::job_started).collect(),
            };
            let lines: Vec<String> = scene
                .changes
                .iter()
                .enumerate()
                .map(|(index, change)| entry(index as u64 + 1, change))
                .collect();
            AuditFile::open(&scene.path()).unwrap().append(&lines, &Fdatasync).unwrap();
            scene
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("audit.jsonl")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap()
        }

        fn after(&self, sequence: u64) -> Result<Vec<Change>, AuditError> {
            let mut audit = AuditFile::open(&self.path())?;
            audit.settle(sequence)?;
            audit.entries_after(sequence)?.map(|entry| Ok(entry?.change.unwrap())).collect()
        }
    }

    #[test]
    fn the_lines_after_any_line_are_read_back() {
        let scene = Scene::new();
        for sequence in 0..=5 {
            assert_eq!(
                scene.after(sequence).unwrap(),
                scene.changes[sequence as usize..],
                "after {sequence}"
            );
        }
    }

    #[test]
    fn lines_longer_than_a_block_are_found_from_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long");
        let lines = ["a".repeat(4095), "b".repeat(4096), "c".repeat(10_000), String::new()];
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        let file = File::open(&path).unwrap();
        let mut end = file.metadata().unwrap().len();
        for expected in lines.iter().rev() {
            let (start, line) = line_before(&file, end).unwrap();
            assert_eq!(line, format!("{expected}\n").into_bytes());
            end = start;
        }
        assert_eq!(end, 0);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_wherever_it_tore() {
        let scene = Scene::new();
        let whole = scene.text();
        let fourth = whole.match_indices('\n').nth(3).unwrap().0 + 1;
        for torn in [fourth + 1, fourth + 20, whole.len() - 1] {
            fs::write(scene.path(), &whole[..torn]).unwrap();
            assert_eq!(scene.after(0).unwrap(), scene.changes[..4], "torn at {torn}");
            assert_eq!(scene.text(), whole[..fourth]);
        }
    }

    #[test]
    fn a_last_line_of_zeroes_is_cut_off() {
        let scene = Scene::new();
        let whole = scene.text();
        fs::write(scene.path(), whole.clone() + &"\0".repeat(5000) + "\n").unwrap();
        assert_eq!(scene.after(5).unwrap(), []);
        assert_eq!(scene.text(), whole);
    }

    #[test]
    fn a_line_that_is_in_the_records_is_never_cut_off() {
        let scene = Scene::new();
        let torn = scene.text().trim_end().to_owned();
        fs::write(scene.path(), &torn).unwrap();
        assert!(matches!(scene.after(5), Err(AuditError::Damaged { .. })));
        assert_eq!(scene.text(), torn);
    }

    #[test]
    fn a_torn_first_line_of_a_new_file_is_cut_off() {
        let scene = Scene::new();
        let last = scene.text().lines().last().unwrap().to_owned();
        fs::write(scene.path(), &last[..100]).unwrap();
        assert_eq!(scene.after(4).unwrap(), []);
        assert_eq!(scene.text(), "");
    }

    #[test]
    fn a_damaged_or_missing_line_in_between_is_told() {
        let scene = Scene::new();
        let whole = scene.text();
        fs::write(scene.path(), whole.replacen("\"seq\":3", "\"seq\":9", 1)).unwrap();
        assert!(matches!(scene.after(0), Err(AuditError::Damaged { .. })));
        let position = whole.rfind("\"record\":\"").unwrap() + 30;
        let mut flipped = whole.clone().into_bytes();
        flipped[position] = if flipped[position] == b'A' { b'B' } else { b'A' };
        flipped.extend_from_slice(whole.lines().last().unwrap().as_bytes());
        flipped.push(b'\n');
        fs::write(scene.path(), flipped).unwrap();
        assert!(matches!(scene.after(0), Err(AuditError::Damaged { .. })));
    }

    #[test]
    fn a_gap_between_records_and_file_is_told() {
        let scene = Scene::new();
        let rest: String = scene.text().lines().skip(3).map(|line| format!("{line}\n")).collect();
        fs::write(scene.path(), rest).unwrap();
        assert!(matches!(scene.after(1), Err(AuditError::Gap { records: 1, first: 4, .. })));
        assert_eq!(scene.after(3).unwrap(), scene.changes[3..]);
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let scene = Scene::new();
        for foreign in ["root:x:0:0\n", "no newline", "\n\n"] {
            fs::write(scene.path(), foreign).unwrap();
            assert!(matches!(scene.after(0), Err(AuditError::Foreign { .. })), "{foreign:?}");
            assert_eq!(scene.text(), foreign);
        }
    }

    #[test]
    fn what_could_not_be_synced_is_cut_back() {
        struct Failing;
        impl Disk for Failing {
            fn sync_audit(&self, _file: &File) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn sync_records(&self, _file: &File) -> io::Result<()> {
                Ok(())
            }
        }
        let scene = Scene::new();
        let before = scene.text();
        let mut audit = AuditFile::open(&scene.path()).unwrap();
        let sixth = [entry(6, &testing::job_started(6))];
        assert!(audit.append(&sixth, &Failing).is_err());
        assert_eq!(scene.text(), before);
        audit.append(&sixth, &Fdatasync).unwrap();
        assert_eq!(scene.text(), format!("{before}{}\n", sixth[0]));
    }
}
