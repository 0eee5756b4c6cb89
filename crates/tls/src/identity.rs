//! A client's identity, in memory and in its one file.
//!
//! `identity.pem` holds key, chain and bundle, so that one rename replaces all three. A line of text stands before the
//! bundle. Where it is missing they are told apart by what they are, not by their order: the first certificate is the
//! peer's, CA certificates that name themselves as issuer are the bundle, and all others belong to the chain. So the root of another PKI, which made the certificate, has no place here. An identity that has expired still loads: renewal and messages need
//! to know whose it was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;
use shorepass_core::id::EnrolmentId;
use shorepass_core::time::Timestamp;
use zeroize::Zeroizing;

use crate::file::{self, FileError};
use crate::key::{KeyError, PrivateKey};
use crate::leaf::{self, LeafError};
use crate::pem::{self, PemError};

/// What stands before the CAs that are trusted.
const BUNDLE: &str = "\n# Trusted to be the issuer's:\n";

/// A client's key, its certificate chain and the CAs that it trusts. `Debug` shows whose it is and until when.
pub struct Identity {
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    bundle: Vec<CertificateDer<'static>>,
    spiffe_id: SpiffeId,
    enrolment: Option<EnrolmentId>,
    not_before: Timestamp,
    expires: Timestamp,
    certificate: Digest,
    pub(crate) resolver: Arc<SingleCertAndKey>,
    pub(crate) anchors: Arc<RootCertStore>,
}

/// Why key, chain and bundle do not make an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no usable key.
    #[error("its private key is unusable")]
    Key(#[source] KeyError),
    /// The certificates cannot be read.
    #[error("its certificates are unusable")]
    Certificates(#[source] PemError),
    /// The first certificate is not a client's.
    #[error("its first certificate is unusable")]
    Leaf(#[source] LeafError),
    /// Key and certificate do not belong together.
    #[error("its private key does not belong to its certificate")]
    Mismatch,
    /// There is nobody to trust.
    #[error("it has no CA certificate to trust")]
    Bundle(#[source] PemError),
}

impl Identity {
    /// Puts together what enrolment or renewal gave (PEM) and the key that was made for it.
    pub fn new(key: PrivateKey, chain_pem: &[u8], bundle_pem: &[u8]) -> Result<Self, IdentityError> {
        let chain = pem::certificates(chain_pem).map_err(IdentityError::Certificates)?;
        Self::of(key, chain, pem::certificates(bundle_pem).map_err(IdentityError::Bundle)?)
    }

    /// Parses what [`Self::expose`] gave.
    pub fn parse(text: &[u8]) -> Result<Self, IdentityError> {
        let key = PrivateKey::parse(text).map_err(IdentityError::Key)?;
        let line = text.windows(BUNDLE.len()).position(|window| window == BUNDLE.as_bytes());
        let Some((chain, bundle)) = line.map(|at| text.split_at(at)) else {
            let certificates = pem::certificates(text).map_err(IdentityError::Certificates)?;
            let (bundle, chain) = certificates.into_iter().partition(leaf::is_root);
            return Self::of(key, chain, bundle);
        };
        let chain = pem::certificates(chain).map_err(IdentityError::Certificates)?;
        Self::of(key, chain, pem::certificates(bundle).map_err(IdentityError::Bundle)?)
    }

    fn of(
        key: PrivateKey,
        chain: Vec<CertificateDer<'static>>,
        bundle: Vec<CertificateDer<'static>>,
    ) -> Result<Self, IdentityError> {
        let first = chain.first().ok_or(IdentityError::Certificates(PemError::Empty))?;
        let (leaf, enrolment) = match leaf::client(first) {
            Ok((leaf, enrolment)) => (leaf, Some(enrolment)),
            Err(error) => (leaf::outside_client(first).map_err(|_| IdentityError::Leaf(error))?, None),
        };
        if leaf.key != key.digest() {
            return Err(IdentityError::Mismatch);
        }
        let anchors = Arc::new(pem::anchors(&bundle).map_err(IdentityError::Bundle)?);
        let signing = key.signing_key().map_err(IdentityError::Key)?;
        let resolver = Arc::new(CertifiedKey::new(chain.clone(), signing).into());
        Ok(Self {
            key,
            chain,
            bundle,
            spiffe_id: leaf.spiffe_id,
            enrolment,
            not_before: leaf.not_before,
            expires: leaf.expires,
            certificate: leaf.certificate,
            resolver,
            anchors,
        })
    }

    /// Whose it is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// Which of its enrolments; none where another PKI made the certificate.
    pub fn enrolment(&self) -> Option<EnrolmentId> {
        self.enrolment
    }

    /// When the certificate begins.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// When the certificate ends.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// SHA-256 of the certificate.
    pub fn certificate(&self) -> Digest {
        self.certificate
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub(crate) fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// Key, chain and bundle, PEM.
    pub fn expose(&self) -> Zeroizing<String> {
        let pem = |certificates: &[CertificateDer<'_>]| {
            certificates.iter().map(|der| pem::certificate(der)).collect::<String>()
        };
        let (key, chain, bundle) = (self.key.expose(), pem(&self.chain), pem(&self.bundle));
        let parts = [key.as_str(), &chain, BUNDLE, &bundle];
        let mut text = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len()).sum()));
        parts.iter().for_each(|part| text.push_str(part));
        text
    }

    /// The bundle alone, PEM.
    pub fn bundle_pem(&self) -> Vec<u8> {
        self.bundle.iter().map(|der| pem::certificate(der)).collect::<String>().into_bytes()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("spiffe_id", &self.spiffe_id)
            .field("enrolment", &self.enrolment)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Where an identity is kept: a file of mode 0600, replaced by rename.
#[derive(Clone, Debug)]
pub struct IdentityFile {
    path: PathBuf,
}

/// Why an identity was not loaded or stored.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    /// The file is the problem.
    #[error(transparent)]
    File(FileError),
    /// Its content is the problem.
    #[error("{path} is not a usable identity; move it away and enrol again")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
}

impl IdentityFile {
    /// The file at that path, whether it exists or not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads it; `None` when there is no file. Refuses a file that others may use or that is not ours.
    pub fn load(&self) -> Result<Option<Identity>, IdentityFileError> {
        let Some(text) = file::read_private(&self.path).map_err(IdentityFileError::File)? else {
            return Ok(None);
        };
        match Identity::parse(&text) {
            Ok(identity) => Ok(Some(identity)),
            Err(source) => Err(IdentityFileError::Content { path: self.path.clone(), source }),
        }
    }

    /// Stores it durably: after a crash there is the old identity or this one.
    pub fn store(&self, identity: &Identity) -> Result<(), IdentityFileError> {
        file::replace_private(&self.path, identity.expose().as_bytes()).map_err(IdentityFileError::File)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use shorepass_testing::certificates::{Fault, TestCa};
    use shorepass_testing::openssl::{Leaf, OpensslCa};

    use super::*;
    use crate::fixture::{subject, trust_domain};

    fn file() -> (tempfile::TempDir, IdentityFile) {
        let directory = tempfile::tempdir().unwrap();
        let file = IdentityFile::new(directory.path().join("identity.pem"));
        (directory, file)
    }

    fn identity() -> Identity {
        let ca = TestCa::new(&trust_domain());
        let pem = ca.client(&subject()).identity_pem(ca.certificate_pem());
        Identity::parse(pem.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let (_directory, file) = file();
        assert!(file.load().unwrap().is_none());
        let stored = identity();
        file.store(&stored).unwrap();
        let loaded = file.load().unwrap().unwrap();
        assert_eq!(loaded.spiffe_id(), &subject().spiffe_id);
        assert_eq!(loaded.enrolment(), Some(subject().enrolment));
        assert_eq!(loaded.certificate(), stored.certificate());
        assert_eq!(loaded.expose(), stored.expose());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_remedy() {
        let (_directory, file) = file();
        file.store(&identity()).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(0o640)).unwrap();
        let message = file.load().unwrap_err().to_string();
        assert!(message.contains("chmod 600"), "{message}");
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let (_directory, file) = file();
        let whole = identity().expose();
        for damaged in ["", "nothing", &whole[..whole.len() / 2], &whole[200..]] {
            file::replace_private(file.path(), damaged.as_bytes()).unwrap();
            let error = file.load().unwrap_err();
            assert!(matches!(error, IdentityFileError::Content { .. }));
            assert!(error.to_string().contains("identity.pem"));
        }
    }

    #[test]
    fn chain_and_bundle_are_told_apart_in_any_order() {
        let ca = TestCa::new(&trust_domain());
        let pair = ca.client(&subject());
        for text in [
            format!("{}{}{}", pair.key_pem, pair.certificate_pem, ca.certificate_pem()),
            format!("{}{}{}", ca.certificate_pem(), pair.certificate_pem, pair.key_pem),
        ] {
            let identity = Identity::parse(text.as_bytes()).unwrap();
            assert_eq!(
                identity.bundle_pem(),
                pem::certificate(&pem::certificates(ca.certificate_pem().as_bytes()).unwrap()[0])
                    .into_bytes()
            );
            assert_eq!(identity.chain.len(), 1);
        }
    }

    #[test]
    fn an_identity_needs_its_own_key_and_somebody_to_trust() {
        let ca = TestCa::new(&trust_domain());
        let (pair, other) = (ca.client(&subject()), ca.client(&subject()));
        let mixed = format!("{}{}{}", other.key_pem, pair.certificate_pem, ca.certificate_pem());
        assert!(matches!(Identity::parse(mixed.as_bytes()), Err(IdentityError::Mismatch)));
        let alone = format!("{}{}", pair.key_pem, pair.certificate_pem);
        assert!(matches!(Identity::parse(alone.as_bytes()), Err(IdentityError::Bundle(_))));
    }

    #[test]
    fn an_identity_of_another_pki_loads_with_its_chain_and_the_issuers_bundle() {
        let ours = TestCa::new(&trust_domain());
        let theirs = OpensslCa::root("spire", subject().now).intermediate("intermediate", "");
        let names = ["URI:spiffe://spire.example.org/operator/alice"];
        let pair = theirs.leaf(&Leaf { names: &names, ..Leaf::default() });
        let identity = Identity::parse(pair.identity_pem(ours.certificate_pem()).as_bytes()).unwrap();
        assert_eq!(identity.spiffe_id().to_string(), names[0][4..]);
        assert_eq!((identity.enrolment(), identity.chain.len(), identity.bundle.len()), (None, 2, 1));
    }

    #[test]
    fn an_expired_identity_loads_and_a_servers_does_not() {
        let ca = TestCa::new(&trust_domain());
        let load = |fault| {
            Identity::parse(ca.faulty(fault, &subject()).identity_pem(ca.certificate_pem()).as_bytes())
        };
        assert!(load(Fault::Expired).is_ok_and(|identity| identity.expires() < subject().now));
        assert!(matches!(load(Fault::ServerUsage), Err(IdentityError::Leaf(LeafError::Purpose(_)))));
    }

    #[test]
    fn debug_shows_no_key() {
        let identity = identity();
        let shown = format!("{identity:?}");
        assert!(shown.contains("prod-1") && !shown.contains("PRIVATE"), "{shown}");
    }
}
