//! A CI system that gives its jobs tokens: discovery document and keys over HTTPS on loopback, and a key to sign with.
//!
//! It is called `gitlab` or whatever the test says, and says in its tokens what the test wants, true or not.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shorepass_core::caller::SpiffeId;
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_testing::certificates::{Subject, TestCa};
use shorepass_testing::jwt::SigningKey;
use shorepass_testing::oidc::{Answer, DISCOVERY, TestIssuer};

/// The audience of its tokens, where a scenario does not say otherwise.
pub const AUDIENCE: &str = "https://shorepass.test/jobs";

/// It serves until this is dropped.
pub struct CiSystem {
    name: &'static str,
    issuer: TestIssuer,
    key: SigningKey,
    ca: PathBuf,
}

impl CiSystem {
    /// Starts one of that name; the CA to trust for it is written into the folder.
    pub async fn start(name: &'static str, folder: &Path) -> Result<Self> {
        let authority = TestCa::new(&TrustDomain::parse(&format!("{name}.test"))?);
        let now = SystemClock.now();
        let serving = authority.server(&Subject {
            spiffe_id: SpiffeId::parse(&format!("spiffe://{name}.test/issuer/{name}"))?,
            enrolment: EnrolmentId::generate(now, &SystemEntropy),
            now,
        });
        let ca = folder.join(format!("{name}-ca.pem"));
        std::fs::write(&ca, authority.certificate_pem())?;
        let (issuer, key) = (TestIssuer::start(&serving).await, SigningKey::generate("one"));
        issuer.serve_keys(&[&key]);
        Ok(Self { name, issuer, key, ca })
    }

    /// The `iss` of its tokens.
    pub fn url(&self) -> &str {
        self.issuer.url()
    }

    /// The file with the CA to trust for it.
    pub fn ca_file(&self) -> &Path {
        &self.ca
    }

    /// Its item of `spec.jobIssuers`, with what the test says of system and runner.
    pub fn document(&self, system_and_runner: &str) -> String {
        let Self { name, issuer, ca, .. } = self;
        format!(
            "    - {{name: {name}, url: \"{}\", audience: \"{AUDIENCE}\", caFile: {}, {system_and_runner}}}\n",
            issuer.url(),
            ca.display()
        )
    }

    /// Its item of `spec.enrolment.oidc`, with this audience and what the test says of claims and rules.
    pub fn machines(&self, audience: &str, claims_and_rules: &str) -> String {
        let Self { name, issuer, ca, .. } = self;
        format!(
            "      - {{name: {name}, url: \"{}\", audience: \"{audience}\", caFile: {}, {claims_and_rules}}}\n",
            issuer.url(),
            ca.display()
        )
    }

    /// A token of a job, made now and good for five minutes, with these claims beside or in place of the usual ones.
    pub fn token(&self, claims: Value) -> Result<String> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let usual = json!({
            "iss": self.issuer.url(),
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": crate::client::new_id(),
        });
        Ok(self.key.sign(&merged(usual, claims)?))
    }

    /// A token of GitLab for a job of project 4711 on its protected branch `main`, with these claims in place of others.
    pub fn gitlab_token(&self, claims: Value) -> Result<String> {
        self.token(merged(gitlab_claims(), claims)?)
    }

    /// The same without a claim.
    pub fn gitlab_token_without(&self, claim: &str) -> Result<String> {
        let mut all = gitlab_claims();
        all.as_object_mut().context("claims are an object")?.remove(claim).context("it has no such claim")?;
        self.token(all)
    }

    /// It answers nobody any more.
    pub fn go_down(&self) {
        self.issuer.answer(DISCOVERY, Answer::Status(503));
    }
}

/// What GitLab says of a job (its documentation: ID token authentication, token payload).
fn gitlab_claims() -> Value {
    json!({
        "sub": "project_path:group/app:ref_type:branch:ref:main",
        "namespace_id": "72",
        "namespace_path": "group",
        "project_id": "4711",
        "project_path": "group/app",
        "user_id": "1",
        "user_login": "alice",
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
    })
}

/// The first, with what is in the second beside or in place of it.
fn merged(mut claims: Value, others: Value) -> Result<Value> {
    let all = claims.as_object_mut().context("claims are an object")?;
    for (name, value) in others.as_object().context("claims are an object")? {
        all.insert(name.clone(), value.clone());
    }
    Ok(claims)
}
