//! Records that are lost are made anew: from the audit file as far back as it goes, security state also from its copy.
//!
//! What comes of it, and in which order: first what will be lost is written into the MANIFEST, so that a crash in between
//! forgets no loss; then the old records are moved aside, never removed; then the new ones are made. Each start until the
//! end of that finds records that were cut short, and begins again from the same sources. Only the old records are moved
//! aside, and a note says where to, until the new ones are whole: what an attempt leaves that was not finished (on a disk
//! with too little room there may be one each second) is removed by the next.
//!
//! | audit file | copy | leases | security state |
//! | --- | --- | --- | --- |
//! | whole from its first line, or its end unknown | whole | all | all |
//! | whole from its first line to its end | not whole | all | all |
//! | whole from its first line, its end unknown | not whole | all that it has | [`SecurityLoss`] |
//! | begins later | whole | those since | all |
//! | damaged or missing | whole | none | all |
//! | not whole | not whole | those since, or none | [`SecurityLoss`] |
//!
//! The end of an audit file is known after an orderly stop, from the MANIFEST; before one it may have lost lines at its end
//! that nothing tells of.

use std::io;
use std::path::Path;

use shorepass_core::caller::Owner;
use shorepass_core::id::JobId;
use shorepass_core::job::{AssertedJob, Evidence, Job};
use shorepass_core::lease::Lease;
use shorepass_core::ledger::Revision;

use crate::copy;
use crate::error::OpenError;
use crate::files;
use crate::manifest::{Before, EVERY, Manifest};
use crate::opening::{Beside, Opened, Opening, moment};
use crate::place::Place;
use crate::plan;
use crate::records::Records;
use crate::rows;
use crate::tables::Writes;

/// What happens when neither audit file nor copy has the security state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecurityLoss {
    /// The ledger opens and tells it; who asks refuses whatever was made before.
    Told,
    /// Nothing is done.
    Refused,
    /// An operator accepts it, and any that was told before.
    Accepted,
}

/// What there is to make records of.
struct Sources {
    audit: Audit,
    /// Why the copy is of no use; none if it is whole.
    copy: Option<String>,
}

/// How much of the audit file there is.
enum Audit {
    /// Lines from the first one on.
    Whole {
        /// Whether it is known that there were no more.
        ended: bool,
    },
    /// The lines from that one on.
    From(u64),
    /// Nothing that can be used; why.
    Unusable(String),
}

/// Makes the records anew, because of `cause`.
pub(crate) fn make(
    opening: &Opening,
    mut beside: Beside,
    cause: &str,
    loss: SecurityLoss,
) -> Result<Opened, OpenError> {
    let sources = Sources::look(&mut beside)?;
    let known = beside.known()?;
    let before = beside.manifest.manifest();
    let problem = sources.security_problem();
    if let (Some(problem), SecurityLoss::Refused) = (&problem, loss) {
        return Err(OpenError::SecurityLost { problem: problem.clone(), restorable: true });
    }
    let now = moment(opening.clock.as_ref());
    let told_before = before.and_then(|manifest| manifest.lost);
    let mut manifest = before.cloned().unwrap_or_else(|| Manifest::generate(opening.entropy.as_ref()));
    manifest.generation += u64::from(before.is_some());
    manifest.sequence = known;
    manifest.lost = match loss {
        SecurityLoss::Accepted => None,
        SecurityLoss::Told | SecurityLoss::Refused => told_before.or(problem.is_some().then_some(now)),
    };
    manifest.before = match manifest.lost {
        None => None,
        Some(_) if problem.is_none() => manifest.before,
        Some(_) => ended(opening, &beside)?,
    };
    // With no line that is known of, the mark must still say that these records are not a new ledger's.
    manifest.sequence = manifest.sequence.max(1);
    opening.write_manifest(&manifest)?;
    let aside = move_aside(opening, &now.to_string())?;
    let mut opened = fill(opening, beside, manifest, &sources)?;
    let alarm = sources.tell(cause, aside.as_deref(), &now.to_string());
    tracing::error!(alarm, "the records were made anew");
    if let Some(Err(error)) = aside.as_ref().map(|aside| Place::tell_of(Path::new(aside), &alarm)) {
        tracing::warn!(%error, "the next start cannot repeat what came back");
    }
    opened.alarm = Some(alarm);
    Ok(opened)
}

/// How a ledger had ended whose security state is lost now; none if that is not known.
fn ended(opening: &Opening, beside: &Beside) -> Result<Option<Before>, OpenError> {
    let Some(manifest) = beside.manifest.manifest() else { return Ok(None) };
    if manifest.lost.is_some() {
        // An attempt that is repeated; or it was lost once more, and what was recorded in between is lost, too.
        let note = opening.place.making();
        let again = opening.place.unfinished().map_err(|source| OpenError::file(&note, source))?.is_some();
        return Ok(manifest.before.filter(|_| again));
    }
    let ended = manifest.clean && beside.audit.last() <= manifest.sequence;
    Ok(ended.then_some(Before { sequence: manifest.sequence, security: manifest.security }))
}

/// Moves the records' directory aside, if there is one, or removes it, if it is what an attempt before has left; gives the
/// name that the old ones have.
fn move_aside(opening: &Opening, now: &str) -> Result<Option<String>, OpenError> {
    let (place, from, note) = (&opening.place, opening.place.records(), opening.place.making());
    let to = match place.unfinished().map_err(|source| OpenError::file(&note, source))? {
        Some(to) if to.exists() => {
            let removed = opening.disk.step("remove unfinished records").and_then(|()| remove(&from));
            removed.map_err(|source| OpenError::file(&from, source))?;
            return Ok(Some(to.display().to_string()));
        }
        Some(to) => to,
        None => {
            let to = place.aside(&now.replace(':', ""));
            let name = to.file_name().unwrap_or_default();
            files::replace(opening.disk.as_ref(), &note, name.as_encoded_bytes())
                .map_err(|source| OpenError::file(&note, source))?;
            to
        }
    };
    let moved = opening.disk.step("move the records aside").and_then(|()| std::fs::rename(&from, &to));
    match moved {
        Ok(()) => {
            files::sync_parent(&to).map_err(|source| OpenError::file(&to, source))?;
            Ok(Some(to.display().to_string()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::file(&from, source)),
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn fill(
    opening: &Opening,
    beside: Beside,
    mut manifest: Manifest,
    sources: &Sources,
) -> Result<Opened, OpenError> {
    let Beside { manifest: _, audit, copy } = beside;
    let records = Records::open(&opening.place.records())?;
    let replayed = match sources.audit {
        Audit::Whole { .. } => opening.replay(&records, &audit, 0)?,
        Audit::From(first) => opening.replay(&records, &audit, first - 1)?,
        Audit::Unusable(_) => 0,
    };
    let held = opening.merge(&records, copy, manifest.lost.map_or(0, |_| manifest.security))?;
    opening.write(&records, records.read(missing_jobs)?)?;
    let copied = held.map_or(0, |held| held.sequence);
    let mut sequence = replayed.max(manifest.sequence).max(copied);
    if audit.last() < sequence {
        // Lines that nobody has any more may have had the numbers after the last one that is known.
        sequence += EVERY;
    }
    let mut progress = Writes::default();
    plan::put_progress(sequence, &mut progress);
    opening.write(&records, progress)?;
    let copy = opening.copied(&records, None, &manifest, sequence)?;
    (manifest.sequence, manifest.security, manifest.clean) = (sequence, sequence, false);
    opening.stamp(&records, &manifest)?;
    opening.write_manifest(&manifest)?;
    opening.forget_making()?;
    Ok(Opened { records, audit, copy, manifest, sequence, alarm: None, read: 0 })
}

/// Jobs for leases whose own are gone: they can be listed and ended like others.
fn missing_jobs(view: &dyn crate::tables::View) -> Result<Writes, crate::tables::ReadError> {
    let mut writes = Writes::default();
    for lease in rows::unfinished(view) {
        let lease = lease?;
        // One that was adopted has none.
        if let (Some(job), Some(owner)) = (lease.job, lease.owner.known())
            && rows::job(view, job)?.is_none()
        {
            plan::put(&unknown_job(job, owner, &lease), &mut writes);
        }
    }
    Ok(writes)
}

fn unknown_job(id: JobId, owner: &Owner, lease: &Lease) -> Job {
    let evidence = AssertedJob::new("unknown".to_owned(), "lost-with-the-records".to_owned(), String::new());
    Job {
        id,
        owner: owner.clone(),
        evidence: Evidence::Asserted(evidence.expect("these words are within the bounds of an asserted job")),
        started: lease.created,
        latest_end: Some(lease.deadline),
        ended: None,
        revision: Revision::FIRST,
    }
}

/// Why the audit file does not give everything back by itself; none if it does.
pub(crate) fn audit_problem(beside: &mut Beside) -> Result<Option<String>, OpenError> {
    let sources = Sources::look(beside)?;
    Ok(match &sources.audit {
        Audit::Whole { .. } => sources.security_problem(),
        Audit::From(first) => Some(format!("the audit file begins with line {first}")),
        Audit::Unusable(problem) => Some(problem.clone()),
    })
}

impl Sources {
    fn look(beside: &mut Beside) -> Result<Self, OpenError> {
        let marked = beside.marked();
        let audit = match read_audit(beside) {
            Ok(Some(1)) if beside.audit.last() >= marked => {
                Audit::Whole { ended: beside.manifest.manifest().is_some_and(|manifest| manifest.clean) }
            }
            Ok(Some(1)) => Audit::Unusable(format!(
                "the audit file ends with line {} and had line {marked} once",
                beside.audit.last()
            )),
            Ok(Some(first)) => Audit::From(first),
            Ok(None) => Audit::Unusable("the audit file is empty".to_owned()),
            Err(problem) => Audit::Unusable(problem),
        };
        let copy = copy_problem(beside, &audit)?;
        Ok(Self { audit, copy })
    }

    /// Why the security state cannot be had; none if it can.
    fn security_problem(&self) -> Option<String> {
        let copy = self.copy.as_ref()?;
        match &self.audit {
            Audit::Whole { ended: true } => None,
            Audit::Whole { ended: false } => {
                Some(format!("the audit file may have lost lines at its end, and {copy}"))
            }
            Audit::From(first) => Some(format!("the audit file begins with line {first}, and {copy}")),
            Audit::Unusable(problem) => Some(format!("{problem}, and {copy}")),
        }
    }

    fn tell(&self, cause: &str, aside: Option<&str>, now: &str) -> String {
        let aside = aside.map(|aside| format!(", are in {aside}")).unwrap_or_default();
        let leases = match &self.audit {
            Audit::Whole { .. } => "all of them came back from the audit file".to_owned(),
            Audit::From(first) => format!("leases from before line {first} of the audit file are missing"),
            Audit::Unusable(problem) => format!("leases of before are missing, because {problem}"),
        };
        let security = match self.security_problem() {
            None => "no security state is missing".to_owned(),
            Some(problem) => format!("security state is missing, because {problem}"),
        };
        format!(
            "the records were lost at {now}{aside} and were made anew: {leases}; {security} (cause: {cause})"
        )
    }
}

/// The number of the first line of an audit file of which every line can be read.
fn read_audit(beside: &mut Beside) -> Result<Option<u64>, String> {
    let marked = beside.marked();
    let audit = &mut beside.audit;
    let read = |audit: &mut crate::audit::AuditFile| {
        let Some(first) = audit.first()? else { return Ok(None) };
        let before = first.saturating_sub(1);
        audit.settle(before, marked)?;
        for entry in audit.entries_after(before)? {
            entry?;
        }
        Ok(Some(first))
    };
    read(audit).map_err(|error: crate::audit::AuditError| error.to_string())
}

/// Why the copy is of no use by itself, or together with the audit lines after it.
fn copy_problem(beside: &Beside, audit: &Audit) -> Result<Option<String>, OpenError> {
    let manifest = beside.manifest.manifest();
    let contents = match &beside.copy {
        copy::Found::Nothing => return Ok(Some("there is no second copy".to_owned())),
        copy::Found::Damaged(problem) => return Ok(Some(format!("its second copy is damaged ({problem})"))),
        copy::Found::Read(contents) => contents,
    };
    if contents.ledger.is_none() {
        return Ok(Some("its second copy is empty".to_owned()));
    }
    if let Some(manifest) = manifest {
        if contents.ledger.as_deref() != Some(manifest.id.as_slice()) {
            return Ok(Some("its second copy is another ledger's".to_owned()));
        }
        if contents.sequence < manifest.security {
            return Ok(Some("its second copy was cut short".to_owned()));
        }
    }
    let next = contents.sequence + 1;
    let goes_on = match audit {
        Audit::Whole { .. } | Audit::From(_) => beside.audit.spans(next, next)?,
        Audit::Unusable(_) => false,
    };
    // What the MANIFEST marks of it is in the copy; lines after both that are nowhere may have had more.
    let (marked, first) = (beside.marked(), beside.audit.first()?);
    let had = contents.sequence.max(marked);
    if let Some(first) = first.filter(|first| *first > had + 1) {
        return Ok(Some(format!(
            "its second copy is known to be whole up to line {had}, and lines {} to {} are nowhere",
            had + 1,
            first - 1
        )));
    }
    if contents.torn && !goes_on {
        return Ok(Some("the end of its second copy is damaged".to_owned()));
    }
    Ok(None)
}
