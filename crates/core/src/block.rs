//! Blocks: after an operator's revocation, the same job gets no new lease, in this session or one that another of its tokens
//! opens; or, where no token shows which job it is, the same runner none of the same role.

use crate::caller::SpiffeId;
use crate::id::{BlockId, JobId, LeaseId};
use crate::ledger::Revision;
use crate::name::Name;
use crate::time::Timestamp;

/// Refuses a caller new leases of a role, or a job session new leases of any.
///
/// Asserted jobs are blocked by (runner, role): a job's word about its own id would lift the block at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its name.
    pub id: BlockId,
    /// Who is refused.
    pub caller: SpiffeId,
    /// Which role; of a job session, the one whose lease was revoked.
    pub role: Name,
    /// The job session that is refused, where a token has opened it; none where every job of the caller is refused the role.
    pub job: Option<JobId>,
    /// When it was set.
    pub set: Timestamp,
    /// When it ends by itself: the revoked lease's deadline.
    pub until: Timestamp,
    /// Who set it.
    pub by: SpiffeId,
    /// Why.
    pub reason: String,
    /// The lease whose revocation set it.
    pub lease: LeaseId,
    /// When and by whom it was lifted.
    pub lifted: Option<Lifted>,
    /// Counts its changes, from 1.
    pub revision: Revision,
}

/// The end of a block before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifted {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: SpiffeId,
}

impl Block {
    /// Whether it refuses now.
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.lifted.is_none() && now < self.until
    }

    /// The block after it was lifted.
    pub fn lift(self, at: Timestamp, by: SpiffeId) -> Self {
        Self { lifted: Some(Lifted { at, by }), revision: self.revision.next(), ..self }
    }
}
