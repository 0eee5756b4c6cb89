//! `policy`: one decision among a thousand roles, on a job of twenty claims and with a condition, against what it may take; and
//! whether memory stays where it is.
//!
//! Nothing of Kubernetes is in it: the decision is pure, so that it is all of what is measured.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::decisions::runner_with_job;
use shorepass_conditions::CelConditions;
use shorepass_core::caller::Caller;
use shorepass_core::claims::Claim;
use shorepass_core::condition::Conditions as _;
use shorepass_core::digest::Digest;
use shorepass_core::job::{Evidence, Job};
use shorepass_core::job_issuer::{JobIssuer, RunnerBinding};
use shorepass_core::job_requirement::JobRequirement;
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::policy::{Ask, Policy};
use shorepass_core::role::{Lifetime, Role, Subject, Target};
use shorepass_core::time::{Clock, Timestamp};
use shorepass_daemon::clock::SystemClock;
use shorepass_testing::job_tokens;

use crate::measure::{Goal, Measured};

const HOUR: Duration = Duration::from_secs(3_600);
/// What one decision may take, in microseconds.
const GOAL: f64 = 100.0;
/// How many roles there are.
const ROLES: usize = 1_000;
/// How many there are for comparison.
const FEW_ROLES: usize = 10;
/// How many decisions are timed together.
const DECISIONS: u32 = 20_000;
/// After so many times that, memory is looked at again.
const LONG: usize = 50;

/// The claims of the job: as many as a GitLab token has that roles ask for.
const CLAIMS: [(&str, &str); 20] = [
    ("namespace_id", "72"),
    ("namespace_path", "group"),
    ("project_id", "20"),
    ("project_path", "group/app"),
    ("user_id", "1"),
    ("user_login", "sample-user"),
    ("user_email", "sample-user@example.org"),
    ("pipeline_id", "574"),
    ("pipeline_source", "push"),
    ("job_id", "302"),
    ("ref", "main"),
    ("ref_type", "branch"),
    ("ref_path", "refs/heads/main"),
    ("ref_protected", "true"),
    ("environment", "production"),
    ("environment_protected", "true"),
    ("deployment_tier", "production"),
    ("runner_id", "1"),
    ("runner_environment", "self-hosted"),
    ("sha", "714a629c0b401fdce83e847fc9589983fc6f46bc"),
];

/// A condition that looks at several claims.
const CONDITION: &str = r#"(claims.environment == "production" && claims.environment_protected == "true") || (claims.deployment_tier in ["staging", "testing"] && claims.user_id in ["1", "2", "3"] && claims.runner_environment != "gitlab-hosted")"#;

/// Speed and memory of decisions.
pub(crate) fn policy(rounds: usize) -> Result<Vec<Measured>> {
    let (many, few) = (Bench::new(ROLES)?, Bench::new(FEW_ROLES)?);
    let mut speed = Vec::with_capacity(rounds);
    let mut growth = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let (ours, among_few) = (many.microseconds(DECISIONS)?, few.microseconds(DECISIONS)?);
        speed.push((ours, GOAL));
        growth.push((ours, among_few));
    }
    let before = resident_mib()?;
    for _ in 0..LONG {
        many.microseconds(DECISIONS)?;
    }
    let memory = vec![(resident_mib()?, before)];
    let measured = |name: &str, unit, goal, rounds| Measured {
        name: name.to_owned(),
        unit,
        goal,
        rounds,
        besides: Vec::new(),
    };
    Ok(vec![
        measured("decision, 1,000 roles, 20 claims, CEL", "us; the goal", Goal::AtMost(1.0), speed),
        measured("the same against 10 roles", "us", Goal::AtMost(3.0), growth),
        measured("memory after a million decisions more", "MiB", Goal::AtMost(1.1), memory),
    ])
}

/// A policy, and who asks for its roles.
struct Bench {
    policy: Policy,
    caller: Caller,
    job: Job,
    /// What the caller asks for in turn: half of it is granted.
    asks: Vec<Ask>,
    now: Timestamp,
}

impl Bench {
    fn new(roles: usize) -> Result<Self> {
        let now = SystemClock.now();
        let issuer = job_tokens::gitlab(RunnerBinding::FirstUse)?;
        let evidence = Evidence::Verified(job_tokens::verified(&issuer, "302", now, &CLAIMS));
        let (caller, job) = runner_with_job("prod-1", evidence, now)?;
        let names = (0..roles).map(|number| format!("role-{number}"));
        let policy = names.clone().enumerate().map(|(number, name)| role(&name, number, &issuer));
        let asks = names
            .map(|name| Ok(Ask { role: Name::parse(&name)?, lease_lifetime: None, token_lifetime: None }));
        let (policy, asks) = (policy.collect::<Result<Vec<Role>>>()?, asks.collect::<Result<Vec<Ask>>>()?);
        Ok(Self { policy: Policy::new(policy)?, caller, job, asks, now })
    }

    /// How long one decision takes.
    fn microseconds(&self, decisions: u32) -> Result<f64> {
        let mut granted = 0;
        let started = Instant::now();
        for ask in self.asks.iter().cycle().take(decisions as usize) {
            let decided = self.policy.decide(&self.caller, black_box(&self.job), ask, &[], self.now);
            granted += u32::from(black_box(decided).is_ok());
        }
        let took = started.elapsed();
        ensure!(
            granted == decisions / 2,
            "{granted} of {decisions} decisions were grants, and half should be"
        );
        Ok(took.as_secs_f64() * 1e6 / f64::from(decisions))
    }
}

/// Every other one takes the job; the others fail at their condition, last of all.
fn role(role_name: &str, number: usize, issuer: &JobIssuer) -> Result<Role> {
    let condition = match number % 2 {
        0 => CONDITION.to_owned(),
        _ => format!(r#"({CONDITION}) && claims.sha != "{}""#, CLAIMS[19].1),
    };
    let condition = CelConditions.compile(&condition, issuer).map_err(anyhow::Error::msg)?;
    let wanted = ["project_id", "ref", "ref_type", "ref_protected"].map(|wanted| {
        let value = CLAIMS.iter().find(|(claim, _)| *claim == wanted).map_or("", |(_, value)| *value);
        let others = ["a", "b", "c"].map(|other| Claim::Text(other.to_owned()));
        (wanted.to_owned(), others.into_iter().chain([Claim::Text(value.to_owned())]).collect())
    });
    let subject = |runners: &str| {
        anyhow::Ok(Subject {
            runners: vec![NamePattern::parse(runners)?],
            jobs: Some(JobRequirement::new(issuer, wanted.to_vec(), Some(condition.clone()))?),
            ..Subject::default()
        })
    };
    let target = Target {
        cluster: Name::parse("c")?,
        namespace: Name::parse("web")?,
        service_account: "deployer".to_owned(),
    };
    let life = Lifetime { default: HOUR, max: HOUR };
    let digest = Digest::of_bytes(role_name.as_bytes());
    Ok(Role::new(
        Name::parse(role_name)?,
        target,
        life,
        life,
        vec![subject("dev-*")?, subject("prod-*")?],
        digest,
    )?)
}

/// The memory that this process has (proc(5), `status`).
fn resident_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}
