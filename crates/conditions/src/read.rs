//! From text to syntax tree, and from a node back to its place in the text.

use cel::common::ast::{Expr, SourceInfo};
use cel::parser::{Expression, Parser};
use shorepass_core::condition::CONDITION_LIMIT;

/// How deep brackets may be nested, and operators that stand before their operand.
const DEPTH_LIMIT: usize = 16;

/// A text that was read.
pub(crate) struct Read {
    pub(crate) root: Expression,
    places: SourceInfo,
}

impl Read {
    /// An error at a node.
    pub(crate) fn error(&self, node: &Expression, what: impl AsRef<str>) -> String {
        let what = what.as_ref();
        // A selection is known by its dot; people look where it begins.
        let mut first = node;
        while let Expr::Select(select) = &first.expr {
            first = &select.operand;
        }
        match self.places.offset_for(first.id) {
            Some((start, _)) => format!("{}: {what}", place(&self.places.source, start as usize)),
            None => what.to_owned(),
        }
    }
}

/// Reads a text. What could take the parser long, or deep, is refused before it sees it.
pub(crate) fn read(text: &str) -> Result<Read, String> {
    if text.len() > CONDITION_LIMIT {
        return Err(format!(
            "the condition is longer than {CONDITION_LIMIT} bytes: match what you can under `claims`, and write several items"
        ));
    }
    if text.trim().is_empty() {
        return Err(
            "the condition is empty: leave the field out, or write for example `claims.ref == \"main\"`"
                .to_owned(),
        );
    }
    bounded(text)?;
    let parser = Parser::new().error_recovery_limit(1);
    match parser.parse_with_source_info(text) {
        Ok((root, places)) => Ok(Read { root, places }),
        Err(errors) => {
            let first = errors.errors.first();
            let (line, column) = first.map_or((1, 0), |error| error.pos);
            let what = first.map_or("", |error| error.msg.lines().next().unwrap_or_default());
            Err(format!(
                "{}: this is no condition ({what}); write for example `claims.ref == \"main\" && claims.ref_type == \"branch\"`",
                said(line.max(1), column.max(1))
            ))
        }
    }
}

fn bounded(text: &str) -> Result<(), String> {
    let mut depth = 0_usize;
    let mut before = 0_usize;
    for (offset, character) in text.char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        before = match character {
            '!' | '-' => before + 1,
            _ if character.is_whitespace() => before,
            _ => 0,
        };
        if depth > DEPTH_LIMIT || before > DEPTH_LIMIT {
            return Err(format!(
                "{}: nested more than {DEPTH_LIMIT} deep: write it flat, or as several items",
                place(text, offset)
            ));
        }
    }
    Ok(())
}

/// Where the byte with this number is, for people, who count characters.
fn place(text: &str, offset: usize) -> String {
    let before = text.char_indices().take_while(|(start, _)| *start < offset);
    let (line, column) = before.fold((1, 1), |(line, column), (_, character)| match character {
        '\n' => (line + 1, 1),
        _ => (line, column + 1),
    });
    said(line, column)
}

fn said(line: isize, column: isize) -> String {
    match line {
        1 => format!("column {column}"),
        _ => format!("line {line}, column {column}"),
    }
}
