//! Why a command fails: what is said about it, and the exit code.
//!
//! One enum for all commands, because they share one table of exit codes. On stderr stands what happened, then why, then
//! what to do:
//!
//! ```text
//! shorepass: no such lease, or not yours (LEASE_NOT_AVAILABLE)
//!   decision: 0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d
//!   try: ...
//! ```

use std::error::Error;
use std::io;
use std::path::PathBuf;

use shorepass_config::ConfigErrors;
use shorepass_core::labels::LabelError;
use shorepass_core::name::Name;
use shorepass_exec::AskError;
use shorepass_rpc::refused::Reason;
use shorepass_rpc::status::{ClientError, Code, RULES, Refusal};
use shorepass_tls::{ConnectError, IdentityFileError};

use crate::commands::jobs::NoJobToken;
use crate::kubeconfig::{UnusableCluster, WriteError};
use crate::output::can_i::NotYes;
use crate::output::{Incomplete, printable};
use crate::pasted::Pasted;
use crate::payload::PayloadError;

pub(crate) const FAILURE: u8 = 1;
const USAGE: u8 = 2;
const DENIED: u8 = 3;
pub(crate) const UNREACHABLE: u8 = 4;
pub(crate) const LEASE_ENDED: u8 = 5;
const DEGRADED: u8 = 6;

const NEW_IDENTITY: &str = "make a new identity on the issuer's machine with \
    `shorepass-issuer identity create --kind operator`, and name its folder in SHOREPASS_CONFIG";

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A token stands among the arguments.
    #[error("{}", pasted_sentence(.0))]
    Pasted(Pasted),
    /// The asynchronous runtime did not start.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    /// There is no job token to show.
    #[error(transparent)]
    NoJobToken(#[from] NoJobToken),
    /// No operator's config was named.
    #[error("this command needs an operator's identity, and none is named")]
    NoConfig,
    /// The operator's config cannot be used.
    #[error("the operator's config cannot be used")]
    Config(ConfigErrors),
    /// The operator's identity cannot be used.
    #[error("the operator's identity cannot be used")]
    Identity(#[source] IdentityFileError),
    /// There is no identity where the config says.
    #[error("there is no identity at {}", .0.display())]
    NoIdentity(PathBuf),
    /// The issuer's config or a role document does not load.
    #[error("the issuer's config or a role document does not load")]
    Documents(ConfigErrors),
    /// There is no such role in the documents.
    #[error("there is no role {role} in the documents (they have: {})", .known.join(", "))]
    NoSuchRole {
        /// The role.
        role: Name,
        /// The roles that there are.
        known: Vec<String>,
    },
    /// Labels that no enrolment gives.
    #[error(transparent)]
    Labels(LabelError),
    /// The payload of a job token cannot be used.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// No role document has a test.
    #[error("there are no tests in the role documents")]
    NoTests,
    /// Tests in role documents failed; they were printed.
    #[error("{0} of the tests failed")]
    TestsFailed(usize),
    /// Roles whose ServiceAccounts could not be asked about; why was printed.
    #[error("{0} of the roles could not be asked about")]
    NotAsked(usize),
    /// The call to the issuer gave no answer, or a refusal.
    #[error(transparent)]
    Call(#[from] ClientError),
    /// The issuer's answer cannot be understood.
    #[error("the issuer's answer cannot be understood")]
    Incomplete(#[from] Incomplete),
    /// The agent gave no answer, or a refusal.
    #[error(transparent)]
    Agent(#[from] AskError),
    /// The agent is degraded; its status was printed.
    #[error("the agent is degraded: {0}")]
    Degraded(String),
    /// Anchors of revoked leases are not gone yet.
    #[error(
        "{0} of the revoked leases are still ending: their tokens work until the issuer has deleted their anchors"
    )]
    StillEnding(usize),
    /// Leases that were ended are unbound, and have tokens that live.
    #[error(
        "{0} of the ended leases are unbound: nothing ends their tokens before they expire, and up to 70 s later"
    )]
    TokensRemain(usize),
    /// Some of the leases that were revoked, now or before, are not proved to be dead.
    #[error("{0} of the leases are not proved to be dead at every API server of their cluster")]
    Unproved(usize),
    /// The answer of `can-i` is not yes.
    #[error(transparent)]
    CanI(#[from] NotYes),
    /// The agent's answer does not make a kubeconfig.
    #[error(transparent)]
    Cluster(#[from] UnusableCluster),
    /// The kubeconfig was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The output was not written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// The one table of exit codes.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Pasted(_)
            | Self::NoJobToken(_)
            | Self::NoConfig
            | Self::Config(_)
            | Self::Documents(_)
            | Self::NoSuchRole { .. }
            | Self::Labels(_)
            | Self::Payload(_) => USAGE,
            Self::Call(error) => code_of_call(error),
            Self::Agent(error) => error.exit_code(),
            Self::CanI(not_yes) => not_yes.exit_code(),
            Self::Degraded(_) => DEGRADED,
            Self::Runtime(_)
            | Self::NoTests
            | Self::TestsFailed(_)
            | Self::NotAsked(_)
            | Self::Identity(_)
            | Self::NoIdentity(_)
            | Self::Incomplete(_)
            | Self::StillEnding(_)
            | Self::TokensRemain(_)
            | Self::Unproved(_)
            | Self::Cluster(_)
            | Self::Write(_)
            | Self::Output(_) => FAILURE,
        }
    }

    /// What stands on stderr. Empty where a reader that has gone is the only problem.
    pub(crate) fn report(&self) -> String {
        match self {
            Self::Output(cause) if cause.kind() == io::ErrorKind::BrokenPipe => return String::new(),
            Self::CanI(NotYes::No) => return String::new(),
            Self::Config(errors) | Self::Documents(errors) => return self.config_report(errors),
            _ => {}
        }
        let told: &dyn Error = match self.connect_error() {
            Some(error) => error,
            None => self,
        };
        let mut report = format!("shorepass: {}\n", printable(&told.to_string()));
        let mut cause = told.source();
        while let Some(error) = cause {
            report.push_str(&format!("  because: {}\n", printable(&error.to_string())));
            cause = error.source();
        }
        report.push_str(&self.found_under());
        report.push_str(&self.remedy_line());
        report.extend(self.rules().lines().flat_map(|line| [printable(line), "\n".to_owned()]));
        report
    }

    /// What has to be added to RBAC.
    fn rules(&self) -> &str {
        match self {
            Self::Agent(error) | Self::CanI(NotYes::NoToken(error)) => error.rules(),
            Self::Call(ClientError::Refused(refusal)) => {
                refusal.metadata.get(RULES).map_or("", String::as_str)
            }
            _ => "",
        }
    }

    /// Under which id an operator finds more.
    fn found_under(&self) -> String {
        match self {
            Self::Call(ClientError::Refused(refusal)) => decision_or_request(refusal),
            Self::Agent(error) | Self::CanI(NotYes::NoToken(error)) => {
                error.request_id().map_or_else(String::new, request_line)
            }
            _ => String::new(),
        }
    }

    /// Its lines are made for a terminal already, and their columns carry meaning.
    fn config_report(&self, errors: &ConfigErrors) -> String {
        let lines: String =
            errors.to_string().lines().map(|line| format!("  {}\n", printable(line))).collect();
        format!("shorepass: {self}\n{lines}{}", self.remedy_line())
    }

    fn remedy_line(&self) -> String {
        self.remedy().map_or_else(String::new, |remedy| format!("  try: {}\n", printable(&remedy)))
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Pasted(pasted) => Some(pasted_remedy(pasted)),
            Self::NoJobToken(_) => Some(
                "have the CI system give the job a token for this issuer, and put it into SHOREPASS_JOB_TOKEN or a file".to_owned(),
            ),
            Self::NoConfig => Some(
                "name its folder in SHOREPASS_CONFIG or with --config; \
                 `shorepass-issuer identity create --kind operator` makes one"
                    .to_owned(),
            ),
            Self::Config(_) | Self::Identity(_) | Self::NoIdentity(_) => Some(NEW_IDENTITY.to_owned()),
            Self::Call(error) => self.remedy_of_call(error),
            Self::Incomplete(_) => Some("install the same version of issuer and command line".to_owned()),
            Self::CanI(not_yes) => not_yes.remedy(),
            Self::Agent(error) => Some(error.remedy()).filter(|remedy| !remedy.is_empty()),
            Self::Degraded(_) => Some("see the log of shorepass-agent".to_owned()),
            Self::StillEnding(_) => {
                Some("the issuer goes on; `shorepass lease show LEASE` says when it is done".to_owned())
            }
            Self::TokensRemain(_) => Some(
                "if that cannot wait, take the ServiceAccount's own RoleBindings away; a bound or strict role can be ended"
                    .to_owned(),
            ),
            Self::Unproved(_) => Some(
                "`assumed` turns into `proved` where the issuer's config names all API servers of the cluster (endpoints); \
                 `unproved` says why: count on the tokens' expiry, or take the ServiceAccount's rights away"
                    .to_owned(),
            ),
            Self::Cluster(_) => Some("correct the cluster's `advertise` in the issuer's config".to_owned()),
            Self::Write(error) => error.remedy(),
            Self::NoTests => {
                Some("write `tests` beside `spec` of a role, as the examples in deploy/examples do".to_owned())
            }
            Self::NotAsked(_) => Some(
                "run it where the issuer's config, the kubeconfigs that it names and the clusters can be reached".to_owned(),
            ),
            Self::Runtime(_)
            | Self::Output(_)
            | Self::Documents(_)
            | Self::NoSuchRole { .. }
            | Self::Labels(_)
            | Self::Payload(_)
            | Self::TestsFailed(_) => None,
        }
    }

    fn remedy_of_call(&self, error: &ClientError) -> Option<String> {
        match error {
            ClientError::Refused(refusal) => remedy_of_refusal(refusal),
            ClientError::Connect(_) => match self.connect_error() {
                Some(ConnectError::Refused { .. }) => Some(NEW_IDENTITY.to_owned()),
                Some(ConnectError::Timeout { .. }) => {
                    Some("again; if it stays so, check the address in the operator's config".to_owned())
                }
                // What these say ends with what to do.
                Some(
                    ConnectError::Unreachable { .. }
                    | ConnectError::NotTheIssuer { .. }
                    | ConnectError::OtherAuthority { .. }
                    | ConnectError::TooMany { .. }
                    | ConnectError::Closed { .. }
                    | ConnectError::Broken { .. },
                )
                | None => None,
            },
            ClientError::Deadline(_) | ClientError::Broken(_) => {
                Some("again; the issuer may have done already what it was asked for".to_owned())
            }
        }
    }

    /// What the connector said, if that is why there was no call.
    fn connect_error(&self) -> Option<&ConnectError> {
        match self {
            Self::Call(error) => connect_error(error),
            _ => None,
        }
    }
}

/// The client hides what the connector said behind its own words.
fn connect_error(error: &ClientError) -> Option<&ConnectError> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn code_of_call(error: &ClientError) -> u8 {
    match error {
        ClientError::Refused(refusal) => code_of_refusal(refusal),
        ClientError::Connect(_) => match connect_error(error) {
            Some(ConnectError::Refused { .. }) => DENIED,
            Some(
                ConnectError::Unreachable { .. }
                | ConnectError::NotTheIssuer { .. }
                | ConnectError::OtherAuthority { .. }
                | ConnectError::Timeout { .. }
                | ConnectError::TooMany { .. }
                | ConnectError::Closed { .. }
                | ConnectError::Broken { .. },
            )
            | None => UNREACHABLE,
        },
        ClientError::Deadline(_) | ClientError::Broken(_) => UNREACHABLE,
    }
}

fn code_of_refusal(refusal: &Refusal) -> u8 {
    if matches!(refusal.reason, Some(Reason::LeaseEnded | Reason::JobEnded)) {
        return LEASE_ENDED;
    }
    match refusal.code {
        Code::InvalidArgument => USAGE,
        Code::Unauthenticated | Code::PermissionDenied => DENIED,
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => UNREACHABLE,
        _ => FAILURE,
    }
}

/// Where an operator finds more: the decision in the audit log, or else the request in the issuer's log.
fn decision_or_request(refusal: &Refusal) -> String {
    match (refusal.metadata.get("decision_id"), &refusal.request_id) {
        (Some(decision), _) => format!("  decision: {}\n", printable(decision)),
        (None, Some(request)) => request_line(request),
        (None, None) => String::new(),
    }
}

fn request_line(id: &str) -> String {
    format!("  request: {}\n", printable(id))
}

fn remedy_of_refusal(refusal: &Refusal) -> Option<String> {
    match refusal.reason {
        Some(Reason::CertificateExpired | Reason::EnrolmentEnded | Reason::CallerKind) => {
            Some(NEW_IDENTITY.to_owned())
        }
        // The issuer's sentence ends with what to do.
        Some(_) | None => {
            let seconds = refusal.retry_after?.as_secs_f64().ceil();
            Some(format!("again in {seconds} s"))
        }
    }
}

fn pasted_sentence(pasted: &Pasted) -> &'static str {
    match pasted {
        Pasted::Jwt(_) => {
            "an argument holds a whole token (a JWT), or a piece of one; it was sent nowhere, but it stands in the \
             shell's history now"
        }
        Pasted::JoinToken => {
            "an argument holds a join token; it was sent nowhere, but it stands in the shell's history now"
        }
    }
}

fn pasted_remedy(pasted: &Pasted) -> String {
    match pasted {
        Pasted::Jwt(Some(jti)) => format!(
            "count it as leaked: find its lease with `shorepass whois {jti}`, then end that with \
             `shorepass lease revoke LEASE --reason TEXT`"
        ),
        Pasted::Jwt(None) => "count it as leaked and rotate it; if it is of shorepass, find its lease in \
             `shorepass lease list` and end that with `shorepass lease revoke LEASE --reason TEXT`"
            .to_owned(),
        Pasted::JoinToken => "count it as leaked: give it to nobody, and create another one with \
             `shorepass join-token create`"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use shorepass_proto::local::v1::ErrorClass;
    use shorepass_rpc::status::{code_of, reason_named};

    use super::*;

    fn refusal(reason: &str) -> Refusal {
        let reason = reason_named(reason).unwrap();
        Refusal {
            code: code_of(reason),
            reason: Some(reason),
            message: "what happened".to_owned(),
            metadata: BTreeMap::new(),
            retry_after: None,
            request_id: Some("req-1".to_owned()),
        }
    }

    fn refused(refusal: Refusal) -> Failure {
        Failure::Call(ClientError::Refused(Box::new(refusal)))
    }

    #[test]
    fn every_refusal_of_the_issuer_has_its_exit_code() {
        for (code, reasons) in [
            (FAILURE, "RECORD_NOT_FOUND SERVICE_ACCOUNT_MISSING ISSUER_FORBIDDEN CLUSTER_ANSWER_REJECTED"),
            (USAGE, "FIELD_INVALID REQUEST_ID_REUSED"),
            (DENIED, "CALLER_KIND CERTIFICATE_EXPIRED ENROLMENT_ENDED LEASE_NOT_AVAILABLE BLOCKED BANNED"),
            (UNREACHABLE, "STORE_UNAVAILABLE AUDIT_UNAVAILABLE SHUTTING_DOWN RATE_LIMITED CLUSTER_BUSY"),
            (LEASE_ENDED, "LEASE_ENDED JOB_ENDED"),
        ] {
            for reason in reasons.split(' ') {
                assert_eq!(refused(refusal(reason)).exit_code(), code, "{reason}");
            }
        }
    }

    #[test]
    fn every_other_failure_has_its_exit_code() {
        let agent = |class| {
            let (message, remedy, request_id) = (String::new(), String::new(), String::new());
            let rules = String::new();
            Failure::Agent(AskError::Refused { class, message, remedy, request_id, rules })
        };
        let table = [
            (Failure::Pasted(Pasted::JoinToken), 2),
            (Failure::NoConfig, 2),
            (Failure::NoIdentity(PathBuf::new()), 1),
            (Failure::Call(ClientError::Deadline(Duration::from_secs(10))), 4),
            (Failure::Incomplete(Incomplete("x")), 1),
            (Failure::Degraded(String::new()), 6),
            (Failure::StillEnding(1), 1),
            (Failure::Unproved(1), 1),
            (agent(ErrorClass::Denied), 3),
            (agent(ErrorClass::LeaseEnded), 5),
            (Failure::Agent(AskError::Silent { socket: PathBuf::new(), patience: Duration::ZERO }), 4),
        ];
        for (failure, code) in table {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }

    #[test]
    fn a_refusal_names_its_reason_and_where_to_find_more() {
        let shown = refused(refusal("RECORD_NOT_FOUND")).report();
        assert_eq!(shown, "shorepass: what happened (RECORD_NOT_FOUND)\n  request: req-1\n");
        let mut denied = refusal("LEASE_NOT_AVAILABLE");
        denied.metadata.insert("decision_id".to_owned(), "d-1".to_owned());
        let shown = refused(denied).report();
        assert_eq!(shown, "shorepass: what happened (LEASE_NOT_AVAILABLE)\n  decision: d-1\n");
    }

    #[test]
    fn a_refusal_that_passes_says_when_to_come_back() {
        let mut busy = refusal("RATE_LIMITED");
        busy.retry_after = Some(Duration::from_millis(1_200));
        assert!(refused(busy).report().ends_with("  try: again in 2 s\n"));
    }

    #[test]
    fn what_an_issuer_says_stays_in_its_line() {
        let mut forged = refusal("RECORD_NOT_FOUND");
        forged.message = "x\n  try: \u{1b}]0;evil".to_owned();
        forged.request_id = None;
        let shown = refused(forged).report();
        assert_eq!(shown.lines().count(), 1, "{shown}");
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn an_operator_whose_certificate_expired_is_told_how_to_get_another() {
        for reason in ["CERTIFICATE_EXPIRED", "CALLER_KIND"] {
            assert!(
                refused(refusal(reason)).report().contains("shorepass-issuer identity create"),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_not_worth_a_word() {
        assert_eq!(Failure::Output(io::ErrorKind::BrokenPipe.into()).report(), "");
        assert!(Failure::Output(io::ErrorKind::StorageFull.into()).report().contains("because: "));
    }

    #[test]
    fn a_pasted_token_is_answered_with_its_jti_and_what_to_do() {
        let shown = Failure::Pasted(Pasted::Jwt(Some("7ee5".to_owned()))).report();
        assert!(shown.contains("sent nowhere") && shown.contains("shorepass whois 7ee5"), "{shown}");
        assert!(shown.contains("lease revoke"), "{shown}");
    }
}
