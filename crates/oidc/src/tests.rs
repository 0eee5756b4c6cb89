//! Tokens against a small issuer in this process: good ones, and each kind that must be refused.
mod fuzz;
mod keys;
mod machines;
mod systems;
mod target;
mod tokens;

use std::time::Duration;

use serde_json::{Value, json};
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::claims::ClaimKind;
use shorepass_core::id::EnrolmentId;
use shorepass_core::job_issuer::{Declared, KnownClaim, RunnerBinding, System};
use shorepass_core::name::{Name, TrustDomain};
use shorepass_testing::certificates::{Subject, TestCa};
use shorepass_testing::jwt::SigningKey;
use shorepass_testing::oidc::TestIssuer;

use super::*;

const AUDIENCE: &str = "https://shorepass.example.org/jobs";

/// An issuer that serves one key, and a verifier that trusts it.
struct Bench {
    server: TestIssuer,
    ca_pem: Vec<u8>,
    key: SigningKey,
    verifier: Verifier,
}

/// The moment of most tests; tokens do not care what the time is outside.
fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn later(seconds: u64) -> Timestamp {
    after(now(), Duration::from_secs(seconds))
}

fn runner(name: &str) -> SpiffeId {
    let trust_domain = TrustDomain::parse("ci.example.org").unwrap();
    SpiffeId { trust_domain, kind: Kind::Runner, name: Name::parse(name).unwrap() }
}

/// A server whose certificate names `localhost`, and the authority that vouches for it.
async fn serve() -> (TestIssuer, Vec<u8>) {
    let spiffe_id = runner("oidc");
    let ca = TestCa::new(&spiffe_id.trust_domain);
    let enrolment = EnrolmentId::parse("0190d5a6-7c3e-7b1a-8f00-000000000001").unwrap();
    let subject = Subject { spiffe_id, enrolment, now: Timestamp::now() };
    (TestIssuer::start(&ca.server(&subject)).await, ca.certificate_pem().as_bytes().to_vec())
}

fn declared() -> Declared {
    let claim = |name: &str, path: &[&str], kind, project| KnownClaim {
        name: name.to_owned(),
        path: path.iter().map(|part| (*part).to_owned()).collect(),
        kind,
        project,
    };
    Declared {
        claims: vec![
            claim("project", &["project"], ClaimKind::Text, true),
            claim("job", &["job"], ClaimKind::Text, false),
            claim("attempt", &["attempt"], ClaimKind::Number, false),
            claim("trusted", &["trusted"], ClaimKind::Flag, false),
            claim("scopes", &["scopes"], ClaimKind::Texts, false),
            claim("pod", &["kubernetes.io", "pod", "name"], ClaimKind::Text, false),
        ],
        job: Some("job".to_owned()),
    }
}

fn issuer_at(url: &str, name: &str, runner: RunnerBinding) -> JobIssuer {
    let name = Name::parse(name).unwrap();
    JobIssuer::new(name, System::Generic, url.to_owned(), AUDIENCE.to_owned(), runner, declared()).unwrap()
}

fn trusted(server: &TestIssuer, ca_pem: &[u8]) -> Trusted {
    let issuer = issuer_at(server.url(), "ci", RunnerBinding::FirstUse);
    Trusted { issuer, ca_pem: Some(ca_pem.to_vec()), places: Places::default() }
}

async fn bench_with(key: SigningKey) -> Bench {
    let (server, ca_pem) = serve().await;
    server.serve_keys(&[&key]);
    let verifier = Verifier::new(vec![trusted(&server, &ca_pem)]).unwrap();
    Bench { server, ca_pem, key, verifier }
}

async fn bench() -> Bench {
    bench_with(SigningKey::generate("one")).await
}

impl Bench {
    /// The claims of a good token.
    fn claims(&self) -> Value {
        json!({
            "iss": self.server.url(),
            "aud": AUDIENCE,
            "sub": "project:17",
            "iat": now().as_second(),
            "exp": now().as_second() + 300,
            "jti": "token-1",
            "project": "17",
            "job": "42",
        })
    }

    /// The same with other values; `null` takes a claim away.
    fn with(&self, changes: Value) -> Value {
        let mut claims = self.claims();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }

    async fn verify_at(&self, token: &str, now: Timestamp) -> Result<VerifiedJob, JobTokenError> {
        self.verifier.verify(&JobToken::new(token.to_owned()), &runner("prod-1"), now).await
    }

    async fn verify(&self, token: &str) -> Result<VerifiedJob, JobTokenError> {
        self.verify_at(token, now()).await
    }

    /// Checks that a token is refused, for which reason the operator is told, and that its bearer is told what to do.
    async fn check_refused(&self, token: &str, part: &str) {
        let (told, explanation) = rejected(self.verify(token).await);
        assert!(explanation.contains(part), "{explanation}\n  should say {part}");
        assert!(told.contains("ask ") || told.contains("pass on"), "{told} says nothing to do");
    }
}

/// What is told of a token that is rejected.
fn rejected(verified: Result<VerifiedJob, JobTokenError>) -> (String, String) {
    match verified {
        Err(JobTokenError::Rejected { told, explanation }) => (told, explanation),
        other => panic!("should be rejected: {other:?}"),
    }
}

/// Why keys cannot be had, and when to come back.
fn unavailable(verified: Result<VerifiedJob, JobTokenError>) -> (String, Duration) {
    match verified {
        Err(JobTokenError::Unavailable { explanation, retry_after, .. }) => (explanation, retry_after),
        other => panic!("its keys should be unavailable: {other:?}"),
    }
}
