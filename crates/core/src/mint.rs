//! What is ordered from a cluster, what came back, and the check in between.
//!
//! An [`Order`] comes only from a decision, a [`Verified`] only from the check, and the token inside leaves only against
//! a [`Recorded`]. Claims are read from the token without its signature: they arrived over the API server's TLS, and
//! what is checked is that the API server did what was asked.

use std::time::Duration;

use crate::id::LeaseId;
use crate::lease::{AnchorName, Lease, Mode, Pins, TransitionError};
use crate::ledger::{Change, MintedToken, Recorded};
use crate::role::Target;
use crate::time::{Timestamp, until};
use crate::token::Token;
use crate::window::{Chain, Told, Window};

/// How far the clocks of issuer and API server may differ.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// How much later the token's own expiry may be than the granted one, and the granted one than the ordered: the API server
/// reads its clock for the answer, then again for the token, and rounds.
pub const EXPIRY_TOLERANCE: Duration = Duration::from_secs(2);

/// A token to be minted: the lease's first, which makes the anchor, or another on the same anchor.
#[derive(Debug)]
pub struct Order {
    pub(crate) lease: Lease,
    pub(crate) token_lifetime: Duration,
}

impl Order {
    /// The lease it is for.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The lease's name.
    pub fn lease_id(&self) -> LeaseId {
        self.lease.id
    }

    /// Whose token.
    pub fn target(&self) -> &Target {
        &self.lease.target
    }

    /// How the lease can be ended, and what is to be made for it.
    pub fn mode(&self) -> &Mode {
        &self.lease.mode
    }

    /// The anchor's name; nothing bears it in an unbound lease.
    pub fn anchor(&self) -> &AnchorName {
        &self.lease.anchor
    }

    /// The UIDs of an existing anchor and its ServiceAccount; none when the anchor is to be created.
    pub fn pins(&self) -> Option<&Pins> {
        self.lease.pins()
    }

    /// Whether a ServiceAccount is to be made for the lease.
    fn generates(&self) -> bool {
        matches!(self.lease.mode, Mode::Strict { .. })
    }

    /// How long the token should last.
    pub fn token_lifetime(&self) -> Duration {
        self.token_lifetime
    }

    /// Checks what came back.
    pub fn verify(self, minted: Minted, now: Timestamp) -> Result<Verified, Rejected> {
        match check(&self, &minted, now) {
            Ok(pins) => Verified::new(self.lease, minted, pins, now),
            Err(lie) => Err(Rejected { lease: Box::new(self.lease), lie }),
        }
    }
}

/// What a token says about itself (RFC 7519, and the `kubernetes.io` claim of ServiceAccount tokens).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `jti`
    pub jti: String,
    /// `kubernetes.io.namespace`
    pub namespace: String,
    /// `kubernetes.io.serviceaccount.name`
    pub service_account: String,
    /// `kubernetes.io.serviceaccount.uid`
    pub service_account_uid: String,
    /// `kubernetes.io.secret.name`; empty in a token that is not bound to a Secret.
    pub secret: String,
    /// `kubernetes.io.secret.uid`; empty in a token that is not bound to a Secret.
    pub secret_uid: String,
    /// `aud`
    pub audiences: Vec<String>,
    /// `exp`
    pub expires: Timestamp,
}

/// What a cluster answered.
#[derive(Debug)]
pub struct Minted {
    /// The token.
    pub token: Token,
    /// What it says about itself.
    pub claims: Claims,
    /// The UID of the anchor, from its creation or as ordered; empty where none was ordered.
    pub anchor_uid: String,
    /// The UID of the ServiceAccount that was made for the lease, from its creation; none if it was there before.
    pub service_account_uid: Option<String>,
    /// The audiences that the answer says were granted.
    pub audiences: Vec<String>,
    /// `metadata.creationTimestamp` of the answer: the API server's clock.
    pub created: Timestamp,
    /// `status.expirationTimestamp` of the answer: the API server's clock.
    pub expires: Timestamp,
    /// Time since before the TokenRequest was sent, on the boot-time clock.
    pub spent: Duration,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// A token of another ServiceAccount.
    #[error("it is a token of {0}")]
    ServiceAccount(String),
    /// A ServiceAccount with the same name and another UID.
    #[error("its ServiceAccount was deleted and recreated since the lease began")]
    ServiceAccountUid,
    /// A ServiceAccount with the name of the generated one, and another UID.
    #[error("its ServiceAccount is not the one that was made for the lease")]
    Generated,
    /// Bound to another object, or to none.
    #[error("it is not bound to the lease's anchor")]
    Anchor,
    /// Bound to something, though ordered unbound.
    #[error("it is bound to a Secret and was ordered unbound")]
    Bound,
    /// For somebody else, or for nobody.
    #[error("its audiences are {0:?}")]
    Audience(Vec<String>),
    /// Without a life, with a longer one than was ordered, or with another than the answer says.
    #[error("its expiry is not the one that was ordered or granted")]
    Expiry,
    /// It has no name.
    #[error("it has no jti")]
    Jti,
    /// The clocks differ.
    #[error("the API server's clock differs by {0} s")]
    ClockSkew(i64),
    /// The lease was not waiting for it.
    #[error("the lease was not waiting for it")]
    State(#[from] TransitionError),
}

/// An answer that is not used; the lease is to be cut.
#[derive(Debug, thiserror::Error)]
#[error("the API server's answer was rejected: {lie}")]
pub struct Rejected {
    /// The lease it was for.
    pub lease: Box<Lease>,
    /// What is wrong.
    pub lie: Lie,
}

fn check(order: &Order, minted: &Minted, now: Timestamp) -> Result<Pins, Lie> {
    let claims = &minted.claims;
    let target = order.target();
    if claims.namespace != target.namespace.as_str() || claims.service_account != target.service_account {
        return Err(Lie::ServiceAccount(format!("{}/{}", claims.namespace, claims.service_account)));
    }
    let pins = Pins {
        anchor_uid: minted.anchor_uid.clone(),
        service_account_uid: claims.service_account_uid.clone(),
    };
    if pins.service_account_uid.is_empty()
        || order.pins().is_some_and(|known| known.service_account_uid != pins.service_account_uid)
    {
        return Err(Lie::ServiceAccountUid);
    }
    if minted.service_account_uid.as_ref().is_some_and(|made| *made != pins.service_account_uid)
        || (minted.service_account_uid.is_none() && order.pins().is_none() && order.generates())
    {
        return Err(Lie::Generated);
    }
    check_anchor(order, &pins, claims)?;
    if claims.audiences.is_empty() || claims.audiences != minted.audiences {
        return Err(Lie::Audience(claims.audiences.clone()));
    }
    if claims.jti.is_empty() {
        return Err(Lie::Jti);
    }
    let skew = skew_seconds(minted, now);
    if skew.unsigned_abs() > CLOCK_TOLERANCE.as_secs() {
        return Err(Lie::ClockSkew(skew));
    }
    let longest = order.token_lifetime.saturating_add(EXPIRY_TOLERANCE);
    if until(minted.created, minted.expires) > longest {
        return Err(Lie::Expiry);
    }
    let later = claims.expires.as_second().saturating_sub(minted.expires.as_second());
    if minted.expires <= minted.created || !(0..=EXPIRY_TOLERANCE.as_secs() as i64).contains(&later) {
        return Err(Lie::Expiry);
    }
    Ok(pins)
}

fn check_anchor(order: &Order, pins: &Pins, claims: &Claims) -> Result<(), Lie> {
    let same = order.pins().is_none_or(|known| known.anchor_uid == pins.anchor_uid);
    match order.mode() {
        Mode::Bound | Mode::Strict { .. } => {
            let bound = !pins.anchor_uid.is_empty()
                && claims.secret == order.anchor().as_str()
                && claims.secret_uid == pins.anchor_uid;
            if bound && same { Ok(()) } else { Err(Lie::Anchor) }
        }
        Mode::Unbound { .. } => {
            let bound =
                [&pins.anchor_uid, &claims.secret, &claims.secret_uid].iter().any(|text| !text.is_empty());
            if bound || !same { Err(Lie::Bound) } else { Ok(()) }
        }
    }
}

/// How far the API server's clock is ahead, at the least: it made the answer between sending and now.
fn skew_seconds(minted: &Minted, now: Timestamp) -> i64 {
    let ahead = minted.created.as_second() - now.as_second();
    let spent = i64::try_from(minted.spent.as_secs()).unwrap_or(i64::MAX);
    if ahead > 0 { ahead } else { ahead.saturating_add(spent).min(0) }
}

/// A token that was checked and is not yet recorded.
#[derive(Debug)]
pub struct Verified {
    lease: Lease,
    first: bool,
    record: MintedToken,
    token: Token,
    window: Window,
}

impl Verified {
    fn new(lease: Lease, minted: Minted, pins: Pins, now: Timestamp) -> Result<Self, Rejected> {
        let first = lease.pins().is_none();
        let lease = if first {
            let before = lease.clone();
            lease.activate(pins, now).map_err(|lie| Rejected { lease: Box::new(before), lie: lie.into() })?
        } else {
            lease
        };
        let record = MintedToken {
            jti: minted.claims.jti,
            lease: lease.id,
            fingerprint: minted.token.fingerprint(),
            issued: minted.created,
            expires: minted.expires,
            recorded: now,
        };
        let life = until(minted.created, minted.expires).saturating_sub(minted.spent);
        Ok(Self { lease, first, record, token: minted.token, window: Window { life } })
    }

    /// The lease as it is now.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether it is the first token of its lease.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// What must be durable before the token leaves.
    pub fn changes(&self) -> Vec<Change> {
        let minted = Change::TokenMinted { token: self.record.clone(), owner: self.lease.owner.clone() };
        if self.first {
            vec![Change::LeaseActive { lease: self.lease.clone() }, minted]
        } else {
            vec![minted]
        }
    }

    /// The only way out for a token.
    pub fn release(
        self,
        _proof: &Recorded,
        certificate_expires: Timestamp,
        silence: Option<Duration>,
        now: Timestamp,
    ) -> Issued {
        let chain = Chain { lease_deadline: self.lease.deadline, certificate_expires, silence };
        let told = self.window.told(chain, now);
        Issued { lease: self.lease, record: self.record, token: self.token, told }
    }
}

/// A recorded token on its way to its owner.
#[derive(Debug)]
pub struct Issued {
    /// The lease.
    pub lease: Lease,
    /// What is known of the token.
    pub record: MintedToken,
    /// The token.
    pub token: Token,
    /// How long its owner may use it.
    pub told: Told,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Owner, SpiffeId};
    use crate::digest::Digest;
    use crate::id::{EnrolmentId, JobId};
    use crate::lease::State;
    use crate::ledger::Revision;
    use crate::name::Name;

    const ID: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn order() -> Order {
        let name = |text| Name::parse(text).unwrap();
        let owner = Owner {
            spiffe_id: SpiffeId::parse("spiffe://d/runner/r").unwrap(),
            enrolment: EnrolmentId::parse(ID).unwrap(),
        };
        let lease = Lease {
            id: LeaseId::parse(ID).unwrap(),
            job: JobId::parse(ID).unwrap(),
            owner,
            role: name("role"),
            role_digest: Digest::of_bytes(b""),
            target: Target {
                cluster: name("c"),
                namespace: name("web"),
                service_account: "deployer".to_owned(),
            },
            anchor: AnchorName::from_random([1; 16]),
            mode: Mode::Bound,
            created: second(1_000),
            deadline: second(4_600),
            state: State::Pending,
            receipt: None,
            revision: Revision::FIRST,
        };
        Order { lease, token_lifetime: Duration::from_secs(600) }
    }

    fn minted() -> Minted {
        let claims = Claims {
            jti: "j".to_owned(),
            namespace: "web".to_owned(),
            service_account: "deployer".to_owned(),
            service_account_uid: "sa-uid".to_owned(),
            secret: AnchorName::from_random([1; 16]).as_str().to_owned(),
            secret_uid: "anchor-uid".to_owned(),
            audiences: vec!["api".to_owned()],
            expires: second(1_600),
        };
        Minted {
            token: Token::new("t".to_owned()),
            claims,
            anchor_uid: "anchor-uid".to_owned(),
            service_account_uid: None,
            audiences: vec!["api".to_owned()],
            created: second(1_000),
            expires: second(1_600),
            spent: Duration::from_secs(1),
        }
    }

    fn verdict(change: impl FnOnce(&mut Minted)) -> Result<Verified, Lie> {
        let mut answer = minted();
        change(&mut answer);
        order().verify(answer, second(1_001)).map_err(|rejected| rejected.lie)
    }

    #[test]
    fn an_honest_answer_activates_the_lease() {
        let verified = verdict(|_| {}).unwrap();
        assert_eq!(verified.lease().state_name(), "active");
        assert_eq!(verified.changes().len(), 2);
    }

    #[test]
    fn each_lie_is_named() {
        type Case = (fn(&mut Minted), fn(&Lie) -> bool);
        let cases: [Case; 16] = [
            (|a| a.claims.namespace = "other".to_owned(), |l| matches!(l, Lie::ServiceAccount(_))),
            (|a| a.claims.service_account = "other".to_owned(), |l| matches!(l, Lie::ServiceAccount(_))),
            (|a| a.claims.service_account_uid.clear(), |l| matches!(l, Lie::ServiceAccountUid)),
            (|a| a.claims.secret.clear(), |l| matches!(l, Lie::Anchor)),
            (|a| a.claims.secret_uid = "other".to_owned(), |l| matches!(l, Lie::Anchor)),
            (|a| a.anchor_uid.clear(), |l| matches!(l, Lie::Anchor)),
            (|a| a.claims.audiences.clear(), |l| matches!(l, Lie::Audience(_))),
            (|a| a.claims.audiences.push("more".to_owned()), |l| matches!(l, Lie::Audience(_))),
            (|a| a.claims.jti.clear(), |l| matches!(l, Lie::Jti)),
            (|a| a.claims.expires = second(99_999), |l| matches!(l, Lie::Expiry)),
            (|a| a.claims.expires = second(1_603), |l| matches!(l, Lie::Expiry)),
            (|a| a.claims.expires = second(1_599), |l| matches!(l, Lie::Expiry)),
            (|a| a.expires = second(1_000), |l| matches!(l, Lie::Expiry)),
            (|a| a.created = second(1_062), |l| matches!(l, Lie::ClockSkew(61))),
            (|a| a.created = second(939), |l| matches!(l, Lie::ClockSkew(-61))),
            (|a| a.created = second(-9_000), |l| matches!(l, Lie::ClockSkew(_))),
        ];
        for (index, (change, expected)) in cases.into_iter().enumerate() {
            let lie = verdict(change).unwrap_err();
            assert!(expected(&lie), "case {index}: {lie}");
        }
    }

    fn verdict_in(mode: Mode, change: impl FnOnce(&mut Minted)) -> Result<Verified, Lie> {
        let (mut order, mut answer) = (order(), minted());
        order.lease.mode = mode;
        change(&mut answer);
        order.verify(answer, second(1_001)).map_err(|rejected| rejected.lie)
    }

    #[test]
    fn a_strict_answer_is_of_the_service_account_that_was_made() {
        let strict = |made: Option<&str>| {
            verdict_in(Mode::Strict { bindings: vec![] }, |answer| {
                answer.service_account_uid = made.map(str::to_owned);
            })
        };
        assert!(strict(Some("sa-uid")).is_ok());
        assert_eq!(strict(Some("other")).unwrap_err(), Lie::Generated);
        assert_eq!(strict(None).unwrap_err(), Lie::Generated);
    }

    #[test]
    fn an_unbound_answer_is_bound_to_nothing() {
        let unbound = |change: fn(&mut Minted)| verdict_in(Mode::Unbound { tokens_until: None }, change);
        let free: fn(&mut Minted) = |answer| {
            answer.anchor_uid.clear();
            answer.claims.secret.clear();
            answer.claims.secret_uid.clear();
        };
        let verified = unbound(free).unwrap();
        assert_eq!(verified.lease().pins().unwrap().anchor_uid, "");
        assert_eq!(unbound(|_| {}).unwrap_err(), Lie::Bound);
        assert_eq!(unbound(|answer| answer.anchor_uid.clear()).unwrap_err(), Lie::Bound);
    }

    #[test]
    fn a_second_that_ends_between_answer_and_token_is_not_a_lie() {
        assert!(verdict(|answer| answer.claims.expires = second(1_601)).is_ok());
    }

    #[test]
    fn a_longer_life_than_ordered_is_a_lie_and_a_shorter_one_is_not() {
        let living_until = |end| {
            verdict(|answer| {
                answer.expires = second(end);
                answer.claims.expires = second(end);
            })
        };
        // 600 s were ordered.
        assert!(living_until(1_300).is_ok() && living_until(1_602).is_ok());
        assert_eq!(living_until(1_603).unwrap_err(), Lie::Expiry);
        assert_eq!(living_until(1_000 + 31_536_000).unwrap_err(), Lie::Expiry);
    }

    #[test]
    fn a_slow_answer_is_not_a_wrong_clock() {
        assert!(
            verdict(|answer| {
                answer.created = second(901);
                answer.expires = second(1_501);
                answer.claims.expires = second(1_501);
                answer.spent = Duration::from_secs(100);
            })
            .is_ok()
        );
    }

    #[test]
    fn a_refresh_pins_both_uids() {
        let pins = Pins { anchor_uid: "anchor-uid".to_owned(), service_account_uid: "sa-uid".to_owned() };
        let refresh = |pins: Pins| {
            let mut order = order();
            order.lease = order.lease.activate(pins, second(1_000)).unwrap();
            order.verify(minted(), second(1_001))
        };
        assert_eq!(refresh(pins.clone()).unwrap().changes().len(), 1);
        let replaced = Pins { service_account_uid: "older".to_owned(), ..pins.clone() };
        assert!(matches!(refresh(replaced).unwrap_err().lie, Lie::ServiceAccountUid));
        let lost = Pins { anchor_uid: "older".to_owned(), ..pins };
        assert!(matches!(refresh(lost).unwrap_err().lie, Lie::Anchor));
    }

    #[test]
    fn the_owner_is_told_the_granted_life() {
        let verified = verdict(|_| {}).unwrap();
        let issued = verified.release(&Recorded::durable(), second(99_999), None, second(1_001));
        // 600 s granted, 1 s spent, 10 s margin.
        assert_eq!(issued.told.valid_for, Duration::from_secs(589));
    }
}
