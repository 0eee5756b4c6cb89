//! The fuzz target of job tokens.
//!
//! A file of the corpus is a token as it is sent, or header and payload on two lines, which are signed here: no key that could
//! sign stands in the corpus.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use shorepass_core::claims::Claim;
use shorepass_testing::seeds::Seeds;

use super::fuzz::{KEY, keeps_every_rule, verify};
use super::*;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/__fuzz__/job-tokens/corpus");

static SEEDS: LazyLock<Seeds> = LazyLock::new(|| Seeds::read(Path::new(CORPUS)));

#[test]
fn job_tokens() {
    let good = |seed: &&[u8]| signed(seed).is_some_and(|(token, _)| verify(&token).is_ok());
    assert_eq!(SEEDS.iter().filter(good).count(), 2, "two are good when they are signed");
    SEEDS.iter().for_each(check);
    bolero::check!(name = "job-tokens").with_iterations(2_000).for_each(|input: &[u8]| {
        check(input);
        check(&SEEDS.changed(input));
    });
}

fn check(input: &[u8]) {
    check_unsigned(&String::from_utf8_lossy(input));
    if let Some((token, [header, payload])) = signed(input) {
        match verify(&token) {
            Ok(verified) => check_taken(&verified, header, payload),
            Err(error) => check_told(&error, &token),
        }
    }
}

/// Two lines as a token with a good signature.
fn signed(input: &[u8]) -> Option<(String, [&[u8]; 2])> {
    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    let (header, payload) = (lines.next()?, lines.next()?);
    Some((KEY.sign_bytes(header, payload), [header, payload]))
}

/// Nobody outside has the key.
fn check_unsigned(token: &str) {
    match verify(token) {
        Ok(verified) => panic!("{token} is taken: {verified:?}"),
        Err(error) => check_told(&error, token),
    }
}

fn check_told(error: &TokenError, token: &str) {
    match error {
        TokenError::Rejected { told, explanation, .. } => {
            assert!(!told.is_empty() && !explanation.is_empty());
            assert!(told.len() < 400 && explanation.len() < 1_000, "{explanation}\n  of {token}");
            let quoted = token.len() > 120 && (told.contains(token) || explanation.contains(token));
            assert!(!quoted, "{explanation}");
        }
        TokenError::Expired(at) => assert!(*at < now(), "{token}"),
        TokenError::Unavailable { .. } => panic!("nobody is asked for keys: {error:?}"),
    }
}

fn check_taken(verified: &Verified<'_>, header: &[u8], payload: &[u8]) {
    let lossy = String::from_utf8_lossy(payload);
    let read =
        |bytes| serde_json::from_slice::<EachNameOnce>(bytes).and_then(|_| serde_json::from_slice(bytes));
    let header: Value = read(header).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        header["alg"] == "ES256" && header.get("crit").is_none() && header.get("b64").is_none(),
        "{header}"
    );
    let payload: Value = read(payload).unwrap_or_else(|error| panic!("{error}: {lossy}"));
    assert!(keeps_every_rule(&payload), "{lossy}");
    assert_eq!(payload["iat"], verified.issued.as_second(), "{lossy}");
    assert_eq!(payload["exp"], verified.expires.as_second(), "{lossy}");
    for known in verified.issuer.known() {
        let pointer: String = known.path.iter().map(|name| format!("/{name}")).collect();
        let there = payload.pointer(&pointer).filter(|value| !value.is_null());
        let claim = verified.claims.get(&known.name).map(|claim| match claim {
            Claim::Text(text) => json!(text),
            Claim::Number(number) => json!(number),
            Claim::Flag(flag) => json!(flag),
            Claim::Texts(texts) => json!(texts),
        });
        assert_eq!(claim.as_ref(), there, "{pointer} of {lossy}");
    }
}

/// JSON in which no name stands twice in one object, not even in another case.
struct EachNameOnce;

impl<'de> Deserialize<'de> for EachNameOnce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for EachNameOnce {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, Self)) = map.next_entry::<String, Self>()? {
            if !names.insert(name.to_lowercase()) {
                return Err(A::Error::custom(format!("{name} stands there twice")));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }
}
