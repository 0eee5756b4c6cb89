//! A kubeconfig that holds a cluster, a context and the exec plugin: nothing that is worth stealing.
//!
//! Written as text, because it is always the same dozen lines. Each value is a JSON string, and every JSON string is a
//! double-quoted one of YAML (YAML 1.2, 7.3.1).

mod file;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shorepass_core::name::Name;
use shorepass_proto::local::v1::RoleResponse;

pub(crate) use file::WriteError;
pub(crate) use file::write;

/// The first line: what has it was written here, and may be replaced.
const HEADER: &str = "# Made by `shorepass kubeconfig`, which replaces this file. It holds no credential.\n";

/// The plugin's name stands in allow lists and cannot change.
const PLUGIN: &str = "shorepass-exec";

const INSTALL_HINT: &str = "shorepass-exec is missing: it is a part of shorepass, and belongs in a directory of PATH on this runner.";

/// A cluster that no kubeconfig can name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the agent's answer does not make a kubeconfig: its {0} is empty or not printable")]
pub(crate) struct UnusableCluster(&'static str);

/// The kubeconfig of a role.
pub(crate) fn render(
    role: &Name,
    context: Option<&str>,
    cluster: &RoleResponse,
) -> Result<String, UnusableCluster> {
    let quoted = |name, text: &str| match text.is_empty() || text.chars().any(char::is_control) {
        true => Err(UnusableCluster(name)),
        false => Ok(serde_json::Value::from(text).to_string()),
    };
    let cluster_name = quoted("cluster", &format!("shorepass-{}", cluster.cluster))?;
    let server = quoted("server", &cluster.server)?;
    let namespace = quoted("namespace", &cluster.namespace)?;
    let own_name = format!("shorepass-{role}");
    let context = quoted("context", context.unwrap_or(&own_name))?;
    let user = quoted("user", &own_name)?;
    let role = quoted("role", role.as_str())?;
    let install_hint = quoted("installHint", INSTALL_HINT)?;
    let mut optional = String::new();
    if !cluster.ca_bundle_pem.is_empty() {
        let data = STANDARD.encode(&cluster.ca_bundle_pem);
        optional.push_str(&format!("      certificate-authority-data: {data}\n"));
    }
    if !cluster.tls_server_name.is_empty() {
        let name = quoted("tls-server-name", &cluster.tls_server_name)?;
        optional.push_str(&format!("      tls-server-name: {name}\n"));
    }
    Ok(format!(
        "{HEADER}apiVersion: v1
kind: Config
clusters:
  - name: {cluster_name}
    cluster:
      server: {server}
{optional}contexts:
  - name: {context}
    context:
      cluster: {cluster_name}
      namespace: {namespace}
      user: {user}
current-context: {context}
users:
  - name: {user}
    user:
      exec:
        apiVersion: client.authentication.k8s.io/v1
        command: {PLUGIN}
        args: [--role, {role}]
        interactiveMode: Never
        installHint: {install_hint}
        provideClusterInfo: false
"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn role() -> Name {
        Name::parse("web-deployer").unwrap()
    }

    fn cluster() -> RoleResponse {
        RoleResponse {
            cluster: "staging".to_owned(),
            server: "https://10.0.0.1:6443".to_owned(),
            ca_bundle_pem: b"-----BEGIN CERTIFICATE-----\n".to_vec(),
            tls_server_name: "kubernetes".to_owned(),
            namespace: "web".to_owned(),
        }
    }

    fn parsed(context: Option<&str>, cluster: &RoleResponse) -> Value {
        serde_saphyr::from_str(&render(&role(), context, cluster).unwrap()).unwrap()
    }

    #[test]
    fn it_holds_a_cluster_a_context_and_the_plugin_and_nothing_else() {
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "shorepass-staging", "cluster": {
                "server": "https://10.0.0.1:6443",
                "certificate-authority-data": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==",
                "tls-server-name": "kubernetes",
            }}],
            "contexts": [{"name": "shorepass-web-deployer", "context": {
                "cluster": "shorepass-staging", "namespace": "web", "user": "shorepass-web-deployer",
            }}],
            "current-context": "shorepass-web-deployer",
            "users": [{"name": "shorepass-web-deployer", "user": {"exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": "shorepass-exec",
                "args": ["--role", "web-deployer"],
                "interactiveMode": "Never",
                "installHint": INSTALL_HINT,
                "provideClusterInfo": false,
            }}}],
        });
        assert_eq!(parsed(None, &cluster()), expected);
    }

    #[test]
    fn what_the_cluster_does_not_need_is_left_out() {
        let bare = RoleResponse { ca_bundle_pem: Vec::new(), tls_server_name: String::new(), ..cluster() };
        assert_eq!(parsed(None, &bare)["clusters"][0]["cluster"], json!({"server": "https://10.0.0.1:6443"}));
    }

    #[test]
    fn a_name_that_looks_like_something_else_stays_a_name() {
        for name in ["true", "1", "a: b", "\"", "\\", "# x", "ä"] {
            let value = parsed(Some(name), &cluster());
            assert_eq!(value["current-context"], name);
            assert_eq!(value["contexts"][0]["name"], name);
        }
        let number = Name::parse("1").unwrap();
        let value: Value = serde_saphyr::from_str(&render(&number, None, &cluster()).unwrap()).unwrap();
        assert_eq!(value["users"][0]["user"]["exec"]["args"], json!(["--role", "1"]));
    }

    #[test]
    fn an_answer_cannot_add_lines() {
        let forged = RoleResponse { namespace: "web\ntoken: x".to_owned(), ..cluster() };
        assert_eq!(render(&role(), None, &forged), Err(UnusableCluster("namespace")));
        let empty = RoleResponse { server: String::new(), ..cluster() };
        assert_eq!(render(&role(), None, &empty), Err(UnusableCluster("server")));
    }
}
