//! The usual stage of a scenario about jobs: a namespace, an issuer, an agent that is enrolled; and what an operator and
//! the cluster's administrator see of it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{self, AgentUnderTest, as_operator};
use crate::issuer::{self, IssuerUnderTest};
use crate::process::Done;
use crate::site::{DEPLOY, Site};

/// The stage. The agent ends first, the namespace last.
pub struct Scene {
    /// The agent of runner `test-1`.
    pub agent: AgentUnderTest,
    /// The issuer.
    pub issuer: IssuerUnderTest,
    /// The cluster's side.
    pub site: Site,
}

impl Scene {
    /// With the usual configuration.
    pub async fn new(purpose: &str) -> Result<Self> {
        Self::with(purpose, issuer::Knobs::default(), agent::Knobs::default()).await
    }

    /// With an agent that refreshes so often.
    pub async fn refreshing(purpose: &str, max_age: &'static str) -> Result<Self> {
        let knobs = agent::Knobs { max_age: Some(max_age), ..agent::Knobs::default() };
        Self::with(purpose, issuer::Knobs::default(), knobs).await
    }

    /// With another configuration.
    pub async fn with(purpose: &str, issuer: issuer::Knobs, agent: agent::Knobs) -> Result<Self> {
        let site = Site::new(purpose).await?;
        let issuer = IssuerUnderTest::start(&site, issuer).await?;
        let agent = AgentUnderTest::start(&issuer, "test-1", agent).await?;
        Ok(Self { agent, issuer, site })
    }

    /// kubectl of the job, with a kubeconfig that has nothing in it but the exec plugin.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Done> {
        Done::of(self.agent.kubectl(DEPLOY.name)?.args(arguments))
    }

    /// One request of that kubectl, without the discovery that it makes otherwise.
    pub fn request(&self) -> Result<Command> {
        let mut command = self.agent.kubectl(DEPLOY.name)?;
        command.args(["get", "--raw", &self.path()]);
        Ok(command)
    }

    /// What that request asks for.
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps?limit=1", self.site.place.namespace)
    }

    /// The token that the job is given now.
    pub fn token(&self) -> Result<String> {
        self.agent.token(DEPLOY.name)
    }

    /// What `shorepass ... -o json` tells an operator.
    pub fn operator_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let text = as_operator(&self.issuer, &all)?.succeeded()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// All leases that ever were, as operators see them.
    pub fn leases(&self) -> Result<Vec<Value>> {
        let list = self.operator_json(&["lease", "list", "--all"])?;
        Ok(list["items"].as_array().context("a list without items")?.clone())
    }

    /// The one lease that there ever was.
    pub fn only_lease(&self) -> Result<Value> {
        let mut leases = self.leases()?;
        let told: Vec<_> = leases.iter().map(|lease| format!("{} {}", lease["id"], lease["state"])).collect();
        ensure!(leases.len() == 1, "there should be one lease: {told:?}");
        leases.pop().context("no lease")
    }

    /// The UIDs of the anchors in the namespace, by name.
    pub async fn anchors(&self) -> Result<Vec<(String, String)>> {
        let anchors = self.site.place.anchors().await?;
        let named = anchors.into_iter().map(|anchor| {
            (anchor.metadata.name.unwrap_or_default(), anchor.metadata.uid.unwrap_or_default())
        });
        Ok(named.collect())
    }

    /// The one anchor in the namespace, by name and UID.
    pub async fn only_anchor(&self) -> Result<(String, String)> {
        let mut anchors = self.anchors().await?;
        ensure!(anchors.len() == 1, "there should be one anchor: {anchors:?}");
        anchors.pop().context("no anchor")
    }
}
