//! Conditions over claims: what a role may ask of a job beside exact claims.
//!
//! The language and its parser are behind these traits. A condition comes after the exact claims of an item and can only
//! refuse what they let through: it names no issuer or project, and a claim that it names is not thereby named by the role,
//! so that no guard is lifted by it.

use std::fmt;
use std::sync::Arc;

use crate::claims::Claims;
use crate::job_issuer::JobIssuer;

/// The longest text of a condition, in bytes.
pub const CONDITION_LIMIT: usize = 1024;

/// A condition that was checked against the claims of one issuer.
pub trait Condition: fmt::Debug + Send + Sync {
    /// Whether the claims meet it; if not, why not, for operators. A claim that it names and the token lacks, or has as
    /// something else, refuses before anything is evaluated, except where the condition asks whether it is there.
    fn holds(&self, claims: &Claims) -> Result<(), String>;

    /// Whether it looks at a claim.
    fn names(&self, claim: &str) -> bool;

    /// As its author wrote it.
    fn text(&self) -> &str;
}

/// Two conditions on tokens of one issuer are the same if they read the same.
impl PartialEq for dyn Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for dyn Condition {}

/// Makes conditions of texts.
pub trait Conditions: Send + Sync {
    /// Checks a text: only operators that cannot surprise, only claims that the issuer's tokens have, compared with what
    /// they are, and something that claims decide. The error says where in the text, what is wrong, and what to write instead.
    fn compile(&self, text: &str, issuer: &JobIssuer) -> Result<Arc<dyn Condition>, String>;
}
