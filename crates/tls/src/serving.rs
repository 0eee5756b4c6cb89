//! The issuer's serving identity.
//!
//! It is made by the embedded CA, kept in memory only, and replaced before it ends: a restart makes a new one, so
//! there is no file to protect.

use std::sync::Arc;

use rustls::sign::{CertifiedKey, SingleCertAndKey};
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;
use shorepass_core::time::Timestamp;

use crate::key::{KeyError, PrivateKey};
use crate::leaf::{self, LeafError};
use crate::pem::{self, PemError};

/// A key and a chain to serve with. `Debug` shows whose it is and until when.
pub struct ServingIdentity {
    spiffe_id: SpiffeId,
    not_before: Timestamp,
    expires: Timestamp,
    certificate: Digest,
    pub(crate) resolver: Arc<SingleCertAndKey>,
}

/// Why a key and a chain do not make a serving identity.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The chain cannot be read.
    #[error("the serving certificate chain is unusable")]
    Chain(#[source] PemError),
    /// The first certificate is not an issuer's.
    #[error("the serving certificate is unusable")]
    Leaf(#[source] LeafError),
    /// The key cannot sign.
    #[error("the serving key is unusable")]
    Key(#[source] KeyError),
    /// Key and certificate do not belong together.
    #[error("the serving key does not belong to the serving certificate")]
    Mismatch,
}

impl ServingIdentity {
    /// Puts together a key and its chain, leaf first, CA last (PEM). Whether it is the right one is for clients to say.
    pub fn new(key: &PrivateKey, chain_pem: &[u8]) -> Result<Self, ServingError> {
        let chain = pem::certificates(chain_pem).map_err(ServingError::Chain)?;
        let leaf = leaf::server(&chain[0]).map_err(ServingError::Leaf)?;
        if leaf.key != key.digest() {
            return Err(ServingError::Mismatch);
        }
        let certified = CertifiedKey::new(chain, key.signing_key().map_err(ServingError::Key)?);
        Ok(Self {
            spiffe_id: leaf.spiffe_id,
            not_before: leaf.not_before,
            expires: leaf.expires,
            certificate: leaf.certificate,
            resolver: Arc::new(certified.into()),
        })
    }

    /// Whose it is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// When its certificate begins.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// When its certificate ends.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// SHA-256 of its certificate.
    pub fn certificate(&self) -> Digest {
        self.certificate
    }
}

impl std::fmt::Debug for ServingIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingIdentity")
            .field("spiffe_id", &self.spiffe_id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
