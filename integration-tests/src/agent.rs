//! `shorepass-agent` under test, and the programs that a job runs beside it.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::environment::Environment;
use crate::issuer::{IssuerUnderTest, TRUST_DOMAIN};
use crate::process::{Done, Process};
use crate::wait::{self, Seen};

/// How long an agent may take until it holds an identity.
const READY: Duration = Duration::from_secs(45);

/// What differs from the usual configuration.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// `refresh.maxAge`
    pub max_age: Option<&'static str>,
    /// What it enrols with in place of the join token: a line of its config.
    pub ticket: Option<String>,
    /// Who may use the socket.
    pub users: Vec<u32>,
    /// What is logged.
    pub log: &'static str,
}

impl Default for Knobs {
    /// This user may.
    fn default() -> Self {
        Self { max_age: None, ticket: None, users: vec![rustix::process::getuid().as_raw()], log: "info" }
    }
}

/// An agent's folder, and its process while it runs. The process is dropped first: it writes into the folder.
pub struct AgentUnderTest {
    process: Option<Process>,
    folder: TempDir,
    environment: Environment,
    name: String,
    log: &'static str,
}

impl AgentUnderTest {
    /// Enrols and starts a runner of that name and waits until it holds an identity.
    pub async fn start(issuer: &IssuerUnderTest, name: &str, knobs: Knobs) -> Result<Self> {
        let join_token = issuer.join_token(name, false).await?;
        let mut agent = Self::prepare(issuer, name, &join_token, knobs)?;
        agent.run().await?;
        Ok(agent)
    }

    /// Writes the documents and starts nothing.
    pub fn prepare(issuer: &IssuerUnderTest, name: &str, join_token: &str, knobs: Knobs) -> Result<Self> {
        // A socket's path must be short.
        let folder = tempfile::Builder::new().prefix("agent-").tempdir()?;
        let mut file = OpenOptions::new();
        let mut file =
            file.write(true).create_new(true).mode(0o600).open(folder.path().join("join-token"))?;
        file.write_all(join_token.as_bytes())?;
        let addresses = issuer.addresses();
        let max_age = knobs.max_age.map(|age| format!("  refresh: {{maxAge: {age}}}\n")).unwrap_or_default();
        let ticket = knobs.ticket.unwrap_or_else(|| "joinTokenFile: join-token".to_owned());
        let text = format!(
            "\
apiVersion: shorepass.dev/v1
kind: AgentConfig
spec:
  name: {name}
  trustDomain: {TRUST_DOMAIN}
  issuer: {{name: {}, api: \"{}\", enroll: \"{}\"}}
  {ticket}
  state: {{directory: state}}
  socket: {}
  jobs: {{users: {:?}, system: test}}
{max_age}",
            issuer.name(),
            addresses.api,
            addresses.enroll,
            folder.path().join("agent.sock").display(),
            knobs.users,
        );
        fs::write(folder.path().join("agent.yaml"), text)?;
        let environment = Environment::read()?;
        Ok(Self { folder, environment, name: name.to_owned(), log: knobs.log, process: None })
    }

    /// Another one on a copy of this one's state, as whoever can read the files makes it.
    pub fn copy(&self) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("agent-").tempdir()?;
        fs::create_dir(folder.path().join("state"))?;
        fs::set_permissions(folder.path().join("state"), fs::Permissions::from_mode(0o700))?;
        for file in ["state/identity.pem", "state/sessions.json"] {
            fs::copy(self.folder().join(file), folder.path().join(file))?; // with its mode
        }
        let (ours, theirs) = (self.folder().display().to_string(), folder.path().display().to_string());
        let config = fs::read_to_string(self.config())?.replace(&ours, &theirs);
        fs::write(folder.path().join("agent.yaml"), config)?;
        let (environment, name) = (Environment::read()?, self.name.clone());
        Ok(Self { folder, environment, name, log: self.log, process: None })
    }

    /// Starts it, on the same state if it ran before, and waits until it holds an identity.
    pub async fn run(&mut self) -> Result<()> {
        self.launch()?;
        wait::until("the agent's identity", READY, async || {
            self.process.as_mut().context("the agent does not run")?.check()?;
            Ok(match self.status() {
                Ok(status) if status["spiffeId"].as_str().is_some_and(|id| !id.is_empty()) => Seen::Ready(()),
                Ok(status) => Seen::NotYet(status.to_string()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
        .await
    }

    /// Starts it and does not wait.
    pub fn launch(&mut self) -> Result<()> {
        let program = self.environment.bin_dir.join("shorepass-agent");
        let config = self.config().display().to_string();
        let environment = [("SHOREPASS_LOG", self.log)];
        let log = self.log_file();
        self.process = Some(Process::start(&program, &["serve", "--config", &config], &environment, &log)?);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the agent does not run")?.kill()
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.take().context("the agent does not run")?.stop()
    }

    /// The running process.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent does not run")
    }

    /// Its runner's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder: documents, state, socket, log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its config file.
    pub fn config(&self) -> PathBuf {
        self.folder().join("agent.yaml")
    }

    /// The file with everything that it printed.
    pub fn log_file(&self) -> PathBuf {
        self.folder().join("agent.log")
    }

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        if let Some(process) = &self.process {
            process.settle();
        }
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// What `shorepass status -o json` prints. Exit code 6 (degraded) prints it too.
    pub fn status(&self) -> Result<Value> {
        let done = Done::of(self.tool("shorepass").args(["status", "-o", "json"]))?;
        serde_json::from_str(&done.stdout).with_context(|| done.stderr.trim().to_owned())
    }

    /// One of our programs, as this runner's jobs run it.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.environment.bin_dir.join(name));
        command.env("SHOREPASS_SOCKET", self.folder().join("agent.sock")).env_remove("SHOREPASS_JOB");
        command
    }

    /// The exec plugin for a role.
    pub fn exec(&self, role: &str) -> Result<Done> {
        Done::of(self.tool("shorepass-exec").args(["--role", role]))
    }

    /// The token that the exec plugin gives.
    pub fn token(&self, role: &str) -> Result<String> {
        let credential: Value = serde_json::from_str(&self.exec(role)?.succeeded()?)?;
        Ok(credential["status"]["token"].as_str().context("the plugin gave no token")?.to_owned())
    }

    /// kubectl with a kubeconfig that has nothing in it but the exec plugin.
    pub fn kubectl(&self, role: &str) -> Result<Command> {
        let kubeconfig = self.folder().join(format!("{role}.kubeconfig"));
        if !kubeconfig.exists() {
            let mut command = self.tool("shorepass");
            Done::of(command.args(["kubeconfig", "--role", role, "--output"]).arg(&kubeconfig))?
                .succeeded()?;
        }
        let mut path = OsString::from(&self.environment.bin_dir);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new(&self.environment.kubectl);
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--cache-dir")
            .arg(self.folder().join("kubectl-cache"));
        command.env("SHOREPASS_SOCKET", self.folder().join("agent.sock")).env("PATH", path);
        Ok(command)
    }
}

/// `shorepass` as an operator runs it.
pub fn as_operator(issuer: &IssuerUnderTest, arguments: &[&str]) -> Result<Done> {
    let mut command = Command::new(Environment::read()?.bin_dir.join("shorepass"));
    command
        .args(arguments)
        .env("SHOREPASS_CONFIG", issuer.identity_folder("operator", "alice")?.join("config.yaml"));
    Done::of(&mut command)
}
