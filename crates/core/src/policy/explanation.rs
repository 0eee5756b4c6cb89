//! Which requirement fails first: the one place where a role is compared with who asks and with its job.
//!
//! It gives nothing out. Who asks is a name with labels here and not a [`Caller`](crate::caller::Caller), so that a role can
//! be explained and tested where nobody has called, by the same code that decides.

use std::fmt;

use crate::caller::{Kind, SpiffeId};
use crate::claims::Claims;
use crate::job::Evidence;
use crate::labels::Labels;
use crate::name::Name;
use crate::role::{Role, Subject};

/// Who asks, or would.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its name.
    pub spiffe_id: &'a SpiffeId,
    /// Whether it is of the issuer's own trust domain.
    pub own: bool,
    /// What its enrolment says about it.
    pub labels: &'a Labels,
}

/// What is known of the job.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// Nothing any more.
    Nothing,
    /// The caller's word.
    Asserted,
    /// The claims of its token.
    Verified {
        /// Whose token, by the name in the configuration.
        issuer: &'a Name,
        /// What it says.
        claims: &'a Claims,
    },
}

impl<'a> From<Option<&'a Evidence>> for Shown<'a> {
    fn from(evidence: Option<&'a Evidence>) -> Self {
        match evidence {
            None => Self::Nothing,
            Some(Evidence::Asserted(_)) => Self::Asserted,
            Some(Evidence::Verified(job)) => Self::Verified { issuer: &job.issuer, claims: &job.claims },
        }
    }
}

/// Why a subject does not give its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// What the caller may know: what its job lacks, where the subject names the caller.
    pub told: Option<String>,
    /// What operators may know.
    pub explanation: String,
}

/// What a role's subjects say to who asks with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The role.
    pub role: Name,
    /// For each item of `subjects` the first requirement that is not met; none if all are.
    pub subjects: Vec<Option<Unmet>>,
}

impl Explanation {
    /// Compares.
    pub fn of(role: &Role, who: Who<'_>, job: Shown<'_>) -> Self {
        let subjects = role.subjects().iter().map(|subject| unmet(subject, who, job)).collect();
        Self { role: role.name().clone(), subjects }
    }

    /// Whether a subject gives the role.
    pub fn allows(&self) -> bool {
        self.subjects.iter().any(Option::is_none)
    }

    /// What a caller who is refused may know: what its job lacks, where subjects name the caller.
    pub fn told(&self) -> Option<String> {
        let mut told: Vec<&str> =
            self.subjects.iter().flatten().filter_map(|unmet| unmet.told.as_deref()).collect();
        told.dedup();
        (!told.is_empty()).then(|| told.join("; or "))
    }
}

/// For operators: what each subject lacks.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "role {}: ", self.role)?;
        for (index, unmet) in self.subjects.iter().enumerate() {
            let semicolon = if index == 0 { "" } else { "; " };
            let explanation = unmet.as_ref().map_or("it gives the role", |unmet| unmet.explanation.as_str());
            write!(f, "{semicolon}subjects[{index}]: {explanation}")?;
        }
        Ok(())
    }
}

/// Whether a subject names who asks, whatever the job.
pub(super) fn names(role: &Role, who: Who<'_>) -> bool {
    role.subjects().iter().any(|subject| unnamed(subject, who).is_none())
}

/// The first requirement of the subject that is not met; none if all are.
fn unmet(subject: &Subject, who: Who<'_>, job: Shown<'_>) -> Option<Unmet> {
    if let Some(explanation) = unnamed(subject, who) {
        return Some(Unmet { told: None, explanation });
    }
    let refused = |told: &str, explanation: &str| {
        Some(Unmet { told: Some(told.to_owned()), explanation: explanation.to_owned() })
    };
    match (&subject.jobs, job) {
        (Some(required), Shown::Verified { issuer, claims }) => required
            .unmet(issuer, claims)
            .map(|unmet| Unmet { told: Some(unmet.told), explanation: unmet.explanation }),
        (Some(_), Shown::Asserted) => refused(
            "the role takes no job without a token of its CI system: hand one over when the job starts",
            "the job is asserted, and the item names jobs",
        ),
        (Some(_), Shown::Nothing) => refused(
            "the role takes no job without a token of its CI system, and this one's is not known any more",
            "the job is not known any more, and the item names jobs",
        ),
        (None, _) if who.spiffe_id.kind != Kind::Runner || subject.accept_asserted_jobs => None,
        (None, Shown::Verified { .. }) => {
            refused("the role names no jobs", "it names no jobs, and acceptJobs is not 'asserted'")
        }
        (None, Shown::Asserted) => refused(
            "the role takes no job that is merely asserted",
            "the job is asserted and acceptJobs is not 'asserted'",
        ),
        (None, Shown::Nothing) => refused(
            "the role takes no job that is merely asserted, and this one is not known any more",
            "the job is not known any more and acceptJobs is not 'asserted'",
        ),
    }
}

/// Why the subject does not name who asks, whatever the job; none if it does.
fn unnamed(subject: &Subject, Who { spiffe_id, own, labels }: Who<'_>) -> Option<String> {
    match &subject.trust_domain {
        None if !own => {
            return Some(format!("it names callers of the issuer's own trust domain, not {spiffe_id}"));
        }
        Some(domain) if *domain != spiffe_id.trust_domain => {
            return Some(format!("it names callers of trust domain {domain}, not {spiffe_id}"));
        }
        None | Some(_) => {}
    }
    let patterns = match spiffe_id.kind {
        Kind::Runner => &subject.runners,
        Kind::Platform => &subject.platforms,
        Kind::Operator | Kind::Issuer => &Vec::new(),
    };
    if !patterns.iter().any(|pattern| pattern.matches(&spiffe_id.name)) {
        return Some(format!("it does not name {spiffe_id}"));
    }
    let lacking = subject.labels.iter().find(|(name, value)| labels.get(name) != Some(value));
    lacking.map(|(name, value)| {
        let has = labels.get(name).map_or_else(|| "none".to_owned(), |has| format!("{has:?}"));
        format!("label {name} of {spiffe_id} is {has}, not {value:?}")
    })
}
