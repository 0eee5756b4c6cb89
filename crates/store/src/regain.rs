//! Security state that was found lost, and files of before the loss that are restored when the issuer has gone on without it.
//!
//! From then on there are new lines, and a new copy under the old one's name; so a file must prove that with it nothing is
//! missing any more. It can be measured only by what the MANIFEST said before the loss, after an orderly stop: the
//! last audit line that there ever was, and the last line of the copy ([`Before`]). Where that is not known, nothing is proof.
//!
//! | file | proof |
//! | --- | --- |
//! | audit file | all lines from the first one ever to the newest, those since the loss among them; the records are made anew from it |
//! | copy | it is this ledger's, has the last line that the copy had then, and ends before the last audit line of then, which no copy that was written since does |
//!
//! A copy that ends with just that last line may be either, and proves nothing. What happened since the loss is in the
//! records; of a row that is in both, theirs is the newer.

use crate::anew;
use crate::copy::{self, Contents};
use crate::error::OpenError;
use crate::manifest::{Before, Manifest};
use crate::opening::Beside;

/// What gives the security state back.
pub(crate) enum Proof {
    /// The audit file, by itself.
    Audit,
    /// The copy, together with the records.
    Copy,
    /// Nothing that is there; why.
    Missing(String),
    /// No file at all; why.
    Impossible(&'static str),
}

impl Proof {
    /// What there is beside records that can be read.
    pub(crate) fn look(beside: &mut Beside) -> Result<Self, OpenError> {
        let Some(manifest) = beside.manifest.manifest().cloned() else {
            return Ok(Self::Impossible("there is no MANIFEST that tells how the ledger had ended"));
        };
        let Some(before) = manifest.before else {
            return Ok(Self::Impossible(
                "before that the issuer had not stopped in order, or there was no MANIFEST, so that nothing tells what a \
                 restored file must have",
            ));
        };
        let Some(audit) = anew::audit_problem(beside)? else { return Ok(Self::Audit) };
        Ok(match copy_problem(&beside.copy, &manifest, before) {
            None => Self::Copy,
            Some(copy) => Self::Missing(format!("{audit}, and {copy}")),
        })
    }
}

fn copy_problem(found: &copy::Found, manifest: &Manifest, before: Before) -> Option<String> {
    let Contents { sequence, ledger, .. } = match found {
        copy::Found::Read(contents) => contents,
        copy::Found::Nothing => return Some("there is no security.log".to_owned()),
        copy::Found::Damaged(problem) => return Some(format!("security.log is damaged ({problem})")),
    };
    if ledger.as_deref() != Some(manifest.id.as_slice()) {
        return Some("security.log is another ledger's".to_owned());
    }
    if *sequence >= before.sequence {
        return Some(format!(
            "security.log, which ends with line {sequence}, may have been written after the loss"
        ));
    }
    if *sequence < before.security {
        let had = before.security;
        return Some(format!("security.log ends with line {sequence} and had line {had} before the loss"));
    }
    (!manifest.clean)
        .then(|| "the issuer has not stopped in order since: start it and stop it first".to_owned())
}
