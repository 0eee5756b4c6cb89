//! Which caller may call what: one row for each method.
//!
//! A method without a row is not served at all, and a test over the descriptor set fails when the two differ. Nothing
//! about roles or leases stands here: that a kind of caller may call a method says nothing about what it gets.

use shorepass_core::caller::Kind;

/// The services of `shorepass.v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// CredentialService
    Credential,
    /// EnrollmentService
    Enrollment,
    /// AdminService
    Admin,
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Peers without a certificate, on the enroll listener only.
    Anonymous,
    /// Verified peers of these kinds, on the api listener only.
    Kinds(&'static [Kind]),
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The path on the wire, such as `/shorepass.v1.CredentialService/Issue`.
    pub path: &'static str,
    /// The short name, in logs, metrics and audit lines.
    pub name: &'static str,
    /// The service it belongs to.
    pub service: Service,
    /// Who may call it.
    pub callers: Callers,
    /// Whether its answer is a stream.
    pub streaming: bool,
}

const CLIENTS: Callers = Callers::Kinds(&[Kind::Runner, Kind::Platform]);
const RUNNERS: Callers = Callers::Kinds(&[Kind::Runner]);
const OPERATORS: Callers = Callers::Kinds(&[Kind::Operator]);

macro_rules! row {
    ($service:ident, $prefix:literal, $name:literal, $callers:expr, $streaming:literal) => {
        Method {
            path: concat!("/shorepass.v1.", $prefix, "/", $name),
            name: $name,
            service: Service::$service,
            callers: $callers,
            streaming: $streaming,
        }
    };
}

/// All methods.
pub const METHODS: [Method; 23] = [
    row!(Credential, "CredentialService", "StartJob", CLIENTS, false),
    row!(Credential, "CredentialService", "EndJob", CLIENTS, false),
    row!(Credential, "CredentialService", "Issue", CLIENTS, false),
    row!(Credential, "CredentialService", "Refresh", CLIENTS, false),
    row!(Credential, "CredentialService", "Release", CLIENTS, false),
    row!(Credential, "CredentialService", "ListRoles", CLIENTS, false),
    row!(Credential, "CredentialService", "Heartbeat", CLIENTS, false),
    row!(Credential, "CredentialService", "Watch", CLIENTS, true),
    row!(Enrollment, "EnrollmentService", "Enroll", Callers::Anonymous, false),
    row!(Enrollment, "EnrollmentService", "BeginRejoin", Callers::Anonymous, false),
    row!(Enrollment, "EnrollmentService", "Rejoin", Callers::Anonymous, false),
    row!(Enrollment, "EnrollmentService", "Renew", RUNNERS, false),
    row!(Admin, "AdminService", "ListLeases", OPERATORS, false),
    row!(Admin, "AdminService", "GetLease", OPERATORS, false),
    row!(Admin, "AdminService", "RevokeLeases", OPERATORS, true),
    row!(Admin, "AdminService", "Unblock", OPERATORS, false),
    row!(Admin, "AdminService", "ListBlocks", OPERATORS, false),
    row!(Admin, "AdminService", "Ban", OPERATORS, false),
    row!(Admin, "AdminService", "Unban", OPERATORS, false),
    row!(Admin, "AdminService", "ListBans", OPERATORS, false),
    row!(Admin, "AdminService", "ListRunners", OPERATORS, false),
    row!(Admin, "AdminService", "FindToken", OPERATORS, false),
    row!(Admin, "AdminService", "CreateJoinToken", OPERATORS, false),
];

/// The row of a path.
pub fn find(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_has_one_row_and_every_row_a_method() {
        let set = FileDescriptorSet::decode(shorepass_proto::DESCRIPTORS).unwrap();
        let mut described = BTreeMap::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    described.insert(path, method.server_streaming());
                }
            }
        }
        let rows: BTreeMap<_, _> =
            METHODS.iter().map(|method| (method.path.to_owned(), method.streaming)).collect();
        assert_eq!(rows, described);
        assert_eq!(rows.len(), METHODS.len(), "a method has two rows");
    }

    #[test]
    fn names_are_unique_because_they_label_metrics() {
        let mut names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METHODS.len());
    }

    #[test]
    fn nobody_calls_with_the_identity_of_an_issuer() {
        for method in METHODS {
            match method.callers {
                Callers::Anonymous => {
                    assert!(["Enroll", "BeginRejoin", "Rejoin"].contains(&method.name), "{}", method.name);
                }
                Callers::Kinds(kinds) => assert!(!kinds.contains(&Kind::Issuer) && !kinds.is_empty()),
            }
        }
    }
}
