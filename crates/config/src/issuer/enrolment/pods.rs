//! Which pods are let in: `spec.enrolment.pods`.

use shorepass_core::labels::Labels;
use shorepass_core::name::{Name, NamePattern};

use super::Beside;
use crate::cursor::{Cursor, closest};
use crate::issuer::job_issuers::parse_audience;
use crate::role;

/// Pods that are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodsConfig {
    /// The cluster that they run in, and that is asked.
    pub cluster: Name,
    /// What their tokens are for, and for nothing else.
    pub audience: String,
    /// Namespaces and names of their ServiceAccounts, at least one.
    pub service_accounts: Vec<(Name, String)>,
    /// The names that they may have as runners, at least one.
    pub runners: Vec<NamePattern>,
    /// The labels that they get.
    pub labels: Labels,
}

pub(super) fn pods(cursor: &Cursor<'_>, beside: &Beside<'_>) -> Option<PodsConfig> {
    let fields = cursor.fields(&["cluster", "audience", "serviceAccounts", "runners", "labels"])?;
    let cluster = fields.required("cluster", |cluster| known_cluster(cluster, beside));
    let audience = fields.required("audience", |audience| {
        let text = audience.parsed(parse_audience)?;
        beside.not_taken(audience, text)
    });
    let service_accounts =
        fields.required("serviceAccounts", |list| list.some("ServiceAccount", service_account));
    let runners = fields.required("runners", |list| list.some("name or pattern", pattern));
    let labels = fields.optional("labels", role::labels).unwrap_or_default();
    Some(PodsConfig {
        cluster: cluster?,
        audience: audience?,
        service_accounts: service_accounts?,
        runners: runners?,
        labels,
    })
}

pub(super) fn pattern(cursor: &Cursor<'_>) -> Option<NamePattern> {
    cursor.parsed(NamePattern::parse)
}

fn known_cluster(cursor: &Cursor<'_>, beside: &Beside<'_>) -> Option<Name> {
    let name = cursor.name()?;
    // Of a list with a fault in it nothing is known: that is told where the fault is.
    if beside.clusters.is_empty() || beside.clusters.iter().any(|known| known.name == name) {
        return Some(name);
    }
    let names: Vec<&str> = beside.clusters.iter().map(|known| known.name.as_str()).collect();
    let meant = closest(name.as_str(), &names).map(|name| format!(", did you mean {name}?"));
    let (meant, names) = (meant.unwrap_or_default(), names.join(", "));
    cursor.fault(format!("this config has no cluster {name}{meant} (configured: {names})"))
}

fn service_account(cursor: &Cursor<'_>) -> Option<(Name, String)> {
    let fields = cursor.fields(&["namespace", "name"])?;
    let namespace = fields.required("namespace", Cursor::name);
    let name = fields.required("name", |name| name.text().map(str::to_owned));
    Some((namespace?, name?))
}
