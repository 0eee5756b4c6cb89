//! The use cases behind the traits that the services call.
//!
//! Each act runs in a task of its own: a caller that hangs up must not stop it between two commits.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::ban::{Ban, BanKey};
use shorepass_core::block::Block;
use shorepass_core::caller::Caller;
use shorepass_core::enrolment::Enrolment;
use shorepass_core::id::{BlockId, CallId, EnrolmentId, JobId, LeaseId};
use shorepass_core::job::Job;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{LeaseFilter, MintedToken};
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::policy::{Ask, Asker};
use shorepass_rpc::api::{
    Administration, BlocksAsked, Certificate, Credentials, Delivery, Enrolling as Presented, Enrolments,
    JoinTokenAsked, LeaseView, NewJoinToken, Nonce, OfferedRole, Page, Presented as Shown, Rejoining,
    RequestKey, Revocation, RevokeStep, Shutout,
};
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_tls::Authority;
use tokio::sync::mpsc;
use tracing::Instrument as _;

use crate::admin::{Acts, Views};
use crate::ban::Banning;
use crate::enrol::{Enrolling, Lifetimes};
use crate::issue::Issuing;
use crate::jobs::Jobs;
use crate::outside::{Outside, Refusing};
use crate::prove::Proving;
use crate::revoke::Ends;
use crate::revoke::operators::Revoking;

/// All use cases together.
#[derive(Clone)]
pub struct UseCases {
    /// What they stand on.
    pub outside: Arc<Outside>,
    /// Job sessions.
    pub jobs: Jobs,
    /// Issue and refresh.
    pub issuing: Issuing,
    /// Ends of leases.
    pub ends: Ends,
    /// Revocation by operators.
    pub revoking: Revoking,
    /// Bans by operators.
    pub banning: Banning,
    /// What operators see.
    pub views: Views,
    /// Other acts of operators.
    pub acts: Acts,
    /// Enrolment.
    pub enrolling: Enrolling,
    /// Receipts.
    pub proving: Proving,
}

impl UseCases {
    /// All of them over the same outside; of leases that are not revoked, one in `receipts_one_in` gets a receipt.
    pub fn new(
        outside: Arc<Outside>,
        authority: Arc<Authority>,
        trust_domain: TrustDomain,
        lifetimes: Lifetimes,
        receipts_one_in: u32,
    ) -> Self {
        let jobs = Jobs::new(outside.clone());
        let proving = Proving::new(outside.clone(), receipts_one_in);
        let ends = Ends::new(outside.clone(), proving.clone());
        let views = Views::new(outside.clone());
        Self {
            issuing: Issuing::new(outside.clone(), jobs.clone(), ends.clone()),
            revoking: Revoking::new(ends.clone(), views.clone()),
            banning: Banning::new(outside.clone(), ends.clone()),
            acts: Acts::new(outside.clone(), authority.clone()),
            enrolling: Enrolling::new(outside.clone(), ends.clone(), authority, trust_domain, lifetimes),
            outside,
            proving,
            jobs,
            ends,
            views,
        }
    }
}

async fn to_the_end<T: Send + 'static>(
    act: impl Future<Output = Result<T, Refused>> + Send + 'static,
) -> Result<T, Refused> {
    match tokio::spawn(act.in_current_span()).await {
        Ok(result) => result,
        Err(cause) if cause.is_panic() => std::panic::resume_unwind(cause.into_panic()),
        Err(_) => Err(Refused::new(Reason::ShuttingDown, "the issuer is shutting down; try again")
            .retry(Duration::from_secs(1))),
    }
}

#[async_trait]
impl Credentials for UseCases {
    async fn start_job(
        &self,
        caller: &Caller,
        request: RequestKey,
        evidence: Shown,
        expected: Option<Duration>,
    ) -> Result<Job, Refused> {
        self.jobs.start(caller, request, evidence, expected).await
    }

    async fn end_job(&self, caller: &Caller, job: JobId) -> Result<Vec<Lease>, Refused> {
        let (this, caller) = (self.clone(), caller.clone());
        to_the_end(async move { this.ends.end_job(&this.jobs, &caller, job).await }).await
    }

    async fn issue(
        &self,
        caller: &Caller,
        call: &CallId,
        request: RequestKey,
        job: JobId,
        ask: Ask,
    ) -> Result<Delivery, Refused> {
        let (this, caller, call) = (self.clone(), caller.clone(), call.clone());
        let issuing = async move {
            let delivery = this.issuing.issue(&caller, &call, request, job, ask).await?;
            this.outside.follow.hear(delivery.issued.lease.id); // also where the request came again
            Ok(delivery)
        };
        to_the_end(issuing).await
    }

    async fn refresh(
        &self,
        caller: &Caller,
        call: &CallId,
        lease: LeaseId,
        token_lifetime: Option<Duration>,
    ) -> Result<Delivery, Refused> {
        let (this, caller, call) = (self.clone(), caller.clone(), call.clone());
        self.hear_of(&caller, lease);
        to_the_end(async move { this.issuing.refresh(&caller, &call, lease, token_lifetime).await }).await
    }

    async fn release(&self, caller: &Caller, lease: LeaseId) -> Result<Lease, Refused> {
        let (this, caller) = (self.clone(), caller.clone());
        to_the_end(async move { this.ends.release(&caller, lease).await }).await
    }

    async fn list_roles(
        &self,
        caller: &Caller,
        after: Option<Name>,
        limit: usize,
    ) -> Result<Page<OfferedRole, Name>, Refused> {
        let later = |name: &Name| after.as_ref().is_none_or(|after| name > after);
        let labels = self.outside.labels_of(caller)?;
        let asker = Asker { caller, labels: &labels };
        let policy = self.outside.policy.current();
        let mut roles = policy.roles_of(asker).filter(|role| later(role.name()));
        let offer = |role: &shorepass_core::role::Role| {
            let endpoint = self.outside.cluster(role.cluster())?.endpoint().clone();
            Ok(OfferedRole { role: role.clone(), endpoint })
        };
        let items: Vec<OfferedRole> =
            roles.by_ref().take(limit).map(offer).collect::<Result<_, Refused>>()?;
        let more = roles.next().is_some();
        let next = items.last().filter(|_| more).map(|offered| offered.role.name().clone());
        Ok(Page { items, next })
    }
}

#[async_trait]
impl Enrolments for UseCases {
    async fn enroll(&self, enrolling: Presented) -> Result<Certificate, Refused> {
        let this = self.clone();
        to_the_end(async move { this.enrolling.enroll(enrolling).await }).await
    }

    async fn begin_rejoin(&self, certificate_pem: Vec<u8>) -> Result<Nonce, Refused> {
        self.enrolling.begin_rejoin(&certificate_pem).await
    }

    async fn rejoin(&self, rejoining: Rejoining) -> Result<Certificate, Refused> {
        let this = self.clone();
        to_the_end(async move { this.enrolling.rejoin(rejoining).await }).await
    }

    async fn renew(&self, caller: &Caller, certificate_request_pem: Vec<u8>) -> Result<Certificate, Refused> {
        let (this, caller) = (self.clone(), caller.clone());
        to_the_end(async move { this.enrolling.renew(&caller, &certificate_request_pem).await }).await
    }

    async fn admit(&self, caller: &Caller) -> Result<(), Refused> {
        let Some(noticed) = self.enrolling.admit(caller)? else { return Ok(()) };
        let (this, caller) = (self.clone(), caller.clone());
        to_the_end(async move { this.enrolling.note(&caller, noticed).await }).await
    }

    fn check_enrolment(&self, caller: &Caller) -> Result<(), Refused> {
        self.enrolling.check(caller)
    }

    async fn refused(&self, caller: Option<&Caller>, method: &'static str, refused: Refused) -> Refused {
        let (outside, caller) = (self.outside.clone(), caller.map(|caller| caller.spiffe_id().clone()));
        let recording = async move {
            let explanation = refused.message.clone();
            let caller = caller.as_ref();
            Ok(outside.refuse(Refusing { caller, method, subject: "", refused, explanation }).await)
        };
        to_the_end(recording).await.unwrap_or_else(|interrupted| interrupted)
    }
}

#[async_trait]
impl Administration for UseCases {
    async fn list_leases(
        &self,
        _caller: &Caller,
        filter: LeaseFilter,
        before: Option<LeaseId>,
        limit: usize,
    ) -> Result<Page<LeaseView, LeaseId>, Refused> {
        self.views.page(&filter, before, limit)
    }

    async fn get_lease(&self, _caller: &Caller, lease: LeaseId) -> Result<LeaseView, Refused> {
        self.views.one(lease)
    }

    async fn revoke(
        &self,
        caller: &Caller,
        revocation: Revocation,
        steps: mpsc::Sender<Result<RevokeStep, Refused>>,
    ) -> Result<(), Refused> {
        let (this, caller) = (self.clone(), caller.clone());
        to_the_end(async move { this.revoking.revoke(&caller, revocation, steps).await }).await
    }

    async fn unblock(&self, caller: &Caller, block: BlockId) -> Result<Block, Refused> {
        self.acts.unblock(caller, block).await
    }

    async fn list_blocks(
        &self,
        _caller: &Caller,
        asked: BlocksAsked,
    ) -> Result<Page<Block, BlockId>, Refused> {
        self.views.blocks(asked)
    }

    async fn ban(&self, caller: &Caller, whom: BanKey, reason: String) -> Result<Shutout, Refused> {
        let (this, caller) = (self.clone(), caller.clone());
        to_the_end(async move { this.banning.ban(&caller, whom, reason).await }).await
    }

    async fn unban(&self, caller: &Caller, whom: BanKey) -> Result<Ban, Refused> {
        let (this, caller) = (self.clone(), caller.clone());
        to_the_end(async move { this.banning.unban(&caller, whom).await }).await
    }

    async fn list_bans(
        &self,
        _caller: &Caller,
        include_lifted: bool,
        after: Option<BanKey>,
        limit: usize,
    ) -> Result<Page<Ban, BanKey>, Refused> {
        self.banning.page(include_lifted, after, limit)
    }

    async fn list_runners(
        &self,
        _caller: &Caller,
        include_ended: bool,
        before: Option<EnrolmentId>,
        limit: usize,
    ) -> Result<Page<Enrolment, EnrolmentId>, Refused> {
        self.views.runners(include_ended, before, limit)
    }

    async fn find_token(&self, _caller: &Caller, jti: &str) -> Result<(MintedToken, LeaseView), Refused> {
        self.views.token(jti)
    }

    async fn create_join_token(
        &self,
        caller: &Caller,
        request: RequestKey,
        asked: JoinTokenAsked,
    ) -> Result<NewJoinToken, Refused> {
        self.acts.create_join_token(caller, request, asked).await
    }
}
