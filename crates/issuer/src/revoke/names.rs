//! Names in a selector that nobody here knows: a slip in an emergency must not look like success.
//!
//! Asked only where nothing was found: whatever a lease lives of is known. Whether a runner is known to another issuer is not
//! known here.

use shorepass_core::caller::SpiffeId;
use shorepass_core::ledger::{LeaseFilter, LedgerError};
use shorepass_core::name::Name;
use shorepass_rpc::refused::Refused;

use crate::outside::{Outside, ledger_refused};

/// How many names are told.
const TOLD: usize = 20;

/// Refuses a selector that names a cluster, role or caller of which nothing is known.
pub(super) fn known(outside: &Outside, filter: &LeaseFilter) -> Result<(), Refused> {
    if let Some(cluster) = filter.cluster.as_ref().filter(|cluster| !outside.clusters.contains_key(*cluster))
    {
        let known = told(outside.clusters.keys());
        let problem =
            format!("this issuer has no cluster {cluster}, and no lease in one lives; it has {known}");
        return Err(Refused::field("selector.cluster", problem));
    }
    let policy = outside.policy.current();
    if let Some(role) = filter.role.as_ref().filter(|role| policy.role(role).is_none()) {
        let known = told(policy.roles().map(|role| role.name()));
        let problem = format!("this issuer has no role {role}, and no lease of one lives; it has {known}");
        return Err(Refused::field("selector.role", problem));
    }
    match &filter.caller {
        Some(caller) if !is_known(outside, caller).map_err(|cause| ledger_refused(&cause))? => {
            let problem = format!(
                "{caller} is not known to this issuer: nobody of that name was enrolled, had an identity made, or held a \
                 lease; see `shorepass runner list` and `shorepass lease list --all`"
            );
            Err(Refused::field("selector.caller", problem))
        }
        Some(_) | None => Ok(()),
    }
}

fn told<'a>(names: impl Iterator<Item = &'a Name>) -> String {
    let names: Vec<&str> = names.map(Name::as_str).collect();
    match names.len().checked_sub(TOLD) {
        _ if names.is_empty() => "none".to_owned(),
        None | Some(0) => names.join(", "),
        Some(others) => format!("{} and {others} others", names[..TOLD].join(", ")),
    }
}

fn is_known(outside: &Outside, caller: &SpiffeId) -> Result<bool, LedgerError> {
    let held = LeaseFilter { caller: Some(caller.clone()), include_ended: true, ..LeaseFilter::default() };
    if outside.ledger.latest_enrolment(caller)?.is_some()
        || !outside.ledger.leases(&held, None, 1)?.is_empty()
    {
        return Ok(true);
    }
    // Whom another PKI has given a certificate is not known here.
    if outside.trust.trust_domains().skip(1).any(|domain| *domain == caller.trust_domain) {
        return Ok(true);
    }
    match outside.identities.owners() {
        Ok(owners) => Ok(owners.iter().any(|owner| owner.spiffe_id == *caller)),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "the identities that were made cannot be read");
            Ok(true) // nobody is said to be unknown by mistake
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_names_are_told_than_a_person_reads() {
        let names: Vec<Name> = (0..23).map(|number| Name::parse(&format!("r{number}")).unwrap()).collect();
        assert_eq!(told(names[..0].iter()), "none");
        assert_eq!(told(names[..2].iter()), "r0, r1");
        assert!(told(names[..20].iter()).ends_with("r18, r19"));
        assert!(told(names.iter()).ends_with("r19 and 3 others"));
    }
}
