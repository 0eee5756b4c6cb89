//! The records at the start: who is banned and what lives is read before anybody is served.
//!
//! A full disk does not keep the issuer from starting. Where there is no room to open the ledger, it listens all the same and
//! says so to whoever calls, to `/readyz` and to its log; nothing is handed out, ended or swept, and nobody is let past the
//! ban list, which is not known. When there is room, the ledger opens by itself, and this catches up: no restart is needed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use shorepass_core::ledger::LedgerError;
use shorepass_daemon::admin::Condition;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use crate::outside::Outside;
use crate::revoke::unclaimed::is_empty;

/// How often it is looked whether they can be read.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Whether the records were read.
pub(crate) struct Records {
    outside: Arc<Outside>,
    read: SetOnce<Begun>,
}

/// What was found when the records were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Whether there were none.
    pub(crate) empty: bool,
}

impl Records {
    /// Reads them, unless the ledger is not open yet.
    pub(crate) fn begin(outside: Arc<Outside>) -> Result<Arc<Self>> {
        let records = Self { outside, read: SetOnce::new() };
        match records.outside.ledger.health() {
            Err(LedgerError::Unavailable(_)) => {
                tracing::warn!("the records cannot be opened: everything is refused until they can");
            }
            Ok(()) | Err(LedgerError::AuditUnavailable(_) | LedgerError::Conflict(_)) => {
                records.read().context("cannot read who is banned and which leases live")?;
            }
        }
        Ok(Arc::new(records))
    }

    /// Bans last: they let callers in.
    fn read(&self) -> Result<(), LedgerError> {
        self.outside.follow.load(self.outside.ledger.as_ref())?;
        let empty = is_empty(self.outside.ledger.as_ref())?;
        self.outside.bans.read(self.outside.ledger.as_ref())?;
        let _ = self.read.set(Begun { empty }); // whoever was faster read the same
        Ok(())
    }

    /// Tries until they are read, says so, and waits for the stop.
    pub(crate) async fn keep(self: Arc<Self>, serving: Condition, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        while !self.read.initialized() {
            serving.fails("waiting for the records to be opened");
            if stop.run_until_cancelled(tick.tick()).await.is_none() {
                return;
            }
            // A failed audit line hinders no reading, and nothing would mend it while everybody waits here.
            if !matches!(self.outside.ledger.health(), Err(LedgerError::Unavailable(_))) {
                match self.read() {
                    Ok(()) => tracing::info!("the records are read: everybody is served"),
                    Err(cause) => tracing::warn!(error = %cause, "the records cannot be read yet"),
                }
            }
        }
        if !stop.is_cancelled() {
            serving.holds();
        }
        stop.cancelled().await;
    }

    /// Begins a task when they are read.
    pub(crate) async fn then<F: Future<Output = ()>>(
        self: Arc<Self>,
        stop: CancellationToken,
        task: impl FnOnce(CancellationToken, Begun) -> F,
    ) {
        if let Some(begun) = stop.run_until_cancelled(self.read.wait()).await {
            task(stop, *begun).await;
        }
    }
}
