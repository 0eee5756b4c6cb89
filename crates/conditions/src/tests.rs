//! Expressions by the dozen, on the claims of one made-up issuer.
mod oracle;

use super::*;
use shorepass_core::claims::ClaimKind;
use shorepass_core::job_issuer::{Declared, KnownClaim, RunnerBinding, System};
use shorepass_core::name::Name;

/// GitLab's claims, and one more of each other kind.
pub(crate) fn issuer() -> JobIssuer {
    let claim = |name: &str, kind| KnownClaim {
        name: name.to_owned(),
        path: vec![name.to_owned()],
        kind,
        project: false,
    };
    JobIssuer::new(
        Name::parse("gitlab").unwrap(),
        System::Gitlab,
        "https://gitlab.example.com".to_owned(),
        "https://shorepass.example.com".to_owned(),
        RunnerBinding::FirstUse,
        Declared {
            claims: vec![
                claim("attempt", ClaimKind::Number),
                claim("retries", ClaimKind::Number),
                claim("trusted", ClaimKind::Flag),
                claim("scopes", ClaimKind::Texts),
            ],
            job: None,
        },
    )
    .unwrap()
}

fn claims() -> Claims {
    let text = |text: &str| Claim::Text(text.to_owned());
    let mut claims = Claims::default();
    for (name, claim) in [
        ("ref", text("main")),
        ("ref_type", text("branch")),
        ("environment", text("production")),
        ("sha", text("714a")),
        ("ci_config_sha", text("714a")),
        ("attempt", Claim::Number(2)),
        ("trusted", Claim::Flag(true)),
        ("scopes", Claim::Texts(vec!["a".to_owned(), "b".to_owned()])),
    ] {
        claims.insert(name, claim).unwrap();
    }
    claims
}

fn compile(text: &str) -> Result<Arc<dyn Condition>, String> {
    CelConditions.compile(text, &issuer())
}

fn holds(text: &str) -> Result<(), String> {
    compile(text).unwrap_or_else(|error| panic!("{text}: {error}")).holds(&claims())
}

#[test]
fn holds_for_what_it_says() {
    for text in [
        r#"claims.ref == "main""#,
        r#"claims.ref == 'main'"#,
        r#""main" == claims.ref"#,
        r#"claims.ref != "dev""#,
        r#"claims.ref in ["main", "release"]"#,
        r#"!(claims.ref in ["dev", "release"])"#,
        r#"claims.ref == "dev" || claims.environment == "production""#,
        r#"claims.ref == "main" && claims.ref_type == "branch" && claims.environment == "production""#,
        "claims.sha == claims.ci_config_sha",
        "claims.attempt == 2",
        "claims.attempt >= 2 && claims.attempt < 3",
        "claims.attempt > -1",
        "claims.attempt in [1, 2]",
        "claims.trusted",
        "claims.trusted == true",
        "claims.trusted != false",
        r#""a" in claims.scopes"#,
        r#""a" in claims.scopes && !("c" in claims.scopes)"#,
        "size(claims.scopes) == 2",
        "claims.scopes.size() == 2",
        "size(claims.ref) <= 4",
        "!has(claims.deployment_tier)",
        "has(claims.environment)",
        r#"!has(claims.deployment_tier) && (claims.ref == "main")"#,
        "claims.ref\n  == \"main\"",
    ] {
        assert_eq!(holds(text), Ok(()), "{text}");
    }
}

#[test]
fn refuses_what_it_does_not_say_and_tells_the_claims() {
    for (text, expected) in [
        (r#"claims.ref == "dev""#, r#"the condition does not hold with claims.ref "main""#),
        (r#"claims.ref == "Main""#, r#"the condition does not hold with claims.ref "main""#),
        (r#"!(claims.ref == "main")"#, r#"the condition does not hold with claims.ref "main""#),
        ("!claims.trusted", "the condition does not hold with claims.trusted true"),
        ("claims.attempt > 2", "the condition does not hold with claims.attempt 2"),
        (r#""c" in claims.scopes"#, r#"the condition does not hold with claims.scopes ["a", "b"]"#),
        ("has(claims.deployment_tier)", "the condition does not hold with no claims.deployment_tier"),
    ] {
        assert_eq!(holds(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn a_claim_that_it_names_and_the_token_lacks_refuses_before_anything_is_evaluated() {
    for text in [
        r#"claims.ref == "main" || claims.project_path == "a""#,
        r#"claims.project_path != "a""#,
        r#"!(claims.project_path == "a")"#,
        r#"claims.ref == "main" || claims.sha == claims.project_path"#,
    ] {
        let refused = "the condition needs claims.project_path, which the token lacks".to_owned();
        assert_eq!(holds(text), Err(refused), "{text}");
    }
}

#[test]
fn a_claim_of_another_kind_refuses_even_where_only_its_presence_is_asked_for() {
    let mut claims = claims();
    claims.insert("ref", Claim::Texts(vec!["main".to_owned()])).unwrap();
    for text in [r#"claims.ref != "dev""#, "has(claims.ref)", "!has(claims.ref)"] {
        let refused = compile(text).unwrap().holds(&claims).unwrap_err();
        assert_eq!(
            refused, "the condition needs claims.ref as text, and the token has it as texts",
            "{text}"
        );
    }
}

/// What is said about a text that does not load: where, and a part of what.
fn check_refused(cases: &[(&str, &str, &str)]) {
    for (text, place, part) in cases {
        let error = compile(text).expect_err(text);
        assert!(
            error.starts_with(place) && error.contains(part),
            "{text}\n  {error}\n  wanted {place} ... {part}"
        );
    }
}

#[test]
fn operators_and_functions_that_are_not_listed_do_not_load() {
    check_refused(&[
        (r#"claims.ref.matches("^main|x$")"#, "column ", "compared whole"),
        (r#"matches(claims.ref, "main")"#, "column ", "compared whole"),
        (r#"claims.ref.startsWith("refs/heads/")"#, "column ", "`startsWith` is not available"),
        (r#"claims.ref.endsWith("main")"#, "column ", "`endsWith` is not available"),
        (r#"claims.ref.contains("main")"#, "column ", "`contains` is not available"),
        (r#"claims.scopes.exists(s, s == "a")"#, "column ", "macros are not available"),
        (r#"claims.scopes.all(s, s == "a")"#, "column ", "macros are not available"),
        (r#"claims.scopes.exists_one(s, s == "a")"#, "column ", "macros are not available"),
        (r#"size(claims.scopes.filter(s, s == "a")) > 0"#, "column ", "here stands a claim"),
        (r#"claims.ref == "a" ? claims.trusted : claims.trusted"#, "column ", "`?:` is not available"),
        (r#"claims["ref"] == "main""#, "column ", "write `claims.NAME`"),
        (r#"claims.scopes[0] == "a""#, "column ", "write `claims.NAME`"),
        (r#"claims.ref + "x" == "mainx""#, "column ", "nothing is computed here"),
        ("claims.attempt * 2 == 4", "column ", "nothing is computed here"),
        ("-claims.attempt == 4", "column ", "nothing is computed here"),
        ("claims.attempt % 2 == 0", "column ", "nothing is computed here"),
        (r#"string(claims.attempt) == "2""#, "column ", "`string` is not available"),
        (r#"duration("1h") == duration("1h")"#, "column ", "`duration` is not available"),
        (r#"claims == {"ref": "main"}"#, "column ", "`claims` alone is no value"),
        (r#"claims.ref == b"main""#, "column ", "bytes are not available"),
        ("claims.ref == null", "column ", "ask with `!has(claims.NAME)`"),
        ("claims.attempt == 2.0", "column ", "only whole numbers"),
        ("claims.attempt == 2u", "column ", "only whole numbers"),
        ("size(claims.ref)", "column ", "a size is a number"),
        ("type(claims.ref) == string", "column ", "`type` is not available"),
    ]);
}

#[test]
fn claims_that_the_issuer_does_not_have_do_not_load() {
    check_refused(&[
        (r#"claims.reff == "main""#, "column ", "did you mean claims.ref?"),
        (r#"claims.REF == "main""#, "column ", "job issuer gitlab has no claim REF"),
        (r#"claims.colour == "red""#, "column ", "declare it under the `claims` of the issuer"),
        (r#"has(claims.colour)"#, "column ", "job issuer gitlab has no claim colour"),
        (r#"ref == "main""#, "column 1", "claims are written `claims.ref`"),
        (r#"claims.ref.name == "main""#, "column ", "only `claims` has fields here"),
        (r#"job.ref == "main""#, "column ", "only `claims` has fields here"),
    ]);
}

#[test]
fn claims_are_compared_with_what_they_are() {
    check_refused(&[
        ("claims.ref == 1", "column ", "text is compared with number"),
        (r#"claims.attempt == "2""#, "column ", "number is compared with text"),
        (
            r#"claims.ref_protected == true"#,
            "column ",
            "text is compared with flag: claims that are text are compared with text in quotes",
        ),
        (r#"claims.trusted == "true""#, "column ", "flag is compared with text"),
        ("claims.ref == claims.attempt", "column ", "text is compared with number"),
        (r#"claims.scopes == "a""#, "column ", "texts is compared with text"),
        (r#"claims.scopes == ["a"]"#, "column ", "here stands a claim"),
        ("claims.scopes == claims.groups_direct", "column ", "lists are not compared"),
        ("claims.ref", "column ", "claims.ref is text, not true or false: write `claims.ref == \"...\"`"),
        ("claims.scopes && claims.trusted", "column ", "write `\"...\" in claims.scopes`"),
        (r#"claims.ref > "a""#, "column ", "only numbers are smaller or greater"),
        ("claims.trusted < true", "column ", "only numbers are smaller or greater"),
        (r#""a" in claims.ref"#, "column ", "claims.ref is text, not a list"),
        ("1 in claims.scopes", "column 1", "claims.scopes has texts"),
        (r#"claims.ref in "main""#, "column ", "after `in` stands a list"),
        (r#"claims.ref in ["main", 1]"#, "column ", "this is number, and text is sought"),
        (r#"claims.ref in ["main", "main"]"#, "column ", "twice"),
        (r#"claims.ref in ["main", claims.sha]"#, "column ", "a list here has values only"),
        ("claims.ref in []", "column ", "1 to 64 values"),
        ("size(claims.attempt) == 1", "column ", "only a claim that is text or texts has a size"),
        ("size(claims.ref) == claims.attempt", "column ", "a size is only compared with a number"),
    ]);
}

#[test]
fn a_condition_that_decides_nothing_does_not_load() {
    check_refused(&[
        ("true", "column 1", "true and false decide nothing"),
        (r#"claims.ref == "main" || true"#, "column ", "true and false decide nothing"),
        (r#""a" == "a""#, "column ", "always the same"),
        (r#""a" in ["a"]"#, "column ", "always the same"),
        ("claims.ref == claims.ref", "column ", "compared with itself"),
        (r#"claims.ref != "a" || claims.ref != "b""#, "the condition is always true", "where `&&`"),
        (r#"claims.ref == "a" || claims.ref != "a""#, "the condition is always true", ""),
        (r#"claims.ref == "a" && claims.ref == "b""#, "the condition is never true", ""),
        (r#"claims.ref in ["a", "b"] && claims.ref in ["c", "d"]"#, "the condition is never true", ""),
        ("claims.trusted || !claims.trusted", "the condition is always true", ""),
        ("claims.attempt > 1 || claims.attempt <= 1", "the condition is always true", ""),
        ("claims.attempt > 1 && claims.attempt < 2", "the condition is never true", ""),
        (
            "claims.attempt < claims.retries || claims.attempt >= claims.retries",
            "the condition is always true",
            "",
        ),
        (r#"size(claims.ref) >= 0"#, "the condition is always true", ""),
        (r#"claims.ref == "main" && size(claims.ref) == 5"#, "the condition is never true", ""),
        (r#""a" in claims.scopes && size(claims.scopes) == 0"#, "the condition is never true", ""),
        ("has(claims.ref) || !has(claims.ref)", "the condition is always true", ""),
        (
            r#"claims.sha == claims.ci_config_sha && claims.sha == "a" && claims.ci_config_sha == "b""#,
            "the condition is never true",
            "",
        ),
        (r#"has(claims.ref) && claims.ref == "main""#, "column ", "has(claims.ref) says nothing here"),
        (r#"!has(claims.ref) || claims.ref == "main""#, "column ", "has(claims.ref) says nothing here"),
    ]);
}

#[test]
fn what_decides_something_loads_however_it_is_put() {
    for text in [
        r#"claims.ref != "a" && claims.ref != "b""#,
        "claims.attempt > 1 && claims.attempt < 3",
        "claims.attempt < claims.retries",
        r#""a" in claims.scopes && "b" in claims.scopes && !("c" in claims.scopes)"#,
        r#"claims.ref in claims.scopes"#,
        r#"!(claims.ref in claims.scopes)"#,
        "size(claims.scopes) > 3",
        "size(claims.ref) == 0",
        r#"claims.sha == claims.ci_config_sha || claims.ref == "main""#,
        r#"!has(claims.environment)"#,
        r#"claims.ref == """#,
        r#"claims.ref in ["a","b","c","d","e","f","g","h","i","j","k","l"] && claims.environment in ["m","n","o","p","q","r","s"] && claims.sha in ["t","u"] && claims.user_id in ["1","2","3"]"#,
    ] {
        compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn what_is_too_long_or_too_deep_is_refused_before_it_is_read() {
    let long = format!("claims.ref == \"{}\"", "a".repeat(1024));
    let deep = format!("{}claims.trusted{}", "(".repeat(400), ")".repeat(400));
    let not = format!("{}claims.trusted", "!".repeat(900));
    let minus = format!("claims.attempt == {}1", "- ".repeat(400));
    let wide = ["claims.trusted"; 60].join("||");
    let list = (1..=64).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    let lists = [format!("claims.attempt in [{list}]").as_str(); 4].join("||");
    let choices = format!("{}claims.trusted", "claims.trusted?claims.trusted:".repeat(30));
    check_refused(&[
        (&long, "the condition is longer than 1024 bytes", "write several items"),
        (&deep, "column 17", "nested more than 16 deep"),
        (&not, "column 17", "nested more than 16 deep"),
        (&minus, "column ", "nested more than 16 deep"),
        (&lists, "column ", "too many parts"),
        (&choices, "column ", "is not available"),
        ("", "the condition is empty", ""),
        (" \n ", "the condition is empty", ""),
    ]);
    assert!(compile(&wide).is_ok());
}

#[test]
fn what_is_no_expression_says_where() {
    check_refused(&[
        (r#"claims.ref = "main""#, "column 12", "this is no condition"),
        (r#"claims.ref == "main" and claims.trusted"#, "column 22", "this is no condition"),
        (r#"claims.ref == "main" &&"#, "column 24", "this is no condition"),
        (r#"claims.ref == "main"#, "column ", "this is no condition"),
        ("claims.ref ==\n  claims.", "line 2, column ", "this is no condition"),
        (r#"has("ref")"#, "column ", "this is no condition"),
        ("claims.ref == “main”", "column ", "this is no condition"),
        ("claims.attempt == 99999999999999999999", "column ", "this is no condition"),
    ]);
}

#[test]
fn texts_that_no_claim_can_have_do_not_load() {
    check_refused(&[
        (r#"claims.ref == "ma\u200bin""#, "column ", "cannot be seen"),
        (r#"claims.ref == "main\n""#, "column ", "cannot be seen"),
        (r#"claims.ref in ["a", "\u202e"]"#, "column ", "cannot be seen"),
    ]);
}

#[test]
fn places_count_characters() {
    check_refused(&[(
        r#"claims.ref == "größer" && claims.reff == "a""#,
        "column 27",
        "did you mean claims.ref?",
    )]);
}

#[test]
fn debug_and_text_are_what_the_author_wrote() {
    let condition = compile(r#"claims.ref == "main""#).unwrap();
    assert_eq!(condition.text(), r#"claims.ref == "main""#);
    assert_eq!(format!("{condition:?}"), r#"Condition("claims.ref == \"main\"")"#);
}
