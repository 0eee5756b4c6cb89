//! Finds a token among the arguments, before anything parses, prints or sends them.
//!
//! No argument of any command is a secret, so whatever looks like one is a mistake: a whole ServiceAccount token where
//! its `jti` belongs, or a join token. It has then been in the shell's history and the process list.

use std::ffi::OsString;

use crate::token_claims::payload;

/// What was pasted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pasted {
    /// A JWT, whole or in part, with its `jti` if that can be read.
    Jwt(Option<String>),
    /// A join token.
    JoinToken,
}

/// The first secret among the arguments.
pub(crate) fn find(arguments: &[OsString]) -> Option<Pasted> {
    arguments.iter().skip(1).find_map(|argument| in_text(&argument.to_string_lossy()))
}

fn in_text(text: &str) -> Option<Pasted> {
    let part_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.split(|c| !part_of_word(c)).find_map(|word| {
        if word.contains("spjt1.") {
            return Some(Pasted::JoinToken);
        }
        // "eyJ" is how every JSON object begins in base64. A whole token has two dots, and a piece of one is long.
        let jwt = word.find("eyJ").map(|start| &word[start..])?;
        (jwt.contains('.') || jwt.len() > 40).then(|| Pasted::Jwt(jti_of(jwt)))
    })
}

/// The `jti` of a token is no secret, and what the one who pasted it needs next.
fn jti_of(jwt: &str) -> Option<String> {
    let claims: serde_json::Value = payload(jwt)?;
    let jti = claims.get("jti")?.as_str()?;
    let harmless = jti.len() <= 64 && jti.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    harmless.then(|| jti.to_owned())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn jwt(claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(claims), part("signature"))
    }

    #[test]
    fn a_whole_token_is_found_wherever_it_stands() {
        let jwt = jwt(r#"{"jti":"4a1c-9"}"#);
        let expected = Some(Pasted::Jwt(Some("4a1c-9".to_owned())));
        for text in
            [jwt.clone(), format!("JTI={jwt}"), format!("--reason=Bearer {jwt} leaked"), format!("'{jwt}'")]
        {
            assert_eq!(in_text(&text), expected, "{text}");
        }
    }

    #[test]
    fn a_piece_of_a_token_is_found_without_its_jti() {
        let jwt = jwt(r#"{"jti":"4a1c-9","iss":"https://kubernetes.default.svc.cluster.local"}"#);
        let payload = jwt.split('.').nth(1).unwrap();
        for text in [payload, jwt.split_once('.').unwrap().1] {
            assert_eq!(in_text(text), Some(Pasted::Jwt(None)), "{text}");
        }
    }

    #[test]
    fn a_join_token_is_found() {
        assert_eq!(in_text("--runners=spjt1.abc.def.ghi"), Some(Pasted::JoinToken));
    }

    #[test]
    fn a_jti_that_could_carry_something_else_is_not_shown() {
        assert_eq!(in_text(&jwt(r#"{"jti":"\u001b[2J"}"#)), Some(Pasted::Jwt(None)));
    }

    #[test]
    fn ordinary_arguments_pass() {
        for text in [
            "JTI=7ee52be0-9045-4653-aa5e-0da57b8dccdc",
            "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d",
            "spiffe://ci.example.org/runner/prod-1",
            "/home/deployer/operator/config.yaml",
            "left the company, see ticket ABC-123. Done.",
            "surveyJ",
        ] {
            assert_eq!(in_text(text), None, "{text}");
        }
    }
}
