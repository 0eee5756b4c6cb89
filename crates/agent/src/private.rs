//! Files that only the agent may read, and directories that only it may write to.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A join token is about a hundred characters.
const SECRET: Most = Most { bytes: 4096, told: "a file of at most 4 KiB" };

const NEEDS_PARENT: &str = "its parent must exist, take files and be writable for this user: make it, or name another \
                            directory in state.directory";
const NEEDS_WAY: &str = "let this user through to it, or name another directory in state.directory";
const NEEDS_DISK: &str =
    "it must be on a disk that takes files and has space; else name another directory in state.directory";

/// Why a file or directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// The system refuses.
    #[error("cannot {act} {path}; {remedy}")]
    System {
        /// What was tried.
        act: &'static str,
        /// With what.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Others may use the file.
    #[error("{path} is accessible to other users (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed {
        /// What.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others may use the directory. It may be one that is meant for all, so the first remedy is another.
    #[error(
        "{path} is accessible to other users (mode {mode:04o}); name a directory of the agent's own in state.directory, \
         or, if this is one, run: chmod 700 {path}"
    )]
    ExposedDirectory {
        /// What.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory such as /proc.
    #[error(
        "{path} takes no files, not even from its owner (mode {mode:04o}); name another directory in state.directory"
    )]
    TakesNoFiles {
        /// What.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory is somebody else's.
    #[error(
        "{path} belongs to uid {owner}, but the agent runs as uid {expected}; name a directory of the agent's own in \
         state.directory, or, if this is one, run: chown {expected} {path}"
    )]
    ForeignDirectory {
        /// What.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        expected: u32,
    },
    /// The file is somebody else's.
    #[error(
        "{path} belongs to uid {owner}, but the agent runs as uid {expected}; run: chown {expected} {path}"
    )]
    Foreign {
        /// What.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        expected: u32,
    },
    /// It is something else.
    #[error("{path} is not {expected}; check the path")]
    Shape {
        /// What.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// Another agent uses it.
    #[error("another shorepass-agent uses {path}; stop it, or give this one a state directory of its own")]
    InUse {
        /// What.
        path: PathBuf,
    },
}

/// A state directory that no other agent uses while this is held.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    _lock: File,
}

impl StateDirectory {
    /// Checks it, or makes it, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, PrivateError> {
        let system =
            |act, remedy| move |source| PrivateError::System { act, path: path.to_owned(), remedy, source };
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(system("create the state directory", NEEDS_PARENT)(error)),
        }
        let metadata = fs::metadata(path).map_err(system("read the state directory", NEEDS_WAY))?;
        if !metadata.is_dir() {
            return Err(PrivateError::Shape { path: path.to_owned(), expected: "a directory" });
        }
        judge(path, metadata.uid(), metadata.mode() & 0o7777, rustix::process::geteuid().as_raw())?;
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(system("write to the state directory", NEEDS_DISK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(PrivateError::InUse { path: path.to_owned() }),
            Err(fs::TryLockError::Error(error)) => Err(system("lock the state directory", NEEDS_DISK)(error)),
        }
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Whether a directory is the agent's own and takes files. Asked first: whether it takes any at all, because no chown and
/// no chmod makes /proc a state directory.
fn judge(path: &Path, owner: u32, mode: u32, expected: u32) -> Result<(), PrivateError> {
    let path = path.to_owned();
    if mode & 0o200 == 0 {
        return Err(PrivateError::TakesNoFiles { path, mode });
    }
    if owner != expected {
        return Err(PrivateError::ForeignDirectory { path, owner, expected });
    }
    if mode & 0o077 != 0 {
        return Err(PrivateError::ExposedDirectory { path, mode });
    }
    Ok(())
}

/// How long a file may be.
pub(crate) struct Most {
    /// In bytes.
    pub(crate) bytes: u64,
    /// The same for people.
    pub(crate) told: &'static str,
}

/// Reads a small secret that nobody else may read. Root may own it: that is who puts secrets in place.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, PrivateError> {
    read(path, SECRET, "check that it is there and that this user may read it", |metadata| {
        let (path, expected) = (path.to_owned(), rustix::process::geteuid().as_raw());
        if metadata.uid() != expected && metadata.uid() != 0 {
            return Err(PrivateError::Foreign { path, owner: metadata.uid(), expected });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(PrivateError::Exposed { path, mode });
        }
        Ok(())
    })
}

/// Reads a file that is no longer than it may be, if whoever made it is judged to be right.
pub(crate) fn read(
    path: &Path,
    most: Most,
    remedy: &'static str,
    judge: impl FnOnce(&Metadata) -> Result<(), PrivateError>,
) -> Result<Zeroizing<String>, PrivateError> {
    let system = |source| PrivateError::System { act: "read", path: path.to_owned(), remedy, source };
    // O_NONBLOCK: a FIFO in its place must not hang us.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(system)?;
    let metadata = file.metadata().map_err(system)?;
    if !metadata.is_file() || metadata.len() > most.bytes {
        return Err(PrivateError::Shape { path: path.to_owned(), expected: most.told });
    }
    judge(&metadata)?;
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(most.bytes).unwrap_or_default()));
    file.take(most.bytes).read_to_string(&mut text).map_err(system)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_state_directory_is_private_and_used_by_one_agent() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let held = StateDirectory::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(StateDirectory::open(&path), Err(PrivateError::InUse { .. })));
        drop(held);
        StateDirectory::open(&path).unwrap();
        chmod(&path, 0o750);
        let text = StateDirectory::open(&path).unwrap_err().to_string();
        assert!(text.ends_with(&format!("chmod 700 {}", path.display())), "{text}");
    }

    #[test]
    fn a_state_directory_that_cannot_be_is_named() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("file"), "").unwrap();
        let refused = |path: &Path, remedy: &str| {
            let text = StateDirectory::open(path).unwrap_err().to_string();
            assert!(text.contains(&path.display().to_string()) && text.contains(remedy), "{text}");
        };
        refused(&parent.path().join("no/state"), "its parent must exist");
        refused(Path::new("/proc/shorepass"), "name another directory in state.directory");
        refused(Path::new("/proc"), "takes no files, not even from its owner");
        refused(&parent.path().join("file"), "is not a directory; check the path");
    }

    #[test]
    fn a_directory_that_is_not_for_the_agent_is_told_with_another_as_the_remedy() {
        let path = Path::new("/tmp");
        let text = |owner, mode| judge(path, owner, mode, 1000).unwrap_err().to_string();
        judge(path, 1000, 0o700, 1000).unwrap();
        for (refused, remedy) in [
            (text(0, 0o1777), "run: chown 1000 /tmp"),
            (text(1000, 0o755), "run: chmod 700 /tmp"),
            (text(0, 0o555), "name another directory in state.directory"),
        ] {
            assert!(refused.contains("in state.directory") && refused.ends_with(remedy), "{refused}");
        }
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("join-token");
        shorepass_files::replace(&path, b"spjt1.x").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "spjt1.x");
        for mode in [0o640, 0o604, 0o660] {
            chmod(&path, mode);
            let text = read_secret(&path).unwrap_err().to_string();
            assert!(text.ends_with(&format!("chmod 600 {}", path.display())), "{text}");
        }
        assert!(matches!(read_secret(directory.path()), Err(PrivateError::Shape { .. })));
    }
}
