//! `shorepass-issuer` under test: its documents in a private folder, its process, what it leaves behind.
//!
//! It listens on ports that the system chose at its first start and keeps them over restarts, because agents know them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;
use shorepass_core::caller::SpiffeId;
use shorepass_proto::v1;
use shorepass_rpc::client::ApiClient;
use shorepass_tls::{Identity, IdentityFile};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{self, Client};
use crate::issuer_identity::InstalledIssuer;
use crate::pod;
use crate::process::{Done, Process};
use crate::second_cluster;
use crate::site::{CLUSTER, Site};
use crate::wait::{self, Seen};

/// Where the issuer of a test build dies.
const FAIL_POINT: &str = "SHOREPASS_FAIL_POINT";

/// The trust domain of all scenarios.
pub const TRUST_DOMAIN: &str = "test.shorepass.dev";

/// How long an issuer may take to bring an identity into its audit file; it looks every two seconds.
const AUDITED: Duration = Duration::from_secs(15);

/// How long an issuer may take until it is ready.
const READY: Duration = Duration::from_secs(45);

/// What differs from the usual configuration.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// The kubeconfig to connect with, if not the site's own; clients are told the site's API server all the same.
    pub kubeconfig: Option<PathBuf>,
    /// What `connect` says, if it is not just a kubeconfig: YAML in one line.
    pub connect: Option<String>,
    /// The kubeconfig of a second cluster, [`SECOND_CLUSTER`](second_cluster::SECOND_CLUSTER), with all roles once more under names that begin with `other-`.
    pub second_cluster: Option<PathBuf>,
    /// Mints of one cluster at once.
    pub mints_in_flight: u32,
    /// The life of certificates.
    pub certificates: &'static str,
    /// Calls per second of one caller, and at once.
    pub rate: (u32, u32),
    /// What is logged.
    pub log: &'static str,
    /// The cluster's API servers, each `host:port`; empty if the issuer is not told.
    pub endpoints: Vec<String>,
    /// How far the watch of an API server may lag.
    pub lag_bound: &'static str,
    /// The kubeconfig of the credential that lists anchors, and the grace; none is given if there is none.
    pub listing: Option<(PathBuf, &'static str)>,
    /// The items of `spec.jobIssuers`.
    pub job_issuers: String,
    /// The items of `spec.trustBundles`.
    pub trust_bundles: String,
    /// The keys below `spec.enrolment`, indented by four spaces.
    pub enrolment: String,
    /// More role documents, with `@NAMESPACE@` for the site's.
    pub roles: String,
}

impl Default for Knobs {
    /// Room for tests, which call more often than a runner.
    fn default() -> Self {
        Self {
            kubeconfig: None,
            connect: None,
            second_cluster: None,
            mints_in_flight: 16,
            certificates: "24h",
            rate: (1_000, 1_000),
            log: "info",
            endpoints: Vec::new(),
            lag_bound: "30s",
            listing: None,
            job_issuers: String::new(),
            trust_bundles: String::new(),
            enrolment: String::new(),
            roles: String::new(),
        }
    }
}

/// An issuer's folder, and its process while it runs. The process is dropped first: it writes into the folder.
pub struct IssuerUnderTest {
    process: Option<Process>,
    folder: TempDir,
    program: PathBuf,
    name: String,
    cluster: String,
    knobs: Knobs,
    addresses: Addresses,
    fail_point: String,
}

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// mTLS.
    pub api: SocketAddr,
    /// TLS without client certificates.
    pub enroll: SocketAddr,
    /// Plain HTTP.
    pub admin: SocketAddr,
}

impl IssuerUnderTest {
    /// Starts one and waits until it is ready.
    pub async fn start(site: &Site, knobs: Knobs) -> Result<Self> {
        let mut issuer = Self::prepare(site, knobs)?;
        issuer.run().await?;
        Ok(issuer)
    }

    /// Writes the documents and starts nothing.
    pub fn prepare(site: &Site, knobs: Knobs) -> Result<Self> {
        Self::prepare_as(site, &site.identity, knobs)
    }

    /// The same, as another issuer than the site's own.
    pub fn prepare_as(site: &Site, identity: &InstalledIssuer, knobs: Knobs) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("issuer-").tempdir()?; // 0700
        fs::create_dir(folder.path().join("roles"))?;
        let mut roles = site.role_documents();
        if !knobs.roles.is_empty() {
            roles += &format!("---\n{}", knobs.roles.replace("@NAMESPACE@", site.place.namespace.as_str()));
        }
        if knobs.second_cluster.is_some() {
            roles = format!("{roles}---\n{}", second_cluster::documents_of(&roles));
        }
        fs::write(folder.path().join("roles/roles.yaml"), roles)?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut clusters = cluster(site, identity, &knobs)?;
        if let Some(second) = &knobs.second_cluster {
            let by_it = Knobs { kubeconfig: Some(second.clone()), listing: None, ..knobs.clone() };
            clusters += &second_cluster::documents_of(&cluster(site, identity, &by_it)?);
        }
        let issuer = Self {
            folder,
            program: site.admin.environment.bin_dir.join("shorepass-issuer"),
            name: identity.issuer.to_string(),
            cluster: clusters,
            knobs,
            addresses: Addresses { api: any, enroll: any, admin: any },
            process: None,
            fail_point: String::new(),
        };
        issuer.write_config()?;
        Ok(issuer)
    }

    /// Another configuration from the next start on, of the site's own issuer.
    pub fn reconfigure(&mut self, site: &Site, knobs: Knobs) -> Result<()> {
        self.cluster = cluster(site, &site.identity, &knobs)?;
        self.knobs = knobs;
        self.write_config()
    }

    /// Starts it, on the same state if it ran before, and waits until it is ready.
    pub async fn run(&mut self) -> Result<()> {
        let earlier = self.log().len();
        self.launch()?;
        self.listens(earlier).await?;
        self.is_ready().await
    }

    /// Starts it where no file may grow beyond that many bytes, and waits until it listens.
    pub async fn run_without_room(&mut self, bytes: u64) -> Result<()> {
        let earlier = self.log().len();
        let (limit, program) = (format!("--fsize={bytes}:unlimited"), self.program.display().to_string());
        self.launch_by(Path::new("prlimit"), &[&limit, &program])?;
        self.listens(earlier).await
    }

    /// Starts it as in a pod ([`pod`]) with this mount, and waits until it is ready.
    pub async fn run_in_pod(&mut self, mount: &Path, server: &str) -> Result<()> {
        let earlier = self.log().len();
        let before = pod::around(mount, server, &self.program)?;
        self.launch_by(Path::new("unshare"), &before.each_ref().map(String::as_str))?;
        self.listens(earlier).await?;
        self.is_ready().await
    }

    async fn listens(&mut self, earlier: usize) -> Result<()> {
        self.addresses = wait::until("the issuer's addresses", READY, async || {
            self.check()?;
            Ok(listening(&self.log()[earlier..]).map_or_else(|| Seen::NotYet(self.log()), Seen::Ready))
        })
        .await?;
        self.write_config() // the same ports for the next start
    }

    /// Waits until it is ready.
    pub async fn is_ready(&self) -> Result<()> {
        wait::until("the issuer to be ready", READY, async || {
            self.check()?;
            Ok(match self.get("/readyz").await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => Seen::Ready(()),
                Ok(answer) => Seen::NotYet(answer),
                Err(error) => Seen::NotYet(error.to_string()),
            })
        })
        .await
    }

    /// Starts it and does not wait.
    pub fn launch(&mut self) -> Result<()> {
        let program = self.program.clone();
        self.launch_by(&program, &[])
    }

    fn launch_by(&mut self, program: &Path, before: &[&str]) -> Result<()> {
        let config = self.config().display().to_string();
        let mut environment = vec![("SHOREPASS_LOG", self.knobs.log)];
        if !self.fail_point.is_empty() {
            environment.push((FAIL_POINT, self.fail_point.as_str()));
        }
        let arguments = [before, &["serve", "--config", &config]].concat();
        self.process = Some(Process::start(program, &arguments, &environment, &self.log_file())?);
        Ok(())
    }

    /// The names of the points at which it can be made to die.
    pub fn fail_points(&self) -> Result<Vec<String>> {
        let mut command = self.command(&["serve", "--config"]);
        let done = Done::of(command.arg(self.config()).env(FAIL_POINT, "which"))?;
        let names = done.stderr.lines().find_map(|line| line.split_once("with one of these names: "));
        let (_, names) = names.with_context(|| format!("the issuer has no fail points: {}", done.stderr))?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// From its next start on it dies when it comes by this point for the `n`-th time, or nowhere.
    pub fn dies_at(&mut self, point: Option<(&str, u32)>) {
        self.fail_point = point.map(|(name, n)| format!("{name}:{n}")).unwrap_or_default();
    }

    /// Whether SIGKILL has ended it.
    pub fn is_killed(&mut self) -> Result<bool> {
        let process = self.process.as_mut().context("the issuer does not run")?;
        Ok(process.ended()?.is_some_and(|status| status.signal() == Some(Signal::KILL.as_raw())))
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the issuer does not run")?.kill()
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.take().context("the issuer does not run")?.stop()
    }

    /// The running process.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the issuer does not run")
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its folder: documents, state, log, and what tests put there. Nobody else may look into it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its config file.
    pub fn config(&self) -> PathBuf {
        self.folder().join("issuer.yaml")
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// Its audit file.
    pub fn audit_file(&self) -> PathBuf {
        self.state().join("audit.jsonl")
    }

    /// All lines of its audit file.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.audit_file()).context("cannot read the audit file")?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
            .collect()
    }

    /// The file with everything that it printed.
    pub fn log_file(&self) -> PathBuf {
        self.folder().join("issuer.log")
    }

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        if let Some(process) = &self.process {
            process.settle();
        }
        // A line that is being written may end in half a character.
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// One request to its admin port: head and body of the answer.
    pub async fn get(&self, path: &str) -> Result<String> {
        let address = self.addresses.admin;
        let asked = async {
            let mut stream = TcpStream::connect(address).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.context("the admin port does not answer")?
    }

    /// Its own SPIFFE ID.
    pub fn spiffe_id(&self) -> Result<SpiffeId> {
        Ok(SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/issuer/{}", self.name))?)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its command line.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        command
    }

    /// Makes an identity with `identity create`, or uses the one that was made; its folder.
    pub fn identity_folder(&self, kind: &str, name: &str) -> Result<PathBuf> {
        let folder = self.folder().join(format!("{kind}-{name}"));
        if !folder.exists() {
            let mut command =
                self.command(&["identity", "create", "--kind", kind, "--name", name, "--config"]);
            command.arg(self.config()).arg("--out").arg(&folder);
            command.args(["--api", &self.addresses.api.to_string()]);
            Done::of(&mut command)?.succeeded()?;
        }
        Ok(folder)
    }

    /// Waits until all identities that were made are in the audit file, for who compares what is in it.
    pub async fn identities_are_audited(&self) -> Result<()> {
        let made = fs::read_to_string(self.state().join("identities.jsonl"))?.lines().count();
        wait::until("the audit lines of identities", AUDITED, async || {
            // A line that is being written is no line yet.
            let lines = self.audit().unwrap_or_default();
            let audited = lines.iter().filter(|line| line["event"] == "identity.created").count();
            Ok(if audited == made { Seen::Ready(()) } else { Seen::NotYet(format!("{audited} of {made}")) })
        })
        .await
    }

    /// Makes an identity, or uses the one that was made.
    pub fn identity(&self, kind: &str, name: &str) -> Result<Identity> {
        let file = IdentityFile::new(self.identity_folder(kind, name)?.join("identity.pem"));
        file.load()?.context("`identity create` made no identity")
    }

    /// An operator.
    pub fn operator(&self) -> Result<Client> {
        Client::new(self, &self.identity("operator", "alice")?)
    }

    /// Another operator.
    pub fn operator_named(&self, name: &str) -> Result<Client> {
        Client::new(self, &self.identity("operator", name)?)
    }

    /// A platform.
    pub fn platform(&self, name: &str) -> Result<Client> {
        Client::new(self, &self.identity("platform", name)?)
    }

    /// Makes a join token as an operator does.
    pub async fn join_token(&self, runners: &str, replace: bool) -> Result<String> {
        Ok(self.operator()?.create_join_token(runners, replace).await?)
    }

    /// Enrols a runner.
    pub async fn runner(&self, name: &str) -> Result<Client> {
        let join_token = self.join_token(name, false).await?;
        Client::new(self, &client::enroll(self, &join_token, name).await?)
    }

    /// Enrols a runner with labels, each `name=value`.
    pub async fn labelled_runner(&self, name: &str, labels: &[&str]) -> Result<Client> {
        let join_token = self.labelled_join_token(name, labels).await?;
        Client::new(self, &client::enroll(self, &join_token, name).await?)
    }

    /// Makes a join token that gives labels.
    pub async fn labelled_join_token(&self, runners: &str, labels: &[&str]) -> Result<String> {
        let pair = |label: &&str| -> Result<v1::Label> {
            let (name, value) = label.split_once('=').context("a label is name=value")?;
            Ok(v1::Label { name: name.to_owned(), value: value.to_owned() })
        };
        let labels = labels.iter().map(pair).collect::<Result<_>>()?;
        let request = v1::CreateJoinTokenRequest { labels, ..client::create_join_token(runners, false) };
        Ok(self.operator()?.call(ApiClient::create_join_token, request).await?.join_token.clone())
    }

    /// An error if it ended by itself.
    fn check(&self) -> Result<()> {
        let id = self.process()?.id();
        let state = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let ended = state.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
        anyhow::ensure!(!ended, "the issuer ended:\n{}", self.process()?.last_lines());
        Ok(())
    }

    fn write_config(&self) -> Result<()> {
        let Addresses { api, enroll, admin } = self.addresses;
        let (calls, burst) = self.knobs.rate;
        let section = |key: &str, text: &str| match text {
            "" => String::new(),
            text => format!("  {key}:\n{text}"),
        };
        let job_issuers = section("jobIssuers", &self.knobs.job_issuers);
        let trust_bundles = section("trustBundles", &self.knobs.trust_bundles);
        let enrolment = section("enrolment", &self.knobs.enrolment);
        let text = format!(
            "\
apiVersion: shorepass.dev/v1
kind: IssuerConfig
spec:
  trustDomain: {TRUST_DOMAIN}
  issuer: {{name: {}, dnsNames: [127.0.0.1, localhost]}}
  listen: {{api: \"{api}\", enroll: \"{enroll}\", admin: \"{admin}\"}}
  state: {{directory: state}}
  clusters:
{}{job_issuers}{trust_bundles}{enrolment}  roles: {{directory: roles}}
  certificates: {{lifetime: {}}}
  limits: {{callsPerSecond: {calls}, burst: {burst}, mintsInFlight: {}}}
  receipts: {{oneIn: 1000000}} # only what is revoked: no scenario meets a control by chance
",
            self.name, self.cluster, self.knobs.certificates, self.knobs.mints_in_flight
        );
        fs::write(self.config(), text).context("cannot write the issuer's config")
    }
}

/// The entry of the cluster.
fn cluster(site: &Site, identity: &InstalledIssuer, knobs: &Knobs) -> Result<String> {
    let listing = knobs.listing.as_ref().map_or_else(String::new, |(kubeconfig, grace)| {
        let (path, context) = (kubeconfig.display(), identity.context);
        format!("      listing: {{kubeconfig: {{path: {path}, context: {context}}}, grace: {grace}}}\n")
    });
    let kubeconfig = knobs.kubeconfig.as_ref().unwrap_or(&identity.kubeconfig).display();
    let usual = || format!("{{kubeconfig: {{path: {kubeconfig}, context: {}}}}}", identity.context);
    Ok(format!(
        "    - name: {CLUSTER}
      connect: {}
      advertise: {{server: \"{}\", caFile: {}}}
      endpoints: [{}]
      lagBound: {}
      coordination: {{namespace: {}}}
",
        knobs.connect.clone().unwrap_or_else(usual),
        site.server()?,
        site.authority()?.display(),
        knobs.endpoints.join(", "),
        knobs.lag_bound,
        identity.home.namespace,
    ) + &listing)
}

/// The addresses in the log line that has them all.
fn listening(log: &str) -> Option<Addresses> {
    log.lines().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let address = |name: &str| line[name].as_str()?.parse().ok();
        Some(Addresses { api: address("api")?, enroll: address("enroll")?, admin: address("admin")? })
    })
}
