//! A ledger on top of another one, that differs in how it commits.

use std::time::Duration;

use async_trait::async_trait;

use super::{BlockFilter, Change, LeaseFilter, Ledger, LedgerError, MintedToken, Recorded};
use crate::ban::{Ban, BanKey};
use crate::block::Block;
use crate::caller::{Owner, SpiffeId};
use crate::digest::Digest;
use crate::enrolment::{Enrolment, JoinToken};
use crate::id::{BlockId, EnrolmentId, JobId, LeaseId, RequestId};
use crate::identity::CreatedIdentity;
use crate::job::{Job, SpentToken};
use crate::lease::Lease;
use crate::name::Name;
use crate::receipt::Control;
use crate::request::{Method, Request};
use crate::security::SecurityState;
use crate::time::Timestamp;

/// Sees every commit on its way to the ledger below; what is read comes from there as it is. Whoever is one is a [`Ledger`].
#[async_trait]
pub trait Layer: Send + Sync {
    /// The ledger below.
    fn below(&self) -> &dyn Ledger;

    /// What becomes of a commit; as [`Ledger::commit`].
    async fn pass_on(&self, changes: Vec<Change>) -> Result<Recorded, LedgerError>;

    /// As [`Ledger::security`].
    fn security_state(&self) -> SecurityState {
        self.below().security()
    }
}

#[async_trait]
impl<L: Layer> Ledger for L {
    async fn commit(&self, changes: Vec<Change>) -> Result<Recorded, LedgerError> {
        self.pass_on(changes).await
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, LedgerError> {
        self.below().job(id)
    }

    fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
        self.below().lease(id)
    }

    fn leases(
        &self,
        filter: &LeaseFilter,
        before: Option<LeaseId>,
        limit: usize,
    ) -> Result<Vec<Lease>, LedgerError> {
        self.below().leases(filter, before, limit)
    }

    fn outliving(&self, filter: &LeaseFilter, now: Timestamp) -> Result<Vec<Lease>, LedgerError> {
        self.below().outliving(filter, now)
    }

    fn controls(&self, cluster: &Name) -> Result<Vec<Control>, LedgerError> {
        self.below().controls(cluster)
    }

    fn tokens(&self, lease: LeaseId, limit: usize) -> Result<Vec<MintedToken>, LedgerError> {
        self.below().tokens(lease, limit)
    }

    fn token(&self, jti: &str) -> Result<Option<MintedToken>, LedgerError> {
        self.below().token(jti)
    }

    fn request(
        &self,
        owner: &Owner,
        job: Option<JobId>,
        method: Method,
        id: RequestId,
    ) -> Result<Option<Request>, LedgerError> {
        self.below().request(owner, job, method, id)
    }

    fn block(&self, id: BlockId) -> Result<Option<Block>, LedgerError> {
        self.below().block(id)
    }

    fn blocks(&self, caller: &SpiffeId, role: &Name) -> Result<Vec<Block>, LedgerError> {
        self.below().blocks(caller, role)
    }

    fn find_blocks(
        &self,
        filter: &BlockFilter,
        before: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<Block>, LedgerError> {
        self.below().find_blocks(filter, before, limit)
    }

    fn ban(&self, key: &BanKey) -> Result<Option<Ban>, LedgerError> {
        self.below().ban(key)
    }

    fn bans(&self, after: Option<&BanKey>, limit: usize) -> Result<Vec<Ban>, LedgerError> {
        self.below().bans(after, limit)
    }

    fn blocks_of_caller(&self, caller: &SpiffeId) -> Result<Vec<Block>, LedgerError> {
        self.below().blocks_of_caller(caller)
    }

    fn spent_token(&self, replay: Digest) -> Result<Option<SpentToken>, LedgerError> {
        self.below().spent_token(replay)
    }

    fn join_token(&self, digest: Digest) -> Result<Option<JoinToken>, LedgerError> {
        self.below().join_token(digest)
    }

    fn enrolment(&self, id: EnrolmentId) -> Result<Option<Enrolment>, LedgerError> {
        self.below().enrolment(id)
    }

    fn latest_enrolment(&self, spiffe_id: &SpiffeId) -> Result<Option<Enrolment>, LedgerError> {
        self.below().latest_enrolment(spiffe_id)
    }

    fn enrolments(&self, before: Option<EnrolmentId>, limit: usize) -> Result<Vec<Enrolment>, LedgerError> {
        self.below().enrolments(before, limit)
    }

    fn identity(&self, certificate: Digest) -> Result<Option<CreatedIdentity>, LedgerError> {
        self.below().identity(certificate)
    }

    fn latest_identity(&self) -> Result<Option<CreatedIdentity>, LedgerError> {
        self.below().latest_identity()
    }

    fn health(&self) -> Result<(), LedgerError> {
        self.below().health()
    }

    fn last_commit(&self) -> Option<Duration> {
        self.below().last_commit()
    }

    fn security(&self) -> SecurityState {
        self.security_state()
    }

    fn alarm(&self) -> Option<String> {
        self.below().alarm()
    }
}
