//! The way into the cluster that an issuer in a pod has: the mount that the kubelet keeps, as a kubeconfig.
//!
//! It is made into a kubeconfig with a token file and then treated as any other, so that there is one way to a client. The
//! kubelet replaces the token long before it ends; it is read again about once a minute.

use std::path::{Path, PathBuf};

use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};

/// The mount: a directory that stands in for the kubeconfig.
pub const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The context of what is made of it.
pub const CONTEXT: &str = "in-cluster";

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// Why there is no such way.
#[derive(Debug, thiserror::Error)]
pub enum InClusterError {
    /// Not a pod, or one without a service account's environment.
    #[error("{0} is not set: inCluster is for an issuer that runs in a pod; elsewhere write kubeconfig")]
    NoPod(&'static str),
    /// The mount lacks something.
    #[error(
        "cannot read {}: does the pod say automountServiceAccountToken: true, or mount a projected token, kube-root-ca.crt there?",
        file.display()
    )]
    Mount {
        /// What.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What the environment and the mount say, as a kubeconfig.
pub(crate) fn kubeconfig() -> Result<Kubeconfig, InClusterError> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let host = variable(HOST).ok_or(InClusterError::NoPod(HOST))?;
    let port = variable(PORT).ok_or(InClusterError::NoPod(PORT))?;
    of_mount(Path::new(MOUNT), &host, &port)
}

fn of_mount(mount: &Path, host: &str, port: &str) -> Result<Kubeconfig, InClusterError> {
    let file = |name: &str| {
        let file = mount.join(name);
        match std::fs::File::open(&file) {
            Ok(_) => Ok(file.to_string_lossy().into_owned()),
            Err(source) => Err(InClusterError::Mount { file, source }),
        }
    };
    let cluster = Cluster {
        server: Some(server(host, port)),
        certificate_authority: Some(file("ca.crt")?),
        ..Cluster::default()
    };
    let user = AuthInfo { token_file: Some(file("token")?), ..AuthInfo::default() };
    let name = || CONTEXT.to_owned();
    let context = Context { cluster: name(), user: Some(name()), ..Context::default() };
    Ok(Kubeconfig {
        clusters: vec![NamedCluster { name: name(), cluster: Some(cluster), ..NamedCluster::default() }],
        auth_infos: vec![NamedAuthInfo { name: name(), auth_info: Some(user), ..NamedAuthInfo::default() }],
        contexts: vec![NamedContext { name: name(), context: Some(context), ..NamedContext::default() }],
        ..Kubeconfig::default()
    })
}

/// An address of version 6 stands in brackets in a URL.
fn server(host: &str, port: &str) -> String {
    if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_a_kubeconfig_with_a_token_file() {
        let mount = tempfile::tempdir().unwrap();
        let missing = of_mount(mount.path(), "10.96.0.1", "443").unwrap_err().to_string();
        assert!(missing.contains("ca.crt") && missing.contains("automountServiceAccountToken"), "{missing}");
        for name in ["ca.crt", "token"] {
            std::fs::write(mount.path().join(name), name).unwrap();
        }
        let made = of_mount(mount.path(), "10.96.0.1", "443").unwrap();
        let user = made.auth_infos[0].auth_info.clone().unwrap();
        assert_eq!(user.token_file, Some(mount.path().join("token").display().to_string()));
        assert!(user.token.is_none(), "a token that is read once is not read again");
        assert_eq!(made.contexts[0].name, CONTEXT);
    }

    #[test]
    fn the_server_is_a_url_for_addresses_of_both_kinds() {
        assert_eq!(server("10.96.0.1", "443"), "https://10.96.0.1:443");
        assert_eq!(server("fd00::1", "6443"), "https://[fd00::1]:6443");
    }
}
