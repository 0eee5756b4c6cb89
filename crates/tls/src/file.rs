//! Files that only their owner may read: checked when read, replaced by rename when written.
//!
//! The checks are made on the open file, not on its name, so that it cannot be swapped in between. A crash leaves the
//! old file or the new one, complete.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Identities and keys are a few kilobytes.
const SIZE_LIMIT: u64 = 256 * 1024;

/// Why a private file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}; it must be on a disk that works and readable by this user")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may use it.
    #[error("{path} is accessible to other users (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is somebody else's.
    #[error(
        "{path} belongs to uid {owner}, but this process runs as uid {expected}; run: chown {expected} {path}"
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        expected: u32,
    },
    /// It is not one of ours.
    #[error("{path} is not a file of at most 256 KiB, so it is none of ours; check the path")]
    Shape {
        /// Which file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot write {path}; its directory must exist, be writable by this user and have space")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads a file that only we may read; `None` when there is none.
pub(crate) fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let refused = |source| FileError::Read { path: path.to_owned(), source };
    // O_NONBLOCK: a FIFO in its place must not hang us.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    let metadata = file.metadata().map_err(refused)?;
    if !metadata.is_file() || metadata.len() > SIZE_LIMIT {
        return Err(FileError::Shape { path: path.to_owned() });
    }
    let expected = rustix::process::geteuid().as_raw();
    if metadata.uid() != expected {
        return Err(FileError::Foreign { path: path.to_owned(), owner: metadata.uid(), expected });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    // Room for all of it at once: a growing buffer would leave copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(SIZE_LIMIT as usize + 1));
    Read::by_ref(&mut file).take(SIZE_LIMIT + 1).read_to_end(&mut content).map_err(refused)?;
    if content.len() as u64 > SIZE_LIMIT {
        return Err(FileError::Shape { path: path.to_owned() });
    }
    Ok(Some(content))
}

/// Writes a file that only we may read, durably, in place of an older one.
pub(crate) fn replace_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    shorepass_files::replace(path, content)
        .map_err(|source| FileError::Write { path: path.to_owned(), source })
}

/// Removes a file, durably; one that is not there is removed already.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    shorepass_files::remove(path).map_err(|source| FileError::Write { path: path.to_owned(), source })
}

/// Finds out whether the file could be written.
pub(crate) fn probe(path: &Path) -> Result<(), FileError> {
    shorepass_files::probe(path).map_err(|source| FileError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_was_written_is_read_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        replace_private(&path, b"one").unwrap();
        replace_private(&path, b"two").unwrap();
        assert_eq!(read_private(&path).unwrap().unwrap().as_slice(), b"two");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn files_that_others_may_use_are_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        replace_private(&path, b"secret").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path).unwrap_err();
            assert!(matches!(error, FileError::Exposed { .. }), "{mode:o}");
            assert!(error.to_string().ends_with(&format!("chmod 600 {}", path.display())), "{error}");
        }
    }

    #[test]
    fn what_is_no_regular_file_of_ours_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read_private(directory.path()), Err(FileError::Shape { .. })));
        let big = directory.path().join("big");
        replace_private(&big, &vec![b'x'; SIZE_LIMIT as usize + 1]).unwrap();
        assert!(matches!(read_private(&big), Err(FileError::Shape { .. })));
        assert!(read_private(&directory.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn a_directory_that_does_not_take_files_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing/secret");
        assert!(probe(&missing).unwrap_err().to_string().contains("missing/secret"));
        assert!(matches!(replace_private(&missing, b""), Err(FileError::Write { .. })));
    }
}
