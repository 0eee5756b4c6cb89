//! Who calls: SPIFFE IDs, kinds, and the [`Caller`] that only certificate verification makes.
//!
//! The owner of a lease is (trust bundle, SPIFFE ID, enrolment): a renewed certificate is the same owner, a replaced
//! enrolment is another one. Whom the issuer's own CA has signed has an enrolment; whoever comes with a certificate of a
//! [`TrustBundle`](crate::trust_bundle::TrustBundle) has none, and an id made of bundle and SPIFFE ID in its place.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::EnrolmentId;
use crate::name::{Name, NameError, TrustDomain};
use crate::time::Timestamp;

/// What a peer is; one kind never does what another does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A machine that executes CI jobs.
    Runner,
    /// An internal system that calls the API itself.
    Platform,
    /// A person or tool that administers.
    Operator,
    /// The issuer's own serving identity.
    Issuer,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Runner, Self::Platform, Self::Operator, Self::Issuer];

    /// As it stands in a SPIFFE ID.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runner => "runner",
            Self::Platform => "platform",
            Self::Operator => "operator",
            Self::Issuer => "issuer",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `spiffe://<trust domain>/{runner,platform,operator,issuer}/<name>` (SPIFFE-ID).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// Whose identity it is.
    pub trust_domain: TrustDomain,
    /// What the peer is.
    pub kind: Kind,
    /// Its name, unique in its kind.
    pub name: Name,
}

/// Why a text is not one of our SPIFFE IDs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Not of our form.
    #[error("{0:?} is not of the form spiffe://<trust domain>/<runner|platform|operator|issuer>/<name>")]
    Form(String),
    /// A part of it is malformed.
    #[error("SPIFFE ID {id:?} has a malformed part")]
    Part {
        /// The whole text.
        id: String,
        /// What is wrong with the part.
        source: NameError,
    },
}

impl SpiffeId {
    /// Parses a SPIFFE ID of our form and no other.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let form = || SpiffeIdError::Form(text.to_owned());
        let part = |source| SpiffeIdError::Part { id: text.to_owned(), source };
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let (trust_domain, path) = rest.split_once('/').ok_or_else(form)?;
        let (kind, name) = path.split_once('/').ok_or_else(form)?;
        let kind = Kind::ALL.into_iter().find(|candidate| candidate.as_str() == kind).ok_or_else(form)?;
        let trust_domain = TrustDomain::parse(trust_domain).map_err(part)?;
        let name = Name::parse(name).map_err(part)?;
        Ok(Self { trust_domain, kind, name })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}/{}", self.trust_domain, self.kind, self.name)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        Self::parse(&text)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> String {
        id.to_string()
    }
}

/// Whom a lease or a job belongs to; never a key that renewal replaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The enrolment behind it, or what stands for the trust bundle.
    pub enrolment: EnrolmentId,
}

impl Owner {
    /// Whether it is of the issuer's own trust domain, and of no trust bundle.
    pub fn is_own(&self) -> bool {
        !self.enrolment.is_of_bundle()
    }

    /// Stands for the owner where its name should not be seen.
    pub fn digest(&self) -> Digest {
        Digest::of_parts([self.spiffe_id.to_string().as_bytes(), self.enrolment.as_bytes()])
    }
}

/// Whom a lease belongs to, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LeaseOwner {
    /// This owner.
    Known(Owner),
    /// Whoever has this digest ([`Owner::digest`]): all that an anchor tells of the owner of a lease whose record was lost.
    Digest(Digest),
}

impl LeaseOwner {
    /// The owner, if it is known by name.
    pub fn known(&self) -> Option<&Owner> {
        match self {
            Self::Known(owner) => Some(owner),
            Self::Digest(_) => None,
        }
    }

    /// Its SPIFFE ID, if that is known.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.known().map(|owner| &owner.spiffe_id)
    }

    /// Stands for the owner where its name should not be seen.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Known(owner) => owner.digest(),
            Self::Digest(digest) => *digest,
        }
    }

    /// Whether it is this one.
    pub fn is(&self, owner: &Owner) -> bool {
        match self {
            Self::Known(known) => known == owner,
            Self::Digest(digest) => *digest == owner.digest(),
        }
    }
}

impl From<Owner> for LeaseOwner {
    fn from(owner: Owner) -> Self {
        Self::Known(owner)
    }
}

/// In a sentence.
impl fmt::Display for LeaseOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(owner) => owner.spiffe_id.fmt(f),
            Self::Digest(digest) => write!(f, "an owner that is known by its digest {digest} alone"),
        }
    }
}

/// What certificate verification found, and all that is used of the certificate afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// The only URI name of the certificate.
    pub spiffe_id: SpiffeId,
    /// The enrolment that the certificate names, or what stands for the trust bundle that it leads to.
    pub enrolment: EnrolmentId,
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER) of the CA that its chain ends at.
    pub authority: Digest,
    /// When the certificate was made, as it says itself.
    pub issued: Timestamp,
    /// When the certificate ends.
    pub expires: Timestamp,
    /// SHA-256 of the certificate, DER: names it in audit lines.
    pub certificate: Digest,
    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER): tells which of a lineage it is.
    pub key: Digest,
}

/// A verified peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    peer: VerifiedPeer,
}

impl Caller {
    /// The only way to make a caller. `cargo xtask tidy` lists who may call this: the TLS acceptor.
    pub fn from_verified_peer(peer: VerifiedPeer) -> Self {
        Self { peer }
    }

    /// Its SPIFFE ID.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.peer.spiffe_id
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.peer.spiffe_id.kind
    }

    /// Its enrolment.
    pub fn enrolment(&self) -> EnrolmentId {
        self.peer.enrolment
    }

    /// Whether it is of the issuer's own trust domain, and of no trust bundle.
    pub fn is_own(&self) -> bool {
        !self.peer.enrolment.is_of_bundle()
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER) of the CA that its certificate leads to.
    pub fn authority(&self) -> Digest {
        self.peer.authority
    }

    /// When its certificate was made, as that says itself.
    pub fn issued(&self) -> Timestamp {
        self.peer.issued
    }

    /// When its certificate ends.
    pub fn expires(&self) -> Timestamp {
        self.peer.expires
    }

    /// SHA-256 of its certificate.
    pub fn certificate(&self) -> Digest {
        self.peer.certificate
    }

    /// SHA-256 of its certificate's public key (SubjectPublicKeyInfo, DER).
    pub fn key(&self) -> Digest {
        self.peer.key
    }

    /// As the owner of what it creates.
    pub fn owner(&self) -> Owner {
        Owner { spiffe_id: self.peer.spiffe_id.clone(), enrolment: self.peer.enrolment }
    }

    /// Whether it owns what belongs to `owner`.
    pub fn owns(&self, owner: &Owner) -> bool {
        self.peer.spiffe_id == owner.spiffe_id && self.peer.enrolment == owner.enrolment
    }

    /// Whether it owns a lease that belongs to `owner`.
    pub fn owns_lease(&self, owner: &LeaseOwner) -> bool {
        owner.is(&self.owner())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_owner() -> impl Strategy<Value = Owner> {
        let enrolment = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8[0-3]";
        ("spiffe://[de]/(runner|platform)/[ab]", enrolment).prop_map(|(id, enrolment)| Owner {
            spiffe_id: SpiffeId::parse(&id).unwrap(),
            enrolment: EnrolmentId::parse(&enrolment).unwrap(),
        })
    }

    fn caller(owner: &Owner) -> Caller {
        let expires = Timestamp::from_second(1).unwrap();
        Caller::from_verified_peer(VerifiedPeer {
            spiffe_id: owner.spiffe_id.clone(),
            enrolment: owner.enrolment,
            authority: Digest::of_bytes(b"authority"),
            issued: expires,
            expires,
            certificate: Digest::of_bytes(b"certificate"),
            key: Digest::of_bytes(b"key"),
        })
    }

    proptest! {
        #[test]
        fn a_lease_is_its_owners_and_nobody_elses_whether_the_name_is_known_or_not(
            one in any_owner(), other in any_owner()
        ) {
            for owner in [LeaseOwner::Known(one.clone()), LeaseOwner::Digest(one.digest())] {
                prop_assert!(caller(&one).owns_lease(&owner));
                prop_assert_eq!(caller(&other).owns_lease(&owner), other == one);
                prop_assert_eq!(owner.digest(), one.digest());
            }
        }
    }

    #[test]
    fn spiffe_ids_of_our_form_round_trip() {
        let text = "spiffe://ci.example.org/runner/prod-1";
        assert_eq!(SpiffeId::parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn other_spiffe_ids_are_refused() {
        for bad in [
            "spiffe://ci.example.org/runner",
            "spiffe://ci.example.org/runner/",
            "spiffe://ci.example.org/runner/a/b",
            "spiffe://ci.example.org/admin/a",
            "spiffe://ci.example.org/Runner/a",
            "spiffe://CI.example.org/runner/a",
            "spiffe:///runner/a",
            "spiffe://ci.example.org//runner/a",
            "spiffe://ci.example.org/runner/a?x",
            "https://ci.example.org/runner/a",
            "",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }
}
