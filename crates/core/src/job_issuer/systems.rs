//! What is known of the tokens of each CI system.

use super::{Guard, KnownClaim, System};
use crate::claims::ClaimKind::{self, Flag, Number, Text, Texts};

/// A system's table.
pub(super) struct Profile {
    claims: &'static [(&'static str, ClaimKind)],
    /// Those of the claims that name a project for ever.
    project: &'static [&'static str],
    pub(super) job: Option<&'static str>,
    pub(super) runner: Option<&'static str>,
    /// (ambiguous, what makes it clear)
    pub(super) companions: &'static [(&'static str, &'static str)],
    pub(super) guards: &'static [Guard],
}

impl Profile {
    pub(super) fn known(&self) -> impl Iterator<Item = KnownClaim> {
        self.claims.iter().map(|(name, kind)| KnownClaim {
            name: (*name).to_owned(),
            path: vec![(*name).to_owned()],
            kind: *kind,
            project: self.project.contains(name),
        })
    }
}

pub(super) fn profile(system: System) -> &'static Profile {
    match system {
        System::Gitlab => &GITLAB,
        System::Github | System::Buildkite | System::Jenkins | System::Generic => &GENERIC,
    }
}

const GENERIC: Profile =
    Profile { claims: &[("sub", Text)], project: &[], job: None, runner: None, companions: &[], guards: &[] };

const GITLAB: Profile = Profile {
    claims: &[("sub", Text), ("project_id", Text)],
    project: &["project_id"],
    job: Some("job_id"),
    runner: Some("runner_id"),
    companions: &[("ref", "ref_type")],
    guards: &[],
};
