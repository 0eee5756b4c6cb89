//! The one table from reasons to gRPC codes.
//!
//! A [`Refused`] carries a reason, one safe sentence, what to do, and metadata. What the operator should know beyond
//! that is in the audit line and the log, under the decision id.

use std::time::Duration;

use shorepass_core::id::DecisionId;

pub use shorepass_proto::v1::ErrorReason as Reason;

/// A refusal on its way to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// What happened and what to do, safe for the caller.
    pub message: String,
    /// Facts for machines: `field`, `rule`, ...
    pub metadata: Vec<(&'static str, String)>,
    /// When to come back, where that helps.
    pub retry_after: Option<Duration>,
}

impl Refused {
    /// A refusal without metadata.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), metadata: Vec::new(), retry_after: None }
    }

    /// A malformed field.
    pub fn field(field: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::new(Reason::FieldInvalid, format!("{field}: {problem}")).with("field", field)
    }

    /// With one more fact.
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((key, value.into()));
        self
    }

    /// With the id under which the operator finds the explanation.
    pub fn decided(self, decision: DecisionId) -> Self {
        self.with("decision_id", decision.to_string())
    }

    /// With a time to come back.
    pub fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}
