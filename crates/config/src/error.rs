//! What is wrong with a document, where, and the line with a caret under it.
//!
//! A person may have pasted a join token or a key where a path belongs. What looks like one is masked in every text
//! that is shown, because these errors end in logs.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::PathBuf;

/// Columns of a long line that are shown around the caret.
const EXCERPT_WIDTH: usize = 110;
/// Characters of a problem's text that are shown; a value from the document may be part of it.
const PROBLEM_LENGTH: usize = 600;
/// A run of at least so many characters, mixed as random text is, counts as a secret.
const SECRET_LENGTH: usize = 40;

/// One reason why a file is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file or directory cannot be read.
    #[error("{} cannot be read", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file is not a file, too large, or not text.
    #[error("{}: {problem}", file.display())]
    Unfit {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something in the document is wrong.
    #[error(transparent)]
    Fault(Box<Fault>),
}

/// Something wrong at one place of a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {}{problem}{excerpt}", file.display(), Prefix(path))]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The path in the document, such as `spec.listen.api`; empty where there is none.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
    excerpt: Excerpt,
}

/// Everything that is wrong, in the order of the text; never empty.
#[derive(Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub(crate) fn new(errors: Vec<ConfigError>) -> Self {
        Self(errors)
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl From<ConfigErrors> for Vec<ConfigError> {
    fn from(errors: ConfigErrors) -> Self {
        errors.0
    }
}

impl Deref for ConfigErrors {
    type Target = [ConfigError];

    fn deref(&self) -> &[ConfigError] {
        &self.0
    }
}

impl IntoIterator for ConfigErrors {
    type Item = ConfigError;
    type IntoIter = std::vec::IntoIter<ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for ConfigErrors {
    /// All of them with their causes, for a person at a terminal; that is why the causes are not sources here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
            if let ConfigError::Unreadable { cause, .. } = error {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// How many characters, at least 1.
    pub(crate) width: usize,
}

impl Fault {
    /// `source` is the line that `at` names, if there is one.
    pub(crate) fn new(file: PathBuf, at: At, path: &str, problem: &str, source: Option<&str>) -> Self {
        Self {
            file,
            line: at.line,
            column: at.column,
            path: path.to_owned(),
            problem: shorten(&mask(problem)),
            excerpt: source.map_or_else(Excerpt::default, |source| Excerpt::of(source, at)),
        }
    }
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

/// A line of the text and where in it the caret stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Excerpt(Option<Shown>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    number: usize,
    text: String,
    indent: usize,
    carets: usize,
}

impl Excerpt {
    fn of(source: &str, at: At) -> Self {
        let masked: Vec<char> = mask(source).chars().map(visible).collect();
        let caret = (at.column - 1).min(masked.len());
        let start = if masked.len() > EXCERPT_WIDTH { caret.saturating_sub(EXCERPT_WIDTH / 2) } else { 0 };
        let text: String = masked.iter().skip(start).take(EXCERPT_WIDTH).collect();
        let indent = caret - start;
        let carets = at.width.min(text.chars().count().saturating_sub(indent)).max(1);
        Self(Some(Shown { number: at.line, text: text.trim_end().to_owned(), indent, carets }))
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Shown { number, text, indent, carets }) = &self.0 else {
            return Ok(());
        };
        let gutter = number.to_string().len() + 1;
        write!(f, "\n{:gutter$} |\n {number} | {text}\n{:gutter$} | {:indent$}{:^<carets$}", "", "", "", "")
    }
}

/// Nothing that moves the cursor or turns the direction of a terminal's text.
fn visible(character: char) -> char {
    match character {
        '\t' => ' ',
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
            '\u{fffd}'
        }
        control if control.is_control() => '\u{fffd}',
        other => other,
    }
}

/// Stars for what looks like a token or a key, one for each character, so that columns stay.
pub(crate) fn mask(text: &str) -> String {
    let in_secret = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-' | '.');
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let run = rest.find(|c| !in_secret(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(run);
        match looks_secret(word) {
            true => masked.extend(std::iter::repeat_n('*', word.len())),
            false => masked.push_str(word),
        }
        let next = tail.find(in_secret).unwrap_or(tail.len());
        masked.push_str(&tail[..next]);
        rest = &tail[next..];
    }
    masked
}

fn looks_secret(word: &str) -> bool {
    word.len() >= SECRET_LENGTH
        && word.bytes().any(|byte| byte.is_ascii_lowercase())
        && word.bytes().any(|byte| byte.is_ascii_uppercase())
        && word.bytes().any(|byte| byte.is_ascii_digit())
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(PROBLEM_LENGTH) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(source: &str, column: usize, width: usize) -> String {
        let at = At { line: 12, column, width };
        Fault::new(PathBuf::from("a.yaml"), at, "spec.x", "is wrong", Some(source)).to_string()
    }

    #[test]
    fn a_fault_shows_its_line_with_a_caret() {
        let expected = "a.yaml:12:3: spec.x: is wrong\n    |\n 12 |   nmae: x\n    |   ^^^^";
        assert_eq!(show("  nmae: x", 3, 4), expected);
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("{}here{}", " ".repeat(5_000), "x".repeat(5_000));
        let shown = show(&line, 5_001, 4);
        assert!(shown.contains("herexxx") && shown.ends_with("  ^^^^"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() < 130), "{shown}");
    }

    #[test]
    fn secrets_are_masked_and_columns_stay() {
        let secret = format!("spjt1.{}", "Ab3".repeat(20));
        let shown = show(&format!("  token: {secret} x"), 3, 5);
        assert!(!shown.contains("Ab3") && shown.contains("***** x\n"), "{shown}");
        assert!(show("  path: /var/lib/shorepass/issuer/state/directory", 3, 4).contains("/state/directory"));
    }

    #[test]
    fn a_line_cannot_drive_the_terminal() {
        let shown = show("a: \u{1b}[2J\u{202e}x", 1, 1);
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown:?}");
    }

    #[test]
    fn a_place_behind_the_line_does_not_panic() {
        assert!(show("ab", 900, 900).ends_with("|   ^"));
        assert!(show("", 1, 1).ends_with("| ^"));
    }
}
