//! The issuer's first credential in a cluster, made once with an administrator's: nothing of the administrator's is kept.
//!
//! What exists already is taken as it is, so that it can be run again: after the kill switch was pulled, or the issuer was
//! away for longer than its token lives. A Secret that was deleted is made anew with another UID, and tokens of before stay
//! dead. What the issuer may do is no matter of this: that is what [`crate::rbac`] prints.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::json;
use shorepass_core::cluster::Endpoint;
use shorepass_core::name::Name;
use shorepass_core::time::Timestamp;

use crate::answer;
use crate::api_server::{ApiError, ApiServer, Call};
use crate::connection::{ConnectError, Connection};
use crate::kube_cluster::USER_AGENT;
use crate::names;
use crate::own::OwnAccount;

/// The context in the kubeconfig that is written.
const CONTEXT: &str = "shorepass-issuer";

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The administrator's way in.
    pub admin: Connection,
    /// The issuer's account and Secret.
    pub account: OwnAccount,
    /// How long the first token lives.
    pub life: Duration,
    /// Where the files go; it must be there.
    pub folder: PathBuf,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrapped {
    /// The issuer's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The context in it.
    pub context: &'static str,
    /// When the token ends, unless the issuer renews it.
    pub expires: Timestamp,
    /// What was not there before, in words.
    pub made: Vec<String>,
}

/// Why there is no credential. It can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// There is no way into the cluster.
    #[error("the administrator's kubeconfig")]
    Connect(#[from] ConnectError),
    /// The cluster did not do it.
    #[error("cannot {what}: {cause}")]
    Refused {
        /// What.
        what: String,
        /// Why not.
        cause: String,
    },
    /// Something else has the name.
    #[error(
        "Secret {namespace}/{name} is there already and is of type {found}: choose another name (--secret)"
    )]
    SecretTaken {
        /// Where.
        namespace: Name,
        /// Its name.
        name: Name,
        /// What it is.
        found: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Bootstrap {
    /// Makes what is missing, and a token in any case.
    pub async fn run(&self, now: Timestamp) -> Result<Bootstrapped, BootstrapError> {
        let (endpoint, api, _) = self.admin.open().await?;
        let name = &self.admin.name;
        let token_file = self.folder.join(format!("{name}.token"));
        let kubeconfig = self.folder.join(format!("{name}.kubeconfig"));
        shorepass_files::probe(&token_file).map_err(|source| unwritten(&token_file, source))?;
        let mut made = Vec::new();
        let secret_uid = self.make(&api, &mut made).await?;
        let what = format!("make a token of {}", self.place(&self.account.service_account));
        let request = self.account.request(&secret_uid, self.life);
        let body = post(&api, self.account.token_path(), &request).await;
        let body = body.map_err(|error| refused(&what, error))?;
        let granted = answer::granted(&body).map_err(|problem| refused(&what, problem))?;
        let checked = self.account.check(&granted, &secret_uid, self.life, now);
        checked.map_err(|problem| refused(&what, problem))?;
        let text = kubeconfig_text(&endpoint, &token_file);
        shorepass_files::replace(&token_file, granted.token.expose().as_bytes())
            .map_err(|source| unwritten(&token_file, source))?;
        shorepass_files::replace(&kubeconfig, text.as_bytes())
            .map_err(|source| unwritten(&kubeconfig, source))?;
        Ok(Bootstrapped { kubeconfig, context: CONTEXT, expires: granted.claims.expires, made })
    }

    /// Namespace, ServiceAccount and Secret; the Secret's UID.
    async fn make(&self, api: &ApiServer, made: &mut Vec<String>) -> Result<String, BootstrapError> {
        let OwnAccount { namespace, service_account, secret } = &self.account;
        let named = |name: &Name| ObjectMeta {
            name: Some(name.to_string()),
            labels: Some([(names::MANAGED_BY_LABEL.to_owned(), names::MANAGED_BY.to_owned())].into()),
            ..ObjectMeta::default()
        };
        let bare = ObjectMeta { name: Some(namespace.to_string()), ..ObjectMeta::default() };
        let home = Namespace { metadata: bare, ..Namespace::default() };
        let account = ServiceAccount {
            metadata: named(service_account),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        };
        let own =
            Secret { metadata: named(secret), type_: Some(names::OWN_TYPE.to_owned()), ..Secret::default() };
        let below = format!("/api/v1/namespaces/{namespace}");
        ensure(api, "/api/v1/namespaces", &format!("Namespace {namespace}"), &home, made).await?;
        let what = format!("ServiceAccount {}", self.place(service_account));
        ensure(api, &format!("{below}/serviceaccounts"), &what, &account, made).await?;
        let what = format!("Secret {}", self.place(secret));
        ensure(api, &format!("{below}/secrets"), &what, &own, made).await?;
        self.uid_of_secret(api).await
    }

    async fn uid_of_secret(&self, api: &ApiServer) -> Result<String, BootstrapError> {
        let OwnAccount { namespace, secret, .. } = &self.account;
        let what = format!("look at Secret {}", self.place(secret));
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{secret}");
        let call = Call { method: Method::GET, path, user_agent: USER_AGENT, body: &() };
        let body = api.call(call).await.map_err(|error| refused(&what, error))?;
        let found: Secret = answer::parse("the Secret", &body).map_err(|problem| refused(&what, problem))?;
        match (found.type_.as_deref(), found.metadata.uid) {
            (Some(names::OWN_TYPE), Some(uid)) => Ok(uid),
            (other, _) => Err(BootstrapError::SecretTaken {
                namespace: namespace.clone(),
                name: secret.clone(),
                found: other.unwrap_or("Opaque").to_owned(),
            }),
        }
    }

    fn place(&self, name: &Name) -> String {
        format!("{}/{name}", self.account.namespace)
    }
}

/// Makes an object unless there is one of its name.
async fn ensure(
    api: &ApiServer,
    path: &str,
    what: &str,
    object: &impl Serialize,
    made: &mut Vec<String>,
) -> Result<(), BootstrapError> {
    match post(api, path.to_owned(), object).await {
        Ok(_) => made.push(what.to_owned()),
        Err(ApiError::Refused(refusal)) if refusal.code == 409 && refusal.reason == "AlreadyExists" => {}
        Err(error) => return Err(refused(&format!("make {what}"), error)),
    }
    Ok(())
}

async fn post(
    api: &ApiServer,
    path: String,
    body: &impl Serialize,
) -> Result<zeroize::Zeroizing<Vec<u8>>, ApiError> {
    api.call(Call { method: Method::POST, path, user_agent: USER_AGENT, body }).await
}

fn refused(what: &str, cause: impl Display) -> BootstrapError {
    BootstrapError::Refused { what: what.to_owned(), cause: cause.to_string() }
}

fn unwritten(file: &Path, source: std::io::Error) -> BootstrapError {
    BootstrapError::File { file: file.to_owned(), source }
}

/// The token file stands beside it: the folder may be moved as it is.
fn kubeconfig_text(endpoint: &Endpoint, token_file: &Path) -> String {
    let mut cluster = json!({"server": endpoint.server});
    if !endpoint.ca_bundle_pem.is_empty() {
        cluster["certificate-authority-data"] = json!(STANDARD.encode(&endpoint.ca_bundle_pem));
    }
    if !endpoint.tls_server_name.is_empty() {
        cluster["tls-server-name"] = json!(endpoint.tls_server_name);
    }
    let name = json!(endpoint.name);
    let token_file = json!(token_file.file_name().unwrap_or_default().to_string_lossy());
    let context = json!(CONTEXT);
    format!(
        "\
apiVersion: v1
kind: Config
clusters:
  - name: {name}
    cluster: {cluster}
contexts:
  - name: {context}
    context: {{cluster: {name}, user: {context}}}
users:
  - name: {context}
    user: {{tokenFile: {token_file}}}
"
    )
}

#[cfg(test)]
mod tests {
    use kube::config::Kubeconfig;

    use super::*;

    #[test]
    fn the_kubeconfig_leads_to_the_server_with_the_token_file_beside_it() {
        let endpoint = Endpoint {
            name: Name::parse("staging").unwrap(),
            server: "https://10.0.0.1:6443".to_owned(),
            ca_bundle_pem: b"-----BEGIN CERTIFICATE-----".to_vec(),
            tls_server_name: "kubernetes".to_owned(),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("staging.kubeconfig");
        let token_file = folder.path().join("staging.token");
        std::fs::write(&file, kubeconfig_text(&endpoint, &token_file)).unwrap();
        let read = Kubeconfig::read_from(&file).unwrap();
        let cluster = read.clusters[0].cluster.clone().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://10.0.0.1:6443"));
        assert_eq!(cluster.tls_server_name.as_deref(), Some("kubernetes"));
        let authority = STANDARD.decode(cluster.certificate_authority_data.unwrap()).unwrap();
        assert_eq!(authority, endpoint.ca_bundle_pem);
        let user = read.auth_infos[0].auth_info.clone().unwrap();
        assert_eq!(user.token_file, Some(token_file.display().to_string()));
        assert!(user.token.is_none() && read.contexts[0].name == CONTEXT);
        let alone = Endpoint { ca_bundle_pem: Vec::new(), tls_server_name: String::new(), ..endpoint };
        let text = kubeconfig_text(&alone, &token_file);
        assert!(!text.contains("authority") && !text.contains("tls-server-name"), "{text}");
    }
}
