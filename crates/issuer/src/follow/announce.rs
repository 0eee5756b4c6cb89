//! The ledger, with ears: tells [`Follow`] what every commit did to leases, once it is durable.
//!
//! So no way of ending a lease can be forgotten, and no use case knows who is told.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::ban::{Ban, BanKey};
use shorepass_core::block::Block;
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{Enrolment, JoinToken};
use shorepass_core::id::{BlockId, EnrolmentId, JobId, LeaseId, RequestId};
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::job::Job;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{BlockFilter, Change, LeaseFilter, Ledger, LedgerError, MintedToken, Recorded};
use shorepass_core::name::Name;
use shorepass_core::receipt::Control;
use shorepass_core::request::{Method, Request};
use shorepass_core::security::SecurityState;

use super::Follow;

/// A ledger that tells.
pub struct Announcing {
    inner: Arc<dyn Ledger>,
    follow: Arc<Follow>,
}

impl Announcing {
    /// Over the ledger that records.
    pub fn new(inner: Arc<dyn Ledger>, follow: Arc<Follow>) -> Self {
        Self { inner, follow }
    }
}

enum News {
    Begins(Lease),
    Ends(Lease),
}

fn news(change: &Change) -> Option<News> {
    match change {
        Change::LeasePending { lease, .. } => Some(News::Begins(lease.clone())),
        Change::LeaseEnding { lease } => Some(News::Ends(lease.clone())),
        _ => None, // nothing else begins or ends a lease
    }
}

#[async_trait]
impl Ledger for Announcing {
    async fn commit(&self, changes: Vec<Change>) -> Result<Recorded, LedgerError> {
        let news: Vec<News> = changes.iter().filter_map(news).collect();
        let recorded = self.inner.commit(changes).await?;
        for new in news {
            match new {
                News::Begins(lease) => self.follow.begins(&lease),
                News::Ends(lease) => self.follow.ends(&lease),
            }
        }
        Ok(recorded)
    }

    fn controls(&self, cluster: &Name) -> Result<Vec<Control>, LedgerError> {
        self.inner.controls(cluster)
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, LedgerError> {
        self.inner.job(id)
    }

    fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
        self.inner.lease(id)
    }

    fn leases(
        &self,
        filter: &LeaseFilter,
        before: Option<LeaseId>,
        limit: usize,
    ) -> Result<Vec<Lease>, LedgerError> {
        self.inner.leases(filter, before, limit)
    }

    fn tokens(&self, lease: LeaseId, limit: usize) -> Result<Vec<MintedToken>, LedgerError> {
        self.inner.tokens(lease, limit)
    }

    fn token(&self, jti: &str) -> Result<Option<MintedToken>, LedgerError> {
        self.inner.token(jti)
    }

    fn request(
        &self,
        owner: &Owner,
        job: Option<JobId>,
        method: Method,
        id: RequestId,
    ) -> Result<Option<Request>, LedgerError> {
        self.inner.request(owner, job, method, id)
    }

    fn block(&self, id: BlockId) -> Result<Option<Block>, LedgerError> {
        self.inner.block(id)
    }

    fn blocks(&self, caller: &SpiffeId, role: &Name) -> Result<Vec<Block>, LedgerError> {
        self.inner.blocks(caller, role)
    }

    fn find_blocks(
        &self,
        filter: &BlockFilter,
        before: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<Block>, LedgerError> {
        self.inner.find_blocks(filter, before, limit)
    }

    fn ban(&self, key: &BanKey) -> Result<Option<Ban>, LedgerError> {
        self.inner.ban(key)
    }

    fn bans(&self, after: Option<&BanKey>, limit: usize) -> Result<Vec<Ban>, LedgerError> {
        self.inner.bans(after, limit)
    }

    fn join_token(&self, digest: Digest) -> Result<Option<JoinToken>, LedgerError> {
        self.inner.join_token(digest)
    }

    fn enrolment(&self, id: EnrolmentId) -> Result<Option<Enrolment>, LedgerError> {
        self.inner.enrolment(id)
    }

    fn latest_enrolment(&self, spiffe_id: &SpiffeId) -> Result<Option<Enrolment>, LedgerError> {
        self.inner.latest_enrolment(spiffe_id)
    }

    fn identity(&self, certificate: Digest) -> Result<Option<CreatedIdentity>, LedgerError> {
        self.inner.identity(certificate)
    }

    fn latest_identity(&self) -> Result<Option<CreatedIdentity>, LedgerError> {
        self.inner.latest_identity()
    }

    fn health(&self) -> Result<(), LedgerError> {
        self.inner.health()
    }

    fn last_commit(&self) -> Option<Duration> {
        self.inner.last_commit()
    }

    fn security(&self) -> SecurityState {
        self.inner.security()
    }

    fn alarm(&self) -> Option<String> {
        self.inner.alarm()
    }
}
