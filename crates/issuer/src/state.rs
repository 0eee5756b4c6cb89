//! The issuer's state directory: made, looked at, and shared between the daemon and `identity create`.
//!
//! The daemon and the command both open the embedded CA, so its first creation is under a lock: two CAs would orphan
//! whoever enrolled with the one that lost.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use shorepass_core::name::TrustDomain;
use shorepass_core::time::{Entropy, Timestamp};
use shorepass_tls::Authority;

/// A state directory that nobody else can look into.
pub(crate) struct StateDirectory(PathBuf);

impl StateDirectory {
    /// Makes the directory if it is missing, durably; refuses one that others can look into.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            let cannot = || format!("cannot make the state directory {}", path.display());
            DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(cannot)?;
            for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent).and_then(|folder| folder.sync_all()).with_context(cannot)?;
            }
        }
        let metadata = std::fs::metadata(path)
            .with_context(|| format!("cannot look at the state directory {}", path.display()))?;
        ensure!(metadata.is_dir(), "the state directory {} is not a directory; name another", path.display());
        let mode = metadata.permissions().mode() & 0o777;
        ensure!(
            mode & 0o077 == 0,
            "the state directory {} is open to others (mode {mode:o}); run: chmod 700 {}",
            path.display(),
            path.display()
        );
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
        let path = self.join("ca.lock");
        let cannot = || format!("cannot lock {}; is the state directory writable?", path.display());
        let lock = private().create(true).truncate(false).open(&path).with_context(cannot)?;
        lock.lock().with_context(cannot)?;
        Ok(Authority::open_or_create(&self.0, trust_domain, now, entropy)?)
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
}
