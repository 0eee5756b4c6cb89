//! Files for nobody else, replaced by rename: after a crash there is the old one or the new one, whole.
//!
//! A temporary file that a crash leaves is overwritten by the next write. Who may read a file is not looked at here: that is
//! for whoever reads it, because what is allowed differs.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Finds out whether the file could be replaced, and leaves it alone. Fails as [`replace`] would, also for want of space.
pub fn probe(path: &Path) -> io::Result<()> {
    let temporary = temporary(path);
    let mut file = create(&temporary)?;
    // A full disk lets a file be made, and not filled.
    let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_all());
    fs::remove_file(&temporary).and(written)
}

/// Writes it durably in place of an older one, with mode 0600. Fails where its directory takes no file or cannot be synced.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    let mut file = create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Removes it durably; one that is not there is removed already.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => sync_parent(path),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn create(temporary: &Path) -> io::Result<File> {
    match fs::remove_file(temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    // Again, against an access control list that the directory hands down.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_for_its_owner_alone_and_a_probe_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.token");
        for (path, content) in [(&path, "old"), (&temporary(&path), "left by a crash, and longer")] {
            fs::write(path, content).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        probe(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let before = File::open(&path).unwrap();
        fs::write(temporary(&path), "left by a crash").unwrap();
        fs::set_permissions(temporary(&path), Permissions::from_mode(0o644)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Who has it open reads the old one to its end: it was replaced and not written over.
        assert_eq!(io::read_to_string(before).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn where_no_file_can_be_made_the_probe_says_so() {
        let folder = tempfile::tempdir().unwrap();
        assert!(probe(&folder.path().join("absent/x.token")).is_err());
    }
}
