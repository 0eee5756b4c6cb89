//! What is ordered from a cluster, what came back, and the check in between.
//!
//! An [`Order`] comes only from a decision, a [`Verified`] only from the check, and the token inside leaves only against
//! a [`Recorded`]. Claims are read from the token without its signature: they arrived over the API server's TLS, and
//! what is checked is that the API server did what was asked.

use std::time::Duration;

use crate::caller::Owner;
use crate::id::LeaseId;
use crate::lease::{AnchorName, Lease, Mode, Pins, TransitionError};
use crate::ledger::{Change, MintedToken, Recorded};
use crate::needs::Need;
use crate::not_removed::NotRemoved;
use crate::role::Target;
use crate::time::{Timestamp, until};
use crate::token::Token;
use crate::window::{Chain, Told, Window};

/// How far the clocks of issuer and API server may differ.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// How long a mint may take: probe, anchor and token together.
pub const MINT_DEADLINE: Duration = Duration::from_secs(8);

/// How much later the granted expiry may be than the ordered one, and the token's own than the granted one where the answer
/// came at once: the API server rounds.
pub const EXPIRY_TOLERANCE: Duration = Duration::from_secs(2);

/// How much later the token's own expiry may be than the granted one, in an answer that took this long: the API server reads
/// its clock for the answer, asks its storage, and reads it again for the token.
pub fn expiry_drift(spent: Duration) -> Duration {
    let rounding = Duration::from_secs(1);
    EXPIRY_TOLERANCE.max(spent.min(MINT_DEADLINE) + rounding)
}

/// A token to be minted: the lease's first, which makes the anchor, or another on the same anchor.
#[derive(Debug)]
pub struct Order {
    pub(crate) lease: Lease,
    /// Who gets it: the lease's owner, whether the lease knows its name or not.
    pub(crate) owner: Owner,
    pub(crate) token_lifetime: Duration,
    pub(crate) needs: Vec<Need>,
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

    /// What the token's holder must be allowed to do. Of a ServiceAccount that is made for the lease it is asked when that is
    /// there, of any other by whoever orders.
    pub fn needs(&self) -> &[Need] {
        &self.needs
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
            Ok(pins) => Verified::new(self.lease, self.owner, minted, pins, now),
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
    /// What the lease's end leaves to that ServiceAccount, where it was made for the lease.
    pub not_removed: Option<NotRemoved>,
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
    /// For somebody else than was ordered, or for nobody.
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
        || order.pins().is_some_and(|known| {
            !known.service_account_uid.is_empty() && known.service_account_uid != pins.service_account_uid
        })
    {
        return Err(Lie::ServiceAccountUid);
    }
    if minted.service_account_uid.as_ref().is_some_and(|made| *made != pins.service_account_uid)
        || (minted.service_account_uid.is_none() && order.pins().is_none() && order.generates())
    {
        return Err(Lie::Generated);
    }
    check_anchor(order, &pins, claims)?;
    let others = order.lease.audiences.as_ref().is_some_and(|ordered| !ordered.are(&claims.audiences));
    if claims.audiences.is_empty() || claims.audiences != minted.audiences || others {
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
    let drift = expiry_drift(minted.spent).as_secs() as i64;
    if minted.expires <= minted.created || !(0..=drift).contains(&later) {
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

/// What a token tells of its lease that was not recorded before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// It is active.
    Active,
    /// It was adopted, and now its owner and its ServiceAccount are known.
    Recognised,
    /// Nothing.
    None,
}

/// A token that was checked and is not yet recorded.
#[derive(Debug)]
pub struct Verified {
    lease: Lease,
    owner: Owner,
    news: News,
    record: MintedToken,
    token: Token,
    window: Window,
}

impl Verified {
    fn new(lease: Lease, owner: Owner, minted: Minted, pins: Pins, now: Timestamp) -> Result<Self, Rejected> {
        let before = lease.clone();
        let (news, lease) = if lease.pins().is_none() {
            (News::Active, lease.leaving(minted.not_removed).activate(pins, now))
        } else if lease.is_incomplete() {
            (News::Recognised, lease.recognise(owner.clone(), pins))
        } else {
            (News::None, Ok(lease))
        };
        let lease = lease.map_err(|lie| Rejected { lease: Box::new(before), lie: lie.into() })?;
        let record = MintedToken {
            jti: minted.claims.jti,
            lease: lease.id,
            fingerprint: minted.token.fingerprint(),
            issued: minted.created,
            // The later one: until then it works.
            expires: minted.claims.expires,
            recorded: now,
        };
        // The earlier one: until then at least.
        let life = until(minted.created, minted.expires).saturating_sub(minted.spent);
        Ok(Self { lease, owner, news, record, token: minted.token, window: Window { life } })
    }

    /// The lease as it is now.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Who gets it.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether it is the first token of its lease.
    pub fn is_first(&self) -> bool {
        self.news == News::Active
    }

    /// What must be durable before the token leaves.
    pub fn changes(&self) -> Vec<Change> {
        let minted = Change::TokenMinted { token: self.record.clone(), owner: self.owner.clone() };
        let lease = self.lease.clone();
        match self.news {
            News::Active => vec![Change::LeaseActive { lease }, minted],
            News::Recognised => vec![Change::LeaseRecognised { lease, at: self.record.recorded }, minted],
            News::None => vec![minted],
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
mod tests;
