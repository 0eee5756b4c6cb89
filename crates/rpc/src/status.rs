//! Refusals as gRPC statuses, and back.
//!
//! Each reason has one code, in [`code_of`]. Reason and facts travel as a `google.rpc.ErrorInfo`, the time to come
//! back as a `google.rpc.RetryInfo` (google/rpc/error_details.proto); clients decide by these and never by the text.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

pub use tonic::Code;

use crate::refused::{Reason, Refused};

/// The domain of our reasons.
pub const DOMAIN: &str = "shorepass.dev";

/// The header that names a request through every hop.
pub const REQUEST_ID: &str = "x-request-id";

/// What a caller is told when nothing better is known.
const RETRY_DEFAULT: Duration = Duration::from_secs(1);

/// A status travels in headers, and those have a limit.
const TEXT_LIMIT: usize = 500;
/// The metadata that holds rules of RBAC.
pub const RULES: &str = "rules";
/// How long that may be.
pub const RULES_LIMIT: usize = 2_000;

/// The reason without its prefix, such as `LEASE_ENDED`.
pub fn reason_name(reason: Reason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// The reason of that name.
pub fn reason_named(name: &str) -> Option<Reason> {
    Reason::from_str_name(&format!("ERROR_REASON_{name}"))
}

/// The one table.
pub fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::FieldInvalid | Reason::RequestIdReused => Code::InvalidArgument,
        Reason::JoinTokenUnknown
        | Reason::JoinTokenUsed
        | Reason::JoinTokenExpired
        | Reason::JobTokenRejected
        | Reason::JobTokenExpired
        | Reason::JobTokenUsed
        | Reason::TrustDomainUnknown
        | Reason::CertificateExpired
        | Reason::EnrolmentEnded
        | Reason::RejoinRefused
        | Reason::PodTokenRejected
        | Reason::EnrolmentTokenRejected
        | Reason::EnrolmentTokenUsed => Code::Unauthenticated,
        Reason::CallerKind
        | Reason::RoleNotAvailable
        | Reason::LeaseNotAvailable
        | Reason::JobNotAvailable
        | Reason::RunnerNameNotAllowed
        | Reason::Blocked
        | Reason::Banned
        | Reason::RunnerCloned => Code::PermissionDenied,
        Reason::LeaseEnded
        | Reason::JobEnded
        | Reason::EnrolmentExists
        | Reason::ServiceAccountMissing
        | Reason::ServiceAccountReplaced
        | Reason::RightsNotInEffect
        | Reason::RightsMissing
        | Reason::NamespaceUnavailable
        | Reason::IssuerForbidden
        | Reason::AdmissionPolicyMissing
        | Reason::ClockSkew => Code::FailedPrecondition,
        Reason::RecordNotFound => Code::NotFound,
        Reason::ClusterUnreachable
        | Reason::StoreUnavailable
        | Reason::AuditUnavailable
        | Reason::JobIssuerUnavailable
        | Reason::EnrolmentIssuerUnavailable
        | Reason::ShuttingDown => Code::Unavailable,
        Reason::RateLimited | Reason::ClusterBusy | Reason::QuotaExceeded => Code::ResourceExhausted,
        Reason::ClusterAnswerRejected | Reason::Unspecified => Code::Internal,
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let code = code_of(refused.reason);
        let text = |(key, value)| (String::from(key), shortened_to(value, limit_of(key)));
        let metadata: HashMap<String, String> = refused.metadata.into_iter().map(text).collect();
        let mut details = ErrorDetails::with_error_info(reason_name(refused.reason), DOMAIN, metadata);
        let retry = match code {
            Code::Unavailable | Code::ResourceExhausted => Some(refused.retry_after.unwrap_or(RETRY_DEFAULT)),
            _ => refused.retry_after,
        };
        if retry.is_some() {
            details.set_retry_info(retry);
        }
        Status::with_error_details(code, shortened(refused.message), details)
    }
}

/// Rules are cut by whoever makes them, at the end of one.
fn limit_of(key: &str) -> usize {
    if key == RULES { RULES_LIMIT } else { TEXT_LIMIT }
}

fn shortened(text: String) -> String {
    shortened_to(text, TEXT_LIMIT)
}

fn shortened_to(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&index| text.is_char_boundary(index)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// How a status is counted: its reason, or the name of its code where it has none.
pub(crate) fn label(status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) => info.reason,
        None => code_name(status.code()).to_owned(),
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The issuer answered with a refusal.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// There is no connection; the issuer has not seen the call. The chain holds what the connector said.
    #[error("cannot connect to the issuer")]
    Connect(#[source] SharedError),
    /// No answer in time; whether the issuer acted is not known.
    #[error("the issuer did not answer within {0:?}")]
    Deadline(Duration),
    /// The connection broke during the call; whether the issuer acted is not known.
    #[error("the connection to the issuer broke during the call")]
    Broken(#[source] SharedError),
}

/// What the issuer answered instead of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// Why; none when the issuer gave no reason, or one that this version does not know.
    pub reason: Option<Reason>,
    /// What happened and what to do.
    pub message: String,
    /// Facts: `field`, `rule`, `decision_id`, ...
    pub metadata: BTreeMap<String, String>,
    /// When to come back, where that helps.
    pub retry_after: Option<Duration>,
    /// The request's id, to find it in the issuer's log.
    pub request_id: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Some(reason) => write!(f, "{} ({})", self.message, reason_name(reason)),
            None => write!(f, "{} ({})", self.message, code_name(self.code)),
        }
    }
}

/// An error that several calls may share. `Display` and `source` are those of the error inside.
#[derive(Clone)]
pub struct SharedError(Arc<dyn Error + Send + Sync>);

impl SharedError {
    pub(crate) fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(error.into()))
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Marks what the connector said, so that it is found below what the layers above add.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect")]
pub(crate) struct ConnectFailed(#[source] pub(crate) SharedError);

impl ClientError {
    /// The reason of a refusal.
    pub fn reason(&self) -> Option<Reason> {
        self.refusal().and_then(|refusal| refusal.reason)
    }

    /// When to come back, if the issuer said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|refusal| refusal.retry_after)
    }

    /// The refusal, if the issuer answered.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Connect(_) | Self::Deadline(_) | Self::Broken(_) => None,
        }
    }

    /// Only statuses made on our side have a source: the rest came over the wire.
    pub(crate) fn of(status: Status) -> Self {
        let Some(source) = status.source() else {
            return Self::Refused(Box::new(Refusal::of(&status)));
        };
        let mut cause = Some(source);
        while let Some(error) = cause {
            if let Some(failed) = error.downcast_ref::<ConnectFailed>() {
                return Self::Connect(failed.0.clone());
            }
            cause = error.source();
        }
        Self::Broken(SharedError::new(Broke(status)))
    }
}

/// A status without tonic's own rendering of it.
#[derive(Debug)]
struct Broke(Status);

impl fmt::Display for Broke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.message())
    }
}

impl Error for Broke {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl Refusal {
    fn of(status: &Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let retry_after = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        let request_id = status.metadata().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        Self {
            code: status.code(),
            reason: info.as_ref().and_then(|info| reason_named(&info.reason)),
            message: status.message().to_owned(),
            metadata: info.map(|info| info.metadata.into_iter().collect()).unwrap_or_default(),
            retry_after,
            request_id: request_id.map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_reasons() -> impl Iterator<Item = Reason> {
        (0..=i32::from(u8::MAX)).filter_map(|number| Reason::try_from(number).ok())
    }

    #[test]
    fn every_reason_travels_there_and_back() {
        for reason in all_reasons() {
            let refused = Refused::new(reason, "what happened").with("field", "name");
            let error = ClientError::of(refused.into());
            assert_eq!(error.reason(), Some(reason));
            let refusal = error.refusal().unwrap();
            assert_eq!(refusal.code, code_of(reason));
            assert_eq!(refusal.message, "what happened");
            assert_eq!(refusal.metadata["field"], "name");
        }
        assert_eq!(all_reasons().count(), 46);
    }

    #[test]
    fn what_may_pass_carries_a_time_to_come_back() {
        for reason in all_reasons() {
            let passing = matches!(code_of(reason), Code::Unavailable | Code::ResourceExhausted);
            let error = ClientError::of(Refused::new(reason, "").into());
            assert_eq!(error.retry_after().is_some(), passing, "{}", reason_name(reason));
        }
        let refused = Refused::new(Reason::ClusterBusy, "").retry(Duration::from_secs(7));
        assert_eq!(ClientError::of(refused.into()).retry_after(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_contract_table_holds() {
        let table = [
            (Code::InvalidArgument, "FIELD_INVALID REQUEST_ID_REUSED"),
            (
                Code::Unauthenticated,
                "JOIN_TOKEN_UNKNOWN JOIN_TOKEN_USED JOIN_TOKEN_EXPIRED TRUST_DOMAIN_UNKNOWN CERTIFICATE_EXPIRED \
                 ENROLMENT_ENDED REJOIN_REFUSED JOB_TOKEN_REJECTED JOB_TOKEN_EXPIRED JOB_TOKEN_USED \
                 POD_TOKEN_REJECTED ENROLMENT_TOKEN_REJECTED ENROLMENT_TOKEN_USED",
            ),
            (
                Code::PermissionDenied,
                "CALLER_KIND ROLE_NOT_AVAILABLE LEASE_NOT_AVAILABLE BLOCKED JOB_NOT_AVAILABLE \
                 RUNNER_NAME_NOT_ALLOWED BANNED RUNNER_CLONED",
            ),
            (
                Code::FailedPrecondition,
                "LEASE_ENDED JOB_ENDED SERVICE_ACCOUNT_MISSING SERVICE_ACCOUNT_REPLACED ISSUER_FORBIDDEN \
                 ADMISSION_POLICY_MISSING CLOCK_SKEW ENROLMENT_EXISTS RIGHTS_NOT_IN_EFFECT RIGHTS_MISSING \
                 NAMESPACE_UNAVAILABLE",
            ),
            (
                Code::Unavailable,
                "CLUSTER_UNREACHABLE STORE_UNAVAILABLE AUDIT_UNAVAILABLE SHUTTING_DOWN JOB_ISSUER_UNAVAILABLE \
                 ENROLMENT_ISSUER_UNAVAILABLE",
            ),
            (Code::ResourceExhausted, "RATE_LIMITED CLUSTER_BUSY QUOTA_EXCEEDED"),
            (Code::Internal, "CLUSTER_ANSWER_REJECTED"),
            (Code::NotFound, "RECORD_NOT_FOUND"),
        ];
        let mut listed = 1; // UNSPECIFIED is never sent
        for (code, names) in table {
            for name in names.split_whitespace() {
                assert_eq!(code_of(reason_named(name).unwrap()), code, "{name}");
                listed += 1;
            }
        }
        assert_eq!(listed, all_reasons().count());
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let error = ClientError::of(Refused::field("name", "ä".repeat(5_000)).into());
        let refusal = error.refusal().unwrap();
        assert!(refusal.message.len() <= TEXT_LIMIT + 3, "{}", refusal.message.len());
        assert!(refusal.message.ends_with("ä..."));
    }

    #[test]
    fn a_reason_of_another_domain_is_not_ours() {
        let details = ErrorDetails::with_error_info("LEASE_ENDED", "example.org", HashMap::new());
        let error = ClientError::of(Status::with_error_details(Code::Internal, "proxy", details));
        assert_eq!(error.reason(), None);
    }
}
