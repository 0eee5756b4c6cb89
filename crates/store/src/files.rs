//! Files and directories that only we may read, and what makes them durable.
//!
//! [`Disk`] is a trait for one reason: tests record the order of the syncs, and let them and other steps fail.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Makes what was written durable.
pub(crate) trait Disk: Send {
    /// The audit file.
    fn sync_audit(&self, file: &File) -> io::Result<()>;

    /// The database's file.
    fn sync_records(&self, file: &File) -> io::Result<()>;

    /// The second copy of the security state.
    fn sync_copy(&self, file: &File) -> io::Result<()>;

    /// A file that is to take another one's place.
    fn sync_new(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    /// Gives it that place.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Makes that durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        sync_directory(directory)
    }

    /// Asked before each step of what takes several; an error is a crash before that step.
    fn step(&self, _step: &'static str) -> io::Result<()> {
        Ok(())
    }
}

/// fdatasync(2).
pub(crate) struct Fdatasync;

impl Disk for Fdatasync {
    fn sync_audit(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_records(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_copy(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// Replaces a file, or makes it: whatever happens, afterwards it holds what it held or all of `bytes`, durably.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<File> {
    let temporary = path.with_extension("new");
    disk.step("write the new file")?;
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    disk.step("sync the new file")?;
    disk.sync_new(&file)?;
    disk.step("rename the new file")?;
    disk.rename(&temporary, path)?;
    disk.step("sync the directory")?;
    parent(path).map_or(Ok(()), |parent| disk.sync_directory(parent))?;
    Ok(file)
}

/// Who may use something, beyond its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    /// The permission bits.
    pub(crate) mode: u32,
}

/// Whether others than the owner may do anything with the file.
pub(crate) fn exposure(path: &Path) -> io::Result<Option<Exposed>> {
    let mode = fs::metadata(path)?.mode() & 0o7777;
    Ok((mode & 0o077 != 0).then_some(Exposed { mode }))
}

/// Creates a directory with mode 0700, durably, unless it is there.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a file for reading and writing, created with mode 0600, durably, unless it is there.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            sync_parent(path)?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a file's entry in its directory durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    parent(path).map_or(Ok(()), sync_directory)
}

/// Where the file's entry is; none for the root.
fn parent(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}
