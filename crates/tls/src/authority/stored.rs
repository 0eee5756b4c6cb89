//! A CA's key and certificate in their two files.
//!
//! A key without a certificate gets a new certificate (a crash fell between the two files, or the public one was lost); a
//! certificate without a key is never replaced, because every runner trusts that key. An operator may put both there, of a
//! CA that another one has signed: then the file has its certificate first and those above it after it, in order.

use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyUsagePurpose, PublicKeyData};
use rustls::pki_types::CertificateDer;
use shorepass_core::digest::Digest;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::{Entropy, Timestamp};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{AuthorityError, blank};
use crate::file;
use crate::key::PrivateKey;
use crate::leaf;
use crate::pem;

pub(super) const KEY_FILE: &str = "ca.key";
pub(super) const CERTIFICATE_FILE: &str = "ca.pem";
pub(super) const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A key that signs, and what shows whose it is.
pub(super) struct Signer {
    key: PrivateKey,
    /// Its own certificate, and those above it.
    chain: Vec<CertificateDer<'static>>,
}

impl Signer {
    /// Of a key and its certificates, at least one, its own first.
    pub(super) fn new(key: PrivateKey, chain: Vec<CertificateDer<'static>>) -> Self {
        Self { key, chain }
    }

    pub(super) fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// When the first of its certificates ends.
    pub(super) fn expires(&self) -> Option<Timestamp> {
        let end = |der: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            leaf::timestamp(certificate.validity().not_after).ok()
        };
        self.chain.iter().map(end).collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_der(self.certificate(), self.key.pair())?;
        Ok(params.signed_by(key, &issuer)?.der().clone())
    }

    /// Writes both files, each durably.
    pub(super) fn write(&self, directory: &Path) -> Result<(), AuthorityError> {
        write_key(&directory.join(KEY_FILE), &self.key)?;
        write_chain(&directory.join(CERTIFICATE_FILE), &self.chain)
    }
}

fn write_key(path: &Path, key: &PrivateKey) -> Result<(), AuthorityError> {
    file::replace_private(path, key.expose().as_bytes()).map_err(AuthorityError::File)
}

fn write_chain(path: &Path, chain: &[CertificateDer<'static>]) -> Result<(), AuthorityError> {
    let text: String = chain.iter().map(|der| pem::certificate(der)).collect();
    file::replace_private(path, text.as_bytes()).map_err(AuthorityError::File)
}

/// Opens the CA in that directory, or makes it there on the first start.
pub(super) fn open_or_create(
    directory: &Path,
    trust_domain: &TrustDomain,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Signer, AuthorityError> {
    let (key_path, path) = (directory.join(KEY_FILE), directory.join(CERTIFICATE_FILE));
    let stored_key = file::read_private(&key_path).map_err(AuthorityError::File)?;
    let stored_certificate = file::read_private(&path).map_err(AuthorityError::File)?;
    let key = match (stored_key, &stored_certificate) {
        (Some(text), _) => PrivateKey::parse(&text)
            .map_err(|source| AuthorityError::Key { path: key_path.clone(), source })?,
        (None, Some(_)) => return Err(AuthorityError::KeyMissing { key: key_path, certificate: path }),
        (None, None) => {
            let key = PrivateKey::generate().map_err(AuthorityError::MakeKey)?;
            write_key(&key_path, &key)?;
            key
        }
    };
    let chain = match stored_certificate {
        Some(text) => pem::certificates(&text)
            .map_err(|source| AuthorityError::Certificate { path: path.clone(), source: Some(source) })?,
        None => {
            let params = params(&key, trust_domain, now, entropy);
            let certificate = params.self_signed(key.pair()).map_err(AuthorityError::Make)?.der().clone();
            let chain = vec![certificate];
            write_chain(&path, &chain)?;
            chain
        }
    };
    let signer = Signer::new(key, chain);
    check(&signer, &key_path, &path, trust_domain, now)?;
    Ok(signer)
}

/// Whether it can sign for this trust domain now.
fn check(
    signer: &Signer,
    key_path: &Path,
    path: &Path,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<(), AuthorityError> {
    let path = path.to_owned();
    let Some(stated) = Stated::read(signer.certificate()) else {
        return Err(AuthorityError::Certificate { path, source: None });
    };
    if stated.key != signer.key.digest() {
        return Err(AuthorityError::Mismatch { key: key_path.to_owned(), certificate: path });
    }
    if let Some(found) = stated.trust_domain.filter(|found| found != trust_domain.as_str()) {
        return Err(AuthorityError::OtherTrustDomain { path, found, configured: trust_domain.clone() });
    }
    check_chain(signer.chain(), &path)?;
    match signer.expires() {
        Some(ended) if ended <= now => Err(AuthorityError::Expired { path, ended }),
        Some(_) => Ok(()),
        None => Err(AuthorityError::Certificate { path, source: None }),
    }
}

/// Whether each certificate is a CA's that the next one has signed.
fn check_chain(chain: &[CertificateDer<'static>], path: &Path) -> Result<(), AuthorityError> {
    for (index, pair) in chain.windows(2).enumerate() {
        let parsed = [&pair[0], &pair[1]].map(|der| X509Certificate::from_der(der).ok());
        let follows = match &parsed {
            [Some((_, below)), Some((_, above))] => {
                above.is_ca()
                    && below.issuer().as_raw() == above.subject().as_raw()
                    && below.verify_signature(Some(above.public_key())).is_ok()
            }
            _ => false,
        };
        if !follows {
            return Err(AuthorityError::Chain { path: path.to_owned(), number: index + 2 });
        }
    }
    Ok(())
}

/// What a CA's own certificate is made of.
pub(super) fn params(
    key: &PrivateKey,
    trust_domain: &TrustDomain,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> CertificateParams {
    let id = format!("spiffe://{trust_domain}");
    // The same key has the same name, so that a certificate made anew stands for the old one; another key has another.
    let name = format!("shorepass CA {}", &key.digest().to_string()[..16]);
    let mut params = blank(&name, &id, AUTHORITY_LIFETIME, now, entropy);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// What a CA's certificate says about itself.
pub(super) struct Stated {
    key: Digest,
    /// None where another PKI has made it and does not say.
    pub(super) trust_domain: Option<String>,
}

impl Stated {
    pub(super) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let key = leaf::authority_key(der)?;
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let signs = certificate.key_usage().ok()?;
        if signs.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return None;
        }
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
        let mut domains = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
            _ => None,
        });
        let trust_domain = domains.next().map(str::to_owned);
        if domains.next().is_some() { None } else { Some(Self { key, trust_domain }) }
    }
}
