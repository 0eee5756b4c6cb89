//! Bans: who may do nothing here any more, until an operator lifts it.
//!
//! A ban of a SPIFFE ID holds for whoever comes under that name, also after it was enrolled anew; a ban of an enrolment ends
//! that one, and its name may be given to another. There is one row for each banned, written over when it is banned again:
//! what happened before is in the audit file.

use std::fmt;

use crate::block::Lifted;
use crate::caller::{Caller, Kind, Owner, SpiffeId};
use crate::id::EnrolmentId;
use crate::lease::EndCause;
use crate::ledger::Revision;
use crate::time::Timestamp;

/// What a ban is found by, and how operators name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BanKey {
    /// A SPIFFE ID.
    Name(SpiffeId),
    /// An enrolment.
    Enrolment(EnrolmentId),
}

/// A text names nobody who can be banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is neither a SPIFFE ID (spiffe://<trust domain>/<kind>/<name>) nor the id of an enrolment (a UUIDv7)"
)]
pub struct NoBanKey;

impl BanKey {
    /// A SPIFFE ID of our form, or an enrolment's id.
    pub fn parse(text: &str) -> Result<Self, NoBanKey> {
        if let Ok(name) = SpiffeId::parse(text) {
            return Ok(Self::Name(name));
        }
        EnrolmentId::parse(text).map(Self::Enrolment).map_err(|_| NoBanKey)
    }
}

impl fmt::Display for BanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Enrolment(enrolment) => enrolment.fmt(f),
        }
    }
}

/// Who is banned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Banned {
    /// Everybody of this name.
    Name(SpiffeId),
    /// One enrolment of a name.
    Enrolment(Owner),
}

impl Banned {
    /// Whose ban it is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        match self {
            Self::Name(name) => name,
            Self::Enrolment(owner) => &owner.spiffe_id,
        }
    }

    /// What its ban is found by.
    pub fn key(&self) -> BanKey {
        match self {
            Self::Name(name) => BanKey::Name(name.clone()),
            Self::Enrolment(owner) => BanKey::Enrolment(owner.enrolment),
        }
    }

    /// Whether it holds for this owner.
    pub fn covers(&self, owner: &Owner) -> bool {
        match self {
            Self::Name(name) => *name == owner.spiffe_id,
            Self::Enrolment(banned) => banned.enrolment == owner.enrolment,
        }
    }
}

/// In a sentence.
impl fmt::Display for Banned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Enrolment(owner) => write!(f, "enrolment {} of {}", owner.enrolment, owner.spiffe_id),
        }
    }
}

/// A ban, in force unless it was lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Who is banned: its key in the ledger.
    pub banned: Banned,
    /// Since when.
    pub set: Timestamp,
    /// Who set it.
    pub by: SpiffeId,
    /// Why.
    pub reason: String,
    /// When and by whom it was lifted.
    pub lifted: Option<Lifted>,
    /// Counts its changes, from 1.
    pub revision: Revision,
}

/// Why there is no such ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// Nobody bans itself: a slip would lock the last operator out.
    #[error("nobody bans itself; let another operator do it")]
    Oneself,
    /// The issuer's own identity.
    #[error("an issuer's own identity cannot be banned: stop the issuer, or begin a new CA")]
    Issuer,
}

impl Ban {
    /// Of `banned`, over the ban that there was of it before, if any.
    pub fn set(
        banned: Banned,
        before: Option<&Self>,
        by: &Caller,
        reason: String,
        now: Timestamp,
    ) -> Result<Self, BanError> {
        if banned.spiffe_id().kind == Kind::Issuer {
            return Err(BanError::Issuer);
        }
        if banned.covers(&by.owner()) {
            return Err(BanError::Oneself);
        }
        let revision = before.map_or(Revision::FIRST, |before| before.revision.next());
        Ok(Self { banned, set: now, by: by.spiffe_id().clone(), reason, lifted: None, revision })
    }

    /// Whether it refuses.
    pub fn in_force(&self) -> bool {
        self.lifted.is_none()
    }

    /// Why the leases of the banned end.
    pub fn cause(&self) -> EndCause {
        EndCause::OwnerBanned { by: self.by.clone(), reason: self.reason.clone() }
    }

    /// The ban after it was lifted.
    pub fn lift(self, at: Timestamp, by: SpiffeId) -> Self {
        Self { lifted: Some(Lifted { at, by }), revision: self.revision.next(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::VerifiedPeer;
    use crate::digest::Digest;

    const FIRST: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
    const SECOND: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8e";

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://d/{text}")).unwrap()
    }

    fn owner(name: &str, enrolment: &str) -> Owner {
        Owner { spiffe_id: id(name), enrolment: EnrolmentId::parse(enrolment).unwrap() }
    }

    fn ban(banned: Banned) -> Result<Ban, BanError> {
        let alice = owner("operator/alice", FIRST);
        let by = Caller::from_verified_peer(VerifiedPeer {
            spiffe_id: alice.spiffe_id,
            enrolment: alice.enrolment,
            issued: Timestamp::MAX,
            expires: Timestamp::MAX,
            authority: Digest::of_bytes(b"authority"),
            certificate: Digest::of_bytes(b"certificate"),
            key: Digest::of_bytes(b"key"),
        });
        Ban::set(banned, None, &by, "lost".to_owned(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_name_is_banned_in_all_of_its_enrolments_and_an_enrolment_alone() {
        let (one, again) = (owner("runner/r", FIRST), owner("runner/r", SECOND));
        let name = Banned::Name(id("runner/r"));
        assert!(name.covers(&one) && name.covers(&again));
        assert!(!name.covers(&owner("platform/r", FIRST)));
        let enrolment = Banned::Enrolment(one.clone());
        assert!(enrolment.covers(&one) && !enrolment.covers(&again));
    }

    #[test]
    fn operators_name_a_spiffe_id_or_an_enrolment() {
        assert_eq!(BanKey::parse("spiffe://d/runner/r"), Ok(BanKey::Name(id("runner/r"))));
        assert_eq!(BanKey::parse(FIRST).unwrap().to_string(), FIRST);
        for bad in ["", "r", "spiffe://d/runner", "list", "0198c5a2"] {
            assert_eq!(BanKey::parse(bad), Err(NoBanKey), "{bad}");
        }
    }

    #[test]
    fn nobody_bans_itself_or_the_issuer() {
        assert_eq!(ban(Banned::Name(id("operator/alice"))), Err(BanError::Oneself));
        assert_eq!(ban(Banned::Enrolment(owner("operator/alice", FIRST))), Err(BanError::Oneself));
        assert_eq!(ban(Banned::Name(id("issuer/main"))), Err(BanError::Issuer));
        for other in ["runner/alice", "platform/p", "operator/bob"] {
            assert!(ban(Banned::Name(id(other))).unwrap().in_force(), "{other}");
        }
    }

    #[test]
    fn a_lifted_ban_refuses_nobody_and_can_be_set_again() {
        let first = ban(Banned::Name(id("runner/r"))).unwrap();
        let lifted = first.clone().lift(Timestamp::UNIX_EPOCH, id("operator/bob"));
        assert!(!lifted.in_force());
        assert_eq!((first.revision.number(), lifted.revision.number()), (1, 2));
    }
}
