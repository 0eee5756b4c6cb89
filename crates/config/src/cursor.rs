//! Reading typed values out of a tree, and collecting everything that is wrong on the way.
//!
//! A reader that fails has reported why and returns `None`; its caller goes on with the other fields, so that one run
//! shows all problems. Whoever starts a reading asks [`Report::finish`] at the end: a value counts only if nothing was
//! reported, which is why an optional field may answer `None` for "absent" and for "wrong" alike.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shorepass_core::name::Name;

use crate::error::{At, ConfigError, ConfigErrors, Fault, mask};
use crate::scalar::{parse_duration, spell_duration};
use crate::yaml::{Entry, Node, Value};

/// How many problems of one file are told.
const FAULT_LIMIT: usize = 50;

/// The text being read and what was found wrong with it.
pub(crate) struct Report<'a> {
    file: &'a Path,
    lines: Vec<&'a str>,
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, lines: text.lines().collect(), faults: RefCell::default(), warnings: RefCell::default() }
    }

    pub(crate) fn fault(&self, at: At, path: &str, problem: impl Display) {
        self.note(&self.faults, at, path, problem);
    }

    fn note(&self, faults: &RefCell<Vec<Fault>>, at: At, path: &str, problem: impl Display) {
        let mut faults = faults.borrow_mut();
        if faults.len() < FAULT_LIMIT {
            let source = self.lines.get(at.line - 1).copied();
            faults.push(Fault::new(self.file.to_owned(), at, path, &problem.to_string(), source));
        }
    }

    /// What loads and does not do what it seems to.
    pub(crate) fn take_warnings(&self) -> Vec<Fault> {
        self.warnings.take()
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// The value, if it was read and nothing is wrong.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        let mut faults = self.faults.into_inner();
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            _ => {
                faults.sort_by_key(|fault| (fault.line, fault.column));
                let errors = faults.into_iter().map(|fault| ConfigError::Fault(Box::new(fault)));
                Err(ConfigErrors::new(errors.collect()))
            }
        }
    }

    fn base(&self) -> PathBuf {
        let file = std::path::absolute(self.file).unwrap_or_else(|_| self.file.to_owned());
        file.parent().map_or_else(PathBuf::new, Path::to_owned)
    }
}

/// One value of the document and the way there.
pub(crate) struct Cursor<'a> {
    report: &'a Report<'a>,
    path: String,
    label: At,
    node: &'a Node,
}

impl<'a> Cursor<'a> {
    pub(crate) fn root(report: &'a Report<'a>, node: &'a Node) -> Self {
        Self { report, path: String::new(), label: node.at, node }
    }

    /// Reports a problem with this value; `None`, so that a reader can end with it.
    pub(crate) fn fault<T>(&self, problem: impl Display) -> Option<T> {
        self.report.fault(self.node.at, &self.path, problem);
        None
    }

    /// File name and line, for messages about other values: those stand in the same file or in one beside it.
    pub(crate) fn place(&self) -> String {
        let file = self.report.file.file_name().unwrap_or(self.report.file.as_os_str());
        format!("{}:{}", file.display(), self.node.at.line)
    }

    /// Reports a problem with the field below this one, or with its nearest ancestor that is there.
    pub(crate) fn fault_below<T>(&self, field: &str, problem: impl Display) -> Option<T> {
        self.report.fault(self.place_below(field), &join(&self.path, field), problem);
        None
    }

    /// Warns of the field below this one. The document loads all the same.
    pub(crate) fn warn_below(&self, field: &str, problem: impl Display) {
        self.report.note(&self.report.warnings, self.place_below(field), &join(&self.path, field), problem);
    }

    fn place_below(&self, field: &str) -> At {
        let mut at = self.label;
        let mut node = self.node;
        for part in field.split('.') {
            let Value::Map(entries) = &node.value else { break };
            let Some(entry) = entries.iter().find(|entry| entry.key == part) else { break };
            (at, node) = (entry.key_at, &entry.node);
        }
        at
    }

    /// Those of the value's keys that are named, and no word about the others: [`Self::fields`] comes after it.
    pub(crate) fn heading(&self, known: &'static [&'static str]) -> Option<Fields<'a>> {
        let entries = self.entries(known)?;
        let found = known.iter().filter_map(|key| entries.iter().find(|entry| entry.key == *key));
        let found = found.map(|entry| (entry.key.as_str(), entry)).collect();
        Some(Fields { report: self.report, path: self.path.clone(), label: self.label, known, found })
    }

    /// The value's keys; repeated and unknown ones are reported.
    pub(crate) fn fields(&self, known: &'static [&'static str]) -> Option<Fields<'a>> {
        #[cfg(test)]
        crate::role::schema::note(&self.path, known);
        let entries = self.entries(known)?;
        let mut found: BTreeMap<&str, &Entry> = BTreeMap::new();
        for entry in entries {
            let path = join(&self.path, &entry.key);
            if let Some(first) = found.get(entry.key.as_str()) {
                let line = first.key_at.line;
                self.report.fault(
                    entry.key_at,
                    &path,
                    format!("the key stands here twice, first in line {line}"),
                );
                continue;
            }
            if !known.contains(&entry.key.as_str()) {
                self.report.fault(entry.key_at, &path, unknown_key(&entry.key, known));
            }
            found.insert(&entry.key, entry);
        }
        Some(Fields { report: self.report, path: self.path.clone(), label: self.label, known, found })
    }

    /// All keys with their values, whatever they are called; repeated ones too.
    pub(crate) fn pairs(&self, what: &str) -> Option<Vec<(&'a str, Cursor<'a>)>> {
        let Value::Map(entries) = &self.node.value else { return self.unexpected(what) };
        let pair = |entry: &'a Entry| {
            let path = join(&self.path, &entry.key);
            (entry.key.as_str(), Cursor { report: self.report, path, label: entry.key_at, node: &entry.node })
        };
        Some(entries.iter().map(pair).collect())
    }

    /// Whether it is a list.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// Whether it is text in quotes, which can be nothing but text.
    pub(crate) fn is_quoted(&self) -> bool {
        matches!(self.node.value, Value::Scalar { quoted: true, .. })
    }

    /// The items, each read by `read`.
    pub(crate) fn list<T>(&self, read: impl Fn(&Cursor<'a>) -> Option<T>) -> Option<Vec<T>> {
        let Value::List(items) = &self.node.value else {
            return self.unexpected("a list");
        };
        let read_item = |(index, node): (usize, &'a Node)| {
            let path = format!("{}[{index}]", self.path);
            read(&Cursor { report: self.report, path, label: node.at, node })
        };
        let read_items: Vec<Option<T>> = items.iter().enumerate().map(read_item).collect();
        read_items.into_iter().collect()
    }

    /// As [`Self::list`]; an empty one is refused.
    pub(crate) fn some<T>(&self, what: &str, read: impl Fn(&Cursor<'a>) -> Option<T>) -> Option<Vec<T>> {
        let items = self.list(read)?;
        if items.is_empty() { self.fault(format!("name at least one {what}")) } else { Some(items) }
    }

    /// As [`Self::some`], of items that are apart: of two that clash, the second is told the problem.
    pub(crate) fn some_apart<T: Clone>(
        &self,
        what: &str,
        read: impl Fn(&Cursor<'a>) -> Option<T>,
        clash: impl Fn(&T, &T) -> bool,
        problem: &str,
    ) -> Option<Vec<T>> {
        let seen = RefCell::new(Vec::<T>::new());
        self.some(what, |item| {
            let read = read(item)?;
            if seen.borrow().iter().any(|earlier| clash(earlier, &read)) {
                return item.fault(problem);
            }
            seen.borrow_mut().push(read.clone());
            Some(read)
        })
    }

    /// The text, not empty.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.node.value.is_nothing() && !text.is_empty() => Some(text),
            _ => self.unexpected("text"),
        }
    }

    /// Whether it is a text without a letter, in quotes.
    pub(crate) fn is_empty_text(&self) -> bool {
        matches!(&self.node.value, Value::Scalar { text, quoted: true } if text.is_empty())
    }

    /// The text, parsed.
    pub(crate) fn parsed<T, E: Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match parse(self.text()?) {
            Ok(value) => Some(value),
            Err(problem) => self.fault(problem),
        }
    }

    pub(crate) fn name(&self) -> Option<Name> {
        self.parsed(Name::parse)
    }

    pub(crate) fn duration(&self) -> Option<Duration> {
        self.parsed(parse_duration)
    }

    pub(crate) fn duration_within(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = self.duration()?;
        if range.contains(&duration) {
            return Some(duration);
        }
        let (least, most) = (spell_duration(*range.start()), spell_duration(*range.end()));
        self.fault(format!("{} is out of bounds: write {least} to {most}", spell_duration(duration)))
    }

    pub(crate) fn number(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let bounds = format!("a whole number from {} to {}", range.start(), range.end());
        let text = match &self.node.value {
            Value::Scalar { text, quoted: false } if !self.node.value.is_nothing() => text,
            _ => return self.unexpected(&format!("{bounds}, without quotes")),
        };
        // Signs and leading zeros are left out: to some readers of YAML 010 is eight.
        let decimal =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        match text.parse() {
            Ok(number) if decimal && range.contains(&number) => Some(number),
            _ => self.fault(format!("{text:?} is not {bounds}")),
        }
    }

    pub(crate) fn count(&self, most: u32) -> Option<NonZeroU32> {
        self.number(1..=most).and_then(NonZeroU32::new)
    }

    pub(crate) fn socket_address(&self) -> Option<SocketAddr> {
        self.parsed(|text| {
            text.parse().map_err(|_| {
                format!("{text:?} is not an address with a port, such as 0.0.0.0:8443 or [::]:8443")
            })
        })
    }

    /// A path; a relative one begins at the folder of the file being read.
    pub(crate) fn file_path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.starts_with("spjt1.") {
            return self.fault(
                "this is a join token: write it into a file that only the agent can read, and its path here",
            );
        }
        if text.starts_with('~') {
            return self.fault("'~' is not expanded here: write the whole path");
        }
        if text.chars().any(char::is_control) {
            return self.fault("a path has no line breaks or control characters");
        }
        Some(self.report.base().join(text))
    }

    fn entries(&self, known: &[&str]) -> Option<&'a [Entry]> {
        match &self.node.value {
            Value::Map(entries) => Some(entries),
            Value::Scalar { .. } | Value::List(_) => {
                self.unexpected(&format!("the keys {}", known.join(", ")))
            }
        }
    }

    fn unexpected<T>(&self, expected: &str) -> Option<T> {
        let found = match &self.node.value {
            nothing if nothing.is_nothing() => "nothing",
            Value::Scalar { text, .. } if text.is_empty() => "empty text",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "keys and values",
        };
        self.report.fault(self.label, &self.path, format!("expected {expected}, found {found}"));
        None
    }
}

/// The keys of one mapping.
pub(crate) struct Fields<'a> {
    report: &'a Report<'a>,
    path: String,
    label: At,
    known: &'static [&'static str],
    found: BTreeMap<&'a str, &'a Entry>,
}

impl<'a> Fields<'a> {
    /// The field's value; its absence is reported.
    pub(crate) fn required<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Cursor<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.find(key) {
            Some(cursor) => read(&cursor),
            None => {
                self.report.fault(self.label, &join(&self.path, key), "this key is missing");
                None
            }
        }
    }

    /// The field's value, if it is there.
    pub(crate) fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Cursor<'a>) -> Option<T>,
    ) -> Option<T> {
        read(&self.find(key)?)
    }

    /// Whether the field is there, whatever it says.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &'static str) -> Option<Cursor<'a>> {
        debug_assert!(self.known.contains(&key), "{key} is read but not known");
        let entry = self.found.get(key)?;
        let path = join(&self.path, key);
        Some(Cursor { report: self.report, path, label: entry.key_at, node: &entry.node })
    }
}

fn join(path: &str, key: &str) -> String {
    let simple = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.');
    let key = match key.len() <= 30 && !key.is_empty() && key.chars().all(simple) {
        true => key.to_owned(),
        // Masked before it is cut: the beginning of a secret is part of it.
        false => format!("{:?}", mask(key).chars().take(30).collect::<String>()),
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let suggestion =
        closest(key, known).map(|close| format!(", did you mean `{close}`?")).unwrap_or_default();
    format!("unknown key{suggestion} (known here: {})", known.join(", "))
}

/// The candidate that was probably meant: a slip of the pen away, or begun alike.
pub(crate) fn closest<'k>(word: &str, candidates: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let fold = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let word = fold(word);
    let near = |candidate: &&'k str| {
        let folded = fold(candidate);
        let distance = strsim::osa_distance(&word, &folded);
        let begun_alike = word.len() >= 4 && folded.starts_with(&word);
        (distance <= 1 || distance * 3 <= word.len() || begun_alike).then_some((distance, *candidate))
    };
    candidates.iter().filter_map(near).min().map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_was_probably_meant_and_nothing_else() {
        let known = ["trustDomain", "issuer", "listen", "state"];
        for (word, meant) in [
            ("trust_domain", "trustDomain"),
            ("listne", "listen"),
            ("isuer", "issuer"),
            ("trust", "trustDomain"),
        ] {
            assert_eq!(closest(word, &known), Some(meant), "{word}");
        }
        for word in ["x", "endpoints", "", "ä", &"listen".repeat(100)] {
            assert_eq!(closest(word, &known), None, "{word}");
        }
    }

    #[test]
    fn odd_keys_are_quoted_in_paths() {
        assert_eq!(join("spec", "a\u{1b}b"), "spec.\"a\\u{1b}b\"");
        assert_eq!(join("", "kind"), "kind");
    }
}
