//! The audit file: one JSON line for each change, in the order of the changes.
//!
//! ```text
//! {"seq":7,"batch":6,"time":...,"event":"lease.active",...,"record":"<base64 of the framed store.v1.Change>","crc32c":"1c291ca3"}\n
//! ```
//!
//! It is written and synced *before* the records, which are an index of it: whatever a reader of the records sees is
//! durable here already, and start-up replays the lines that the records do not have. `record` is absent where a change
//! has no row. `batch` is the number of the first line that was written and synced with this one, absent in that line.
//! `crc32c` is the checksum of all that stands before it; lines that were written before there were any are taken without.
//!
//! Only what was never acknowledged is ever cut off, and only while the records have none of it: lines at the very end
//! that are not whole, as a write that was cut off leaves them (their rest, or pages of theirs, are missing), and whole ones
//! after them of the same batch, whose pages came to the disk first when power failed. A line with other bytes than were
//! written was changed later, and is never cut off.
//! That the records have none of a line is not enough by itself: they may have been lost, and be made anew from here. A
//! line of a later batch shows that the one before it was durable once, and damage in that is never cut off. A file that does not begin like an audit file is not touched. The file is opened once: who rotates
//! it restarts the issuer, and numbers go on in the new file.

mod line;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use self::line::recorded_change;
pub(crate) use self::line::{Entry, entry};
use self::line::{START, parse};
use crate::files::{self, Disk};

/// Of a write that was cut off by a power failure whole ones of these are missing.
const SECTOR: u64 = 512;

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
    /// It is not there, and was not rotated: that is done while the issuer is stopped in order.
    #[error(
        "the audit file {} is missing, and the issuer did not stop in order: restore it; to go on without it, and without \
         records of the last moment that it alone may have, make an empty one: touch {}",
        path.display(), path.display()
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// A line is damaged that was whole once, or a line is missing.
    #[error(
        "the audit file {} is damaged at byte {offset} ({problem}): restore it from a copy; to go on with a new one, move \
         it away and run `shorepass-issuer store verify`, which says what the records lack without it",
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

/// The open audit file.
pub(crate) struct AuditFile {
    file: File,
    path: PathBuf,
    /// Up to here it is whole.
    length: u64,
    /// Up to here it went when it was opened.
    end: u64,
    /// Whether there may be something behind what is whole.
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
        let audit = Self { file, path: path.to_owned(), length, end, ragged: length < end, last };
        if audit.begins_like_one().map_err(failed)? {
            Ok(audit)
        } else {
            Err(AuditError::Foreign { path: audit.path })
        }
    }

    /// The number of its last line when it was opened; 0 if it had none.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// The number of its first line; none if it has none, or that cannot be read.
    pub(crate) fn first(&self) -> Result<Option<u64>, AuditError> {
        let first =
            if self.length == 0 { None } else { self.number_at(0).map_err(|source| self.failed(source))? };
        Ok(first)
    }

    /// Whether something stands at its end that is no whole line.
    pub(crate) fn is_ragged(&self) -> bool {
        self.ragged
    }

    /// What at its end is no whole line and was not left by a write that was cut off, but changed later.
    fn damaged_end(&self) -> Result<Option<AuditError>, AuditError> {
        if !self.ragged {
            return Ok(None);
        }
        for line in self.lines_between(self.length, self.end)? {
            let (offset, line) = line?;
            if !self.may_be_cut_off(&line, offset) {
                return Ok(Some(
                    self.damaged(offset, "it was whole once and has other bytes now".to_owned()),
                ));
            }
        }
        Ok(None)
    }

    /// Whether it begins early enough and goes on long enough to have all lines from one to the other.
    pub(crate) fn spans(&self, from: u64, to: u64) -> Result<bool, AuditError> {
        Ok(self.first()?.is_some_and(|first| first <= from) && to <= self.last)
    }

    /// Cuts off what a crash left unfinished at its end: after line `records`, which is in the records, and after line
    /// `known`, which was in them once.
    pub(crate) fn settle(&mut self, records: u64, known: u64) -> Result<(), AuditError> {
        let behind = self.last > records;
        let (length, last) = self.finished(records, known)?;
        if length < self.length {
            (self.length, self.last, self.ragged) = (length, last, true);
        }
        if behind {
            // After a kill, and no power failure, they may be in the page cache alone; the records get them next.
            self.file.sync_data().map_err(|source| self.failed(source))?;
        }
        self.cut().map_err(|source| self.failed(source))
    }

    /// Where it ends without what a crash left unfinished, and the number of its last line then. Changes nothing.
    pub(crate) fn finished(&self, records: u64, known: u64) -> Result<(u64, u64), AuditError> {
        if let Some(damage) = self.damaged_end()? {
            return Err(damage);
        }
        if self.ragged && self.last < records {
            // Either an acknowledged line was damaged, or this file is new and its first line was never finished.
            let number = self.number_at(self.length).map_err(|source| self.failed(source))?;
            let is_new =
                self.length == 0 && self.is_empty_of_bytes().map_err(|source| self.failed(source))?;
            if !is_new && number.is_none_or(|number| number <= records) {
                return Err(
                    self.damaged(self.length, "it may have been acknowledged and is not whole".to_owned())
                );
            }
        }
        if self.last > records
            && let Some(torn) = self.torn(records)?
        {
            if torn.number <= known {
                return Err(self.damaged(torn.offset, torn.problem));
            }
            return Ok((torn.offset, torn.number - 1));
        }
        Ok((self.length, self.last))
    }

    /// The lines after line `sequence`, in order and without a gap.
    pub(crate) fn entries_after(
        &self,
        sequence: u64,
    ) -> Result<impl Iterator<Item = Result<Entry, AuditError>>, AuditError> {
        let lines = self.lines_from(self.offset_after(sequence)?)?;
        Ok(lines.zip(sequence + 1..).map(move |(line, expected)| {
            let (offset, line) = line?;
            self.expect(&line, offset, expected, sequence)
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

    /// How long it is, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Takes back the lines that were appended after it was so long, which nobody was told of.
    pub(crate) fn take_back(&mut self, length: u64) -> io::Result<()> {
        (self.length, self.ragged) = (length, true);
        self.cut()
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.ragged {
            self.file.set_len(self.length)?;
            self.file.sync_data()?;
            self.ragged = false;
        }
        Ok(())
    }

    /// The first line after `records` that is not whole, if nothing from there on can have been acknowledged.
    fn torn(&self, records: u64) -> Result<Option<Torn>, AuditError> {
        let mut torn: Option<Torn> = None;
        let mut expected = records + 1;
        for line in self.lines_from(self.offset_after(records)?)? {
            let (offset, line) = line?;
            match (parse(&line), &torn) {
                (Ok(entry), None) if entry.sequence == expected => expected += 1,
                // A gap or a line in the wrong place: to be told by who reads on, and not to be cut off.
                (Ok(_), None) => return Ok(None),
                (Ok(entry), Some(torn)) if torn.is_in_batch_of(&entry, records) => {}
                (Ok(_), Some(torn)) => return Err(self.damaged(torn.offset, torn.problem.clone())),
                (Err(problem), None)
                    if self.may_be_cut_off(&line, offset) && self.may_be(expected, offset)? =>
                {
                    torn = Some(Torn { offset, number: expected, problem });
                }
                (Err(problem), None) => return Err(self.damaged(offset, problem)),
                (Err(_), Some(_)) => {}
            }
        }
        Ok(torn)
    }

    /// Whether a line that is not whole can be the one with that number. What stands before it says so, if anything does.
    fn may_be(&self, expected: u64, offset: u64) -> Result<bool, AuditError> {
        let number = self.number_at(offset).map_err(|source| self.failed(source))?;
        Ok(number.map_or(offset > 0, |number| number == expected))
    }

    /// The whole lines that begin at `offset` or after it, and where they begin.
    fn lines_from(
        &self,
        offset: u64,
    ) -> Result<impl Iterator<Item = Result<(u64, Vec<u8>), AuditError>>, AuditError> {
        self.lines_between(offset, self.length)
    }

    fn lines_between(
        &self,
        start: u64,
        end: u64,
    ) -> Result<impl Iterator<Item = Result<(u64, Vec<u8>), AuditError>>, AuditError> {
        let mut file = self.file.try_clone().map_err(|source| self.failed(source))?;
        file.seek(SeekFrom::Start(start)).map_err(|source| self.failed(source))?;
        let mut reader = BufReader::new(io::Read::take(file, end - start));
        let mut next = start;
        Ok(std::iter::from_fn(move || {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => None,
                Ok(length) => {
                    let offset = next;
                    next += length as u64;
                    Some(Ok((offset, line)))
                }
                Err(source) => Some(Err(self.failed(source))),
            }
        }))
    }

    /// The number of the line there, where that much of it can be read.
    fn number_at(&self, offset: u64) -> io::Result<Option<u64>> {
        let mut start = [0; 32];
        let length = self.file.read_at(&mut start, offset)?;
        let rest = start[..length].strip_prefix(START).and_then(|rest| std::str::from_utf8(rest).ok());
        Ok(rest.and_then(|rest| rest.split_once(',')).and_then(|(number, _)| number.parse().ok()))
    }

    /// Whether a write that was cut off leaves such a line there: without its rest, or with zeroes for sectors that did not
    /// come to the disk.
    fn may_be_cut_off(&self, line: &[u8], offset: u64) -> bool {
        let mut at = offset;
        let mut zeroes = false;
        for run in line.chunk_by(|one, next| (*one == 0) == (*next == 0)) {
            let (start, end) = (at, at + run.len() as u64);
            at = end;
            if run[0] == 0 {
                zeroes = true;
                let sectors = (start == offset || start.is_multiple_of(SECTOR))
                    && (end == self.end || end.is_multiple_of(SECTOR));
                if !sectors {
                    return false;
                }
            }
        }
        // A line that is whole but for its newline was cut off there; with something else in its place, it was not.
        zeroes || line.split_last().is_none_or(|(last, rest)| *last != b'\n' && parse(rest).is_err())
    }

    /// Whether its first bytes are those of a line, as far as it has them and they came to the disk.
    fn begins_like_one(&self) -> io::Result<bool> {
        let mut start = vec![0; START.len().min(usize::try_from(self.end).unwrap_or(START.len()))];
        self.file.read_exact_at(&mut start, 0)?;
        Ok(START.starts_with(&start) || self.is_empty_of_bytes()?)
    }

    /// Whether there are nothing but zeroes in it.
    fn is_empty_of_bytes(&self) -> io::Result<bool> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        let mut bytes = BufReader::new(file).bytes();
        bytes.find(|byte| !matches!(byte, Ok(0))).transpose().map(|other| other.is_none())
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

    /// Where the lines after line `sequence` begin: at the start, or as far back from the end as needed. Lines after
    /// it may be damaged, and it may not.
    fn offset_after(&self, sequence: u64) -> Result<u64, AuditError> {
        let mut end = self.length;
        let mut unread = None;
        while end > 0 && sequence > 0 {
            let (start, line) = line_before(&self.file, end).map_err(|source| self.failed(source))?;
            match (parse(&line), unread.take()) {
                (Ok(entry), Some(problem)) if entry.sequence < sequence => {
                    return Err(self.damaged(end, problem));
                }
                (Ok(entry), _) if entry.sequence <= sequence => return Ok(end),
                (Ok(_), _) => {}
                (Err(problem), _) => unread = Some(problem),
            }
            end = start;
        }
        Ok(0)
    }

    fn failed(&self, source: io::Error) -> AuditError {
        AuditError::File { path: self.path.clone(), source }
    }

    fn damaged(&self, offset: u64, problem: String) -> AuditError {
        AuditError::Damaged { path: self.path.clone(), offset, problem }
    }
}

/// A line that is not whole, after which the file may be cut off.
struct Torn {
    offset: u64,
    number: u64,
    problem: String,
}

impl Torn {
    /// Whether a whole line after this one was written together with it, and with nothing that is in the records.
    fn is_in_batch_of(&self, entry: &Entry, records: u64) -> bool {
        records < entry.batch && entry.batch <= self.number && self.number < entry.sequence
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
mod tests;
