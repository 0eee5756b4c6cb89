//! Where the ledger's files are, and who may open them.
//!
//! All of them stand in one directory, so that whoever has that one has all. The records have a directory of their own,
//! which is moved aside when it is damaged; so the lock is beside it and not in it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::files;

/// What the directory of damaged records is called, before the time when they were moved aside.
const ASIDE: &str = "ledger.damaged-";
/// Says in a directory of such records what came back of them.
const CAME_BACK: &str = "came-back.txt";

/// The directory of a ledger.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// In that directory.
    pub(crate) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    /// The records: sled's directory.
    pub(crate) fn records(&self) -> PathBuf {
        self.0.join("ledger")
    }

    /// The audit file.
    pub(crate) fn audit(&self) -> PathBuf {
        self.0.join("audit.jsonl")
    }

    /// The manifest.
    pub(crate) fn manifest(&self) -> PathBuf {
        self.0.join("MANIFEST")
    }

    /// The second copy of the security state.
    pub(crate) fn copy(&self) -> PathBuf {
        self.0.join("security.log")
    }

    /// There since records were begun: tells a directory that lost them, and whatever is left beside, from one that
    /// never had any.
    fn begun(&self) -> PathBuf {
        self.0.join("ledger.begun")
    }

    /// Whether there were records here once.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun().exists()
    }

    /// Remembers that there are records here.
    pub(crate) fn begin(&self) -> io::Result<()> {
        if self.has_begun() {
            return Ok(());
        }
        let path = self.begun();
        files::open_or_create(&path)?.sync_all()?;
        files::sync_parent(&path)
    }

    /// Forgets that, where nothing came of it.
    pub(crate) fn undo_begin(&self) -> io::Result<()> {
        let path = self.begun();
        std::fs::remove_file(&path)?;
        files::sync_parent(&path)
    }

    /// There while records are being made anew: names the directory that the old ones are moved aside to.
    pub(crate) fn making(&self) -> PathBuf {
        self.0.join("ledger.making")
    }

    /// The directory that an attempt to make records anew, which was not finished, moves the old ones aside to.
    pub(crate) fn unfinished(&self) -> io::Result<Option<PathBuf>> {
        match std::fs::read_to_string(self.making()) {
            Ok(name) if name.starts_with(ASIDE) && !name.contains('/') => Ok(Some(self.0.join(name))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets such an attempt.
    pub(crate) fn finish_making(&self) -> io::Result<()> {
        let path = self.making();
        match std::fs::remove_file(&path) {
            Ok(()) => files::sync_parent(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Where records go that are moved aside at that time: a name that is free.
    pub(crate) fn aside(&self, time: &str) -> PathBuf {
        let mut path = self.0.join(format!("{ASIDE}{time}"));
        let mut number = 2;
        while path.exists() {
            path = self.0.join(format!("{ASIDE}{time}-{number}"));
            number += 1;
        }
        path
    }

    /// Records that were moved aside and are still there.
    pub(crate) fn moved_aside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut aside: Vec<String> = names.filter(|name| name.starts_with(ASIDE)).collect();
        aside.sort();
        aside
    }

    /// Writes beside records that were moved aside what came back of them.
    pub(crate) fn tell_of(aside: &Path, told: &str) -> io::Result<()> {
        std::fs::write(aside.join(CAME_BACK), told)
    }

    /// What was written there; none where that is not known.
    pub(crate) fn told_of(&self, aside: &str) -> Option<String> {
        let told = std::fs::read_to_string(self.0.join(aside).join(CAME_BACK)).ok()?;
        told.lines().next().map(str::to_owned)
    }

    /// Makes the ledger ours alone: nobody else may look into it, and no other process opens it.
    pub(crate) fn lock(&self) -> Result<Lock, OpenError> {
        let path = self.0.join("ledger.lock");
        let file = files::open_or_create(&path).map_err(|source| OpenError::file(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { directory: self.0.clone() }),
            Err(TryLockError::Error(source)) => Err(OpenError::file(&path, source)),
        }
    }
}

/// Held for as long as a ledger is open. It is ours and not sled's, which says too little when it is taken.
pub(crate) struct Lock(File);

impl Drop for Lock {
    /// Closing the file is not enough: a process that is being started elsewhere in this one has it too for a moment.
    fn drop(&mut self) {
        let _: io::Result<()> = self.0.unlock();
    }
}
