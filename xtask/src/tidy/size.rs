//! How long things may be.

use super::tree::Tree;
use super::{Problem, code};

/// Lines of a Rust file.
const FILE: usize = 500;

/// Functions that must be read at a glance: file, name, lines.
const FUNCTIONS: &[(&str, &str, usize)] = &[("crates/issuer/src/issue/mod.rs", "issue", 60)];

/// Checks files and functions.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_rust()) {
        let lines = file.text.lines().count();
        if lines > FILE {
            problems.push(Problem::new(&file.path, None, format!("has {lines} lines, more than {FILE}")));
        }
    }
    for (path, name, limit) in FUNCTIONS {
        let bodies = tree.file(path).map(|file| functions(&file.production, name)).unwrap_or_default();
        if bodies.is_empty() {
            problems.push(Problem::new(*path, None, format!("has no function {name}: correct FUNCTIONS")));
        }
        for (line, lines) in bodies.into_iter().filter(|(_, lines)| lines > limit) {
            problems.push(Problem::new(*path, line, format!("{name} has {lines} lines, more than {limit}")));
        }
    }
    problems
}

/// The functions of that name: on which line each begins and how many lines it has.
fn functions(code: &str, name: &str) -> Vec<(usize, usize)> {
    let mut before = ("", 0);
    let mut found = Vec::new();
    for (offset, word) in code::words(code) {
        if before.0 == "fn" && word == name {
            let first = code::line_of(code, before.1);
            let last = code::line_of(code, code::item_end(code, offset) - 1);
            found.push((first, last - first + 1));
        }
        before = (word, offset);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        let problems = check(&Tree::of(&[(path, text)]));
        problems.into_iter().filter(|problem| problem.path == path).map(|problem| problem.what).collect()
    }

    #[test]
    fn a_file_with_one_line_too_many_is_found() {
        assert_eq!(problems("a.rs", &"\n".repeat(FILE)), [""; 0]);
        assert_eq!(problems("a.rs", &"\n".repeat(FILE + 1)), ["has 501 lines, more than 500"]);
        assert_eq!(problems("a.md", &"\n".repeat(FILE + 1)), [""; 0]);
    }

    #[test]
    fn the_issuing_function_with_one_line_too_many_is_found() {
        let (path, name, limit) = FUNCTIONS[0];
        let function =
            |lines: usize| format!("fn {name}() {{{}}}\nfn other() {{}}\n", "\n".repeat(lines - 1));
        assert_eq!(problems(path, &function(limit)), [""; 0]);
        assert_eq!(problems(path, &function(limit + 1)), ["issue has 61 lines, more than 60"]);
        assert_eq!(problems(path, "fn other() {}"), ["has no function issue: correct FUNCTIONS"]);
    }
}
