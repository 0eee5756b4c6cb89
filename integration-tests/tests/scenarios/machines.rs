//! Machines that are let in by a token of an OIDC issuer: once, as its rule says, and across a restart.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{self, AgentUnderTest};
use integration_tests::ci_system::{AUDIENCE as JOBS, CiSystem};
use integration_tests::client;
use integration_tests::issuer::{IssuerUnderTest, Knobs, TRUST_DOMAIN};
use integration_tests::site::{DEPLOY, Site};
use serde_json::{Value, json};
use shorepass_proto::v1::{self, ErrorReason as Reason};
use shorepass_rpc::client::ClientError;
use shorepass_tls::{KeyAndRequest, authority_digest};

const AUDIENCE: &str = "https://shorepass.test/machines";

/// Dropped in this order.
struct Stage {
    issuer: IssuerUnderTest,
    cloud: CiSystem,
    _folder: tempfile::TempDir,
    _site: Site,
}

impl Stage {
    async fn set(purpose: &str) -> Result<Self> {
        let site = Site::new(purpose).await?;
        let folder = tempfile::tempdir()?;
        let cloud = CiSystem::start("cloud", folder.path()).await?;
        let rules = "claims: [{name: zone, path: [cloud, zone]}], admit: [{claims: {sub: [vm-1, vm-2], zone: a}, runners: \
                     [\"test-vm-*\"], labels: {zone: a}}]";
        let enrolment = format!("    oidc:\n{}", cloud.machines(AUDIENCE, rules));
        let job_issuers = cloud.document("system: generic, runner: firstUse, jobClaim: sub, claims: [{name: zone, path: [cloud, zone], project: true}]");
        let issuer =
            IssuerUnderTest::start(&site, Knobs { enrolment, job_issuers, ..Knobs::default() }).await?;
        Ok(Self { issuer, cloud, _folder: folder, _site: site })
    }

    fn token(&self, changes: Value) -> Result<String> {
        let mut claims = json!({"sub": "vm-1", "aud": AUDIENCE, "cloud": {"zone": "a"}});
        for (name, value) in changes.as_object().context("changes are an object")? {
            claims[name] = value.clone();
        }
        self.cloud.token(claims)
    }

    async fn enroll(&self, token: &str, name: &str) -> Result<Result<v1::EnrollResponse, ClientError>> {
        let ca = fs::read(self.issuer.state().join("ca.pem"))?;
        let request = v1::EnrollRequest {
            name: name.to_owned(),
            certificate_request_pem: KeyAndRequest::generate(&client::runner_id(TRUST_DOMAIN, name)?)?
                .request_pem,
            oidc_token: token.to_owned(),
            ..Default::default()
        };
        client::enroll_by(&self.issuer, authority_digest(&ca).context("no CA")?, request).await
    }
}

#[tokio::test(flavor = "multi_thread")] // the issuer of tokens answers while a program is waited for
async fn a_machine_is_let_in_by_its_token_once_also_after_a_restart() -> Result<()> {
    let mut stage = Stage::set("machines").await?;
    let token = stage.token(json!({}))?;
    let shown = Some("oidc: {tokenFile: token, caFile: ca.pem}".to_owned());
    let knobs = agent::Knobs { ticket: shown, ..agent::Knobs::default() };
    let mut agent = AgentUnderTest::prepare(&stage.issuer, "test-vm-1", "", knobs)?;
    fs::write(agent.folder().join("token"), &token)?;
    fs::copy(stage.issuer.state().join("ca.pem"), agent.folder().join("ca.pem"))?;
    agent.run().await?;
    agent.token(DEPLOY.name)?;
    let lines = stage.issuer.audit()?;
    let enrolled = lines.iter().find(|line| line["event"] == "runner.enrolled").context("not enrolled")?;
    ensure!(enrolled["tokenIssuer"] == "cloud" && enrolled["tokenSubject"] == "vm-1", "{enrolled}");
    ensure!(enrolled["labels"]["zone"] == "a", "{enrolled}");

    for restarted in [false, true] {
        if restarted {
            stage.issuer.kill()?;
            stage.issuer.run().await?;
        }
        let replayed = client::refused(stage.enroll(&token, "test-vm-2").await?)?;
        ensure!(replayed.reason() == Some(Reason::EnrolmentTokenUsed), "{restarted}: {replayed:?}");
    }
    for output in [agent.log(), stage.issuer.log(), fs::read_to_string(stage.issuer.audit_file())?] {
        let signature = token.rsplit('.').next().context("a token has a signature")?;
        ensure!(!output.contains(signature), "the token was written down");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_token_lets_nobody_in_and_a_machines_token_is_no_jobs() -> Result<()> {
    const REJECTED: Reason = Reason::EnrolmentTokenRejected;
    let stage = Stage::set("no-machines").await?;
    let cases = [
        (json!({"aud": JOBS}), REJECTED, "exactly the audience in enrolment.oidc"),
        (json!({"aud": [AUDIENCE, JOBS]}), REJECTED, "exactly the audience in enrolment.oidc"),
        (json!({"iss": "https://other.test"}), REJECTED, "add it to enrolment.oidc"),
        (json!({"sub": "vm-3"}), REJECTED, "claims of this token let no machine in"),
        (json!({"cloud": {"zone": "b"}}), REJECTED, "claims of this token let no machine in"),
        (json!({"cloud": {"zone": ["a"]}}), REJECTED, "compare what is configured"),
        (json!({"cloud": {}}), REJECTED, "claims of this token let no machine in"),
    ];
    for (changes, reason, told) in cases {
        let error = client::refused(stage.enroll(&stage.token(changes)?, "test-vm-1").await?)?;
        ensure!(error.reason() == Some(reason) && error.to_string().contains(told), "{told}: {error:?}");
    }
    let token = stage.token(json!({}))?;
    let error = client::refused(stage.enroll(&token, "test-1").await?)?;
    ensure!(error.reason() == Some(Reason::RunnerNameNotAllowed), "{error:?}");
    let (rest, signature) = token.rsplit_once('.').context("a token has a signature")?;
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{rest}.{first}{}", &signature[1..]);
    let error = client::refused(stage.enroll(&forged, "test-vm-1").await?)?;
    ensure!(error.reason() == Some(REJECTED) && error.to_string().contains("signature"), "{error:?}");

    let runner = stage.issuer.runner("test-1").await?;
    let error = client::refused(runner.start_job_with(&token).await)?;
    ensure!(
        error.reason() == Some(Reason::JobTokenRejected),
        "a machine's token opened a session: {error:?}"
    );
    runner.start_job_with(&stage.token(json!({"aud": JOBS}))?).await.context("one for jobs does")?;
    let lines = stage.issuer.audit()?;
    ensure!(lines.iter().filter(|line| line["event"] == "runner.enrolled").count() == 1, "{lines:#?}");
    Ok(())
}
