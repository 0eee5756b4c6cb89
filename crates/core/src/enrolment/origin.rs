//! By what a runner was let in, where more than a join token's own record tells it.

use crate::name::Name;
use crate::pod::Pod;

/// What showed which machine it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A token of the pod that it is.
    Pod(Pod),
    /// A token of an OIDC issuer, which that spent.
    Token {
        /// The issuer, by its name in the configuration.
        issuer: Name,
        /// The token's `sub`.
        subject: String,
    },
}

impl Origin {
    /// The pod, if it is one.
    pub fn pod(&self) -> Option<&Pod> {
        match self {
            Self::Pod(pod) => Some(pod),
            Self::Token { .. } => None,
        }
    }

    /// Whose token let it in, and its `sub`, if one did.
    pub fn token(&self) -> Option<(&Name, &str)> {
        match self {
            Self::Pod(_) => None,
            Self::Token { issuer, subject } => Some((issuer, subject)),
        }
    }
}
