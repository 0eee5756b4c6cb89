//! Why there is no CA, and why it has signed nothing.

use std::path::PathBuf;
use std::time::Duration;

use shorepass_core::caller::SpiffeId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::Timestamp;

use crate::file::FileError;
use crate::identity::IdentityError;
use crate::key::KeyError;
use crate::leaf::LeafError;
use crate::pem::PemError;
use crate::request::RequestError;
use crate::serving::ServingError;

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
    /// The certificates do not lead from one to the next.
    #[error(
        "certificate {number} in {path} is no CA that has signed the one before it; write the signing CA's first, then each one's issuer"
    )]
    Chain {
        /// The certificates' file.
        path: PathBuf,
        /// Which one, counted from 1.
        number: usize,
    },
    /// The file of a rotation is unusable.
    #[error(
        "{path} is not a usable rotation of the CA beside it; restore it from a backup together with ca.key and ca.pem"
    )]
    Rotation {
        /// Which file.
        path: PathBuf,
    },
    /// The CA certificate was not made.
    #[error("cannot make the CA certificate")]
    Make(#[source] rcgen::Error),
    /// The CA key was not made.
    #[error("cannot make the CA key")]
    MakeKey(#[source] KeyError),
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Longer than [`MAX_LIFETIME`](super::MAX_LIFETIME).
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
