//! `identities.jsonl`: what `identity create` made, handed over to the daemon.
//!
//! The command signs beside the daemon, and the audit file belongs to the daemon alone, which numbers its lines. So the
//! command writes a line here, durably, before it hands an identity out, and the daemon's [`inbox`] brings the line into
//! the ledger. One command writes at a time. A line that a crash cut short is ended by the next one and belongs to an
//! identity that was never handed out.

pub(crate) mod inbox;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::id::EnrolmentId;
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::time::Timestamp;

/// The file's name in the state directory.
pub(crate) const FILE: &str = "identities.jsonl";

/// What happened, in each line.
const EVENT: &str = "identity.created";

/// One line. Field names are for ever.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    time: String,
    event: String,
    caller: SpiffeId,
    enrolment: EnrolmentId,
    until: String,
    certificate: String,
    uid: u32,
}

impl Line {
    /// Of an identity that was made now, by us.
    pub(crate) fn new(owner: &Owner, now: Timestamp, expires: Timestamp, certificate: Digest) -> Self {
        Self {
            time: now.to_string(),
            event: EVENT.to_owned(),
            caller: owner.spiffe_id.clone(),
            enrolment: owner.enrolment,
            until: expires.to_string(),
            certificate: certificate.to_string(),
            uid: rustix::process::getuid().as_raw(),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|line: &Self| line.event == EVENT)
    }

    /// What it says, if that is well formed.
    fn identity(self, line_end: u64) -> Option<CreatedIdentity> {
        Some(CreatedIdentity {
            certificate: Digest::parse(&self.certificate)?,
            owner: Owner { spiffe_id: self.caller, enrolment: self.enrolment },
            created: self.time.parse().ok()?,
            expires: self.until.parse().ok()?,
            uid: self.uid,
            line_end,
        })
    }
}

/// The file in the hands of one command; others wait until this is dropped.
pub(crate) struct Handover {
    path: PathBuf,
    file: File,
}

impl Handover {
    /// Opens the file, or makes it, and waits until no other command writes to it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        open_locked(path)
            .map(|file| Self { path: path.to_owned(), file })
            .with_context(|| cannot("write", path))
    }

    /// The enrolment of the identities that were made before for this caller.
    pub(crate) fn enrolment_of(&self, caller: &SpiffeId) -> Result<Option<EnrolmentId>> {
        let mut found = None;
        self.each_line(|line| {
            if let Some(line) = Line::parse(line).filter(|line| line.caller == *caller) {
                found = Some(line.enrolment);
            }
        })
        .with_context(|| cannot("read", &self.path))?;
        Ok(found)
    }

    /// Whom an enrolment belongs to.
    pub(crate) fn caller_of(&self, enrolment: EnrolmentId) -> Result<Option<SpiffeId>> {
        let mut found = None;
        self.each_line(|line| {
            if let Some(line) = Line::parse(line).filter(|line| line.enrolment == enrolment) {
                found = Some(line.caller);
            }
        })
        .with_context(|| cannot("read", &self.path))?;
        Ok(found)
    }

    /// Whose identities were made before.
    pub(crate) fn owners(&self) -> Result<Vec<Owner>> {
        let mut owners = Vec::new();
        self.each_line(|line| {
            owners.extend(
                Line::parse(line).map(|line| Owner { spiffe_id: line.caller, enrolment: line.enrolment }),
            );
        })
        .with_context(|| cannot("read", &self.path))?;
        Ok(owners)
    }

    /// Writes an identity down, durably.
    pub(crate) fn append(&mut self, line: &Line) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).context("an identity is not JSON")?;
        bytes.push(b'\n');
        self.append_bytes(bytes).with_context(|| cannot("write", &self.path))
    }

    fn append_bytes(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        if self.is_cut_short()? {
            bytes.insert(0, b'\n');
        }
        self.file.write_all(&bytes)?;
        self.file.sync_all()
    }

    /// Whether the last line has no end.
    fn is_cut_short(&self) -> io::Result<bool> {
        let Some(last) = self.file.metadata()?.len().checked_sub(1) else { return Ok(false) };
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, last)?;
        Ok(byte != *b"\n")
    }

    fn each_line(&self, mut tell: impl FnMut(&[u8])) -> io::Result<()> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        BufReader::new(file).split(b'\n').try_for_each(|line| line.map(|line| tell(&line)))
    }
}

fn open_locked(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    file.lock()?;
    if file.metadata()?.len() == 0 {
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    }
    Ok(file)
}

fn cannot(act: &str, path: &Path) -> String {
    let path = path.display();
    format!(
        "cannot {act} {path}, so no identity is made; it must belong to the issuer's user, as whom this command runs"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENROLMENT: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    fn line(caller: &str) -> Line {
        let owner = Owner { spiffe_id: id(caller), enrolment: EnrolmentId::parse(ENROLMENT).unwrap() };
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        Line::new(&owner, now, now, Digest::of_bytes(caller.as_bytes()))
    }

    #[test]
    fn the_next_identity_of_a_caller_has_the_same_enrolment() {
        let folder = tempfile::tempdir().unwrap();
        let mut handover = Handover::open(&folder.path().join(FILE)).unwrap();
        let (portal, other) = ("spiffe://d/platform/portal", "spiffe://d/operator/portal");
        assert_eq!(handover.enrolment_of(&id(portal)).unwrap(), None);
        handover.append(&line(portal)).unwrap();
        let found = |caller| handover.enrolment_of(&id(caller)).unwrap();
        assert_eq!(found(portal), Some(EnrolmentId::parse(ENROLMENT).unwrap()));
        assert_eq!(found(other), None);
        let caller_of = |text| handover.caller_of(EnrolmentId::parse(text).unwrap()).unwrap();
        assert_eq!(caller_of(ENROLMENT), Some(id(portal)));
        assert_eq!(caller_of("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8e"), None);
        let owner = Owner { spiffe_id: id(portal), enrolment: EnrolmentId::parse(ENROLMENT).unwrap() };
        assert_eq!(handover.owners().unwrap(), [owner]);
    }

    #[test]
    fn a_line_that_was_cut_short_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "{\"time\":\"2026").unwrap();
        let mut handover = Handover::open(&path).unwrap();
        for caller in ["spiffe://d/platform/a", "spiffe://d/platform/b"] {
            handover.append(&line(caller)).unwrap();
            assert!(handover.enrolment_of(&id(caller)).unwrap().is_some());
        }
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 3);
    }

    #[test]
    fn one_command_waits_for_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let held = Handover::open(&path).unwrap();
        let other = File::open(&path).unwrap();
        assert!(matches!(other.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().unwrap();
    }

    #[test]
    fn what_a_line_says_is_read_back() {
        let written = line("spiffe://d/operator/alice");
        let bytes = serde_json::to_vec(&written).unwrap();
        let identity = Line::parse(&bytes).unwrap().identity(7).unwrap();
        assert_eq!(identity.created.to_string(), written.time);
        assert_eq!((identity.certificate.to_string(), identity.line_end), (written.certificate, 7));
    }
}
