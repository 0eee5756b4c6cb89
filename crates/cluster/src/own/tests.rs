//! What counts as the issuer's own token, and what its refusals mean.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use shorepass_core::token::Token;

use super::*;

const ISSUED: i64 = 1_800_000_000;
const DAY: i64 = 24 * 3600;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn account() -> OwnAccount {
    OwnAccount { namespace: name("home"), service_account: name("issuer"), secret: name("own") }
}

fn claims() -> Claims {
    Claims {
        jti: "j".to_owned(),
        namespace: "home".to_owned(),
        service_account: "issuer".to_owned(),
        service_account_uid: "a".to_owned(),
        secret: "own".to_owned(),
        secret_uid: "u".to_owned(),
        audiences: vec!["kubernetes".to_owned()],
        expires: second(ISSUED + DAY),
    }
}

fn granted(change: impl FnOnce(&mut Claims)) -> Granted {
    let mut claims = claims();
    change(&mut claims);
    Granted {
        token: Token::new("x.y.z".to_owned()),
        audiences: vec!["kubernetes".to_owned()],
        created: second(ISSUED),
        expires: claims.expires,
        claims,
    }
}

#[test]
fn only_what_was_asked_for_is_kept() {
    let check =
        |change: fn(&mut Claims)| account().check(&granted(change), "u", OWN_LIFE, second(ISSUED + 1));
    assert_eq!(check(|_| {}), Ok(()));
    type Change = fn(&mut Claims);
    let table: [(Change, &str); 8] = [
        (|claims| claims.service_account = "deployer".to_owned(), "of ServiceAccount home/deployer"),
        (|claims| claims.namespace = "web".to_owned(), "of ServiceAccount web/issuer"),
        (|claims| claims.secret = "other".to_owned(), "bound to Secret other"),
        (|claims| claims.secret = String::new(), "not bound to a Secret"),
        (|claims| claims.secret_uid = "v".to_owned(), "another Secret of the name"),
        (|claims| claims.audiences = vec!["vault".to_owned()], "its audiences are [\"vault\"]"),
        (|claims| claims.expires = second(ISSUED + DAY + 60), "it ends at"),
        (|claims| claims.expires = second(ISSUED), "it ends at"),
    ];
    for (change, said) in table {
        let problem = check(change).unwrap_err();
        assert!(problem.contains(said), "{said}: {problem}");
    }
}

#[test]
fn a_slow_answer_makes_its_end_later_by_as_long_as_it_took_and_no_more() {
    let ends_later = |seconds| {
        let granted = granted(|claims| claims.expires = second(ISSUED + DAY + seconds));
        account().check(&granted, "u", OWN_LIFE, second(ISSUED + 9))
    };
    assert_eq!(ends_later(8), Ok(()));
    assert!(ends_later(12).is_err());
}

fn credential(text: &str) -> (tempfile::TempDir, OwnCredential) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.token");
    std::fs::write(&file, text).unwrap();
    (folder, OwnCredential { account: account(), file })
}

fn jwt(secret: &serde_json::Value) -> String {
    let kubernetes = json!({
        "namespace": "home", "serviceaccount": {"name": "issuer", "uid": "a"}, "secret": secret,
    });
    let payload = json!({"jti": "j", "aud": ["k"], "exp": ISSUED, "kubernetes.io": kubernetes});
    format!("h.{}.s", URL_SAFE_NO_PAD.encode(payload.to_string()))
}

#[test]
fn the_file_must_have_the_own_token_and_is_never_quoted() {
    let (_folder, good) = credential(&format!("{}\n", jwt(&json!({"name": "own", "uid": "u"}))));
    assert_eq!(good.ends().unwrap(), second(ISSUED));
    for (text, said) in [
        (jwt(&json!({"name": "other", "uid": "u"})), "bound to Secret other"),
        (jwt(&serde_json::Value::Null), "not bound to a Secret"),
        ("hunter2".to_owned(), "no token of a ServiceAccount"),
        ("x".repeat(70_000), "more than a token"),
    ] {
        let (_folder, odd) = credential(&text);
        let problem = odd.ends().unwrap_err().to_string();
        assert!(problem.contains(said) && !problem.contains("hunter2"), "{said}: {problem}");
    }
}

#[test]
fn a_refusal_before_the_end_is_the_kill_switch_and_after_it_is_not() {
    let (_folder, own) = credential("");
    let told = |code, now| {
        let refusal = Refusal {
            code,
            reason: String::new(),
            message: "words".to_owned(),
            kind: String::new(),
            name: String::new(),
            causes: Vec::new(),
            retry_after: None,
        };
        own.refused(ApiError::Refused(Box::new(refusal)), second(ISSUED), second(now))
    };
    for code in [401, 404, 409] {
        let said = told(code, ISSUED - 1);
        assert!(matches!(&said, RenewError::Gone { .. }), "{code}: {said}");
        assert!(
            said.to_string().contains("Secret home/own") && said.to_string().contains("bootstrap"),
            "{said}"
        );
    }
    assert!(matches!(told(401, ISSUED), RenewError::Ended(_)));
    assert!(matches!(told(403, ISSUED - 1), RenewError::Forbidden(_)));
    assert!(matches!(told(422, ISSUED - 1), RenewError::Forbidden(_)));
    assert!(matches!(told(429, ISSUED - 1), RenewError::Unreachable(_)));
}

#[test]
fn a_user_with_anything_but_a_token_file_is_not_renewed() {
    let read = |user: &str| {
        let text = format!(
            "{{contexts: [{{name: c, context: {{cluster: k, user: u}}}}], users: [{{name: u, user: {user}}}]}}"
        );
        token_file(&Kubeconfig::from_yaml(&text).unwrap(), "c")
    };
    assert_eq!(read("{tokenFile: /a/b.token}"), Some("/a/b.token".to_owned()));
    for user in ["{}", "{token: t, tokenFile: /a}", "{tokenFile: /a, client-certificate: /b, client-key: /c}"]
    {
        assert_eq!(read(user), None, "{user}");
    }
}
