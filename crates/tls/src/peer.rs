//! Client certificates: the verifier of the `api` listener.
//!
//! One verifier is made for each connection, so that what it read from the certificate leaves the handshake through
//! it: nothing reads the certificate a second time. The chain is checked first; the names in a certificate that
//! nobody trusted signed are never looked at.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use shorepass_core::caller::{Kind, VerifiedPeer};
use shorepass_core::name::TrustDomain;
use shorepass_core::time::after;

use crate::authority::BACKDATED;
use crate::crypto::{self, ChainError, Finding};
use crate::leaf::{self, LeafError};

/// Why a client's certificate was refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientRefusal {
    /// It showed none.
    #[error("it presented no certificate")]
    Missing,
    /// Its certificate does not lead to the bundle, or not now.
    #[error("its certificate does not verify against the trust bundle")]
    Chain(#[source] ChainError),
    /// Its certificate is not a client's of ours.
    #[error("its certificate is not a client's")]
    Leaf(#[source] LeafError),
    /// Its certificate is of another trust domain.
    #[error("its certificate is of trust domain {found}, not {expected}")]
    TrustDomain {
        /// Of which.
        found: TrustDomain,
        /// Ours.
        expected: TrustDomain,
    },
    /// It is an issuer's, which never calls.
    #[error("its certificate is an issuer's, which is for serving only")]
    Kind,
}

/// Whom the `api` listener lets in.
pub(crate) struct ClientTrust {
    chain: Arc<dyn ClientCertVerifier>,
}

impl ClientTrust {
    /// Clients whose certificates lead to one of these.
    pub(crate) fn new(anchors: RootCertStore) -> Self {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), crypto::provider())
            // With hints, other TLS libraries send nothing instead of a certificate that does not fit, and the alert
            // would no longer say what is wrong.
            .clear_root_hint_subjects()
            .build()
            .expect("there is at least one anchor, and no revocation list to misread");
        Self { chain }
    }

    /// The verifier for one connection, and where it puts what it found.
    pub(crate) fn verifier(&self, trust_domain: &TrustDomain) -> (Arc<ClientVerifier>, Finding<Found>) {
        let finding = Finding::new();
        let verifier = ClientVerifier {
            chain: Arc::clone(&self.chain),
            trust_domain: trust_domain.clone(),
            finding: finding.handle(),
        };
        (Arc::new(verifier), finding)
    }
}

/// What the verifier found.
pub(crate) type Found = Result<VerifiedPeer, ClientRefusal>;

#[derive(Debug)]
pub(crate) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
    finding: Finding<Found>,
}

impl ClientVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedPeer, ClientRefusal> {
        let chain = self.chain.verify_client_cert(end_entity, intermediates, now);
        chain.map_err(|error| ClientRefusal::Chain(ChainError(error)))?;
        let (leaf, enrolment) = leaf::client(end_entity).map_err(ClientRefusal::Leaf)?;
        if leaf.spiffe_id.trust_domain != self.trust_domain {
            let (found, expected) = (leaf.spiffe_id.trust_domain, self.trust_domain.clone());
            return Err(ClientRefusal::TrustDomain { found, expected });
        }
        match leaf.spiffe_id.kind {
            Kind::Runner | Kind::Platform | Kind::Operator => {}
            Kind::Issuer => return Err(ClientRefusal::Kind),
        }
        Ok(VerifiedPeer {
            spiffe_id: leaf.spiffe_id,
            enrolment,
            issued: after(leaf.not_before, BACKDATED),
            expires: leaf.expires,
            certificate: leaf.certificate,
            key: leaf.key,
        })
    }
}

impl ClientRefusal {
    /// The error that makes rustls send the alert that fits.
    fn to_rustls(&self) -> rustls::Error {
        let error = match self {
            Self::Missing => return rustls::Error::NoCertificatesPresented,
            // A CA of the same name did not sign it, so another one did: "unknown CA" says that, "decrypt error" does not.
            Self::Chain(ChainError(rustls::Error::InvalidCertificate(CertificateError::BadSignature))) => {
                CertificateError::UnknownIssuer
            }
            Self::Chain(ChainError(error)) => return error.clone(),
            Self::Leaf(error) => error.to_rustls(),
            Self::TrustDomain { .. } | Self::Kind => CertificateError::ApplicationVerificationFailure,
        };
        rustls::Error::InvalidCertificate(error)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.verify(end_entity, intermediates, now) {
            Ok(peer) => {
                self.finding.set(Ok(peer));
                Ok(ClientCertVerified::assertion())
            }
            Err(refusal) => {
                let error = refusal.to_rustls();
                self.finding.set(Err(refusal));
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(crypto::old_version())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_handshake(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::algorithms().supported_schemes()
    }
}
