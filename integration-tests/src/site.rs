//! The cluster's side of a scenario with daemons: a namespace with ServiceAccounts, and an issuer's identity for roles.
//!
//! Roles are written as documents, the way an operator does it, and read back by the product's own reader.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kube::config::{Cluster, Kubeconfig};
use shorepass_core::name::Name;

use crate::admin::{Admin, Place};
use crate::issuer_identity::InstalledIssuer;

/// What the cluster is called in all documents.
pub const CLUSTER: &str = "test";

/// A role for runners `test-*` and platforms `test-*`.
#[derive(Clone, Copy, Debug)]
pub struct RoleDocument {
    /// Its name.
    pub name: &'static str,
    /// Its ServiceAccount.
    pub service_account: &'static str,
    /// Whether the issuer gets the right to it in the cluster.
    pub granted: bool,
}

/// The role of most scenarios.
pub const DEPLOY: RoleDocument = RoleDocument { name: "deploy", service_account: "deployer", granted: true };

/// A namespace, and an issuer that may mint in it.
pub struct Site {
    /// The administrator.
    pub admin: Admin,
    /// The namespace of the roles.
    pub place: Place,
    /// Rights, policy and credential of the issuer.
    pub identity: InstalledIssuer,
    documents: Vec<RoleDocument>,
    cluster: Cluster,
}

impl Site {
    /// With role [`DEPLOY`]; its ServiceAccount may manage ConfigMaps.
    pub async fn new(purpose: &str) -> Result<Self> {
        Self::with_roles(purpose, &[DEPLOY]).await
    }

    /// With these roles. The ServiceAccount of [`DEPLOY`] is made, the others are not.
    pub async fn with_roles(purpose: &str, documents: &[RoleDocument]) -> Result<Self> {
        let admin = Admin::connect().await?;
        let place = admin.place(purpose).await?;
        place.service_account(DEPLOY.service_account).await?;
        admin.apply(&rights_of_the_job(&place.namespace))?;
        let folder = tempfile::tempdir()?;
        let granted = documents.iter().filter(|document| document.granted);
        let text: Vec<String> = granted.map(|document| render(document, &place.namespace)).collect();
        std::fs::write(folder.path().join("roles.yaml"), text.join("---\n"))?;
        let roles = shorepass_config::role::load_directory(folder.path())?;
        let identity = InstalledIssuer::install(&admin, &roles, &Name::parse(CLUSTER)?).await?;
        let kubeconfig = Kubeconfig::read_from(&admin.environment.kubeconfig)?;
        let cluster = kubeconfig.clusters.into_iter().next().and_then(|named| named.cluster);
        let cluster = cluster.context("the admin's kubeconfig has no cluster")?;
        Ok(Self { admin, place, identity, documents: documents.to_vec(), cluster })
    }

    /// All role documents.
    pub fn role_documents(&self) -> String {
        let documents = self.documents.iter().map(|document| render(document, &self.place.namespace));
        documents.collect::<Vec<_>>().join("---\n")
    }

    /// The API server's URL.
    pub fn server(&self) -> Result<&str> {
        self.cluster.server.as_deref().context("the admin's cluster has no server")
    }

    /// The file with the certificate authority of the API server.
    pub fn authority(&self) -> Result<PathBuf> {
        let file = self.cluster.certificate_authority.as_ref();
        file.map(PathBuf::from).context("the admin's cluster names no file with its authority")
    }
}

fn render(document: &RoleDocument, namespace: &Name) -> String {
    let RoleDocument { name, service_account, .. } = document;
    format!(
        "\
apiVersion: shorepass.dev/v1
kind: Role
metadata: {{name: {name}}}
spec:
  cluster: {CLUSTER}
  target: {{namespace: {namespace}, serviceAccount: {service_account}}}
  lifetimes: {{token: {{default: 10m, max: 20m}}, lease: {{default: 30m, max: 1h}}}}
  subjects:
    - runners: [test-*]
      acceptJobs: asserted
    - platforms: [test-*]
      acceptJobs: asserted
"
    )
}

fn rights_of_the_job(namespace: &Name) -> String {
    let account = DEPLOY.service_account;
    format!(
        "\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {account}, namespace: {namespace}}}
rules: [{{apiGroups: [''], resources: [configmaps], verbs: [get, list, create, delete]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {account}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {account}}}
subjects: [{{kind: ServiceAccount, namespace: {namespace}, name: {account}}}]
"
    )
}
