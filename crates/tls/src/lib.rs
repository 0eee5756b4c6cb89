//! Identities, the embedded CA, enrolment material and hot-swapped TLS configurations: the only rustls user.
//!
//! No type of rustls, rcgen or x509-parser appears in the public functions, so what is decided about TLS is decided
//! here: version 1.3 only, no resumption, no early data, HTTP/2 only, hybrid post-quantum key exchange preferred. There
//! is no switch that makes it laxer. It opens no listener and runs no task.

mod alert;
mod authority;
mod client;
mod crypto;
mod file;
mod identity;
mod issuer;
mod join_token;
mod key;
mod leaf;
mod peer;
mod pem;
mod rejoin;
mod request;
mod server;
mod serving;
mod stream;
mod trust;

pub use alert::Alert;
pub use authority::authority_digest;
pub use authority::{
    Authority, AuthorityError, MAX_LIFETIME, Phase, RotateError, RotationPlan, SignError, SignedCertificate,
};
pub use client::{CONNECT_DEADLINE, ConnectError, Connector, CurrentIdentity};
pub use crypto::ChainError;
pub use file::FileError;
pub use identity::{Identity, IdentityError, IdentityFile, IdentityFileError};
pub use issuer::ServerRefusal;
pub use join_token::{JoinTokenError, JoinTokenText};
pub use key::{KeyError, PrivateKey};
pub use leaf::LeafError;
pub use peer::ClientRefusal;
pub use pem::PemError;
pub use rejoin::{Lapsed, LapsedError, ProofError};
pub use request::{CertificateRequest, KeyAndRequest, REQUEST_LIMIT, RequestError};
pub use server::{ApiAcceptor, EnrollAcceptor, HandshakeError, Serving};
pub use serving::{ServingError, ServingIdentity};
pub use stream::{IssuerStream, PeerStream};
pub use trust::{BundleError, Trust};

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
