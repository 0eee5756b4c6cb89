//! The files that the rules look at.
//!
//! What is there, and not what git knows: a checkout without git is checked too, and a new file before it is added.
//! Left out are what cargo and git keep for themselves and the hidden folders of editors.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::code;

/// The hidden folders that are ours.
const HIDDEN: [&str; 2] = [".cargo", ".ci"];

/// A text file.
pub(super) struct File {
    /// From the root, with `/`.
    pub(super) path: String,
    /// What is in it.
    pub(super) text: String,
    /// Rust without comments and strings, of the same length; empty for other files.
    pub(super) code: String,
    /// `code` without what is only compiled for tests.
    pub(super) production: String,
}

impl File {
    fn new(path: String, text: String) -> Self {
        let code = if path.ends_with(".rs") { code::bare(&text) } else { String::new() };
        let production = if is_test(&path) { String::new() } else { code::without_tests(&code) };
        Self { path, text, code, production }
    }

    /// Whether it is Rust.
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// Whether nothing in this file ever runs in a daemon.
fn is_test(path: &str) -> bool {
    path.starts_with("integration-tests/")
        || path.starts_with("crates/testing/")
        || path.contains("/tests/")
        || path.ends_with("/tests.rs")
}

/// All of them, by path.
pub(super) struct Tree {
    /// The files.
    pub(super) files: Vec<File>,
}

impl Tree {
    /// Reads the checkout. Files that are not UTF-8 are no text and are left out.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(root, "", &mut files)?;
        files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(Self { files })
    }

    /// The file of that path.
    pub(super) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// A tree for a rule's own test.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self {
            files: files.iter().map(|&(path, text)| File::new(path.to_owned(), text.to_owned())).collect(),
        }
    }
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<File>) -> Result<()> {
    let at = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(at)? {
        let entry = entry.with_context(at)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().with_context(at)?;
        if kind.is_dir() {
            let hidden = name.starts_with('.') && !HIDDEN.contains(&name.as_str());
            if !hidden && !is_cache(&entry.path()) {
                collect(&entry.path(), &format!("{path}/"), files)?;
            }
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(File::new(path, text));
            }
        }
    }
    Ok(())
}

/// Cargo marks its target folder, whatever that is called.
fn is_cache(folder: &Path) -> bool {
    folder.join("CACHEDIR.TAG").exists() || folder.ends_with("target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_tree_has_our_files_and_nothing_built() {
        let tree = Tree::read(&crate::paths::root()).unwrap();
        assert!(
            tree.file("crates/core/src/policy.rs").is_some_and(|file| file.production.contains("fn decide"))
        );
        assert!(tree.file(".ci/run").is_some());
        assert!(!tree.files.iter().any(|file| file.path.starts_with("target/")));
        assert!(!tree.files.iter().any(|file| file.path.starts_with(".git/")));
    }
}
