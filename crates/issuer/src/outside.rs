//! What every use case stands on: the ports, and how their failures are told to a caller.
//!
//! The gate keeps ends and beginnings apart: who ends something (a job, a lease, an enrolment) holds it alone while the
//! end becomes durable; who begins a lease holds it together with others from the decision until *pending* is durable.
//! Without it a lease could slip in between a block and the list of leases that the block was set for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::anchors::{FoundAnchor, Sealed};
use shorepass_core::ban::Ban;
use shorepass_core::block::Block;
use shorepass_core::caller::{Caller, Kind, Owner, SpiffeId};
use shorepass_core::cluster::{Cluster, MintError};
use shorepass_core::id::{DecisionId, EnrolmentId, JobId};
use shorepass_core::job::Job;
use shorepass_core::job_issuer::JobIssuer;
use shorepass_core::job_token::JobTokens;
use shorepass_core::labels::Labels;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{Change, Ledger, LedgerError, Refusal};
use shorepass_core::name::Name;
use shorepass_core::request::{Outcome, Request};
use shorepass_core::time::{Clock, Entropy, for_people};
use shorepass_rpc::connections::Connections;
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_rpc::status::{RULES, RULES_LIMIT, reason_name};
use shorepass_tls::Trust;
use tokio::sync::RwLock;
use tokio_util::task::TaskTracker;

use crate::ban::list::BanList;
use crate::follow::Follow;
use crate::issue::attempts::Attempts;
use crate::issue::quotas::Quotas;
use crate::issue::turns::{NoTurn, Turns};
use crate::reviews::Reviews;
use crate::roles::in_force::InForce;

/// When somebody comes back to whom a quota left no room: something has to end first.
const QUOTA_RETRY: Duration = Duration::from_secs(15);

/// Seals what an anchor carries, so that nobody else can make one that is taken for ours.
pub trait Seal: Send + Sync {
    /// The annotation of the lease's anchor.
    fn seal(&self, lease: &Lease) -> String;

    /// What an annotation says, if it is ours and was made for that anchor.
    fn open(&self, annotation: &str, cluster: &Name, found: &FoundAnchor) -> Option<Sealed>;
}

/// The identities that `identity create` has made: platforms and operators have no enrolment in the ledger.
pub trait Identities: Send + Sync {
    /// Whose enrolment that is; none if no identity was made with it.
    fn caller_of(&self, enrolment: EnrolmentId) -> anyhow::Result<Option<SpiffeId>>;

    /// Whose identities were made.
    fn owners(&self) -> anyhow::Result<Vec<Owner>>;
}

/// The outside of the issuer, as its use cases see it.
pub struct Outside {
    /// The records.
    pub ledger: Arc<dyn Ledger>,
    /// The clusters, by name.
    pub clusters: BTreeMap<Name, Arc<dyn Cluster>>,
    /// The roles.
    pub policy: InForce,
    /// Whose job tokens are taken, by name.
    pub job_issuers: BTreeMap<Name, JobIssuer>,
    /// Verifies them.
    pub job_tokens: Arc<dyn JobTokens>,
    /// Seals anchors.
    pub seal: Box<dyn Seal>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Gives random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// Keeps ends and beginnings apart.
    pub gate: RwLock<()>,
    /// Who may ask which cluster for a token.
    pub turns: Turns,
    /// What is left of the roles' limits.
    pub quotas: Quotas,
    /// Whose first token is being minted.
    pub attempts: Attempts,
    /// Who is banned.
    pub bans: BanList,
    /// The living leases: when each is to end by itself, and who is told.
    pub follow: Arc<Follow>,
    /// Who is connected.
    pub connections: Connections,
    /// Whose certificates are good.
    pub trust: Arc<Trust>,
    /// What the ServiceAccounts of roles may do.
    pub reviews: Reviews,
    /// What was made beside the running issuer.
    pub identities: Box<dyn Identities>,
    /// Cuts that nobody waits for; the daemon does, before it ends.
    pub background: TaskTracker,
}

/// A request that is refused, before it has a decision id.
pub struct Refusing<'a> {
    /// Who asked; none for an enrolment.
    pub caller: Option<&'a SpiffeId>,
    /// The method's name.
    pub method: &'static str,
    /// What was asked for.
    pub subject: &'a str,
    /// What the caller is told.
    pub refused: Refused,
    /// What the operator is told.
    pub explanation: String,
}

/// What a decision on a role adds to a refusal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decided {
    /// The job session that it was for.
    pub job: Option<JobId>,
    /// Of a role that says `dryRun`: whether it would have been given.
    pub dry_run: Option<bool>,
}

impl Outside {
    /// The cluster of that name. Roles are checked against the clusters at start, so that it is there.
    pub fn cluster(&self, name: &Name) -> Result<&Arc<dyn Cluster>, Refused> {
        self.clusters.get(name).ok_or_else(|| self.no_such_cluster(name))
    }

    /// What the caller is told of a cluster that is not there.
    pub fn no_such_cluster(&self, name: &Name) -> Refused {
        Refused::new(
            Reason::ClusterUnreachable,
            format!("cluster {name} is no longer in the issuer's configuration; ask its operators"),
        )
    }

    /// Records a refusal and gives what the caller is told, under the same decision id.
    pub async fn refuse(&self, refusing: Refusing<'_>) -> Refused {
        self.refuse_decided(refusing, Decided::default()).await
    }

    /// As [`Self::refuse`], where a role was decided on.
    pub async fn refuse_decided(&self, refusing: Refusing<'_>, decided: Decided) -> Refused {
        let at = self.clock.now();
        let decision = DecisionId::generate(at, self.entropy.as_ref());
        let Refusing { caller, method, subject, refused, explanation } = refusing;
        tracing::info!(%decision, caller = caller.map(tracing::field::display), method, subject, reason = refused.reason.as_str_name(), %explanation, "request refused");
        metrics::counter!("shorepass_refusals_total", "reason" => reason_name(refused.reason)).increment(1);
        let refusal = Refusal {
            decision,
            at,
            caller: caller.cloned(),
            method,
            reason: reason_name(refused.reason),
            subject: subject.chars().filter(|letter| !letter.is_control()).take(200).collect(),
            explanation,
            policy: self.policy.current().edition(),
            job: decided.job,
            dry_run: decided.dry_run,
        };
        match self.ledger.commit(vec![Change::Refused { refusal }]).await {
            Ok(_) => refused.decided(decision),
            Err(cause) => ledger_refused(&cause),
        }
    }

    /// A request id that has led to something else. The operator is told to what.
    pub async fn refuse_reused(
        &self,
        caller: &Caller,
        method: &'static str,
        earlier: &Request,
        message: impl Into<String>,
    ) -> Refused {
        let led_to = match earlier.outcome {
            Outcome::Job(id) => format!("job {id}"),
            Outcome::Lease(id) => format!("lease {id}"),
            Outcome::JoinToken(digest) => format!("the join token with fingerprint {digest}"),
        };
        self.refuse(Refusing {
            caller: Some(caller.spiffe_id()),
            method,
            subject: &earlier.id.to_string(),
            refused: Refused::new(Reason::RequestIdReused, message),
            explanation: format!("an earlier request with this id led to {led_to}"),
        })
        .await
    }

    /// The labels that the caller's enrolment gave it.
    pub fn labels_of(&self, caller: &Caller) -> Result<Labels, Refused> {
        self.labels_of_owner(&caller.owner()).map_err(|cause| ledger_refused(&cause))
    }

    /// The labels that its enrolment gave a runner; platforms have none.
    pub fn labels_of_owner(&self, owner: &Owner) -> Result<Labels, LedgerError> {
        if owner.spiffe_id.kind != Kind::Runner {
            return Ok(Labels::default());
        }
        Ok(self.ledger.enrolment(owner.enrolment)?.map(|found| found.labels).unwrap_or_default())
    }

    /// The blocks that refuse the caller a lease of the role for this job: those of the role, and those of a session of the
    /// same job, whichever of its tokens has opened that. A job without a token may be any, so what blocks one from the role
    /// blocks it too; and where the record of the blocked session was lost, every job may be that one.
    pub fn blocks_on(&self, caller: &Caller, role: &Name, job: JobId) -> Result<Vec<Block>, LedgerError> {
        let (now, all) = (self.clock.now(), self.ledger.blocks_of_caller(caller.spiffe_id())?);
        let is_of_a_job = |block: &Block| block.job.is_some() && block.in_force(now);
        let asking = if all.iter().any(is_of_a_job) { self.ledger.job(job)? } else { None };
        let is_asserted = asking.as_ref().is_none_or(|asking| asking.evidence.verified().is_none());
        let mut blocks = Vec::new();
        for block in all {
            let refuses = match block.job {
                None => block.role == *role,
                Some(_) if !block.in_force(now) => false,
                Some(blocked) => {
                    let found = self.ledger.job(blocked)?;
                    let may_be_any = block.role == *role && (is_asserted || found.is_none());
                    may_be_any || blocked == job || are_one(asking.as_ref(), found.as_ref())
                }
            };
            if refuses {
                blocks.push(block);
            }
        }
        Ok(blocks)
    }

    /// Whether two sessions are of one job of a CI system, or one and the same.
    pub fn is_one_job(&self, one: JobId, other: JobId) -> Result<bool, LedgerError> {
        if one == other {
            return Ok(true);
        }
        Ok(are_one(self.ledger.job(one)?.as_ref(), self.ledger.job(other)?.as_ref()))
    }

    /// Refuses whoever is banned, without waiting for anything; and everybody while it is not known who is.
    pub fn not_banned(&self, owner: &Owner) -> Result<(), Refused> {
        if !self.bans.is_known() {
            let cause = LedgerError::Unavailable("it has not been opened since the start".to_owned());
            return Err(ledger_refused(&cause));
        }
        self.bans.on(owner).map_or(Ok(()), |ban| Err(banned(&ban)))
    }

    /// A lease that the caller does not own, or that does not exist: both look alike.
    pub async fn refuse_lease(
        &self,
        caller: &Caller,
        method: &'static str,
        lease: &str,
        why: &str,
    ) -> Refused {
        let message = "this lease is not available to this caller; check the id with whoever gave it to you";
        self.refuse(Refusing {
            caller: Some(caller.spiffe_id()),
            method,
            subject: lease,
            refused: Refused::new(Reason::LeaseNotAvailable, message),
            explanation: why.to_owned(),
        })
        .await
    }
}

/// Whether both sessions are of one job of a CI system, which tokens have shown.
fn are_one(one: Option<&Job>, other: Option<&Job>) -> bool {
    let verified =
        one.zip(other).and_then(|(one, other)| one.evidence.verified().zip(other.evidence.verified()));
    verified.is_some_and(|(one, other)| (&one.issuer, &one.id) == (&other.issuer, &other.id))
}

/// What a caller is told who is banned. The reason is for operators.
pub fn banned(ban: &Ban) -> Refused {
    let message = format!(
        "{} was banned by {} at {}; an operator lifts it with `shorepass unban {}`",
        ban.banned,
        ban.by,
        for_people(ban.set),
        ban.banned.key()
    );
    Refused::new(Reason::Banned, message).with("by", ban.by.to_string()).with("since", ban.set.to_string())
}

/// What a caller is told when the ledger fails.
pub fn ledger_refused(cause: &LedgerError) -> Refused {
    let retry = Duration::from_secs(2);
    tracing::error!(error = %cause, "the ledger did not record");
    match cause {
        LedgerError::AuditUnavailable(_) => Refused::new(
            Reason::AuditUnavailable,
            "the issuer cannot write its audit file, so nothing is issued; its operators must free space or mend the file's permissions",
        )
        .retry(retry),
        LedgerError::Unavailable(_) => Refused::new(
            Reason::StoreUnavailable,
            "the issuer cannot record; its operators find the cause in its log",
        )
        .retry(retry),
        LedgerError::Conflict(what) => Refused::new(
            Reason::StoreUnavailable,
            format!("{what} was changed by another request at the same time; try again"),
        )
        .retry(Duration::from_millis(200)),
    }
}

/// What a caller is told whose mint does not begin now. It is not on record: it would be one more thing to do for an issuer
/// that has too much to do.
pub fn no_turn(cause: &NoTurn) -> Refused {
    let reason = match cause {
        NoTurn::Failing { .. } => Reason::ClusterUnreachable,
        NoTurn::Busy { .. } | NoTurn::Full { .. } | NoTurn::Share { .. } => Reason::ClusterBusy,
    };
    Refused::new(reason, cause.to_string()).retry(cause.retry_after())
}

/// What a caller is told when a cluster fails.
pub fn mint_refused(cause: &MintError) -> Refused {
    let text = cause.to_string();
    match cause {
        MintError::ServiceAccountMissing { .. } => {
            Refused::new(Reason::ServiceAccountMissing, format!("{text}: create it, or correct the role"))
        }
        MintError::ServiceAccountReplaced { .. } => {
            Refused::new(Reason::ServiceAccountReplaced, format!("{text}: ask for a new lease"))
        }
        MintError::Forbidden { rule } | MintError::ForbiddenToBegin { rule } => Refused::new(
            Reason::IssuerForbidden,
            format!("{text}: apply what `shorepass-issuer rbac` prints"),
        )
        .with("rule", rule.clone()),
        MintError::RoleMissing { .. } => Refused::new(
            Reason::RightsNotInEffect,
            format!(
                "{text}: create it, or apply what `shorepass-issuer rbac` prints if a role lists its rules"
            ),
        ),
        MintError::RightsNotInEffect { .. } => Refused::new(
            Reason::RightsNotInEffect,
            format!(
                "{text}: try again, and if it stays so, look whether the API server is behind or somebody deletes RoleBindings"
            ),
        ),
        MintError::NeedsMissing { who, adds, missing } => Refused::new(
            Reason::RightsMissing,
            format!(
                "{who} is not allowed all that the role needs, so no lease was given: {adds} the rules that come with this (`rules`)"
            ),
        )
        .with(RULES, missing.yaml_within(RULES_LIMIT)),
        MintError::AdmissionRefused { act, .. } => Refused::new(
            Reason::IssuerForbidden,
            format!(
                "an admission policy or webhook of the cluster does not let the issuer {act}: an operator finds \
                 what it said by the decision id"
            ),
        )
        .with("rule", act.clone()),
        MintError::QuotaExceeded { act, .. } => Refused::new(
            Reason::QuotaExceeded,
            format!(
                "a ResourceQuota leaves the issuer no room to {act}: let leases end, or raise the quota; an operator finds \
                 its name and numbers by the decision id"
            ),
        )
        .with("rule", act.clone())
        .retry(QUOTA_RETRY),
        MintError::NamespaceUnavailable { .. } => Refused::new(
            Reason::NamespaceUnavailable,
            format!("{text}: create it and apply what `shorepass-issuer rbac` prints, or correct the role"),
        ),
        MintError::PolicyMissing { .. } => Refused::new(
            Reason::AdmissionPolicyMissing,
            format!("{text}, so nothing is minted there: apply what `shorepass-issuer rbac` prints"),
        ),
        MintError::ClockSkew { .. } => {
            Refused::new(Reason::ClockSkew, format!("{text}: synchronise both with NTP"))
        }
        MintError::Unreachable { .. } | MintError::WebhookFails { .. } => {
            Refused::new(Reason::ClusterUnreachable, text).retry(Duration::from_secs(2))
        }
        MintError::Contended { .. } => Refused::new(Reason::ClusterBusy, format!("{text}: try again later"))
            .retry(Duration::from_secs(1)),
        MintError::Busy { retry_after, .. } => {
            Refused::new(Reason::ClusterBusy, format!("{text}: try again later")).retry(*retry_after)
        }
        MintError::AnchorLost => Refused::new(Reason::LeaseEnded, format!("{text}: ask for a new lease")),
        MintError::AnswerRejected(_) => Refused::new(
            Reason::ClusterAnswerRejected,
            format!(
                "{text}; nothing was handed out, and the issuer's operators should look at the API server"
            ),
        ),
    }
}
