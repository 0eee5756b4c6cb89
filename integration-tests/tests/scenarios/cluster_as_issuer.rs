//! A control plane as an issuer of job tokens: pods get roles by the projected tokens that it signs for them.
//!
//! Its `iss` is a name that leads nowhere from outside, and so may be the place that it tells of its keys.

use anyhow::{Context, Result, ensure};
use integration_tests::admin::Place;
use integration_tests::client;
use integration_tests::issuer::{self, IssuerUnderTest};
use integration_tests::site::Site;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::json;
use shorepass_proto::v1::ErrorReason as Reason;

const AUDIENCE: &str = "https://shorepass.test/jobs";

/// The `iss` of all tokens of a cluster, unless it is told otherwise.
const ISS: &str = "https://kubernetes.default.svc";

/// What `system:service-account-issuer-discovery` gives to every ServiceAccount: also to whoever shows no credential.
const ANYBODY_MAY_DISCOVER: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: @NAME@}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:service-account-issuer-discovery}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: system:unauthenticated}]
";

/// A role for the pods of one ServiceAccount, by a number that no other one ever has.
const FROM_PODS: &str = "\
apiVersion: shorepass.dev/v1
kind: Role
metadata: {name: from-pods}
spec:
  cluster: test
  target: {namespace: @NAMESPACE@, serviceAccount: deployer}
  lifetimes: {token: {default: 10m, max: 20m}}
  subjects:
    - runners: [test-*]
      jobs: {issuer: pods, claims: {account: \"@ACCOUNT@\"}}
";

#[tokio::test(flavor = "multi_thread")]
async fn projected_tokens_of_pods_open_job_sessions_and_get_their_roles() -> Result<()> {
    let site = Site::new("pods").await?;
    let name = site.admin.unique("discovery").to_string();
    let _binding = site.admin.cleanup(vec![format!("clusterrolebinding/{name}")]);
    site.admin.apply(&ANYBODY_MAY_DISCOVER.replace("@NAME@", &name))?;
    let (builder, other) = (pod(&site.place, "builder").await?, pod(&site.place, "other").await?);
    let knobs = issuer::Knobs {
        job_issuers: job_issuer(&site)?,
        roles: FROM_PODS.replace("@ACCOUNT@", &builder.account),
        ..issuer::Knobs::default()
    };
    let issuer = IssuerUnderTest::start(&site, knobs).await?;
    let runner = issuer.runner("test-1").await?;
    let ours = format!("{AUDIENCE}/test-1");

    let token = builder.token(&site.place, &ours).await?;
    let job = runner.start_job_with(&token).await?;
    runner.issue(&job, "from-pods").await?;
    let started = issuer.audit()?.into_iter().find(|line| line["event"] == "job.started");
    let started = started.context("no session was recorded")?.to_string();
    ensure!(started.contains(&builder.uid), "the job is the pod: {started}");
    let replayed = client::refused(runner.start_job_with(&token).await)?;
    ensure!(replayed.reason() == Some(Reason::JobTokenUsed), "{replayed:?}");

    let job = runner.start_job_with(&other.token(&site.place, &ours).await?).await?;
    let refused = client::refused(runner.issue(&job, "from-pods").await)?;
    ensure!(
        refused.refusal().is_some_and(|it| it.message.contains("the job's account is")),
        "pods of another ServiceAccount: {refused:?}"
    );
    for (audience, whose) in [(AUDIENCE, "nobody's"), (ISS, "the API server's")] {
        let token = builder.token(&site.place, audience).await?;
        let refused = client::refused(runner.start_job_with(&token).await)?;
        ensure!(refused.reason() == Some(Reason::JobTokenRejected), "{whose}: {refused:?}");
    }
    Ok(())
}

/// Its documents are at the API server's address; what it says of that address itself is not looked at.
fn job_issuer(site: &Site) -> Result<String> {
    let (server, authority) = (site.server()?, site.authority()?);
    Ok(format!(
        "    - name: pods
      system: generic
      url: {ISS}
      discoveryUrl: {server}/.well-known/openid-configuration
      keysUrl: {server}/openid/v1/jwks
      caFile: {}
      audience: {AUDIENCE}
      runner: audience
      jobClaim: pod
      claims:
        - {{name: pod, path: [kubernetes.io, pod, uid]}}
        - {{name: account, path: [kubernetes.io, serviceaccount, uid], project: true}}
        - {{name: namespace, path: [kubernetes.io, namespace]}}
",
        authority.display()
    ))
}

/// A pod without a node, as the control plane has no kubelet, with a ServiceAccount of its own name.
struct Sample {
    name: &'static str,
    uid: String,
    account: String,
}

async fn pod(place: &Place, name: &'static str) -> Result<Sample> {
    let account = place.service_account(name).await?;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": name,
            "automountServiceAccountToken": false,
            "containers": [{"name": "job", "image": "none"}],
        },
    }))?;
    let made = pods(place).create(&PostParams::default(), &pod).await?;
    Ok(Sample { name, uid: made.metadata.uid.context("a pod without UID")?, account })
}

fn pods(place: &Place) -> Api<Pod> {
    Api::namespaced(place.service_accounts().into_client(), place.namespace.as_str())
}

impl Sample {
    /// What the kubelet asks for where a pod has a projected volume with that audience.
    async fn token(&self, place: &Place, audience: &str) -> Result<String> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(self.name.to_owned()),
                    uid: Some(self.uid.clone()),
                }),
                expiration_seconds: Some(600),
            },
            ..TokenRequest::default()
        };
        let accounts = place.service_accounts();
        let answer = accounts.create_token_request(self.name, &PostParams::default(), &request).await?;
        Ok(answer.status.context("a TokenRequest without status")?.token)
    }
}
