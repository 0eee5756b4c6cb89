//! What role documents say: explanations and the outcome of tests.

use std::time::Duration;

use serde::Serialize;
use shorepass_config::role::case::Case;
use shorepass_core::caller::SpiffeId;
use shorepass_core::escape::Escapes;
use shorepass_core::name::Name;
use shorepass_core::policy::explanation::Explanation;
use shorepass_core::role::{Lifetime, Role};

use super::escapes::EscapesView;
use super::{document, printable, spoken};

/// What a role says to a caller with a job.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explained {
    role: String,
    caller: String,
    allowed: bool,
    /// Nobody is given a role that says `dryRun`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    subjects: Vec<SubjectView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifetimes: Option<LifetimesView>,
    claims_not_read: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubjectView {
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unmet: Option<String>,
    /// What the caller itself would be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<String>,
}

#[derive(Serialize)]
struct LifetimesView {
    token: LifetimeView,
    lease: LifetimeView,
}

/// In seconds.
#[derive(Serialize)]
struct LifetimeView {
    default: u64,
    max: u64,
}

impl LifetimeView {
    fn of(lifetime: Lifetime) -> Self {
        Self { default: lifetime.default.as_secs(), max: lifetime.max.as_secs() }
    }

    fn text(&self) -> String {
        let spoken = |seconds| spoken(Duration::from_secs(seconds));
        format!("{}, at most {}", spoken(self.default), spoken(self.max))
    }
}

impl Explained {
    /// A decision; lifetimes are shown where the role is given.
    pub(crate) fn of(
        role: &Role,
        caller: &SpiffeId,
        explanation: Explanation,
        claims_not_read: Vec<String>,
    ) -> Self {
        let allowed = explanation.allows();
        let subjects = explanation.subjects.into_iter().map(|unmet| match unmet {
            None => SubjectView { allowed: true, unmet: None, told: None },
            Some(unmet) => SubjectView { allowed: false, unmet: Some(unmet.explanation), told: unmet.told },
        });
        Self {
            role: role.name().to_string(),
            caller: caller.to_string(),
            allowed,
            dry_run: role.is_dry_run(),
            subjects: subjects.collect(),
            lifetimes: allowed.then(|| LifetimesView {
                token: LifetimeView::of(role.token()),
                lease: LifetimeView::of(role.lease()),
            }),
            claims_not_read,
        }
    }

    /// For programs.
    pub(crate) fn document(&self) -> String {
        document("RoleExplanation", self)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let outcome = match (self.allowed, self.dry_run) {
            (true, false) => "given",
            (true, true) => "a dry run, and would be given",
            (false, _) => "not given",
        };
        let mut text = format!("role {} is {outcome} to {}\n", self.role, self.caller);
        for (index, subject) in self.subjects.iter().enumerate() {
            let unmet = subject.unmet.as_deref().unwrap_or("gives the role");
            text.push_str(&format!("  subjects[{index}]: {}\n", printable(unmet)));
        }
        if let Some(LifetimesView { token, lease }) = &self.lifetimes {
            text.push_str(&format!("tokens: {}\nleases: {}\n", token.text(), lease.text()));
        }
        if !self.claims_not_read.is_empty() {
            text.push_str(&format!("claims not read: {}\n", printable(&self.claims_not_read.join(", "))));
        }
        text
    }
}

/// The outcome of one test.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CaseView {
    role: String,
    name: String,
    place: String,
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

impl CaseView {
    /// A test, and why it fails if it does.
    pub(crate) fn of(case: &Case, failure: Option<String>) -> Self {
        let (role, name) = (case.role.to_string(), case.name.clone());
        Self { role, name, place: case.place.clone(), passed: failure.is_none(), failure }
    }

    fn line(&self) -> String {
        let (role, name) = (&self.role, printable(&self.name));
        match &self.failure {
            None => format!("PASS {role}: {name}\n"),
            Some(failure) => {
                format!("FAIL {role}: {name} ({})\n  {}\n", printable(&self.place), printable(failure))
            }
        }
    }
}

/// All tests that were run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TestRun {
    passed: usize,
    failed: usize,
    items: Vec<CaseView>,
    /// Empty where nobody was asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    escape_rights: Vec<RoleEscapes>,
}

/// By what the jobs of a role can leave something behind.
#[derive(Serialize)]
struct RoleEscapes {
    role: String,
    #[serde(flatten)]
    found: EscapesView,
}

impl TestRun {
    /// Counts them.
    pub(crate) fn of(items: Vec<CaseView>, escapes: Vec<(Name, Escapes)>) -> Self {
        let failed = items.iter().filter(|case| !case.passed).count();
        let known = |(role, escapes): (Name, Escapes)| RoleEscapes {
            role: role.to_string(),
            found: EscapesView::known(escapes),
        };
        let escape_rights = escapes.into_iter().map(known).collect();
        Self { passed: items.len() - failed, failed, items, escape_rights }
    }

    /// How many were run.
    pub(crate) fn count(&self) -> usize {
        self.items.len()
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// For programs.
    pub(crate) fn document(&self) -> String {
        document("RoleTestList", self)
    }

    /// For people: a line for each, and a summary.
    pub(crate) fn text(&self) -> String {
        let lines: String = self.items.iter().map(CaseView::line).collect();
        let escapes = self.escape_rights.iter();
        let escapes: String = escapes
            .map(|of| format!("{}: rights that outlive a lease: {}\n", of.role, of.found.sentence()))
            .collect();
        format!("{lines}{escapes}{} passed, {} failed\n", self.passed, self.failed)
    }
}
