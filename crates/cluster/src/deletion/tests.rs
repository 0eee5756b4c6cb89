//! Answers to deletes, as Kubernetes 1.33 and 1.36 give them, and such as say nothing.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::api_server::refusal;

const UID: &str = "53b6a1f0-c101-4eb3-94a7-4b1fce80641c";
const OTHER: &str = "67835ba9-fa63-4d7a-9660-0f4187e46fda";
const KINDS: [Kind; 3] = [Kind::Secret, Kind::ServiceAccount, Kind::RoleBinding];

/// What an answer says of object `a` in namespace `web`.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Gone,
    Held,
    Nothing,
    Forbidden,
}

fn said_of(kind: Kind, uid: &str, status: u16, body: &str) -> Said {
    let namespace = Name::parse("web").unwrap();
    let deletion = Deletion { kind, namespace: &namespace, name: "a", uid };
    let status = StatusCode::from_u16(status).unwrap();
    let answer = match refusal(status, &HeaderMap::new(), body.as_bytes()) {
        _ if status.is_success() => Ok(Zeroizing::new(body.as_bytes().to_vec())),
        Some(refusal) => Err(ApiError::Refused(Box::new(refusal))),
        None => Err(ApiError::NoAnswer("not a Kubernetes API server".to_owned())),
    };
    match deletion.outcome(answer) {
        Ok(()) => Said::Gone,
        Err(CutError::HeldByFinalizer(what)) => {
            assert_eq!((kind, what.as_str()), (Kind::Secret, "web/a"));
            Said::Held
        }
        Err(CutError::PartHeldByFinalizer(what)) => {
            assert_eq!(what, format!("{} web/a", kind.name()));
            Said::Held
        }
        Err(CutError::Unreachable(_)) => Said::Nothing,
        Err(CutError::Forbidden(_)) => Said::Forbidden,
        Err(error @ CutError::Busy { .. }) => panic!("{error}"),
    }
}

fn success(details: &Value) -> String {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
        .to_string()
}

fn not_found(details: &Value) -> String {
    failure(404, "NotFound", "\"a\" not found", details)
}

fn failure(code: u16, reason: &str, message: &str, details: &Value) -> String {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": details, "code": code,
    })
    .to_string()
}

fn object(kind: &str, metadata: &Value) -> String {
    json!({"kind": kind, "apiVersion": "v1", "metadata": metadata, "data": {"k": "dg=="}}).to_string()
}

#[test]
fn an_answer_about_the_object_counts() {
    for kind in KINDS {
        let (resource, name) = (kind.resource(), kind.name());
        let deleting = "2026-11-26T14:25:37Z";
        let held = |uid| json!({"name": "a", "namespace": "web", "uid": uid, "deletionTimestamp": deleting, "finalizers": ["f"]});
        let shown = if kind == Kind::ServiceAccount { Said::Gone } else { Said::Nothing };
        let rows = [
            (200, success(&json!({"name": "a", "kind": resource, "uid": UID})), Said::Gone),
            (200, success(&json!({"name": "a", "group": "x", "kind": resource})), Said::Gone),
            (404, not_found(&json!({"name": "a", "kind": resource})), Said::Gone),
            (404, not_found(&json!({"name": "a", "group": "x", "kind": resource})), Said::Gone),
            (200, object(name, &json!({"name": "a", "namespace": "web", "uid": UID})), shown),
            (200, object(name, &held(UID)), Said::Held),
            (202, object(name, &held(UID)), Said::Held),
        ];
        for (status, body, said) in rows {
            for uid in [UID, ""] {
                assert_eq!(said_of(kind, uid, status, &body), said, "{kind:?}, {status}: {body}");
            }
        }
    }
}

#[test]
fn what_somebody_else_made_anew_under_the_name_is_not_ours() {
    for kind in KINDS {
        let differs = |uid: &str| {
            format!(
                "Operation cannot be fulfilled on {} \"a\": the UID in the precondition ({uid}) does not match the UID in \
                 record ({OTHER}). The object might have been deleted and then recreated",
                kind.name()
            )
        };
        let conflict = |name: &str, message: &str| {
            failure(409, "Conflict", message, &json!({"name": name, "kind": kind.name()}))
        };
        let said = |uid, body: &str| said_of(kind, uid, 409, body);
        assert_eq!(said(UID, &conflict("a", &differs(UID))), Said::Gone);
        for body in [
            conflict("b", &differs(UID)),
            conflict("a", &differs(OTHER)),
            conflict("a", "the object has been modified; please apply your changes to the latest version"),
            failure(409, "AlreadyExists", &differs(UID), &json!({"name": "a", "kind": kind.name()})),
            failure(409, "Conflict", &differs(UID), &json!({"name": "a", "kind": "Pod"})),
        ] {
            assert_eq!(said(UID, &body), Said::Nothing, "{body}");
        }
        assert_eq!(said("", &conflict("a", &differs(""))), Said::Nothing, "none was demanded");
    }
}

#[test]
fn an_answer_about_anything_else_says_nothing() {
    for kind in KINDS {
        let (resource, name) = (kind.resource(), kind.name());
        let of_another = KINDS.into_iter().find(|other| *other != kind).unwrap();
        let page = "<html>default backend - 404</html>".to_owned();
        let rows = [
            // A path that it does not serve; another object; the namespace; nothing.
            (404, not_found(&json!({}))),
            (404, not_found(&Value::Null)),
            (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound"}).to_string()),
            (404, not_found(&json!({"kind": resource}))),
            (404, not_found(&json!({"name": "a"}))),
            (404, not_found(&json!({"name": "b", "kind": resource}))),
            (404, not_found(&json!({"name": "a", "kind": of_another.resource()}))),
            (404, not_found(&json!({"name": "web", "kind": "namespaces"}))),
            (404, failure(404, "", "x", &json!({"name": "a", "kind": resource}))),
            (404, page.clone()),
            (410, failure(410, "Gone", "x", &json!({"name": "a", "kind": resource}))),
            (200, page),
            (200, String::new()),
            (200, "[]".to_owned()),
            (200, "{}".to_owned()),
            (200, r#"{"kind":"Status","status":"Success"}"#.to_owned()),
            (202, r#"{"kind":"Status","status":"Success","details":null}"#.to_owned()),
            (200, success(&json!({"name": "a"}))),
            (200, success(&json!({"kind": resource, "uid": UID}))),
            (200, success(&json!({"name": "b", "kind": resource, "uid": UID}))),
            (202, success(&json!({"name": "a", "kind": of_another.resource(), "uid": UID}))),
            (202, success(&json!({"name": "a", "kind": resource, "uid": OTHER}))),
            (200, failure(200, "", "x", &json!({"name": "a", "kind": resource}))),
            (200, object(name, &json!({}))),
            (200, object(name, &json!({"name": "b", "namespace": "web", "uid": UID}))),
            (200, object(name, &json!({"name": "a", "namespace": "prod", "uid": UID}))),
            (200, object(name, &json!({"name": "a", "namespace": "web", "uid": OTHER}))),
            (200, object(of_another.name(), &json!({"name": "a", "namespace": "web", "uid": UID}))),
            (200, json!({"kind": name}).to_string()),
            (200, json!({"metadata": {"name": "a", "namespace": "web", "uid": UID}}).to_string()),
        ];
        for (status, body) in rows {
            assert_eq!(said_of(kind, UID, status, &body), Said::Nothing, "{kind:?}, {status}: {body}");
        }
    }
}

/// It can pass on what it was told itself, by a cache that is behind.
#[test]
fn a_webhook_that_finds_nothing_does_not_speak_for_the_api_server() {
    let words = "admission webhook \"guard.example\" denied the request: secrets \"a\" not found";
    let body = failure(404, "NotFound", words, &json!({"name": "a", "kind": "secrets"}));
    assert_eq!(said_of(Kind::Secret, UID, 404, &body), Said::Forbidden);
}

#[test]
fn what_says_nothing_is_told_with_the_object_and_without_the_words_of_the_answer() {
    let namespace = Name::parse("web").unwrap();
    let deletion = Deletion { kind: Kind::Secret, namespace: &namespace, name: "a", uid: "" };
    let body = not_found(&json!({"name": "10.0.0.9", "kind": "hosts"}));
    let refusal = refusal(StatusCode::NOT_FOUND, &HeaderMap::new(), body.as_bytes()).unwrap();
    let told = deletion.outcome(Err(ApiError::Refused(Box::new(refusal)))).unwrap_err().to_string();
    assert!(told.contains("delete secrets in namespace \"web\" (\"a\")"), "{told}");
    assert!(told.contains("does not say that it is gone") && !told.contains("10.0.0.9"), "{told}");
}

#[test]
fn no_more_is_read_than_the_metadata_of_an_object_or_the_details_of_a_status() {
    let held = r#"{"kind":"Secret","metadata":{"name":"a","namespace":"web","deletionTimestamp":"2026-01-01T00:00:00Z"},"data":{"k":"#;
    assert_eq!(said_of(Kind::Secret, UID, 200, held), Said::Held);
    let gone = r#"{"kind":"Status","metadata":{},"status":"Success","details":{"name":"a","kind":"secrets"}"#;
    assert_eq!(said_of(Kind::Secret, UID, 200, gone), Said::Gone);
    for (whole, end) in [(held, held.find(",\"data\"").unwrap()), (gone, gone.len())] {
        assert!(is_enough(&whole.as_bytes()[..end]), "{whole}");
        for end in 0..end {
            assert!(!is_enough(&whole.as_bytes()[..end]), "{}", &whole[..end]);
        }
    }
}
