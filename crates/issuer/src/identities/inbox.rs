//! The daemon's side of the hand-over: brings each line of `identities.jsonl` into the ledger, and so into the audit
//! file, exactly once.
//!
//! What makes it once is the identity's row, whose key is the digest of its certificate, in the same commit as the audit
//! line. The place up to which the file was read only spares reading it again: it comes from the row of the identity
//! that was recorded last, and counts only while that identity's line ends there. A file that was replaced, such as by
//! an older copy, is read from its start.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::identity::CreatedIdentity;
use shorepass_core::ledger::{Change, Ledger, LedgerError};
use shorepass_daemon::telemetry::Chain;
use tokio_util::sync::CancellationToken;

use super::Line;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How much of the file is read at once; what is new in it is one commit. A line has some 300 bytes, and one that is
/// longer than this is none of ours.
const WINDOW: u64 = 64 * 1024;

/// Why what is in the file is not in the ledger yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InboxError {
    /// The file cannot be read.
    #[error("cannot read {}; it must belong to the issuer's user, as whom `identity create` runs", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The ledger cannot be read, or records nothing.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Reads the file on and on.
pub(crate) struct Inbox {
    path: PathBuf,
    ledger: Arc<dyn Ledger>,
    place: Option<Place>,
}

/// Up to where a file was read.
#[derive(Clone, Copy)]
struct Place {
    device: u64,
    inode: u64,
    offset: u64,
}

/// What stands in some lines.
#[derive(Default)]
struct Found {
    /// What the ledger does not have.
    new: Vec<CreatedIdentity>,
    /// Where lines begin that are none.
    junk: Vec<u64>,
}

impl Inbox {
    /// Over the file, which need not be there.
    pub(crate) fn new(path: PathBuf, ledger: Arc<dyn Ledger>) -> Self {
        Self { path, ledger, place: None }
    }

    /// Looks at once and then every two seconds, until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let mut failing = false;
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let looked = self.look().await;
            if let Err(cause) = &looked
                && !failing
            {
                tracing::warn!(error = %Chain(cause), "identities that were made are not in the audit file yet; trying again");
            }
            failing = looked.is_err();
        }
    }

    /// Brings in what is there and not in the ledger yet.
    pub(crate) async fn look(&mut self) -> Result<(), InboxError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                self.place = None;
                return Ok(());
            }
            Err(cause) => return Err(self.unread(cause)),
        };
        let mut place = self.place_in(&file)?;
        loop {
            let window = read(&file, place.offset).map_err(|cause| self.unread(cause))?;
            let lines = whole_lines(&window);
            if lines.is_empty() {
                self.place = Some(place);
                return Ok(());
            }
            let found = self.find(lines, place.offset)?;
            self.record(found).await?;
            place.offset += lines.len() as u64;
            self.place = Some(place);
        }
    }

    /// Where to read on.
    fn place_in(&self, file: &File) -> Result<Place, InboxError> {
        let metadata = file.metadata().map_err(|cause| self.unread(cause))?;
        let (device, inode, length) = (metadata.dev(), metadata.ino(), metadata.len());
        let same = |place: &Place| (place.device, place.inode) == (device, inode) && place.offset <= length;
        if let Some(place) = self.place.filter(same) {
            return Ok(place);
        }
        let offset = match self.ledger.latest_identity()? {
            Some(latest) if has_line(file, &latest).map_err(|cause| self.unread(cause))? => latest.line_end,
            Some(_) | None => 0,
        };
        Ok(Place { device, inode, offset })
    }

    fn find(&self, lines: &[u8], offset: u64) -> Result<Found, InboxError> {
        let (mut found, mut seen) = (Found::default(), BTreeSet::new());
        let mut start = offset;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let end = start + line.len() as u64;
            match Line::parse(line).and_then(|line| line.identity(end)) {
                None => found.junk.push(start),
                Some(identity) => {
                    let known = self.ledger.identity(identity.certificate)?.is_some();
                    if seen.insert(identity.certificate) && !known {
                        found.new.push(identity);
                    }
                }
            }
            start = end;
        }
        Ok(found)
    }

    async fn record(&self, Found { new, junk }: Found) -> Result<(), InboxError> {
        if !new.is_empty() {
            let changes = new.iter().cloned().map(|identity| Change::IdentityCreated { identity });
            self.ledger.commit(changes.collect()).await?;
        }
        for CreatedIdentity { owner, certificate, uid, .. } in &new {
            tracing::info!(caller = %owner.spiffe_id, enrolment = %owner.enrolment, %certificate, uid, "identity created");
        }
        for offset in junk {
            tracing::warn!(file = %self.path.display(), offset, "a line that tells of no identity was passed over");
        }
        Ok(())
    }

    fn unread(&self, source: io::Error) -> InboxError {
        InboxError::Read { path: self.path.clone(), source }
    }
}

/// What the file has from there on, at most a window.
fn read(mut file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let mut window = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(WINDOW).read_to_end(&mut window)?;
    Ok(window)
}

/// The lines that have an end. All of a full window without one: it is no line of ours.
fn whole_lines(window: &[u8]) -> &[u8] {
    match window.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => &window[..=last],
        None if window.len() as u64 == WINDOW => window,
        None => &[],
    }
}

/// Whether the line of this identity ends where it ended when it was recorded.
fn has_line(file: &File, identity: &CreatedIdentity) -> io::Result<bool> {
    let start = identity.line_end.saturating_sub(WINDOW);
    let mut before = read(file, start)?;
    before.truncate(usize::try_from(identity.line_end - start).unwrap_or(usize::MAX));
    let line = before.split_inclusive(|byte| *byte == b'\n').next_back().filter(|line| line.ends_with(b"\n"));
    let there = line.and_then(Line::parse).and_then(|line| line.identity(start + before.len() as u64));
    Ok(there.as_ref() == Some(identity))
}
