//! Issue one credential.
//!
//! Decisions are made in `core`, effects behind ports; this file puts them in order. It does not know gRPC, YAML, kube or
//! sled. Question a newcomer will ask: why two commits? The first makes the anchor findable after a crash, the second
//! lets the token out. What happens when a step fails is in [`failures`]; a request that comes again is in [`again`].

mod again;
pub mod attempts;
mod failures;
pub mod quotas;
pub mod turns;

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::caller::Caller;
use shorepass_core::id::{CallId, JobId, LeaseId};
use shorepass_core::job::Job;
use shorepass_core::lease::{AnchorName, Lease};
use shorepass_core::ledger::{Change, LedgerError, Recorded};
use shorepass_core::mint::{Order, Verified};
use shorepass_core::name::Name;
use shorepass_core::policy::{Ask, Asker, Denial, Grant};
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_rpc::api::{Delivery, RequestKey};
use shorepass_rpc::refused::Refused;

use self::attempts::Attempt;
use self::quotas::Place;
use self::turns::Turn;
use crate::fail_points::{self, Point};
use crate::jobs::Jobs;
use crate::mutants::{self, Mutant};
use crate::outside::{Outside, ledger_refused, no_turn};
use crate::revoke::Ends;

/// Issues and refreshes.
#[derive(Clone)]
pub struct Issuing {
    outside: Arc<Outside>,
    jobs: Jobs,
    ends: Ends,
}

impl Issuing {
    /// Over the outside.
    pub fn new(outside: Arc<Outside>, jobs: Jobs, ends: Ends) -> Self {
        Self { outside, jobs, ends }
    }

    /// One lease and its first token. Steps 6 to 12 of the flow in ARCHITECTURE.md.
    pub async fn issue(
        &self,
        caller: &Caller,
        call: &CallId,
        request: RequestKey,
        job: JobId,
        ask: Ask,
    ) -> Result<Delivery, Refused> {
        let job = self.jobs.owned(caller, "Issue", job).await?; // a foreign job is "not available"
        if let Some(lease) = self.answered(caller, job.id, request).await? {
            return self.answer_again(caller, call, &job, lease, ask).await; // same lease, new token
        }
        let labels = self.outside.labels_of(caller)?;
        let asker = Asker { caller, labels: &labels };
        let (_place, turn) = self.admit(asker, &job, &ask).await?; // who gets none leaves nothing on record
        let (order, _attempt) = self.decide_and_record(asker, &job, request, ask).await?; // durable before the cluster knows
        let verified = self.mint_and_check(order, call, turn).await?; // anchor, token, and what was really granted
        let recorded = self.record(&verified).await?; // with its audit line, fsynced
        self.deliver(caller, verified, &recorded) // the only way out for a token
    }

    /// Another token on the anchor of a lease.
    pub async fn refresh(
        &self,
        caller: &Caller,
        call: &CallId,
        lease: LeaseId,
        token_lifetime: Option<Duration>,
    ) -> Result<Delivery, Refused> {
        let lease = self.ends.owned(caller, "Refresh", lease).await?; // a foreign lease is "not available"
        let job = match lease.job {
            Some(job) => Some(self.jobs.owned(caller, "Refresh", job).await?),
            None => None, // it was adopted, and its owner is all that is known
        };
        self.mint_again(caller, call, job.as_ref(), lease, token_lifetime).await
    }

    async fn mint_again(
        &self,
        caller: &Caller,
        call: &CallId,
        job: Option<&Job>,
        lease: Lease,
        token_lifetime: Option<Duration>,
    ) -> Result<Delivery, Refused> {
        if lease.pins().is_none() && lease.is_live() {
            return Err(again::at_work());
        }
        let Some(role) = lease.role.clone() else {
            // Told as of a lease that is lost: then an agent asks for a new one.
            let why = "it was adopted, and no role is as its role was";
            return Err(self.outside.refuse_lease(caller, "Refresh", &lease.id.to_string(), why).await);
        };
        self.not_banned(caller, "Refresh", &role).await?;
        // Whoever came by the owner check is the owner, whether the record has its name or not.
        let lease = Lease { owner: caller.owner().into(), ..lease };
        let lease = if mutants::is(Mutant::NewAnchorOnRefresh) { mutants::anew(lease) } else { lease };
        let (policy, now) = (self.outside.policy.current(), self.outside.clock.now());
        let labels = self.outside.labels_of(caller)?;
        let asker = Asker { caller, labels: &labels };
        let decided = match job {
            Some(_) => policy.decide_refresh(asker, job, lease, token_lifetime, now),
            // Adopted: it may have ended before its record was lost, and who is blocked since does not get it back.
            None => {
                let blocks = self.outside.ledger.blocks(caller.spiffe_id(), &role);
                let blocks = blocks.map_err(|cause| ledger_refused(&cause))?;
                policy.decide_again(asker, None, lease, token_lifetime, &blocks, now)
            }
        };
        let order = match decided {
            Ok(order) => order,
            Err(denial) => {
                return Err(self.deny(caller, "Refresh", &role, job.map(|job| job.id), denial).await);
            }
        };
        if let Some(role) = policy.role(&role) {
            self.outside.quotas.mint(role)?;
        }
        let turn = self.turn(caller, &order.target().cluster).await?;
        let verified = self.mint_and_check(order, call, turn).await?;
        let recorded = self.record(&verified).await?;
        self.still_live(verified.lease().id)?; // a token of a lease that ended meanwhile does not leave
        self.deliver(caller, verified, &recorded)
    }

    /// A place among the role's leases and a turn at its cluster, for who would be granted a lease now. They are taken before the gate, in which nobody waits
    /// for a cluster, so that the decision is made again in there.
    async fn admit(&self, asker: Asker<'_>, job: &Job, ask: &Ask) -> Result<(Place, Turn), Refused> {
        let caller = asker.caller;
        match self.decide(asker, job.id, ask)? {
            Ok(grant) => {
                let (outside, role) = (&self.outside, grant.role());
                let place = outside.quotas.place(role, || outside.follow.living(role.name()))?;
                outside.quotas.mint(role)?;
                let turn = self.turn(caller, grant.cluster()).await?;
                self.allowed_what_it_needs(caller, role).await?;
                Ok((place, turn))
            }
            Err(denial) => Err(self.deny(caller, "Issue", &ask.role, Some(job.id), denial).await),
        }
    }

    fn decide(&self, asker: Asker<'_>, job: JobId, ask: &Ask) -> Result<Result<Grant, Denial>, Refused> {
        let outside = &self.outside;
        let mut blocks =
            outside.blocks_on(asker.caller, &ask.role, job).map_err(|cause| ledger_refused(&cause))?;
        if mutants::is(Mutant::IgnoreBlocks) {
            blocks.clear();
        }
        let job = self.jobs.current(job)?;
        Ok(outside.policy.current().decide(asker, &job, ask, &blocks, outside.clock.now()))
    }

    async fn turn(&self, caller: &Caller, cluster: &Name) -> Result<Turn, Refused> {
        match self.outside.turns.take(cluster, caller.spiffe_id()).await {
            Some(turn) => turn.map_err(|cause| no_turn(&cause)),
            None => Err(self.outside.no_such_cluster(cluster)),
        }
    }

    /// From the decision until *pending* is durable, no end may come in between: see [`Outside::gate`].
    async fn decide_and_record(
        &self,
        asker: Asker<'_>,
        job: &Job,
        request: RequestKey,
        ask: Ask,
    ) -> Result<(Order, Attempt), Refused> {
        let caller = asker.caller;
        let _together = self.outside.gate.read().await;
        self.not_banned(caller, "Issue", &ask.role).await?; // the middleware has asked before the gate
        match self.decide(asker, job.id, &ask)? {
            Ok(grant) => self.record_pending(caller, job.id, request, grant).await,
            Err(denial) => Err(self.deny(caller, "Issue", &ask.role, Some(job.id), denial).await),
        }
    }

    async fn record_pending(
        &self,
        caller: &Caller,
        job: JobId,
        request: RequestKey,
        grant: Grant,
    ) -> Result<(Order, Attempt), Refused> {
        let outside = &self.outside;
        let mut random = [0; 16];
        outside.entropy.fill(&mut random);
        let id = LeaseId::generate(outside.clock.now(), outside.entropy.as_ref());
        let order = grant.into_order(id, AnchorName::from_random(random));
        let attempt = outside.attempts.begin(id).ok_or_else(again::at_work)?;
        let record = Request {
            owner: caller.owner(),
            job: order.lease().job,
            method: Method::Issue,
            id: request.id,
            content: request.content,
            outcome: Outcome::Lease(id),
        };
        let pending = Change::LeasePending { lease: order.lease().clone(), request: record };
        fail_points::reached(Point::Decided);
        match outside.ledger.commit(mutants::altered(vec![pending])).await {
            Ok(_) => {
                fail_points::reached(Point::PendingRecorded);
                Ok((order, attempt))
            }
            Err(cause) => Err(self.not_begun(caller, job, request, &cause).await),
        }
    }

    async fn mint_and_check(&self, order: Order, call: &CallId, turn: Turn) -> Result<Verified, Refused> {
        let cluster = self.outside.cluster(&order.target().cluster)?;
        let annotation = self.outside.seal.seal(order.lease());
        let minted = cluster.mint(&order, &annotation, call).await;
        turn.over(&minted);
        let minted = match minted {
            Ok(minted) => {
                fail_points::reached(Point::Minted);
                minted
            }
            Err(cause) => return Err(self.give_up(order, cause).await), // settled now, or by the sweeper
        };
        match order.verify(minted, self.outside.clock.now()) {
            Ok(verified) => Ok(verified), // what was granted, not what was asked
            Err(rejected) => Err(self.cut_and_fail(rejected).await),
        }
    }

    async fn record(&self, verified: &Verified) -> Result<Recorded, Refused> {
        match mutants::commit(&self.outside.ledger, mutants::altered(verified.changes())).await {
            Ok(recorded) => {
                fail_points::reached(Point::TokenRecorded);
                Ok(recorded)
            }
            Err(LedgerError::Conflict(_)) => Err(self.ended_meanwhile(verified).await),
            Err(cause) => Err(self.unrecorded(verified, &cause)),
        }
    }

    fn deliver(&self, caller: &Caller, verified: Verified, recorded: &Recorded) -> Result<Delivery, Refused> {
        let endpoint = self.outside.cluster(&verified.lease().target.cluster)?.endpoint().clone();
        let silence = self.outside.follow.silence_of(verified.lease());
        let issued = verified.release(recorded, caller.expires(), silence, self.outside.clock.now());
        tracing::info!(lease = %issued.lease.id, jti = %issued.record.jti, caller = %caller.spiffe_id(), role = issued.lease.role_name(), mode = issued.lease.mode.name(), "token issued");
        metrics::counter!("shorepass_tokens_issued_total", "cluster" => endpoint.name.to_string())
            .increment(1);
        Ok(Delivery { issued, endpoint })
    }
}
