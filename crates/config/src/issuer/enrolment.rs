//! How runners are let in, and back in.

mod oidc;
mod pods;

use std::time::Duration;

pub use self::oidc::MachineIssuerConfig;
pub use self::pods::PodsConfig;

use shorepass_core::audience::OF_API_SERVERS;

use super::{ClusterConfig, JobIssuerConfig};
use crate::cursor::Cursor;

/// How long after the end of its certificate a runner may come back with it, where nothing is said; and at most, because
/// enrolments that are over are forgotten then.
const REJOIN_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How runners are let in, and back in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentConfig {
    /// How long after the end of its certificate a runner may come back with it; 0: not at all.
    pub rejoin_window: Duration,
    /// Which pods are let in by a token of their ServiceAccount.
    pub pods: Vec<PodsConfig>,
    /// Whose tokens let machines in.
    pub oidc: Vec<MachineIssuerConfig>,
}

impl Default for EnrolmentConfig {
    fn default() -> Self {
        Self { rejoin_window: REJOIN_WINDOW, pods: Vec::new(), oidc: Vec::new() }
    }
}

/// What else stands in the document, as far as it could be read.
pub(super) struct Beside<'a> {
    pub(super) clusters: &'a [ClusterConfig],
    pub(super) job_issuers: &'a [JobIssuerConfig],
    /// Read before whatever else lets machines in.
    pub(super) pods: &'a [PodsConfig],
}

pub(super) fn enrolment(cursor: &Cursor<'_>, beside: &Beside<'_>) -> Option<EnrolmentConfig> {
    let fields = cursor.fields(&["rejoinWindow", "pods", "oidc"])?;
    let rejoin_window = fields.optional("rejoinWindow", |window| match window.duration()? {
        Duration::ZERO => Some(Duration::ZERO),
        _ => window.duration_within(Duration::from_secs(1)..=REJOIN_WINDOW),
    });
    let pods = fields.optional("pods", |list| list.list(|item| pods::pods(item, beside)));
    let pods = pods.unwrap_or_default();
    let beside = Beside { pods: &pods, ..*beside };
    let oidc = fields.optional("oidc", |list| oidc::machine_issuers(list, &beside)).unwrap_or_default();
    Some(EnrolmentConfig { rejoin_window: rejoin_window.unwrap_or(REJOIN_WINDOW), pods, oidc })
}

impl Beside<'_> {
    /// Refuses an audience that tokens for something else have: one token must not be good for two things.
    fn not_taken(&self, cursor: &Cursor<'_>, audience: String) -> Option<String> {
        let of_api_servers = OF_API_SERVERS.contains(&audience.as_str()).then(|| "API servers".to_owned());
        let of_jobs = || self.job_issuer_with(&audience).map(|name| format!("the job tokens of {name}"));
        let of_pods = || self.pods.iter().find(|pods| pods.audience == audience);
        let of_pods = || of_pods().map(|pods| format!("enrolment.pods of cluster {}", pods.cluster));
        match of_api_servers.or_else(of_jobs).or_else(of_pods) {
            Some(by) => cursor.fault(format!(
                "{audience} is the audience of {by}: a token for one must not be good for the other, so choose another, such \
                 as https://shorepass.example.org/enrolment"
            )),
            None => Some(audience),
        }
    }

    /// Those of jobs may be followed by a runner's name.
    fn job_issuer_with(&self, audience: &str) -> Option<String> {
        let of_jobs = self.job_issuers.iter().map(|configured| &configured.issuer).find(|issuer| {
            let rest = audience.strip_prefix(issuer.audience());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        of_jobs.map(|issuer| issuer.name().to_string())
    }
}
