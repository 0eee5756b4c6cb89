//! The issuer's CA: a P-256 key, what it signs, and the CA that follows it.
//!
//! It signs client certificates over keys that it never sees, and the issuer's own serving identity. It decides
//! nothing: whose name a certificate carries is decided before. Which key signs, which CAs are trusted and what is served
//! is one [`View`] that is exchanged as a whole, when the files or the time say so and whoever owns the CA asks.

mod error;
mod rotation;
mod stored;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::{Entropy, Timestamp, after, until};
use time::OffsetDateTime;

pub use self::error::{AuthorityError, SignError};
pub use self::rotation::{Phase, RotateError, RotationPlan};

use self::rotation::Rotation;
use self::stored::Signer;
use crate::file;
use crate::identity::Identity;
use crate::key::PrivateKey;
use crate::leaf;
use crate::pem;
use crate::request::{CertificateRequest, KeyAndRequest};
use crate::serving::ServingIdentity;

/// What a certificate lives at most.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Certificates begin earlier than now, for peers whose clock is behind.
pub(crate) const BACKDATED: Duration = Duration::from_secs(60);

/// The CA.
pub struct Authority {
    directory: PathBuf,
    trust_domain: TrustDomain,
    entropy: Arc<dyn Entropy>,
    view: ArcSwap<View>,
}

/// What holds at a time.
struct View {
    phase: Phase,
    signer: Arc<Signer>,
    /// The CAs that are trusted.
    bundle: Vec<CertificateDer<'static>>,
    /// What is served above the serving certificate.
    served: Vec<CertificateDer<'static>>,
}

impl View {
    /// What the files say now; made on the first start. What has come to its end is ended in the files too.
    fn read(
        directory: &Path,
        trust_domain: &TrustDomain,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self, AuthorityError> {
        let rotation = match Rotation::read(directory)? {
            Some(rotation) if now >= rotation.end => {
                rotation.settle(directory)?;
                None
            }
            Some(rotation) if now >= rotation.switch => return Ok(Self::overlapping(&rotation)),
            found => found,
        };
        let signer = stored::open_or_create(directory, trust_domain, now, entropy)?;
        let Some(rotation) = rotation else {
            let bundle = vec![signer.certificate().clone()];
            return Ok(Self::of(Phase::Settled, Arc::new(signer), bundle));
        };
        if leaf::authority_key(&rotation.former) != Some(signer.key().digest()) {
            return Err(AuthorityError::Rotation { path: directory.join(rotation::ROTATION_FILE) });
        }
        let bundle = vec![signer.certificate().clone(), rotation.next.certificate().clone()];
        let phase = Phase::Announced { switch: rotation.switch, end: rotation.end };
        Ok(Self::of(phase, Arc::new(signer), bundle))
    }

    fn of(phase: Phase, signer: Arc<Signer>, bundle: Vec<CertificateDer<'static>>) -> Self {
        let served = signer.chain().to_vec();
        Self { phase, signer, bundle, served }
    }

    fn overlapping(rotation: &Rotation) -> Self {
        let next = rotation.next.certificate().clone();
        Self {
            phase: Phase::Overlapping { end: rotation.end },
            signer: Arc::clone(&rotation.next),
            bundle: vec![next.clone(), rotation.former.clone()],
            served: vec![next, rotation.bridge.clone(), rotation.former.clone()],
        }
    }

    fn is_as(&self, other: &Self) -> bool {
        self.phase == other.phase && self.bundle == other.bundle && self.served == other.served
    }
}

/// SHA-256 of the public key of the first CA in a PEM text; none if there is none.
pub fn authority_digest(pem: &[u8]) -> Option<Digest> {
    pem::certificates(pem).ok()?.iter().find_map(leaf::authority_key)
}

/// A signed client certificate.
#[derive(Clone, Debug)]
pub struct SignedCertificate {
    /// The certificate; it leads to the bundle by itself. PEM.
    pub chain_pem: Vec<u8>,
    /// When it ends.
    pub expires: Timestamp,
    /// SHA-256 of it, DER.
    pub certificate: Digest,
}

impl Authority {
    /// Opens the CA in that directory, or makes it there on the first start.
    pub fn open_or_create(
        directory: &Path,
        trust_domain: &TrustDomain,
        now: Timestamp,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, AuthorityError> {
        file::probe(&directory.join(stored::KEY_FILE)).map_err(AuthorityError::File)?;
        let view = View::read(directory, trust_domain, now, entropy.as_ref())?;
        let (directory, trust_domain) = (directory.to_owned(), trust_domain.clone());
        Ok(Self { directory, trust_domain, entropy, view: ArcSwap::from_pointee(view) })
    }

    /// Looks at files and time again; tells how the rotation stands if anything is not as it was. Who calls this has the
    /// directory to itself.
    pub fn refresh(&self, now: Timestamp) -> Result<Option<Phase>, AuthorityError> {
        let view = View::read(&self.directory, &self.trust_domain, now, self.entropy.as_ref())?;
        if self.view.load().is_as(&view) {
            return Ok(None);
        }
        let phase = view.phase;
        self.view.store(Arc::new(view));
        Ok(Some(phase))
    }

    /// Makes the CA that is to follow this one. Who calls this has the directory to itself.
    pub fn rotate(&self, plan: RotationPlan, now: Timestamp) -> Result<Phase, RotateError> {
        self.refresh(now).map_err(RotateError::Make)?;
        let view = self.view.load_full();
        match view.phase {
            Phase::Settled => {}
            Phase::Announced { end, .. } | Phase::Overlapping { end } => {
                return Err(RotateError::UnderWay(end));
            }
        }
        let rotation = Rotation::begin(&view.signer, &self.trust_domain, plan, now, self.entropy.as_ref());
        let written = rotation.and_then(|rotation| rotation.write(&self.directory));
        written.and_then(|()| self.refresh(now)).map_err(RotateError::Make)?;
        Ok(self.phase())
    }

    /// How a rotation stands.
    pub fn phase(&self) -> Phase {
        self.view.load().phase
    }

    /// The certificates of the CAs that are trusted.
    pub(crate) fn trusted(&self) -> Vec<CertificateDer<'static>> {
        self.view.load().bundle.clone()
    }

    /// Whose CA it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What peers must trust, PEM.
    pub fn bundle_pem(&self) -> Vec<u8> {
        self.view.load().bundle.iter().map(|der| pem::certificate(der)).collect::<String>().into_bytes()
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER) that signs: what a join token carries.
    pub fn key_digest(&self) -> Digest {
        self.view.load().signer.key().digest()
    }

    /// Whether a join token with this digest is of this CA, or of one that is trusted besides.
    pub fn is_pinned_by(&self, key: Digest) -> bool {
        self.view.load().bundle.iter().any(|der| leaf::authority_key(der) == Some(key))
    }

    /// Signs a certificate for a client. The request gives the key, the caller of this function the name.
    pub fn sign_client(
        &self,
        request: &CertificateRequest,
        spiffe_id: &SpiffeId,
        enrolment: EnrolmentId,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<SignedCertificate, SignError> {
        match spiffe_id.kind {
            Kind::Runner | Kind::Platform | Kind::Operator => self.check_domain(spiffe_id, "client")?,
            Kind::Issuer => return Err(self.refused(spiffe_id, "client")),
        }
        if request.spiffe_id() != spiffe_id {
            let requested = request.spiffe_id().clone();
            return Err(SignError::OtherRequest { id: spiffe_id.clone(), requested });
        }
        let signer = Arc::clone(&self.view.load().signer);
        let mut params = self.leaf(&signer, spiffe_id, &enrolment.to_string(), lifetime, now)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = SubjectPublicKeyInfo::from_der(request.public_key()).map_err(SignError::Sign)?;
        let signed = signer.sign(&params, &key).map_err(SignError::Sign)?;
        let (leaf, named) = leaf::client(&signed).map_err(|error| SignError::BugSigned(Some(error)))?;
        if leaf.spiffe_id != *spiffe_id || named != enrolment || leaf.key != request.key() {
            return Err(SignError::BugSigned(None));
        }
        let chain_pem = pem::certificate(&signed).into_bytes();
        Ok(SignedCertificate { chain_pem, expires: leaf.expires, certificate: leaf.certificate })
    }

    /// Makes a key and signs a client certificate over it at once, for a machine or person that is handed both.
    pub fn create_identity(
        &self,
        spiffe_id: &SpiffeId,
        enrolment: EnrolmentId,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Identity, SignError> {
        let made = KeyAndRequest::generate(spiffe_id).map_err(SignError::Key)?;
        let request = CertificateRequest::parse(&made.request_pem).map_err(SignError::BugRequest)?;
        let signed = self.sign_client(&request, spiffe_id, enrolment, lifetime, now)?;
        Identity::new(made.key, &signed.chain_pem, &self.bundle_pem()).map_err(SignError::BugIdentity)
    }

    /// Makes the issuer's serving identity with a fresh key. The chain has the certificates of all CAs that are trusted, so
    /// that a runner that enrols can compare them with its join token.
    pub fn serving(
        &self,
        issuer: &SpiffeId,
        dns_names: &[String],
        addresses: &[IpAddr],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<ServingIdentity, SignError> {
        match issuer.kind {
            Kind::Issuer => self.check_domain(issuer, "issuer")?,
            Kind::Runner | Kind::Platform | Kind::Operator => return Err(self.refused(issuer, "issuer")),
        }
        let view = self.view.load_full();
        let mut params = self.leaf(&view.signer, issuer, issuer.name.as_str(), lifetime, now)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in dns_names {
            let valid = rustls::pki_types::DnsName::try_from(name.as_str()).is_ok();
            let encoded = name.as_str().try_into().ok().filter(|_| valid);
            let encoded = encoded.ok_or_else(|| SignError::DnsName(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(encoded));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let key = PrivateKey::generate().map_err(SignError::Key)?;
        let signed = view.signer.sign(&params, key.pair()).map_err(SignError::Sign)?;
        let chain: String =
            std::iter::once(&signed).chain(&view.served).map(|der| pem::certificate(der)).collect();
        ServingIdentity::new(&key, chain.as_bytes()).map_err(SignError::BugServing)
    }

    fn check_domain(&self, id: &SpiffeId, wanted: &'static str) -> Result<(), SignError> {
        if id.trust_domain == self.trust_domain { Ok(()) } else { Err(self.refused(id, wanted)) }
    }

    fn refused(&self, id: &SpiffeId, wanted: &'static str) -> SignError {
        SignError::Id { id: id.clone(), wanted, trust_domain: self.trust_domain.clone() }
    }

    /// None outlives the CA, or one above it.
    fn leaf(
        &self,
        signer: &Signer,
        spiffe_id: &SpiffeId,
        common_name: &str,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<CertificateParams, SignError> {
        if lifetime > MAX_LIFETIME {
            return Err(SignError::Lifetime(lifetime));
        }
        let lifetime = signer.expires().map_or(lifetime, |end| lifetime.min(until(now, end)));
        let mut params = blank(common_name, &spiffe_id.to_string(), lifetime, now, self.entropy.as_ref());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let view = self.view.load();
        f.debug_struct("Authority")
            .field("key", view.signer.key())
            .field("phase", &view.phase)
            .finish_non_exhaustive()
    }
}

fn blank(
    common_name: &str,
    uri: &str,
    lifetime: Duration,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> CertificateParams {
    let mut serial = [0; 16];
    entropy.fill(&mut serial);
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = moment(now) - BACKDATED;
    params.not_after = moment(after(now, lifetime));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let uri = uri.try_into().expect("trust domains and SPIFFE IDs are ASCII by their grammar");
    params.subject_alt_names = vec![SanType::URI(uri)];
    params
}

fn moment(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_second()).expect("both types end with the year 9999")
}

#[cfg(test)]
mod tests;
