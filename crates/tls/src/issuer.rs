//! The issuer's certificate: the verifier of our clients.
//!
//! A client knows the issuer by its SPIFFE ID and by nothing else: DNS names and addresses in the certificate are for
//! clients that are not ours. At enrolment there is no bundle yet; then the CA is taken from the presented chain, if
//! its key is the one whose digest the join token carries.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;

use crate::crypto::{self, ChainError, Finding};
use crate::leaf::{self, LeafError};

/// Why a server is not taken for the issuer.
#[derive(Debug, thiserror::Error)]
pub enum ServerRefusal {
    /// Its chain has no CA with the key that the join token names.
    #[error("none of its certificates is the CA with public key sha256:{0}")]
    OtherAuthority(Digest),
    /// Its certificate does not lead to the CA, or not now.
    #[error("its certificate does not verify against the CA")]
    Chain(#[source] ChainError),
    /// Its certificate is not a server's of ours.
    #[error("its certificate is not an issuer's")]
    Leaf(#[source] LeafError),
    /// It is somebody else.
    #[error("its certificate names {0}")]
    OtherId(SpiffeId),
}

/// Whose signature makes the issuer.
#[derive(Clone, Debug)]
pub(crate) enum Anchor {
    /// The CAs of the client's bundle.
    Bundle(Arc<RootCertStore>),
    /// The CA with this public key, wherever it comes from.
    Key(Digest),
}

#[derive(Debug)]
pub(crate) struct IssuerVerifier {
    pub(crate) expected: SpiffeId,
    pub(crate) anchor: Anchor,
    pub(crate) finding: Finding<ServerRefusal>,
}

impl IssuerVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), ServerRefusal> {
        let chain = |error| ServerRefusal::Chain(ChainError(error));
        let anchors = match &self.anchor {
            Anchor::Bundle(anchors) => Arc::clone(anchors),
            Anchor::Key(key) => Arc::new(presented(*key, intermediates)?),
        };
        let parsed = ParsedCertificate::try_from(end_entity).map_err(chain)?;
        let algorithms = crypto::algorithms().all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &anchors, intermediates, now, algorithms)
            .map_err(chain)?;
        let leaf = leaf::server(end_entity).map_err(ServerRefusal::Leaf)?;
        if leaf.spiffe_id == self.expected { Ok(()) } else { Err(ServerRefusal::OtherId(leaf.spiffe_id)) }
    }
}

impl ServerRefusal {
    /// The error that makes rustls send the alert that fits.
    fn to_rustls(&self) -> rustls::Error {
        rustls::Error::InvalidCertificate(match self {
            Self::OtherAuthority(_) => CertificateError::UnknownIssuer,
            Self::Chain(ChainError(error)) => return error.clone(),
            Self::Leaf(error) => error.to_rustls(),
            Self::OtherId(_) => CertificateError::ApplicationVerificationFailure,
        })
    }
}

/// The presented CA that has this key, alone.
fn presented(key: Digest, intermediates: &[CertificateDer<'_>]) -> Result<RootCertStore, ServerRefusal> {
    let found = intermediates.iter().find(|der| leaf::authority_key(der) == Some(key));
    let found = found.ok_or(ServerRefusal::OtherAuthority(key))?;
    let mut anchors = RootCertStore::empty();
    anchors.add(found.clone()).map_err(|error| ServerRefusal::Chain(ChainError(error)))?;
    Ok(anchors)
}

impl ServerCertVerifier for IssuerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.verify(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(refusal) => {
                let error = refusal.to_rustls();
                self.finding.set(refusal);
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
