//! How much work strangers can make us do before they have shown who they are: little at once, and so much in a second.
//!
//! It is counted for each way in, so that who floods one does not close another, and not for each address: that is done where
//! calls come in, and a stranger may have many.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::Quota;
use shorepass_core::time::Clock;
use shorepass_rpc::refused::{Reason, Refused};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::bucket::Bucket;

/// How many are looked at at once.
pub const AT_ONCE: usize = 8;
/// How many in a second, after [`BURST`].
pub const PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("it is not 0");
/// How many after a pause.
pub const BURST: NonZeroU32 = NonZeroU32::new(100).expect("it is not 0");
/// When to come back at the least.
const AFTER: Duration = Duration::from_secs(1);

/// Counts them.
pub(super) struct Strangers {
    turns: Semaphore,
    count: Bucket,
}

impl Strangers {
    /// Nobody has come.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let quota = Quota::per_second(PER_SECOND).allow_burst(BURST);
        Self { turns: Semaphore::new(AT_ONCE), count: Bucket::new(quota, clock) }
    }

    /// A turn for one more, held as long as there is work for him.
    pub(super) fn turn(&self) -> Result<SemaphorePermit<'_>, Refused> {
        let turn = self.turns.try_acquire().map_err(|_| too_many(AFTER))?;
        self.count.take().map_err(too_many)?;
        Ok(turn)
    }
}

fn too_many(wait: Duration) -> Refused {
    let message = "too many machines want to be let in at once: try again later";
    Refused::new(Reason::RateLimited, message).retry(wait.max(AFTER))
}
