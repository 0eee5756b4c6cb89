//! A pod that runs on a node, as far as the API server knows: no kubelet is there, and none is needed for its tokens.

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use shorepass_core::name::Name;

use crate::admin::{Admin, Cleanup, Place};

/// A node that is there by name only; removed when this is dropped.
pub struct Node {
    name: Name,
    _cleanup: Cleanup,
}

impl Node {
    /// Makes one.
    pub fn new(admin: &Admin) -> Result<Self> {
        let name = admin.unique("node");
        let cleanup = admin.cleanup(vec![format!("node/{name}")]);
        admin.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"))?;
        Ok(Self { name, _cleanup: cleanup })
    }
}

/// A pod; removed when this is dropped.
pub struct RunnerPod {
    admin: Admin,
    namespace: Name,
    name: String,
    service_account: String,
    uid: String,
}

impl RunnerPod {
    /// Makes one of this ServiceAccount, on this node or on none yet.
    pub async fn new(
        admin: &Admin,
        place: &Place,
        name: &str,
        service_account: &str,
        node: Option<&Node>,
    ) -> Result<Self> {
        let node = node.map(|node| format!("  nodeName: {}\n", node.name)).unwrap_or_default();
        Self::of(admin, place, (name, service_account), &node).await
    }

    /// The same on a node, with volumes: what a pod's `spec` says of them.
    pub async fn with(
        admin: &Admin,
        place: &Place,
        who: (&str, &str),
        node: &Node,
        volumes: &str,
    ) -> Result<Self> {
        let volumes: String = volumes.lines().map(|line| format!("  {line}\n")).collect();
        Self::of(admin, place, who, &format!("  nodeName: {}\n{volumes}", node.name)).await
    }

    async fn of(
        admin: &Admin,
        place: &Place,
        (name, service_account): (&str, &str),
        spec: &str,
    ) -> Result<Self> {
        let namespace = place.namespace.clone();
        admin.apply(&format!(
            "\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
{spec}  serviceAccountName: {service_account}
  automountServiceAccountToken: false
  containers: [{{name: runner, image: none.invalid/none}}]
"
        ))?;
        let pods: Api<Pod> = Api::namespaced(admin.client.clone(), namespace.as_str());
        let uid = pods.get(name).await?.metadata.uid.context("a pod without UID")?;
        let (name, service_account) = (name.to_owned(), service_account.to_owned());
        Ok(Self { admin: admin.clone(), namespace, name, service_account, uid })
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// A token as the kubelet projects it: of its ServiceAccount, for this audience, bound to it.
    pub async fn token(&self, audience: &str) -> Result<String> {
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
        };
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            bound_object_ref: Some(bound),
            expiration_seconds: Some(600),
        };
        token_of(&self.admin, &self.namespace, &self.service_account, spec).await
    }

    /// Removes it at once.
    pub fn delete(&self) {
        let Self { namespace, name, .. } = self;
        let arguments = ["delete", "pod", name, "-n", namespace.as_str(), "--grace-period=0", "--force"];
        self.admin.try_kubectl(&[arguments.as_slice(), &["--ignore-not-found"]].concat());
    }
}

impl Drop for RunnerPod {
    fn drop(&mut self) {
        self.delete();
    }
}

/// A token of a ServiceAccount for this audience, bound to no pod.
pub async fn unbound_token(place: &Place, service_account: &str, audience: &str) -> Result<String> {
    let admin = Admin::connect().await?;
    let spec = TokenRequestSpec {
        audiences: vec![audience.to_owned()],
        expiration_seconds: Some(600),
        ..TokenRequestSpec::default()
    };
    token_of(&admin, &place.namespace, service_account, spec).await
}

async fn token_of(
    admin: &Admin,
    namespace: &Name,
    service_account: &str,
    spec: TokenRequestSpec,
) -> Result<String> {
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(admin.client.clone(), namespace.as_str());
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request(service_account, &PostParams::default(), &request).await?;
    Ok(answer.status.context("a TokenRequest without status")?.token)
}
