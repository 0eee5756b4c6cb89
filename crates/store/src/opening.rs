//! Opening a ledger: what is there, whether it belongs together, and bringing it up to the audit file.
//!
//! | what is found | what happens |
//! | --- | --- |
//! | records behind the audit file | its tail is brought in: a crash leaves that |
//! | records behind the MANIFEST; or behind copy or audit file, and no audit lines between | [`OpenError::CutShort`] |
//! | records that cannot be read | [`OpenError::Damaged`] |
//! | no records where there were some, whatever is left beside them | [`OpenError::Gone`] |
//! | one of these, and [`OnFailure::Continue`] | made anew by [`crate::anew`] |
//! | something that a newer version wrote; another ledger's MANIFEST; no right | refused, nothing changed |
//! | no room | closed until there is, nothing changed ([`crate::storage`]) |
//! | no copy of the security state, or another | written anew from the records |
//! | rows in the copy that the records lack | brought back, and told |

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::time::{Clock, Entropy, Timestamp};
use shorepass_proto::store::v1::LedgerIdentity;

use crate::anew::{self, SecurityLoss};
use crate::audit::{AuditError, AuditFile};
use crate::convert::{nanoseconds, optional_time};
use crate::copy::{self, SecurityCopy};
use crate::error::OpenError;
use crate::files::Disk;
use crate::manifest::{self, Manifest};
use crate::place::Place;
use crate::plan;
use crate::record::frame;
use crate::records::{Look, Records};
use crate::restore;
use crate::rows;
use crate::tables::{LEDGER_IDENTITY, Table, Writes};
use crate::trim;

/// How many audit lines are brought in together at most.
const REPLAY: u64 = 1024;
/// Which indices records have that this version wrote.
pub(crate) const LAYOUT: u32 = 2;

/// What to do when the records cannot be read or were cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Move them aside, make them anew as far as that goes, raise an alarm, go on.
    Continue,
    /// Do not open.
    Stop,
}

/// How a ledger is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What to do when the records cannot be read or were cut short.
    pub on_failure: OnFailure,
    /// How long what is over is kept; none keeps it for ever.
    pub retention: Option<Duration>,
}

/// What it takes to open a ledger.
pub(crate) struct Opening {
    /// How to sync.
    pub(crate) disk: Box<dyn Disk>,
    /// Where it is.
    pub(crate) place: Place,
    /// How it is kept.
    pub(crate) options: Options,
    /// For dates, and for how long something takes.
    pub(crate) clock: Arc<dyn Clock>,
    /// For the id of a new ledger.
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// An open ledger.
pub(crate) struct Opened {
    pub(crate) records: Records,
    pub(crate) audit: AuditFile,
    pub(crate) copy: SecurityCopy,
    pub(crate) manifest: Manifest,
    /// The number of the last audit line, which is in the records.
    pub(crate) sequence: u64,
    /// What an operator should look at.
    pub(crate) alarm: Option<String>,
    /// How many entries of the records were read.
    pub(crate) read: usize,
}

/// The files beside the records.
pub(crate) struct Beside {
    pub(crate) manifest: manifest::Found,
    pub(crate) audit: AuditFile,
    pub(crate) copy: copy::Found,
}

impl Opening {
    /// Opens the ledger, whose lock is held.
    pub(crate) fn open(&self, on_failure: OnFailure) -> Result<Opened, OpenError> {
        self.open_or_make(on_failure, SecurityLoss::Told)
    }

    /// Opens it again while an issuer runs. Where its security state is lost it stays closed: what the issuer has begun in
    /// this run rests on that.
    pub(crate) fn open_again(&self, on_failure: OnFailure) -> Result<Opened, OpenError> {
        self.open_or_make(on_failure, SecurityLoss::Refused)
    }

    fn open_or_make(&self, on_failure: OnFailure, loss: SecurityLoss) -> Result<Opened, OpenError> {
        let beside = Beside::look(&self.place)?;
        match self.sound(&beside) {
            Ok((records, look)) => self.go_on(beside, records, look),
            Err(cause) if cause.loses_records() && on_failure == OnFailure::Continue => {
                tracing::error!(error = %cause, "the records are lost; they are made anew as far as that goes");
                anew::make(self, beside, &cause.to_string(), loss)
            }
            Err(cause) => Err(cause),
        }
    }

    /// Opens the records, if they can be read and are not behind what is known of them.
    pub(crate) fn sound(&self, beside: &Beside) -> Result<(Records, Look), OpenError> {
        let directory = self.place.records();
        let records = Records::open(&directory)?;
        let look = records.look()?;
        if let (Some(manifest), Some(identity)) = (beside.manifest.manifest(), &look.identity)
            && manifest.id.as_slice() != identity.ledger
        {
            return Err(OpenError::Mixed { directory });
        }
        let (marked, known) = (beside.marked(), beside.known()?);
        // A crash leaves records behind the audit file, and never behind the mark.
        let lacking = look.progress < known && !beside.audit.spans(look.progress + 1, known)?;
        if look.progress < marked || lacking {
            return Err(OpenError::CutShort { directory, records: look.progress, known });
        }
        // What they are is written into them before anything tells that they have begun.
        let begun = self.place.has_begun() || beside.manifest != manifest::Found::Nothing;
        if begun && look.progress == 0 && look.identity.is_none() {
            return Err(OpenError::Gone { directory });
        }
        Ok((records, look))
    }

    pub(crate) fn go_on(&self, beside: Beside, records: Records, look: Look) -> Result<Opened, OpenError> {
        let known = beside.known()?;
        let Beside { manifest: found, mut audit, copy } = beside;
        // A crash at the very end of making them anew leaves it; what lies there next is not to be taken for unfinished.
        self.forget_making()?;
        if let manifest::Found::Damaged(problem) = &found {
            tracing::warn!(problem, "the MANIFEST is damaged; it is written anew from the records");
        }
        audit.settle(look.progress, known)?;
        if (1..look.progress).contains(&audit.last()) {
            tracing::warn!(
                records = look.progress,
                audit = audit.last(),
                "the audit file ends before the records"
            );
        }
        // First: what is replayed next is newer.
        let mut read = look.read;
        if look.progress > 0 && look.identity.as_ref().is_none_or(|identity| identity.layout < LAYOUT) {
            read += self.index(&records)?;
        }
        let sequence = self.replay(&records, &audit, look.progress)?;
        let mut manifest = self.manifest_of(found.manifest(), &look)?;
        let since = found.manifest().map_or(u64::MAX, |manifest| manifest.security);
        let held = self.merge(&records, copy, manifest.lost.map_or(0, |_| since))?;
        let copy = self.copied(&records, held, &manifest, sequence)?;
        (manifest.sequence, manifest.security, manifest.clean) = (sequence, copy.sequence(), false);
        self.stamp(&records, &manifest)?;
        self.write_manifest(&manifest)?;
        self.place.begin().map_err(|source| OpenError::file(self.place.directory(), source))?;
        let aside: Vec<_> = self.place.moved_aside().iter().map(|aside| self.told_of(aside)).collect();
        let alarm = (!aside.is_empty()).then(|| aside.join("; "));
        Ok(Opened { records, audit, copy, manifest, sequence, alarm, read })
    }

    /// What is told, at each start until they are removed, of records that were moved aside: what was told when that was done.
    fn told_of(&self, aside: &str) -> String {
        match self.place.told_of(aside) {
            Some(told) => format!("{told}: look at {aside}, then remove it"),
            None => format!(
                "damaged records were moved aside to {aside}, and leases of before may be missing: look at them, then \
                 remove them"
            ),
        }
    }

    /// Brings in what the audit file has and the records do not; gives the last line.
    pub(crate) fn replay(&self, records: &Records, audit: &AuditFile, from: u64) -> Result<u64, OpenError> {
        let mut patience = Patience::new(self.clock.as_ref());
        let (mut rows, mut sequence) = (Writes::default(), from);
        for entry in audit.entries_after(from)? {
            let entry = entry?;
            if let Some(change) = &entry.change {
                plan::puts(change, &mut rows);
            }
            sequence = entry.sequence;
            if (sequence - from).is_multiple_of(REPLAY) {
                plan::put_progress(sequence, &mut rows);
                self.write(records, std::mem::take(&mut rows))?;
                patience.tell("audit lines brought in", sequence - from);
            }
        }
        if sequence > from {
            plan::put_progress(sequence, &mut rows);
            self.write(records, rows)?;
            tracing::info!(from, to = sequence, "brought the records up to the audit file");
        }
        Ok(sequence)
    }

    /// Gives records from before they were indexed their indices: the one time that all of them are read.
    fn index(&self, records: &Records) -> Result<usize, OpenError> {
        let mut patience = Patience::new(self.clock.as_ref());
        let (mut unindexed, mut read) = (Writes::default(), 0);
        for entry in records.db().iter() {
            let (key, value) = entry.map_err(|error| self.unreadable(crate::records::engine(error)))?;
            rows::check(&key, &value).map_err(|error| self.unreadable(error))?;
            unindexed.absorb(records.read(|view| plan::unindexed(view, &key, &value))?);
            if let Some((table, key)) = Table::split(&key) {
                trim::put_for(table, key, &value, &mut unindexed).map_err(|error| self.unreadable(error))?;
            }
            read += 1;
            patience.tell("records indexed", read as u64);
        }
        self.write(records, unindexed)?;
        Ok(read)
    }

    /// Brings back security rows that the copy has and the records lack, newer ones only if it goes to line `since`; gives
    /// what the copy holds.
    pub(crate) fn merge(
        &self,
        records: &Records,
        copy: copy::Found,
        since: u64,
    ) -> Result<Option<copy::Contents>, OpenError> {
        let contents = match copy {
            copy::Found::Read(contents) => contents,
            copy::Found::Nothing => return Ok(None),
            copy::Found::Damaged(problem) => {
                tracing::warn!(
                    problem,
                    "the second copy of the security state is damaged; it is written anew"
                );
                return Ok(None);
            }
        };
        let lacking = records.read(|view| {
            if contents.sequence < since {
                restore::absent(&contents.rows, view)
            } else {
                restore::lacking(&contents.rows, view)
            }
        })?;
        if !lacking.is_empty() {
            tracing::warn!(
                rows = lacking.iter().count(),
                "the records lacked security rows that their second copy has"
            );
            self.write(records, lacking)?;
        }
        Ok(Some(contents))
    }

    /// The copy, written anew from the records unless it holds what they hold.
    pub(crate) fn copied(
        &self,
        records: &Records,
        held: Option<copy::Contents>,
        manifest: &Manifest,
        sequence: u64,
    ) -> Result<SecurityCopy, OpenError> {
        let rows = records.read(copy::rows_of)?;
        let path = self.place.copy();
        let same = held.filter(|held| {
            !held.torn && held.rows == rows && held.ledger.as_deref() == Some(manifest.id.as_slice())
        });
        let opened = match same {
            Some(held) => SecurityCopy::open(&path, manifest.id, held.sequence, &rows),
            None => SecurityCopy::write(self.disk.as_ref(), &path, manifest.id, sequence, &rows),
        };
        opened.map_err(|source| OpenError::file(&path, source))
    }

    /// What the manifest should say, whether there is one or not.
    pub(crate) fn manifest_of(&self, found: Option<&Manifest>, look: &Look) -> Result<Manifest, OpenError> {
        let mut manifest = found.cloned().unwrap_or_else(|| Manifest::generate(self.entropy.as_ref()));
        if let Some(identity) = &look.identity {
            // The manifest may have been deleted, and with it this.
            let lost = optional_time("lost", identity.lost)
                .map_err(|malformed| self.damaged(malformed.to_string()))?;
            manifest.lost = manifest.lost.or(lost);
            if let (None, Ok(id)) = (found, <[u8; 16]>::try_from(identity.ledger.as_slice())) {
                manifest.id = id;
            }
        }
        Ok(manifest)
    }

    /// Writes into the records which ledger they are.
    pub(crate) fn stamp(&self, records: &Records, manifest: &Manifest) -> Result<(), OpenError> {
        let identity = LedgerIdentity {
            ledger: manifest.id.to_vec(),
            layout: LAYOUT,
            lost: manifest.lost.map(nanoseconds),
        };
        if records.read(rows::ledger_identity)?.as_ref() == Some(&identity) {
            return Ok(());
        }
        let mut rows = Writes::default();
        rows.put(Table::Meta.key(LEDGER_IDENTITY), frame(&identity));
        self.write(records, rows)
    }

    /// Writes rows while nobody waits for them.
    pub(crate) fn write(&self, records: &Records, rows: Writes) -> Result<(), OpenError> {
        if rows.is_empty() {
            return Ok(());
        }
        records
            .write(&rows, self.disk.as_ref())
            .map_err(|source| OpenError::file(&self.place.records(), source))
    }

    /// The records are whole: the next ones that are lost are moved aside.
    pub(crate) fn forget_making(&self) -> Result<(), OpenError> {
        self.place.finish_making().map_err(|source| OpenError::file(&self.place.making(), source))
    }

    pub(crate) fn write_manifest(&self, manifest: &Manifest) -> Result<(), OpenError> {
        let path = self.place.manifest();
        manifest.write(self.disk.as_ref(), &path).map_err(|source| OpenError::file(&path, source))
    }

    fn damaged(&self, problem: String) -> OpenError {
        OpenError::Damaged { directory: self.place.records(), problem }
    }

    fn unreadable(&self, error: crate::tables::ReadError) -> OpenError {
        OpenError::unreadable(&self.place.records(), error)
    }
}

impl Beside {
    /// Opens and reads them.
    pub(crate) fn look(place: &Place) -> Result<Self, OpenError> {
        let manifest = Manifest::read(&place.manifest())?;
        let path = place.audit();
        let unclean = manifest.manifest().is_some_and(|manifest| manifest.sequence > 0 && !manifest.clean);
        // Looked at without following: a link to what is not there is a mistake that opening it tells.
        if unclean
            && std::fs::symlink_metadata(&path)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        {
            return Err(AuditError::Missing { path }.into());
        }
        let audit = AuditFile::open(&path)?;
        Ok(Self { manifest, audit, copy: copy::read(&place.copy())? })
    }

    /// The last audit line that the MANIFEST says is in the records; 0 without one.
    pub(crate) fn marked(&self) -> u64 {
        self.manifest.manifest().map_or(0, |manifest| manifest.sequence)
    }

    /// The last audit line that is known to have been in the records once.
    pub(crate) fn known(&self) -> Result<u64, OpenError> {
        let copied = match &self.copy {
            copy::Found::Read(contents) => contents.sequence,
            copy::Found::Nothing | copy::Found::Damaged(_) => 0,
        };
        let before_audit = self.audit.first()?.map_or(0, |first| first.saturating_sub(1));
        Ok(self.marked().max(copied).max(before_audit))
    }
}

/// Tells how far something is that takes more than a moment.
pub(crate) struct Patience<'a> {
    clock: &'a dyn Clock,
    next: Duration,
}

impl<'a> Patience<'a> {
    /// How long it waits.
    const EVERY: Duration = Duration::from_secs(2);

    pub(crate) fn new(clock: &'a dyn Clock) -> Self {
        Self { clock, next: clock.since_boot() + Self::EVERY }
    }

    /// Says how many are done, every two seconds.
    pub(crate) fn tell(&mut self, what: &'static str, done: u64) {
        if self.clock.since_boot() >= self.next {
            tracing::info!(done, what, "still at it");
            self.next = self.clock.since_boot() + Self::EVERY;
        }
    }
}

/// The moment, as files and people are told it.
pub(crate) fn moment(clock: &dyn Clock) -> Timestamp {
    shorepass_core::time::for_people(clock.now())
}
