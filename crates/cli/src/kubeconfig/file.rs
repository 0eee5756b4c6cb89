//! Writes a kubeconfig to a file of its own.
//!
//! Only a file that begins with our header is replaced. A link is not followed, whatever it points to: its target may be
//! somebody's own kubeconfig.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::HEADER;

/// Why a kubeconfig was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// There is a file that was not written here.
    #[error("{} exists and was not made by `shorepass kubeconfig`, so it is left as it is", .0.display())]
    Foreign(PathBuf),
    /// The path cannot stand in a shell's line.
    #[error("the path {} has characters that cannot be printed", .0.display())]
    Path(PathBuf),
    /// The system says no.
    #[error("cannot write {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl WriteError {
    /// What to do, where the message does not say it.
    pub(crate) fn remedy(&self) -> Option<String> {
        match self {
            Self::Foreign(_) => Some(
                "name another file with --output; KUBECONFIG may list several, separated by colons"
                    .to_owned(),
            ),
            Self::Path(_) => Some("name another file with --output".to_owned()),
            Self::Io { .. } => {
                Some("name a file in a directory that exists and that this user can write to".to_owned())
            }
        }
    }
}

/// Writes the file, mode 0600, whole or not at all; the shell's line that makes clients use it.
pub(crate) fn write(path: &Path, text: &str) -> Result<String, WriteError> {
    let failed = |source| WriteError::Io { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(failed)?;
    let shown = absolute.to_str().filter(|shown| !shown.chars().any(char::is_control));
    let line = format!(
        "export KUBECONFIG={}\n",
        shell_word(shown.ok_or_else(|| WriteError::Path(path.to_owned()))?)
    );

    let directory = absolute.parent().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
    let ours = is_ours(&absolute).map_err(failed)?;
    if ours == Some(false) {
        return Err(WriteError::Foreign(path.to_owned()));
    }
    let mut new = tempfile::Builder::new()
        .prefix(".shorepass-kubeconfig-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(failed)?;
    new.write_all(text.as_bytes()).and_then(|()| new.as_file().sync_all()).map_err(failed)?;
    let kept = if ours.is_some() { new.persist(&absolute) } else { new.persist_noclobber(&absolute) };
    match kept {
        Ok(_) => Ok(line),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(WriteError::Foreign(path.to_owned())) // it came into being while this one was written
        }
        Err(error) => Err(failed(error.error)),
    }
}

/// Whether the file was written here; none when there is none.
fn is_ours(path: &Path) -> io::Result<Option<bool>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !metadata.is_file() {
        return Ok(Some(false));
    }
    let mut beginning = Vec::new();
    File::open(path)?.take(HEADER.len() as u64).read_to_end(&mut beginning)?;
    Ok(Some(beginning == HEADER.as_bytes()))
}

fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn text(body: &str) -> String {
        format!("{HEADER}{body}\n")
    }

    fn entries(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn the_file_is_private_and_the_line_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yaml");
        assert_eq!(write(&path, &text("a")).unwrap(), format!("export KUBECONFIG={}\n", path.display()));
        assert_eq!(fs::read_to_string(&path).unwrap(), text("a"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_of_our_own_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yaml");
        write(&path, &text("a")).unwrap();
        write(&path, &text("b")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text("b"));
        assert_eq!(entries(directory.path()), 1);
    }

    #[test]
    fn a_foreign_file_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        for foreign in ["", "apiVersion: v1\n", &format!("# mine\n{HEADER}")] {
            fs::write(&path, foreign).unwrap();
            assert!(matches!(write(&path, &text("a")), Err(WriteError::Foreign(_))), "{foreign:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
        assert_eq!(entries(directory.path()), 1);
    }

    #[test]
    fn a_link_is_neither_followed_nor_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        fs::write(&target, text("a")).unwrap();
        symlink(&target, &link).unwrap();
        assert!(matches!(write(&link, &text("b")), Err(WriteError::Foreign(_))));
        assert_eq!(fs::read_to_string(&target).unwrap(), text("a"));
        assert!(matches!(write(directory.path(), &text("b")), Err(WriteError::Foreign(_))));
    }

    #[test]
    fn a_directory_that_is_missing_is_an_error_with_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let error = write(&directory.path().join("no/web.yaml"), &text("a")).unwrap_err();
        assert!(matches!(error, WriteError::Io { .. }));
        assert!(error.remedy().is_some());
    }

    #[test]
    fn a_path_is_quoted_for_the_shell() {
        assert_eq!(shell_word("/a/b-c_d.yaml"), "/a/b-c_d.yaml");
        assert_eq!(shell_word("/a b/$x"), "'/a b/$x'");
        assert_eq!(shell_word("/it's"), r"'/it'\''s'");
    }
}
