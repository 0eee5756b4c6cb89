//! The issuer's embedded CA: one P-256 key in a file, and what it signs.
//!
//! It signs client certificates over keys that it never sees, and the issuer's own serving identity. It decides
//! nothing: whose name a certificate carries is decided before. A key without a certificate gets a new certificate
//! (a crash fell between the two files, or the public one was lost); a certificate without a key is never replaced,
//! because every runner trusts that key.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::{Entropy, Timestamp, after};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::file::{self, FileError};
use crate::identity::{Identity, IdentityError};
use crate::key::{KeyError, PrivateKey};
use crate::leaf::{self, LeafError};
use crate::pem::{self, PemError};
use crate::request::{CertificateRequest, KeyAndRequest, RequestError};
use crate::serving::{ServingError, ServingIdentity};

/// What a certificate lives at most.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Certificates begin earlier than now, for peers whose clock is behind.
pub(crate) const BACKDATED: Duration = Duration::from_secs(60);
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const KEY_FILE: &str = "ca.key";
const CERTIFICATE_FILE: &str = "ca.pem";

/// The embedded CA.
pub struct Authority {
    key: PrivateKey,
    certificate: CertificateDer<'static>,
    trust_domain: TrustDomain,
    entropy: Arc<dyn Entropy>,
}

/// Why there is no CA to sign with.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or the directory is the problem.
    #[error(transparent)]
    File(FileError),
    /// The key is unusable.
    #[error("{path} is not a usable CA key; restore it from a backup")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The certificate is unusable.
    #[error("{path} is not a usable CA certificate; move it away to have it made anew from the key")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, where that is known.
        source: Option<PemError>,
    },
    /// The certificate is there, the key is not.
    #[error(
        "{key} is missing, but {certificate} exists; restore the key, or move the certificate away to begin a new CA, which every runner must then join again"
    )]
    KeyMissing {
        /// The file that is missing.
        key: PathBuf,
        /// The file that exists.
        certificate: PathBuf,
    },
    /// Key and certificate do not belong together.
    #[error("{key} and {certificate} do not belong together; restore both from the same backup")]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The CA is another trust domain's.
    #[error(
        "{path} is the CA of trust domain {found}, but the config says {configured}; correct the config, or use another state directory"
    )]
    OtherTrustDomain {
        /// The certificate's file.
        path: PathBuf,
        /// Whose CA it is.
        found: String,
        /// Whose it should be.
        configured: TrustDomain,
    },
    /// The CA has ended.
    #[error("the CA in {path} ended at {ended}; move {path} away to have it made anew from the key")]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When it ended.
        ended: Timestamp,
    },
    /// The CA certificate was not made.
    #[error("cannot make the CA certificate")]
    Make(#[source] rcgen::Error),
    /// The CA key was not made.
    #[error("cannot make the CA key")]
    MakeKey(#[source] KeyError),
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

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Longer than [`MAX_LIFETIME`].
    #[error("certificates live 24 h at most, not {} s", .0.as_secs())]
    Lifetime(Duration),
    /// The SPIFFE ID is not one that this CA may sign for such a use.
    #[error("{id} is not a {wanted} of trust domain {trust_domain}")]
    Id {
        /// The SPIFFE ID.
        id: SpiffeId,
        /// What it should be.
        wanted: &'static str,
        /// Whose CA this is.
        trust_domain: TrustDomain,
    },
    /// The request is for another SPIFFE ID.
    #[error("the certificate request is for {requested}, not for {id}")]
    OtherRequest {
        /// Whose certificate was to be signed.
        id: SpiffeId,
        /// Whose was asked for.
        requested: SpiffeId,
    },
    /// A DNS name that no certificate can carry.
    #[error("{0:?} is not a DNS name")]
    DnsName(String),
    /// The key was not made.
    #[error("cannot make a key")]
    Key(#[source] KeyError),
    /// Signing failed.
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
    /// What was signed is not what was meant.
    #[error("BugSigned: the signed certificate does not read as it was meant")]
    BugSigned(#[source] Option<LeafError>),
    /// The request that was just made is refused.
    #[error("BugRequest: the request made here is refused here")]
    BugRequest(#[source] RequestError),
    /// What was signed does not make an identity.
    #[error("BugIdentity: the signed certificate does not make an identity")]
    BugIdentity(#[source] IdentityError),
    /// What was signed does not make a serving identity.
    #[error("BugServing: the signed certificate does not make a serving identity")]
    BugServing(#[source] ServingError),
}

impl Authority {
    /// Opens the CA in that directory, or makes it there on the first start.
    pub fn open_or_create(
        directory: &Path,
        trust_domain: &TrustDomain,
        now: Timestamp,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, AuthorityError> {
        let (key_path, path) = (directory.join(KEY_FILE), directory.join(CERTIFICATE_FILE));
        file::probe(&key_path).map_err(AuthorityError::File)?;
        let stored_key = file::read_private(&key_path).map_err(AuthorityError::File)?;
        let stored_certificate = file::read_private(&path).map_err(AuthorityError::File)?;
        let key = match (stored_key, &stored_certificate) {
            (Some(text), _) => PrivateKey::parse(&text)
                .map_err(|source| AuthorityError::Key { path: key_path.clone(), source })?,
            (None, Some(_)) => return Err(AuthorityError::KeyMissing { key: key_path, certificate: path }),
            (None, None) => {
                let key = PrivateKey::generate().map_err(AuthorityError::MakeKey)?;
                file::replace_private(&key_path, key.expose().as_bytes()).map_err(AuthorityError::File)?;
                key
            }
        };
        let certificate = match stored_certificate {
            Some(text) => first_certificate(&path, &text)?,
            None => {
                let certificate =
                    make(&key, trust_domain, now, entropy.as_ref()).map_err(AuthorityError::Make)?;
                let text = pem::certificate(&certificate);
                file::replace_private(&path, text.as_bytes()).map_err(AuthorityError::File)?;
                certificate
            }
        };
        let stored = Stored::read(&certificate)
            .ok_or_else(|| AuthorityError::Certificate { path: path.clone(), source: None })?;
        if stored.key != key.digest() {
            return Err(AuthorityError::Mismatch { key: key_path, certificate: path });
        }
        if stored.trust_domain != trust_domain.as_str() {
            let (found, configured) = (stored.trust_domain, trust_domain.clone());
            return Err(AuthorityError::OtherTrustDomain { path, found, configured });
        }
        if stored.expires <= now {
            return Err(AuthorityError::Expired { path, ended: stored.expires });
        }
        Ok(Self { key, certificate, trust_domain: trust_domain.clone(), entropy })
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Whose CA it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What peers must trust, PEM.
    pub fn bundle_pem(&self) -> Vec<u8> {
        pem::certificate(&self.certificate).into_bytes()
    }

    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER): what a join token carries.
    pub fn key_digest(&self) -> Digest {
        self.key.digest()
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
        let mut params = self.leaf(spiffe_id, &enrolment.to_string(), lifetime, now)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = SubjectPublicKeyInfo::from_der(request.public_key()).map_err(SignError::Sign)?;
        let signed = self.sign(&params, &key)?;
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

    /// Makes the issuer's serving identity with a fresh key. The chain ends with the CA's certificate, so that a
    /// runner that enrols can compare it with its join token.
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
        let mut params = self.leaf(issuer, issuer.name.as_str(), lifetime, now)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in dns_names {
            let valid = rustls::pki_types::DnsName::try_from(name.as_str()).is_ok();
            let encoded = name.as_str().try_into().ok().filter(|_| valid);
            let encoded = encoded.ok_or_else(|| SignError::DnsName(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(encoded));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let key = PrivateKey::generate().map_err(SignError::Key)?;
        let signed = self.sign(&params, key.pair())?;
        let chain = pem::certificate(&signed) + &pem::certificate(&self.certificate);
        ServingIdentity::new(&key, chain.as_bytes()).map_err(SignError::BugServing)
    }

    fn check_domain(&self, id: &SpiffeId, wanted: &'static str) -> Result<(), SignError> {
        if id.trust_domain == self.trust_domain { Ok(()) } else { Err(self.refused(id, wanted)) }
    }

    fn refused(&self, id: &SpiffeId, wanted: &'static str) -> SignError {
        SignError::Id { id: id.clone(), wanted, trust_domain: self.trust_domain.clone() }
    }

    fn leaf(
        &self,
        spiffe_id: &SpiffeId,
        common_name: &str,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<CertificateParams, SignError> {
        if lifetime > MAX_LIFETIME {
            return Err(SignError::Lifetime(lifetime));
        }
        let mut params = blank(common_name, &spiffe_id.to_string(), lifetime, now, self.entropy.as_ref());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, SignError> {
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.key.pair()).map_err(SignError::Sign)?;
        let signed = params.signed_by(key, &issuer).map_err(SignError::Sign)?;
        Ok(signed.der().clone())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("key", &self.key).finish_non_exhaustive()
    }
}

fn make(
    key: &PrivateKey,
    trust_domain: &TrustDomain,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let id = format!("spiffe://{trust_domain}");
    // The same key has the same name, so that a certificate made anew stands for the old one; another key has another.
    let name = format!("shorepass CA {}", &key.digest().to_string()[..16]);
    let mut params = blank(&name, &id, AUTHORITY_LIFETIME, now, entropy);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params.self_signed(key.pair())?.der().clone())
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

fn first_certificate(path: &Path, text: &[u8]) -> Result<CertificateDer<'static>, AuthorityError> {
    let unusable = |source| AuthorityError::Certificate { path: path.to_owned(), source: Some(source) };
    let mut certificates = pem::certificates(text).map_err(unusable)?;
    Ok(certificates.swap_remove(0))
}

/// What a CA's certificate says about itself.
struct Stored {
    key: Digest,
    trust_domain: String,
    expires: Timestamp,
}

impl Stored {
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let key = leaf::authority_key(der)?;
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let [GeneralName::URI(uri)] = names.value.general_names[..] else { return None };
        let trust_domain = uri.strip_prefix("spiffe://")?.to_owned();
        let expires = leaf::timestamp(certificate.validity().not_after).ok()?;
        Some(Self { key, trust_domain, expires })
    }
}

#[cfg(test)]
mod tests;
