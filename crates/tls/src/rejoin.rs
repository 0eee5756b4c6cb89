//! Proof of a key whose certificate has ended: what a runner that slept too long comes back with.
//!
//! The key signs a statement over the issuer's nonce, its certificate and the new key that is asked for. The statement
//! begins as nothing else begins that these keys sign: a handshake's starts with spaces (RFC 8446, section 4.4.3), a
//! certificate request's is DER. Whether the certificate's time is over is not asked here.

use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, alg_id};
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;
use shorepass_core::id::EnrolmentId;
use shorepass_core::time::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::authority::Authority;
use crate::crypto;
use crate::identity::Identity;
use crate::key::PrivateKey;
use crate::leaf::{self, LeafError};
use crate::pem::{self, PemError};

/// What every statement begins with.
const CONTEXT: &[u8] = b"shorepass rejoin 1\0";
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// A client's certificate of this CA, whatever its time.
#[derive(Clone, Debug)]
pub struct Lapsed {
    spiffe_id: SpiffeId,
    enrolment: EnrolmentId,
    expires: Timestamp,
    certificate: Digest,
    key: Digest,
    public_key: Vec<u8>,
}

/// Why a text is no certificate of this CA.
#[derive(Debug, thiserror::Error)]
pub enum LapsedError {
    /// It cannot be read.
    #[error("it is not a certificate in PEM")]
    Pem(#[source] PemError),
    /// It is not a client's.
    #[error("it is not the certificate of a client")]
    Leaf(#[source] LeafError),
    /// Another CA signed it.
    #[error("it was not signed by this issuer's CA")]
    Signature,
}

/// The key cannot sign.
#[derive(Debug, thiserror::Error)]
#[error("the key of this identity cannot sign")]
pub struct ProofError(#[source] Option<rustls::Error>);

impl Authority {
    /// Reads a client's certificate that this CA has signed, or one that is trusted besides.
    pub fn lapsed(&self, certificate_pem: &[u8]) -> Result<Lapsed, LapsedError> {
        let certificates = pem::certificates(certificate_pem).map_err(LapsedError::Pem)?;
        let der = certificates.first().ok_or(LapsedError::Pem(PemError::Empty))?;
        let certificate = parse(der).ok_or(LapsedError::Leaf(LeafError::Encoding))?;
        let has_signed = |authority: &CertificateDer<'_>| {
            let authority = parse(authority);
            authority.is_some_and(|ca| certificate.verify_signature(Some(ca.public_key())).is_ok())
        };
        if !self.trusted().iter().any(has_signed) {
            return Err(LapsedError::Signature);
        }
        let (leaf, enrolment) = leaf::client(der).map_err(LapsedError::Leaf)?;
        Ok(Lapsed {
            spiffe_id: leaf.spiffe_id,
            enrolment,
            expires: leaf.expires,
            certificate: leaf.certificate,
            key: leaf.key,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }
}

impl Lapsed {
    /// Whose it was.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// Which of its enrolments.
    pub fn enrolment(&self) -> EnrolmentId {
        self.enrolment
    }

    /// When it ended.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// SHA-256 of it.
    pub fn certificate(&self) -> Digest {
        self.certificate
    }

    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER).
    pub fn key(&self) -> Digest {
        self.key
    }

    /// Whether its key has signed for this nonce and this new key.
    pub fn is_proved_by(&self, signature: &[u8], nonce: &[u8], wanted: Digest) -> bool {
        let message = statement(nonce, self.certificate, wanted);
        let supported = crypto::algorithms();
        let ways = supported.mapping.iter().filter(|(scheme, _)| *scheme == SCHEME);
        let mut ways = ways.flat_map(|(_, ways)| ways.iter());
        ways.any(|way| {
            way.public_key_alg_id() == alg_id::ECDSA_P256
                && way.verify_signature(&self.public_key, &message, signature).is_ok()
        })
    }
}

impl Identity {
    /// The certificate alone, PEM.
    pub fn certificate_pem(&self) -> Vec<u8> {
        self.leaf().map(|der| pem::certificate(der)).unwrap_or_default().into_bytes()
    }

    /// Proves for this nonce that its key is here, and asks for a certificate for `wanted`.
    pub fn prove(&self, nonce: &[u8], wanted: Digest) -> Result<Vec<u8>, ProofError> {
        sign(self.key(), &statement(nonce, self.certificate(), wanted))
    }
}

fn sign(key: &PrivateKey, message: &[u8]) -> Result<Vec<u8>, ProofError> {
    let key = key.signing_key().map_err(|_| ProofError(None))?;
    let signer = key.choose_scheme(&[SCHEME]).ok_or(ProofError(None))?;
    signer.sign(message).map_err(|error| ProofError(Some(error)))
}

fn statement(nonce: &[u8], certificate: Digest, wanted: Digest) -> Vec<u8> {
    let digest = Digest::of_parts([nonce, certificate.as_bytes(), wanted.as_bytes()]);
    [CONTEXT, digest.as_bytes().as_slice()].concat()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use shorepass_testing::certificates::TestCa;

    use super::*;
    use crate::fixture::{TestEntropy, now, runner, subject, trust_domain};

    const NONCE: &[u8] = b"nonce";

    struct Place {
        authority: Authority,
        identity: Identity,
        _folder: tempfile::TempDir,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(folder.path(), &trust_domain(), now(), Arc::<TestEntropy>::default())
                .unwrap();
        let enrolment = subject().enrolment;
        let identity =
            authority.create_identity(&runner(), enrolment, Duration::from_secs(60), now()).unwrap();
        Place { authority, identity, _folder: folder }
    }

    #[test]
    fn a_key_proves_itself_for_one_nonce_and_one_new_key() {
        let Place { authority, identity, _folder } = place();
        let lapsed = authority.lapsed(&identity.certificate_pem()).unwrap();
        assert_eq!((lapsed.spiffe_id(), lapsed.enrolment()), (&runner(), identity.enrolment().unwrap()));
        assert_eq!((lapsed.certificate(), lapsed.expires()), (identity.certificate(), identity.expires()));
        let wanted = Digest::of_bytes(b"wanted");
        let signature = identity.prove(NONCE, wanted).unwrap();
        assert!(lapsed.is_proved_by(&signature, NONCE, wanted));
        assert!(!lapsed.is_proved_by(&signature, b"other", wanted));
        assert!(!lapsed.is_proved_by(&signature, NONCE, Digest::of_bytes(b"other")));
        assert!(!lapsed.is_proved_by(&signature[1..], NONCE, wanted));
        let stranger = place().identity.prove(NONCE, wanted).unwrap();
        assert!(!lapsed.is_proved_by(&stranger, NONCE, wanted));
    }

    #[test]
    fn certificates_of_other_authorities_are_none() {
        let Place { authority, _folder, .. } = place();
        let foreign = TestCa::new(&trust_domain());
        let pem = foreign.client(&subject()).identity_pem(foreign.certificate_pem());
        let foreign = Identity::parse(pem.as_bytes()).unwrap();
        let refused = authority.lapsed(&foreign.certificate_pem());
        assert!(matches!(refused, Err(LapsedError::Signature)), "{refused:?}");
        assert!(matches!(authority.lapsed(&authority.bundle_pem()), Err(LapsedError::Leaf(_))));
        assert!(matches!(authority.lapsed(b"nothing"), Err(LapsedError::Pem(_))));
    }
}
