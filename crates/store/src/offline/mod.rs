//! What an operator does to a ledger while no issuer has it open: look at it, carry it elsewhere, make it anew.
//!
//! All of it takes the ledger's lock, so that it is refused while an issuer runs. Nothing here needs a ledger that can be
//! opened: that is what it is for.

mod transfer;
mod verify;

use std::path::Path;
use std::sync::Arc;

use shorepass_core::time::{Clock, Entropy};

pub use transfer::{TransferError, Transferred};
pub use verify::Report;

use crate::anew::{self, SecurityLoss};
use crate::error::OpenError;
use crate::files::Fdatasync;
use crate::opening::{Beside, OnFailure, Opened, Opening, Options};
use crate::place::{Lock, Place};

/// A ledger that nobody has open.
pub struct Offline {
    opening: Opening,
    _lock: Lock,
}

/// What `rebuild` did.
#[derive(Debug, PartialEq, Eq)]
pub enum Rebuilt {
    /// Nothing: there was nothing to mend.
    Nothing,
    /// The records are as they were; that security state was lost is accepted.
    LossAccepted,
    /// The records were made anew; of what, and what is missing.
    Anew(String),
}

impl Offline {
    /// The ledger in that directory.
    pub fn lock(
        directory: &Path,
        options: Options,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let place = Place::new(directory);
        let lock = place.lock()?;
        Ok(Self {
            opening: Opening { disk: Box::new(Fdatasync), place, options, clock, entropy },
            _lock: lock,
        })
    }

    /// Makes records that are damaged anew; with `accept_loss` also where security state is lost by it, or was before.
    pub fn rebuild(&self, accept_loss: bool) -> Result<Rebuilt, OpenError> {
        let beside = Beside::look(&self.opening.place)?;
        let cause = match self.opening.sound(&beside) {
            Ok(_) => self.verify()?.records.first().cloned(),
            Err(cause) if cause.loses_records() => Some(cause.to_string()),
            Err(cause) => return Err(cause),
        };
        let Some(cause) = cause else { return self.accept(accept_loss) };
        let loss = if accept_loss { SecurityLoss::Accepted } else { SecurityLoss::Refused };
        let mut opened = anew::make(&self.opening, beside, &cause, loss)?;
        let alarm = opened.alarm.take().unwrap_or_default();
        self.close(opened)?;
        Ok(Rebuilt::Anew(alarm))
    }

    fn accept(&self, accept_loss: bool) -> Result<Rebuilt, OpenError> {
        let mut opened = self.opening.open(OnFailure::Stop)?;
        let lost = opened.manifest.lost;
        if accept_loss {
            opened.manifest.lost = None;
            self.opening.stamp(&opened.records, &opened.manifest)?;
        }
        self.close(opened)?;
        Ok(if accept_loss && lost.is_some() { Rebuilt::LossAccepted } else { Rebuilt::Nothing })
    }

    /// The orderly end of a ledger that was opened here.
    fn close(&self, mut opened: Opened) -> Result<(), OpenError> {
        opened.manifest.clean = true;
        self.opening.write_manifest(&opened.manifest)
    }
}
