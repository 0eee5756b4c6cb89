//! How this machine's agent is.

use std::time::Duration;

use serde::Serialize;
use shorepass_core::time::Timestamp;
use shorepass_proto::local::v1::{LeaseStatus, StatusResponse, WatchStatus};

use super::{document, fields, seconds, spoken, table, time, to_the_second};

/// How the agent is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgentStatus {
    degraded: bool,
    spiffe_id: String,
    certificate_expires_at: Option<Timestamp>,
    issuer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
    leases: Vec<KeptLease>,
    users: Vec<u32>,
    watch: Watch,
}

/// How the agent learns of ends.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Watch {
    connected: bool,
    last_heard_at: Option<Timestamp>,
}

impl Watch {
    fn of(status: WatchStatus) -> Self {
        Self { connected: status.connected, last_heard_at: time(status.last_heard_at) }
    }

    fn sentence(&self) -> String {
        let how = if self.connected { "ends are told at once" } else { "not connected" };
        match self.last_heard_at {
            Some(_) => format!("{how}; issuer heard at {}", to_the_second(self.last_heard_at)),
            None => format!("{how}; issuer not heard yet"),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KeptLease {
    id: String,
    role: String,
    job: String,
    jti: String,
    valid_for_seconds: u64,
    /// Nothing ends its tokens before they expire.
    unbound: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
    /// The job asked for what it may not have: that is no problem of the agent's.
    #[serde(skip)]
    denied: bool,
}

impl AgentStatus {
    /// From the socket.
    pub(crate) fn of(status: StatusResponse) -> Self {
        let leases: Vec<KeptLease> = status.leases.into_iter().map(KeptLease::of).collect();
        Self {
            degraded: !status.problem.is_empty() || leases.iter().any(KeptLease::is_degraded),
            spiffe_id: status.spiffe_id,
            certificate_expires_at: time(status.certificate_expires_at),
            issuer: status.issuer,
            problem: status.problem,
            leases,
            users: status.users,
            watch: Watch::of(status.watch.unwrap_or_default()),
        }
    }

    /// What makes it degraded, if anything does: the agent's own problem first.
    pub(crate) fn problem(&self) -> Option<&str> {
        let of_leases = self.leases.iter().filter(|lease| lease.is_degraded()).map(|lease| &lease.problem);
        let all = std::iter::once(&self.problem).chain(of_leases);
        all.map(String::as_str).find(|problem| !problem.is_empty())
    }

    /// For programs.
    pub(crate) fn document(&self) -> String {
        document("AgentStatus", self)
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let users: Vec<String> = self.users.iter().map(u32::to_string).collect();
        let enrolled = if self.spiffe_id.is_empty() { "not enrolled yet" } else { &self.spiffe_id };
        let mut lines = vec![
            ("AGENT", enrolled.to_owned()),
            ("CERTIFICATE", format!("until {}", to_the_second(self.certificate_expires_at))),
            ("ISSUER", self.issuer.clone()),
            ("USERS", if users.is_empty() { "none".to_owned() } else { users.join(", ") }),
        ];
        if self.certificate_expires_at.is_none() {
            lines.remove(1);
        }
        if !self.leases.is_empty() {
            lines.push(("WATCH", self.watch.sentence()));
        }
        lines.push(("STATE", if self.degraded { "degraded" } else { "well" }.to_owned()));
        if !self.problem.is_empty() {
            lines.push(("PROBLEM", self.problem.clone()));
        }
        let mut text = fields(&lines);
        if self.users.is_empty() {
            text.push_str(NO_USERS);
        }
        if !self.leases.is_empty() {
            let rows: Vec<_> = self.leases.iter().map(KeptLease::row).collect();
            text.push('\n');
            text.push_str(&table(["LEASE", "ROLE", "JOB", "VALID FOR", "JTI", "PROBLEM"], &rows));
        }
        text
    }
}

const NO_USERS: &str = "\
No user may use this agent yet. Add the number that `id -u` prints for the job's user to spec.jobs.users in the
agent's config, such as `jobs: {users: [1001]}`, and restart shorepass-agent.
";

impl KeptLease {
    fn of(lease: LeaseStatus) -> Self {
        Self {
            id: lease.lease_id,
            role: lease.role,
            job: lease.job,
            jti: lease.token_id,
            valid_for_seconds: seconds(lease.valid_for),
            problem: lease.problem,
            denied: lease.denied,
            unbound: lease.unbound,
        }
    }

    /// Whether an operator of the runner has something to do.
    fn is_degraded(&self) -> bool {
        !self.problem.is_empty() && !self.denied
    }

    fn row(&self) -> [String; 6] {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let valid_for = match self.jti.is_empty() {
            true => "-".to_owned(),
            false => spoken(Duration::from_secs(self.valid_for_seconds)),
        };
        [
            or_dash(&self.id),
            if self.unbound { format!("{} (UNBOUND)", self.role) } else { self.role.clone() },
            or_dash(&self.job),
            valid_for,
            or_dash(&self.jti),
            or_dash(&self.problem),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples::{ACTIVE, at, token};

    fn well() -> StatusResponse {
        let lease = LeaseStatus {
            lease_id: ACTIVE.to_owned(),
            role: "web-deployer".to_owned(),
            job: "default:1001".to_owned(),
            token_id: token().token_id,
            valid_for: Some(prost_types::Duration { seconds: 1_740, nanos: 0 }),
            problem: String::new(),
            denied: false,
            unbound: false,
        };
        StatusResponse {
            spiffe_id: "spiffe://ci.example.org/runner/prod-1".to_owned(),
            certificate_expires_at: at(86_400),
            issuer: "issuer.example.org:8443".to_owned(),
            problem: String::new(),
            leases: vec![lease],
            users: vec![1001, 1002],
            watch: Some(WatchStatus { connected: true, last_heard_at: at(30) }),
        }
    }

    /// With one that has a problem, such as that its job may not have the role.
    fn with_problem(problem: &str, denied: bool) -> StatusResponse {
        let mut status = well();
        status.leases.push(LeaseStatus {
            role: "db-admin".to_owned(),
            job: "nightly".to_owned(),
            problem: problem.to_owned(),
            denied,
            ..LeaseStatus::default()
        });
        status
    }

    #[test]
    fn a_status_for_people() {
        let status = AgentStatus::of(with_problem("the issuer does not answer", false));
        assert_eq!(status.table(), include_str!("golden/status.txt"));
    }

    #[test]
    fn a_status_for_programs() {
        assert_eq!(AgentStatus::of(well()).document(), include_str!("golden/status.json"));
    }

    #[test]
    fn a_problem_of_agent_or_lease_is_a_degraded_agent() {
        assert_eq!(AgentStatus::of(well()).problem(), None);
        let lost = with_problem("the lease was revoked", false);
        assert_eq!(AgentStatus::of(lost.clone()).problem(), Some("the lease was revoked"));
        let own = StatusResponse { problem: "the issuer does not answer".to_owned(), ..lost };
        assert_eq!(AgentStatus::of(own).problem(), Some("the issuer does not answer"));
    }

    #[test]
    fn a_job_that_asked_for_what_it_may_not_have_is_shown_and_degrades_nothing() {
        let status = AgentStatus::of(with_problem("the role is not available", true));
        assert_eq!((status.problem(), status.degraded), (None, false));
        let shown = status.table();
        assert!(
            shown.contains("STATE        well") && shown.contains("the role is not available"),
            "{shown}"
        );
        let document: serde_json::Value = serde_json::from_str(&status.document()).unwrap();
        assert_eq!(document["leases"][1]["problem"], "the role is not available");
    }

    #[test]
    fn an_unbound_lease_is_marked() {
        let mut status = well();
        status.leases[0].unbound = true;
        let status = AgentStatus::of(status);
        assert!(status.table().contains("web-deployer (UNBOUND)"), "{}", status.table());
        assert!(status.document().contains("\"unbound\": true"), "{}", status.document());
    }

    #[test]
    fn an_agent_without_users_says_how_to_add_one_and_is_not_degraded() {
        let status = AgentStatus::of(StatusResponse { users: Vec::new(), ..well() });
        assert!(status.table().contains("jobs.users"));
        assert!(!status.degraded);
        assert!(!AgentStatus::of(well()).table().contains("jobs.users"));
    }

    #[test]
    fn an_agent_that_has_not_enrolled_has_no_certificate() {
        let shown = AgentStatus::of(StatusResponse::default()).table();
        assert!(shown.contains("not enrolled yet") && !shown.contains("CERTIFICATE"), "{shown}");
    }
}
