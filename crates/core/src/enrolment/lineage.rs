//! An enrolment and the lineage of its certificates: which one is in use, which one is to follow, and who uses one that is
//! over.
//!
//! Each renewal makes the next certificate; it takes the place of the one in use when it is *used* for the first time, and
//! only then the generation advances. So a reply that got lost is nothing: the runner goes on with what it has and asks
//! again. Once a certificate has followed, a use of one before it is somebody else's who holds a copy.
//!
//! Certificates are told apart by their keys: one that is given again for the same key is the same one.
//!
//! Questionable: for [`OVERTAKEN_GRACE`] an older certificate still counts. What an agent sent on its old connection may
//! arrive after what it sent on its new one, and that is no clone.

use std::time::Duration;

use crate::caller::{Owner, SpiffeId};
use crate::digest::Digest;
use crate::enrolment::Origin;
use crate::id::EnrolmentId;
use crate::labels::Labels;
use crate::ledger::Revision;
use crate::time::{Timestamp, after};

/// How long calls may arrive that were made with a certificate before its renewal was used: twice what a client waits for an
/// answer.
pub const OVERTAKEN_GRACE: Duration = Duration::from_secs(20);

/// A runner's right to its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Its name.
    pub id: EnrolmentId,
    /// The runner.
    pub spiffe_id: SpiffeId,
    /// What whoever let it in says about it; a runner that is enrolled anew has those of the new enrolment.
    pub labels: Labels,
    /// By what it was let in; none for a join token, which has a record of its own.
    pub origin: Option<Origin>,
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER) of the certificate that is in use. In records of generation 0,
    /// which know no other, of the newest.
    pub key: Digest,
    /// How many certificates have been in use, this one included. 0 in records from before this was counted, until a
    /// certificate is seen for which it is known.
    pub generation: u64,
    /// SHA-256 of the public key of the certificate that is to follow, until it is used.
    pub next: Option<Digest>,
    /// When the certificate in use was first used; none for the first one.
    pub followed: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
    /// When its newest certificate ends.
    pub certificate_expires: Timestamp,
    /// When another enrolment took its name.
    pub replaced: Option<Timestamp>,
    /// That somebody else holds a copy of its identity.
    pub cloned: Option<Cloned>,
    /// Counts its changes, from 1.
    pub revision: Revision,
}

/// That an identity is in use at two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloned {
    /// When it was found out.
    pub at: Timestamp,
    /// By what.
    pub cause: CloneCause,
    /// SHA-256 of the older certificate, DER.
    pub certificate: Digest,
}

/// Where an enrolment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its newest certificate is good.
    Live,
    /// Its newest certificate has ended.
    Expired,
    /// Another enrolment took its name.
    Replaced,
    /// Its identity was found in use at two places, and nobody has replaced it yet.
    Cloned,
}

/// How a clone was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneCause {
    /// A call was made with it.
    Used,
    /// Another certificate was asked for with it.
    Renewed,
}

impl CloneCause {
    /// In a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Used => "a certificate was used after another one had taken its place",
            Self::Renewed => "a certificate was to be renewed after another one had taken its place",
        }
    }
}

/// Which certificate of the lineage somebody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateUse {
    /// The one in use.
    InUse,
    /// The one that is to follow, for the first time.
    First,
    /// One before, so soon that the call may have been under way.
    Overtaken,
    /// One before.
    Older,
}

/// What a renewal comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// This is recorded, and the certificate signed.
    Granted(Box<Enrolment>),
    /// It was asked for with an older certificate, and for another key than the one in use.
    Clone,
}

impl Enrolment {
    /// A new one, with its first certificate.
    pub fn first(id: EnrolmentId, spiffe_id: SpiffeId, labels: Labels, key: Digest, life: Life) -> Self {
        Self {
            id,
            spiffe_id,
            labels,
            origin: None,
            key,
            generation: 1,
            next: None,
            followed: None,
            created: life.from,
            certificate_expires: life.until,
            replaced: None,
            cloned: None,
            revision: Revision::FIRST,
        }
    }

    /// The enrolment, let in by this.
    pub fn by(self, origin: Option<Origin>) -> Self {
        Self { origin, ..self }
    }

    /// Whether its certificates are accepted and its name is taken.
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.is_over() && now < self.certificate_expires
    }

    /// Whether it has ended before its time: it was replaced, or found cloned.
    pub fn is_over(&self) -> bool {
        self.replaced.is_some() || self.cloned.is_some()
    }

    /// Where it is in its life.
    pub fn standing(&self, now: Timestamp) -> Standing {
        match (&self.replaced, &self.cloned) {
            (Some(_), _) => Standing::Replaced,
            (None, Some(_)) => Standing::Cloned,
            (None, None) if now < self.certificate_expires => Standing::Live,
            (None, None) => Standing::Expired,
        }
    }

    /// Which of its certificates one with this key is.
    pub fn use_of(&self, key: Digest, now: Timestamp) -> CertificateUse {
        if self.next == Some(key) {
            return CertificateUse::First;
        }
        match (self.generation, key == self.key) {
            (0, true) => CertificateUse::First,
            // It is not known which one was in use when this was not counted yet.
            (0, false) | (_, true) => CertificateUse::InUse,
            (_, false) => {
                let under_way = self.followed.is_some_and(|at| now < after(at, OVERTAKEN_GRACE));
                if under_way { CertificateUse::Overtaken } else { CertificateUse::Older }
            }
        }
    }

    /// Whether no other certificate has followed on the one with this key.
    pub fn is_newest(&self, key: Digest) -> bool {
        key == self.key || self.next == Some(key)
    }

    /// The enrolment after the first use of the certificate with this key.
    pub fn follow(self, key: Digest, at: Timestamp) -> Self {
        Self { revision: self.revision.next(), ..self.followed_by(key, at) }
    }

    fn followed_by(self, key: Digest, at: Timestamp) -> Self {
        Self { key, generation: self.generation + 1, next: None, followed: Some(at), ..self }
    }

    /// The enrolment with a certificate for `wanted`, asked for with the one for `shown`.
    pub fn renew(self, shown: Digest, wanted: Digest, life: Life) -> Renewal {
        let now = life.from;
        let followed = match self.use_of(shown, now) {
            CertificateUse::InUse => self,
            CertificateUse::First => self.followed_by(shown, now),
            // The reply was lost, and its renewal used all the same: the same key asks again.
            CertificateUse::Overtaken | CertificateUse::Older if wanted == self.key => self,
            CertificateUse::Overtaken | CertificateUse::Older => return Renewal::Clone,
        };
        let next = if wanted == followed.key { followed.next } else { Some(wanted) };
        Renewal::Granted(Box::new(Self { next, ..followed.again(life.until) }))
    }

    /// The enrolment with its newest certificate given once more, to this end.
    pub fn again(self, until: Timestamp) -> Self {
        Self { certificate_expires: until, revision: self.revision.next(), ..self }
    }

    /// The enrolment after another took its name.
    pub fn replace(self, at: Timestamp) -> Self {
        Self { replaced: Some(at), revision: self.revision.next(), ..self }
    }

    /// The enrolment after it was found out that somebody has a copy.
    pub fn found_cloned(self, cloned: Cloned) -> Self {
        Self { cloned: Some(cloned), revision: self.revision.next(), ..self }
    }

    /// As the owner of leases.
    pub fn owner(&self) -> Owner {
        Owner { spiffe_id: self.spiffe_id.clone(), enrolment: self.id }
    }
}

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: i64 = 20;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(number: u8) -> Digest {
        Digest::of_bytes(&[number])
    }

    fn life(from: i64) -> Life {
        Life { from: second(from), until: second(from + 1_000) }
    }

    /// With certificate 0.
    fn enrolment() -> Enrolment {
        let id = EnrolmentId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap();
        let runner = SpiffeId::parse("spiffe://d/runner/prod-1").unwrap();
        Enrolment::first(id, runner, Labels::default(), key(0), life(0))
    }

    fn renewed(enrolment: Enrolment, shown: u8, wanted: u8, at: i64) -> Enrolment {
        match enrolment.renew(key(shown), key(wanted), life(at)) {
            Renewal::Granted(enrolment) => *enrolment,
            Renewal::Clone => panic!("{wanted} was asked for with {shown}, which was taken for a clone"),
        }
    }

    #[test]
    fn the_generation_advances_with_the_first_use_of_the_next_certificate() {
        let given = renewed(enrolment(), 0, 1, 10);
        assert_eq!((given.generation, given.use_of(key(0), second(11))), (1, CertificateUse::InUse));
        assert_eq!(given.use_of(key(1), second(11)), CertificateUse::First);
        let followed = given.follow(key(1), second(12));
        assert_eq!((followed.generation, followed.use_of(key(1), second(13))), (2, CertificateUse::InUse));
        assert_eq!(followed.use_of(key(0), second(12 + GRACE - 1)), CertificateUse::Overtaken);
        assert_eq!(followed.use_of(key(0), second(12 + GRACE)), CertificateUse::Older);
        assert_eq!(followed.revision, Revision::from_number(3), "each of them is one change");
    }

    #[test]
    fn a_lost_reply_is_no_clone_whatever_is_asked_for_next() {
        for again in [1, 2] {
            let enrolment = renewed(renewed(enrolment(), 0, 1, 10), 0, again, 5_000);
            assert_eq!(enrolment.use_of(key(0), second(5_001)), CertificateUse::InUse);
            assert_eq!(enrolment.use_of(key(again), second(5_001)), CertificateUse::First);
        }
        // The reply came in the end and was used, and the request comes again.
        let followed = renewed(enrolment(), 0, 1, 10).follow(key(1), second(11));
        let again = renewed(followed, 0, 1, 5_000);
        assert_eq!((again.generation, again.key, again.next), (2, key(1), None));
    }

    #[test]
    fn who_renews_an_older_certificate_is_a_clone_at_once() {
        let followed = renewed(enrolment(), 0, 1, 10).follow(key(1), second(11));
        assert_eq!(followed.renew(key(0), key(2), life(12)), Renewal::Clone);
    }

    #[test]
    fn of_two_who_renew_the_same_certificate_one_uses_what_the_other_overtook() {
        let both = renewed(renewed(enrolment(), 0, 1, 10), 0, 2, 11);
        assert_eq!(both.use_of(key(1), second(12)), CertificateUse::Older);
        let followed = both.follow(key(2), second(12));
        assert_eq!(followed.use_of(key(1), second(12 + GRACE)), CertificateUse::Older);
    }

    #[test]
    fn the_newest_is_the_one_in_use_and_the_one_that_is_to_follow() {
        let newest = |enrolment: &Enrolment| [0, 1, 2].map(|number| enrolment.is_newest(key(number)));
        let given = renewed(enrolment(), 0, 1, 10);
        assert_eq!(newest(&given), [true, true, false]);
        assert_eq!(newest(&given.follow(key(1), second(11))), [false, true, false]);
    }

    #[test]
    fn a_renewal_by_the_next_certificate_is_its_first_use_and_one_change() {
        let twice = renewed(renewed(enrolment(), 0, 1, 10), 1, 2, 20);
        assert_eq!((twice.generation, twice.key, twice.next), (2, key(1), Some(key(2))));
        assert_eq!(twice.revision, Revision::from_number(3));
    }

    #[test]
    fn a_record_from_before_this_was_counted_takes_any_certificate_until_its_newest_is_used() {
        let old = Enrolment { generation: 0, key: key(1), ..enrolment() };
        assert_eq!(old.use_of(key(0), second(9)), CertificateUse::InUse);
        let counted = old.clone().follow(key(1), second(9));
        assert_eq!(counted.generation, 1);
        assert_eq!(counted.use_of(key(0), second(9 + GRACE)), CertificateUse::Older);
        // Its newest was lost on the way: the one before renews.
        let counted = renewed(old, 0, 2, 9).follow(key(2), second(10));
        assert_eq!((counted.generation, counted.use_of(key(1), second(90))), (1, CertificateUse::Older));
    }

    proptest! {
        /// An agent that loses replies and is restarted at will, and uses only what it has stored.
        #[test]
        fn one_agent_is_never_taken_for_two(steps in prop::collection::vec((0_u8..4, 0_i64..50), 1..40)) {
            let (mut enrolment, mut held, mut asking, mut now) = (enrolment(), 0_u8, 1_u8, 0);
            for (step, pause) in steps {
                now += pause;
                match step {
                    // It renews, and the reply is lost.
                    0 => enrolment = renewed(enrolment, held, asking, now),
                    // It renews, and stores the reply.
                    1 => {
                        enrolment = renewed(enrolment, held, asking, now);
                        held = asking;
                        asking += 1;
                    }
                    // It is restarted, and forgets the key that it asked for.
                    2 => asking += 1,
                    // It calls.
                    _ => match enrolment.use_of(key(held), second(now)) {
                        CertificateUse::InUse => {}
                        CertificateUse::First => enrolment = enrolment.follow(key(held), second(now)),
                        other => prop_assert!(false, "certificate {held} is {other:?}"),
                    },
                }
            }
        }
    }
}
