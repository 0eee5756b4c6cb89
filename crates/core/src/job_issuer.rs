//! Trusted issuers of job tokens: which claims theirs have, what names a project for ever, and what to beware of.
//!
//! What is known of a CI system is a table in [`systems`]; an issuer of another kind says in its configuration what its
//! tokens hold. A claim that is in neither is not read.

#[cfg(test)]
pub(crate) mod recorded;
mod systems;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::claims::{Claim, ClaimKind, Claims};
use crate::name::Name;

/// How long a session lasts at most where nothing is said: no CI system that is known runs most of its jobs longer.
pub const LONGEST_JOB: Duration = Duration::from_secs(24 * 60 * 60);

/// Whose tokens they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum System {
    /// GitHub Actions.
    Github,
    /// GitLab CI, `id_tokens`.
    Gitlab,
    /// Buildkite agents.
    Buildkite,
    /// Jenkins with the oidc-provider plugin.
    Jenkins,
    /// Any other issuer of OIDC tokens.
    Generic,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Github, Self::Gitlab, Self::Buildkite, Self::Jenkins, Self::Generic];

    /// As documents say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Buildkite => "buildkite",
            Self::Jenkins => "jenkins",
            Self::Generic => "generic",
        }
    }

    /// The system of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.as_str() == text)
    }

    /// The claim in which its tokens name the runner; none where they do not.
    pub fn runner_claim(self) -> Option<&'static str> {
        systems::profile(self).runner
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A claim that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownClaim {
    /// What it is called in documents.
    pub name: String,
    /// Where it is in the token: its name, or names from the outside in.
    pub path: Vec<String>,
    /// What it must be where it is there.
    pub kind: ClaimKind,
    /// Whether it names a project (repository, pipeline) that never becomes another one.
    pub project: bool,
}

/// Which runner may use a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerBinding {
    /// The one that uses it first.
    FirstUse,
    /// The one whose name ends the audience: `<audience>/<runner>`.
    Audience,
    /// The one whose enrolment has this label with the value of the claim that names the runner.
    Label {
        /// The label.
        label: String,
    },
}

/// Claim values that mean somebody else's code: refused unless a role names the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The claim.
    pub claim: &'static str,
    /// Its values; where there are none, that the token has the claim at all and it is not empty.
    pub values: &'static [&'static str],
    /// What they mean, for a person.
    pub meaning: &'static str,
}

impl Guard {
    /// Whether these claims have one of the values.
    pub fn catches(&self, claims: &Claims) -> bool {
        match claims.get(self.claim).and_then(Claim::as_text) {
            Some(text) if self.values.is_empty() => !text.is_empty(),
            Some(text) => self.values.contains(&text),
            None => false,
        }
    }
}

/// Why an issuer cannot be trusted as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct JobIssuerError {
    /// The field below the issuer, such as `claims`.
    pub field: &'static str,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

/// An issuer whose job tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobIssuer {
    name: Name,
    system: System,
    url: String,
    audience: String,
    runner: RunnerBinding,
    known: BTreeMap<String, KnownClaim>,
    job: String,
    longest_job: Duration,
}

/// What the configuration says beyond the system's own table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// More claims.
    pub claims: Vec<KnownClaim>,
    /// The claim that names the job; the system's own where nothing is said.
    pub job: Option<String>,
}

impl JobIssuer {
    /// Checks what the configuration says. `url` is the `iss` of its tokens, `audience` their `aud`.
    pub fn new(
        name: Name,
        system: System,
        url: String,
        audience: String,
        runner: RunnerBinding,
        declared: Declared,
    ) -> Result<Self, JobIssuerError> {
        let error = |field, problem: String| Err(JobIssuerError { field, problem });
        let profile = systems::profile(system);
        if matches!(runner, RunnerBinding::Label { .. }) && profile.runner.is_none() {
            let problem = format!(
                "tokens of {system} do not name their runner: write `runner: audience` to have its name in their audience, or `runner: firstUse`"
            );
            return error("runner", problem);
        }
        let mut known: BTreeMap<String, KnownClaim> =
            profile.known().map(|claim| (claim.name.clone(), claim)).collect();
        for claim in declared.claims {
            let claim_name = claim.name.clone();
            if known.insert(claim_name.clone(), claim).is_some() {
                return error(
                    "claims",
                    format!("claim {claim_name} is known for {system} already, or stands here twice"),
                );
            }
        }
        let Some(job) = declared.job.or_else(|| profile.job.map(str::to_owned)) else {
            return error("jobClaim", format!("name the claim that tells the jobs of {system} apart"));
        };
        match known.get(&job).map(|claim| claim.kind) {
            Some(ClaimKind::Text | ClaimKind::Number) => {}
            Some(kind) => {
                return error(
                    "jobClaim",
                    format!("claim {job} is {kind}: a job is told apart by a text or a number"),
                );
            }
            None => {
                return error("jobClaim", format!("claim {job} is not among the claims: add it to `claims`"));
            }
        }
        if !known.values().any(|claim| claim.project) {
            return error("claims", "mark at least one claim with `project: true`: one that names a project and never another one".to_owned());
        }
        Ok(Self { name, system, url, audience, runner, known, job, longest_job: LONGEST_JOB })
    }

    /// The same, with another limit to how long a session lasts.
    pub fn with_longest_job(self, longest_job: Duration) -> Self {
        Self { longest_job, ..self }
    }

    /// How long a session that one of its tokens opens lasts at most.
    pub fn longest_job(&self) -> Duration {
        self.longest_job
    }

    /// Its name, as roles say it.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Whose tokens they are.
    pub fn system(&self) -> System {
        self.system
    }

    /// The `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The audience, without a runner's name.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// The `aud` that a token must have which this runner or platform presents.
    pub fn audience_of(&self, presenter: &Name) -> String {
        match self.runner {
            RunnerBinding::Audience => format!("{}/{presenter}", self.audience),
            RunnerBinding::FirstUse | RunnerBinding::Label { .. } => self.audience.clone(),
        }
    }

    /// Which runner may use a token.
    pub fn runner(&self) -> &RunnerBinding {
        &self.runner
    }

    /// The claims that are read, by name.
    pub fn known(&self) -> impl Iterator<Item = &KnownClaim> {
        self.known.values()
    }

    /// The claim of that name.
    pub fn claim(&self, name: &str) -> Option<&KnownClaim> {
        self.known.get(name)
    }

    /// What a claim is read as: the value itself, or the digits of a number where this system sends an id as a number or as
    /// text, as its version has it. None if it is of another kind than the claim must be.
    pub fn read(&self, claim: &KnownClaim, value: Claim) -> Option<Claim> {
        if value.kind() == claim.kind {
            return Some(value);
        }
        let either = systems::profile(self.system).digits.contains(&claim.name.as_str());
        match value {
            Claim::Number(number) if either => Some(Claim::Text(number.to_string())),
            Claim::Text(_) | Claim::Number(_) | Claim::Flag(_) | Claim::Texts(_) => None,
        }
    }

    /// The claim that tells its jobs apart.
    pub fn job_claim(&self) -> &str {
        &self.job
    }

    /// The job's id at its system; none if the token has none.
    pub fn job_id(&self, claims: &Claims) -> Option<String> {
        let id = claims.get(&self.job)?;
        match id.kind() {
            ClaimKind::Text | ClaimKind::Number => Some(id.plain().into_owned()),
            ClaimKind::Flag | ClaimKind::Texts => None,
        }
    }

    /// A claim without which another one means two things, such as `ref` without `ref_type`.
    pub fn companion_of(&self, claim: &str) -> Option<&'static str> {
        let pairs = systems::profile(self.system).companions;
        pairs.iter().find(|(ambiguous, _)| *ambiguous == claim).map(|(_, companion)| *companion)
    }

    /// What is refused unless a role names the claim.
    pub fn guards(&self) -> &'static [Guard] {
        systems::profile(self.system).guards
    }
}
