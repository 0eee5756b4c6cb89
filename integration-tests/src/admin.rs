//! The cluster's administrator: makes what a scenario needs, and guards that remove it.
//!
//! Guards work in `drop`, with kubectl, so that they also work when a test panics. The control plane may run without
//! controllers: nobody then empties a namespace that is deleted, so the guard does it object by object and finishes the
//! namespace itself.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{Cluster, Kubeconfig};
use kube::{Client, Config};
use shorepass_core::name::Name;

use crate::environment::Environment;

/// A client with the rights of `system:masters`.
#[derive(Clone)]
pub struct Admin {
    /// What the tests were told.
    pub environment: Environment,
    /// The client.
    pub client: Client,
    cluster: Cluster,
}

/// A namespace that is removed, with what is in it, when this is dropped.
pub struct Place {
    /// The namespace.
    pub namespace: Name,
    admin: Admin,
}

/// Cluster-wide objects that are removed when this is dropped.
pub struct Cleanup {
    admin: Admin,
    /// `kind/name`
    objects: Vec<String>,
}

impl Admin {
    /// From the environment.
    pub async fn connect() -> Result<Self> {
        let environment = Environment::read()?;
        let kubeconfig = Kubeconfig::read_from(&environment.kubeconfig)?;
        Self::with(environment, kubeconfig).await
    }

    /// The same administrator at another API server of the cluster. kubectl, and what is removed in the end, go on at the first.
    pub async fn at(&self, server: &str) -> Result<Self> {
        let mut kubeconfig = Kubeconfig::read_from(&self.environment.kubeconfig)?;
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(server.to_owned());
        }
        Self::with(self.environment.clone(), kubeconfig).await
    }

    async fn with(environment: Environment, kubeconfig: Kubeconfig) -> Result<Self> {
        let cluster = kubeconfig.clusters.first().and_then(|named| named.cluster.clone());
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        config.default_retry = false;
        let client = Client::try_from(config)?;
        Ok(Self { environment, client, cluster: cluster.context("the admin's kubeconfig has no cluster")? })
    }

    /// A name that nothing else in the cluster has.
    pub fn unique(&self, purpose: &str) -> Name {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let millis = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let name = format!("{purpose}-{millis:x}-{:x}-{count}", std::process::id());
        Name::parse(&name).expect("purposes are short and in the grammar of names")
    }

    /// Makes a namespace.
    pub async fn place(&self, purpose: &str) -> Result<Place> {
        let namespace = self.unique(purpose);
        let object = Namespace { metadata: named(namespace.as_str()), ..Namespace::default() };
        Api::all(self.client.clone()).create(&PostParams::default(), &object).await?;
        Ok(self.guard(namespace))
    }

    /// Guards a namespace that something else made, or will make.
    pub fn guard(&self, namespace: Name) -> Place {
        Place { namespace, admin: self.clone() }
    }

    /// Removes cluster-wide objects, each `kind/name`, in the end.
    pub fn cleanup(&self, objects: Vec<String>) -> Cleanup {
        Cleanup { admin: self.clone(), objects }
    }

    /// `kubectl apply -f -`
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.feed(&["apply", "-f", "-"], yaml)
    }

    /// kubectl with the administrator's rights.
    pub fn kubectl(&self) -> Command {
        let kubeconfig = &self.environment.kubeconfig;
        let mut command = Command::new(&self.environment.kubectl);
        command.arg("--kubeconfig").arg(kubeconfig).stdin(Stdio::null());
        if let Some(folder) = kubeconfig.parent() {
            command.arg("--cache-dir").arg(folder.join("kubectl-cache"));
        }
        command
    }

    /// Writes a kubeconfig for the same cluster with a bearer token and the one context `test`.
    pub fn write_kubeconfig(&self, folder: &Path, name: &str, token: &str) -> Result<PathBuf> {
        let server = self.cluster.server.as_deref().context("the admin's cluster has no server")?;
        let authority =
            self.cluster.certificate_authority.as_deref().context("the admin's cluster has no authority")?;
        let text = format!(
            "\
apiVersion: v1
kind: Config
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: '{server}', certificate-authority: '{authority}'}}}}]
users: [{{name: test, user: {{token: '{token}'}}}}]
"
        );
        let path = folder.join(format!("{name}.kubeconfig"));
        write_private(&path, &text)?;
        Ok(path)
    }

    /// A client that shows this token and repeats nothing.
    pub async fn client_with(&self, token: &str) -> Result<Client> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = Kubeconfig::read_from(self.write_kubeconfig(folder.path(), "client", token)?)?;
        let options =
            kube::config::KubeConfigOptions { context: Some("test".to_owned()), ..Default::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    fn feed(&self, arguments: &[&str], input: &str) -> Result<()> {
        let mut child = self
            .kubectl()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        child.stdin.take().context("kubectl has no stdin")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "kubectl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Runs kubectl and returns what it printed; a failure is told and forgotten, because this is for guards.
    fn try_kubectl(&self, arguments: &[&str]) -> String {
        match self.kubectl().args(arguments).output() {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            Ok(output) => {
                eprintln!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
                String::new()
            }
            Err(cause) => {
                eprintln!("cannot run kubectl: {cause}");
                String::new()
            }
        }
    }
}

/// Writes a file that nobody else may read: the issuer takes no other kubeconfig.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

impl Place {
    /// Makes a ServiceAccount and returns its UID.
    pub async fn service_account(&self, name: &str) -> Result<String> {
        let object = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
        let made = self.service_accounts().create(&PostParams::default(), &object).await?;
        made.metadata.uid.context("a ServiceAccount without UID")
    }

    /// The ServiceAccounts here.
    pub fn service_accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.admin.client.clone(), self.namespace.as_str())
    }

    /// The Secrets here.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.admin.client.clone(), self.namespace.as_str())
    }

    /// The anchors of leases here, and not those that proofs are compared with: these go when the proof is done.
    pub async fn anchors(&self) -> Result<Vec<Secret>> {
        let secrets = self.secrets().list(&Default::default()).await?;
        let is_sealed = |secret: &Secret| {
            secret.metadata.annotations.as_ref().is_some_and(|all| all.contains_key("shorepass.dev/lease"))
        };
        Ok(secrets.into_iter().filter(is_sealed).collect())
    }

    /// Mints a token of a ServiceAccount here, bound to nothing: the credential of somebody in the test.
    pub async fn token_of(&self, service_account: &str) -> Result<String> {
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = self
            .service_accounts()
            .create_token_request(service_account, &PostParams::default(), &request)
            .await?;
        Ok(answer.status.context("a TokenRequest without status")?.token)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let namespace = self.namespace.as_str();
        let held = "jsonpath={range .items[?(@.metadata.finalizers)]}{.metadata.name}{\"\\n\"}{end}";
        for kind in ["secrets", "serviceaccounts", "rolebindings"] {
            for object in self.admin.try_kubectl(&["get", kind, "-n", namespace, "-o", held]).lines() {
                let release = r#"{"metadata":{"finalizers":null}}"#;
                self.admin.try_kubectl(&["patch", kind, object, "-n", namespace, "-p", release]);
            }
        }
        let kinds = "pods,secrets,serviceaccounts,roles,rolebindings,configmaps,leases";
        self.admin.try_kubectl(&["delete", kinds, "--all", "-n", namespace, "--wait=false"]);
        self.admin.try_kubectl(&["delete", "namespace", namespace, "--wait=false", "--ignore-not-found"]);
        let finished = format!(
            r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{namespace}"}},"spec":{{"finalizers":[]}}}}"#
        );
        let path = format!("/api/v1/namespaces/{namespace}/finalize");
        if let Err(error) = self.admin.feed(&["replace", "--raw", &path, "-f", "-"], &finished)
            // With controllers, theirs may have been first.
            && !error.to_string().contains("NotFound")
        {
            eprintln!("namespace {namespace} is left behind: {error}");
        }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        for object in &self.objects {
            self.admin.try_kubectl(&["delete", object, "--wait=false", "--ignore-not-found"]);
        }
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}
