//! An issuer's identity in the cluster: exactly what `shorepass-issuer rbac` prints, and a credential for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use shorepass_cluster::rbac::{self, Audiences, IssuerIdentity};
use shorepass_cluster::{Advertise, Connection, KubeCluster, Places, names};
use shorepass_core::name::Name;
use shorepass_core::role::Role;
use shorepass_daemon::clock::SystemClock;
use tempfile::TempDir;

use crate::admin::{Admin, Cleanup, Place};
use crate::wait::{self, Seen};

/// The name of the ServiceAccount.
const SERVICE_ACCOUNT: &str = "issuer";
/// The name of another with the same rights and without the policy.
const TWIN: &str = "twin";

/// Rights, policy and credential of one issuer, removed when this is dropped.
pub struct InstalledIssuer {
    /// Its name, unlike that of any other.
    pub issuer: Name,
    /// Its admission policy.
    pub policy: String,
    /// A kubeconfig with its credential.
    pub kubeconfig: PathBuf,
    /// The context in it.
    pub context: &'static str,
    /// The namespace of its ServiceAccount.
    pub home: Place,
    cluster: Name,
    folder: TempDir,
    _policy: Cleanup,
}

impl InstalledIssuer {
    /// Applies rights and policy for these roles and waits until the policy is in effect.
    pub async fn install(admin: &Admin, roles: &[Role], cluster: &Name) -> Result<Self> {
        let issuer = admin.unique("issuer");
        let home = admin.guard(admin.unique("home"));
        let policy = names::policy_name(&issuer);
        let cleanup = admin.cleanup(vec![
            format!("validatingadmissionpolicybinding/{policy}"),
            format!("validatingadmissionpolicy/{policy}"),
            format!("validatingadmissionpolicybinding/{}", names::lease_policy_name(&issuer)),
            format!("validatingadmissionpolicy/{}", names::lease_policy_name(&issuer)),
            format!("validatingadmissionpolicybinding/{}", names::token_policy_name(&issuer)),
            format!("validatingadmissionpolicy/{}", names::token_policy_name(&issuer)),
            format!("clusterrolebinding/{policy}"),
            format!("clusterrolebinding/{policy}-reviews"),
            format!("clusterrole/{policy}"),
            format!("clusterrole/{policy}-reviews"),
        ]);
        let audiences = Audiences::new(Vec::new())?;
        admin.apply(&rbac::render(roles, cluster, &user(&home)?, &issuer, &audiences)?)?;

        let folder = tempfile::tempdir()?;
        let token = home.token_of(SERVICE_ACCOUNT).await?;
        let kubeconfig = admin.write_kubeconfig(folder.path(), "issuer", &token)?;
        let installed = Self {
            issuer,
            policy,
            kubeconfig,
            context: "test",
            home,
            cluster: cluster.clone(),
            folder,
            _policy: cleanup,
        };
        let failed = installed.connect().await?.warm_up(&Places::of(roles, cluster)).await;
        ensure!(failed.is_empty(), "the policy did not take effect: {failed:?}");
        Ok(installed)
    }

    /// From now on its policy lets tokens for these audiences pass, and for no others. That takes effect a moment later.
    pub fn allow_audiences(&self, admin: &Admin, roles: &[Role], audiences: &[&str]) -> Result<()> {
        let audiences = Audiences::new(audiences.iter().copied().map(str::to_owned).collect())?;
        admin.apply(&rbac::render(roles, &self.cluster, &user(&self.home)?, &self.issuer, &audiences)?)
    }

    /// The cluster as this issuer sees it, with nothing remembered.
    pub async fn connect(&self) -> Result<KubeCluster> {
        self.connect_with(self.connection()).await
    }

    /// The same, with another connection.
    pub async fn connect_with(&self, connection: Connection) -> Result<KubeCluster> {
        Ok(KubeCluster::connect(connection, Arc::new(SystemClock)).await?)
    }

    /// How it connects.
    pub fn connection(&self) -> Connection {
        Connection {
            name: self.cluster.clone(),
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.to_owned(),
            advertise: Advertise::default(),
            issuer: self.issuer.clone(),
            endpoints: Vec::new(),
            lag_bound: shorepass_core::receipt::LAG_BOUND,
        }
    }

    /// The issuer's own token.
    pub async fn token(&self) -> Result<String> {
        self.home.token_of(SERVICE_ACCOUNT).await
    }

    /// Makes a ServiceAccount with the same rights in these namespaces, to which the policy does not apply, and returns
    /// its token.
    pub async fn twin(&self, admin: &Admin, namespaces: &[&Name]) -> Result<String> {
        self.home.service_account(TWIN).await?;
        for namespace in namespaces {
            self.bind(admin, namespace, &self.policy, TWIN)?;
            self.wait_until_allowed(admin, namespace, TWIN, "create", "secrets", "").await?;
        }
        self.home.token_of(TWIN).await
    }

    /// Gives the issuer and its twin more than it should have: tokens of every ServiceAccount of the namespace, and
    /// changes of its Secrets, ServiceAccounts, Leases and RoleBindings, to whatever Role.
    pub async fn widen(&self, admin: &Admin, namespace: &Name) -> Result<()> {
        admin.apply(&format!(
            "\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: widened, namespace: {namespace}}}
rules:
  - {{apiGroups: [''], resources: [serviceaccounts/token], verbs: [create]}}
  - {{apiGroups: [''], resources: [secrets], verbs: [update]}}
  - {{apiGroups: [''], resources: [serviceaccounts], verbs: [create, update, delete]}}
  - {{apiGroups: [rbac.authorization.k8s.io], resources: [rolebindings], verbs: [create, update, delete]}}
  - {{apiGroups: [rbac.authorization.k8s.io], resources: [roles, clusterroles], verbs: [bind]}}
  - {{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, update, delete]}}
"
        ))?;
        for service_account in [SERVICE_ACCOUNT, TWIN] {
            self.bind(admin, namespace, "widened", service_account)?;
            self.wait_until_allowed(admin, namespace, service_account, "update", "secrets", "").await?;
            self.wait_until_allowed(admin, namespace, service_account, "create", "serviceaccounts", "token")
                .await?;
        }
        Ok(())
    }

    /// An API server learns of a binding by a watch, a moment later.
    async fn wait_until_allowed(
        &self,
        admin: &Admin,
        namespace: &Name,
        service_account: &str,
        verb: &str,
        resource: &str,
        subresource: &str,
    ) -> Result<()> {
        let attributes = ResourceAttributes {
            namespace: Some(namespace.to_string()),
            verb: Some(verb.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: Some(subresource.to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{}:{service_account}", self.home.namespace)),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(admin.client.clone());
        wait::until("a RoleBinding to take effect", Duration::from_secs(10), async || {
            let status = reviews.create(&PostParams::default(), &review).await?.status;
            let allowed = status.as_ref().is_some_and(|status| status.allowed);
            Ok(if allowed { Seen::Ready(()) } else { Seen::NotYet(format!("{status:?}")) })
        })
        .await
    }

    /// Where the test may put files; it goes away with the identity.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    fn bind(&self, admin: &Admin, namespace: &Name, role: &str, service_account: &str) -> Result<()> {
        let home = &self.home.namespace;
        admin.apply(&format!(
            "\
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {role}-{service_account}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {role}}}
subjects: [{{kind: ServiceAccount, namespace: {home}, name: {service_account}}}]
"
        ))
    }
}

/// Who it is in the cluster.
fn user(home: &Place) -> Result<IssuerIdentity> {
    Ok(IssuerIdentity::ServiceAccount {
        namespace: home.namespace.clone(),
        name: Name::parse(SERVICE_ACCOUNT)?,
    })
}
