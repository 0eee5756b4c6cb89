//! What a role asks of a job: whose token, which claims with which values, and perhaps one condition.
//!
//! Values are compared whole and byte by byte. A requirement that would take any project of a CI system is none.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::claims::{Claim, ClaimKind, Claims};
use crate::condition::Condition;
use crate::job_issuer::{Guard, JobIssuer};
use crate::name::Name;

/// What a job must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRequirement {
    issuer: Name,
    claims: BTreeMap<String, Vec<Claim>>,
    condition: Option<Arc<dyn Condition>>,
    guards: Vec<Guard>,
}

/// Why a document's requirement is none. `claim` is the one that it is about, if it is about one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct RequirementError {
    /// The claim.
    pub claim: Option<String>,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

/// The first thing that a job lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// For the caller: about its own job only.
    pub told: String,
    /// For operators: with what the role would take.
    pub explanation: String,
}

impl JobRequirement {
    /// Checks what a document asks of the jobs of an issuer: `claims` with the values that each may have.
    pub fn new(
        issuer: &JobIssuer,
        claims: Vec<(String, Vec<Claim>)>,
        condition: Option<Arc<dyn Condition>>,
    ) -> Result<Self, RequirementError> {
        let mut wanted: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        for (claim, values) in claims {
            let refused = |problem| RequirementError { claim: Some(claim.clone()), problem };
            check_values(issuer, &claim, &values).map_err(refused)?;
            if wanted.insert(claim.clone(), values).is_some() {
                return Err(refused(format!("claim {claim} stands here twice")));
            }
        }
        if !wanted.keys().any(|claim| issuer.claim(claim).is_some_and(|known| known.project)) {
            let projects: Vec<&str> =
                issuer.known().filter(|known| known.project).map(|known| known.name.as_str()).collect();
            let problem = format!(
                "without a claim that names a project and never another one, any project of {} gets the role: add {}",
                issuer.name(),
                projects.join(" or ")
            );
            return Err(RequirementError { claim: None, problem });
        }
        let in_condition = |claim: &str| condition.as_ref().is_some_and(|condition| condition.names(claim));
        let names = |claim: &str| wanted.contains_key(claim) || in_condition(claim);
        for claim in issuer.known().map(|known| known.name.as_str()).filter(|claim| names(claim)) {
            if let Some(companion) = issuer.companion_of(claim).filter(|companion| !names(companion)) {
                let problem =
                    format!("{claim} alone means several things to {}: say {companion} too", issuer.system());
                let claim = wanted.contains_key(claim).then(|| claim.to_owned());
                return Err(RequirementError { claim, problem });
            }
        }
        let guards =
            issuer.guards().iter().filter(|guard| !wanted.contains_key(guard.claim)).copied().collect();
        Ok(Self { issuer: issuer.name().clone(), claims: wanted, condition, guards })
    }

    /// What stands for jobs of an issuer of which nothing is known where the document is read: no job meets it.
    pub fn that_nobody_meets(issuer: Name) -> Self {
        Self { issuer, claims: BTreeMap::new(), condition: None, guards: Vec::new() }
    }

    /// Whose tokens it takes.
    pub fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// The first thing that a job lacks whose token is of `issuer` and has these claims; none if it has everything.
    pub fn unmet(&self, issuer: &Name, job: &Claims) -> Option<Unmet> {
        if *issuer != self.issuer {
            return Some(Unmet {
                told: format!("the role does not take jobs of {issuer}"),
                explanation: format!("the job's token is of {issuer}, not of {}", self.issuer),
            });
        }
        if self.claims.is_empty() {
            let told = "the role's jobs cannot be told apart here".to_owned();
            return Some(Unmet { explanation: told.clone(), told });
        }
        let guarded = self.guards.iter().find_map(|guard| guarded(*guard, job));
        let claims = || self.claims.iter().find_map(|(claim, values)| lacking(claim, values, job));
        guarded.or_else(claims).or_else(|| self.condition_unmet(job))
    }

    fn condition_unmet(&self, job: &Claims) -> Option<Unmet> {
        let condition = self.condition.as_ref()?;
        let why = condition.holds(job).err()?;
        Some(Unmet {
            told: "the role's condition on the job's claims does not hold".to_owned(),
            explanation: format!("the condition {:?} does not hold: {why}", condition.text()),
        })
    }
}

/// Whether a document may ask for these values of a claim.
pub(crate) fn check_values(issuer: &JobIssuer, claim: &str, values: &[Claim]) -> Result<(), String> {
    let Some(known) = issuer.claim(claim) else {
        let all: Vec<&str> = issuer.known().map(|known| known.name.as_str()).collect();
        return Err(format!(
            "tokens of {} have no claim {claim:?} (known: {})",
            issuer.name(),
            all.join(", ")
        ));
    };
    if known.kind == ClaimKind::Texts {
        return Err(format!("{claim} is a list: write a condition such as `\"x\" in claims.{claim}`"));
    }
    if values.is_empty() {
        return Err(format!("no value of {claim} would do: name at least one"));
    }
    match values.iter().find(|value| value.kind() != known.kind) {
        Some(value) if known.kind == ClaimKind::Text => {
            Err(format!("{claim} is text: write {:?} in quotes", value.to_string()))
        }
        Some(value) => Err(format!("{claim} is a {}: {value} is none", known.kind)),
        None => Ok(()),
    }
}

fn guarded(guard: Guard, job: &Claims) -> Option<Unmet> {
    let Guard { claim, meaning, .. } = guard;
    let value = job.get(claim).filter(|_| guard.catches(job))?;
    Some(Unmet {
        told: format!("the job's {claim} is {value} ({meaning}), which a role takes only if it says so"),
        explanation: format!(
            "{claim} is {value} ({meaning}): the role would have to name {claim} under claims to take it"
        ),
    })
}

fn lacking(claim: &str, values: &[Claim], job: &Claims) -> Option<Unmet> {
    let Some(value) = job.get(claim) else {
        let told = format!("the job's token has no {claim}, which the role asks for");
        return Some(Unmet { explanation: format!("{told}: it would have to be {}", Values(values)), told });
    };
    (!values.contains(value)).then(|| Unmet {
        told: format!("the job's {claim} is {value}, which the role does not take"),
        explanation: format!("{claim} is {value}, not {}", Values(values)),
    })
}

struct Values<'a>(&'a [Claim]);

impl fmt::Display for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.0.iter().enumerate() {
            write!(f, "{}{value}", if index == 0 { "" } else { " or " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job_issuer::{Declared, RunnerBinding, System};

    fn issuer(system: System) -> JobIssuer {
        let (name, text) = (Name::parse(system.as_str()).unwrap(), |text: &str| text.to_owned());
        let declared = Declared::default();
        JobIssuer::new(name, system, text("https://ci"), text("us"), RunnerBinding::FirstUse, declared)
            .unwrap()
    }

    fn requirement(system: System, claims: &[(&str, &[&str])]) -> Result<JobRequirement, RequirementError> {
        let values = |all: &[&str]| all.iter().map(|value| Claim::Text((*value).to_owned())).collect();
        let claims = claims.iter().map(|(claim, all)| ((*claim).to_owned(), values(all))).collect();
        JobRequirement::new(&issuer(system), claims, None)
    }

    fn job(claims: &[(&str, &str)]) -> Claims {
        let mut known = Claims::default();
        for (claim, value) in claims {
            known.insert(claim, Claim::Text((*value).to_owned())).unwrap();
        }
        known
    }

    fn unmet(requirement: &JobRequirement, of: System, claims: &[(&str, &str)]) -> Option<Unmet> {
        requirement.unmet(issuer(of).name(), &job(claims))
    }

    #[test]
    fn an_event_that_may_run_somebody_elses_code_has_to_be_named() {
        for (system, project, event, guarded) in [
            (System::Github, "repository_id", "event_name", "pull_request_target"),
            (System::Gitlab, "project_id", "pipeline_source", "merge_request_event"),
        ] {
            let silent = requirement(system, &[(project, &["42"])]).unwrap();
            let naming = requirement(system, &[(project, &["42"]), (event, &[guarded])]).unwrap();
            let such = [(project, "42"), (event, guarded)];
            let told = unmet(&silent, system, &such).unwrap().told;
            assert!(told.contains(guarded) && told.contains("only if it says so"), "{told}");
            assert_eq!(unmet(&naming, system, &such), None);
            assert_eq!(unmet(&silent, system, &[(project, "42"), (event, "push")]), None);
        }
    }

    #[test]
    fn a_job_of_another_issuer_meets_nothing() {
        let github = requirement(System::Github, &[("repository_id", &["42"])]).unwrap();
        let other = unmet(&github, System::Gitlab, &[("repository_id", "42"), ("project_id", "42")]).unwrap();
        assert!(other.told.contains("does not take jobs of gitlab"), "{other:?}");
    }

    #[test]
    fn the_caller_is_told_its_own_value_and_the_operator_what_would_do() {
        let wanted = requirement(System::Gitlab, &[("project_id", &["42", "43"])]).unwrap();
        let other = unmet(&wanted, System::Gitlab, &[("project_id", "44")]).unwrap();
        assert!(other.told.contains("\"44\"") && !other.told.contains("42"), "{other:?}");
        assert!(other.explanation.contains("\"42\" or \"43\""), "{other:?}");
        assert_eq!(unmet(&wanted, System::Gitlab, &[("project_id", "43")]), None);
    }

    #[test]
    fn a_requirement_without_a_project_or_with_half_a_claim_is_none() {
        let refused = |claims: &[(&str, &[&str])]| requirement(System::Gitlab, claims).unwrap_err().problem;
        assert!(refused(&[("ref_protected", &["true"])]).contains("any project"));
        assert!(refused(&[("project_id", &["42"]), ("ref", &["main"])]).contains("ref_type"));
        assert!(refused(&[("project_id", &[])]).contains("at least one"));
        assert!(refused(&[("no_such", &["1"])]).contains("no claim"));
    }

    /// A condition that looks at these claims.
    #[derive(Debug)]
    struct Names(&'static [&'static str]);

    impl Condition for Names {
        fn holds(&self, _: &Claims) -> Result<(), String> {
            Ok(())
        }

        fn names(&self, claim: &str) -> bool {
            self.0.contains(&claim)
        }

        fn text(&self) -> &str {
            "names"
        }
    }

    #[test]
    fn half_a_claim_is_no_more_in_a_condition() {
        let project = || ("project_id".to_owned(), vec![Claim::Text("42".to_owned())]);
        let kind = || ("ref_type".to_owned(), vec![Claim::Text("branch".to_owned())]);
        let read = |claims: Vec<(String, Vec<Claim>)>, names| {
            JobRequirement::new(&issuer(System::Gitlab), claims, Some(Arc::new(Names(names))))
        };
        let refused = read(vec![project()], &["ref"]).unwrap_err();
        assert!(refused.claim.is_none() && refused.problem.contains("say ref_type too"), "{refused:?}");
        assert!(read(vec![project(), kind()], &["ref"]).is_ok());
        assert!(read(vec![project()], &["ref", "ref_type"]).is_ok());
        let branch = ("ref".to_owned(), vec![Claim::Text("main".to_owned())]);
        assert!(read(vec![project(), branch], &["ref_type"]).is_ok());
    }

    #[test]
    fn nobody_meets_what_stands_for_an_unknown_issuer() {
        let nobody = JobRequirement::that_nobody_meets(issuer(System::Gitlab).name().clone());
        assert!(unmet(&nobody, System::Gitlab, &[("project_id", "42")]).is_some());
    }
}
