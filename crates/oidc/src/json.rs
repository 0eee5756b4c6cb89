//! JSON as it was sent: in order, each name once, and not deep.
//!
//! Two parsers that disagree are a way in: one takes the first of two equal names, another the last, a third ignores case.
//! So a document in which a name stands twice, or twice but for case, is none; and it is read once, by this.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// How deep a document may be nested.
pub(crate) const DEPTH_LIMIT: usize = 16;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Flag(bool),
    Whole(i64),
    /// A number that is not whole, or has no room in 64 bits.
    OtherNumber,
    Text(String),
    List(Vec<Json>),
    Object(Object),
}

impl Json {
    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag(_) => "true or false",
            Self::Whole(_) => "a number",
            Self::OtherNumber => "a number that is not whole, or too great",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null
            | Self::Flag(_)
            | Self::Whole(_)
            | Self::OtherNumber
            | Self::List(_)
            | Self::Object(_) => None,
        }
    }
}

/// Names and values, no two names equal but for case.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object(Vec<(String, Json)>);

impl Object {
    /// Reads a document that is an object.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, String> {
        let fault = RefCell::new(None);
        let mut deserializer = serde_json::Deserializer::from_slice(document);
        let read = Seed { depth: 0, fault: &fault }.deserialize(&mut deserializer);
        let read = read.and_then(|value| deserializer.end().map(|()| value));
        match read {
            Ok(Json::Object(object)) => Ok(object),
            Ok(other) => Err(format!("it is {}, not an object", other.kind())),
            // serde_json's own words may quote the document.
            Err(error) => Err(fault.take().unwrap_or_else(|| {
                format!("it is not JSON: line {} column {} is wrong", error.line(), error.column())
            })),
        }
    }

    /// The value of that name; `null` is none.
    pub(crate) fn get(&self, name: &str) -> Option<&Json> {
        self.0.iter().find(|(own, value)| own == name && *value != Json::Null).map(|(_, value)| value)
    }

    /// The value at the end of a path of names.
    pub(crate) fn at(&self, path: &[String]) -> Option<&Json> {
        let (name, rest) = path.split_first()?;
        match (self.get(name)?, rest) {
            (value, []) => Some(value),
            (Json::Object(inner), rest) => inner.at(rest),
            (_, _) => None,
        }
    }

    /// Whether the name stands there, with any value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// A name that is this one but for case.
    pub(crate) fn variant_of(&self, name: &str) -> Option<&str> {
        let folded = fold(name);
        self.0.iter().map(|(own, _)| own.as_str()).find(|own| *own != name && fold(own) == folded)
    }
}

/// A name without its case, as the most generous of parsers sees it: the long s is an s, the Kelvin sign a k.
fn fold(name: &str) -> String {
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    depth: usize,
    /// What is wrong beyond the grammar.
    fault: &'a RefCell<Option<String>>,
}

impl Seed<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.depth < DEPTH_LIMIT {
            true => Ok(Self { depth: self.depth + 1, ..self }),
            false => Err(self.fail(format!("it is nested more than {DEPTH_LIMIT} deep"))),
        }
    }

    fn fail<E: Error>(self, what: String) -> E {
        *self.fault.borrow_mut() = Some(what);
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Flag(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Whole(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(i64::try_from(number).map_or(Json::OtherNumber, Json::Whole))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Json, E> {
        Ok(Json::OtherNumber)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let deeper = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(deeper)? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let deeper = self.deeper()?;
        let mut object = Vec::new();
        let mut seen: HashMap<String, String> = HashMap::new();
        while let Some(name) = entries.next_key::<String>()? {
            if let Some(other) = seen.insert(fold(&name), name.clone()) {
                let what = match other == name {
                    true => format!("{name:?} stands in it twice"),
                    false => format!("{other:?} and {name:?} stand in it, which differ in case only"),
                };
                return Err(self.fail(what));
            }
            object.push((name, entries.next_value_seed(deeper)?));
        }
        Ok(Json::Object(Object(object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(document: &str) -> String {
        Object::parse(document.as_bytes()).expect_err(document)
    }

    #[test]
    fn reads_what_is_there_once() {
        let text =
            r#"{"a":"b","n":-7,"t":true,"l":["x",null],"o":{"in":{"deep":"er"}},"z":null,"f":1.5,"e":1e3}"#;
        let object = Object::parse(text.as_bytes()).unwrap();
        assert_eq!(object.get("a").and_then(Json::text), Some("b"));
        assert_eq!(object.get("n"), Some(&Json::Whole(-7)));
        assert_eq!(object.get("z"), None);
        assert!(object.has("z"));
        assert_eq!(object.get("e"), Some(&Json::OtherNumber));
        let path = ["o", "in", "deep"].map(str::to_owned);
        assert_eq!(object.at(&path).and_then(Json::text), Some("er"));
        assert_eq!(object.at(&path[..0]), None);
        assert_eq!(object.at(&["a".to_owned(), "b".to_owned()]), None);
    }

    #[test]
    fn names_that_stand_twice_or_differ_in_case_only_are_refused_at_every_depth() {
        for (text, part) in [
            (r#"{"sub":"a","sub":"b"}"#, r#""sub" stands in it twice"#),
            (r#"{"sub":"a","\u0073ub":"b"}"#, r#""sub" stands in it twice"#),
            (r#"{"sub":"a","Sub":"b"}"#, "differ in case only"),
            ("{\"sub\":\"a\",\"\u{17f}ub\":\"b\"}", "differ in case only"),
            ("{\"kid\":\"a\",\"\u{212a}id\":\"b\"}", "differ in case only"),
            (r#"{"o":[{"a":1,"A":2}]}"#, "differ in case only"),
        ] {
            assert!(refused(text).contains(part), "{text}: {}", refused(text));
        }
    }

    #[test]
    fn deep_documents_are_refused() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(Object::parse(nested(DEPTH_LIMIT - 1).as_bytes()).is_ok());
        for depth in [DEPTH_LIMIT, 4000] {
            assert!(refused(&nested(depth)).contains("nested more than 16 deep"), "{depth}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused_and_not_quoted() {
        for text in
            ["", "{", "[]", "\"secret\"", "{\"a\":secret}", "{} {}", "{\"a\":\"\\ud800\"}", "{\"a\":01}"]
        {
            assert!(!refused(text).contains("secret"), "{text}");
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_err());
    }
}
