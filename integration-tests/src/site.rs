//! The cluster's side of a scenario with daemons: a namespace with ServiceAccounts, and an issuer's identity for roles.
//!
//! Roles are written as documents, the way an operator does it, and read back by the product's own reader.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::Api;
use kube::config::{Cluster, Kubeconfig};
use shorepass_core::lease::AnchorName;
use shorepass_core::name::Name;
use shorepass_core::role::Role;

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

/// A role of another mode, for the same callers.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// Its name.
    pub name: &'static str,
    /// The lines of its `spec` that say what it gives out, indented by two spaces.
    pub gives: &'static str,
}

impl Document {
    fn render(&self, namespace: &Name, strict: &str) -> String {
        let Self { name, gives } = self;
        format!("apiVersion: shorepass.dev/v1\nkind: Role\nmetadata: {{name: {name}}}\nspec:\n  cluster: {CLUSTER}\n{gives}{CALLERS}")
            .replace("@NAMESPACE@", namespace.as_str())
            .replace("@STRICT@", strict)
    }
}

/// A strict role with the rights of [`DEPLOY`]'s ServiceAccount, and more of its own.
pub const RELEASE: Document = Document {
    name: "release",
    gives: "  strict:
    namespace: @STRICT@
    bindings:
      - {namespace: @NAMESPACE@, role: deployer}
      - {namespace: @NAMESPACE@, clusterRole: system:aggregate-to-view}
      - namespace: @NAMESPACE@
        rules: [{apiGroups: [apps], resources: [deployments], verbs: [list]}]
",
};

/// An unbound role of [`DEPLOY`]'s ServiceAccount.
pub const STATUS: Document = Document {
    name: "status",
    gives: "  target: {namespace: @NAMESPACE@, serviceAccount: deployer}
  dangerouslyUnbound: true
",
};

/// A role of [`DEPLOY`]'s ServiceAccount that needs more than that is allowed.
pub const NEEDY: Document = Document {
    name: "needy",
    gives: "  target: {namespace: @NAMESPACE@, serviceAccount: deployer}
  needs:
    - {apiGroups: [\"\"], resources: [configmaps, pods/log], verbs: [get, create]}
    - {clusterWide: true, apiGroups: [\"\"], resources: [nodes], resourceNames: [one], verbs: [get]}
",
};

const CALLERS: &str = "  lifetimes: {token: {default: 10m, max: 20m}, lease: {default: 30m, max: 1h}}
  subjects:
    - runners: [test-*]
      acceptJobs: asserted
    - platforms: [test-*]
      acceptJobs: asserted
";

/// A namespace, and an issuer that may mint in it.
pub struct Site {
    /// The administrator.
    pub admin: Admin,
    /// The namespace of the roles.
    pub place: Place,
    /// Rights, policy and credential of the issuer.
    pub identity: InstalledIssuer,
    /// The namespace of generated ServiceAccounts, if there are roles of other modes.
    pub strict: Option<Place>,
    /// Documents of the other modes.
    more: String,
    documents: Vec<RoleDocument>,
    /// The roles that the cluster lets the issuer use.
    granted: Vec<Role>,
    cluster: Cluster,
}

impl Site {
    /// With role [`DEPLOY`]; its ServiceAccount may manage ConfigMaps.
    pub async fn new(purpose: &str) -> Result<Self> {
        Self::with_roles(purpose, &[DEPLOY]).await
    }

    /// With these roles. The ServiceAccount of [`DEPLOY`] is made, the others are not.
    pub async fn with_roles(purpose: &str, documents: &[RoleDocument]) -> Result<Self> {
        Self::with_all(purpose, documents, &[]).await
    }

    /// With role [`DEPLOY`], [`RELEASE`] and [`STATUS`].
    pub async fn with_modes(purpose: &str) -> Result<Self> {
        Self::with_all(purpose, &[DEPLOY], &[RELEASE, STATUS]).await
    }

    /// With these roles; those of other modes are texts with `@NAMESPACE@`, and `@STRICT@` for the namespace of generated
    /// ServiceAccounts, in place of everything between the role's name and its lifetimes.
    pub async fn with_all(purpose: &str, documents: &[RoleDocument], more: &[Document]) -> Result<Self> {
        let admin = Admin::connect().await?;
        let place = admin.place(purpose).await?;
        let strict = (!more.is_empty()).then(|| admin.guard(admin.unique("strict")));
        let generated = strict.as_ref().map_or("none", |strict| strict.namespace.as_str());
        let more = more.iter().map(|document| document.render(&place.namespace, generated));
        let more = more.collect::<Vec<_>>().join("---\n");
        place.service_account(DEPLOY.service_account).await?;
        admin.apply(&rights_of_the_job(&place.namespace))?;
        let folder = tempfile::tempdir()?;
        let granted = documents.iter().filter(|document| document.granted);
        let mut text: Vec<String> = granted.map(|document| render(document, &place.namespace)).collect();
        text.push(more.clone());
        std::fs::write(folder.path().join("roles.yaml"), text.join("---\n"))?;
        let roles: Vec<Role> = shorepass_config::role::load_directory(folder.path())?;
        let identity = InstalledIssuer::install(&admin, &roles, &Name::parse(CLUSTER)?).await?;
        let kubeconfig = Kubeconfig::read_from(&admin.environment.kubeconfig)?;
        let cluster = kubeconfig.clusters.into_iter().next().and_then(|named| named.cluster);
        let cluster = cluster.context("the admin's kubeconfig has no cluster")?;
        Ok(Self {
            admin,
            place,
            identity,
            strict,
            more,
            documents: documents.to_vec(),
            granted: roles,
            cluster,
        })
    }

    /// The roles that the cluster lets the issuer use.
    pub fn granted(&self) -> &[Role] {
        &self.granted
    }

    /// An issuer of another name with the same roles.
    pub async fn another_issuer(&self) -> Result<InstalledIssuer> {
        InstalledIssuer::install(&self.admin, &self.granted, &Name::parse(CLUSTER)?).await
    }

    /// All role documents.
    pub fn role_documents(&self) -> String {
        let documents = self.documents.iter().map(|document| render(document, &self.place.namespace));
        documents.chain([self.more.clone()]).collect::<Vec<_>>().join("---\n")
    }

    /// What exists of leases: all names in the namespace of generated ServiceAccounts, and the RoleBindings of leases beside
    /// the roles' own.
    pub async fn left_of_strict_leases(&self) -> Result<Vec<String>> {
        let strict = self.strict.as_ref().context("there are no strict roles")?;
        let mut names = Vec::new();
        names.extend(self.names_of_leases(strict.secrets()).await?);
        names.extend(self.names_of_leases(strict.service_accounts()).await?);
        let bindings: Api<RoleBinding> =
            Api::namespaced(self.admin.client.clone(), self.place.namespace.as_str());
        names.extend(self.names_of_leases(bindings).await?);
        Ok(names)
    }

    async fn names_of_leases<K>(&self, api: Api<K>) -> Result<Vec<String>>
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + k8s_openapi::serde::de::DeserializeOwned,
    {
        let named = |object: K| object.meta().name.clone().map(|name| format!("{} {name}", K::kind(&())));
        let found = api.list(&Default::default()).await?.items.into_iter().filter_map(named);
        Ok(found.filter(|named| named.split(' ').nth(1).is_some_and(is_of_a_lease)).collect())
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
{CALLERS}"
    )
}

/// An anchor's name, or one that begins with one.
fn is_of_a_lease(name: &str) -> bool {
    const LENGTH: usize = "shorepass-".len() + 26;
    name.get(..LENGTH).is_some_and(|anchor| AnchorName::parse(anchor).is_some())
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
