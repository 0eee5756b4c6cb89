//! Why a ledger could not be opened: each outcome with its place and its remedy.

use std::io;
use std::path::{Path, PathBuf};

use crate::audit::AuditError;
use crate::record::Damage;
use crate::tables::ReadError;

/// Why a ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has it open.
    #[error("{} is in use by another process: stop the other issuer, or give this one its own directory", directory.display())]
    Locked {
        /// Which directory.
        directory: PathBuf,
    },
    /// Others may look at or change what is in it.
    #[error("{} may be used by others (mode {mode:04o}): run chmod 0700 on it", directory.display())]
    Exposed {
        /// Which directory.
        directory: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It cannot be created, read or written.
    #[error("{} cannot be used: it must be in a directory that exists and be writable for this user", path.display())]
    File {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room left.
    #[error("there is no room to write {}: free space on its disk; nothing is lost", path.display())]
    DiskFull {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in it cannot be read.
    #[error(
        "the records in {} are damaged ({problem}): `shorepass-issuer store verify` says where, `shorepass-issuer store \
         rebuild` makes them anew",
        directory.display()
    )]
    Damaged {
        /// Which directory.
        directory: PathBuf,
        /// What was found.
        problem: String,
    },
    /// There is less in it than there was.
    #[error(
        "the records in {} were cut short: they end with line {records} of the audit file, and line {known} was recorded: \
         restore them from a copy, or run `shorepass-issuer store rebuild`, which makes them anew",
        directory.display()
    )]
    CutShort {
        /// Which directory.
        directory: PathBuf,
        /// The last line that is in the records.
        records: u64,
        /// A line that was in them once.
        known: u64,
    },
    /// There were records, and there are none.
    #[error(
        "the records in {} are gone, and this directory has had some: restore them from a copy, or run `shorepass-issuer \
         store rebuild`, which makes them anew",
        directory.display()
    )]
    Gone {
        /// Which directory.
        directory: PathBuf,
    },
    /// A later version wrote it.
    #[error("{} was written by a newer version ({found}): run that version or a newer one; nothing was changed", path.display())]
    Newer {
        /// Which file or directory.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// The files do not belong together.
    #[error(
        "the records in {} and the MANIFEST beside them are of two ledgers: restore all files of the directory from one \
         backup",
        directory.display()
    )]
    Mixed {
        /// Which directory.
        directory: PathBuf,
    },
    /// Making the records anew would forget who was shut out.
    #[error(
        "the security state (bans, blocks, used join tokens, enrolments) cannot be made anew: {problem}; {}accept the loss with \
         `shorepass-issuer store rebuild --accept-loss`",
        if *restorable { "restore audit.jsonl or security.log from a copy, or " } else { "" }
    )]
    SecurityLost {
        /// What is wrong with its sources.
        problem: String,
        /// Whether there may be files that would show that nothing is missing.
        restorable: bool,
    },
    /// The audit file cannot be used.
    #[error(transparent)]
    Audit(AuditError),
}

impl From<AuditError> for OpenError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::File { path, source } if is_want_of_room(&source) => Self::DiskFull { path, source },
            other => Self::Audit(other),
        }
    }
}

/// Whether a disk, a quota or a limit on the size of files leaves no room.
fn is_want_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

impl OpenError {
    /// A file or directory that cannot be used.
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_want_of_room(&source) { Self::DiskFull { path, source } } else { Self::File { path, source } }
    }

    /// Itself and its cause, in one line.
    pub(crate) fn in_full(&self) -> String {
        std::error::Error::source(self).map_or_else(|| self.to_string(), |cause| format!("{self}: {cause}"))
    }

    /// Records that cannot be read.
    pub(crate) fn unreadable(directory: &Path, error: ReadError) -> Self {
        match error {
            ReadError::Damaged { table, damage } if damage.is_newer() => Self::Newer {
                path: directory.to_owned(),
                found: format!("a record in table {table:?}: {damage}"),
            },
            ReadError::Damaged { .. } | ReadError::Engine(_) => {
                Self::Damaged { directory: directory.to_owned(), problem: error.to_string() }
            }
        }
    }

    /// A file beside the records that cannot be read for what is in it.
    pub(crate) fn newer(path: &Path, damage: &Damage) -> Option<Self> {
        damage.is_newer().then(|| Self::Newer { path: path.to_owned(), found: damage.to_string() })
    }

    /// Whether going on without the records is an answer.
    pub(crate) fn loses_records(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::CutShort { .. } | Self::Gone { .. } => true,
            Self::Locked { .. }
            | Self::Exposed { .. }
            | Self::File { .. }
            | Self::DiskFull { .. }
            | Self::Newer { .. }
            | Self::Mixed { .. }
            | Self::SecurityLost { .. }
            | Self::Audit(_) => false,
        }
    }
}
