//! Client certificates: the verifier of the `api` listener.
//!
//! One verifier is made for each connection, so that what it read from the certificate leaves the handshake through
//! it: nothing reads the certificate a second time. The chain is checked first; the names in a certificate that
//! nobody trusted signed are never looked at.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use shorepass_core::caller::{Kind, SpiffeId, VerifiedPeer};
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::time::after;

use crate::authority::BACKDATED;
use crate::crypto::{self, ChainError, Finding};
use crate::leaf::{self, LeafError};
use crate::trust::{Outside, Trust};

/// Why a client's certificate was refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientRefusal {
    /// It showed none.
    #[error("it presented no certificate")]
    Missing,
    /// Its certificate does not lead to the bundle, or not now.
    #[error("its certificate does not verify against the trust bundle")]
    Chain(#[source] ChainError),
    /// Its certificate names a trust bundle's trust domain and does not lead to that bundle, or not now.
    #[error(
        "its certificate is of the trust domain of trust bundle {bundle}, and does not verify against that"
    )]
    BundleChain {
        /// Which bundle.
        bundle: Name,
        /// Why not.
        source: ChainError,
    },
    /// The trust bundle is not for such a SPIFFE ID.
    #[error("{id} is of a kind or has a path that trust bundle {bundle} is not for")]
    NotOfBundle {
        /// Which bundle.
        bundle: Name,
        /// Whose certificate it is.
        id: SpiffeId,
    },
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

impl Trust {
    /// The verifier for one connection, and where it puts what it found.
    pub(crate) fn verifier(self: &Arc<Self>) -> (Arc<ClientVerifier>, Finding<Found>) {
        let finding = Finding::new();
        let verifier = ClientVerifier { trust: Arc::clone(self), finding: finding.handle() };
        (Arc::new(verifier), finding)
    }
}

/// What the verifier found.
pub(crate) type Found = Result<VerifiedPeer, ClientRefusal>;

pub(crate) struct ClientVerifier {
    trust: Arc<Trust>,
    finding: Finding<Found>,
}

impl ClientVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Found {
        match self.trust.named_by(end_entity) {
            Some(outside) => of_bundle(outside, end_entity, intermediates, now),
            None => self.of_own_domain(end_entity, intermediates, now),
        }
    }

    fn of_own_domain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Found {
        let chain = self.trust.own().verify(end_entity, intermediates, now);
        let authority = chain.map_err(|error| ClientRefusal::Chain(ChainError(error)))?;
        let (leaf, enrolment) = leaf::client(end_entity).map_err(ClientRefusal::Leaf)?;
        let expected = self.trust.trust_domain();
        if leaf.spiffe_id.trust_domain != *expected {
            let (found, expected) = (leaf.spiffe_id.trust_domain, expected.clone());
            return Err(ClientRefusal::TrustDomain { found, expected });
        }
        match leaf.spiffe_id.kind {
            Kind::Runner | Kind::Platform | Kind::Operator => {}
            Kind::Issuer => return Err(ClientRefusal::Kind),
        }
        Ok(VerifiedPeer {
            spiffe_id: leaf.spiffe_id,
            enrolment,
            authority,
            issued: after(leaf.not_before, BACKDATED),
            expires: leaf.expires,
            certificate: leaf.certificate,
            key: leaf.key,
        })
    }
}

/// Somebody whom another PKI vouches for.
fn of_bundle(
    outside: &Outside,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Found {
    let name = outside.bundle.name();
    let authority = outside
        .verify(end_entity, intermediates, now)
        .map_err(|error| ClientRefusal::BundleChain { bundle: name.clone(), source: ChainError(error) })?;
    let leaf = leaf::outside_client(end_entity).map_err(ClientRefusal::Leaf)?;
    if !outside.bundle.admits(&leaf.spiffe_id) {
        return Err(ClientRefusal::NotOfBundle { bundle: name.clone(), id: leaf.spiffe_id });
    }
    Ok(VerifiedPeer {
        enrolment: outside.bundle.enrolment_of(&leaf.spiffe_id),
        spiffe_id: leaf.spiffe_id,
        authority,
        issued: leaf.not_before, // it is not known by how much others date back
        expires: leaf.expires,
        certificate: leaf.certificate,
        key: leaf.key,
    })
}

impl std::fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientVerifier")
    }
}

impl ClientRefusal {
    /// The error that makes rustls send the alert that fits.
    fn to_rustls(&self) -> rustls::Error {
        let error = match self {
            Self::Missing => return rustls::Error::NoCertificatesPresented,
            Self::Chain(ChainError(error)) | Self::BundleChain { source: ChainError(error), .. } => {
                match error {
                    // A CA of the same name did not sign it, so another one did: "unknown CA" says that, "decrypt error" does
                    // not.
                    rustls::Error::InvalidCertificate(CertificateError::BadSignature) => {
                        CertificateError::UnknownIssuer
                    }
                    other => return other.clone(),
                }
            }
            Self::Leaf(error) => error.to_rustls(),
            Self::TrustDomain { .. } | Self::NotOfBundle { .. } | Self::Kind => {
                CertificateError::ApplicationVerificationFailure
            }
        };
        rustls::Error::InvalidCertificate(error)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
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
