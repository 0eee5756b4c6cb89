//! What the services are made of: three traits in the words of the domain.
//!
//! The services in this crate convert wire to domain, call these, and convert back; the issuer implements them. No
//! method here sees a message of the wire, and none can answer with both a result and an error.

use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::ban::{Ban, BanKey};
use shorepass_core::block::Block;
use shorepass_core::caller::{Caller, SpiffeId};
use shorepass_core::cluster::Endpoint;
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::Enrolment;
use shorepass_core::escape::Escapes;
use shorepass_core::id::{BlockId, CallId, EnrolmentId, JobId, LeaseId, RequestId};
use shorepass_core::job::{AssertedJob, Job};
use shorepass_core::job_token::JobToken;
use shorepass_core::labels::Labels;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{LeaseFilter, MintedToken};
use shorepass_core::mint::Issued;
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::policy::Ask;
use shorepass_core::role::Role;
use shorepass_core::time::Timestamp;
use tokio::sync::mpsc;

use crate::refused::Refused;

/// A request that carries an id, and the digest of what else it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The id that the caller chose.
    pub id: RequestId,
    /// Of the content without the id.
    pub content: Digest,
}

/// What a caller shows for a job. `Debug` shows nothing of a token.
#[derive(Debug)]
pub enum Presented {
    /// Its word.
    Asserted(AssertedJob),
    /// A token of its CI system.
    Token(JobToken),
}

/// A token and where to use it.
#[derive(Debug)]
pub struct Delivery {
    /// The lease and the token, recorded.
    pub issued: Issued,
    /// Where to use it.
    pub endpoint: Endpoint,
}

/// A role that a caller may use, and where.
#[derive(Debug)]
pub struct OfferedRole {
    /// The role.
    pub role: Role,
    /// Where its tokens are used.
    pub endpoint: Endpoint,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page<T, Cursor> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one begins; none on the last.
    pub next: Option<Cursor>,
}

/// What runners and platforms call. What reaches a cluster is told the id of the call, to pass it on.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Opens a job session.
    async fn start_job(
        &self,
        caller: &Caller,
        request: RequestKey,
        evidence: Presented,
        expected: Option<Duration>,
    ) -> Result<Job, Refused>;

    /// Ends a job session; gives the leases that ended with it.
    async fn end_job(&self, caller: &Caller, job: JobId) -> Result<Vec<Lease>, Refused>;

    /// Issues a lease and its first token.
    async fn issue(
        &self,
        caller: &Caller,
        call: &CallId,
        request: RequestKey,
        job: JobId,
        ask: Ask,
    ) -> Result<Delivery, Refused>;

    /// Mints another token on a lease.
    async fn refresh(
        &self,
        caller: &Caller,
        call: &CallId,
        lease: LeaseId,
        token_lifetime: Option<Duration>,
    ) -> Result<Delivery, Refused>;

    /// Ends a lease.
    async fn release(&self, caller: &Caller, lease: LeaseId) -> Result<Lease, Refused>;

    /// The roles after `after`, by name.
    async fn list_roles(
        &self,
        caller: &Caller,
        after: Option<Name>,
        limit: usize,
    ) -> Result<Page<OfferedRole, Name>, Refused>;
}

/// A certificate and what leads to it.
#[derive(Debug)]
pub struct Certificate {
    /// Leaf first, PEM.
    pub chain_pem: Vec<u8>,
    /// The certificate authorities to trust for the issuer, PEM.
    pub bundle_pem: Vec<u8>,
    /// When the leaf ends.
    pub expires: Timestamp,
}

/// What lets a machine in. It has no `Debug`.
pub enum Ticket {
    /// A join token as it was handed out.
    JoinToken(zeroize::Zeroizing<String>),
    /// A projected ServiceAccount token of a pod.
    Pod {
        /// Where the pod runs.
        cluster: Name,
        /// The token.
        token: zeroize::Zeroizing<String>,
    },
    /// A token of an OIDC issuer.
    Oidc(zeroize::Zeroizing<String>),
}

/// A presented ticket, certificate request and name. `Debug` shows the name only.
pub struct Enrolling {
    /// What lets the machine in.
    pub ticket: Ticket,
    /// The runner's name.
    pub name: Name,
    /// PKCS #10, PEM.
    pub certificate_request_pem: Vec<u8>,
}

impl std::fmt::Debug for Enrolling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolling").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A nonce to rejoin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// What is to be signed.
    pub bytes: Vec<u8>,
    /// How long it is good.
    pub valid_for: Duration,
}

/// An expired certificate, and the proof that its key is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejoining {
    /// The certificate, PEM.
    pub certificate_pem: Vec<u8>,
    /// The nonce that was given for it.
    pub nonce: Vec<u8>,
    /// PKCS #10, PEM, for the next key.
    pub certificate_request_pem: Vec<u8>,
    /// By the certificate's key.
    pub signature: Vec<u8>,
}

/// How runners get and keep their identity.
#[async_trait]
pub trait Enrolments: Send + Sync {
    /// Exchanges a join token for a certificate.
    async fn enroll(&self, enrolling: Enrolling) -> Result<Certificate, Refused>;

    /// Gives a nonce to whoever shows a certificate that may rejoin.
    async fn begin_rejoin(&self, certificate_pem: Vec<u8>) -> Result<Nonce, Refused>;

    /// Exchanges an expired certificate for the next one.
    async fn rejoin(&self, rejoining: Rejoining) -> Result<Certificate, Refused>;

    /// Renews the caller's certificate.
    async fn renew(&self, caller: &Caller, certificate_request_pem: Vec<u8>) -> Result<Certificate, Refused>;

    /// Lets a call in, or says why not; asked before every RPC with a certificate. It may notice something about the
    /// certificate that has to be recorded first.
    async fn admit(&self, caller: &Caller) -> Result<(), Refused>;

    /// Whether the caller's enrolment still stands and nobody has banned it; asked for every message of a stream, so that
    /// it must not wait for anything.
    fn check_enrolment(&self, caller: &Caller) -> Result<(), Refused>;

    /// Records a refusal that the middleware made, and returns it with its decision id; where it cannot be recorded,
    /// returns why. Asked for a wrong kind of caller, a ban, an enrolment that is over and an expired certificate, after the rate.
    async fn refused(&self, caller: Option<&Caller>, method: &'static str, refused: Refused) -> Refused;
}

/// A lease with what belongs to it.
#[derive(Clone, Debug)]
pub struct LeaseView {
    /// The lease.
    pub lease: Lease,
    /// Its job; none of a lease that was adopted.
    pub job: Option<Job>,
    /// Its tokens, newest first.
    pub tokens: Vec<MintedToken>,
    /// The block that its revocation set, while in force.
    pub block: Option<Block>,
    /// It ends when its owner is silent for longer; none where silence ends nothing, and when it has ended.
    pub silence: Option<Duration>,
    /// By what a job with its role can leave something behind that outlives it; none where that is not asked.
    pub escapes: Option<Escapes>,
}

/// What became of a lease that was to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It would be revoked (dry run).
    WouldRevoke,
    /// Its anchor is deleted.
    Revoked,
    /// Its end is recorded, its anchor not yet deleted, for this reason.
    Ending(String),
    /// It had ended before.
    AlreadyEnded,
    /// Its end is recorded, and its tokens go on working: it is unbound.
    TokensRemain,
}

/// One step of a revocation.
#[derive(Clone, Debug)]
pub struct RevokeStep {
    /// The lease after the step.
    pub view: LeaseView,
    /// What happened.
    pub outcome: Outcome,
    /// How many leases the revocation is about.
    pub total: usize,
    /// Whether it set the block that is shown.
    pub block_set: bool,
    /// Where the receipt is that somebody waits for.
    pub receipt: Awaited,
}

/// Where the receipt of a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// None is waited for.
    No,
    /// A later step brings it.
    Follows,
    /// It is in the view; the outcome was told before.
    Arrived,
    /// There is none in the end; the outcome was told before.
    Missing,
}

/// What to revoke, and why.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// Which leases; everything only where that was said.
    pub filter: LeaseFilter,
    /// Why: 1 to 200 printable characters.
    pub reason: String,
    /// Only tell.
    pub dry_run: bool,
    /// Also tell the receipts.
    pub wait: bool,
}

/// Which blocks to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlocksAsked {
    /// Those of this caller.
    pub caller: Option<SpiffeId>,
    /// Those for this role.
    pub role: Option<Name>,
    /// Also those that were lifted or have ended.
    pub include_ended: bool,
    /// Those older than this one.
    pub before: Option<BlockId>,
    /// At most so many.
    pub limit: usize,
}

/// A ban, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutout {
    /// The ban.
    pub ban: Ban,
    /// How many leases it ended.
    pub leases: usize,
    /// How many of those are unbound, so that their tokens live on.
    pub unbound: usize,
    /// How many unbound leases had ended before whose tokens live on all the same.
    pub outliving: usize,
    /// When the last token of all these is refused.
    pub tokens_until: Option<Timestamp>,
    /// How many connections it closed.
    pub connections: usize,
}

/// What a join token is to allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTokenAsked {
    /// Which runner names it may enrol.
    pub runners: NamePattern,
    /// The labels of who is enrolled with it.
    pub labels: Labels,
    /// How long it may be used.
    pub lifetime: Duration,
    /// Whether it may replace a live enrolment.
    pub replace: bool,
}

/// A new join token. `Debug` shows the expiry only.
pub struct NewJoinToken {
    /// The text to hand to the runner.
    pub text: zeroize::Zeroizing<String>,
    /// When it ends.
    pub expires: Timestamp,
    /// The labels that it gives.
    pub labels: Labels,
}

impl std::fmt::Debug for NewJoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewJoinToken").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// What operators call.
#[async_trait]
pub trait Administration: Send + Sync {
    /// Leases older than `before`, newest first, each with its newest token.
    async fn list_leases(
        &self,
        caller: &Caller,
        filter: LeaseFilter,
        before: Option<LeaseId>,
        limit: usize,
    ) -> Result<Page<LeaseView, LeaseId>, Refused>;

    /// One lease with all its tokens (the newest 200).
    async fn get_lease(&self, caller: &Caller, lease: LeaseId) -> Result<LeaseView, Refused>;

    /// Revokes; each step is sent as it happens. Goes on when the receiver is gone.
    async fn revoke(
        &self,
        caller: &Caller,
        revocation: Revocation,
        steps: mpsc::Sender<Result<RevokeStep, Refused>>,
    ) -> Result<(), Refused>;

    /// Lifts a block.
    async fn unblock(&self, caller: &Caller, block: BlockId) -> Result<Block, Refused>;

    /// Blocks older than `before`, newest first.
    async fn list_blocks(&self, caller: &Caller, asked: BlocksAsked)
    -> Result<Page<Block, BlockId>, Refused>;

    /// Bans somebody.
    async fn ban(&self, caller: &Caller, whom: BanKey, reason: String) -> Result<Shutout, Refused>;

    /// Lifts a ban.
    async fn unban(&self, caller: &Caller, whom: BanKey) -> Result<Ban, Refused>;

    /// Bans after `after`, in the order of their keys.
    async fn list_bans(
        &self,
        caller: &Caller,
        include_lifted: bool,
        after: Option<BanKey>,
        limit: usize,
    ) -> Result<Page<Ban, BanKey>, Refused>;

    /// Enrolments older than `before`, newest first; without `include_ended` those that live, or need an operator.
    async fn list_runners(
        &self,
        caller: &Caller,
        include_ended: bool,
        before: Option<EnrolmentId>,
        limit: usize,
    ) -> Result<Page<Enrolment, EnrolmentId>, Refused>;

    /// Finds a token by its `jti`.
    async fn find_token(&self, caller: &Caller, jti: &str) -> Result<(MintedToken, LeaseView), Refused>;

    /// Creates a join token.
    async fn create_join_token(
        &self,
        caller: &Caller,
        request: RequestKey,
        asked: JoinTokenAsked,
    ) -> Result<NewJoinToken, Refused>;
}
