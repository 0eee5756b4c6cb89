//! As much of JSON Schema (draft 7) as the schema of roles uses; any other word in it is an error.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::{Map, Value};

/// Words that check nothing.
const NOTES: [&str; 6] = ["$schema", "title", "description", "default", "definitions", "examples"];

pub(super) struct Schema {
    root: Value,
    patterns: BTreeMap<String, Regex>,
}

impl Schema {
    pub(super) fn new(root: Value) -> Self {
        let mut patterns = BTreeMap::new();
        for definition in root["definitions"].as_object().unwrap().values() {
            if let Some(pattern) = definition.get("pattern").and_then(Value::as_str) {
                patterns.insert(pattern.to_owned(), Regex::new(pattern).unwrap());
            }
        }
        Self { root, patterns }
    }

    /// Whether the document is valid; else the first problem.
    pub(super) fn check(&self, document: &Value) -> Result<(), String> {
        self.value(&self.root, document, "")
    }

    /// Whether that definition takes the value.
    pub(super) fn takes(&self, definition: &str, value: &Value) -> bool {
        self.value(&self.root["definitions"][definition], value, "").is_ok()
    }

    /// The keys of each object that has no others, by its place; items are where their list is.
    pub(super) fn keys(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut keys = BTreeMap::new();
        self.collect(&self.root, "", &mut keys);
        keys
    }

    fn collect(&self, schema: &Value, place: &str, keys: &mut BTreeMap<String, BTreeSet<String>>) {
        let schema = self.resolved(schema);
        if let Some(items) = schema.get("items") {
            self.collect(items, place, keys);
        }
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
        assert_eq!(schema["additionalProperties"], false, "{place} takes unknown keys");
        let known = properties.keys().cloned();
        keys.entry(place.to_owned()).or_default().extend(known);
        for (key, below) in properties {
            let below_place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            self.collect(below, &below_place, keys);
        }
    }

    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) => self.root.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
            None => schema,
        }
    }

    fn value(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        let words = schema.as_object().unwrap();
        // In draft 7 nothing counts beside a reference.
        if words.contains_key("$ref") {
            return self.value(self.resolved(schema), value, place);
        }
        words.iter().try_for_each(|(word, says)| self.word(words, word, says, value, place))
    }

    fn word(
        &self,
        words: &Map<String, Value>,
        word: &str,
        says: &Value,
        value: &Value,
        place: &str,
    ) -> Result<(), String> {
        let holds =
            |holds: bool| if holds { Ok(()) } else { Err(format!("{place}: {word} {says}: {value}")) };
        let is_valid = |schema: &Value| self.value(schema, value, place).is_ok();
        let valid = || says.as_array().unwrap().iter().filter(|schema| is_valid(schema)).count();
        let number = || says.as_u64().unwrap();
        let keys = || says.as_array().unwrap().iter().filter_map(Value::as_str);
        match word {
            "type" if says.is_array() => {
                holds(says.as_array().unwrap().iter().any(|says| is_of(value, says)))
            }
            "type" => holds(is_of(value, says)),
            "const" => holds(value == says),
            "enum" => holds(says.as_array().unwrap().contains(value)),
            "pattern" => {
                let pattern = &self.patterns[says.as_str().unwrap()];
                holds(value.as_str().is_none_or(|text| pattern.is_match(text)))
            }
            "minLength" => holds(value.as_str().is_none_or(|text| text.chars().count() as u64 >= number())),
            "minimum" => holds(value.as_u64().is_none_or(|value| value >= number())),
            "maximum" => holds(value.as_u64().is_none_or(|value| value <= number())),
            "minItems" => holds(value.as_array().is_none_or(|items| items.len() as u64 >= number())),
            "maxItems" => holds(value.as_array().is_none_or(|items| items.len() as u64 <= number())),
            "uniqueItems" => holds(value.as_array().is_none_or(|items| {
                items.iter().enumerate().all(|(index, item)| !items[..index].contains(item))
            })),
            "minProperties" => holds(value.as_object().is_none_or(|fields| fields.len() as u64 >= number())),
            "required" => {
                holds(value.as_object().is_none_or(|fields| keys().all(|key| fields.contains_key(key))))
            }
            "oneOf" => holds(valid() == 1),
            "anyOf" => holds(valid() > 0),
            "not" => holds(!is_valid(says)),
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| self.value(says, item, place))
            }
            "properties" | "additionalProperties" => {
                let properties = words.get("properties").and_then(Value::as_object);
                value.as_object().into_iter().flatten().try_for_each(|(key, below)| {
                    let known = properties.and_then(|properties| properties.get(key));
                    let place = format!("{place}.{key}");
                    match (word, known) {
                        ("properties", Some(schema)) => self.value(schema, below, &place),
                        ("additionalProperties", None) if says == false => {
                            Err(format!("{place} is not known"))
                        }
                        ("additionalProperties", None) => self.value(says, below, &place),
                        _ => Ok(()),
                    }
                })
            }
            note if NOTES.contains(&note) => Ok(()),
            other => panic!("{other} is not known here"),
        }
    }
}

fn is_of(value: &Value, type_name: &Value) -> bool {
    match type_name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        other => panic!("{other} is no type that is known here"),
    }
}
