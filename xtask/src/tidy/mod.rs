//! `cargo xtask tidy`: the rules of the house that neither rustc nor clippy knows.
//!
//! Each rule is a module with its table on top and, below it, the example that it must refuse. The rules run on the
//! real tree as a test of this package, too.
//!
//! The questionable decision: rules look at text (without comments and strings) and not at a syntax tree. They are
//! for people who forget, and not for people who hide; a macro can get around them, a reviewer sees it.

mod call_sites;
mod code;
mod crates;
mod reasons;
mod secrets;
mod size;
mod tree;
mod words;

use std::fmt;

use anyhow::{Result, bail};

use crate::{cargo, paths};
use tree::Tree;

/// Something that is against a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    path: String,
    /// None where it is about the whole file.
    line: Option<usize>,
    what: String,
}

impl Problem {
    fn new(path: impl Into<String>, line: impl Into<Option<usize>>, what: impl Into<String>) -> Self {
        Self { path: path.into(), line: line.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.what),
            None => write!(f, "{}: {}", self.path, self.what),
        }
    }
}

/// Checks the checkout; an error if a rule is broken, after all problems are printed.
pub(crate) fn run() -> Result<()> {
    let problems = problems()?;
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    match problems.len() {
        0 => Ok(()),
        1 => bail!("1 rule is broken"),
        many => bail!("rules are broken in {many} places"),
    }
}

fn problems() -> Result<Vec<Problem>> {
    let tree = Tree::read(&paths::root())?;
    let mut problems = crates::check(&cargo::packages()?);
    problems.extend(crates::check_linked(|package| cargo::ask(&crates::tree_arguments(package)))?);
    for rule in [call_sites::check, secrets::check, size::check, words::check, reasons::check] {
        problems.extend(rule(&tree));
    }
    problems.sort();
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let problems = problems().unwrap();
        let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
    }
}
