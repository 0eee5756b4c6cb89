//! The issuer's state directory: made, looked at, and shared between the daemon and `identity create`.
//!
//! The daemon and the command both open the embedded CA, so its first creation is under a lock: two CAs would orphan
//! whoever enrolled with the one that lost.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::{Entropy, Timestamp};
use shorepass_tls::{Authority, Phase, RotationPlan};

use crate::identities::{self, Handover};
use crate::outside::Identities;

/// A state directory that nobody else can look into.
pub(crate) struct StateDirectory(PathBuf);

impl StateDirectory {
    /// Makes the directory if it is missing, durably; refuses one that is not ours alone.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let ours = rustix::process::geteuid().as_raw();
        if !path.exists() {
            let cannot = || {
                let path = path.display();
                format!(
                    "cannot make the state directory {path}; uid {ours} must be able to make directories there: {ANOTHER}"
                )
            };
            DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(cannot)?;
            for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent).and_then(|folder| folder.sync_all()).with_context(cannot)?;
            }
        }
        let metadata = std::fs::metadata(path).with_context(|| {
            format!(
                "cannot look at the state directory {}; let uid {ours} through to it: {ANOTHER}",
                path.display()
            )
        })?;
        ensure!(metadata.is_dir(), "the state directory {} is not a directory: {ANOTHER}", path.display());
        judge(path, metadata.uid(), metadata.permissions().mode() & 0o777, ours)?;
        Ok(Self(path.to_path_buf()))
    }

    /// A file in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The embedded CA, made on the first call of all.
    pub(crate) fn authority(
        &self,
        trust_domain: &TrustDomain,
        now: Timestamp,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Authority> {
        let _alone = lock(&self.0)?;
        Ok(Authority::open_or_create(&self.0, trust_domain, now, entropy)?)
    }

    /// Makes the CA that is to follow.
    pub(crate) fn rotate(&self, authority: &Authority, plan: RotationPlan, now: Timestamp) -> Result<Phase> {
        let _alone = lock(&self.0)?;
        Ok(authority.rotate(plan, now)?)
    }
}

/// Looks at the CA's files again; tells how a rotation stands if anything is not as it was.
pub(crate) fn refresh(directory: &Path, authority: &Authority, now: Timestamp) -> Result<Option<Phase>> {
    let _alone = lock(directory)?;
    Ok(authority.refresh(now)?)
}

/// Waits until no other process changes the CA's files, and keeps it so.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("ca.lock");
    let cannot = || {
        format!(
            "cannot lock {}; the state directory must be on a disk that takes files and has space",
            path.display()
        )
    };
    let lock = private().create(true).truncate(false).open(&path).with_context(cannot)?;
    lock.lock().with_context(cannot)?;
    Ok(lock)
}

/// What can always be done.
const ANOTHER: &str = "mend that, or name another directory in state.directory";

/// Whether a directory is the issuer's own and takes files. Asked first: whether it takes any at all, because no chown and
/// no chmod makes /proc a state directory.
fn judge(path: &Path, owner: u32, mode: u32, ours: u32) -> Result<()> {
    let path = path.display();
    ensure!(
        mode & 0o200 != 0,
        "the state directory {path} takes no files, not even from its owner (mode {mode:o}): {ANOTHER}"
    );
    ensure!(
        owner == ours,
        "the state directory {path} belongs to uid {owner}, and this runs as uid {ours}; run it as uid {owner}, name a \
         directory of the issuer's own in state.directory, or, if this is one, run: chown {ours} {path}"
    );
    ensure!(
        mode & 0o077 == 0,
        "the state directory {path} is open to others (mode {mode:o}); name a directory of the issuer's own in \
         state.directory, or, if this is one, run: chmod 700 {path}"
    );
    Ok(())
}

impl Identities for StateDirectory {
    fn caller_of(&self, enrolment: EnrolmentId) -> Result<Option<SpiffeId>> {
        Handover::open(&self.join(identities::FILE))?.caller_of(enrolment)
    }

    fn owners(&self) -> Result<Vec<Owner>> {
        Handover::open(&self.join(identities::FILE))?.owners()
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_can_look_into_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        let refused = StateDirectory::open(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("chmod 700"), "{refused}");
    }

    #[test]
    fn a_directory_that_cannot_be_is_named_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, said) in [
            (file.join("state"), "must be able to make directories there"),
            (PathBuf::from("/proc/shorepass"), "must be able to make directories there"),
            (PathBuf::from("/proc"), "takes no files"),
            (file, "is not a directory"),
        ] {
            let refused = StateDirectory::open(&path).err().unwrap().to_string();
            for part in [&path.display().to_string(), said, "name another directory in state.directory"] {
                assert!(refused.contains(part), "{part}: {refused}");
            }
        }
    }

    #[test]
    fn a_directory_of_somebody_else_is_told_with_whose_it_is() {
        let said = |owner, mode| judge(Path::new("/tmp"), owner, mode, 1000).unwrap_err().to_string();
        judge(Path::new("/tmp"), 1000, 0o700, 1000).unwrap();
        assert!(said(0, 0o700).contains("run it as uid 0"), "{}", said(0, 0o700));
        assert!(said(0, 0o700).ends_with("run: chown 1000 /tmp"), "{}", said(0, 0o700));
        assert!(said(0, 0o555).contains("takes no files"), "{}", said(0, 0o555));
    }
}
