//! P-256 private keys.
//!
//! Our buffers are wiped on drop; those inside the libraries that generate, sign and encode are theirs. Keys are made
//! by aws-lc-rs with its own generator, not with the entropy that the rest of the program is given: it takes no other.

use std::fmt;
use std::sync::Arc;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use shorepass_core::digest::Digest;
use zeroize::Zeroizing;

/// A P-256 private key. `Debug` shows the digest of its public key.
pub struct PrivateKey(Zeroizing<KeyPair>);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system's generator failed.
    #[error("cannot generate a P-256 key")]
    Generate(#[source] rcgen::Error),
    /// It is no PEM with a private key.
    #[error("there is no readable private key in it")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// It is a key of another kind.
    #[error("the private key in it is not one for P-256")]
    Kind(#[source] rcgen::Error),
    /// It cannot sign handshakes.
    #[error("the private key in it cannot sign")]
    Sign(#[source] rustls::Error),
}

impl PrivateKey {
    /// A new one.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        Ok(Self(Zeroizing::new(pair)))
    }

    /// The first private key of a PEM text.
    pub fn parse(pem: &[u8]) -> Result<Self, KeyError> {
        let der = Zeroizing::new(PrivateKeyDer::from_pem_slice(pem).map_err(KeyError::Pem)?);
        let pair = KeyPair::from_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(KeyError::Kind)?;
        Ok(Self(Zeroizing::new(pair)))
    }

    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER).
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(&self.0.subject_public_key_info())
    }

    /// The key itself, PKCS #8, PEM.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// For signing certificates and requests.
    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }

    /// For signing handshakes.
    pub(crate) fn signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialized_der()));
        any_ecdsa_type(&der).map_err(KeyError::Sign)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(public sha256:{})", self.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exposed_key_parses_back() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(PrivateKey::parse(key.expose().as_bytes()).unwrap().digest(), key.digest());
    }

    #[test]
    fn debug_shows_nothing_of_the_key() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), format!("PrivateKey(public sha256:{})", key.digest()));
    }

    #[test]
    fn other_kinds_of_keys_are_refused() {
        for other in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let pem = KeyPair::generate_for(other).unwrap().serialize_pem();
            assert!(matches!(PrivateKey::parse(pem.as_bytes()), Err(KeyError::Kind(_))));
        }
        assert!(matches!(PrivateKey::parse(b"nothing"), Err(KeyError::Pem(_))));
    }
}
