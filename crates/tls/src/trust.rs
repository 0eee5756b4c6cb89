//! Whose client certificates are good: those that the issuer's own CAs have signed, and those of trust bundles.
//!
//! A certificate is judged by the CAs of the trust domain that it names, and by no other: what one PKI signs in another's
//! name leads nowhere. Which CAs these are can be swapped while connections live. Each caller keeps which CA its chain ended
//! at, so that it can be asked on every call whether that one is still trusted.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore};
use shorepass_core::caller::Caller;
use shorepass_core::digest::Digest;
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::time::Timestamp;
use shorepass_core::trust_bundle::TrustBundle;

use crate::crypto;
use crate::leaf;
use crate::pem::{self, PemError};

/// The CAs of all trust domains whose callers there may be.
pub struct Trust {
    trust_domain: TrustDomain,
    own: ArcSwap<Anchors>,
    bundles: BTreeMap<TrustDomain, Outside>,
}

/// A trust bundle and its CAs; none before they were read for the first time.
pub(crate) struct Outside {
    pub(crate) bundle: TrustBundle,
    anchors: ArcSwapOption<Anchors>,
}

/// Why a text is no bundle of CAs.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error("it is no list of certificates in PEM")]
    Pem(#[from] PemError),
    /// A peer's certificate stands where a CA's is expected.
    #[error("certificate {0} in it is not a CA's")]
    NotAuthority(usize),
    /// It would let nobody in.
    #[error("every CA in it has expired")]
    AllEnded,
    /// There is no such bundle.
    #[error("there is no trust bundle {0}")]
    Unknown(Name),
}

impl Trust {
    /// Trusts the CAs in `bundle_pem` for the issuer's own trust domain, and none yet for the bundles.
    pub fn new(
        trust_domain: TrustDomain,
        bundle_pem: &[u8],
        bundles: Vec<TrustBundle>,
    ) -> Result<Arc<Self>, BundleError> {
        let own = ArcSwap::from_pointee(Anchors::parse(bundle_pem)?);
        let outside = |bundle: TrustBundle| {
            (bundle.trust_domain().clone(), Outside { bundle, anchors: ArcSwapOption::empty() })
        };
        Ok(Arc::new(Self { trust_domain, own, bundles: bundles.into_iter().map(outside).collect() }))
    }

    /// From the next handshake on, these are the CAs of the issuer's own trust domain (PEM).
    pub fn swap_own(&self, bundle_pem: &[u8]) -> Result<(), BundleError> {
        self.own.store(Arc::new(Anchors::parse(bundle_pem)?));
        Ok(())
    }

    /// From the next handshake on, these are the CAs of that trust bundle (PEM); how many they are.
    pub fn swap_bundle(&self, name: &Name, bundle_pem: &[u8], now: Timestamp) -> Result<usize, BundleError> {
        let found = self.bundles.values().find(|outside| outside.bundle.name() == name);
        let outside = found.ok_or_else(|| BundleError::Unknown(name.clone()))?;
        let anchors = Anchors::parse(bundle_pem)?;
        if pem::certificates(bundle_pem)?.iter().all(|der| leaf::has_ended(der, now)) {
            return Err(BundleError::AllEnded);
        }
        let count = anchors.each.len();
        outside.anchors.store(Some(Arc::new(anchors)));
        Ok(count)
    }

    /// Whether the CA that the caller's certificate leads to is still one of its trust domain's.
    pub fn trusts(&self, caller: &Caller) -> bool {
        let domain = &caller.spiffe_id().trust_domain;
        if *domain == self.trust_domain {
            return self.own.load().has(caller.authority());
        }
        let Some(outside) = self.bundles.get(domain) else { return false };
        outside.anchors.load().as_ref().is_some_and(|anchors| anchors.has(caller.authority()))
    }

    /// Whether the trust bundle of that trust domain has been read.
    pub fn has_authorities_of(&self, domain: &TrustDomain) -> bool {
        self.bundles.get(domain).is_some_and(|outside| outside.anchors.load().is_some())
    }

    /// The trust domains whose callers there may be: the issuer's own first.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        std::iter::once(&self.trust_domain).chain(self.bundles.keys())
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The trust bundle whose trust domain the certificate names. Nothing is said by it: it chooses who has to vouch.
    pub(crate) fn named_by(&self, certificate: &CertificateDer<'_>) -> Option<&Outside> {
        if self.bundles.is_empty() {
            return None;
        }
        leaf::trust_domains(certificate).iter().find_map(|domain| self.bundles.get(domain))
    }

    pub(crate) fn own(&self) -> Arc<Anchors> {
        self.own.load_full()
    }
}

impl Outside {
    /// Checks the chain; gives the digest of the CA's key that it ends at.
    pub(crate) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Digest, rustls::Error> {
        match self.anchors.load_full() {
            Some(anchors) => anchors.verify(end_entity, intermediates, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

/// CAs that are trusted together.
pub(crate) struct Anchors {
    all: Arc<dyn ClientCertVerifier>,
    /// The digest of each one's key, and what trusts it alone.
    each: Vec<(Digest, Arc<dyn ClientCertVerifier>)>,
}

impl Anchors {
    fn parse(bundle_pem: &[u8]) -> Result<Self, BundleError> {
        let certificates = pem::certificates(bundle_pem)?;
        let mut each = Vec::with_capacity(certificates.len());
        for (index, der) in certificates.iter().enumerate() {
            let key = leaf::authority_key(der).ok_or(BundleError::NotAuthority(index + 1))?;
            each.push((key, verifier(pem::anchors([der])?)));
        }
        Ok(Self { all: verifier(pem::anchors(&certificates)?), each })
    }

    fn has(&self, key: Digest) -> bool {
        self.each.iter().any(|(known, _)| *known == key)
    }

    /// Checks the chain; gives the digest of the CA's key that it ends at.
    pub(crate) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Digest, rustls::Error> {
        self.all.verify_client_cert(end_entity, intermediates, now)?;
        if let [(only, _)] = self.each[..] {
            return Ok(only);
        }
        // The library does not tell which one it was.
        let ends_at = |(_, alone): &&(Digest, Arc<dyn ClientCertVerifier>)| {
            alone.verify_client_cert(end_entity, intermediates, now).is_ok()
        };
        let found = self.each.iter().find(ends_at);
        found.map(|(key, _)| *key).ok_or_else(|| CertificateError::UnknownIssuer.into())
    }
}

fn verifier(anchors: RootCertStore) -> Arc<dyn ClientCertVerifier> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), crypto::provider())
        // With hints, other TLS libraries send nothing instead of a certificate that does not fit, and the alert would no
        // longer say what is wrong.
        .clear_root_hint_subjects()
        .build()
        .expect("there is at least one anchor, and no revocation list to misread")
}
