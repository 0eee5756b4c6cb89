//! Every reason for a refusal has a row in the operator's table, and the table has no other.

use std::collections::BTreeSet;

use super::tree::Tree;
use super::{Problem, code};

const PROTO: &str = "proto/shorepass/v1/errors.proto";
const DOCS: &str = "docs/errors.md";
const PREFIX: &str = "ERROR_REASON_";

/// Never sent, so nobody looks it up.
const NEVER_SENT: &str = "UNSPECIFIED";

/// The heading above the table of reasons.
const HEADING: &str = "## Refused calls";

/// Compares the enum with the table.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let (Some(proto), Some(docs)) = (tree.file(PROTO), tree.file(DOCS)) else {
        let missing = if tree.file(PROTO).is_none() { PROTO } else { DOCS };
        return vec![Problem::new(missing, None, "is missing")];
    };
    let reasons: BTreeSet<&str> = reasons(&proto.text).map(|(_, reason)| reason).collect();
    let rows: BTreeSet<&str> = rows(&docs.text).map(|(_, reason)| reason).collect();
    let mut problems = Vec::new();
    for (offset, reason) in self::reasons(&proto.text).filter(|(_, reason)| !rows.contains(reason)) {
        let what = format!("{reason} has no row in {DOCS} under \"{HEADING}\"");
        problems.push(Problem::new(PROTO, code::line_of(&proto.text, offset), what));
    }
    for (offset, reason) in self::rows(&docs.text).filter(|(_, reason)| !reasons.contains(reason)) {
        let what = format!("{reason} is no reason of {PROTO}");
        problems.push(Problem::new(DOCS, code::line_of(&docs.text, offset), what));
    }
    problems
}

/// The reasons without their prefix, with their offsets.
fn reasons(proto: &str) -> impl Iterator<Item = (usize, &str)> {
    lines(proto).filter_map(|(offset, line)| {
        let (name, _) = line.trim_start().strip_prefix(PREFIX)?.split_once(" =")?;
        (name != NEVER_SENT).then_some((offset, name))
    })
}

/// What stands in backquotes at the start of the rows of the table of reasons.
fn rows(docs: &str) -> impl Iterator<Item = (usize, &str)> {
    lines(docs)
        .skip_while(|(_, line)| *line != HEADING)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "))
        .filter_map(|(offset, line)| Some((offset, line.strip_prefix("| `")?.split_once('`')?.0)))
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut offset = 0;
    text.split('\n').map(move |line| {
        let start = offset;
        offset += line.len() + 1;
        (start, line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENUM: &str = "enum E {\n  // Never sent.\n  ERROR_REASON_UNSPECIFIED = 0;\n  ERROR_REASON_A = 1;\n  ERROR_REASON_B = 2;\n}\n";

    fn problems(docs: &str) -> Vec<String> {
        check(&Tree::of(&[(PROTO, ENUM), (DOCS, docs)])).iter().map(Problem::to_string).collect()
    }

    #[test]
    fn a_table_with_a_row_for_each_reason_is_fine() {
        let docs = "| `C` | |\n## Refused calls\n| reason | |\n| --- | --- |\n| `A` | |\n| `B` | |\n## More\n| `D` | |\n";
        assert_eq!(problems(docs), [""; 0]);
    }

    #[test]
    fn missing_and_invented_rows_are_found() {
        let docs = "| `B` | |\n## Refused calls\n| `A` | |\n| `C` | |\n";
        assert_eq!(
            problems(docs),
            [
                format!("{PROTO}:5: B has no row in {DOCS} under \"## Refused calls\""),
                format!("{DOCS}:4: C is no reason of {PROTO}"),
            ]
        );
    }

    #[test]
    fn a_missing_table_is_found() {
        let problems = check(&Tree::of(&[(PROTO, ENUM)]));
        assert_eq!(problems, [Problem::new(DOCS, None, "is missing")]);
    }
}
