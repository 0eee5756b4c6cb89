//! A copy of an agent's state is found out when one of the two renews, and neither gets anything any more.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{self, AgentUnderTest};
use integration_tests::environment::Environment;
use integration_tests::issuer;
use integration_tests::process::Done;
use integration_tests::scene::Scene;
use integration_tests::site::DEPLOY;
use integration_tests::use_of_tokens::is_refused_for_good;
use integration_tests::wait::{self, Seen};
use serde_json::Value;

/// The copy renews at its start, the other one after 16 to 20 s; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an operator is told whose certificate is new: that of the first one has ended by then.
fn as_another(scene: &Scene, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(Environment::read()?.bin_dir.join("shorepass"));
    let config = scene.issuer.identity_folder("operator", "bob")?.join("config.yaml");
    Done::of(command.args(arguments).env("SHOREPASS_CONFIG", config))?.succeeded()
}

async fn is_cut_off(agent: &AgentUnderTest) -> Result<()> {
    wait::until("an agent that is told that there are two", PATIENCE, async || {
        let done = agent.exec(DEPLOY.name)?;
        if done.code == Some(0) || !done.stderr.contains("RUNNER_CLONED") {
            return Ok(Seen::NotYet(format!("exit code {:?}: {}", done.code, done.stderr)));
        }
        done.failed(3, &["in use at two places", "--replace", "identity.pem"])?;
        Ok(Seen::Ready(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_state_directory_is_caught_at_its_next_renewal_and_both_are_cut_off() -> Result<()> {
    let issuer = issuer::Knobs { certificates: "40s", ..issuer::Knobs::default() };
    let scene = Scene::with("clones", issuer, agent::Knobs::default()).await?;
    let kept = scene.site.admin.client_with(&scene.token()?).await?;
    let mut copy = scene.agent.copy()?;
    copy.run().await?;

    // Together: when its certificate has ended, an agent is told that and no more.
    tokio::try_join!(is_cut_off(&scene.agent), is_cut_off(&copy))?;
    is_refused_for_good(&kept).await?;
    let leases: Value =
        serde_json::from_str(&as_another(&scene, &["lease", "list", "--all", "-o", "json"])?)?;
    for lease in leases["items"].as_array().context("a list without items")? {
        assert_eq!((&lease["state"], &lease["end"]["cause"]), (&"ended".into(), &"runner-cloned".into()));
    }
    assert!(scene.anchors().await?.is_empty());

    let found: Vec<_> =
        scene.issuer.audit()?.into_iter().filter(|line| line["event"] == "runner.cloned").collect();
    ensure!(found.len() == 1, "it is found once: {found:#?}");
    ensure!(found[0]["certificate"].is_string() && found[0]["reason"].is_string(), "{:#}", found[0]);
    let log = scene.issuer.log();
    ensure!(log.contains("a runner's identity is in use at two places"), "{log}");
    ensure!(scene.issuer.get("/metrics").await?.contains("shorepass_runner_clones_total 1"), "no metric");
    let shown = as_another(&scene, &["runner", "list"])?;
    ensure!(shown.contains("CLONED") && shown.contains("--replace"), "{shown}");

    // What the message says helps.
    let created = ["join-token", "create", "--runners", scene.agent.name(), "--replace"];
    let join_token = as_another(&scene, &created)?;
    let mut anew = AgentUnderTest::prepare(
        &scene.issuer,
        scene.agent.name(),
        join_token.trim(),
        agent::Knobs::default(),
    )?;
    anew.run().await?;
    anew.token(DEPLOY.name)?;
    Ok(())
}
