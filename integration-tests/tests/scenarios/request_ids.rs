//! One request id through every hop: from a job's error or the agent's log to the issuer's log and the cluster's own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::audit_log::AuditLog;
use integration_tests::process::Done;
use integration_tests::scene::Scene;
use integration_tests::site::DEPLOY;
use integration_tests::wait::{self, Seen};
use integration_tests::{agent, issuer};
use kube::api::DeleteParams;
use serde_json::Value;
use shorepass_core::id::RequestId;

/// For a line to be written, or for a refresh that comes every two seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the agent logs: also what went well, and what it was refused itself.
const LOG: &str = "shorepass_agent=debug";

/// Where an id is looked for.
struct Hops<'a> {
    scene: &'a Scene,
    id: &'a str,
}

impl Hops<'_> {
    async fn agent_says(&self, message: &str) -> Result<Value> {
        self.line(|| self.scene.agent.log(), message).await
    }

    async fn issuer_says(&self, message: &str) -> Result<Value> {
        self.line(|| self.scene.issuer.log(), message).await
    }

    /// The line with that message and the id, by itself or in its span, as soon as it is there.
    async fn line(&self, log: impl Fn() -> String, message: &str) -> Result<Value> {
        let what = format!("{message:?} under {}", self.id);
        wait::until(&what, PATIENCE, async || {
            let log = log();
            let ids =
                |line: &Value| [&line["request_id"], &line["span"]["request_id"]].map(|id| id == self.id);
            let mut found =
                lines(&log).filter(|line| line["message"] == message && ids(line).contains(&true));
            Ok(found.next().map_or_else(|| Seen::NotYet(log.clone()), Seen::Ready))
        })
        .await
    }

    /// That the API server made one of these in this namespace, or tried to, for the id; the lease that it was told.
    async fn of_cluster(&self, resource: &str) -> Result<String> {
        let namespace = self.scene.site.place.namespace.as_str();
        let log = AuditLog::open(&self.scene.site.admin.environment);
        let what = format!("{} of {resource} in the audit log", self.id);
        let event = log
            .wait_for(&what, |event| {
                let object = &event["objectRef"];
                let asked = match object["subresource"].as_str() {
                    Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
                    None => text(&object["resource"]).to_owned(),
                };
                let last = text(&event["userAgent"]).rsplit(' ').next();
                object["namespace"] == namespace
                    && asked == resource
                    && event["verb"] == "create"
                    && last == Some(&format!("request/{}", self.id))
            })
            .await?;
        let said = text(&event["userAgent"]).to_owned();
        let parts: Vec<&str> = said.split(' ').collect();
        ensure!(parts.len() == 3 && parts[0].starts_with("shorepass-issuer/"), "{said}");
        Ok(parts[1].strip_prefix("lease/").with_context(|| said.clone())?.to_owned())
    }
}

fn lines(log: &str) -> impl Iterator<Item = Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The id that a refused plugin names: one line, a UUIDv7.
fn named_by(done: &Done) -> Result<String> {
    let mut named = done.stderr.lines().filter_map(|line| line.strip_prefix("  request: "));
    let id = named.next().with_context(|| format!("no request is named in: {}", done.stderr))?;
    ensure!(named.next().is_none(), "more than one: {}", done.stderr);
    RequestId::parse(id)?;
    Ok(id.to_owned())
}

/// A ServiceAccount that is missing is noticed by the API server alone, so the request goes all the way.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_plugin_names_is_in_the_logs_of_agent_issuer_and_cluster() -> Result<()> {
    let knobs = agent::Knobs { log: LOG, ..agent::Knobs::default() };
    let scene = Scene::with("requestid", issuer::Knobs::default(), knobs).await?;
    scene.site.place.service_accounts().delete("deployer", &DeleteParams::default()).await?;
    let done = scene.agent.exec(DEPLOY.name)?;
    done.failed(1, &["SERVICE_ACCOUNT_MISSING"])?;
    let id = named_by(&done)?;
    let hops = Hops { scene: &scene, id: &id };

    hops.agent_says("refused a local client").await?;
    hops.agent_says("job started").await?;
    let told = hops.agent_says("cannot get a lease").await?;
    ensure!(text(&told["error"]).contains("SERVICE_ACCOUNT_MISSING"), "{told}");
    let refused = hops.issuer_says("refused").await?;
    assert_eq!(refused["reason"], "SERVICE_ACCOUNT_MISSING");
    let failed = hops.issuer_says("minting failed").await?;
    let lease = text(&failed["lease"]);
    for resource in ["secrets", "serviceaccounts/token"] {
        assert_eq!(hops.of_cluster(resource).await?, lease, "{resource}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_the_agent_planned_has_an_id_in_all_logs() -> Result<()> {
    let knobs = agent::Knobs { max_age: Some("2s"), log: LOG, ..agent::Knobs::default() };
    let scene = Scene::with("refreshid", issuer::Knobs::default(), knobs).await?;
    scene.token()?;
    let refreshed = wait::until("a refresh in the agent's log", PATIENCE, async || {
        let found = lines(&scene.agent.log()).find(|line| line["message"] == "token refreshed");
        Ok(found.map_or_else(|| Seen::NotYet(scene.agent.log()), Seen::Ready))
    })
    .await?;
    let id = text(&refreshed["request_id"]);
    let hops = Hops { scene: &scene, id };
    let issued = hops.issuer_says("token issued").await?;
    assert_eq!((&issued["jti"], &issued["span"]["method"]), (&refreshed["jti"], &"Refresh".into()));
    assert_eq!(hops.of_cluster("serviceaccounts/token").await?, text(&refreshed["lease"]));
    // The lease was issued under another one.
    let issued = lines(&scene.agent.log()).find(|line| line["message"] == "lease issued");
    assert_ne!(issued.context("no lease was issued")?["request_id"], id);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_refuses_by_itself_is_in_its_own_log() -> Result<()> {
    let knobs = agent::Knobs { users: vec![], ..agent::Knobs::default() };
    let scene = Scene::with("localid", issuer::Knobs::default(), knobs).await?;
    let mut kubeconfig = scene.agent.tool("shorepass");
    kubeconfig.args(["kubeconfig", "--role", DEPLOY.name]);
    let refused = [scene.agent.exec(DEPLOY.name)?, Done::of(&mut kubeconfig)?];
    for done in &refused {
        done.failed(3, &["jobs.users"])?;
        let id = named_by(done)?;
        Hops { scene: &scene, id: &id }.agent_says("refused a local client").await?;
        ensure!(!scene.issuer.log().contains(&id), "the issuer knows of {id}");
    }
    ensure!(named_by(&refused[0])? != named_by(&refused[1])?, "two requests have one id");
    Ok(())
}
