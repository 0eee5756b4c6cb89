//! The fuzz target of role documents.
//!
//! Whether a condition is one is not asked here: the language is another crate's.

use std::sync::LazyLock;

use serde::Deserialize;
use shorepass_testing::seeds::Seeds;

use super::*;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/role/tests/__fuzz__/role-documents/corpus");

static SEEDS: LazyLock<Seeds> = LazyLock::new(|| Seeds::read(Path::new(CORPUS)));
static KNOWN: LazyLock<Known<'static>> = LazyLock::new(super::jobs::known);

/// What another reader of YAML finds in a document.
#[derive(Deserialize)]
struct Other {
    metadata: Metadata,
    spec: ClusterOf,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
struct ClusterOf {
    cluster: String,
}

#[test]
fn role_documents() {
    let loads = |seed: &&[u8]| std::str::from_utf8(seed).is_ok_and(|text| super::read(text).is_ok());
    assert_eq!(SEEDS.iter().filter(loads).count(), 6, "the examples, and two more");
    SEEDS.iter().for_each(check_document);
    bolero::check!(name = "role-documents").with_iterations(1_000).for_each(|input: &[u8]| {
        check_document(input);
        check_document(&SEEDS.changed(input));
    });
}

fn check_document(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let read = |known| Reader { known, seen: BTreeMap::new() }.text(Path::new("web.yaml"), &text);
    let (alone, beside_config) = (read(None), read(Some(&*KNOWN)));
    for errors in [&alone, &beside_config].into_iter().filter_map(|read| read.as_ref().err()) {
        check_errors(errors, &text);
    }
    match (alone, beside_config) {
        (Ok(alone), beside_config) => {
            check_roles(&alone.roles, &text);
            let Ok(known) = beside_config else { return };
            assert!(alone.roles.iter().map(said).eq(known.roles.iter().map(said)), "{text}");
            assert!(known.roles.iter().all(|role| role.cluster().as_str() == "staging"), "{text}");
        }
        (Err(_), beside_config) => assert!(beside_config.is_err(), "loads only where more is known:\n{text}"),
    }
}

/// What a role is, whatever else is known.
fn said(role: &Role) -> (&Name, &Gives, [Lifetime; 2], Silence, Limits, OnChange, Digest) {
    let lives = [role.token(), role.lease()];
    (role.name(), role.gives(), lives, role.silence(), role.limits(), role.on_change(), role.digest())
}

fn check_errors(errors: &ConfigErrors, text: &str) {
    assert!((1..=50).contains(&errors.len()), "{} errors for:\n{text}", errors.len());
    // To YAML a carriage return alone ends a line, too.
    let lines = 1 + text.chars().filter(|character| matches!(character, '\n' | '\r')).count();
    for error in errors.iter() {
        let told = error.to_string();
        assert!(told.starts_with("web.yaml:") && told.chars().count() < 4_000, "{told}\n  for:\n{text}");
        let ConfigError::Fault(fault) = error else { panic!("{told}") };
        assert!(fault.line >= 1 && fault.line <= lines, "{told}\n  for:\n{text}");
    }
}

fn check_roles(roles: &[Role], text: &str) {
    for (place, role) in roles.iter().enumerate() {
        assert!(Name::parse(role.name().as_str()).as_ref() == Ok(role.name()), "{text}");
        assert!(roles[..place].iter().all(|other| other.name() != role.name()), "{text}");
        assert!(role.token().token_problem().is_none() && role.lease().lease_problem().is_none(), "{text}");
        assert!(!role.subjects().is_empty(), "{text}");
        for subject in role.subjects() {
            assert!(!(subject.runners.is_empty() && subject.platforms.is_empty()), "{text}");
            assert!(subject.jobs.is_none() || !subject.accept_asserted_jobs, "{text}");
        }
    }
    if let [role] = roles
        && let Ok(other) = serde_saphyr::from_str::<Other>(text)
    {
        assert_eq!(other.metadata.name, role.name().as_str(), "{text}");
        assert_eq!(other.spec.cluster, role.cluster().as_str(), "{text}");
        assert_eq!(role.digest(), Digest::of_bytes(text.as_bytes()), "{text}");
    }
}
