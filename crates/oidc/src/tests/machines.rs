//! Tokens of machines: by the same rules as those of jobs, with other words.
use shorepass_core::claims::{Claim, ClaimKind};
use shorepass_core::machine_token::{MachineToken, MachineTokenError, MachineTokens as _};
use shorepass_testing::oidc::{Answer, DISCOVERY};

use super::*;

const MACHINES: &str = "https://shorepass.example.org/machines";

fn machines(bench: &Bench) -> Machines {
    let zone = KnownClaim {
        name: "zone".to_owned(),
        path: vec!["cloud".to_owned(), "zone".to_owned()],
        kind: ClaimKind::Text,
        project: false,
    };
    let name = Name::parse("cloud").unwrap();
    let url = bench.server.url().to_owned();
    let issuer = JobIssuer::of_machines(name, url, MACHINES.to_owned(), vec![zone]).unwrap();
    let trusted = Trusted { issuer, ..trusted(&bench.server, &bench.ca_pem) };
    Machines(Verifier::new(vec![trusted]).unwrap())
}

fn token(bench: &Bench, changes: Value) -> String {
    let mut claims = bench.with(json!({"aud": MACHINES, "sub": "vm-1", "cloud": {"zone": "a"}}));
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    bench.key.sign(&claims)
}

/// Whether it is seen without its signature, and what is told.
async fn refused(machines: &Machines, token: &str) -> (bool, String, String) {
    let seen = machines.look(token, now()).is_err();
    match machines.verify(token, now()).await {
        Err(MachineTokenError::Rejected { told, explanation }) => (seen, told.to_owned(), explanation),
        other => panic!("should be rejected: {other:?}"),
    }
}

#[tokio::test]
async fn a_machines_token_gives_its_subject_and_claims() {
    let bench = bench().await;
    let verifier = machines(&bench);
    let good = token(&bench, json!({}));
    assert_eq!(verifier.look(&good, now()), Ok(()));
    let MachineToken { issuer, subject, claims, spent_until, .. } =
        verifier.verify(&good, now()).await.unwrap();
    assert_eq!((issuer.as_str(), subject.as_str(), spent_until), ("cloud", "vm-1", later(360)));
    assert_eq!(claims.get("zone"), Some(&Claim::Text("a".to_owned())));
    assert_eq!(claims.get("project"), None, "what is not configured is not read");
}

#[tokio::test]
async fn other_tokens_are_refused_and_most_of_them_before_their_signature_is_looked_at() {
    let bench = bench().await;
    let verifier = machines(&bench);
    let good = token(&bench, json!({}));
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let second = now().as_second();
    let cases = [
        ("a.b.c".to_owned(), true, "one JWT"),
        (token(&bench, json!({"aud": AUDIENCE})), true, "exactly the audience in enrolment.oidc"),
        (token(&bench, json!({"aud": [MACHINES, AUDIENCE]})), true, "no other"),
        (token(&bench, json!({"iss": "https://other.example.org"})), true, "add it to enrolment.oidc"),
        (token(&bench, json!({"iat": second - 900, "exp": second - 600})), true, "has expired"),
        (token(&bench, json!({"iat": second, "exp": second + 90_000})), true, "24 hours"),
        (token(&bench, json!({"sub": 5})), true, "each once"),
        (format!("{rest}.{first}{}", &signature[1..]), false, "signature"),
        (token(&bench, json!({"cloud": {"zone": ["a"]}})), false, "compare what is configured"),
    ];
    for (shown, early, told) in cases {
        let (seen, remedy, explanation) = refused(&verifier, &shown).await;
        assert!(remedy.contains(told), "{told}: {remedy} ({explanation})");
        assert_eq!(seen, early, "{told}");
        assert!(!remedy.contains("CI system"), "{remedy}");
    }
    bench.server.answer(DISCOVERY, Answer::Status(503));
    let without_keys = machines(&bench).verify(&token(&bench, json!({})), now()).await;
    assert!(matches!(without_keys, Err(MachineTokenError::Unavailable { .. })), "{without_keys:?}");
}
