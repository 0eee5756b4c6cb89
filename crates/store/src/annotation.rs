//! What an anchor carries in the cluster: `v1.<base64url prost>.<base64url HMAC-SHA256>`.
//!
//! The MAC covers the message, the anchor's name and its namespace, each preceded by its length: an annotation that is
//! copied to another Secret does not verify there. Nothing in it tells a reader of Secrets about the job: owner and role
//! are digests. The issuer may not read Secrets: annotations come back only where a credential for listing was opted into.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use prost::Message as _;
use sha2::Sha256;
use shorepass_core::anchors::Sealed;
use shorepass_core::digest::Digest;
use shorepass_core::id::LeaseId;
use shorepass_core::lease::{AnchorName, Lease, Mode};
use shorepass_core::name::Name;
use shorepass_core::time::Entropy;
use shorepass_proto::store::v1::AnchorAnnotation;
use zeroize::Zeroizing;

use crate::convert::{nanoseconds, time_of};
use crate::files;

const VERSION: &str = "v1";
const KEY_FILE: &str = "anchor.key";
const KEY_LENGTH: usize = 32;

/// Why the key of the annotations cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealerError {
    /// It cannot be created or read.
    #[error("the key file {} cannot be used: it must be readable, and its directory writable, for this user", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or change it.
    #[error("the key file {} may be used by others (mode {mode:04o}): run chmod 0600 on it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no key.
    #[error("the key file {} does not hold {KEY_LENGTH} bytes: restore it, or remove it for a new key", path.display())]
    Length {
        /// Which file.
        path: PathBuf,
    },
}

/// Seals the annotations of one issuer's anchors.
pub struct Sealer {
    key: Zeroizing<[u8; KEY_LENGTH]>,
    issuer: Name,
}

impl Sealer {
    /// Reads `anchor.key` in the directory, or makes it with mode 0600.
    pub fn open_or_create(
        directory: &Path,
        issuer: &Name,
        entropy: &dyn Entropy,
    ) -> Result<Self, SealerError> {
        let path = directory.join(KEY_FILE);
        let failed = |source| SealerError::File { path: path.clone(), source };
        let key = match File::open(&path) {
            Ok(file) => read_key(file, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_key(&path, entropy).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { key, issuer: issuer.clone() })
    }

    /// Names whoever has this key, for who may not have it: the same over restarts, and no other issuer's.
    pub fn holder(&self) -> String {
        let mac = self.mac_of(&[b"holder"]).finalize().into_bytes();
        format!("{}/{}", self.issuer, HEXLOWER.encode(&mac[..8]))
    }

    /// The annotation of a lease's anchor.
    pub fn seal(&self, lease: &Lease) -> String {
        let message = AnchorAnnotation {
            issuer: self.issuer.to_string(),
            lease: lease.id.to_string(),
            owner_digest: lease.owner.digest().as_bytes().to_vec(),
            role_digest: lease.role_digest.as_bytes().to_vec(),
            deadline: nanoseconds(lease.deadline),
            binding_namespaces: match &lease.mode {
                Mode::Strict { bindings } => {
                    bindings.iter().map(|binding| binding.namespace.to_string()).collect()
                }
                Mode::Bound | Mode::Unbound { .. } => Vec::new(),
            },
        };
        let message = message.encode_to_vec();
        let mac = self.mac(&message, &lease.target.cluster, &lease.target.namespace, &lease.anchor);
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        format!("{VERSION}.{}.{}", encode(&message), encode(&mac.finalize().into_bytes()))
    }

    /// What an annotation says, if it is ours and was made for that anchor.
    pub fn open(
        &self,
        annotation: &str,
        cluster: &Name,
        namespace: &Name,
        anchor: &AnchorName,
    ) -> Option<Sealed> {
        let (message, mac) = annotation.strip_prefix(VERSION)?.strip_prefix('.')?.split_once('.')?;
        let message = BASE64URL_NOPAD.decode(message.as_bytes()).ok()?;
        let mac = BASE64URL_NOPAD.decode(mac.as_bytes()).ok()?;
        self.mac(&message, cluster, namespace, anchor).verify_slice(&mac).ok()?;
        let message = AnchorAnnotation::decode(message.as_slice()).ok()?;
        let digest = |bytes: &[u8]| bytes.try_into().ok().map(Digest::from_bytes);
        let bindings = message.binding_namespaces.iter().map(|namespace| Name::parse(namespace).ok());
        (message.issuer == self.issuer.as_str()).then_some(Sealed {
            lease: LeaseId::parse(&message.lease).ok()?,
            owner: digest(&message.owner_digest)?,
            role: digest(&message.role_digest)?,
            deadline: time_of(message.deadline)?,
            bindings: bindings.collect::<Option<_>>()?,
        })
    }

    /// Also over where the anchor is: an annotation that somebody copies to another place is worth nothing there.
    fn mac(&self, message: &[u8], cluster: &Name, namespace: &Name, anchor: &AnchorName) -> Hmac<Sha256> {
        let place = [cluster.as_str(), namespace.as_str(), anchor.as_str()].map(str::as_bytes);
        self.mac_of(&[&[VERSION.as_bytes(), message][..], &place].concat())
    }

    fn mac_of(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.key.as_slice()).expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

fn read_key(mut file: File, path: &Path) -> Result<Zeroizing<[u8; KEY_LENGTH]>, SealerError> {
    let failed = |source| SealerError::File { path: path.to_owned(), source };
    if let Some(exposed) = files::exposure(path).map_err(failed)? {
        return Err(SealerError::Exposed { path: path.to_owned(), mode: exposed.mode });
    }
    if file.metadata().map_err(failed)?.len() != KEY_LENGTH as u64 {
        return Err(SealerError::Length { path: path.to_owned() });
    }
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    io::Read::read_exact(&mut file, key.as_mut_slice()).map_err(failed)?;
    Ok(key)
}

/// By rename, so that a crash leaves no key or a whole one.
fn create_key(path: &Path, entropy: &dyn Entropy) -> io::Result<Zeroizing<[u8; KEY_LENGTH]>> {
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    entropy.fill(key.as_mut_slice());
    let unfinished = path.with_extension("key.new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(key.as_slice())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    files::sync_parent(path)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use shorepass_core::gives::{RbacName, RoleRef};
    use shorepass_core::lease::Binding;

    use super::*;
    use crate::testing::{self, Seed};

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn sealer(directory: &Path, seed: u8) -> Result<Sealer, SealerError> {
        Sealer::open_or_create(directory, &name("main"), &Seed::new(seed))
    }

    #[test]
    fn the_mac_binds_message_and_place() {
        let directory = tempfile::tempdir().unwrap();
        let sealer = sealer(directory.path(), 1).unwrap();
        let lease = testing::lease(1);
        let (cluster, namespace, anchor) = (&lease.target.cluster, &lease.target.namespace, &lease.anchor);
        let sealed = sealer.seal(&lease);
        let opened = sealer.open(&sealed, cluster, namespace, anchor).unwrap();
        let (owner, role) = (lease.owner.digest(), lease.role_digest);
        let told = Sealed { lease: lease.id, owner, role, deadline: lease.deadline, bindings: Vec::new() };
        assert_eq!(opened, told);
        assert_eq!(sealer.open(&sealed, &name("other"), namespace, anchor), None);
        assert_eq!(sealer.open(&sealed, cluster, &name("other"), anchor), None);
        assert_eq!(sealer.open(&sealed, cluster, namespace, &testing::lease(2).anchor), None);
        for broken in ["", "v1", "v1.", "v1..", "v2.x.y", &sealed[3..], &sealed[..sealed.len() - 1]] {
            assert_eq!(sealer.open(broken, cluster, namespace, anchor), None, "{broken}");
        }
        let other = sealer.seal(&testing::lease(2));
        let (message, mac) = (other.rsplit_once('.').unwrap().0, sealed.rsplit_once('.').unwrap().1);
        assert_eq!(sealer.open(&format!("{message}.{mac}"), cluster, namespace, anchor), None);
    }

    #[test]
    fn the_annotation_of_a_strict_lease_says_where_its_bindings_are() {
        let directory = tempfile::tempdir().unwrap();
        let sealer = sealer(directory.path(), 1).unwrap();
        let role = RoleRef::Role(RbacName::parse("deployer").unwrap());
        let binding = |namespace| Binding {
            namespace: name(namespace),
            name: "x".to_owned(),
            role: Some(role.clone()),
        };
        let mode = Mode::Strict { bindings: vec![binding("web"), binding("api")] };
        let lease = Lease { mode, ..testing::lease(1) };
        let target = &lease.target;
        let opened = sealer.open(&sealer.seal(&lease), &target.cluster, &target.namespace, &lease.anchor);
        let opened = opened.unwrap();
        assert_eq!(opened.bindings, [name("web"), name("api")]);
    }

    #[test]
    fn another_issuer_with_the_same_key_is_not_us() {
        let directory = tempfile::tempdir().unwrap();
        let lease = testing::lease(1);
        let sealed = sealer(directory.path(), 1).unwrap().seal(&lease);
        let other = Sealer::open_or_create(directory.path(), &name("other"), &Seed::new(1)).unwrap();
        let target = &lease.target;
        assert_eq!(other.open(&sealed, &target.cluster, &target.namespace, &lease.anchor), None);
    }

    #[test]
    fn a_boundary_between_name_and_namespace_cannot_be_moved() {
        let directory = tempfile::tempdir().unwrap();
        let sealer = sealer(directory.path(), 1).unwrap();
        let mac =
            |one: &str, two: &str| sealer.mac_of(&[one.as_bytes(), two.as_bytes()]).finalize().into_bytes();
        assert_ne!(mac("ab", "c"), mac("a", "bc"));
    }

    #[test]
    fn another_key_opens_nothing_and_the_same_key_is_read_back() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let lease = testing::lease(1);
        let (cluster, namespace, anchor) = (&lease.target.cluster, &lease.target.namespace, &lease.anchor);
        let sealed = sealer(directory.path(), 1).unwrap().seal(&lease);
        assert_eq!(sealer(directory.path(), 2).unwrap().seal(&lease), sealed);
        assert!(sealer(other.path(), 2).unwrap().open(&sealed, cluster, namespace, anchor).is_none());
        let holder = |directory: &Path| sealer(directory, 2).unwrap().holder();
        assert_eq!(holder(directory.path()), holder(directory.path()));
        assert_ne!(holder(directory.path()), holder(other.path()));
    }

    #[test]
    fn the_annotation_tells_nothing_of_owner_role_or_target() {
        let directory = tempfile::tempdir().unwrap();
        let lease = testing::lease(1);
        let sealed = sealer(directory.path(), 1).unwrap().seal(&lease);
        let message = BASE64URL_NOPAD.decode(sealed.split('.').nth(1).unwrap().as_bytes()).unwrap();
        let message = String::from_utf8_lossy(&message);
        let job = lease.job.unwrap().to_string();
        let (runner, target) = (lease.owner.spiffe_id().unwrap().name.as_str(), &lease.target);
        for told in [runner, lease.role_name(), target.cluster.as_str(), &target.service_account, &job] {
            assert!(!message.contains(told), "{told}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_cut_short_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        sealer(directory.path(), 1).unwrap();
        let path = directory.path().join("anchor.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(sealer(directory.path(), 1), Err(SealerError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, [1; 31]).unwrap();
        assert!(matches!(sealer(directory.path(), 1), Err(SealerError::Length { .. })));
    }
}
