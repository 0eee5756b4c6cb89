//! `config check --against`: what the documents as they are now would have decided of what was asked before.
//!
//! Replayed are the decisions on roles in an audit file: leases that were granted, and requests for one that were refused for
//! the role. What a job showed and which labels a runner had stands in the same file; where it does not, the decision is
//! counted as not replayed. Blocks, bans and limits are left out: they are no documents.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use shorepass_core::caller::SpiffeId;
use shorepass_core::id::{EnrolmentId, JobId};
use shorepass_core::job::Evidence;
use shorepass_core::labels::Labels;
use shorepass_core::ledger::Change;
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::policy::Policy;
use shorepass_core::policy::explanation::{Shown, Who};

/// What would be decided otherwise, as text.
pub(super) fn against(audit: &Path, policy: &Policy, own: &TrustDomain) -> Result<String> {
    let unreadable = || format!("cannot read {}", audit.display());
    let reader = BufReader::new(File::open(audit).with_context(unreadable)?);
    let mut replay = Replay { policy, own, known: Known::default(), tally: Tally::default() };
    for (index, line) in reader.lines().enumerate() {
        let line = line.with_context(unreadable)?;
        replay.line(&line).with_context(|| format!("line {} of {}", index + 1, audit.display()))?;
    }
    Ok(replay.tally.text())
}

/// What a line says where it records no change of rows.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    event: String,
    time: String,
    #[serde(default)]
    caller: String,
    #[serde(default)]
    job: String,
    #[serde(default)]
    method: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    subject: String,
}

/// What earlier lines tell.
#[derive(Default)]
struct Known {
    jobs: HashMap<JobId, Evidence>,
    labels: HashMap<EnrolmentId, Labels>,
    newest: HashMap<SpiffeId, EnrolmentId>,
}

/// A decision on a role.
struct Decision<'d> {
    caller: &'d SpiffeId,
    enrolment: Option<EnrolmentId>,
    job: Option<JobId>,
    role: &'d Name,
    granted: bool,
    time: String,
}

#[derive(Default)]
struct Tally {
    replayed: usize,
    unknown: usize,
    changed: BTreeMap<Changed, (usize, String)>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Changed {
    role: String,
    caller: String,
    granted: bool,
    now: String,
}

struct Replay<'p> {
    policy: &'p Policy,
    own: &'p TrustDomain,
    known: Known,
    tally: Tally,
}

impl Replay<'_> {
    fn line(&mut self, line: &str) -> Result<()> {
        match shorepass_store::recorded_change(line).map_err(anyhow::Error::msg)? {
            Some(Change::JobStarted { job, .. }) => {
                self.known.jobs.insert(job.id, job.evidence);
            }
            Some(Change::Enrolled { enrolment }) => {
                self.known.newest.insert(enrolment.spiffe_id, enrolment.id);
                self.known.labels.insert(enrolment.id, enrolment.labels);
            }
            Some(Change::LeasePending { lease, .. }) => {
                let (Some(owner), Some(role)) = (lease.owner.known(), &lease.role) else { return Ok(()) };
                self.decision(Decision {
                    caller: &owner.spiffe_id,
                    enrolment: Some(owner.enrolment),
                    job: lease.job,
                    role,
                    granted: true,
                    time: lease.created.to_string(),
                });
            }
            Some(_) => {} // decides on no role
            None => self.refusal(&serde_json::from_str(line)?),
        }
        Ok(())
    }

    fn refusal(&mut self, read: &Read) {
        let of_a_role = matches!(read.event.as_str(), "request.refused" | "decision.dry-run")
            && read.method == "Issue"
            && read.reason == "ROLE_NOT_AVAILABLE";
        let (Ok(caller), Ok(role)) = (SpiffeId::parse(&read.caller), Name::parse(&read.subject)) else {
            return;
        };
        if of_a_role {
            self.decision(Decision {
                enrolment: self.known.newest.get(&caller).copied(),
                caller: &caller,
                job: JobId::parse(&read.job).ok(),
                role: &role,
                granted: false,
                time: read.time.clone(),
            });
        }
    }

    fn decision(&mut self, decision: Decision<'_>) {
        let Decision { caller, enrolment, job, role, granted, time } = decision;
        let Some(evidence) = job.and_then(|job| self.known.jobs.get(&job)) else {
            self.tally.unknown += 1;
            return;
        };
        let none = Labels::default();
        let labels = enrolment.and_then(|enrolment| self.known.labels.get(&enrolment)).unwrap_or(&none);
        let who = Who { spiffe_id: caller, own: caller.trust_domain == *self.own, labels };
        let now = self.policy.weigh(who, Shown::from(Some(evidence)), role);
        self.tally.replayed += 1;
        if now.is_ok() == granted {
            return;
        }
        let now = now.map_or_else(|denial| denial.explanation, |_| String::new());
        let changed = Changed { role: role.to_string(), caller: caller.to_string(), granted, now };
        let (count, last) = self.tally.changed.entry(changed).or_default();
        *count += 1;
        *last = time;
    }
}

impl Tally {
    fn text(&self) -> String {
        let mut text = String::new();
        for (Changed { role, caller, granted, now }, (count, last)) in &self.changed {
            let turn = if *granted { "granted then, refused now" } else { "refused then, granted now" };
            text += &format!("role {role}: {turn}: {count} for {caller}, the last at {last}\n");
            if !now.is_empty() {
                text += &format!("  {now}\n");
            }
        }
        let would: usize = self.changed.values().map(|(count, _)| count).sum();
        text += &format!("{} decisions replayed, {would} would change\n", self.replayed);
        if self.unknown > 0 {
            text += &format!("{} not replayed: the file does not say what their jobs showed\n", self.unknown);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use shorepass_core::digest::Digest;
    use shorepass_core::name::NamePattern;
    use shorepass_core::role::{Lifetime, Role, Subject, Target};

    use super::*;

    const RUNNER: &str = "spiffe://ci.example.org/runner/prod-1";
    const JOB: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";

    fn policy(runners: &str) -> Policy {
        let name = |text| Name::parse(text).unwrap();
        let hour = Lifetime {
            default: std::time::Duration::from_secs(3600),
            max: std::time::Duration::from_secs(3600),
        };
        let target =
            Target { cluster: name("c"), namespace: name("web"), service_account: "deployer".to_owned() };
        let runners = vec![NamePattern::parse(runners).unwrap()];
        let subject = Subject { runners, accept_asserted_jobs: true, ..Subject::default() };
        let role =
            Role::new(name("deploy"), target, hour, hour, vec![subject], Digest::of_bytes(b"")).unwrap();
        Policy::new(vec![role]).unwrap()
    }

    fn refused(job: &str) -> Read {
        let text = |text: &str| text.to_owned();
        Read {
            event: text("request.refused"),
            time: text("2026-09-21T14:13:21Z"),
            caller: text(RUNNER),
            job: text(job),
            method: text("Issue"),
            reason: text("ROLE_NOT_AVAILABLE"),
            subject: text("deploy"),
        }
    }

    fn replayed(policy: &Policy, reads: &[Read]) -> String {
        let asserted =
            shorepass_core::job::AssertedJob::new("jenkins".to_owned(), "1".to_owned(), String::new());
        let mut known = Known::default();
        known.jobs.insert(JobId::parse(JOB).unwrap(), Evidence::Asserted(asserted.unwrap()));
        let own = TrustDomain::parse("ci.example.org").unwrap();
        let mut replay = Replay { policy, own: &own, known, tally: Tally::default() };
        reads.iter().for_each(|read| replay.refusal(read));
        replay.tally.text()
    }

    #[test]
    fn what_would_be_granted_now_is_told_once_with_how_often() {
        let told = replayed(&policy("prod-*"), &[refused(JOB), refused(JOB)]);
        let expected = format!(
            "role deploy: refused then, granted now: 2 for {RUNNER}, the last at 2026-09-21T14:13:21Z\n2 decisions \
             replayed, 2 would change\n"
        );
        assert_eq!(told, expected);
    }

    #[test]
    fn what_stays_as_it_was_is_counted_alone_and_so_is_what_cannot_be_known() {
        let told = replayed(&policy("test-*"), &[refused(JOB), refused("")]);
        assert_eq!(
            told,
            "1 decisions replayed, 0 would change\n1 not replayed: the file does not say what their jobs showed\n"
        );
    }

    #[test]
    fn refusals_that_no_role_decided_are_passed_over() {
        let blocked = Read { reason: "BLOCKED".to_owned(), ..refused(JOB) };
        let refresh = Read { method: "Refresh".to_owned(), ..refused(JOB) };
        assert_eq!(
            replayed(&policy("prod-*"), &[blocked, refresh]),
            "0 decisions replayed, 0 would change\n"
        );
    }
}
