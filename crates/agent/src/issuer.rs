//! What the agent needs of the issuer, as a port; and what its refusals mean to a local client.
//!
//! Every method may be called again after an answer was lost: starting and issuing carry a request id, and the same id
//! gives the same job or lease. Nothing here retries. The id of a call is another thing: by it alone the issuer's log
//! and ours know which call was which.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::id::{CallId, JobId, LeaseId, RequestId};
use shorepass_core::job::AssertedJob;
use shorepass_core::job_token::JobToken;
use shorepass_core::name::Name;
use shorepass_core::time::Timestamp;
use shorepass_core::token::Token;
use shorepass_proto::local::v1::ErrorClass;
use shorepass_proto::v1::{ErrorReason as Reason, Role};
use shorepass_rpc::client::{ClientError, Refusal};
use shorepass_rpc::status::{Code, RULES};

/// The issuer, over whatever identity the agent has at the moment.
#[async_trait]
pub trait Issuer: Send + Sync + 'static {
    /// Opens a job session.
    async fn start_job(&self, call: &CallId, request: RequestId, job: &Shown)
    -> Result<Started, IssuerError>;

    /// Ends a job session; gives how many leases ended with it.
    async fn end_job(&self, call: &CallId, job: JobId) -> Result<usize, IssuerError>;

    /// Gets a lease and its first token.
    async fn issue(
        &self,
        call: &CallId,
        request: RequestId,
        job: JobId,
        role: &Name,
    ) -> Result<Leased, IssuerError>;

    /// Gets another token on a lease.
    async fn refresh(&self, call: &CallId, lease: LeaseId) -> Result<Leased, IssuerError>;

    /// What a role is; none where it is not offered to this runner.
    async fn role(&self, call: &CallId, role: &Name) -> Result<Option<Role>, IssuerError>;
}

/// What is shown to the issuer for a job.
#[derive(Clone, Debug)]
pub enum Shown {
    /// Our word.
    Asserted(AssertedJob),
    /// A token of its CI system.
    Token(Arc<JobToken>),
}

/// A job session that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub id: JobId,
    /// When it ends by itself, by the issuer's clock.
    pub ends: Option<Timestamp>,
}

/// A token and its lease. Both lives are counted from before the request was sent.
#[derive(Debug)]
pub struct Leased {
    /// The lease.
    pub lease: LeaseId,
    /// How long the lease lasts.
    pub remaining: Duration,
    /// The token.
    pub token: Token,
    /// Its `jti`.
    pub token_id: String,
    /// How long it may be used, while the issuer hears of us.
    pub valid_for: Duration,
    /// The silence that ends the lease; none where nothing does.
    pub silence: Option<Duration>,
    /// Whether nothing ends its tokens before they expire.
    pub unbound: bool,
    /// For whom they are, where that is not the API server.
    pub audiences: Vec<String>,
}

/// Why the issuer gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// There is no identity to call with, for this reason; nothing was sent.
    #[error("{0}")]
    NotEnrolled(String),
    /// The issuer answered with a refusal.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// There was no answer; whether the issuer acted is not known.
    #[error(transparent)]
    Unreachable(ClientError),
    /// There was no answer within the agent's own limit.
    #[error("the issuer did not answer within {0:?}")]
    Silent(Duration),
    /// The answer is not what was asked for.
    #[error("the issuer's answer has no usable {0}; install the same version of agent and issuer")]
    Garbled(&'static str),
    /// The token is over as soon as it is there.
    #[error("the issuer gives no life to a token: the lease, or this agent's certificate, is about to end")]
    NoLife,
    /// The request could not be recorded, so it was not sent.
    #[error("cannot record the request in the agent's state directory, so it was not sent: {0}")]
    NotRecorded(String),
    /// The session that a token opened is over, and the token is spent.
    #[error("the job session that was opened with a job token is over")]
    SessionOver,
}

impl From<ClientError> for IssuerError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(refusal) => Self::Refused(refusal),
            ClientError::Connect(_) | ClientError::Deadline(_) | ClientError::Broken(_) => {
                Self::Unreachable(error)
            }
        }
    }
}

/// What a local client is told instead of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Which exit code fits.
    pub class: ErrorClass,
    /// What happened, in one sentence.
    pub message: String,
    /// What to do, in one sentence.
    pub remedy: String,
    /// What an administrator of the cluster has to add to RBAC, as YAML; empty if that is not what lacks.
    pub rules: String,
    /// The call to the issuer that failed; none where the agent alone says no.
    pub call: Option<CallId>,
}

impl Denial {
    /// What the agent alone says.
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { class, message: message.into(), remedy: remedy.into(), rules: String::new(), call: None }
    }
}

impl IssuerError {
    /// The reason of a refusal.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusal) => refusal.reason,
            Self::NotEnrolled(_)
            | Self::Unreachable(_)
            | Self::Silent(_)
            | Self::Garbled(_)
            | Self::NoLife
            | Self::SessionOver
            | Self::NotRecorded(_) => None,
        }
    }

    /// When the issuer wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::NotEnrolled(_)
            | Self::Unreachable(_)
            | Self::Silent(_)
            | Self::Garbled(_)
            | Self::NoLife
            | Self::SessionOver
            | Self::NotRecorded(_) => None,
        }
    }

    /// Which exit code fits.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotEnrolled(_) | Self::Unreachable(_) | Self::Silent(_) => ErrorClass::Unreachable,
            Self::Garbled(_) | Self::NoLife | Self::NotRecorded(_) => ErrorClass::Failure,
            Self::SessionOver => ErrorClass::LeaseEnded,
            Self::Refused(refusal) => match refusal.reason {
                Some(reason) => class_of(reason),
                None if says_nothing(refusal.code) => ErrorClass::Unreachable,
                None => ErrorClass::Failure,
            },
        }
    }

    /// Whether the issuer may have done what was asked: then the same request id is used again.
    pub fn outcome_unknown(&self) -> bool {
        match self.class() {
            ErrorClass::Unreachable => true,
            ErrorClass::Unspecified
            | ErrorClass::Failure
            | ErrorClass::Usage
            | ErrorClass::Denied
            | ErrorClass::LeaseEnded => {
                let failed_inside = self.reason() == Some(Reason::Unspecified);
                failed_inside || matches!(self, Self::Garbled(_) | Self::NoLife | Self::NotRecorded(_))
            }
        }
    }

    /// What a local client is told of the call that ended so.
    pub fn denial(&self, call: &CallId) -> Denial {
        let class = self.class();
        let message = shorepass_daemon::telemetry::Chain(self).to_string();
        Denial {
            rules: self.rules(),
            call: Some(call.clone()),
            ..Denial::new(class, message, self.remedy(class))
        }
    }

    fn rules(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.metadata.get(RULES).cloned().unwrap_or_default(),
            _ => String::new(),
        }
    }

    fn remedy(&self, class: ErrorClass) -> String {
        if matches!(self.reason(), Some(Reason::EnrolmentEnded | Reason::CertificateExpired)) {
            return "get a new join token, move identity.pem away and restart the agent".to_owned();
        }
        if self.reason() == Some(Reason::RunnerCloned) {
            return "ask an operator, who finds out where the copy is and makes a new join token with --replace; \
                    then move identity.pem away and restart the agent"
                .to_owned();
        }
        if matches!(self, Self::SessionOver) {
            return "start the job again with a new token: `shorepass job start`".to_owned();
        }
        if self.reason() == Some(Reason::Banned) {
            return "ask an operator, who lifts a ban with `shorepass unban`".to_owned();
        }
        let decision = match self {
            Self::Refused(refusal) => refusal.metadata.get("decision_id"),
            _ => None,
        };
        if let Some(decision) = decision.filter(|_| self.reason() == Some(Reason::RightsMissing)) {
            return format!("add the rules, which `shorepass can-i` prints (decision {decision})");
        }
        if let Some(decision) = decision {
            return format!("an operator finds the explanation in the audit file under decision {decision}");
        }
        match class {
            ErrorClass::Unreachable => {
                "wait, or see `shorepass status` and the logs of agent and issuer".to_owned()
            }
            ErrorClass::Usage => "check the names of role and job".to_owned(),
            ErrorClass::Denied => "ask an operator whether this runner may use the role".to_owned(),
            ErrorClass::LeaseEnded => "ask an operator; `shorepass unblock` lifts a block".to_owned(),
            ErrorClass::Unspecified | ErrorClass::Failure => "see the logs of agent and issuer".to_owned(),
        }
    }
}

/// Whether a status without a reason may as well be a lost answer: it comes from the transport, or from a proxy.
fn says_nothing(code: Code) -> bool {
    match code {
        Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

fn class_of(reason: Reason) -> ErrorClass {
    match reason {
        Reason::FieldInvalid => ErrorClass::Usage,
        Reason::JoinTokenUnknown
        | Reason::JoinTokenUsed
        | Reason::JoinTokenExpired
        | Reason::TrustDomainUnknown
        | Reason::RunnerNameNotAllowed
        | Reason::CertificateExpired
        | Reason::EnrolmentExists
        | Reason::EnrolmentEnded
        | Reason::Banned
        | Reason::RunnerCloned
        | Reason::RejoinRefused
        | Reason::PodTokenRejected
        | Reason::EnrolmentTokenRejected
        | Reason::EnrolmentTokenUsed
        | Reason::CallerKind
        | Reason::RoleNotAvailable
        | Reason::LeaseNotAvailable
        | Reason::JobTokenRejected
        | Reason::JobTokenExpired
        | Reason::JobTokenUsed
        | Reason::JobNotAvailable => ErrorClass::Denied,
        // A block exists only because a lease was revoked.
        Reason::Blocked | Reason::LeaseEnded | Reason::JobEnded => ErrorClass::LeaseEnded,
        Reason::ClusterUnreachable
        | Reason::StoreUnavailable
        | Reason::AuditUnavailable
        | Reason::JobIssuerUnavailable
        | Reason::EnrolmentIssuerUnavailable
        | Reason::ShuttingDown
        | Reason::RateLimited
        | Reason::ClusterBusy
        | Reason::QuotaExceeded => ErrorClass::Unreachable,
        Reason::Unspecified
        | Reason::RequestIdReused
        | Reason::ServiceAccountMissing
        | Reason::ServiceAccountReplaced
        | Reason::RightsNotInEffect
        | Reason::RightsMissing
        | Reason::NamespaceUnavailable
        | Reason::IssuerForbidden
        | Reason::AdmissionPolicyMissing
        | Reason::ClockSkew
        | Reason::ClusterAnswerRejected
        | Reason::RecordNotFound => ErrorClass::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{refused, refused_without_reason};

    #[test]
    fn a_status_that_says_nothing_is_a_lost_answer() {
        for code in
            [Code::DeadlineExceeded, Code::Internal, Code::Unknown, Code::Cancelled, Code::Unavailable]
        {
            let error = refused_without_reason(code);
            assert_eq!((error.class(), error.outcome_unknown()), (ErrorClass::Unreachable, true), "{code:?}");
        }
        let error = refused_without_reason(Code::Unimplemented);
        assert_eq!((error.class(), error.outcome_unknown()), (ErrorClass::Failure, false));
    }

    #[test]
    fn what_a_service_account_lacks_is_told_as_the_rules_to_add() {
        let IssuerError::Refused(mut refusal) = refused(Reason::RightsMissing) else { panic!() };
        let rules = "# rules of a Role in namespace web\n- {verbs: [\"get\"]}\n";
        refusal.metadata.insert(RULES.to_owned(), rules.to_owned());
        refusal.metadata.insert("decision_id".to_owned(), "d-1".to_owned());
        let call = CallId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap();
        let denial = IssuerError::Refused(refusal).denial(&call);
        assert_eq!(denial.rules, rules);
        assert_eq!(denial.remedy, "add the rules, which `shorepass can-i` prints (decision d-1)");
        assert_eq!(refused(Reason::RoleNotAvailable).denial(&call).rules, "");
    }

    #[test]
    fn a_refusal_with_a_reason_is_an_outcome_unless_the_issuer_failed_inside() {
        assert!(!refused(Reason::ClusterAnswerRejected).outcome_unknown());
        assert!(!refused(Reason::RoleNotAvailable).outcome_unknown());
        assert!(refused(Reason::Unspecified).outcome_unknown());
        assert_eq!(refused(Reason::Unspecified).class(), ErrorClass::Failure);
    }
}
