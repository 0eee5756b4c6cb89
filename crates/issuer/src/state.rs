//! The issuer's state directory: made, looked at, and shared between the daemon and `identity create`.
//!
//! The daemon and the command both open the embedded CA, so its first creation is under a lock: two CAs would orphan
//! whoever enrolled with the one that lost. What `identity create` makes is written down in `identities.jsonl`, beside the
//! audit file, which belongs to the daemon alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use shorepass_core::caller::SpiffeId;
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::{Entropy, Timestamp};
use shorepass_tls::Authority;

use crate::outside::Identities;

/// A state directory that nobody else can look into.
pub(crate) struct StateDirectory(PathBuf);

/// One line of `identities.jsonl`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreatedIdentity {
    /// When.
    pub(crate) time: String,
    /// Always `identity.created`.
    pub(crate) event: String,
    /// Whose identity.
    pub(crate) caller: SpiffeId,
    /// Its enrolment: the same for all identities of one caller, so that its leases stay its own.
    pub(crate) enrolment: EnrolmentId,
    /// When its certificate ends.
    pub(crate) until: String,
    /// SHA-256 of its certificate.
    pub(crate) certificate: String,
    /// The uid that made it.
    pub(crate) uid: u32,
}

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

    /// The enrolment of the identities that were made before for this caller.
    pub(crate) fn enrolment_of(&self, caller: &SpiffeId) -> Result<Option<EnrolmentId>> {
        let created = self.created()?.into_iter().rfind(|created| created.caller == *caller);
        Ok(created.map(|created| created.enrolment))
    }

    fn created(&self) -> Result<Vec<CreatedIdentity>> {
        let path = self.join(IDENTITIES);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(cause).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut created = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            // A last line that was cut short by a crash belongs to an identity that was never handed out.
            created.extend(serde_json::from_str::<CreatedIdentity>(&line));
        }
        Ok(created)
    }

    /// Writes an identity down, durably, before it is handed out.
    pub(crate) fn record(&self, created: &CreatedIdentity) -> Result<()> {
        let path = self.join(IDENTITIES);
        let line = serde_json::to_string(created).context("an identity is not JSON")?;
        private()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{line}").and_then(|()| file.sync_all()))
            .with_context(|| format!("cannot write {}, so no identity is made", path.display()))
    }
}

impl Identities for StateDirectory {
    fn caller_of(&self, enrolment: EnrolmentId) -> Result<Option<SpiffeId>> {
        let created = self.created()?.into_iter().find(|created| created.enrolment == enrolment);
        Ok(created.map(|created| created.caller))
    }
}

const IDENTITIES: &str = "identities.jsonl";

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(caller: &str, enrolment: &str) -> CreatedIdentity {
        CreatedIdentity {
            time: String::new(),
            event: "identity.created".to_owned(),
            caller: SpiffeId::parse(caller).unwrap(),
            enrolment: EnrolmentId::parse(enrolment).unwrap(),
            until: String::new(),
            certificate: String::new(),
            uid: 0,
        }
    }

    #[test]
    fn a_directory_that_others_can_look_into_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        let refused = StateDirectory::open(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("chmod 700"), "{refused}");
    }

    #[test]
    fn the_next_identity_of_a_caller_has_the_same_enrolment() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(&folder.path().join("a/b")).unwrap();
        let (portal, other) = ("spiffe://d/platform/portal", "spiffe://d/operator/portal");
        let enrolment = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
        assert_eq!(state.enrolment_of(&SpiffeId::parse(portal).unwrap()).unwrap(), None);
        state.record(&created(portal, enrolment)).unwrap();
        let found = |caller| state.enrolment_of(&SpiffeId::parse(caller).unwrap()).unwrap();
        assert_eq!(found(portal), Some(EnrolmentId::parse(enrolment).unwrap()));
        assert_eq!(found(other), None);
        let caller_of = |id| state.caller_of(EnrolmentId::parse(id).unwrap()).unwrap();
        assert_eq!(caller_of(enrolment), Some(SpiffeId::parse(portal).unwrap()));
        assert_eq!(caller_of("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8e"), None);
    }
}
