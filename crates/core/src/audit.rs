//! Audit lines: one for each change, a pure function of it, so that none can be forgotten.
//!
//! The ledger adds a sequence number and writes the line as JSON in the same commit. Field names are for ever. Nothing
//! in a line is a secret: tokens appear by `jti` and fingerprint.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::audience::Audiences;
use crate::ban::{Ban, Banned};
use crate::caller::SpiffeId;
use crate::claims::Claim;
use crate::enrolment::{Enrolment, JoinToken, Origin};
use crate::job::{Evidence, Job, SpentBy};
use crate::labels::Labels;
use crate::lease::{Binding, Lease};
use crate::ledger::Change;
use crate::name::Name;
use crate::receipt::{Control, Verdict};
use crate::time::Timestamp;

/// One line of the audit file. Fields that do not concern the event are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// When it happened, by the issuer's clock (RFC 3339).
    pub time: String,
    /// What happened, such as `lease.active`.
    pub event: &'static str,
    /// Whom it concerns: the owner of the job or lease, the runner, who was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// Which of its enrolments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<String>,
    /// Stands for the owner of a lease that is adopted, whose name may not be known: SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_digest: Option<String>,
    /// Who did it, where that is somebody else: an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The job session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The job's system, with `jobId` and `jobUrl` what the caller asserted; of a verified job the name of its issuer here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_system: Option<String>,
    /// The job's id in its system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Where to look at the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_url: Option<String>,
    /// What a verified job's token says, such as `project_id="42"`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// What shows that the job exists: `asserted` or `verified`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_evidence: Option<&'static str>,
    /// The lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// The role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// SHA-256 of the role's document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_digest: Option<String>,
    /// SHA-256 over all role documents by which it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_digest: Option<String>,
    /// The number of that policy among those of the issuer's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<u64>,
    /// The cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The ServiceAccount's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The ServiceAccount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// For whom a lease's tokens are, where that is not the API server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// How the lease can be ended: `bound`, `strict`, or `unbound`, which is: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<&'static str>,
    /// The anchor's name; absent in an unbound lease, which has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    /// The RoleBindings of a strict lease's ServiceAccount, such as `web/shorepass-...-0=Role/deployer`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<String>,
    /// Rights that the end of a strict lease leaves to its ServiceAccount, such as `get pods in namespace web`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_removed: Vec<String>,
    /// Until when tokens of an unbound lease that has ended go on working, because nothing can stop them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_until: Option<String>,
    /// When a lease, block, join token or certificate ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The token's `jti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// SHA-256 of a token; of a job token, what it is known by when it comes again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// SHA-256 of a certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The pod that a runner was let in as: cluster, namespace and name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The UID of that pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Whose token let a runner in, by its issuer's name here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_issuer: Option<String>,
    /// The `sub` of that token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_subject: Option<String>,
    /// How many certificates of an enrolment have been in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The uid of who made an identity on the issuer's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Which runner names a join token enrols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runners: Option<String>,
    /// The labels of a runner, or that a join token gives.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// Names a refusal, as the caller was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// The method that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    /// The reason: on the wire, of a revocation, or how a lease ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a refused caller asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Why it was refused, in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    /// What a role that says `dryRun` would have decided: `allowed` or `denied`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// What a receipt says: `proved`, `assumed` or `unproved`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    /// From when on no API server that was asked takes a token that it had not taken just before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<String>,
    /// From when on they take none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_by: Option<String>,
    /// The API servers that were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// The canaries that they were shown, by `jti`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub canaries: Vec<String>,
}

/// The line of a change.
pub fn line(change: &Change) -> Line {
    match change {
        Change::JobStarted { job, .. } => of_job("job.started", job, job.started),
        Change::JobEnded { job } => of_job("job.ended", job, job.ended.unwrap_or(job.started)),
        Change::LeasePending { lease, .. } => Line {
            bindings: bindings(lease),
            role_digest: Some(lease.role_digest.to_string()),
            policy_digest: lease.policy.map(|policy| policy.digest.to_string()),
            policy_version: lease.policy.map(|policy| policy.version),
            until: Some(lease.deadline.to_string()),
            ..of_lease("lease.pending", lease)
        },
        Change::LeaseActive { lease } => {
            Line { not_removed: not_removed(lease), ..of_lease("lease.active", lease) }
        }
        Change::LeaseAdopted { lease } => Line {
            bindings: bindings(lease),
            role_digest: Some(lease.role_digest.to_string()),
            owner_digest: text(lease.owner.digest()),
            until: Some(lease.deadline.to_string()),
            ..of_lease("lease.adopted", lease)
        },
        Change::LeaseRecognised { lease, at } => {
            Line { time: at.to_string(), ..of_lease("lease.recognised", lease) }
        }
        Change::TokenMinted { token, owner } => Line {
            caller: text(&owner.spiffe_id),
            enrolment: text(owner.enrolment),
            lease: text(token.lease),
            jti: Some(token.jti.clone()),
            fingerprint: text(token.fingerprint),
            until: text(token.expires),
            ..at("token.minted", token.recorded)
        },
        Change::LeaseEnding { lease } => of_lease("lease.ending", lease),
        Change::LeaseEnded { lease } => of_lease("lease.ended", lease),
        Change::LeaseReceipt { lease } => of_receipt(lease),
        Change::ControlPlanned { control } => of_control("control.planned", control, control.created),
        Change::ControlGone { control, at } => of_control("control.gone", control, *at),
        Change::BlockSet { block } => Line {
            by: text(&block.by),
            until: text(block.until),
            reason: Some(block.reason.clone()),
            ..of_block("block.set", block, block.set)
        },
        Change::BlockLifted { block } => {
            let lifted = block.lifted.as_ref();
            let when = lifted.map_or(block.set, |lifted| lifted.at);
            Line { by: lifted.map(|lifted| lifted.by.to_string()), ..of_block("block.lifted", block, when) }
        }
        Change::JoinTokenCreated { join_token, .. } => Line {
            by: text(&join_token.by),
            until: text(join_token.expires),
            ..of_join_token("join-token.created", join_token, join_token.created)
        },
        Change::JoinTokenTaken { join_token } => {
            let taken = join_token.taken.as_ref();
            let when = taken.map_or(join_token.created, |taken| taken.at);
            Line {
                enrolment: taken.map(|taken| taken.enrolment.to_string()),
                ..of_join_token("join-token.taken", join_token, when)
            }
        }
        Change::EnrolmentTokenTaken { spent, at: when } => Line {
            enrolment: match spent.by {
                SpentBy::Enrolment(enrolment) => text(enrolment),
                SpentBy::Job(_) => None,
            },
            fingerprint: text(spent.replay),
            until: text(spent.until),
            ..at("enrolment-token.taken", *when)
        },
        Change::Enrolled { enrolment } => of_enrolment("runner.enrolled", enrolment, enrolment.created),
        Change::Renewed { enrolment, at } => of_enrolment("runner.renewed", enrolment, *at),
        Change::RenewalUsed { enrolment, at } => of_enrolment("runner.renewal-used", enrolment, *at),
        Change::Rejoined { enrolment, at } => of_enrolment("runner.rejoined", enrolment, *at),
        Change::EnrolmentCloned { enrolment } => {
            let cloned = enrolment.cloned.as_ref();
            let when = cloned.map_or(enrolment.created, |cloned| cloned.at);
            Line {
                certificate: cloned.map(|cloned| cloned.certificate.to_string()),
                reason: cloned.map(|cloned| cloned.cause.describe().to_owned()),
                ..of_enrolment("runner.cloned", enrolment, when)
            }
        }
        Change::EnrolmentReplaced { enrolment } => {
            of_enrolment("runner.replaced", enrolment, enrolment.replaced.unwrap_or(enrolment.created))
        }
        Change::IdentityCreated { identity } => Line {
            caller: text(&identity.owner.spiffe_id),
            enrolment: text(identity.owner.enrolment),
            until: text(identity.expires),
            certificate: text(identity.certificate),
            uid: Some(identity.uid),
            ..at("identity.created", identity.created)
        },
        Change::BanSet { ban } => {
            Line { by: text(&ban.by), reason: Some(ban.reason.clone()), ..of_ban("ban.set", ban, ban.set) }
        }
        Change::BanLifted { ban } => {
            let lifted = ban.lifted.as_ref();
            let when = lifted.map_or(ban.set, |lifted| lifted.at);
            Line { by: lifted.map(|lifted| lifted.by.to_string()), ..of_ban("ban.lifted", ban, when) }
        }
        Change::Refused { refusal } => Line {
            caller: refusal.caller.as_ref().map(SpiffeId::to_string),
            decision: text(refusal.decision),
            method: Some(refusal.method),
            reason: Some(refusal.reason.to_owned()),
            subject: Some(refusal.subject.clone()),
            explanation: Some(refusal.explanation.clone()),
            policy_digest: text(refusal.policy.digest),
            policy_version: Some(refusal.policy.version),
            job: refusal.job.map(|job| job.to_string()),
            outcome: refusal.dry_run.map(|allowed| if allowed { "allowed" } else { "denied" }),
            ..at(if refusal.dry_run.is_some() { "decision.dry-run" } else { "request.refused" }, refusal.at)
        },
    }
}

fn at(event: &'static str, time: Timestamp) -> Line {
    Line { time: time.to_string(), event, ..Line::default() }
}

fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

fn labels(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn of_job(event: &'static str, job: &Job, time: Timestamp) -> Line {
    let (evidence, verified) = match &job.evidence {
        Evidence::Asserted(_) => ("asserted", None),
        Evidence::Verified(verified) => ("verified", Some(verified)),
    };
    Line {
        caller: text(&job.owner.spiffe_id),
        enrolment: text(job.owner.enrolment),
        job: text(job.id),
        job_system: text(job.evidence.system()),
        job_id: text(job.evidence.id()),
        job_url: Some(job.evidence.url().to_owned()).filter(|url| !url.is_empty()),
        job_evidence: Some(evidence),
        claims: verified.map(|verified| verified.claims.iter().map(claim).collect()).unwrap_or_default(),
        fingerprint: verified.and_then(|verified| text(verified.replay)),
        until: job.latest_end.map(|end| end.to_string()),
        ..at(event, time)
    }
}

fn claim((name, claim): (&str, &Claim)) -> String {
    format!("{name}={claim}")
}

fn of_lease(event: &'static str, lease: &Lease) -> Line {
    use crate::lease::{EndCause, Mode, State};
    let time = match &lease.state {
        State::Pending => lease.created,
        State::Active { since, .. } | State::Ending { since, .. } => *since,
        State::Ended { gone, .. } => *gone,
    };
    let cause = lease.end_cause().map(|(cause, _)| cause);
    let owner = lease.owner.known();
    Line {
        caller: owner.map(|owner| owner.spiffe_id.to_string()),
        enrolment: owner.map(|owner| owner.enrolment.to_string()),
        by: match cause {
            Some(EndCause::Revoked { by, .. } | EndCause::OwnerBanned { by, .. }) => text(by),
            Some(_) | None => None,
        },
        job: lease.job.map(|job| job.to_string()),
        lease: text(lease.id),
        role: lease.role.as_ref().map(Name::to_string),
        cluster: text(&lease.target.cluster),
        namespace: text(&lease.target.namespace),
        service_account: text(&lease.target.service_account).filter(|name| !name.is_empty()),
        audiences: lease.audiences.as_ref().map(Audiences::to_vec).unwrap_or_default(),
        mode: Some(lease.mode.name()),
        anchor: lease.has_anchor().then(|| lease.anchor.as_str().to_owned()),
        tokens_until: match &lease.mode {
            Mode::Unbound { tokens_until } => tokens_until.map(|until| until.to_string()),
            Mode::Bound | Mode::Strict { .. } => None,
        },
        reason: cause.map(EndCause::describe),
        ..at(event, time)
    }
}

fn bindings(lease: &Lease) -> Vec<String> {
    match &lease.mode {
        crate::lease::Mode::Strict { bindings } => bindings
            .iter()
            .map(|Binding { namespace, name, role }| match role {
                Some(role) => format!("{namespace}/{name}={role}"),
                None => format!("{namespace}/{name}"),
            })
            .collect(),
        crate::lease::Mode::Bound | crate::lease::Mode::Unbound { .. } => Vec::new(),
    }
}

fn not_removed(lease: &Lease) -> Vec<String> {
    let Some(rights) = &lease.not_removed else { return Vec::new() };
    let others = Some(rights.others()).filter(|others| *others > 0);
    rights.named().iter().cloned().chain(others.map(|others| format!("and {others} more"))).collect()
}

/// Its reason is that of the verdict, not that of the end.
fn of_receipt(lease: &Lease) -> Line {
    let line = Line { by: None, reason: None, ..of_lease("lease.receipt", lease) };
    let Some(receipt) = &lease.receipt else { return line };
    let death = receipt.verdict.death();
    Line {
        time: receipt.made.to_string(),
        verdict: Some(receipt.verdict.word()),
        observed_at: death.map(|death| death.observed_at.to_string()),
        dead_by: death.map(|death| death.dead_by.to_string()),
        not_removed: not_removed(lease),
        endpoints: receipt.endpoints.clone(),
        canaries: receipt.canaries.clone(),
        reason: match &receipt.verdict {
            Verdict::Unproved(unproved) => text(unproved),
            Verdict::Proved(_) | Verdict::Assumed(_) => None,
        },
        ..line
    }
}

fn of_control(event: &'static str, control: &Control, time: Timestamp) -> Line {
    Line {
        cluster: text(&control.cluster),
        namespace: text(&control.namespace),
        anchor: text(control.anchor.as_str()),
        ..at(event, time)
    }
}

fn of_block(event: &'static str, block: &crate::block::Block, time: Timestamp) -> Line {
    Line {
        caller: text(&block.caller),
        block: text(block.id),
        role: text(&block.role),
        job: block.job.and_then(text),
        lease: text(block.lease),
        ..at(event, time)
    }
}

fn of_ban(event: &'static str, ban: &Ban, time: Timestamp) -> Line {
    let enrolment = match &ban.banned {
        Banned::Name(_) => None,
        Banned::Enrolment(owner) => text(owner.enrolment),
    };
    Line { caller: text(ban.banned.spiffe_id()), enrolment, ..at(event, time) }
}

fn of_join_token(event: &'static str, join_token: &JoinToken, time: Timestamp) -> Line {
    Line {
        runners: text(&join_token.runners),
        labels: labels(&join_token.labels),
        fingerprint: text(join_token.digest),
        ..at(event, time)
    }
}

fn of_enrolment(event: &'static str, enrolment: &Enrolment, time: Timestamp) -> Line {
    let pod = enrolment.origin.as_ref().and_then(Origin::pod);
    let token = enrolment.origin.as_ref().and_then(Origin::token);
    Line {
        caller: text(&enrolment.spiffe_id),
        enrolment: text(enrolment.id),
        generation: Some(enrolment.generation).filter(|generation| *generation > 0),
        labels: labels(&enrolment.labels),
        pod: pod.map(ToString::to_string),
        pod_uid: pod.map(|pod| pod.uid.clone()),
        token_issuer: token.map(|(issuer, _)| issuer.to_string()),
        token_subject: token.map(|(_, subject)| subject.to_owned()),
        until: text(enrolment.certificate_expires),
        ..at(event, time)
    }
}
