//! The payload of a job token, read as the issuer reads it, but without the token: nothing is verified here.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use shorepass_config::issuer::JobIssuerConfig;
use shorepass_core::claims::{Claim, ClaimError, Claims};
use shorepass_core::job_issuer::{JobIssuer, KnownClaim};
use shorepass_core::name::Name;

/// As large as the payload of any token that is taken.
const LIMIT: u64 = 16 * 1024;
/// What every token has and the issuer checks by itself: no role can ask for it.
const OF_THE_TOKEN: [&str; 6] = ["iss", "aud", "exp", "nbf", "iat", "jti"];

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    /// Not a file that can be read.
    #[error("cannot read {}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a payload.
    #[error("{} is not the payload of a token: a JSON object of at most 16 KiB", .file.display())]
    NoObject {
        /// The file.
        file: PathBuf,
        /// Where it ends to be one, if the parser says so.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// Nobody's.
    #[error("it is not known whose token that is: {0}")]
    NoIssuer(String),
    /// A claim that the issuer refuses.
    #[error("the issuer refuses such a token: claim {claim} has to be {kind}, and is {found}")]
    Kind {
        /// Its name.
        claim: String,
        /// What it has to be.
        kind: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value that the issuer refuses.
    #[error("the issuer refuses such a token")]
    Unfit(#[from] ClaimError),
}

/// The payload in a file.
pub(crate) fn read(file: &Path) -> Result<Map<String, Value>, PayloadError> {
    let unreadable = |source| PayloadError::Unreadable { file: file.to_owned(), source };
    let no_object = |source| PayloadError::NoObject { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let read = match file == Path::new("-") {
        true => io::stdin().take(LIMIT + 1).read_to_end(&mut bytes),
        false => File::open(file).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes)),
    };
    if read.map_err(unreadable)? as u64 > LIMIT {
        return Err(no_object(None));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(payload)) => Ok(payload),
        Ok(_) => Err(no_object(None)),
        Err(source) => Err(no_object(Some(source))),
    }
}

/// Whose token it is: the one that is named, or the one whose URL is the token's `iss`.
pub(crate) fn issuer<'c>(
    payload: &Map<String, Value>,
    named: Option<&Name>,
    all: &'c [JobIssuerConfig],
) -> Result<&'c JobIssuer, PayloadError> {
    let mut issuers = all.iter().map(|configured| &configured.issuer);
    let (found, sought) = match (named, payload.get("iss").and_then(Value::as_str)) {
        (Some(name), _) => (issuers.find(|issuer| issuer.name() == name), name.to_string()),
        (None, Some(url)) => (issuers.find(|issuer| issuer.url() == url), url.to_owned()),
        (None, None) => {
            return Err(PayloadError::NoIssuer("it has no `iss`; say --issuer NAME".to_owned()));
        }
    };
    found.ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|configured| configured.issuer.name().as_str()).collect();
        let known = if known.is_empty() { "no job issuers".to_owned() } else { known.join(", ") };
        PayloadError::NoIssuer(format!("the issuer's config has no {sought} (it has {known})"))
    })
}

/// The claims that the issuer's tokens are known to have, and the names of what is not read.
pub(crate) fn claims(
    payload: &Map<String, Value>,
    issuer: &JobIssuer,
) -> Result<(Claims, Vec<String>), PayloadError> {
    let mut claims = Claims::default();
    for known in issuer.known() {
        // As the issuer reads it: null is no value.
        if let Some(value) = at(payload, &known.path).filter(|value| !value.is_null()) {
            claims.insert(&known.name, claim(issuer, known, value)?)?;
        }
    }
    let mut unread = Vec::new();
    note_unread(payload, &[], issuer, &mut unread);
    unread.retain(|name| !OF_THE_TOKEN.contains(&name.as_str()));
    Ok((claims, unread))
}

fn at<'p>(payload: &'p Map<String, Value>, path: &[String]) -> Option<&'p Value> {
    let (first, rest) = path.split_first()?;
    let value = payload.get(first)?;
    if rest.is_empty() { Some(value) } else { at(value.as_object()?, rest) }
}

fn claim(issuer: &JobIssuer, known: &KnownClaim, value: &Value) -> Result<Claim, PayloadError> {
    let refused =
        || PayloadError::Kind { claim: known.name.clone(), kind: known.kind.as_str(), found: what(value) };
    let read = match value {
        Value::String(text) => Some(Claim::Text(text.clone())),
        Value::Number(number) => number.as_i64().map(Claim::Number),
        Value::Bool(flag) => Some(Claim::Flag(*flag)),
        Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<String>>>().map(Claim::Texts)
        }
        Value::Null | Value::Object(_) => None,
    };
    read.and_then(|read| issuer.read(known, read)).ok_or_else(refused)
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a flag",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Objects are entered as far as known claims are in them.
fn note_unread(payload: &Map<String, Value>, above: &[String], issuer: &JobIssuer, unread: &mut Vec<String>) {
    for (name, value) in payload {
        let path = [above, std::slice::from_ref(name)].concat();
        if issuer.known().any(|known| known.path == path) {
            continue;
        }
        match value.as_object() {
            Some(below) if issuer.known().any(|known| known.path.starts_with(&path)) => {
                note_unread(below, &path, issuer, unread);
            }
            Some(_) | None => unread.push(path.join(".")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shorepass_core::claims::ClaimKind;
    use shorepass_core::job_issuer::{Declared, RunnerBinding, System};

    use super::*;

    fn gitlab() -> JobIssuer {
        let nested = KnownClaim {
            name: "pod".to_owned(),
            path: vec!["kubernetes.io".to_owned(), "pod".to_owned()],
            kind: ClaimKind::Text,
            project: false,
        };
        let declared = Declared { claims: vec![nested], job: None };
        let (name, url) = (Name::parse("gitlab").unwrap(), "https://gitlab.example.org".to_owned());
        JobIssuer::new(name, System::Gitlab, url, "a".to_owned(), RunnerBinding::FirstUse, declared).unwrap()
    }

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn known_claims_are_read_from_their_places_and_the_others_named() {
        let payload = object(json!({
            "iss": "https://gitlab.example.org", "ref": "main", "extra": 1,
            "kubernetes.io": {"pod": "p", "node": "n"}, "other": {"pod": "p"}
        }));
        let (claims, unread) = claims(&payload, &gitlab()).unwrap();
        let read: Vec<String> = claims.iter().map(|(name, claim)| format!("{name}={claim}")).collect();
        assert_eq!(read, ["pod=\"p\"", "ref=\"main\""]);
        assert_eq!(unread, ["extra", "kubernetes.io.node", "other"]);
    }

    #[test]
    fn a_claim_that_is_null_is_none_as_the_issuer_reads_it() {
        let (read, _) = claims(&object(json!({"ref": null})), &gitlab()).unwrap();
        assert_eq!(read, Claims::default());
    }

    #[test]
    fn a_claim_of_another_kind_is_refused_as_the_issuer_does() {
        for value in [json!(["main"]), json!(true), json!({}), json!(7)] {
            let refused = claims(&object(json!({ "ref": value })), &gitlab());
            assert!(matches!(refused, Err(PayloadError::Kind { .. })), "{refused:?}");
        }
        assert!(matches!(
            claims(&object(json!({"ref": "a\u{202e}"})), &gitlab()),
            Err(PayloadError::Unfit(_))
        ));
    }

    #[test]
    fn the_issuer_is_the_one_of_the_payload_unless_another_is_named() {
        let all = [JobIssuerConfig { issuer: gitlab(), documents: Default::default() }];
        let of = |payload: Value, named: Option<&str>| {
            let named = named.map(|name| Name::parse(name).unwrap());
            issuer(&object(payload), named.as_ref(), &all).map(|issuer| issuer.name().to_string()).ok()
        };
        assert_eq!(of(json!({"iss": "https://gitlab.example.org"}), None).as_deref(), Some("gitlab"));
        assert_eq!(of(json!({"iss": "https://gitlab.example.org/"}), None), None);
        assert_eq!(of(json!({}), None), None);
        assert_eq!(of(json!({}), Some("gitlab")).as_deref(), Some("gitlab"));
        assert_eq!(of(json!({"iss": "https://gitlab.example.org"}), Some("github")), None);
    }
}
