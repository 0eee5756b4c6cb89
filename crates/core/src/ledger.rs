//! The ledger port: what is recorded, and the proof that it was.
//!
//! One way to write, [`Ledger::commit`]: a list of changes, all or none, each the new row with its revision; a row that
//! has moved on meanwhile is a [`LedgerError::Conflict`]. Each change has one audit line ([`crate::audit::line`]), written in the
//! same commit. When `commit` returns, rows and lines survive kill -9 and power loss. What is lost on a crash is only
//! what was not acknowledged.

mod layer;

use std::time::Duration;

use async_trait::async_trait;

pub use self::layer::Layer;

use crate::ban::{Ban, BanKey};
use crate::block::Block;
use crate::caller::{Owner, SpiffeId};
use crate::digest::Digest;
use crate::enrolment::{Enrolment, JoinToken};
use crate::id::{BlockId, DecisionId, EnrolmentId, JobId, LeaseId, RequestId};
use crate::identity::CreatedIdentity;
use crate::job::{Job, SpentToken};
use crate::lease::Lease;
use crate::name::Name;
use crate::policy::edition::Edition;
use crate::receipt::Control;
use crate::request::{Method, Request};
use crate::security::SecurityState;
use crate::time::Timestamp;

/// Counts the changes of one row, from 1; a row is written only over the revision before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// Of a row that was never written before.
    pub const FIRST: Self = Self(1);

    /// A revision that was stored.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// As a number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The next one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// One minted token; the token itself is not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MintedToken {
    /// Its `jti`: its key in the ledger.
    pub jti: String,
    /// The lease it belongs to.
    pub lease: LeaseId,
    /// SHA-256 of the token.
    pub fingerprint: Digest,
    /// When the API server says it was made.
    pub issued: Timestamp,
    /// When it expires, as it says itself.
    pub expires: Timestamp,
    /// When it was recorded, by the issuer's clock.
    pub recorded: Timestamp,
}

/// A request that was refused, as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Names the decision.
    pub decision: DecisionId,
    /// When.
    pub at: Timestamp,
    /// Who asked; none for an enrolment.
    pub caller: Option<SpiffeId>,
    /// The method's name, such as `Issue`.
    pub method: &'static str,
    /// The reason on the wire, such as `ROLE_NOT_AVAILABLE`.
    pub reason: &'static str,
    /// What was asked for: a role, a lease id, a runner name. At most 200 characters, printable.
    pub subject: String,
    /// Why, in full; the caller is told less.
    pub explanation: String,
    /// The policy in force.
    pub policy: Edition,
    /// The job session that it was for; none where it was for none, or was not looked at.
    pub job: Option<JobId>,
    /// Of a role that says `dryRun`: whether it would have been given.
    pub dry_run: Option<bool>,
}

/// One thing that happened. Rows are whole, as they are after the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A job session was opened.
    JobStarted {
        /// The session.
        job: Job,
        /// The request that opened it.
        request: Request,
    },
    /// A job session was ended.
    JobEnded {
        /// The session.
        job: Job,
    },
    /// A lease was granted; nothing exists in the cluster yet.
    LeasePending {
        /// The lease.
        lease: Lease,
        /// The request that it answers.
        request: Request,
    },
    /// A lease has its anchor and its first token.
    LeaseActive {
        /// The lease.
        lease: Lease,
    },
    /// A lease whose record was lost was found by its anchor.
    LeaseAdopted {
        /// The lease, as far as its anchor tells.
        lease: Lease,
    },
    /// The owner of an adopted lease came for a token.
    LeaseRecognised {
        /// The lease, with what that tells.
        lease: Lease,
        /// When.
        at: Timestamp,
    },
    /// A token was minted on a lease.
    TokenMinted {
        /// What is known of it.
        token: MintedToken,
        /// The lease's owner, for the audit line.
        owner: Owner,
    },
    /// A lease is to end; its anchor is deleted next.
    LeaseEnding {
        /// The lease.
        lease: Lease,
    },
    /// A lease's anchor is gone.
    LeaseEnded {
        /// The lease.
        lease: Lease,
    },
    /// A receipt was made about the end of a lease.
    LeaseReceipt {
        /// The lease, with the receipt.
        lease: Lease,
    },
    /// An anchor of nobody's lease is about to be created, for a proof.
    ControlPlanned {
        /// The anchor.
        control: Control,
    },
    /// That anchor is gone.
    ControlGone {
        /// The anchor.
        control: Control,
        /// When.
        at: Timestamp,
    },
    /// A block was set.
    BlockSet {
        /// The block.
        block: Block,
    },
    /// A block was lifted.
    BlockLifted {
        /// The block.
        block: Block,
    },
    /// A join token was created.
    JoinTokenCreated {
        /// The join token.
        join_token: JoinToken,
        /// The request that created it.
        request: Request,
    },
    /// A join token was used.
    JoinTokenTaken {
        /// The join token.
        join_token: JoinToken,
    },
    /// A token of an OIDC issuer was used to enrol with.
    EnrolmentTokenTaken {
        /// The token.
        spent: SpentToken,
        /// When.
        at: Timestamp,
    },
    /// A runner was enrolled.
    Enrolled {
        /// The enrolment.
        enrolment: Enrolment,
    },
    /// A runner's certificate was renewed, or given again after a lost reply.
    Renewed {
        /// The enrolment.
        enrolment: Enrolment,
        /// When.
        at: Timestamp,
    },
    /// A renewed certificate was used for the first time.
    RenewalUsed {
        /// The enrolment.
        enrolment: Enrolment,
        /// When.
        at: Timestamp,
    },
    /// A runner came back after its certificate had ended.
    Rejoined {
        /// The enrolment.
        enrolment: Enrolment,
        /// When.
        at: Timestamp,
    },
    /// A runner's identity was found in use at two places; its enrolment ends.
    EnrolmentCloned {
        /// The enrolment that ended.
        enrolment: Enrolment,
    },
    /// A runner's enrolment gave way to another of the same name.
    EnrolmentReplaced {
        /// The enrolment that ended.
        enrolment: Enrolment,
    },
    /// An identity of an operator or a platform was made, beside the daemon.
    IdentityCreated {
        /// The identity.
        identity: CreatedIdentity,
    },
    /// Somebody was banned.
    BanSet {
        /// The ban.
        ban: Ban,
    },
    /// A ban was lifted.
    BanLifted {
        /// The ban.
        ban: Ban,
    },
    /// A request was refused.
    Refused {
        /// Which, and why.
        refusal: Refusal,
    },
}

/// Proof that a commit is durable. A token leaves only against one.
#[derive(Debug)]
pub struct Recorded(());

impl Recorded {
    /// Made by ledgers after their commit is durable; `cargo xtask tidy` lists who may call this.
    pub fn durable() -> Self {
        Self(())
    }
}

/// Why nothing was recorded, or could be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A row has moved on since it was read, or exists already. Nothing of the commit was recorded.
    #[error("{0} was changed by somebody else meanwhile")]
    Conflict(String),
    /// The records could not be written or read. Nothing of the commit was acknowledged.
    #[error("the ledger is not available: {0}")]
    Unavailable(String),
    /// The audit file could not be written. Nothing of the commit was recorded.
    #[error("the audit file cannot be written: {0}")]
    AuditUnavailable(String),
}

/// What a page of leases should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFilter {
    /// This lease.
    pub lease: Option<LeaseId>,
    /// Leases of this caller.
    pub caller: Option<SpiffeId>,
    /// Leases of this job.
    pub job: Option<JobId>,
    /// Leases of this role.
    pub role: Option<Name>,
    /// Leases in this cluster.
    pub cluster: Option<Name>,
    /// Leases of ServiceAccounts in this namespace.
    pub namespace: Option<Name>,
    /// Leases of ServiceAccounts of this name.
    pub service_account: Option<String>,
    /// Ended ones too.
    pub include_ended: bool,
}

impl LeaseFilter {
    /// Whether the lease is one of these.
    pub fn matches(&self, lease: &Lease) -> bool {
        let ended = matches!(lease.state, crate::lease::State::Ended { .. });
        (self.include_ended || !ended)
            && self.lease.is_none_or(|id| id == lease.id)
            && self.caller.as_ref().is_none_or(|caller| lease.owner.spiffe_id() == Some(caller))
            && self.job.is_none_or(|job| lease.job == Some(job))
            && self.role.as_ref().is_none_or(|role| lease.role.as_ref() == Some(role))
            && self.cluster.as_ref().is_none_or(|cluster| *cluster == lease.target.cluster)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == lease.target.namespace)
            && self.service_account.as_ref().is_none_or(|account| *account == lease.target.service_account)
    }

    /// Whether it holds back anything at all.
    pub fn is_everything(&self) -> bool {
        *self == Self { include_ended: self.include_ended, ..Self::default() }
    }
}

/// What a page of blocks should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockFilter {
    /// Blocks of this caller.
    pub caller: Option<SpiffeId>,
    /// Blocks for this role.
    pub role: Option<Name>,
    /// Blocks that are in force now, and no others.
    pub in_force: Option<Timestamp>,
}

impl BlockFilter {
    /// Whether the block is one of these.
    pub fn matches(&self, block: &Block) -> bool {
        self.caller.as_ref().is_none_or(|caller| *caller == block.caller)
            && self.role.as_ref().is_none_or(|role| *role == block.role)
            && self.in_force.is_none_or(|now| block.in_force(now))
    }
}

/// Records and finds. Reads see every commit that was acknowledged before they began.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Records all of the changes or none. Durable when it returns; a cancelled call may still take effect.
    async fn commit(&self, changes: Vec<Change>) -> Result<Recorded, LedgerError>;

    /// A job session.
    fn job(&self, id: JobId) -> Result<Option<Job>, LedgerError>;

    /// A lease.
    fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError>;

    /// Up to `limit` leases that match, newest first, older than `before`.
    fn leases(
        &self,
        filter: &LeaseFilter,
        before: Option<LeaseId>,
        limit: usize,
    ) -> Result<Vec<Lease>, LedgerError>;

    /// The unbound leases that match and have ended, but whose last token is refused only after `now`; in no order.
    fn outliving(&self, filter: &LeaseFilter, now: Timestamp) -> Result<Vec<Lease>, LedgerError>;

    /// The tokens of a lease, newest first, at most `limit`.
    fn tokens(&self, lease: LeaseId, limit: usize) -> Result<Vec<MintedToken>, LedgerError>;

    /// A token by its `jti`.
    fn token(&self, jti: &str) -> Result<Option<MintedToken>, LedgerError>;

    /// What came of an earlier request.
    fn request(
        &self,
        owner: &Owner,
        job: Option<JobId>,
        method: Method,
        id: RequestId,
    ) -> Result<Option<Request>, LedgerError>;

    /// A block.
    fn block(&self, id: BlockId) -> Result<Option<Block>, LedgerError>;

    /// The blocks of a caller and role, whether in force or not, newest first: also those of a single job session.
    fn blocks(&self, caller: &SpiffeId, role: &Name) -> Result<Vec<Block>, LedgerError>;

    /// All blocks of a caller, whether in force or not.
    fn blocks_of_caller(&self, caller: &SpiffeId) -> Result<Vec<Block>, LedgerError>;

    /// The controls of a cluster that are not known to be gone.
    fn controls(&self, cluster: &Name) -> Result<Vec<Control>, LedgerError>;

    /// Up to `limit` blocks that match, newest first, older than `before`.
    fn find_blocks(
        &self,
        filter: &BlockFilter,
        before: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<Block>, LedgerError>;

    /// The ban that is found by this, whether in force or not.
    fn ban(&self, key: &BanKey) -> Result<Option<Ban>, LedgerError>;

    /// Up to `limit` bans, whether in force or not, in the reverse order of their keys, after `after` in it.
    fn bans(&self, after: Option<&BanKey>, limit: usize) -> Result<Vec<Ban>, LedgerError>;

    /// A token that was used, by what it is known by.
    fn spent_token(&self, replay: Digest) -> Result<Option<SpentToken>, LedgerError>;

    /// A join token by the digest of its secret.
    fn join_token(&self, digest: Digest) -> Result<Option<JoinToken>, LedgerError>;

    /// An enrolment.
    fn enrolment(&self, id: EnrolmentId) -> Result<Option<Enrolment>, LedgerError>;

    /// The enrolment that was made last for a SPIFFE ID.
    fn latest_enrolment(&self, spiffe_id: &SpiffeId) -> Result<Option<Enrolment>, LedgerError>;

    /// Up to `limit` enrolments, replaced ones too, newest first, older than `before`.
    fn enrolments(&self, before: Option<EnrolmentId>, limit: usize) -> Result<Vec<Enrolment>, LedgerError>;

    /// An identity by the digest of its certificate.
    fn identity(&self, certificate: Digest) -> Result<Option<CreatedIdentity>, LedgerError>;

    /// The identity that was recorded last.
    fn latest_identity(&self) -> Result<Option<CreatedIdentity>, LedgerError>;

    /// Whether it can record: an error says why the last commit failed, or why none can be made any more.
    fn health(&self) -> Result<(), LedgerError>;

    /// How long the last commit took; none before the first.
    fn last_commit(&self) -> Option<Duration>;

    /// Whether all security state that was ever acknowledged is known.
    fn security(&self) -> SecurityState;

    /// What an operator should look at although it records and finds; none if there is nothing.
    fn alarm(&self) -> Option<String>;
}
