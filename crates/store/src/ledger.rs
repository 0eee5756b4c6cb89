//! The ledger port over an engine: the same reads for each, and the one place where a commit becomes a proof.
//!
//! A macro and not a trait, because a foreign trait cannot be implemented for whatever implements one of ours. An engine
//! has `record(changes)`, `read(|view| ...)` and `last()`.

/// Implements [`shorepass_core::ledger::Ledger`] for an engine.
macro_rules! ledger_over {
    ($engine:ty) => {
        #[async_trait::async_trait]
        impl shorepass_core::ledger::Ledger for $engine {
            async fn commit(&self, changes: Vec<Change>) -> Result<Recorded, LedgerError> {
                self.record(changes).await.map(crate::ledger::durable)
            }

            fn job(&self, id: JobId) -> Result<Option<Job>, LedgerError> {
                self.read(|view| rows::job(view, id))
            }

            fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
                self.read(|view| rows::lease(view, id))
            }

            fn leases(
                &self,
                filter: &LeaseFilter,
                before: Option<LeaseId>,
                limit: usize,
            ) -> Result<Vec<Lease>, LedgerError> {
                self.read(|view| rows::leases(view, filter, before, limit))
            }

            fn outliving(
                &self,
                filter: &LeaseFilter,
                now: shorepass_core::time::Timestamp,
            ) -> Result<Vec<Lease>, LedgerError> {
                self.read(|view| crate::trim::outliving(view, filter, now))
            }

            fn tokens(&self, lease: LeaseId, limit: usize) -> Result<Vec<MintedToken>, LedgerError> {
                self.read(|view| rows::tokens(view, lease, limit))
            }

            fn token(&self, jti: &str) -> Result<Option<MintedToken>, LedgerError> {
                self.read(|view| rows::token(view, jti))
            }

            fn request(
                &self,
                owner: &Owner,
                job: Option<JobId>,
                method: Method,
                id: RequestId,
            ) -> Result<Option<Request>, LedgerError> {
                self.read(|view| rows::request(view, owner, job, method, id))
            }

            fn block(&self, id: BlockId) -> Result<Option<Block>, LedgerError> {
                self.read(|view| rows::block(view, id))
            }

            fn blocks(&self, caller: &SpiffeId, role: &Name) -> Result<Vec<Block>, LedgerError> {
                self.read(|view| rows::blocks(view, caller, role))
            }

            fn controls(&self, cluster: &Name) -> Result<Vec<Control>, LedgerError> {
                self.read(|view| rows::controls(view, cluster))
            }

            fn find_blocks(
                &self,
                filter: &BlockFilter,
                before: Option<BlockId>,
                limit: usize,
            ) -> Result<Vec<Block>, LedgerError> {
                self.read(|view| rows::find_blocks(view, filter, before, limit))
            }

            fn ban(&self, key: &BanKey) -> Result<Option<Ban>, LedgerError> {
                self.read(|view| rows::ban(view, key))
            }

            fn bans(&self, after: Option<&BanKey>, limit: usize) -> Result<Vec<Ban>, LedgerError> {
                self.read(|view| rows::bans(view, after, limit))
            }

            fn blocks_of_caller(&self, caller: &SpiffeId) -> Result<Vec<Block>, LedgerError> {
                self.read(|view| rows::blocks_of_caller(view, caller))
            }

            fn spent_token(
                &self,
                replay: Digest,
            ) -> Result<Option<shorepass_core::job::SpentToken>, LedgerError> {
                self.read(|view| rows::spent_token(view, replay))
            }

            fn join_token(&self, digest: Digest) -> Result<Option<JoinToken>, LedgerError> {
                self.read(|view| rows::join_token(view, digest))
            }

            fn enrolment(&self, id: EnrolmentId) -> Result<Option<Enrolment>, LedgerError> {
                self.read(|view| rows::enrolment(view, id))
            }

            fn latest_enrolment(&self, spiffe_id: &SpiffeId) -> Result<Option<Enrolment>, LedgerError> {
                self.read(|view| rows::latest_enrolment(view, spiffe_id))
            }

            fn enrolments(
                &self,
                before: Option<EnrolmentId>,
                limit: usize,
            ) -> Result<Vec<Enrolment>, LedgerError> {
                self.read(|view| rows::enrolments(view, before, limit))
            }

            fn identity(&self, certificate: Digest) -> Result<Option<CreatedIdentity>, LedgerError> {
                self.read(|view| rows::identity(view, certificate))
            }

            fn latest_identity(&self) -> Result<Option<CreatedIdentity>, LedgerError> {
                self.read(rows::latest_identity)
            }

            fn health(&self) -> Result<(), LedgerError> {
                self.healthy()
            }

            fn last_commit(&self) -> Option<Duration> {
                self.last()
            }

            fn security(&self) -> SecurityState {
                self.security_state()
            }

            fn alarm(&self) -> Option<String> {
                self.told_alarm()
            }
        }
    };
}

use std::time::Duration;

use shorepass_core::ban::{Ban, BanKey};
use shorepass_core::block::Block;
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{Enrolment, JoinToken};
use shorepass_core::id::{BlockId, EnrolmentId, JobId, LeaseId, RequestId};
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::job::Job;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{BlockFilter, Change, LeaseFilter, LedgerError, MintedToken, Recorded};
use shorepass_core::name::Name;
use shorepass_core::receipt::Control;
use shorepass_core::request::{Method, Request};
use shorepass_core::security::SecurityState;

use crate::memory::MemoryLedger;
use crate::rows;
use crate::sled_ledger::Store;

ledger_over!(MemoryLedger);
ledger_over!(Store);

/// What an engine recorded is durable when its `record` returns.
fn durable((): ()) -> Recorded {
    Recorded::durable()
}
