//! The processes of one control plane: with which flags they start, what others may know about them, how they end.
//!
//! Everything listens on loopback. etcd speaks plain HTTP there, so any user of the machine can read and write it:
//! nothing that is worth keeping belongs into this cluster. etcd does not fsync; a power cut loses the cluster and
//! nobody minds.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::binaries::Binaries;
use super::claim::Claim;
use super::pki::{Pair, Pki};
use crate::process::{self, Owned};
use crate::{environment, paths};

/// The context, cluster and user in the kubeconfig files.
const CONTEXT: &str = "shorepass-test";

/// The file in a run's folder that says how to use it.
const FACTS: &str = "facts.json";

/// The file in a run's folder with the command line of the API server.
const API_SERVER: &str = "kube-apiserver.command";

/// Every request once, when its response is complete; never a body.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
";

/// What tests and people need to know about a control plane that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// The version without the `v`, such as `1.36.3`.
    pub(crate) kubernetes: String,
    /// The URL of the API server.
    pub(crate) server: String,
    /// A kubeconfig with the rights of `system:masters`. Its files lie in the run's folder.
    pub(crate) kubeconfig: PathBuf,
    /// The context in that kubeconfig.
    pub(crate) context: String,
    /// The certificate that verifies the API server.
    pub(crate) authority: PathBuf,
    /// The audit log of the API server.
    pub(crate) audit_log: PathBuf,
    /// The kubectl of the same version.
    pub(crate) kubectl: PathBuf,
    /// How the API server was started, for tests that need another one: the program, and then each flag on a line.
    pub(crate) api_server: PathBuf,
    /// Whether kube-controller-manager runs too.
    pub(crate) controllers: bool,
    /// The processes by name.
    pub(crate) processes: Vec<(String, u32)>,
}

impl Facts {
    /// What the run in `folder` published, if it is ready.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FACTS)).ok()?).ok()
    }

    /// What the integration tests get, by name.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            (environment::BIN_DIR, paths::daemons().into()),
            (environment::KUBECONFIG, self.kubeconfig.clone().into()),
            (environment::AUDIT_LOG, self.audit_log.clone().into()),
            (environment::KUBECTL, self.kubectl.clone().into()),
            (environment::API_SERVER, self.api_server.clone().into()),
            (environment::KUBERNETES, self.kubernetes.clone().into()),
        ]
    }
}

/// A control plane. Dropping it stops the processes, newest first, and removes the folder.
#[derive(Debug)]
pub(crate) struct Running {
    binaries: Binaries,
    pki: Pki,
    facts: Facts,
    /// In the order of their start. Declared before `claim`, which removes the folder that they write to.
    processes: Vec<Owned>,
    claim: Claim,
}

impl Running {
    /// Makes keys and files; starts nothing yet.
    pub(super) fn new(claim: Claim, binaries: Binaries) -> Result<Self> {
        let folder = claim.folder();
        let pki = Pki::create(folder)?;
        write(&folder.join("audit-policy.yaml"), AUDIT_POLICY)?;
        let facts = Facts {
            kubernetes: binaries.kubernetes.clone(),
            server: String::new(),
            kubeconfig: folder.join("admin.kubeconfig"),
            context: CONTEXT.to_owned(),
            authority: pki.authority.clone(),
            audit_log: folder.join("audit.log"),
            kubectl: binaries.path("kubectl"),
            api_server: folder.join(API_SERVER),
            controllers: false,
            processes: Vec::new(),
        };
        Ok(Self { binaries, pki, facts, processes: Vec::new(), claim })
    }

    /// How to use it.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its folder, which also has the logs. More may be put there: it goes away with the control plane.
    pub(crate) fn folder(&self) -> &Path {
        self.claim.folder()
    }

    /// An error if one of the processes ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Owned::check)
    }

    /// Stops the processes, newest first, and waits for their end. The folder stays until the drop.
    pub(crate) fn stop(&mut self) -> Result<()> {
        while let Some(mut process) = self.processes.pop() {
            process.stop()?;
        }
        Ok(())
    }

    /// Leaves the folder behind, for its logs; the next start removes it.
    pub(super) fn keep_folder(&mut self) {
        self.claim.keep();
    }

    /// Starts etcd and the API server on new ports.
    pub(super) fn launch_server(&mut self) -> Result<()> {
        let [etcd, etcd_peer, server] = free_ports()?;
        let data = self.folder().join("etcd");
        if data.exists() {
            fs::remove_dir_all(&data).context("cannot remove the data of the last attempt")?;
        }
        let (client_url, peer_url) =
            (format!("http://127.0.0.1:{etcd}"), format!("http://127.0.0.1:{etcd_peer}"));
        self.launch(
            "etcd",
            &[
                ("data-dir", &text(&data)),
                ("listen-client-urls", &client_url),
                ("advertise-client-urls", &client_url),
                ("listen-peer-urls", &peer_url),
                ("initial-advertise-peer-urls", &peer_url),
                ("initial-cluster", &format!("default={peer_url}")),
                ("unsafe-no-fsync", "true"),
                ("log-level", "error"),
            ],
        )?;
        self.launch_api_server(&client_url, server)
    }

    fn launch_api_server(&mut self, etcd: &str, port: u16) -> Result<()> {
        self.facts.server = format!("https://127.0.0.1:{port}");
        let kubeconfig = self.kubeconfig(&self.pki.admin);
        write(&self.facts.kubeconfig, &kubeconfig)?;
        let (certificate, key) = (text(&self.pki.server.certificate), text(&self.pki.server.key));
        let flags: [(&str, &str); 15] = [
            ("etcd-servers", etcd),
            ("bind-address", "127.0.0.1"),
            ("secure-port", &port.to_string()),
            ("tls-cert-file", &certificate),
            ("tls-private-key-file", &key),
            ("client-ca-file", &text(&self.pki.authority)),
            ("service-account-issuer", "https://kubernetes.default.svc"),
            ("service-account-key-file", &text(&self.pki.verification_key)),
            ("service-account-signing-key-file", &text(&self.pki.signing_key)),
            ("authorization-mode", "RBAC"),
            ("service-cluster-ip-range", "10.0.0.0/24"),
            // A loopback address may not stand in the `kubernetes` Endpoints.
            ("endpoint-reconciler-type", "none"),
            ("audit-policy-file", &text(&self.folder().join("audit-policy.yaml"))),
            ("audit-log-path", &text(&self.facts.audit_log)),
            // In megabytes. Nobody follows a log that is rotated away while a test reads it.
            ("audit-log-maxsize", "10000"),
        ];
        let program = self.binaries.path("kube-apiserver");
        let lines = flags.iter().map(|(flag, value)| format!("--{flag}={value}\n"));
        write(&self.facts.api_server, &format!("{}\n{}", program.display(), lines.collect::<String>()))?;
        self.launch("kube-apiserver", &flags)
    }

    /// Starts kube-controller-manager with the controllers that have to do with what shorepass does.
    pub(super) fn launch_controllers(&mut self) -> Result<()> {
        let kubeconfig = self.folder().join("controllers.kubeconfig");
        write(&kubeconfig, &self.kubeconfig(&self.pki.controllers))?;
        let controllers = [
            "namespace-controller",
            "serviceaccount-controller",
            "serviceaccount-token-controller",
            "legacy-serviceaccount-token-cleaner-controller",
            "garbage-collector-controller",
        ];
        self.facts.controllers = true;
        self.launch(
            "kube-controller-manager",
            &[
                ("kubeconfig", &text(&kubeconfig)),
                ("controllers", &controllers.join(",")),
                // As in a real cluster: each controller has its own rights. Their TokenRequests are in the audit log.
                ("use-service-account-credentials", "true"),
                ("service-account-private-key-file", &text(&self.pki.signing_key)),
                ("root-ca-file", &text(&self.pki.authority)),
                ("leader-elect", "false"),
                ("secure-port", "0"),
            ],
        )
    }

    /// Asks the API server for `path` as admin: what kubectl complained about, if it did.
    pub(super) fn look_at(&self, path: &str) -> Result<Result<(), String>> {
        let log = self.folder().join("kubectl.log");
        let mut kubectl = self.kubectl(&["get", "--raw", path, "--request-timeout=5s"]);
        let errors = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let status = kubectl.stdout(Stdio::null()).stderr(errors).status().context("cannot run kubectl")?;
        if status.success() {
            return Ok(Ok(()));
        }
        let mut complaint = String::new();
        fs::File::open(&log)
            .and_then(|mut file| file.read_to_string(&mut complaint))
            .context("cannot read what kubectl said")?;
        Ok(Err(complaint.lines().last().unwrap_or("kubectl failed silently").to_owned()))
    }

    /// Makes the facts known to other processes.
    pub(super) fn publish(&mut self) -> Result<()> {
        self.facts.processes =
            self.processes.iter().map(|process| (process.name().to_owned(), process.id())).collect();
        let partial = self.folder().join("facts.partial");
        write(&partial, &serde_json::to_string_pretty(&self.facts)?)?;
        fs::rename(&partial, self.folder().join(FACTS)).context("cannot publish how to use the control plane")
    }

    /// kubectl as admin, dying with xtask like everything else.
    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = process::command(&self.facts.kubectl);
        command
            .arg("--kubeconfig")
            .arg(&self.facts.kubeconfig)
            .arg("--cache-dir")
            .arg(self.folder().join("kubectl-cache"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn launch(&mut self, name: &str, flags: &[(&str, &str)]) -> Result<()> {
        let mut command = process::command(self.binaries.path(name));
        command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
        command.current_dir(self.folder());
        let log = self.folder().join(format!("{name}.log"));
        self.processes.push(Owned::spawn(name, command, &log)?);
        Ok(())
    }

    fn kubeconfig(&self, client: &Pair) -> String {
        let (server, authority) = (&self.facts.server, self.pki.authority.display());
        let (certificate, key) = (client.certificate.display(), client.key.display());
        format!(
            "\
apiVersion: v1
kind: Config
current-context: {CONTEXT}
contexts:
  - name: {CONTEXT}
    context: {{cluster: {CONTEXT}, user: {CONTEXT}}}
clusters:
  - name: {CONTEXT}
    cluster:
      server: {server}
      certificate-authority: '{authority}'
users:
  - name: {CONTEXT}
    user:
      client-certificate: '{certificate}'
      client-key: '{key}'
"
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Ports that are free now. They are held until all are chosen, so they differ.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("cannot find a free port")?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr().context("cannot read the address of a port")?.port();
    }
    Ok(ports)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
