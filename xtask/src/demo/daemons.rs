//! Our side: issuer, agent and the commands, each started as a user would start it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::site::{Site, output, write_private};
use crate::paths;
use crate::process::{self, Owned, Seen};

/// How long a daemon may take until it is ready.
const READY: Duration = Duration::from_secs(45);

const TRUST_DOMAIN: &str = "demo.shorepass.dev";
const RUNNER: &str = "demo-runner";
pub(crate) const ROLE: &str = "demo-deployer";

/// Issuer, agent and their files.
pub(crate) struct Daemons {
    folder: PathBuf,
    programs: PathBuf,
    max_age: Option<&'static str>,
    issuer: Option<Owned>,
    agent: Option<Owned>,
    issuer_name: String,
    addresses: [SocketAddr; 3],
}

/// kubectl with a kubeconfig that has nothing in it but the exec plugin.
pub(crate) struct Kubectl {
    pub(crate) program: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) environment: BTreeMap<&'static str, OsString>,
    pub(crate) namespace: String,
}

impl Daemons {
    /// With tokens that are refreshed every five seconds, so that it is seen.
    pub(crate) fn new(site: &Site) -> Result<Self> {
        Self::with(site, paths::daemons(), Some("5s"))
    }

    /// With the programs of another folder, and with this `refresh.maxAge` or none.
    pub(crate) fn with(site: &Site, programs: PathBuf, max_age: Option<&'static str>) -> Result<Self> {
        // Bound together so that they differ, released so that the daemons can have them.
        let sockets: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .context("no free port")?;
        let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); 3];
        for (address, socket) in addresses.iter_mut().zip(&sockets) {
            *address = socket.local_addr().context("a socket without an address")?;
        }
        let folder = site.folder().to_path_buf();
        let issuer_name = site.issuer();
        Ok(Self { folder, programs, max_age, issuer: None, agent: None, issuer_name, addresses })
    }

    /// Starts the issuer and makes an operator.
    pub(crate) fn start_issuer(&mut self, site: &Site) -> Result<Vec<String>> {
        let config = self.folder.join("issuer.yaml");
        fs::write(&config, self.issuer_config(site)).context("cannot write the issuer's config")?;
        let mut command = process::command(self.program("shorepass-issuer"));
        command.args(["serve", "--config"]).arg(&config);
        let issuer =
            self.issuer.insert(Owned::spawn("shorepass-issuer", command, &self.folder.join("issuer.log"))?);
        let admin = self.addresses[2];
        process::wait_until("the issuer to be ready", READY, || {
            issuer.check()?;
            Ok(match get(admin, "/readyz") {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => Seen::Ready(()),
                Ok(answer) => Seen::NotYet(answer.lines().last().unwrap_or_default().to_owned()),
                Err(error) => Seen::NotYet(error.to_string()),
            })
        })?;
        let mut create = Command::new(self.program("shorepass-issuer"));
        create.args(["identity", "create", "--kind", "operator", "--name", "demo", "--config"]).arg(&config);
        create.arg("--out").arg(self.operator_folder());
        output(&mut create, None)?;
        Ok(vec![
            format!("api {}, enroll {}, admin {admin}", self.addresses[0], self.addresses[1]),
            format!("embedded CA for {TRUST_DOMAIN}; operator identity made with `identity create`"),
        ])
    }

    /// Starts the agent with a one-time join token and waits until it holds an identity.
    pub(crate) fn start_agent(&mut self) -> Result<Vec<String>> {
        let token = self.operator(&["join-token", "create", "--runners", "demo-*", "--lifetime", "10m"])?;
        write_private(&self.folder.join("join-token"), token.trim())?;
        let config = self.folder.join("agent.yaml");
        fs::write(&config, self.agent_config()).context("cannot write the agent's config")?;
        let mut command = process::command(self.program("shorepass-agent"));
        command.args(["serve", "--config"]).arg(&config);
        self.agent = Some(Owned::spawn("shorepass-agent", command, &self.folder.join("agent.log"))?);
        let identity = process::wait_until("the agent's identity", READY, || {
            self.check()?;
            Ok(match self.status() {
                Ok(status) => match status["spiffeId"].as_str().filter(|id| !id.is_empty()) {
                    Some(id) => Seen::Ready(id.to_owned()),
                    None => Seen::NotYet(status.to_string()),
                },
                Err(error) => Seen::NotYet(error.to_string()),
            })
        })?;
        Ok(vec![format!("enrolled with a one-time join token; it is {identity}")])
    }

    fn status(&self) -> Result<Value> {
        let mut command = Command::new(self.program("shorepass"));
        command.args(["status", "-o", "json"]).env("SHOREPASS_SOCKET", self.socket());
        // Exit code 6 (degraded) still prints the status.
        let done = command.output().context("cannot run shorepass")?;
        serde_json::from_slice(&done.stdout)
            .with_context(|| String::from_utf8_lossy(&done.stderr).trim().to_owned())
    }

    /// Runs `shorepass` as the operator.
    pub(crate) fn operator(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.program("shorepass"));
        command.args(arguments).env("SHOREPASS_CONFIG", self.operator_folder().join("config.yaml"));
        output(&mut command, None)
    }

    /// Runs `shorepass` as the operator and reads its JSON.
    pub(crate) fn operator_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let text = self.operator(&all)?;
        serde_json::from_str(&text).context("shorepass -o json prints something else than JSON")
    }

    /// Writes the job's kubeconfig, as the job would.
    pub(crate) fn kubectl(&self, site: &Site) -> Result<Kubectl> {
        let kubeconfig = self.folder.join("job.kubeconfig");
        let mut command = Command::new(self.program("shorepass"));
        command.args(["kubeconfig", "--role", ROLE, "--output"]).arg(&kubeconfig);
        output(command.env("SHOREPASS_SOCKET", self.socket()), None)?;
        let text = fs::read_to_string(&kubeconfig).context("`shorepass kubeconfig` wrote no file")?;
        ensure!(
            text.contains("shorepass-exec") && !text.contains("token:") && !text.contains("client-key"),
            "the kubeconfig should have the exec plugin in it and no credential"
        );
        let mut path = OsString::from(&self.programs);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let environment = BTreeMap::from([
            ("PATH", path),
            ("SHOREPASS_SOCKET", self.socket().into_os_string()),
            ("KUBECONFIG", kubeconfig.clone().into_os_string()),
        ]);
        let program = site.kubectl().to_path_buf();
        Ok(Kubectl { program, kubeconfig, environment, namespace: site.namespace() })
    }

    /// The token as a job can read it through the plugin.
    pub(crate) fn token(&self) -> Result<String> {
        let mut command = Command::new(self.program("shorepass-exec"));
        command.args(["--role", ROLE]).env("SHOREPASS_SOCKET", self.socket());
        let credential: Value = serde_json::from_str(&output(&mut command, None)?)?;
        let token = credential["status"]["token"].as_str().context("the plugin gave no token")?;
        Ok(token.to_owned())
    }

    /// An error if a daemon ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.issuer.iter_mut().chain(self.agent.iter_mut()).try_for_each(Owned::check)
    }

    /// The process ids of issuer and agent, where they run.
    pub(crate) fn ids(&self) -> [Option<u32>; 2] {
        [&self.issuer, &self.agent].map(|daemon| daemon.as_ref().map(Owned::id))
    }

    pub(crate) fn agent_log(&self) -> Result<String> {
        fs::read_to_string(self.folder.join("agent.log")).context("cannot read the agent's log")
    }

    pub(crate) fn last_lines(&self) -> Vec<(&str, String)> {
        self.issuer.iter().chain(&self.agent).map(|daemon| (daemon.name(), daemon.last_lines())).collect()
    }

    /// For people who want to play.
    pub(crate) fn lines_to_paste(&self, site: &Site, kubectl: &Kubectl) -> Vec<String> {
        vec![
            format!("export PATH={}:$PATH", self.programs.display()),
            format!("export SHOREPASS_SOCKET={}", self.socket().display()),
            format!("export SHOREPASS_CONFIG={}", self.operator_folder().join("config.yaml").display()),
            format!("export KUBECONFIG={}", kubectl.kubeconfig.display()),
            format!("alias kubectl={}", site.kubectl().display()),
            "kubectl get configmaps".to_owned(),
            "shorepass status".to_owned(),
            "shorepass lease list".to_owned(),
            "shorepass lease revoke LEASE --reason 'to see it die'".to_owned(),
        ]
    }

    fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    fn operator_folder(&self) -> PathBuf {
        self.folder.join("operator")
    }

    fn issuer_config(&self, site: &Site) -> String {
        let [api, enroll, admin] = self.addresses;
        format!(
            "apiVersion: shorepass.dev/v1
kind: IssuerConfig
spec:
  trustDomain: {TRUST_DOMAIN}
  issuer: {{name: {}, dnsNames: [127.0.0.1]}}
  listen: {{api: \"{api}\", enroll: \"{enroll}\", admin: \"{admin}\"}}
  state: {{directory: {}}}
  clusters:
    - name: demo
      connect: {{kubeconfig: {{path: {}, context: issuer}}}}
      coordination: {{namespace: {}}}
  roles: {{directory: {}}}
",
            self.issuer_name,
            self.folder.join("issuer-state").display(),
            site.issuer_kubeconfig().display(),
            site.home(),
            site.roles().display(),
        )
    }

    fn agent_config(&self) -> String {
        let [api, enroll, _] = self.addresses;
        format!(
            "apiVersion: shorepass.dev/v1
kind: AgentConfig
spec:
  name: {RUNNER}
  trustDomain: {TRUST_DOMAIN}
  issuer: {{name: {}, api: \"{api}\", enroll: \"{enroll}\"}}
  joinTokenFile: {}
  state: {{directory: {}}}
  socket: {}
  jobs: {{users: [{}], system: demo}}
{}",
            self.issuer_name,
            self.folder.join("join-token").display(),
            self.folder.join("agent-state").display(),
            self.socket().display(),
            rustix::process::getuid().as_raw(),
            self.max_age.map(|age| format!("  refresh: {{maxAge: {age}}}\n")).unwrap_or_default(),
        )
    }
}

impl Drop for Daemons {
    /// The agent first: it talks to the issuer.
    fn drop(&mut self) {
        self.agent.take();
        self.issuer.take();
    }
}

impl Kubectl {
    /// A command with the job's kubeconfig and environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).envs(&self.environment);
        command
    }
}

/// One plain HTTP request to an admin port.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
