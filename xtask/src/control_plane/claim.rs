//! The right to a name under `target/control-plane/run`, and the folder that comes with it.
//!
//! `NAME.lock` is locked as long as the owner lives and holds its process id; `NAME/` is removed when the claim is
//! dropped. An owner that was killed leaves a folder and a free lock, which the next start sweeps away.
//!
//! The questionable decision: the lock file is removed too, so whoever gets the lock makes sure that the file is still
//! the one under that name. A pid file alone would do until the number is used again by somebody else's process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A sweep holds a lock for as long as it takes to remove a folder.
const PATIENCE: u32 = 40;

/// A name that is ours.
#[derive(Debug)]
pub(super) struct Claim {
    folder: PathBuf,
    lock_path: PathBuf,
    /// Locked until this is dropped.
    lock: File,
    keep: bool,
}

impl Claim {
    /// Takes the name and makes an empty folder that only we can read.
    pub(super) fn take(runs: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(runs).with_context(|| format!("cannot create {}", runs.display()))?;
        for _ in 0..PATIENCE {
            if let Some(mut claim) = Self::try_take(runs, name)? {
                writeln!(claim.lock, "{}", std::process::id()).context("cannot write our process id")?;
                remove(&claim.folder)?;
                fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&claim.folder)
                    .with_context(|| format!("cannot create {}", claim.folder.display()))?;
                return Ok(claim);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("another process runs a control plane called {name}")
    }

    /// The lock without a process id: nobody may take a sweep for an owner and end it.
    fn try_take(runs: &Path, name: &str) -> Result<Option<Self>> {
        let lock_path = runs.join(format!("{name}.lock"));
        let at = || format!("cannot lock {}", lock_path.display());
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path)
            .with_context(at)?;
        match lock.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) => return Err(cause).with_context(at),
        }
        // The owner before us may have removed the file between our open and our lock.
        if lock.metadata().with_context(at)?.nlink() == 0 {
            return Ok(None);
        }
        lock.set_len(0).with_context(at)?;
        Ok(Some(Self { folder: runs.join(name), lock_path, lock, keep: false }))
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves the folder behind for somebody who wants to read the logs; the next start removes it.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let removed = if self.keep { Ok(()) } else { remove(&self.folder) };
        let removed = removed.and_then(|()| remove(&self.lock_path));
        if let Err(error) = removed {
            eprintln!("warning: {error:#}");
        }
    }
}

/// The process that holds a name, if one does. What a dead owner left is removed.
pub(super) fn holder(runs: &Path, name: &str) -> Result<Option<i32>> {
    let lock_path = runs.join(format!("{name}.lock"));
    for _ in 0..PATIENCE {
        let mut file = match File::open(&lock_path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.with_context(|| format!("cannot read {}", lock_path.display()))?,
        };
        if file.try_lock_shared().is_ok() {
            return Ok(None);
        }
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("cannot read {}", lock_path.display()))?;
        if let Ok(id) = text.trim().parse() {
            return Ok(Some(id));
        }
        // Locked, but the number is not written yet.
        thread::sleep(Duration::from_millis(50));
    }
    bail!("{} is locked by a process that does not give its number", lock_path.display())
}

/// Removes what killed owners left. A courtesy: what cannot be removed is left for the next time.
pub(super) fn sweep(runs: &Path) {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.path().with_extension("")).collect();
    names.sort();
    names.dedup();
    for name in names.iter().filter_map(|path| path.file_name()?.to_str()) {
        drop(Claim::try_take(runs, name));
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            Err(cause).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_runs(test: impl FnOnce(&Path)) {
        let name = thread::current().name().unwrap().replace(':', "-");
        let runs = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        fs::create_dir(&runs).unwrap();
        test(&runs);
        fs::remove_dir_all(&runs).unwrap();
    }

    #[test]
    fn a_claim_that_ends_leaves_nothing() {
        with_runs(|runs| {
            let claim = Claim::take(runs, "one").unwrap();
            fs::write(claim.folder().join("file"), "").unwrap();
            assert_eq!(holder(runs, "one").unwrap(), i32::try_from(std::process::id()).ok());
            drop(claim);
            assert_eq!(fs::read_dir(runs).unwrap().count(), 0);
            assert_eq!(holder(runs, "one").unwrap(), None);
        });
    }

    #[test]
    fn a_name_has_one_owner() {
        with_runs(|runs| {
            let _claim = Claim::take(runs, "one").unwrap();
            assert!(Claim::try_take(runs, "one").unwrap().is_none());
            assert!(Claim::try_take(runs, "two").unwrap().is_some());
        });
    }

    #[test]
    fn a_sweep_removes_what_the_dead_left_and_nothing_else() {
        with_runs(|runs| {
            let claim = Claim::take(runs, "alive").unwrap();
            fs::create_dir(runs.join("dead")).unwrap();
            fs::write(runs.join("dead.lock"), "4711").unwrap();
            sweep(runs);
            assert!(claim.folder().is_dir());
            assert_eq!(fs::read_dir(runs).unwrap().count(), 2);
        });
    }
}
