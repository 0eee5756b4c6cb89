//! Where the socket is: a path that nobody but us and root can change.
//!
//! The socket itself is open to all (0666), because who asks is read from the connection and not from the file; what
//! matters is that nobody can put another socket in its place.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

const NEEDS_PARENT: &str = "its parent must exist and be writable for this user: make it, or choose another path for the \
                            socket";
const NEEDS_WAY: &str = "let this user through to it, or choose another path for the socket";
const NEEDS_DIRECTORY: &str =
    "its directory must take sockets and be writable for this user; else choose another path for the socket";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
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
    /// Others can put something in its place.
    #[error(
        "the socket's directory {path} can be written to by others (mode {mode:04o}); run: chmod 755 {path}"
    )]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory is somebody else's.
    #[error(
        "the socket's directory {path} belongs to uid {owner}, not to this user or root; choose another one"
    )]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A symbolic link, or no directory.
    #[error("{path} is not a directory of its own; name the socket's real path")]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} exists and is not a socket; remove it, or choose another path for the socket")]
    Occupied {
        /// The socket's path.
        path: PathBuf,
    },
    /// Somebody answers.
    #[error("an agent answers at {path} already; stop it, or choose another path for the socket")]
    Answered {
        /// The socket's path.
        path: PathBuf,
    },
}

/// A socket that is listened on; its file goes with it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) listener: UnixListener,
    path: PathBuf,
}

impl Place {
    /// Listens there. A socket that nobody answers is left from before and is removed.
    pub(crate) async fn bind(path: &Path) -> Result<Self, PlaceError> {
        let system = |act| refused(path, act, NEEDS_DIRECTORY);
        check_directory(path.parent().unwrap_or(Path::new("/")))?;
        remove_stale(path).await?;
        let listener = UnixListener::bind(path).map_err(system("listen on"))?;
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(system("open to local users"))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The next start removes what is left here.
        let _ = fs::remove_file(&self.path);
    }
}

fn refused(path: &Path, act: &'static str, remedy: &'static str) -> impl Fn(io::Error) -> PlaceError {
    move |source| PlaceError::System { act, path: path.to_owned(), remedy, source }
}

fn check_directory(path: &Path) -> Result<(), PlaceError> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        // Again, because the umask took what others need to get to the socket.
        Ok(()) => {
            let opened = fs::set_permissions(path, Permissions::from_mode(0o755));
            opened.map_err(refused(path, "open to local users", NEEDS_DIRECTORY))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(refused(path, "create the socket's directory", NEEDS_PARENT)(error)),
    }
    let metadata = fs::symlink_metadata(path).map_err(refused(path, "look at", NEEDS_WAY))?;
    judge_directory(path, &metadata, rustix::process::geteuid().as_raw())
}

fn judge_directory(path: &Path, metadata: &Metadata, ours: u32) -> Result<(), PlaceError> {
    let path = path.to_owned();
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if !metadata.is_dir() {
        return Err(PlaceError::NoDirectory { path });
    }
    if owner != ours && owner != 0 {
        return Err(PlaceError::ForeignDirectory { path, owner });
    }
    if mode & 0o022 != 0 {
        return Err(PlaceError::OpenDirectory { path, mode });
    }
    Ok(())
}

async fn remove_stale(path: &Path) -> Result<(), PlaceError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(path, "look at", NEEDS_WAY)(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(PlaceError::Occupied { path: path.to_owned() });
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(PlaceError::Answered { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(refused(path, "remove the old socket", NEEDS_DIRECTORY))
        }
        Err(error) => Err(refused(path, "find out who answers at", NEEDS_WAY)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_open_to_all_in_a_directory_that_is_ours() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run/agent.sock");
        let place = Place::bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o755);
        drop(place);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        let living = Place::bind(&path).await.unwrap();
        assert!(matches!(Place::bind(&path).await, Err(PlaceError::Answered { .. })));
        drop(living);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert!(matches!(Place::bind(path).await, Err(PlaceError::Occupied { .. })));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_is_named_with_a_remedy() {
        let parent = tempfile::tempdir().unwrap();
        for (path, remedy) in [
            (parent.path().join("no/run/agent.sock"), "its parent must exist"),
            (PathBuf::from("/proc/agent.sock"), "choose another path for the socket"),
            (PathBuf::from("/proc/shorepass/agent.sock"), "choose another path for the socket"),
        ] {
            let text = Place::bind(&path).await.unwrap_err().to_string();
            let place = path.parent().unwrap().display().to_string();
            assert!(text.contains(&place) && text.contains(remedy), "{text}");
        }
    }

    #[tokio::test]
    async fn directories_that_others_can_change_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("run");
        fs::create_dir(&directory).unwrap();
        for mode in [0o777, 0o775, 0o1777] {
            fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
            let refused = Place::bind(&directory.join("agent.sock")).await;
            assert!(matches!(refused, Err(PlaceError::OpenDirectory { .. })), "{mode:o}");
        }
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        assert!(matches!(Place::bind(&link.join("agent.sock")).await, Err(PlaceError::NoDirectory { .. })));
        let metadata = fs::symlink_metadata(parent.path()).unwrap();
        let foreign = judge_directory(parent.path(), &metadata, metadata.uid() + 1);
        assert_eq!(foreign.is_err(), metadata.uid() != 0);
    }
}
