//! Tokens and key sets that nobody thought of. `PROPTEST_CASES` says how many.
//!
//! There is no network here: the key is at hand.
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use shorepass_testing::oidc::key_set;

use super::*;
use crate::keys::KeySet;

const URL: &str = "https://ci.example.org";

pub(super) static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate("one"));
static KEYS: LazyLock<KeySet> =
    LazyLock::new(|| KeySet::parse(key_set(&[&KEY]).to_string().as_bytes()).unwrap());
static ISSUER: LazyLock<JobIssuer> = LazyLock::new(|| issuer_at(URL, "ci", RunnerBinding::FirstUse));

pub(super) fn verify(token: &str) -> Result<Verified<'static>, TokenError> {
    let jwt = Jwt::parse(token)?;
    if verify::issuer_of(&jwt)? != URL {
        return Err(Fault::Issuer.because("another issuer"));
    }
    let unverified = Unverified::new(jwt, AUDIENCE, now())?;
    let (kid, algorithm) = (unverified.jwt().kid.clone(), unverified.jwt().algorithm);
    let key = KEYS.select(kid.as_deref(), algorithm).map_err(|_| Fault::Signature.because("another key"))?;
    unverified.verify(key, &ISSUER)
}

/// The claims of a good token: name, and how the value is spelt.
fn good() -> Vec<(String, String)> {
    let (made, expires) = (now().as_second(), now().as_second() + 300);
    [
        ("iss", format!("{URL:?}")),
        ("aud", format!("{AUDIENCE:?}")),
        ("sub", "\"a\"".to_owned()),
        ("iat", made.to_string()),
        ("exp", expires.to_string()),
        ("project", "\"17\"".to_owned()),
        ("job", "\"42\"".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn spelt(claims: &[(String, String)]) -> String {
    let pairs: Vec<String> = claims.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
    format!("{{{}}}", pairs.join(","))
}

fn good_token() -> String {
    KEY.sign_spelt(r#"{"alg":"ES256","kid":"one"}"#, &spelt(&good()))
}

/// A change of one claim.
fn change() -> impl Strategy<Value = (String, String)> {
    let second = now().as_second();
    let name = select(vec![
        "iss",
        "aud",
        "sub",
        "iat",
        "exp",
        "nbf",
        "jti",
        "project",
        "job",
        "attempt",
        "trusted",
        "scopes",
        "Iss",
        "AUD",
        "Project",
        "kubernetes.io",
        "other",
    ]);
    let value = prop_oneof![
        select(vec![
            format!("{URL:?}"),
            format!("{AUDIENCE:?}"),
            format!("[{AUDIENCE:?}]"),
            format!("[{AUDIENCE:?},\"b\"]"),
            "\"\"".to_owned(),
            "null".to_owned(),
            "true".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            "1.5".to_owned(),
            "\"a\"".to_owned(),
            "[\"a\"]".to_owned(),
            "[1]".to_owned(),
            "{\"pod\":{\"name\":\"p\"}}".to_owned(),
            "{\"a\":1,\"A\":2}".to_owned(),
        ]),
        (-90_000_i64..90_000).prop_map(move |offset| (second + offset).to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
    ];
    (name.prop_map(str::to_owned), value)
}

/// What a token must be that is taken, found out in another way: by serde_json, from the last of equal names.
fn is_sound(claims: &[(String, String)]) -> bool {
    let names: Vec<String> = claims.iter().map(|(name, _)| name.to_lowercase()).collect();
    let unique = names.iter().enumerate().all(|(place, name)| !names[..place].contains(name));
    let known = claims.iter().all(|(name, _)| *name == name.to_lowercase());
    unique
        && known
        && !claims.iter().any(|(_, value)| value.contains("\"A\":2"))
        && keeps_every_rule(&serde_json::from_str(&spelt(claims)).unwrap())
}

/// The rules of what a token says, whatever its names are.
pub(super) fn keeps_every_rule(payload: &Value) -> bool {
    let text = |name: &str| payload[name].as_str();
    let second = now().as_second();
    let (Some(made), Some(expires)) = (payload["iat"].as_i64(), payload["exp"].as_i64()) else {
        return false;
    };
    let optional = |name: &str, fits: fn(&Value) -> bool| {
        payload.get(name).is_none_or(|value| value.is_null() || fits(value))
    };
    let texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    text("iss") == Some(URL)
        && (text("aud") == Some(AUDIENCE) || payload["aud"] == json!([AUDIENCE]))
        && text("sub").is_some_and(|subject| !subject.is_empty())
        && made <= second + 60
        && expires > second - 60
        && expires > made
        && expires.saturating_sub(made) <= 86_400
        && optional("nbf", |value| value.is_i64())
        && payload["nbf"]
            .as_i64()
            .is_none_or(|start| start <= second + 60 && Timestamp::from_second(start).is_ok())
        && [made, expires].iter().all(|time| Timestamp::from_second(*time).is_ok())
        && optional("jti", |value| value.as_str().is_some_and(|jti| !jti.is_empty()))
        && ["project", "job"].iter().all(|name| optional(name, Value::is_string))
        && optional("attempt", |value| value.is_i64())
        && optional("trusted", Value::is_boolean)
        && optional("scopes", texts)
        && optional("kubernetes.io", |value| {
            value.get("pod").and_then(|pod| pod.get("name")).is_none_or(Value::is_string)
        })
}

#[test]
fn the_token_that_is_changed_here_is_good() {
    assert!(verify(&good_token()).is_ok() && is_sound(&good()));
}

proptest! {
    #[test]
    fn a_token_is_taken_only_if_it_keeps_every_rule(
        changes in vec((change(), any::<Index>(), any::<bool>()), 0..4)
    ) {
        let mut claims = good();
        for ((name, value), place, adds) in changes {
            let own = claims.iter().position(|(own, _)| *own == name);
            match own {
                Some(own) if !adds => claims[own].1 = value,
                _ => claims.insert(place.index(claims.len() + 1), (name, value)),
            }
        }
        let payload = spelt(&claims);
        let token = KEY.sign_spelt(r#"{"alg":"ES256","kid":"one"}"#, &payload);
        prop_assert_eq!(verify(&token).is_ok(), is_sound(&claims), "{}: {:?}", payload, verify(&token));
    }

    #[test]
    fn a_token_that_is_changed_anywhere_is_refused(
        changes in vec((any::<Index>(), select(("AZaz09-_.= \n\u{e9}").chars().collect::<Vec<_>>()), 0..3_u8), 1..4)
    ) {
        let good = good_token();
        let mut token: Vec<char> = good.chars().collect();
        for (place, character, how) in changes {
            let place = place.index(token.len());
            match how {
                0 => token[place] = character,
                1 => token.insert(place, character),
                _ => drop(token.remove(place)),
            }
        }
        let token: String = token.into_iter().collect();
        prop_assert!(token == good || verify(&token).is_err(), "{}", token);
    }

    #[test]
    fn any_header_is_judged(header in "\\{(\"(alg|kid|typ|crit|b64|jwk)\":(\"(ES256|RS256|none|one|JWT)\"|1|null|\\[\\]|true|\\{\\}),?){0,5}\\}") {
        let token = KEY.sign_spelt(&header, &spelt(&good()));
        if verify(&token).is_ok() {
            let header: Value = serde_json::from_str(&header).unwrap();
            prop_assert_eq!(&header["alg"], "ES256");
            prop_assert!(header.get("crit").is_none() && header.get("b64").is_none());
        }
    }

    #[test]
    fn any_key_set_is_read_or_told_what_is_wrong(
        keys in vec(vec((select(vec!["kty", "kid", "n", "e", "x", "y", "crv", "use", "alg", "key_ops", "k"]), select(vec![
            "\"RSA\"", "\"EC\"", "\"OKP\"", "\"oct\"", "\"AQAB\"", "\"P-256\"", "\"Ed25519\"", "\"\"", "\"=\"", "7", "null", "[\"verify\"]",
            "\"sig\"", "\"ES256\"", "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"",
        ])), 0..8), 0..4)
    ) {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| format!("{{{}}}", key.iter().map(|(name, value)| format!("{name:?}:{value}")).collect::<Vec<_>>().join(",")))
            .collect();
        let document = format!("{{\"keys\":[{}]}}", keys.join(","));
        if let Ok(set) = KeySet::parse(document.as_bytes()) {
            let token = good_token();
            let jwt = Jwt::parse(&token).unwrap();
            if let Ok(key) = set.select(jwt.kid.as_deref(), jwt.algorithm) {
                let unverified = Unverified::new(Jwt::parse(&token).unwrap(), AUDIENCE, now()).unwrap();
                prop_assert!(unverified.verify(key, &ISSUER).is_err());
            }
        }
    }
}
