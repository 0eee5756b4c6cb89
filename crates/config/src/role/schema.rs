//! Whether the JSON Schema of role documents says what the reader does.
//!
//! Where the reader asks for the keys of a value, it is noted which it knows: these have to be the schema's at that place, all
//! of them and no others, and each place of the schema has to be among those that were noted. What is of another type, or has
//! another key, is refused by both. The schema may be stricter with unquoted text (`name: 123`), never laxer.

mod validate;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};
use shorepass_core::audience::{AUDIENCE_LIMIT, Audiences};
use shorepass_core::claims::Claims;
use shorepass_core::condition::{Condition, Conditions};
use shorepass_core::job_issuer::{Declared, JobIssuer, RunnerBinding, System};
use shorepass_core::name::{Name, NamePattern, TrustDomain};

use self::validate::Schema;
use super::{Known, Reader, SCHEMA};
use crate::scalar::parse_duration;

thread_local! {
    static NOTED: RefCell<BTreeMap<String, BTreeSet<&'static str>>> = RefCell::default();
}

/// The reader knows these keys at that place.
pub(crate) fn note(path: &str, known: &'static [&'static str]) {
    let place = path.split('.').map(|part| part.split('[').next().unwrap_or(part));
    let place = place.collect::<Vec<_>>().join(".");
    NOTED.with_borrow_mut(|noted| noted.entry(place).or_default().extend(known));
}

const EXAMPLES: [&str; 4] = [
    include_str!("../../../../deploy/examples/role.yaml"),
    include_str!("../../../../deploy/examples/role-jobs.yaml"),
    include_str!("../../../../deploy/examples/role-strict.yaml"),
    include_str!("../../../../deploy/examples/role-unbound.yaml"),
];

/// With the examples, every key that there is.
const MORE: [&str; 2] = [
    "apiVersion: shorepass.dev/v1
kind: Role
metadata: {name: more}
spec:
  cluster: staging
  strict:
    namespace: own-strict
    bindings:
      - {namespace: web, rules: [{apiGroups: [apps], resources: [deployments], resourceNames: [web], verbs: [get]}]}
  silence: 20m
  onChange: end
  dryRun: true
  limits: {leases: 5, mintsPerMinute: 60}
  needs:
    - {clusterWide: true, apiGroups: [''], resources: [nodes], resourceNames: [one], verbs: [get]}
    - {namespace: api, apiGroups: [''], resources: [pods/log], verbs: [get]}
  subjects:
    - platforms: [console, web-*]
      jobs: {issuer: gitlab, claims: {project_id: ['1', '2']}, condition: always}
    - {trustDomain: partner.example.org, platforms: [portal]}
tests:
  - {name: a partner, trustDomain: partner.example.org, platform: portal, job: {issuer: gitlab, claims: {project_id: '1'}}, expect: denied}
  - {name: a platform, platform: console, job: {issuer: gitlab, claims: {project_id: '1'}}, expect: denied, because: dry}
",
    "apiVersion: shorepass.dev/v1
kind: Role
metadata: {name: little}
spec:
  cluster: staging
  target: {namespace: web, serviceAccount: deployer}
  audiences: ['https://vault.example.org', registry]
  silence: 'off'
  lifetimes: {token: {max: 1h30m}}
  subjects: [{platforms: [console]}]
",
];

#[derive(Debug)]
struct Always;

impl Condition for Always {
    fn holds(&self, _: &Claims) -> Result<(), String> {
        Ok(())
    }

    fn names(&self, _: &str) -> bool {
        false
    }

    fn text(&self) -> &str {
        "always"
    }
}

impl Conditions for Always {
    fn compile(&self, text: &str, _: &JobIssuer) -> Result<Arc<dyn Condition>, String> {
        if text == "always" { Ok(Arc::new(Self)) } else { Err(format!("{text:?} is no condition")) }
    }
}

/// What the reader says of a document.
fn read(document: &Value) -> Result<(), String> {
    let (url, audience) = ("https://gitlab.example.org".to_owned(), "shorepass".to_owned());
    let name = |text: &str| Name::parse(text).unwrap();
    let binding = RunnerBinding::FirstUse;
    let gitlab = JobIssuer::new(name("gitlab"), System::Gitlab, url, audience, binding, Declared::default());
    let known = Known {
        clusters: vec![name("staging")],
        job_issuers: vec![gitlab.unwrap()],
        trust_domains: vec![TrustDomain::parse("partner.example.org").unwrap()],
        taken: Vec::new(),
        conditions: &Always,
    };
    // What is JSON is YAML too.
    let text = document.to_string();
    let read = Reader { known: Some(&known), seen: BTreeMap::new() }.text(Path::new("role.yaml"), &text);
    read.map(drop).map_err(|errors| errors.to_string())
}

fn documents() -> Vec<Value> {
    let parse = |text: &&str| serde_saphyr::from_str(text).unwrap();
    EXAMPLES.iter().chain(&MORE).map(parse).collect()
}

fn schema() -> &'static Schema {
    static SCHEMA_OF_ROLES: LazyLock<Schema> =
        LazyLock::new(|| Schema::new(serde_json::from_str(SCHEMA).unwrap()));
    &SCHEMA_OF_ROLES
}

/// Where something is in a document.
type Place = Vec<String>;

/// All values, with their places.
fn places(value: &Value, place: &Place, all: &mut Vec<Place>) {
    let below = |part: &str| place.iter().cloned().chain([part.to_owned()]).collect();
    all.push(place.clone());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| places(value, &below(key), all)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| places(item, &below(&index.to_string()), all));
        }
        _ => {}
    }
}

fn at<'v>(document: &'v mut Value, place: &[String]) -> &'v mut Value {
    let pointer: String = place.iter().map(|part| format!("/{part}")).collect();
    document.pointer_mut(&pointer).unwrap()
}

/// Runs a check on each place of each document.
fn everywhere(check: impl Fn(&Value, &Place)) {
    for document in documents() {
        let mut all = Vec::new();
        places(&document, &Vec::new(), &mut all);
        all.iter().for_each(|place| check(&document, place));
    }
}

#[test]
fn every_example_is_valid_and_names_the_schema_for_editors() {
    for document in documents() {
        schema().check(&document).unwrap_or_else(|problem| panic!("{problem}\n{document}"));
        read(&document).unwrap();
    }
    for example in EXAMPLES {
        let first = example.lines().next().unwrap();
        assert_eq!(first, "# yaml-language-server: $schema=../role.schema.json");
    }
}

#[test]
fn the_schema_has_the_keys_that_the_reader_knows_and_no_others() {
    NOTED.take();
    documents().iter().for_each(|document| read(document).unwrap());
    let noted = NOTED.take();
    let noted: BTreeMap<String, BTreeSet<String>> = noted
        .into_iter()
        .map(|(place, keys)| (place, keys.into_iter().map(str::to_owned).collect()))
        .collect();
    assert_eq!(schema().keys(), noted);
}

#[test]
fn a_key_that_is_not_known_is_refused_by_both() {
    everywhere(|document, place| {
        let mut changed = document.clone();
        let Value::Object(fields) = at(&mut changed, place) else { return };
        fields.insert("unknown_key".to_owned(), json!("x"));
        let free = matches!(place.last().map(String::as_str), Some("labels" | "claims"));
        assert_eq!(schema().check(&changed).is_err(), !free, "{place:?}");
        assert!(free || read(&changed).is_err(), "{place:?}");
    });
}

#[test]
fn a_value_of_another_type_that_the_schema_takes_is_taken_by_the_reader() {
    let others =
        [json!(null), json!(true), json!(7), json!(1.5), json!("text"), json!([]), json!({}), json!([[]])];
    everywhere(|document, place| {
        let mut changed = document.clone();
        let was = std::mem::discriminant(at(&mut changed, place));
        // Of which type a claim is, its issuer says.
        let is_claim =
            place.contains(&"claims".to_owned()) && place.last().is_some_and(|last| last != "claims");
        for other in others.iter().filter(|other| std::mem::discriminant(*other) != was && !is_claim) {
            *at(&mut changed, place) = other.clone();
            if schema().check(&changed).is_ok() {
                read(&changed).unwrap_or_else(|problem| panic!("{other} at {place:?}: {problem}"));
            }
        }
    });
}

#[test]
fn a_key_that_is_missing_is_missing_to_both() {
    everywhere(|document, place| {
        let Some((key, parent)) = place.split_last() else { return };
        let mut changed = document.clone();
        let Value::Object(fields) = at(&mut changed, parent) else { return };
        fields.remove(key);
        let (schema, reader) = (schema().check(&changed), read(&changed));
        match &reader {
            Ok(()) => assert_eq!(schema, Ok(()), "{place:?} may be left away"),
            Err(problem) => {
                let missing = problem.contains("this key is missing");
                assert!(!missing || schema.is_err(), "{place:?}: {problem}");
            }
        }
    });
}

#[test]
fn texts_that_a_pattern_takes_are_those_that_the_reader_takes() {
    let schema = schema();
    let whole = |number: usize| "a".repeat(number);
    let names = ["a", "0", "a-b", "-a", "a-", "A", "a_b", "a.b", "", "ä", &whole(63), &whole(64)];
    for name in names {
        assert_eq!(schema.takes("name", &json!(name)), Name::parse(name).is_ok(), "{name}");
    }
    let stars: Vec<String> = [1, 2, 3, 62, 63].map(|length| whole(length) + "*").to_vec();
    let odd = ["ab-*", "-ab*", "a*b", "*", "abc**", "web-1"].map(str::to_owned).to_vec();
    for pattern in stars.iter().chain(&odd) {
        let taken = schema.takes("pattern", &json!(pattern));
        assert_eq!(taken, NamePattern::parse(pattern).is_ok(), "{pattern}");
    }
    let long = [whole(AUDIENCE_LIMIT), whole(AUDIENCE_LIMIT + 1)];
    let odd = [
        "vault",
        "https://v.example.org/a-b_c?d=[e]&(f)*+,;%2F#@!~",
        "a b",
        "",
        "a'",
        "a\"",
        "$",
        "ä",
        "kubernetes",
    ];
    for audience in odd.into_iter().chain(long.iter().map(String::as_str)) {
        let taken = Audiences::new(vec![audience.to_owned()]).is_ok();
        assert_eq!(schema.takes("audience", &json!(audience)), taken, "{audience}");
    }
    for duration in [
        "90s", "30m", "1h30m", "1h0m5s", "1h5s", "30", "m", "1.5h", "-1s", "5 m", "1m1h", "1m1m", "5d", "",
        "1H",
    ] {
        let taken = schema.takes("duration", &json!(duration));
        assert_eq!(taken, parse_duration(duration).is_ok(), "{duration}");
    }
}

#[test]
fn what_excludes_each_other_is_refused_by_both() {
    for (number, place, key, value) in [
        (0, "/spec", "strict", json!({"bindings": [{"namespace": "web", "role": "r"}]})),
        (2, "/spec", "dangerouslyUnbound", json!(true)),
        (2, "/spec", "audiences", json!(["vault"])),
        (0, "/spec", "audiences", json!(["vault", "vault"])),
        (0, "/spec", "audiences", json!(["a", "b", "c", "d", "e"])),
        (2, "/spec/strict/bindings/0", "clusterRole", json!("view")),
        (4, "/spec/needs/0", "namespace", json!("web")),
        (1, "/spec/subjects/0", "platforms", json!(["console"])),
        (0, "/tests/0", "platform", json!("console")),
        (1, "/tests/0/job", "asserted", json!(true)),
    ] {
        let mut document = documents().swap_remove(number);
        let fields: &mut Map<String, Value> = document.pointer_mut(place).unwrap().as_object_mut().unwrap();
        fields.insert(key.to_owned(), value);
        assert!(schema().check(&document).is_err() && read(&document).is_err(), "{place} {key}");
    }
}
