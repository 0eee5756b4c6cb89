//! Roles that ask for a job's token: who gets them, and everybody who does not, each with what to do about it.

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{self, AgentUnderTest};
use integration_tests::ci_system::{AUDIENCE, CiSystem};
use integration_tests::client::{self, Client};
use integration_tests::issuer::{self, IssuerUnderTest};
use integration_tests::process::Done;
use integration_tests::site::Site;
use serde_json::{Value, json};
use shorepass_proto::v1::ErrorReason as Reason;
use shorepass_rpc::client::ClientError;

/// The sentence of the documentation: the deploy job on the protected branch main of project 4711, on a production runner.
const SHIP: &str = "\
apiVersion: shorepass.dev/v1
kind: Role
metadata: {name: ship}
spec:
  cluster: test
  target: {namespace: @NAMESPACE@, serviceAccount: deployer}
  lifetimes: {token: {default: 10m, max: 20m}, lease: {default: 1h, max: 1h}}
  subjects:
    - runners: [test-*]
      labels: {pool: production}
      jobs:
        issuer: gitlab
        claims:
          project_id: \"4711\"
          ref: main
          ref_type: branch
          ref_protected: \"true\"
          pipeline_source: [push, web]
        condition: claims.user_id != \"666\"
";

/// A role for jobs of another system, whose tokens name no runner but in their audience.
const BUILD: &str = "\
apiVersion: shorepass.dev/v1
kind: Role
metadata: {name: build}
spec:
  cluster: test
  target: {namespace: @NAMESPACE@, serviceAccount: deployer}
  lifetimes: {token: {default: 10m, max: 20m}}
  subjects:
    - runners: [test-*]
      jobs: {issuer: own, claims: {project: 7}}
";

const GITLAB: &str = "system: gitlab, runner: label, runnerLabel: gitlab-runner-id";
const OWN: &str = "system: generic, runner: audience, jobClaim: build, claims: [{name: build}, {name: project, path: [ci, project], type: number, project: true}]";

/// Dropped in this order.
struct Stage {
    issuer: IssuerUnderTest,
    gitlab: CiSystem,
    own: CiSystem,
    _folder: tempfile::TempDir,
    _site: Site,
}

impl Stage {
    async fn set(purpose: &str) -> Result<Self> {
        let site = Site::new(purpose).await?;
        let folder = tempfile::tempdir()?;
        let gitlab = CiSystem::start("gitlab", folder.path()).await?;
        let own = CiSystem::start("own", folder.path()).await?;
        let knobs = issuer::Knobs {
            job_issuers: gitlab.document(GITLAB) + &own.document(OWN),
            roles: format!("{SHIP}---\n{BUILD}"),
            ..issuer::Knobs::default()
        };
        let issuer = IssuerUnderTest::start(&site, knobs).await?;
        Ok(Self { issuer, gitlab, own, _folder: folder, _site: site })
    }

    /// A runner that is GitLab's runner of that number.
    async fn runner(&self, name: &str, number: &str) -> Result<Client> {
        let label = format!("gitlab-runner-id={number}");
        self.issuer.labelled_runner(name, &["pool=production", &label]).await
    }

    /// Every line of the audit file about a decision, as one text.
    fn decision(&self, error: &ClientError) -> Result<String> {
        let id = &error.refusal().context("not refused")?.metadata["decision_id"];
        let lines = self.issuer.audit()?;
        let line = lines.iter().find(|line| line["decision"] == id.as_str()).context("no such decision")?;
        Ok(line["explanation"].as_str().context("it is not explained")?.to_owned())
    }
}

fn job_tool(agent: &AgentUnderTest, arguments: &[&str], token: Option<&str>) -> Result<Done> {
    let mut command = agent.tool("shorepass");
    command.arg("job").args(arguments);
    if let Some(token) = token {
        command.env("SHOREPASS_JOB_TOKEN", token);
    }
    Done::of(&mut command)
}

#[tokio::test(flavor = "multi_thread")] // the CI system answers while a program is waited for
async fn the_job_that_the_role_means_works_with_kubectl_until_it_ends() -> Result<()> {
    let stage = Stage::set("jobs").await?;
    let labels = ["pool=production", "gitlab-runner-id=1"];
    let join_token = stage.issuer.labelled_join_token("test-1", &labels).await?;
    let mut agent = AgentUnderTest::prepare(&stage.issuer, "test-1", &join_token, agent::Knobs::default())?;
    agent.run().await?;

    let refused = agent.exec("ship")?;
    ensure!(refused.stderr.contains("hand one over when the job starts"), "{}", refused.stderr);

    let token = stage.gitlab.gitlab_token(json!({}))?;
    job_tool(&agent, &["start"], Some(&token))?.succeeded()?;
    let kubectl =
        |agent: &AgentUnderTest| Done::of(agent.kubectl("ship")?.args(["auth", "whoami", "-o", "json"]));
    let first: Value = serde_json::from_str(&kubectl(&agent)?.succeeded()?)?;
    ensure!(
        first["status"]["userInfo"]["username"].as_str().is_some_and(|name| name.ends_with(":deployer")),
        "{first}"
    );

    agent.kill()?;
    agent.run().await?;
    kubectl(&agent)?.succeeded().context("after a restart of the agent the session goes on")?;
    let replayed = job_tool(&agent, &["start"], Some(&token))?;
    ensure!(replayed.code == Some(3), "{replayed:?}");
    ensure!(replayed.stderr.contains("opened a job session already"), "{}", replayed.stderr);
    kubectl(&agent)?.succeeded().context("a refused token takes nothing away")?;

    let shown = agent::as_operator(&stage.issuer, &["lease", "list"])?.succeeded()?;
    ensure!(shown.contains("gitlab/302"), "{shown}");
    let ended = job_tool(&agent, &["end"], None)?.succeeded()?;
    ensure!(ended.contains("1 lease(s) given back"), "{ended}");
    let refused = kubectl(&agent)?;
    ensure!(refused.code != Some(0), "the job has ended: {refused:?}");
    for output in [agent.log(), stage.issuer.log(), std::fs::read_to_string(stage.issuer.audit_file())?] {
        let signature = token.rsplit('.').next().context("a token has a signature")?;
        ensure!(!output.contains(signature), "a job token was written down");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_job_is_refused_with_what_a_person_can_do_about_it() -> Result<()> {
    let stage = Stage::set("jobs-refused").await?;
    let runner = stage.runner("test-1", "1").await?;
    let granted = runner.start_job_with(&stage.gitlab.gitlab_token(json!({}))?).await?;
    runner.issue(&granted, "ship").await?;

    // The same job but for one thing: what it is told, and what only the operator is told.
    let but = |claims: Value| stage.gitlab.gitlab_token(claims);
    let others = [
        (
            but(json!({"ref": "feature"}))?,
            "the job's ref is \"feature\", which the role does not take",
            "not \"main\"",
        ),
        (but(json!({"ref_protected": "false"}))?, "the job's ref_protected is \"false\"", "not \"true\""),
        (but(json!({"ref_type": "tag"}))?, "the job's ref_type is \"tag\"", "not \"branch\""),
        (but(json!({"project_id": "4712"}))?, "the job's project_id is \"4712\"", "not \"4711\""),
        (but(json!({"project_id": 4712}))?, "the job's project_id is \"4712\"", "not \"4711\""),
        (
            but(json!({"pipeline_source": "merge_request_event"}))?,
            "the job's pipeline_source is \"merge_request_event\"",
            "\"push\" or \"web\"",
        ),
        (but(json!({"ref": "Main"}))?, "the job's ref is \"Main\"", "not \"main\""),
        (but(json!({"ref": "main "}))?, "the job's ref is \"main \"", "not \"main\""),
        (but(json!({"user_id": "666"}))?, "the role's condition on the job's claims does not hold", "!="),
        (
            stage.gitlab.gitlab_token_without("pipeline_source")?,
            "has no pipeline_source, which the role asks for",
            "\"push\" or \"web\"",
        ),
    ];
    for (token, told, explained) in others {
        let job = runner.start_job_with(&token).await?;
        let refused = client::refused(runner.issue(&job, "ship").await)?;
        ensure!(refused.reason() == Some(Reason::RoleNotAvailable), "{told}: {refused:?}");
        let message = &refused.refusal().context("refused")?.message;
        ensure!(message.contains(told), "{told}: {message}");
        ensure!(!message.contains(explained), "it tells what would do: {message}");
        let explanation = stage.decision(&refused)?;
        ensure!(explanation.contains(explained), "{told}: {explanation}");
    }

    let asserted = runner.start_job().await?;
    let refused = client::refused(runner.issue(&asserted, "ship").await)?;
    ensure!(refused.refusal().is_some_and(|it| it.message.contains("hand one over")), "{refused:?}");

    let test_pool = stage.issuer.labelled_runner("test-3", &["pool=test", "gitlab-runner-id=3"]).await?;
    let job = test_pool.start_job_with(&stage.gitlab.gitlab_token(json!({"runner_id": 3}))?).await?;
    let refused = client::refused(test_pool.issue(&job, "ship").await)?;
    let message = &refused.refusal().context("refused")?.message;
    ensure!(!message.contains("pool"), "what labels do is not the caller's business: {message}");
    ensure!(stage.decision(&refused)?.contains("label pool of"), "{}", stage.decision(&refused)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_a_session_for_its_own_runner_and_only_once() -> Result<()> {
    let stage = Stage::set("job-tokens").await?;
    let runner = stage.runner("test-1", "1").await?;
    let other = stage.runner("test-2", "2").await?;

    let borrowed = stage.gitlab.gitlab_token(json!({}))?;
    let refused = client::refused(other.start_job_with(&borrowed).await)?;
    ensure!(refused.reason() == Some(Reason::JobTokenRejected), "{refused:?}");
    ensure!(
        refused.refusal().is_some_and(|it| it.message.contains("a job on another runner")),
        "{refused:?}"
    );
    runner.start_job_with(&borrowed).await.context("its own runner can use it afterwards")?;
    let replayed = client::refused(runner.start_job_with(&borrowed).await)?;
    ensure!(replayed.reason() == Some(Reason::JobTokenUsed), "{replayed:?}");

    let own = |audience: &str| {
        stage.own.token(json!({"sub": "x", "aud": audience, "build": "b-1", "ci": {"project": 7}}))
    };
    let of_the_first = own(&format!("{AUDIENCE}/test-1"))?;
    let refused = client::refused(other.start_job_with(&of_the_first).await)?;
    ensure!(refused.reason() == Some(Reason::JobTokenRejected), "{refused:?}");
    let job = runner.start_job_with(&of_the_first).await?;
    runner.issue(&job, "build").await?;
    let refused = client::refused(runner.issue(&job, "ship").await)?;
    ensure!(
        refused.refusal().is_some_and(|it| it.message.contains("does not take jobs of own")),
        "{refused:?}"
    );
    let unbound = client::refused(runner.start_job_with(&own(AUDIENCE)?).await)?;
    ensure!(unbound.reason() == Some(Reason::JobTokenRejected), "{unbound:?}");
    Ok(())
}
