//! Text to trees of nodes that know their places.
//!
//! Built on the event parser that serde-saphyr stands on and hands out; scanning YAML is its business, composing a tree
//! is ours. Deliberately no anchors, aliases, tags or directives: a document that grants rights should say what it
//! grants where it grants it, and without aliases no small text becomes a large tree. Scalars keep their spelling:
//! whether `0123` is a name or a number is for the reader of the field.

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Span, Tag};

use crate::error::At;

/// How deep collections may nest; the documents here need eight.
const DEPTH_LIMIT: usize = 24;
/// How many documents one file may hold.
const DOCUMENT_LIMIT: usize = 500;

/// One document of a text.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    /// From its start to the next document's; the first begins with the text, so one document is the whole text.
    pub(crate) text: &'a str,
    /// What it says.
    pub(crate) root: Node,
}

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) value: Value,
}

/// What a value is.
#[derive(Debug)]
pub(crate) enum Value {
    /// Text as written; `quoted` if it can be nothing but text.
    Scalar { text: String, quoted: bool },
    /// Items.
    List(Vec<Node>),
    /// Keys and values, in order, repeated keys included.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: At,
    pub(crate) node: Node,
}

/// Why the rest of a text cannot be read.
#[derive(Debug)]
pub(crate) struct Flaw {
    pub(crate) at: At,
    pub(crate) problem: String,
}

impl Value {
    /// Whether nothing is written, or one of YAML's words for it.
    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Self::Scalar { text, quoted } => {
                !quoted && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            Self::List(_) | Self::Map(_) => false,
        }
    }
}

/// The documents up to the first flaw, and the flaw.
pub(crate) fn parse(text: &str) -> (Vec<Document<'_>>, Option<Flaw>) {
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_comments: false,
        flow_nesting_limit: DEPTH_LIMIT,
        block_nesting_limit: DEPTH_LIMIT,
    };
    let mut composer = Composer::default();
    for item in Parser::new_from_str_with_options(text, options) {
        let taken = match item {
            Ok((event, span)) => composer.take(event, span),
            Err(error) => {
                let at =
                    At { line: error.marker().line().max(1), column: error.marker().col() + 1, width: 1 };
                Err(Flaw { at, problem: format!("not valid YAML: {}", error.info()) })
            }
        };
        if let Err(flaw) = taken {
            return (composer.into_documents(text), Some(flaw));
        }
    }
    (composer.into_documents(text), None)
}

#[derive(Default)]
struct Composer {
    open: Vec<Open>,
    starts: Vec<usize>,
    roots: Vec<Node>,
}

/// A collection whose end has not come.
enum Open {
    List { at: At, items: Vec<Node> },
    Map { at: At, entries: Vec<Entry>, key: Option<(String, At)> },
}

impl Composer {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Flaw> {
        let at = place(&span);
        match event {
            Event::DocumentStart(..) if self.starts.len() == DOCUMENT_LIMIT => Err(Flaw {
                at,
                problem: format!("more than {DOCUMENT_LIMIT} documents in one file: split it"),
            }),
            Event::DocumentStart(..) => {
                self.starts.push(span.start.byte_offset().unwrap_or(0));
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                plain_node(at, anchor, tag.as_deref())?;
                let quoted = style != ScalarStyle::Plain;
                self.place(Node { at, value: Value::Scalar { text: text.into_owned(), quoted } })
            }
            Event::SequenceStart(_, anchor, tag) => {
                plain_node(at, anchor, tag.as_deref())?;
                self.push(at, Open::List { at, items: Vec::new() })
            }
            Event::MappingStart(_, anchor, tag) => {
                plain_node(at, anchor, tag.as_deref())?;
                self.push(at, Open::Map { at, entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { at, items }) => self.place(Node { at, value: Value::List(items) }),
                Some(Open::Map { at, entries, .. }) => self.place(Node { at, value: Value::Map(entries) }),
                None => Ok(()),
            },
            Event::Alias(_) => Err(refused(at, "an alias")),
            // Stream and document ends say nothing; comments, anchors and loose aliases are not asked for.
            _ => Ok(()),
        }
    }

    fn push(&mut self, at: At, collection: Open) -> Result<(), Flaw> {
        if self.open.len() == DEPTH_LIMIT {
            return Err(Flaw { at, problem: format!("nested more than {DEPTH_LIMIT} deep") });
        }
        self.open.push(collection);
        Ok(())
    }

    fn place(&mut self, node: Node) -> Result<(), Flaw> {
        match self.open.last_mut() {
            None => self.roots.push(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match (key.take(), node) {
                (Some((key, key_at)), node) => entries.push(Entry { key, key_at, node }),
                (None, Node { at, value: Value::Scalar { text, .. } }) => *key = Some((text, at)),
                (None, Node { at, value: Value::List(_) | Value::Map(_) }) => {
                    return Err(Flaw { at, problem: "a key must be text".to_owned() });
                }
            },
        }
        Ok(())
    }

    fn into_documents(self, text: &str) -> Vec<Document<'_>> {
        let ends = self.starts.iter().copied().skip(1).chain([text.len()]);
        let starts = [0].into_iter().chain(self.starts.iter().copied().skip(1));
        let texts = starts.zip(ends).map(|(start, end)| text.get(start..end).unwrap_or(text));
        self.roots.into_iter().zip(texts).map(|(root, text)| Document { text, root }).collect()
    }
}

fn plain_node(at: At, anchor: usize, tag: Option<&Tag>) -> Result<(), Flaw> {
    match (anchor, tag) {
        (0, None) => Ok(()),
        (0, Some(_)) => Err(refused(at, "a tag")),
        _ => Err(refused(at, "an anchor")),
    }
}

fn refused(at: At, what: &str) -> Flaw {
    Flaw { at, problem: format!("{what} is not accepted here: write the value out where it is used") }
}

fn place(span: &Span) -> At {
    let one_line = span.start.line() == span.end.line();
    let width = if one_line { span.end.col().saturating_sub(span.start.col()).max(1) } else { 1 };
    At { line: span.start.line().max(1), column: span.start.col() + 1, width }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(text: &str) -> Flaw {
        parse(text).1.unwrap()
    }

    #[test]
    fn values_know_their_places() {
        let (documents, flaw) = parse("# c\na:\n  bb: [x, yy]\n");
        assert!(flaw.is_none());
        let Value::Map(root) = &documents[0].root.value else { panic!() };
        assert_eq!(root[0].key_at, At { line: 2, column: 1, width: 1 });
        let Value::Map(inner) = &root[0].node.value else { panic!() };
        assert_eq!(inner[0].key_at, At { line: 3, column: 3, width: 2 });
        let Value::List(items) = &inner[0].node.value else { panic!() };
        assert_eq!(items[1].at, At { line: 3, column: 11, width: 2 });
    }

    #[test]
    fn one_document_is_the_whole_text_and_several_partition_it() {
        let one = "# head\na: 1\n# tail\n";
        assert_eq!(parse(one).0[0].text, one);
        for several in
            ["# head\n---\na: ä\n---\nb: 2\n# tail\n", "a: ä\n...\n---\nb: 2\n", "\u{feff}a: 1\n---\nb: 2\n"]
        {
            let (documents, flaw) = parse(several);
            assert!(flaw.is_none());
            let texts: Vec<&str> = documents.iter().map(|document| document.text).collect();
            assert_eq!(texts.concat(), several);
            assert!(texts.len() == 2 && texts[1].starts_with("---\nb: 2"), "{texts:?}");
        }
    }

    #[test]
    fn aliases_anchors_tags_and_directives_are_refused() {
        assert!(flaw("a: 1\nb: &x [1]\nc: *x\n").problem.contains("an anchor"));
        assert!(flaw("a: !!str 1\n").problem.contains("a tag"));
        assert!(flaw("%YAML 1.2\n---\na: 1\n").problem.contains("not valid YAML"));
        assert_eq!(flaw("a: 1\nb: &x [1]\n").at.line, 2);
    }

    #[test]
    fn nesting_and_documents_are_bounded() {
        assert!(flaw(&"[".repeat(10_000)).at.line == 1);
        assert!(flaw(&"- ".repeat(10_000)).at.line == 1);
        let indented: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(flaw(&indented).at.line < 40);
        assert!(flaw(&"---\na\n".repeat(1_000)).problem.contains("documents"));
    }

    #[test]
    fn documents_before_a_flaw_are_kept() {
        let (documents, flaw) = parse("a: 1\n---\nb: [\n");
        assert_eq!(documents.len(), 1);
        assert!(flaw.is_some());
    }
}
