//! One line of the audit file: written, and read back.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use shorepass_core::audit::{Line, line};
use shorepass_core::ledger::Change;

use crate::convert;
use crate::record::{frame, unframe};

/// What a line begins with.
pub(super) const START: &[u8] = b"{\"seq\":";
/// What stands before its checksum, eight hexadecimal digits, and after it.
const CHECKSUM: &str = ",\"crc32c\":\"";
const CLOSING: &str = "\"}";

#[derive(Serialize)]
struct Written<'a> {
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<u64>,
    #[serde(flatten)]
    line: &'a Line,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
}

#[derive(Deserialize)]
struct Read {
    seq: u64,
    batch: Option<u64>,
    record: Option<String>,
}

/// The line of a change, without its newline; `first` is the number of its batch's first line.
pub(crate) fn entry(seq: u64, first: u64, change: &Change) -> String {
    let record = convert::stored_change(change).map(|record| BASE64.encode(&frame(&record)));
    let batch = (first != seq).then_some(first);
    let written = Written { seq, batch, line: &line(change), record };
    let mut text = serde_json::to_string(&written)
        .expect("a line has string keys and nothing that can fail to be written");
    text.pop(); // its last brace
    let sum = checksum(text.as_bytes());
    text + CHECKSUM + &sum + CLOSING
}

fn checksum(text: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(text))
}

/// Whether the line has the checksum that it says.
fn is_unchanged(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let start = line.len().saturating_sub(CHECKSUM.len() + 8 + CLOSING.len());
    let (text, end) = line.split_at(start);
    let said = end.strip_prefix(CHECKSUM.as_bytes()).and_then(|end| end.strip_suffix(CLOSING.as_bytes()));
    said.is_none_or(|said| said == checksum(text).as_bytes())
}

/// A line that was read.
pub(crate) struct Entry {
    /// Its number.
    pub(crate) sequence: u64,
    /// The number of its batch's first line.
    pub(super) batch: u64,
    /// What it records; none where the change has no row.
    pub(crate) change: Option<Change>,
}

/// The change that a line of an audit file records; none where it records no change of rows.
pub fn recorded_change(line: &str) -> Result<Option<Change>, String> {
    Ok(parse(line.as_bytes())?.change)
}

/// Reads a line, with its newline or without.
pub(super) fn parse(line: &[u8]) -> Result<Entry, String> {
    let read: Read = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if !is_unchanged(line) {
        return Err("its checksum is another".to_owned());
    }
    let change = read.record.as_deref().map(parse_record).transpose()?;
    Ok(Entry { sequence: read.seq, batch: read.batch.unwrap_or(read.seq), change })
}

fn parse_record(text: &str) -> Result<Change, String> {
    let value = BASE64.decode(text.as_bytes()).map_err(|error| error.to_string())?;
    let record = unframe(&value).map_err(|damage| damage.to_string())?;
    convert::change(record).map_err(|malformed| malformed.to_string())
}
