//! The cluster's side: a control plane of our own or a cluster of the user's, what the demo makes there, and its removal.
//!
//! On a user's cluster everything has a name with a fresh suffix, and is deleted by that name: nothing else is touched.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::control_plane::{self, Options, Release, Running};
use crate::paths;
use crate::process::{self, Seen};

/// For a cluster of the user's to remove two namespaces with nothing in them.
const REMOVAL: Duration = Duration::from_secs(20);
/// Between two looks at whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The cluster and what we made in it.
pub(crate) struct Site {
    running: Option<Running>,
    admin: Admin,
    started_in: Duration,
    description: String,
    suffix: String,
    folder: PathBuf,
    made: bool,
}

/// kubectl with an administrator's rights.
#[derive(Clone)]
struct Admin {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    context: String,
}

impl Site {
    pub(crate) fn ours(release: Option<Release>) -> Result<Self> {
        let started = Instant::now();
        let suffix = suffix();
        let name = format!("demo-{suffix}");
        let running = control_plane::start(&Options { name, release, controllers: false })?;
        let facts = running.facts();
        let admin = Admin {
            kubectl: facts.kubectl.clone(),
            kubeconfig: facts.kubeconfig.clone(),
            context: facts.context.clone(),
        };
        let description =
            format!("kube-apiserver and kubectl {}, etcd, at {}", facts.kubernetes, facts.server);
        Self::new(Some(running), admin, started.elapsed(), description, suffix)
    }

    pub(crate) fn theirs(kubeconfig: &Path, context: &str) -> Result<Self> {
        let started = Instant::now();
        let admin = Admin {
            kubectl: control_plane::kubectl()?,
            kubeconfig: kubeconfig.to_path_buf(),
            context: context.to_owned(),
        };
        let version: Value = serde_json::from_str(&admin.run(&["version", "-o", "json"], None)?)
            .context("kubectl version answers something else than JSON")?;
        let git = version["serverVersion"]["gitVersion"].as_str().unwrap_or("of unknown version");
        let description = format!("your cluster, context {context}: Kubernetes {git}");
        Self::new(None, admin, started.elapsed(), description, suffix())
    }

    fn new(
        running: Option<Running>,
        admin: Admin,
        started_in: Duration,
        description: String,
        suffix: String,
    ) -> Result<Self> {
        let folder = paths::target().join("demo").join(&suffix);
        fs::create_dir_all(folder.join("roles"))
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { running, admin, started_in, description, suffix, folder, made: false })
    }

    pub(crate) fn started_in(&self) -> Duration {
        self.started_in
    }

    pub(crate) fn describe(&self) -> String {
        self.description.clone()
    }

    /// Where the demo keeps its files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The issuer's name, which is part of what it makes in the cluster.
    pub(crate) fn issuer(&self) -> String {
        format!("demo-{}", self.suffix)
    }

    /// The namespace that the demo's job works in.
    pub(crate) fn namespace(&self) -> String {
        format!("shorepass-demo-{}", self.suffix)
    }

    /// The namespace of the issuer's own ServiceAccount.
    pub(super) fn home(&self) -> String {
        format!("shorepass-demo-{}-issuer", self.suffix)
    }

    /// The audit log of the API server, where it is ours.
    pub(crate) fn audit_log(&self) -> Option<&Path> {
        self.running.as_ref().map(|running| running.facts().audit_log.as_path())
    }

    pub(crate) fn kubectl(&self) -> &Path {
        &self.admin.kubectl
    }

    pub(crate) fn roles(&self) -> PathBuf {
        self.folder.join("roles")
    }

    /// The kubeconfig that the issuer works with: a short-lived token of its own ServiceAccount.
    pub(crate) fn issuer_kubeconfig(&self) -> PathBuf {
        self.folder.join("issuer.kubeconfig")
    }

    /// An error if the control plane, where it is ours, ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        self.running.as_mut().map_or(Ok(()), Running::check)
    }

    /// A namespace, a ServiceAccount with a Role, the issuer's identity, RBAC and admission policy.
    pub(crate) fn set_up(&mut self) -> Result<Vec<String>> {
        let namespace = self.namespace();
        fs::write(self.roles().join("demo-deployer.yaml"), role_document(&namespace))
            .context("cannot write the role document")?;
        let rbac = self.rbac()?;
        self.made = true;
        self.admin.run(&["apply", "-f", "-"], Some(&job_side(&namespace).to_string()))?;
        self.admin.run(&["apply", "-f", "-"], Some(&rbac))?;
        self.write_issuer_kubeconfig()?;
        Ok(vec![
            format!(
                "namespace {namespace}, ServiceAccount deployer: may manage configmaps there, nothing else"
            ),
            format!("applied what `shorepass-issuer rbac` prints: {}", kinds(&rbac)),
            format!("the issuer is ServiceAccount {}/shorepass-issuer", self.home()),
        ])
    }

    fn rbac(&self) -> Result<String> {
        let mut command = Command::new(paths::daemons().join("shorepass-issuer"));
        command.arg("rbac").arg("--roles").arg(self.roles());
        command.args(["--issuer", &self.issuer(), "--namespace", &self.home()]);
        output(&mut command, None)
    }

    fn write_issuer_kubeconfig(&self) -> Result<()> {
        let home = self.home();
        let token = process::wait_until("the issuer's ServiceAccount", Duration::from_secs(20), || {
            let token = ["create", "token", "shorepass-issuer", "-n", &home, "--duration", "24h"];
            Ok(match self.admin.run(&token, None) {
                Ok(token) => Seen::Ready(token),
                Err(error) => Seen::NotYet(error.to_string()),
            })
        })?;
        let view = ["config", "view", "--raw", "--minify", "--flatten", "-o", "json"];
        let mut config: Value = serde_json::from_str(&self.admin.run(&view, None)?)?;
        config["users"] = json!([{"name": "issuer", "user": {"token": token.trim()}}]);
        config["contexts"][0]["context"]["user"] = json!("issuer");
        config["contexts"][0]["name"] = json!("issuer");
        config["current-context"] = json!("issuer");
        write_private(&self.issuer_kubeconfig(), &config.to_string())
    }

    /// Deletes what was made, stops what was started.
    pub(crate) fn remove(&mut self) -> Result<String> {
        let cleaned = if self.made && self.running.is_none() { self.clean() } else { Ok(Vec::new()) };
        if let Some(running) = &mut self.running {
            running.stop()?;
        }
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("cannot remove {}", self.folder.display()))?;
        let kept = cleaned?.join(" and ");
        Ok(match self.running {
            Some(_) => "nothing is left: daemons, control plane and files are gone".to_owned(),
            None if kept.is_empty() => {
                "nothing is left: daemons, files and what was made in your cluster are gone".to_owned()
            }
            None => format!(
                "daemons and files are gone, and all that was made in your cluster is deleted; it has not removed {kept} \
                 yet, empty as they are (a cluster without kube-controller-manager never does)"
            ),
        })
    }

    /// Deletes all that was made in the user's cluster; gives the namespaces that the cluster has not removed yet. What
    /// is in the job's namespace is deleted one by one: a cluster may take its time to empty a namespace.
    fn clean(&self) -> Result<Vec<String>> {
        let rbac = self.rbac()?;
        let namespace = self.namespace();
        let job_side = job_side(&namespace).to_string();
        let delete = ["delete", "--ignore-not-found", "--wait=false"];
        let leases = ["secrets", "-n", &namespace, "--field-selector", "type=shorepass.dev/lease"];
        let made = ["configmaps", "-n", &namespace, "release"];
        let deleted = [
            self.admin.run(&[&delete[..], &leases[..]].concat(), None),
            self.admin.run(&[&delete[..], &made[..]].concat(), None),
            self.admin.run(&[&delete[..], &["-f", "-"]].concat(), Some(&rbac)),
            self.admin.run(&[&delete[..], &["-f", "-"]].concat(), Some(&job_side)),
        ];
        deleted.into_iter().try_for_each(|result| result.map(|_| ()))?;
        self.wait_for_namespaces(&[&namespace, &self.home()])
    }

    /// Not by way of `signals`: a removal goes on after Ctrl-C.
    fn wait_for_namespaces(&self, namespaces: &[&str]) -> Result<Vec<String>> {
        let started = Instant::now();
        let get = ["get", "namespaces", "--ignore-not-found", "-o", "name"];
        loop {
            let found = self.admin.run(&[&get[..], namespaces].concat(), None)?;
            let left: Vec<String> = found.lines().map(str::to_owned).collect();
            if left.is_empty() || started.elapsed() >= REMOVAL {
                return Ok(left);
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Site {
    /// Only for a path that did not come to [`Site::remove`]; a second removal finds nothing.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Admin {
    fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["--context", &self.context]).args(arguments);
        output(&mut command, input)
    }
}

/// Runs to its end; its stdout, or an error with its stderr. In a process group of its own: a Ctrl-C on the terminal is
/// for xtask, and a program that is removing something finishes that.
pub(crate) fn output(command: &mut Command, input: Option<&str>) -> Result<String> {
    let program = command.get_program().to_owned();
    let name = Path::new(&program).file_name().unwrap_or(OsStr::new("program")).display().to_string();
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .process_group(0)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        pipe.write_all(input.as_bytes()).with_context(|| format!("cannot write to {name}"))?;
    }
    let done = child.wait_with_output().with_context(|| format!("cannot wait for {name}"))?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{name} failed ({}): {}", done.status, errors.trim());
    String::from_utf8(done.stdout).with_context(|| format!("{name} prints something else than text"))
}

/// Writes a file that only we may read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn suffix() -> String {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    format!("{:x}", millis % 0x1_0000_0000)
}

/// What a team has before shorepass comes: a namespace, a ServiceAccount, a Role.
fn job_side(namespace: &str) -> Value {
    let metadata = |name: &str| json!({"name": name, "namespace": namespace});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("deployer")},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata("deployer"),
         "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "create", "delete"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata("deployer"),
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer"},
         "subjects": [{"kind": "ServiceAccount", "name": "deployer", "namespace": namespace}]},
    ]})
}

fn role_document(namespace: &str) -> String {
    format!(
        "apiVersion: shorepass.dev/v1
kind: Role
metadata: {{name: demo-deployer}}
spec:
  cluster: demo
  target: {{namespace: {namespace}, serviceAccount: deployer}}
  lifetimes: {{token: {{default: 10m, max: 1h}}, lease: {{default: 1h, max: 6h}}}}
  subjects:
    - runners: [demo-*]
      acceptJobs: asserted
"
    )
}

/// The kinds in a multi-document YAML, in order, each once.
fn kinds(yaml: &str) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for kind in yaml.lines().filter_map(|line| line.strip_prefix("kind: ")) {
        if !kinds.contains(&kind.trim()) {
            kinds.push(kind.trim());
        }
    }
    kinds.join(", ")
}
