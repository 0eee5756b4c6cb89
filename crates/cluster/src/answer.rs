//! What an API server answers: TokenRequests with the claims of their tokens, and little else.
//!
//! Nothing here checks a signature: the answer came over the API server's TLS. Errors say where a text is malformed and
//! never quote it; a parser's own message may.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use shorepass_core::mint::Claims;
use shorepass_core::time::Timestamp;
use shorepass_core::token::Token;
use zeroize::Zeroizing;

/// A TokenRequest that came back.
pub(crate) struct Granted {
    pub(crate) token: Token,
    pub(crate) claims: Claims,
    pub(crate) audiences: Vec<String>,
    pub(crate) created: Timestamp,
    pub(crate) expires: Timestamp,
}

/// Reads the answer to a TokenRequest, or says what is wrong with it.
pub(crate) fn granted(body: &[u8]) -> Result<Granted, String> {
    let answer: TokenRequest<'_> = parse("the TokenRequest", body)?;
    let claims = claims(&answer.status.token)?;
    Ok(Granted {
        claims,
        token: Token::new(answer.status.token.into_owned()),
        audiences: answer.spec.audiences,
        created: answer.metadata.creation_timestamp,
        expires: answer.status.expiration_timestamp,
    })
}

/// Reads the UID of an object that was created; `what` is its kind.
pub(crate) fn created_uid(what: &str, body: &[u8]) -> Result<String, String> {
    let object: Created = parse(&format!("the created {what}"), body)?;
    if object.metadata.uid.is_empty() {
        Err(format!("the created {what} has no uid"))
    } else {
        Ok(object.metadata.uid)
    }
}

/// Says where a text is malformed, and does not quote it.
pub(crate) fn parse<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("{what} is malformed at line {} column {}", error.line(), error.column()))
}

/// The payload of a JWT (RFC 7519), as JSON. Nothing is verified.
pub(crate) fn payload(token: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let of_a_jwt = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !token.bytes().all(of_a_jwt) {
        return Err("the token holds what no JWT does".to_owned());
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("the token is not a JWT of three parts".to_owned());
    };
    if header.is_empty() || signature.is_empty() {
        return Err("the token has an empty part".to_owned());
    }
    let payload = URL_SAFE_NO_PAD.decode(payload);
    payload.map(Zeroizing::new).map_err(|_| "the token's payload is not base64url".to_owned())
}

/// What a ServiceAccount token says.
pub(crate) fn claims(token: &str) -> Result<Claims, String> {
    let payload: Payload = parse("the token's payload", &payload(token)?)?;
    let secret = payload.kubernetes.secret.unwrap_or_default();
    Ok(Claims {
        jti: payload.jti,
        namespace: payload.kubernetes.namespace,
        service_account: payload.kubernetes.serviceaccount.name,
        service_account_uid: payload.kubernetes.serviceaccount.uid,
        secret: secret.name,
        secret_uid: secret.uid,
        audiences: match payload.aud {
            Audience::One(one) => vec![one],
            Audience::Many(many) => many,
        },
        expires: Timestamp::from_second(payload.exp)
            .map_err(|_| "the token's exp is out of range".to_owned())?,
    })
}

#[derive(Deserialize)]
struct TokenRequest<'a> {
    metadata: TokenRequestMetadata,
    spec: TokenRequestSpec,
    #[serde(borrow)]
    status: TokenRequestStatus<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenRequestMetadata {
    creation_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct TokenRequestSpec {
    audiences: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenRequestStatus<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    expiration_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    jti: String,
    aud: Audience,
    exp: i64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

/// RFC 7519, section 4.1.3 allows both.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Reference,
    secret: Option<Reference>,
}

#[derive(Deserialize, Default)]
struct Reference {
    name: String,
    uid: String,
}

#[derive(Deserialize)]
struct Created {
    metadata: CreatedMetadata,
}

#[derive(Deserialize)]
struct CreatedMetadata {
    #[serde(default)]
    uid: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: &str = r#"{"aud":["api"],"exp":1600,"jti":"j","kubernetes.io":{"namespace":"web",
        "serviceaccount":{"name":"deployer","uid":"s"},"secret":{"name":"shorepass-x","uid":"a"},"node":null}}"#;

    fn jwt(payload: &str) -> String {
        format!("h.{}.s", URL_SAFE_NO_PAD.encode(payload))
    }

    fn answer(token: &str) -> String {
        format!(
            r#"{{"kind":"TokenRequest","metadata":{{"creationTimestamp":"1970-01-01T00:16:40Z"}},
            "spec":{{"audiences":["api"],"expirationSeconds":600}},
            "status":{{"token":"{token}","expirationTimestamp":"1970-01-01T00:26:40Z"}}}}"#
        )
    }

    fn problem(body: &str) -> String {
        granted(body.as_bytes()).err().expect("it must be refused")
    }

    #[test]
    fn an_answer_gives_the_token_and_what_it_says_about_itself() {
        let granted = granted(answer(&jwt(PAYLOAD)).as_bytes()).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(granted.token.expose(), jwt(PAYLOAD));
        assert_eq!(granted.claims.secret_uid, "a");
        assert_eq!(granted.claims.audiences, ["api"]);
        assert_eq!(granted.created.as_second(), 1_000);
        assert_eq!(granted.expires, granted.claims.expires);
    }

    #[test]
    fn a_token_without_a_secret_is_read_as_unbound() {
        let unbound = PAYLOAD.replace(r#""secret":{"name":"shorepass-x","uid":"a"},"#, "");
        let granted =
            granted(answer(&jwt(&unbound)).as_bytes()).unwrap_or_else(|problem| panic!("{problem}"));
        assert!(granted.claims.secret.is_empty() && granted.claims.secret_uid.is_empty());
    }

    #[test]
    fn malformed_answers_and_tokens_are_refused() {
        let of = |payload: &str| answer(&jwt(payload));
        for body in [
            String::new(),
            "[]".to_owned(),
            answer(""),
            answer("a.b"),
            answer("a.b.c.d"),
            answer(".e30.s"),
            answer("h.e30="),
            answer("h.!!.s"),
            answer(&format!("{}\\n", jwt(PAYLOAD))),
            answer(&format!(" {}", jwt(PAYLOAD))),
            answer(&format!("{}=", jwt(PAYLOAD))),
            answer(&jwt(PAYLOAD).replacen('.', "é.", 1)),
            of("{}"),
            of(&PAYLOAD.replace("1600", "\"1600\"")),
            of(&PAYLOAD.replace("1600", "99999999999999999999")),
            of(&PAYLOAD.replace("1600", "9223372036854775807")),
            of(&PAYLOAD.replace("[\"api\"]", "7")),
            of(&PAYLOAD.replace("\"jti\":\"j\"", "\"jti\":\"j\",\"jti\":\"k\"")),
            of(&PAYLOAD.replace("\"uid\":\"a\"", "\"uid\":\"a\",\"uid\":\"b\"")),
            of(&PAYLOAD.replace("\"namespace\":\"web\"", "\"namespace\":\"web\",\"namespace\":\"prod\"")),
            answer(&jwt(PAYLOAD)).replace("\"status\"", "\"status\":{},\"status\""),
            answer(&jwt(PAYLOAD)).replace("1970-01-01T00:26:40Z", "soon"),
        ] {
            assert!(!problem(&body).is_empty(), "{body}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_token() {
        let misplaced = r#"{"metadata":"eyJsecret","spec":{},"status":{}}"#;
        assert!(!problem(misplaced).contains("eyJsecret"));
        let payload = PAYLOAD.replace("1600", "\"eyJsecret\"");
        assert!(!problem(&answer(&jwt(&payload))).contains("eyJsecret"));
    }
}
