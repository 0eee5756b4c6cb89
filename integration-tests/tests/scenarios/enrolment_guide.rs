//! `docs/enrolment.md`: its configs are taken as they stand there, and its commands executed, for each way in.
//!
//! Only names of places differ, each by one of the exchanges in [`Walk::here`]: those of the cluster, of files and of servers.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::admin::Cleanup;
use integration_tests::agent::{self, AgentUnderTest};
use integration_tests::ci_system::CiSystem;
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::Done;
use integration_tests::runner_pod::{Node, RunnerPod};
use integration_tests::site::{CLUSTER, Site};
use integration_tests::wait::{self, Seen};
use serde_json::json;

const DOCS: &str = include_str!("../../../docs/enrolment.md");

/// A piece of the guide that somebody copies.
struct Block {
    language: &'static str,
    text: &'static str,
}

/// Those of a section, in their order.
fn section(heading: &str) -> Result<Vec<Block>> {
    let start = format!("\n## {heading}\n");
    let (_, text) = DOCS.split_once(&start).with_context(|| format!("there is no section {heading}"))?;
    let text = text.split_once("\n## ").map_or(text, |(section, _)| section);
    let mut blocks = Vec::new();
    let mut fences = text.split("```");
    while let (Some(_), Some(fenced)) = (fences.next(), fences.next()) {
        let (language, text) = fenced.split_once('\n').context("a fence without an end")?;
        blocks.push(Block { language, text });
    }
    Ok(blocks)
}

/// The one that begins so.
fn beginning(blocks: &[Block], with: &str) -> Result<&'static str> {
    let found = blocks.iter().find(|block| block.text.starts_with(with));
    found.map(|block| block.text).with_context(|| format!("there is no block that begins with {with}"))
}

/// Dropped in this order.
struct Walk {
    agents: Vec<AgentUnderTest>,
    issuer: IssuerUnderTest,
    cloud: CiSystem,
    folder: tempfile::TempDir,
    _rights: Cleanup,
    site: Site,
}

impl Walk {
    /// An issuer with what the guide says about pods and tokens.
    async fn begin() -> Result<Self> {
        let site = Site::new("guide").await?;
        site.place.service_account("runner").await?;
        let folder = tempfile::tempdir()?;
        let cloud = CiSystem::start("cloud", folder.path()).await?;
        let keys = |heading: &str| -> Result<String> {
            let text = beginning(&section(heading)?, "enrolment:\n")?.replacen("enrolment:\n", "", 1);
            let there = format!("url: \"{}\"\n      caFile: {}", cloud.url(), cloud.ca_file().display());
            let text = text
                .replace("cluster: staging", &format!("cluster: {CLUSTER}"))
                .replace("namespace: ci", &format!("namespace: {}", site.place.namespace))
                .replace("url: https://id.example.org", &there);
            Ok(text.lines().map(|line| format!("  {line}\n")).collect())
        };
        let enrolment = keys("Runner pods")? + &keys("An OIDC token")?;
        let issuer = IssuerUnderTest::start(&site, Knobs { enrolment, ..Knobs::default() }).await?;
        let rights = format!("{}-token-reviews", site.identity.policy);
        let objects = ["clusterrolebinding", "clusterrole"].map(|kind| format!("{kind}/{rights}"));
        let rights = site.admin.cleanup(objects.to_vec());
        Ok(Self { agents: Vec::new(), issuer, cloud, folder, _rights: rights, site })
    }

    /// A text of the guide with the names of this place.
    fn here(&self, text: &str) -> String {
        let (issuer, home) = (self.issuer.name(), &self.site.identity.home.namespace);
        let rbac = format!(
            "shorepass-issuer rbac --issuer {issuer} --namespace {home} --service-account issuer --cluster {CLUSTER}"
        );
        let roles = self.issuer.folder().join("roles").display().to_string();
        text.replace("shorepass-issuer rbac", &rbac)
            .replace("/etc/shorepass/roles.d", &roles)
            .replace("/var/lib/shorepass-issuer", &self.issuer.state().display().to_string())
            .replace("-n ci ", &format!("-n {} ", self.site.place.namespace))
            .replace("cluster: staging", &format!("cluster: {CLUSTER}"))
            .replace("/var/run/shorepass/", "")
            .replace("/run/machine/", "")
            .replace("/etc/shorepass/", "")
    }

    /// An agent of that name with the line of the guide about what lets it in, in its own folder.
    fn agent(&mut self, name: &str, ticket: &str) -> Result<&mut AgentUnderTest> {
        let knobs = agent::Knobs { ticket: Some(self.here(ticket.trim_end())), ..agent::Knobs::default() };
        let agent = AgentUnderTest::prepare(&self.issuer, name, "", knobs)?;
        fs::copy(self.issuer.state().join("ca.pem"), agent.folder().join("ca.pem"))?;
        self.agents.push(agent);
        self.agents.last_mut().context("it was just made")
    }

    /// Executes commands of the guide, in the folder of the last agent or in one of its own; what they print.
    fn execute(&self, commands: &str) -> Result<String> {
        let environment = &self.site.admin.environment;
        let kubectl = environment.kubectl.parent().context("kubectl is in a folder")?;
        let mut path = OsString::from(&environment.bin_dir);
        for part in [kubectl.as_os_str(), &std::env::var_os("PATH").unwrap_or_default()] {
            path.push(":");
            path.push(part);
        }
        let folder = self.agents.last().map_or_else(|| self.folder.path(), AgentUnderTest::folder);
        let operator = self.issuer.identity_folder("operator", "alice")?.join("config.yaml");
        let mut shell = Command::new("sh");
        shell.args(["-ec", &self.here(commands)]).current_dir(folder).env("PATH", path);
        shell.env("KUBECONFIG", &environment.kubeconfig).env("SHOREPASS_CONFIG", operator);
        shell.env("SHOREPASS_SOCKET", folder.join("agent.sock"));
        Done::of(&mut shell)?.succeeded().with_context(|| commands.to_owned())
    }

    /// All commands of a section that begin so; that there are as many.
    fn execute_all(&self, blocks: &[Block], beginning_with: &[&str]) -> Result<()> {
        let commands: Vec<_> = blocks.iter().filter(|block| block.language == "sh").collect();
        ensure!(commands.len() == beginning_with.len(), "{} blocks of commands", commands.len());
        for (block, beginning) in commands.iter().zip(beginning_with) {
            ensure!(block.text.starts_with(beginning), "{} does not begin with {beginning}", block.text);
            self.execute(block.text)?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")] // the issuer of tokens answers while a program is waited for
async fn the_guide_lets_in_a_machine_by_each_way() -> Result<()> {
    let mut walk = Walk::begin().await?;

    let blocks = section("A join token")?;
    walk.agent("prod-1", beginning(&blocks, "joinTokenFile:")?)?;
    walk.execute_all(&blocks, &["(umask 077; shorepass join-token create"])?;
    walk.agents[0].run().await?;

    let blocks = section("Runner pods")?;
    let node = Node::new(&walk.site.admin)?;
    walk.agent("prod-2", beginning(&blocks, "pod:")?)?;
    let volumes = beginning(&blocks, "volumes:")?;
    let pod =
        RunnerPod::with(&walk.site.admin, &walk.site.place, ("runner-0", "runner"), &node, volumes).await?;
    let commands = ["shorepass-issuer rbac", "kubectl create configmap", "kubectl create token"];
    walk.execute_all(&blocks, &commands)?;
    // The right is there a moment after it was given, and the agent does not ask again where it is refused.
    wait::until("the pod to be let in", Duration::from_secs(20), async || {
        let agent = &mut walk.agents[1];
        Ok(match agent.run().await {
            Ok(()) => Seen::Ready(()),
            Err(error) if agent.log().contains("ISSUER_FORBIDDEN") => Seen::NotYet(error.to_string()),
            Err(error) => return Err(error),
        })
    })
    .await?;

    let blocks = section("An OIDC token")?;
    walk.agent("prod-3", beginning(&blocks, "oidc:")?)?;
    let claims = json!({"sub": "vm-1", "aud": "https://issuer.example.org/machines", "cloud": {"zone": "a"}});
    fs::write(walk.agents[2].folder().join("token"), walk.cloud.token(claims)?)?;
    walk.execute_all(&blocks, &[])?;
    walk.agents[2].run().await?;

    let blocks = section("Look")?;
    let listed = walk.execute(beginning(&blocks, "shorepass runner list")?)?;
    for (runner, label) in
        [("prod-1", "pool=production"), ("prod-2", "pool=pods"), ("prod-3", "pool=machines")]
    {
        let is_listed = |line: &str| line.split(' ').next() == Some(runner) && line.contains(label);
        ensure!(listed.lines().any(is_listed), "{runner} {label}: {listed}");
    }
    let audit = fs::read_to_string(walk.issuer.audit_file())?;
    ensure!(audit.contains(pod.uid()), "the pod's UID is not recorded");
    is_token_like(&walk.agents[1].folder().join("token"))
}

fn is_token_like(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file)?;
    ensure!(text.trim().split('.').count() == 3, "the command of the guide made no token");
    Ok(())
}
