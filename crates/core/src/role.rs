//! Roles: the policy documents, parsed.
//!
//! A [`Role`] that exists can be decided on: what makes a document unfit (no subject, a lifetime out of bounds) is
//! refused by [`Role::new`], whoever read it.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::audience::Audiences;
use crate::digest::Digest;
use crate::gives::Gives;
use crate::job_requirement::JobRequirement;
use crate::labels::Labels;
use crate::lease::Lease;
use crate::name::{Name, NamePattern, TrustDomain};
use crate::needs::Need;
use crate::silence::Silence;

/// What Kubernetes gives at least (TokenRequest, `expirationSeconds`).
pub const TOKEN_LIFETIME_FLOOR: Duration = Duration::from_secs(600);
/// What a role may give at most.
pub const TOKEN_LIFETIME_CEILING: Duration = Duration::from_secs(24 * 3600);
/// What a lease lasts at least. Below the life of any token: the issuer cuts the anchor at the deadline.
pub const LEASE_LIFETIME_FLOOR: Duration = Duration::from_secs(30);
/// What a lease may last at most.
pub const LEASE_LIFETIME_CEILING: Duration = Duration::from_secs(7 * 24 * 3600);
/// A lifetime that API servers stretch to a year for pods; never asked for.
pub const STRETCHED_LIFETIME: Duration = Duration::from_secs(3607);

/// A lifetime to use when nothing is asked, and one that no wish exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Given when nothing is asked.
    pub default: Duration,
    /// Given at most.
    pub max: Duration,
}

impl Lifetime {
    /// What makes it unfit for a role's tokens; none if nothing does.
    pub fn token_problem(self) -> Option<String> {
        if self.default < TOKEN_LIFETIME_FLOOR || self.max < TOKEN_LIFETIME_FLOOR {
            Some("under 600 s, the shortest life that Kubernetes gives a token: write 10m or more".to_owned())
        } else if self.default == STRETCHED_LIFETIME || self.max == STRETCHED_LIFETIME {
            Some("3607 s is the one lifetime that API servers stretch to a year: write 1h".to_owned())
        } else {
            self.problem_above(TOKEN_LIFETIME_CEILING)
        }
    }

    /// What makes it unfit for a role's leases; none if nothing does.
    pub fn lease_problem(self) -> Option<String> {
        if self.default < LEASE_LIFETIME_FLOOR || self.max < LEASE_LIFETIME_FLOOR {
            Some("under 30 s, the shortest lease: write 30s or more".to_owned())
        } else {
            self.problem_above(LEASE_LIFETIME_CEILING)
        }
    }

    fn problem_above(self, ceiling: Duration) -> Option<String> {
        if self.max > ceiling {
            Some(format!("max is over {} h", ceiling.as_secs() / 3600))
        } else if self.default > self.max {
            Some("default is over max".to_owned())
        } else {
            None
        }
    }
}

/// Which ServiceAccount, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The cluster's name in the issuer's config.
    pub cluster: Name,
    /// The ServiceAccount's namespace.
    pub namespace: Name,
    /// The ServiceAccount's name (a DNS subdomain: names here, joined by dots).
    pub service_account: String,
}

/// Who may use a role: all conditions of one subject must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Whose callers are named; none means the issuer's own.
    pub trust_domain: Option<TrustDomain>,
    /// Runners by name; none means no runner.
    pub runners: Vec<NamePattern>,
    /// Platforms by name; none means no platform.
    pub platforms: Vec<NamePattern>,
    /// Labels that a runner's enrolment must have given it.
    pub labels: Labels,
    /// What the job must show; none takes jobs as the next field says.
    pub jobs: Option<JobRequirement>,
    /// Whether a job that the caller merely asserts is enough.
    pub accept_asserted_jobs: bool,
}

/// How much of a role there is, for all callers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Leases that live at once; none sets no limit.
    pub leases: Option<NonZeroU32>,
    /// Tokens that are minted in a minute, refreshes among them; none sets no limit.
    pub mints_per_minute: Option<NonZeroU32>,
}

/// What becomes of its leases when the role changes and would not give them any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnChange {
    /// They live until a refresh is denied, or until their deadline.
    #[default]
    Keep,
    /// They end.
    End,
}

/// A policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    name: Name,
    gives: Gives,
    audiences: Option<Audiences>,
    token: Lifetime,
    lease: Lifetime,
    subjects: Vec<Subject>,
    silence: Silence,
    limits: Limits,
    needs: Vec<Need>,
    on_change: OnChange,
    dry_run: bool,
    digest: Digest,
}

/// Why a document is not a role. `field` is the path below the document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct RoleError {
    /// The path of the field, such as `spec.lifetimes.token.max`.
    pub field: &'static str,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl Role {
    /// Checks what the document says. `digest` is that of the document's text.
    pub fn new(
        name: Name,
        gives: impl Into<Gives>,
        token: Lifetime,
        lease: Lifetime,
        subjects: Vec<Subject>,
        digest: Digest,
    ) -> Result<Self, RoleError> {
        let gives = gives.into();
        fit("spec.lifetimes.token", token.token_problem())?;
        fit("spec.lifetimes.lease", lease.lease_problem())?;
        gives.check()?;
        if matches!(gives, Gives::Unbound(_)) && lease.default.min(lease.max) < TOKEN_LIFETIME_FLOOR {
            return Err(RoleError {
                field: "spec.lifetimes.lease",
                problem: "under 10 min, and nothing ends an unbound token before that: write 10m or more"
                    .to_owned(),
            });
        }
        if subjects.is_empty() {
            return Err(RoleError {
                field: "spec.subjects",
                problem: "a role without a subject does not load: name at least one runner or platform"
                    .to_owned(),
            });
        }
        if subjects.iter().any(|subject| subject.runners.is_empty() && subject.platforms.is_empty()) {
            return Err(RoleError {
                field: "spec.subjects",
                problem: "an item without runners or platforms does not load: it would name nobody"
                    .to_owned(),
            });
        }
        if subjects.iter().any(|subject| !subject.labels.is_empty() && !subject.platforms.is_empty()) {
            return Err(RoleError {
                field: "spec.subjects",
                problem: "an item with labels and platforms does not load: platforms have no labels; write two items"
                    .to_owned(),
            });
        }
        if subjects.iter().any(|subject| !subject.labels.is_empty() && subject.trust_domain.is_some()) {
            return Err(RoleError {
                field: "spec.subjects",
                problem: "an item with labels and trustDomain does not load: an enrolment gives labels, and callers of another \
                          trust domain have none"
                    .to_owned(),
            });
        }
        if subjects.iter().any(|subject| subject.jobs.is_some() && subject.accept_asserted_jobs) {
            return Err(RoleError {
                field: "spec.subjects",
                problem: "an item with jobs and `acceptJobs: asserted` does not load: an asserted job shows no claims; \
                          write two items"
                    .to_owned(),
            });
        }
        Ok(Self {
            name,
            gives,
            audiences: None,
            token,
            lease,
            subjects,
            silence: Silence::default(),
            limits: Limits::default(),
            needs: Vec::new(),
            on_change: OnChange::default(),
            dry_run: false,
            digest,
        })
    }

    /// The same, for others than the API server. What a strict role gives is in the cluster, so it has no others.
    pub fn with_audiences(self, audiences: Audiences) -> Result<Self, RoleError> {
        if self.gives.existing().is_none() {
            return Err(RoleError {
                field: "spec.audiences",
                problem: "is about a target: the rights of a strict role are in the cluster, and nobody else knows its \
                          ServiceAccounts; name a ServiceAccount with target, or take audiences out"
                    .to_owned(),
            });
        }
        Ok(Self { audiences: Some(audiences), ..self })
    }

    /// The same, with what it says about silence.
    pub fn with_silence(self, silence: Silence) -> Self {
        Self { silence, ..self }
    }

    /// The same, with what it limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same, with what it says about its own change.
    pub fn with_on_change(self, on_change: OnChange) -> Self {
        Self { on_change, ..self }
    }

    /// The same, only to record what it would give.
    pub fn with_dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }

    /// Whether it gives nothing, and what it would have decided is recorded.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// What becomes of its leases when it changes.
    pub fn on_change(&self) -> OnChange {
        self.on_change
    }

    /// What it limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The same, with what its jobs must be allowed to do in the cluster.
    pub fn with_needs(self, needs: Vec<Need>) -> Self {
        Self { needs, ..self }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What it gives out.
    pub fn gives(&self) -> &Gives {
        &self.gives
    }

    /// For whom its tokens are; none where that is the API server.
    pub fn audiences(&self) -> Option<&Audiences> {
        self.audiences.as_ref()
    }

    /// Whether a lease is what it gives out.
    pub(crate) fn covers(&self, lease: &Lease) -> bool {
        self.audiences == lease.audiences && self.gives.covers(&self.name, &lease.target, &lease.mode)
    }

    /// The cluster in which it gives something out.
    pub fn cluster(&self) -> &Name {
        self.gives.cluster()
    }

    /// How long its tokens last.
    pub fn token(&self) -> Lifetime {
        self.token
    }

    /// How long its leases last.
    pub fn lease(&self) -> Lifetime {
        self.lease
    }

    /// Who may use it.
    pub fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// How long its owners may be silent.
    pub fn silence(&self) -> Silence {
        self.silence
    }

    /// What its jobs must be allowed to do in the cluster.
    pub fn needs(&self) -> &[Need] {
        &self.needs
    }

    /// The digest of the document it came from.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

fn fit(field: &'static str, problem: Option<String>) -> Result<(), RoleError> {
    problem.map_or(Ok(()), |problem| Err(RoleError { field, problem }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn role(token: Lifetime, subjects: Vec<Subject>) -> Result<Role, RoleError> {
        let name = |text| Name::parse(text).unwrap();
        let target =
            Target { cluster: name("c"), namespace: name("web"), service_account: "deployer".to_owned() };
        let lease = Lifetime { default: HOUR, max: HOUR * 6 };
        Role::new(name("r"), target, token, lease, subjects, Digest::of_bytes(b""))
    }

    fn somebody() -> Vec<Subject> {
        let runners = vec![NamePattern::parse("prod-*").unwrap()];
        vec![Subject { runners, accept_asserted_jobs: true, ..Subject::default() }]
    }

    fn lifetime(default: u64, max: u64) -> Lifetime {
        Lifetime { default: Duration::from_secs(default), max: Duration::from_secs(max) }
    }

    #[test]
    fn a_fit_document_is_a_role() {
        assert!(role(lifetime(600, 3600), somebody()).is_ok());
    }

    #[test]
    fn unfit_lifetimes_are_refused_by_field() {
        for unfit in [lifetime(599, 3600), lifetime(1200, 600), lifetime(600, 3607), lifetime(600, 90_000)] {
            assert_eq!(role(unfit, somebody()).unwrap_err().field, "spec.lifetimes.token");
        }
    }

    #[test]
    fn leases_may_be_shorter_than_any_token_down_to_half_a_minute() {
        let unfit = |default, max| lifetime(default, max).lease_problem();
        assert_eq!(unfit(30, 30), None);
        assert_eq!(unfit(3607, 3607), None);
        assert!(unfit(29, 60).is_some_and(|problem| problem.contains("30 s")));
        assert!(unfit(60, 30).is_some() && unfit(60, 8 * 24 * 3600).is_some());
    }

    #[test]
    fn only_a_role_of_an_existing_service_account_is_for_others_than_the_api_server() {
        use crate::gives::{RbacName, Rights, RoleRef, Strict, StrictBinding};
        let vault = crate::audience::tests::audiences(&["vault"]).unwrap();
        let bound = role(lifetime(600, 3600), somebody()).unwrap();
        assert_eq!(bound.audiences(), None);
        assert_eq!(bound.clone().with_audiences(vault.clone()).unwrap().audiences(), Some(&vault));
        let name = |text| Name::parse(text).unwrap();
        let rights = Rights::Existing(RoleRef::Role(RbacName::parse("r").unwrap()));
        let bindings = vec![StrictBinding { namespace: name("web"), rights }];
        let gives = Gives::Strict(Strict { cluster: name("c"), namespace: name("strict"), bindings });
        let refused = Role { gives, ..bound }.with_audiences(vault).unwrap_err();
        assert!(
            refused.field == "spec.audiences" && refused.problem.contains("take audiences out"),
            "{refused}"
        );
    }

    #[test]
    fn a_role_without_a_subject_is_refused() {
        let nobody = Subject { accept_asserted_jobs: true, ..Subject::default() };
        for subjects in [vec![], vec![nobody]] {
            assert_eq!(role(lifetime(600, 3600), subjects).unwrap_err().field, "spec.subjects");
        }
    }
}
