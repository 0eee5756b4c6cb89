//! cel's own interpreter as the judge: where a condition loads, it decides as CEL does.
use std::collections::HashMap;

use cel::{Context, Program, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Conditions of our language, most of which load.
fn condition() -> impl Strategy<Value = String> {
    let text = select(vec![r#""a""#, r#""b""#, r#""""#, "claims.ref", "claims.sha"]);
    let number = select(vec![
        "0",
        "1",
        "-1",
        "claims.attempt",
        "claims.retries",
        "size(claims.ref)",
        "size(claims.scopes)",
    ]);
    let order = select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let equal = select(vec!["==", "!="]);
    let leaf = prop_oneof![
        (text.clone(), equal.clone(), text.clone())
            .prop_map(|(one, sign, other)| format!("{one} {sign} {other}")),
        (number.clone(), order, number).prop_map(|(one, sign, other)| format!("{one} {sign} {other}")),
        (text.clone(), vec(select(vec![r#""a""#, r#""b""#, r#""c""#]), 1..3))
            .prop_map(|(one, among)| format!("{one} in [{}]", among.join(", "))),
        text.prop_map(|one| format!("{one} in claims.scopes")),
        select(vec![
            "claims.trusted",
            "!claims.trusted",
            "has(claims.environment)",
            "claims.trusted == false"
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" && "))),
            vec(inner.clone(), 2..4).prop_map(|any| format!("({})", any.join(" || "))),
            inner.prop_map(|one| format!("!({one})")),
        ]
    })
}

fn some_claims() -> impl Strategy<Value = Claims> {
    let text = || select(vec!["", "a", "b", "c", "ab"]).prop_map(str::to_owned);
    let parts = (
        text(),
        text(),
        proptest::option::of(text()),
        -2_i64..3,
        -2_i64..3,
        any::<bool>(),
        vec(text(), 0..3),
    );
    parts.prop_map(|(reference, sha, environment, attempt, retries, trusted, scopes)| {
        let mut claims = Claims::default();
        let all = [
            ("ref", Some(Claim::Text(reference))),
            ("sha", Some(Claim::Text(sha))),
            ("environment", environment.map(Claim::Text)),
            ("attempt", Some(Claim::Number(attempt))),
            ("retries", Some(Claim::Number(retries))),
            ("trusted", Some(Claim::Flag(trusted))),
            ("scopes", Some(Claim::Texts(scopes))),
        ];
        for (name, claim) in all {
            if let Some(claim) = claim {
                claims.insert(name, claim).unwrap();
            }
        }
        claims
    })
}

fn by_cel(text: &str, claims: &Claims) -> bool {
    let value = |claim: &Claim| match claim {
        Claim::Text(text) => Value::from(text.clone()),
        Claim::Number(number) => Value::from(*number),
        Claim::Flag(flag) => Value::from(*flag),
        Claim::Texts(texts) => Value::from(texts.iter().cloned().map(Value::from).collect::<Vec<_>>()),
    };
    let claims: HashMap<String, Value> =
        claims.iter().map(|(name, claim)| (name.to_owned(), value(claim))).collect();
    let mut context = Context::default();
    context.add_variable_from_value("claims", claims);
    match Program::compile(text).unwrap().execute(&context) {
        Ok(Value::Bool(verdict)) => verdict,
        other => panic!("{text}: {other:?}"),
    }
}

proptest! {
    #[test]
    fn a_condition_that_loads_decides_as_cel_does(text in condition(), claims in some_claims()) {
        if let Ok(condition) = compile(&text) {
            prop_assert_eq!(condition.holds(&claims).is_ok(), by_cel(&text, &claims), "{}", text);
        }
    }

    #[test]
    fn a_condition_that_is_called_constant_is_the_same_for_all_claims(
        text in condition(), one in some_claims(), other in some_claims()
    ) {
        if let Err(error) = compile(&text)
            && let Some(constant) = error.strip_prefix("the condition is ")
        {
            let expected = constant.starts_with("always");
            prop_assert_eq!(by_cel(&text, &one), expected, "{}", text);
            prop_assert_eq!(by_cel(&text, &other), expected, "{}", text);
        }
    }

    #[test]
    fn any_text_is_either_a_condition_or_told_what_is_wrong(text in ".{0,300}") {
        if let Err(error) = compile(&text) {
            prop_assert!(!error.is_empty());
        }
    }

    #[test]
    fn any_sequence_of_words_of_the_language_is_judged(
        words in vec(select(vec![
            "claims", ".", "ref", "scopes", "(", ")", "[", "]", "==", "!=", "!", "&&", "||", "in", "\"a\"", "1", "-", "has",
            "size", "?", ":", ",", "{", "}", "true", "null", " ", "\n", "b'x'", "`", "\\", "\"", "r\"", "'''", "//",
        ]), 0..80)
    ) {
        let _ = compile(&words.concat());
    }
}
