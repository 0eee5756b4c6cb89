//! Files that only the agent may read, and directories that only it may write to.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A join token is about a hundred characters.
const SECRET_LIMIT: u64 = 4096;

/// Why a file or directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// The system refuses.
    #[error("cannot {act} {path}")]
    System {
        /// What was tried.
        act: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may use it.
    #[error("{path} is accessible to other users (mode {mode:04o}); run: chmod {wanted:o} {path}")]
    Exposed {
        /// What.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// It is somebody else's.
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
        let system = |act| move |source| PrivateError::System { act, path: path.to_owned(), source };
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(system("create the state directory")(error)),
        }
        let metadata = fs::metadata(path).map_err(system("read the state directory"))?;
        if !metadata.is_dir() {
            return Err(PrivateError::Shape { path: path.to_owned(), expected: "a directory" });
        }
        let expected = rustix::process::geteuid().as_raw();
        if metadata.uid() != expected {
            return Err(PrivateError::Foreign { path: path.to_owned(), owner: metadata.uid(), expected });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(PrivateError::Exposed { path: path.to_owned(), mode, wanted: 0o700 });
        }
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(system("write to the state directory"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(PrivateError::InUse { path: path.to_owned() }),
            Err(fs::TryLockError::Error(error)) => Err(system("lock the state directory")(error)),
        }
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Reads a small secret that nobody else may read. Root may own it: that is who puts secrets in place.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, PrivateError> {
    let system = |source| PrivateError::System { act: "read", path: path.to_owned(), source };
    // O_NONBLOCK: a FIFO in its place must not hang us.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(system)?;
    let metadata = file.metadata().map_err(system)?;
    if !metadata.is_file() || metadata.len() > SECRET_LIMIT {
        return Err(PrivateError::Shape { path: path.to_owned(), expected: "a file of at most 4 KiB" });
    }
    let expected = rustix::process::geteuid().as_raw();
    if metadata.uid() != expected && metadata.uid() != 0 {
        return Err(PrivateError::Foreign { path: path.to_owned(), owner: metadata.uid(), expected });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateError::Exposed { path: path.to_owned(), mode, wanted: 0o600 });
    }
    let mut text = Zeroizing::new(String::with_capacity(SECRET_LIMIT as usize));
    file.take(SECRET_LIMIT).read_to_string(&mut text).map_err(system)?;
    Ok(text)
}

/// Replaces a file of mode 0600, durably: after a crash there is the old content or this.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let temporary = path.with_file_name(name);
    match fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
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
        let missing = parent.path().join("no/state");
        assert!(matches!(StateDirectory::open(&missing), Err(PrivateError::System { .. })));
        fs::write(parent.path().join("file"), "").unwrap();
        let file = StateDirectory::open(&parent.path().join("file"));
        assert!(matches!(file, Err(PrivateError::Shape { .. })));
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("join-token");
        replace(&path, b"spjt1.x").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "spjt1.x");
        for mode in [0o640, 0o604, 0o660] {
            chmod(&path, mode);
            let text = read_secret(&path).unwrap_err().to_string();
            assert!(text.ends_with(&format!("chmod 600 {}", path.display())), "{text}");
        }
        assert!(matches!(read_secret(directory.path()), Err(PrivateError::Shape { .. })));
    }

    #[test]
    fn a_replaced_file_is_private_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.json");
        for leftover in ["sessions.json", ".sessions.json.new"] {
            fs::write(directory.path().join(leftover), "old").unwrap();
            chmod(&directory.path().join(leftover), 0o644);
        }
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
