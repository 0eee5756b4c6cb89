//! By what a runner was let in, where more than a join token's own record tells it.

use crate::pod::Pod;

/// What showed which machine it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A token of the pod that it is.
    Pod(Pod),
}

impl Origin {
    /// The pod, if it is one.
    pub fn pod(&self) -> Option<&Pod> {
        match self {
            Self::Pod(pod) => Some(pod),
        }
    }
}
