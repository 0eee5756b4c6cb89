//! What an operator does to a ledger while no issuer has it open: look at it, carry it elsewhere, make it anew.
//!
//! All of it takes the ledger's lock, so that it is refused while an issuer runs. Nothing here needs a ledger that can be
//! opened: that is what it is for.

mod transfer;
mod verify;

use std::path::Path;
use std::sync::Arc;

use shorepass_core::time::{Clock, Entropy, Timestamp};

pub use transfer::{TransferError, Transferred};
pub use verify::Report;

use crate::anew::{self, SecurityLoss};
use crate::error::OpenError;
use crate::files::Fdatasync;
use crate::opening::{Beside, OnFailure, Opened, Opening, Options};
use crate::place::{Lock, Place};
use crate::regain::Proof;

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
    /// Security state that was found lost at that time is there again; of what.
    Regained(Timestamp, &'static str),
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
    /// Without it, records that can be read and lack security state get it back from what was restored beside them.
    pub fn rebuild(&self, accept_loss: bool) -> Result<Rebuilt, OpenError> {
        let beside = Beside::look(&self.opening.place)?;
        let cause = match self.opening.sound(&beside) {
            Ok(_) => self.verify()?.records.first().cloned(),
            Err(cause) if cause.loses_records() => Some(cause.to_string()),
            Err(cause) => return Err(cause),
        };
        let Some(cause) = cause else {
            return if accept_loss { self.accept() } else { self.regain(beside) };
        };
        let loss = if accept_loss { SecurityLoss::Accepted } else { SecurityLoss::Refused };
        let mut opened = anew::make(&self.opening, beside, &cause, loss)?;
        let alarm = opened.alarm.take().unwrap_or_default();
        self.close(opened)?;
        Ok(Rebuilt::Anew(alarm))
    }

    fn accept(&self) -> Result<Rebuilt, OpenError> {
        let opened = self.opening.open(OnFailure::Stop)?;
        let lost = opened.manifest.lost;
        self.close_whole(opened)?;
        Ok(if lost.is_some() { Rebuilt::LossAccepted } else { Rebuilt::Nothing })
    }

    /// Looks whether security state that was found lost is there again, beside records that are whole.
    fn regain(&self, mut beside: Beside) -> Result<Rebuilt, OpenError> {
        let (records, look) = self.opening.sound(&beside)?;
        let Some(lost) = self.opening.manifest_of(beside.manifest.manifest(), &look)?.lost else {
            self.close(self.opening.go_on(beside, records, look)?)?;
            return Ok(Rebuilt::Nothing);
        };
        let missing = |problem: &str, restorable| {
            let problem = format!("they were found lost at {lost}; {problem}");
            Err(OpenError::SecurityLost { problem, restorable })
        };
        let (opened, of) = match Proof::look(&mut beside)? {
            Proof::Missing(problem) => return missing(&problem, true),
            Proof::Impossible(problem) => return missing(problem, false),
            Proof::Copy => (self.opening.go_on(beside, records, look)?, "security.log"),
            Proof::Audit => {
                drop(records);
                let cause = format!("security state that was found lost at {lost} is in the audit file");
                (anew::make(&self.opening, beside, &cause, SecurityLoss::Refused)?, "the audit file")
            }
        };
        self.close_whole(opened)?;
        Ok(Rebuilt::Regained(lost, of))
    }

    /// The same as [`Self::close`], for one that lacks no security state any more.
    fn close_whole(&self, mut opened: Opened) -> Result<(), OpenError> {
        (opened.manifest.lost, opened.manifest.before) = (None, None);
        self.opening.stamp(&opened.records, &opened.manifest)?;
        self.close(opened)
    }

    /// The orderly end of a ledger that was opened here.
    fn close(&self, mut opened: Opened) -> Result<(), OpenError> {
        opened.manifest.clean = true;
        self.opening.write_manifest(&opened.manifest)
    }
}
