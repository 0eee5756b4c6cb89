//! Reads every record, every audit line and the copy, and says what is damaged where.
//!
//! The database is looked at in a copy of its directory: opening it may change it, and what is damaged should stay as it is
//! until somebody decides. So there must be room for the records once more.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Offline;
use crate::audit::AuditFile;
use crate::copy;
use crate::error::OpenError;
use crate::manifest::{Found, Manifest};
use crate::opening::Patience;
use crate::plan;
use crate::records::Records;
use crate::rows;
use crate::tables::{Table, View};

/// How many problems are told one by one.
const TOLD: usize = 100;

/// What was read and what is wrong with it.
#[derive(Debug, Default)]
pub struct Report {
    /// What there is.
    pub facts: Vec<String>,
    /// What is wrong with the records.
    pub records: Vec<String>,
    /// What is wrong with the files beside them.
    pub others: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.records.is_empty() && self.others.is_empty()
    }
}

impl Offline {
    /// Reads everything; changes nothing.
    pub fn verify(&self) -> Result<Report, OpenError> {
        let mut report = Report::default();
        let place = &self.opening.place;
        let marked = match Manifest::read(&place.manifest())? {
            Found::Whole(manifest) => {
                report.facts.push(format!(
                    "MANIFEST: records of generation {}, in them audit line {}",
                    manifest.generation, manifest.sequence
                ));
                if let Some(lost) = manifest.lost {
                    report
                        .others
                        .push(format!("security state was found lost at {lost}, and that was not accepted"));
                }
                manifest.sequence
            }
            Found::Nothing => {
                report.facts.push("MANIFEST: there is none".to_owned());
                0
            }
            Found::Damaged(problem) => {
                report.others.push(format!("MANIFEST: {problem}"));
                0
            }
        };
        let path = place.audit();
        let audit = if path.exists() { Some(AuditFile::open(&path)?) } else { None };
        let last = self.verify_audit(&mut report, audit.as_ref())?;
        let copied = self.verify_copy(&mut report)?;
        let records = self.verify_records(&mut report, marked, last, copied.as_ref())?;
        if let Some(audit) = audit {
            verify_ends(&mut report, &audit, marked, records, copied.as_ref());
        }
        Ok(report)
    }

    /// Gives the first and last line.
    fn verify_audit(
        &self,
        report: &mut Report,
        audit: Option<&AuditFile>,
    ) -> Result<Option<(u64, u64)>, OpenError> {
        let Some(audit) = audit else {
            report.facts.push("audit.jsonl: there is none".to_owned());
            return Ok(None);
        };
        if audit.is_ragged() {
            report.facts.push("audit.jsonl: its last line is not whole".to_owned());
        }
        let Some(first) = audit.first()? else { return Ok(None) };
        let mut patience = Patience::new(self.opening.clock.as_ref());
        let mut last = first.saturating_sub(1);
        for entry in audit.entries_after(last)? {
            match entry {
                Ok(entry) => last = entry.sequence,
                Err(error) => {
                    report.others.push(error.to_string());
                    break;
                }
            }
            patience.tell("audit lines read", last);
        }
        report.facts.push(format!("audit.jsonl: lines {first} to {last}"));
        Ok(Some((first, last)))
    }

    fn verify_copy(&self, report: &mut Report) -> Result<Option<copy::Contents>, OpenError> {
        match copy::read(&self.opening.place.copy())? {
            copy::Found::Nothing => report.others.push("security.log: there is none".to_owned()),
            copy::Found::Damaged(problem) => report.others.push(format!("security.log: {problem}")),
            copy::Found::Read(contents) => {
                report.facts.push(format!(
                    "security.log: {} rows, up to audit line {}",
                    contents.rows.len(),
                    contents.sequence
                ));
                if contents.torn {
                    report.facts.push("security.log: its end is not whole, as a crash leaves it".to_owned());
                }
                return Ok(Some(contents));
            }
        }
        Ok(None)
    }

    fn verify_records(
        &self,
        report: &mut Report,
        marked: u64,
        audit: Option<(u64, u64)>,
        copied: Option<&copy::Contents>,
    ) -> Result<Option<u64>, OpenError> {
        let (from, to) = (self.opening.place.records(), self.opening.place.directory().join("ledger.verify"));
        if !from.exists() {
            report.records.push("ledger: there is none".to_owned());
            return Ok(None);
        }
        copy_directory(&from, &to).map_err(|source| OpenError::file(&to, source))?;
        let read = Records::open(&to).and_then(|records| {
            let progress = records.read(|view| rows::progress(view))?;
            let problems = records.read(|view| Ok(self.problems(view, report)))?;
            Ok((progress, problems, records.read(copy::rows_of)?))
        });
        fs::remove_dir_all(&to).map_err(|source| OpenError::file(&to, source))?;
        let (progress, problems, security) = match read {
            Ok(read) => read,
            Err(error) if error.loses_records() => {
                report.records.push(error.to_string().replace("ledger.verify", "ledger"));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        report.records.extend(problems);
        report.facts.push(format!("ledger: up to audit line {progress}"));
        if progress < marked {
            let filled = match audit {
                Some((first, last)) if first <= progress + 1 && marked <= last => {
                    "which the audit file still has"
                }
                Some(_) | None => "which the audit file has not",
            };
            report.records.push(format!(
                "ledger: it was cut short: it ends with line {progress}, and had lines to {marked}, {filled}"
            ));
        }
        let differs = |held: &copy::Contents| held.rows != security && held.sequence <= progress;
        if copied.is_some_and(differs) {
            report.others.push("security.log: it differs from the records".to_owned());
        }
        Ok(Some(progress))
    }

    fn problems(&self, view: &dyn View, report: &mut Report) -> Vec<String> {
        let mut patience = Patience::new(self.opening.clock.as_ref());
        let (mut problems, mut read) = (Vec::new(), 0_u64);
        for table in Table::ALL {
            for entry in view.newest_first(table, &[], None) {
                let (key, value) = match entry {
                    Ok(entry) => entry,
                    // It is the last that comes of the table.
                    Err(error) => {
                        problems.push(format!("ledger: the rest of table {table:?} cannot be read: {error}"));
                        continue;
                    }
                };
                let whole_key = table.key(&key);
                read += 1;
                let checked = rows::check(&whole_key, &value)
                    .and_then(|()| rows::check_index(view, table, &key))
                    .and_then(|()| plan::unindexed(view, &whole_key, &value));
                match checked {
                    Ok(wrong) if wrong.is_empty() => {}
                    Ok(_) => {
                        problems.push(format!("ledger: a record in table {table:?} is not in its indices"))
                    }
                    Err(error) => problems.push(format!("ledger: {error}")),
                }
                patience.tell("records read", read);
            }
        }
        if problems.len() > TOLD {
            let more = problems.len() - TOLD;
            problems.truncate(TOLD);
            problems.push(format!("ledger: and {more} more"));
        }
        report.facts.push(format!("ledger: {read} records"));
        problems
    }
}

/// Whether the files go as far as they should: `records` is the last audit line in the records, if they can be read.
fn verify_ends(
    report: &mut Report,
    audit: &AuditFile,
    marked: u64,
    records: Option<u64>,
    copied: Option<&copy::Contents>,
) {
    let (records, copied) = (records.unwrap_or(marked), copied.map_or(0, |copied| copied.sequence));
    match audit.finished(records, marked.max(copied)) {
        Ok((_, last)) if (1..records.max(marked)).contains(&last) => report.others.push(format!(
            "audit.jsonl: it ends with line {last}, and the records have had lines to {}",
            records.max(marked)
        )),
        Ok((_, last)) if last.max(records) < copied => report.others.push(format!(
            "security.log: it goes to line {copied}, which neither audit.jsonl nor the records have"
        )),
        Ok(_) => {}
        // Reading all lines may have told it already.
        Err(damage) if report.others.contains(&damage.to_string()) => {}
        Err(damage) => report.others.push(damage.to_string()),
    }
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
