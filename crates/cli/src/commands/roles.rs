//! `role explain` and `role test`: decide by the documents alone, with the code that decides at the issuer. Only
//! `role test --online` asks anybody: the clusters, about what outlives a lease.

use std::io::Write;

use shorepass_conditions::CelConditions;
use shorepass_config::IssuerConfig;
use shorepass_config::role::Roles;
use shorepass_config::role::case::{Case, CaseJob, Expected};
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::claims::Claims;
use shorepass_core::labels::Labels;
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::policy::explanation::{Explanation, Shown, Who};
use shorepass_core::role::Role;

use super::{emit_as, online};
use crate::args::{DocumentArgs, ExplainArgs, TestArgs};
use crate::failure::Failure;
use crate::output::role::{CaseView, Explained, TestRun};
use crate::payload;

pub(super) fn explain(args: &ExplainArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let (config, documents) = load(&args.documents)?;
    let role = find(&documents.roles, &args.role)?;
    let named = args.runner.as_ref().map(|name| (Kind::Runner, name));
    let named = named.or(args.platform.as_ref().map(|name| (Kind::Platform, name)));
    let (kind, name) = named.expect("the parser asks for one of the two");
    let spiffe_id = spiffe_id(args.trust_domain.as_ref().unwrap_or(&config.trust_domain), kind, name);
    let labels = Labels::new(args.labels.iter().cloned()).map_err(Failure::Labels)?;
    let who =
        Who { spiffe_id: &spiffe_id, own: spiffe_id.trust_domain == config.trust_domain, labels: &labels };
    let (explanation, unread) = match &args.claims {
        None => (Explanation::of(role, who, Shown::Asserted), Vec::new()),
        Some(file) => {
            let payload = payload::read(file)?;
            let issuer = payload::issuer(&payload, args.issuer.as_ref(), &config.job_issuers)?;
            let (claims, unread) = payload::claims(&payload, issuer)?;
            let shown = Shown::Verified { issuer: issuer.name(), claims: &claims };
            (Explanation::of(role, who, shown), unread)
        }
    };
    let explained = Explained::of(role, &spiffe_id, explanation, unread);
    emit_as(out, args.documents.output, || explained.document(), || explained.text())
}

pub(super) async fn test(args: &TestArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let (config, documents) = load(&args.documents)?;
    for name in &args.only {
        find(&documents.roles, name)?;
    }
    let wanted = |case: &&Case| args.only.is_empty() || args.only.contains(&case.role);
    let cases = documents.cases.iter().filter(wanted);
    let decided = cases.map(|case| {
        let role = find(&documents.roles, &case.role)?;
        Ok(CaseView::of(case, failure_of(case, role, &config.trust_domain)))
    });
    let decided = decided.collect::<Result<Vec<CaseView>, Failure>>()?;
    let wanted = |role: &&Role| args.only.is_empty() || args.only.contains(role.name());
    let (escapes, unanswered) = match args.online {
        true => online::escapes(&config, documents.roles.iter().filter(wanted)).await,
        false => (Vec::new(), 0),
    };
    let run = TestRun::of(decided, escapes);
    emit_as(out, args.documents.output, || run.document(), || run.text())?;
    match (run.count(), run.failed(), unanswered) {
        (0, _, _) => Err(Failure::NoTests),
        (_, 0, 0) => Ok(()),
        (_, 0, unanswered) => Err(Failure::NotAsked(unanswered)),
        (_, failed, _) => Err(Failure::TestsFailed(failed)),
    }
}

/// Why the test fails; none if it does not.
fn failure_of(case: &Case, role: &Role, trust_domain: &TrustDomain) -> Option<String> {
    let spiffe_id = spiffe_id(case.trust_domain.as_ref().unwrap_or(trust_domain), case.kind, &case.caller);
    let who =
        Who { spiffe_id: &spiffe_id, own: spiffe_id.trust_domain == *trust_domain, labels: &case.labels };
    let explanation = Explanation::of(role, who, shown(&case.job));
    match (&case.expected, explanation.allows()) {
        (Expected::Allowed, true) => None,
        (Expected::Allowed, false) => Some(format!("denied: {explanation}")),
        (Expected::Denied { .. }, true) => Some(format!("allowed: {explanation}")),
        (Expected::Denied { because }, false) => {
            let missed = because.as_ref().filter(|because| !explanation.to_string().contains(*because))?;
            Some(format!("denied, but not because of {missed:?}: {explanation}"))
        }
    }
}

fn shown(job: &CaseJob) -> Shown<'_> {
    let (issuer, claims): (&Name, &Claims) = match job {
        CaseJob::Asserted => return Shown::Asserted,
        CaseJob::Verified { issuer, claims } => (issuer, claims),
    };
    Shown::Verified { issuer, claims }
}

fn load(args: &DocumentArgs) -> Result<(IssuerConfig, Roles), Failure> {
    let config = IssuerConfig::load(&args.issuer_config).map_err(Failure::Documents)?;
    let roles = match &args.roles {
        Some(path) => config.load_roles_of(path, &CelConditions),
        None => config.load_roles(&CelConditions),
    };
    let roles = roles.map_err(Failure::Documents)?;
    Ok((config, roles))
}

fn find<'r>(roles: &'r [Role], name: &Name) -> Result<&'r Role, Failure> {
    let found = roles.iter().find(|role| role.name() == name);
    found.ok_or_else(|| Failure::NoSuchRole {
        role: name.clone(),
        known: roles.iter().map(|role| role.name().to_string()).collect(),
    })
}

fn spiffe_id(trust_domain: &TrustDomain, kind: Kind, name: &Name) -> SpiffeId {
    SpiffeId { trust_domain: trust_domain.clone(), kind, name: name.clone() }
}
