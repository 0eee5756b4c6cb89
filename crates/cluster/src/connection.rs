//! From a kubeconfig and a context to a client, and to what clients of the tokens are told.
//!
//! What would send the issuer's credential to whoever answers (plain HTTP, `insecure-skip-tls-verify`) does not
//! connect. The parser's own text is never shown: it quotes lines of a file that holds keys.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use shorepass_core::cluster::Endpoint;
use shorepass_core::name::Name;
use shorepass_core::receipt::LAG_BOUND;

use crate::api_server::ApiServer;
use crate::in_cluster::{self, InClusterError};
use crate::witness::Servers;

/// How long a TCP and TLS connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the API server may be silent. Each operation has a deadline of its own besides.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The cluster's name in the issuer's config.
    pub name: Name,
    /// The file with the issuer's credential, or [`in_cluster::MOUNT`].
    pub kubeconfig: PathBuf,
    /// The context in that file; the file's current context means nothing here, because people switch it.
    pub context: String,
    /// What clients are told instead of what the kubeconfig says.
    pub advertise: Advertise,
    /// The issuer's name: it labels anchors and names the admission policy.
    pub issuer: Name,
    /// Its API servers, each `host:port`; empty for the one of the kubeconfig.
    pub endpoints: Vec<String>,
    /// How far the watch of an API server may lag.
    pub lag_bound: Duration,
}

impl Connection {
    /// By the kubeconfig alone, with its one API server.
    pub fn new(name: Name, kubeconfig: PathBuf, context: String, issuer: Name) -> Self {
        let (advertise, endpoints) = (Advertise::default(), Vec::new());
        Self { name, kubeconfig, context, advertise, issuer, endpoints, lag_bound: LAG_BOUND }
    }
}

/// Where clients find the API server, if not where the issuer does.
#[derive(Clone, Debug, Default)]
pub struct Advertise {
    /// Its URL.
    pub server: Option<String>,
    /// A PEM file with the certificate authorities to trust for it.
    pub ca_file: Option<PathBuf>,
    /// The name to verify its certificate against.
    pub tls_server_name: Option<String>,
}

/// Why there is no way to a cluster. Nothing was sent yet.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig, or a file that it names, cannot be used.
    #[error("kubeconfig {} cannot be used (context {context:?})", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// The context that was wanted.
        context: String,
        /// What is wrong.
        #[source]
        source: KubeconfigError,
    },
    /// It is no kubeconfig.
    #[error("{} is not a kubeconfig{place}: `kubectl --kubeconfig FILE config view` says more", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where, such as ` (line 3, column 1)`.
        place: String,
    },
    /// Others may use the credential in it.
    #[error(
        "kubeconfig {} holds a credential and is accessible to other users (mode {mode:04o}); run: chmod 600 {}",
        file.display(), file.display()
    )]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others may change to whom the credential goes.
    #[error("kubeconfig {} can be written to by other users (mode {mode:04o}); run: chmod go-w {}", file.display(), file.display())]
    Writable {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It has no such context.
    #[error("kubeconfig {} has no context {context:?}: {known}", file.display())]
    UnknownContext {
        /// The file.
        file: PathBuf,
        /// The context that was wanted.
        context: String,
        /// Those that are there.
        known: KnownContexts,
    },
    /// Its context leads to a server that the credential must not be sent to.
    #[error("kubeconfig {} (context {context:?}) {problem}", file.display())]
    Unsafe {
        /// The file.
        file: PathBuf,
        /// The context.
        context: String,
        /// Why, and what to write instead.
        problem: &'static str,
    },
    /// There is no pod's way in.
    #[error(transparent)]
    InCluster(#[from] InClusterError),
    /// The certificate authority's file cannot be used.
    #[error("cannot read the certificate authorities in {}", file.display())]
    AuthorityUnreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificate authorities are not PEM.
    #[error("{what} has no certificate in PEM form (BEGIN CERTIFICATE)")]
    AuthorityMalformed {
        /// Where they come from.
        what: String,
    },
    /// The URL to tell clients is none.
    #[error("advertise.server {0:?} is not an https URL, such as https://api.example.org:6443")]
    AdvertiseServer(String),
    /// The credential cannot be had or used.
    #[error("the credential of kubeconfig {} (context {context:?}) cannot be used: {problem}", file.display())]
    Credential {
        /// The file.
        file: PathBuf,
        /// The context.
        context: String,
        /// What is wrong; never what a credential plugin printed.
        problem: &'static str,
    },
    /// The client could not be made.
    #[error("no client could be made from kubeconfig {} (context {context:?})", file.display())]
    Client {
        /// The file.
        file: PathBuf,
        /// The context.
        context: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// The contexts of a kubeconfig, for a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownContexts(pub Vec<String>);

impl fmt::Display for KnownContexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("it has none") } else { write!(f, "it has {}", self.0.join(", ")) }
    }
}

impl Connection {
    /// Reads the files and makes the client. Nothing is sent.
    pub(crate) async fn open(&self) -> Result<(Endpoint, ApiServer, Servers), ConnectError> {
        let kubeconfig = self.read()?;
        self.check_mode(&kubeconfig)?;
        let cluster = self.cluster(&kubeconfig)?;
        let endpoint = self.endpoint(&cluster)?;
        let options =
            KubeConfigOptions { context: Some(self.context.clone()), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|source| self.unusable(source))?;
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.write_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        let mut anonymous = config.clone();
        anonymous.auth_info = AuthInfo::default();
        let anonymous = Client::try_from(anonymous).map_err(|source| self.no_client(source))?;
        let servers = Servers::new(config.clone(), self.endpoints.clone());
        let client = Client::try_from(config).map_err(|source| self.no_client(source))?;
        let credential = format!("kubeconfig {}, context {:?}", self.file(), self.context);
        Ok((endpoint, ApiServer::new(client, anonymous, credential), servers))
    }

    pub(crate) fn read(&self) -> Result<Kubeconfig, ConnectError> {
        if self.kubeconfig == Path::new(in_cluster::MOUNT) {
            return Ok(in_cluster::kubeconfig()?);
        }
        Kubeconfig::read_from(&self.kubeconfig).map_err(|error| match error {
            KubeconfigError::Parse(error) => ConnectError::Malformed {
                file: self.kubeconfig.clone(),
                place: error
                    .location()
                    .map(|place| format!(" (line {}, column {})", place.line(), place.column()))
                    .unwrap_or_default(),
            },
            other => self.unusable(other),
        })
    }

    /// The file is held to what key files are held to, if there is a secret in it; one that only says where the
    /// credential is, as in a pod, may be read. What is no regular file (a pipe, a pod's mount) is asked nothing: it has no lasting mode.
    fn check_mode(&self, kubeconfig: &Kubeconfig) -> Result<(), ConnectError> {
        let file = &self.kubeconfig;
        let metadata = std::fs::metadata(file)
            .map_err(|source| self.unusable(KubeconfigError::ReadConfig(source, file.clone())))?;
        let mode = metadata.mode() & 0o7777;
        if !metadata.is_file() {
            return Ok(());
        }
        if mode & 0o077 != 0 && holds_credential(kubeconfig) {
            return Err(ConnectError::Exposed { file: file.clone(), mode });
        }
        if mode & 0o022 != 0 {
            return Err(ConnectError::Writable { file: file.clone(), mode });
        }
        Ok(())
    }

    /// The context's cluster.
    fn cluster(&self, kubeconfig: &Kubeconfig) -> Result<Cluster, ConnectError> {
        let Some(context) = kubeconfig.contexts.iter().find(|context| context.name == self.context) else {
            let known = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
            return Err(ConnectError::UnknownContext {
                file: self.kubeconfig.clone(),
                context: self.context.clone(),
                known: KnownContexts(known),
            });
        };
        let name = context.context.as_ref().map(|context| context.cluster.clone()).unwrap_or_default();
        let cluster = kubeconfig
            .clusters
            .iter()
            .find(|cluster| cluster.name == name)
            .and_then(|cluster| cluster.cluster.clone())
            .ok_or_else(|| self.unusable(KubeconfigError::LoadClusterOfContext(name)))?;
        if cluster.insecure_skip_tls_verify == Some(true) {
            return Err(
                self.unsafe_because("has insecure-skip-tls-verify: give certificate-authority instead")
            );
        }
        if !cluster.server.as_deref().is_some_and(is_https) {
            return Err(
                self.unsafe_because("has no https server: the issuer's credential would travel in the clear")
            );
        }
        Ok(cluster)
    }

    fn endpoint(&self, cluster: &Cluster) -> Result<Endpoint, ConnectError> {
        let advertise = &self.advertise;
        if let Some(server) = advertise.server.as_ref().filter(|server| !is_https(server)) {
            return Err(ConnectError::AdvertiseServer(server.clone()));
        }
        // The kubeconfig's TLS name belongs to the kubeconfig's server.
        let inherited_name = cluster.tls_server_name.clone().filter(|_| advertise.server.is_none());
        Ok(Endpoint {
            name: self.name.clone(),
            server: advertise.server.clone().or_else(|| cluster.server.clone()).unwrap_or_default(),
            ca_bundle_pem: match &advertise.ca_file {
                Some(file) => read_authority(file)?,
                None => self.authority_of(cluster)?,
            },
            tls_server_name: advertise.tls_server_name.clone().or(inherited_name).unwrap_or_default(),
        })
    }

    fn authority_of(&self, cluster: &Cluster) -> Result<Vec<u8>, ConnectError> {
        match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
            (Some(data), _) => {
                let what = || format!("certificate-authority-data in kubeconfig {}", self.file());
                let malformed = || ConnectError::AuthorityMalformed { what: what() };
                require_certificate(STANDARD.decode(data.trim()).map_err(|_| malformed())?, what)
            }
            (None, Some(file)) => read_authority(Path::new(file)),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn file(&self) -> std::path::Display<'_> {
        self.kubeconfig.display()
    }

    fn unusable(&self, source: KubeconfigError) -> ConnectError {
        ConnectError::Kubeconfig { file: self.kubeconfig.clone(), context: self.context.clone(), source }
    }

    fn unsafe_because(&self, problem: &'static str) -> ConnectError {
        ConnectError::Unsafe { file: self.kubeconfig.clone(), context: self.context.clone(), problem }
    }

    fn no_client(&self, source: kube::Error) -> ConnectError {
        let (file, context) = (self.kubeconfig.clone(), self.context.clone());
        let problem = match source {
            kube::Error::Auth(_) => "its token file cannot be read or its credential plugin fails",
            kube::Error::RustlsTls(_) => {
                "its client certificate or key, or the certificate authority, is malformed"
            }
            other => return ConnectError::Client { file, context, source: Box::new(other) },
        };
        ConnectError::Credential { file, context, problem }
    }
}

/// Whether any of its users has more than the paths of files with tokens, certificates and keys. What a plugin is given to
/// run with may be a secret.
fn holds_credential(kubeconfig: &Kubeconfig) -> bool {
    kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()).any(|user| {
        user.token.is_some()
            || user.password.is_some()
            || user.client_key_data.is_some()
            || user.auth_provider.is_some()
            || user.exec.is_some()
    })
}

pub(crate) fn is_https(server: &str) -> bool {
    server.starts_with("https://")
        && server.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

fn read_authority(file: &Path) -> Result<Vec<u8>, ConnectError> {
    let pem = std::fs::read(file)
        .map_err(|source| ConnectError::AuthorityUnreadable { file: file.to_owned(), source })?;
    require_certificate(pem, || file.display().to_string())
}

pub(crate) fn require_certificate(
    pem: Vec<u8>,
    what: impl FnOnce() -> String,
) -> Result<Vec<u8>, ConnectError> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
        Ok(pem)
    } else {
        Err(ConnectError::AuthorityMalformed { what: what() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const GOOD: &str = "\
apiVersion: v1
kind: Config
contexts:
  - {name: staging, context: {cluster: c, user: u}}
  - {name: prod, context: {cluster: c, user: u}}
clusters:
  - {name: c, cluster: {server: 'https://127.0.0.1:6443', tls-server-name: api.internal}}
users:
  - {name: u, user: {token: hunter2}}
";

    fn connection(text: &str) -> (tempfile::NamedTempFile, Connection) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let name = |text| Name::parse(text).unwrap();
        let connection = Connection {
            name: name("c"),
            kubeconfig: file.path().to_owned(),
            context: "staging".to_owned(),
            advertise: Advertise::default(),
            issuer: name("main"),
            endpoints: Vec::new(),
            lag_bound: shorepass_core::receipt::LAG_BOUND,
        };
        (file, connection)
    }

    async fn problem(text: &str) -> String {
        let (_file, connection) = connection(text);
        chain(&connection.open().await.err().expect("it must be refused"))
    }

    fn chain(error: &dyn std::error::Error) -> String {
        let mut said = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            said.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        said
    }

    #[tokio::test]
    async fn clients_are_told_what_the_kubeconfig_says() {
        let (_file, connection) = connection(GOOD);
        let (endpoint, ..) = connection.open().await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(endpoint.server, "https://127.0.0.1:6443");
        assert_eq!(endpoint.tls_server_name, "api.internal");
        assert!(endpoint.ca_bundle_pem.is_empty());
    }

    #[tokio::test]
    async fn another_server_does_not_inherit_the_tls_name() {
        let (_file, mut connection) = connection(GOOD);
        connection.advertise.server = Some("https://api.example.org".to_owned());
        let (endpoint, ..) = connection.open().await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            (endpoint.server.as_str(), endpoint.tls_server_name.as_str()),
            ("https://api.example.org", "")
        );
    }

    #[tokio::test]
    async fn a_file_that_others_may_use_is_refused_with_the_remedy() {
        let open = async |user: &str, mode: u32| {
            let (file, connection) = connection(&GOOD.replace("token: hunter2", user));
            file.as_file().set_permissions(Permissions::from_mode(mode)).unwrap();
            let said = connection.open().await.err().map(|error| error.to_string());
            said.map(|said| said.replace(&file.path().display().to_string(), "FILE"))
        };
        let key = format!("client-key-data: {}", STANDARD.encode("key"));
        for user in ["token: hunter2", &key, "username: u, password: hunter2", "exec: {command: aws}"] {
            for mode in [0o640, 0o604, 0o620] {
                let said = open(user, mode).await.unwrap();
                assert!(
                    said.contains(&format!("mode {mode:04o}")) && said.ends_with("chmod 600 FILE"),
                    "{said}"
                );
            }
        }
        assert_eq!(open("token: hunter2", 0o600).await, None);
        assert_eq!(open("token: hunter2", 0o400).await, None);
        // A projected token's place is no secret, but nobody else may say where it is sent.
        assert_eq!(open("username: u", 0o444).await, None);
        assert!(open("username: u", 0o664).await.unwrap().ends_with("chmod go-w FILE"));
    }

    #[tokio::test]
    async fn an_unknown_context_is_told_with_those_that_are_there() {
        let said = problem(&GOOD.replace("name: staging", "name: stage")).await;
        assert!(said.ends_with("has no context \"staging\": it has stage, prod"), "{said}");
    }

    #[tokio::test]
    async fn a_server_that_nobody_verifies_is_refused() {
        let insecure = GOOD.replace("tls-server-name: api.internal", "insecure-skip-tls-verify: true");
        assert!(problem(&insecure).await.contains("certificate-authority"));
        assert!(problem(&GOOD.replace("https://", "http://")).await.contains("in the clear"));
    }

    #[tokio::test]
    async fn a_malformed_file_is_told_by_place_and_never_quoted() {
        let said = problem(&GOOD.replace("{token: hunter2}", "[token: hunter2")).await;
        assert!(said.contains("line ") && !said.contains("hunter2"), "{said}");
        let said = problem(&GOOD.replace("users:", "users: hunter2\nx:")).await;
        assert!(said.contains("is not a kubeconfig") && !said.contains("hunter2"), "{said}");
    }

    #[tokio::test]
    async fn missing_files_are_named() {
        let (file, connection) = connection(GOOD);
        drop(file);
        let said = chain(&connection.open().await.err().expect("it must be refused"));
        assert!(said.contains(&connection.kubeconfig.display().to_string()), "{said}");
        let said = problem(&GOOD.replace("{token: hunter2}", "{tokenFile: /does/not/exist}")).await;
        assert!(said.contains("token file"), "{said}");
        let said =
            problem(&GOOD.replace("tls-server-name: api.internal", "certificate-authority: /no/ca")).await;
        assert!(said.contains("/no/ca"), "{said}");
    }

    #[tokio::test]
    async fn what_a_credential_plugin_prints_is_not_quoted() {
        let plugin = "{exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, \
                      args: ['-c', 'echo hunter2; echo hunter2 >&2; exit 1']}}";
        let said = problem(&GOOD.replace("{token: hunter2}", plugin)).await;
        assert!(said.contains("plugin") && !said.contains("hunter2"), "{said}");
    }

    #[tokio::test]
    async fn an_advertised_server_is_an_https_url() {
        for bad in ["http://api", "api:6443", "https://", ""] {
            let (_file, mut connection) = connection(GOOD);
            connection.advertise.server = Some(bad.to_owned());
            assert!(matches!(connection.open().await, Err(ConnectError::AdvertiseServer(_))), "{bad:?}");
        }
    }
}
