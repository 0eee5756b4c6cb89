//! What all documents share: the file, its bounds, `apiVersion` and `kind`.
//!
//! A document of another kind is told apart before its keys are looked at: twenty unknown keys say less than "this is a
//! Role".

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::cursor::{Cursor, Fields, Report};
use crate::error::{At, ConfigError, ConfigErrors};
use crate::yaml::{self, Document};

/// The only version of the documents.
pub(crate) const API_VERSION: &str = "shorepass.dev/v1";
/// The largest file that is read.
const FILE_LIMIT: u64 = 256 * 1024;

/// Reads a file that holds one document of the kind.
pub(crate) fn load<T>(
    file: &Path,
    kind: &'static str,
    read: impl FnOnce(&Cursor<'_>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let text = read_text(file)?;
    parse(file, &text, kind, read)
}

/// As [`load`], of a text; `read` is given `spec`.
pub(crate) fn parse<T>(
    file: &Path,
    text: &str,
    kind: &'static str,
    read: impl FnOnce(&Cursor<'_>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let report = Report::new(file, text);
    let documents = documents(&report, text);
    let value = match documents.as_slice() {
        [] if report.is_clean() => {
            report.fault(
                At { line: 1, column: 1, width: 1 },
                "",
                format!("the file is empty: expected kind {kind}"),
            );
            None
        }
        [] => None,
        [document] => fields(&Cursor::root(&report, &document.root), kind, &["apiVersion", "kind", "spec"])
            .and_then(|fields| fields.required("spec", read)),
        [_, second, ..] => {
            report.fault(second.root.at, "", format!("a second document: a file of kind {kind} holds one"));
            None
        }
    };
    report.finish(value)
}

/// The documents of the text that say something; a flaw is reported.
pub(crate) fn documents<'t>(report: &Report<'_>, text: &'t str) -> Vec<Document<'t>> {
    let (mut documents, flaw) = yaml::parse(text);
    documents.retain(|document| !document.root.value.is_nothing());
    if let Some(flaw) = flaw {
        report.fault(flaw.at, "", flaw.problem);
    }
    documents
}

/// The document's keys, if it is of the kind.
pub(crate) fn fields<'a>(
    root: &Cursor<'a>,
    kind: &str,
    known: &'static [&'static str],
) -> Option<Fields<'a>> {
    let same = |cursor: &Cursor<'_>, expected: &str| match cursor.text()? {
        found if found == expected => Some(()),
        found => cursor.fault(format!("expected {expected}, found {found:?}")),
    };
    let heading = root.heading(&["apiVersion", "kind"])?;
    let version = heading.required("apiVersion", |cursor| same(cursor, API_VERSION));
    let kind = heading.required("kind", |cursor| same(cursor, kind));
    version.and(kind)?;
    root.fields(known)
}

/// The file's text, if it is a file of bounded size.
pub(crate) fn read_text(file: &Path) -> Result<String, ConfigError> {
    let unreadable = |cause: io::Error| ConfigError::Unreadable { file: file.to_owned(), cause };
    let unfit = |problem: String| ConfigError::Unfit { file: file.to_owned(), problem };
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(unfit("not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(FILE_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(unfit(format!("larger than {} KiB: no document needs that", FILE_LIMIT / 1024)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count();
        unfit(format!("line {line} is not UTF-8 text"))
    })
}
