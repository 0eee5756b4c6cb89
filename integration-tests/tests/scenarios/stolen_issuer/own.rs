//! The same thief where the issuer renews its own token: it stays on the Secret that ends it.
//!
//! What it has, it may renew for as long as nobody pulls the kill switch. It gets none that outlives that.

use anyhow::{Context, Result};
use http::Method;
use integration_tests::admin::{Admin, Place};
use integration_tests::decisions::role;
use integration_tests::issuer_identity::InstalledIssuer;
use integration_tests::wait::{self, Seen};
use kube::api::PostParams;
use serde_json::{Value, json};
use shorepass_cluster::rbac::{Audiences, render_renewing};
use shorepass_cluster::{OWN_LIFE, OwnAccount, names};
use shorepass_core::name::Name;
use std::time::Duration;

use super::{Attack, LONGEST, each_fails_by_the_policy, secret, send};

const ACCOUNT: &str = "issuer";
const OWN: &str = "own";

fn own_token(seconds: u64, bound: &Value) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": seconds, "boundObjectRef": bound},
    })
}

async fn made(home: &Place, name: &str, type_: &str) -> Result<Value> {
    let made = home.secrets().create(&PostParams::default(), &secret(name, type_, "")).await?;
    Ok(json!({"apiVersion": "v1", "kind": "Secret", "name": name, "uid": made.metadata.uid}))
}

/// More than `rbac` gives, so that the policy alone holds the thief.
fn widen_secrets(admin: &Admin, home: &Name) -> Result<()> {
    admin.apply(&format!(
        "\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: secrets, namespace: {home}}}
rules: [{{apiGroups: [''], resources: [secrets], verbs: [create, delete]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: secrets, namespace: {home}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: secrets}}
subjects:
  - {{kind: ServiceAccount, namespace: {home}, name: issuer}}
  - {{kind: ServiceAccount, namespace: {home}, name: twin}}
"
    ))
}

fn attacks(home: &Name, own: &Value, other: &Value) -> Vec<Attack> {
    let life = OWN_LIFE.as_secs();
    let mint = |what, body| Attack {
        what,
        method: Method::POST,
        path: format!("/api/v1/namespaces/{home}/serviceaccounts/{ACCOUNT}/token"),
        body,
        succeeded: |answer| answer["status"]["token"].as_str().is_some_and(|token| !token.is_empty()),
    };
    let mut for_others = own_token(600, own);
    for_others["spec"]["audiences"] = json!(["vault"]);
    let secrets = format!("/api/v1/namespaces/{home}/secrets");
    vec![
        mint("mint itself a token bound to nothing", own_token(600, &Value::Null)),
        mint("mint itself a token bound to another Secret", own_token(600, other)),
        mint("mint itself a token for longer than a day", own_token(life + 1, own)),
        mint("mint itself a token for somebody else", for_others),
        Attack {
            what: "delete the Secret that its tokens are bound to",
            method: Method::DELETE,
            path: format!("{secrets}/{OWN}"),
            body: json!({}),
            succeeded: |answer| answer["status"] == "Success",
        },
        Attack {
            what: "make that Secret again",
            method: Method::POST,
            path: secrets,
            body: json!({"metadata": {"name": OWN}, "type": names::OWN_TYPE}),
            succeeded: |answer| answer["metadata"]["uid"].is_string(),
        },
    ]
}

#[tokio::test]
async fn a_thief_gets_no_token_of_the_issuer_that_outlives_the_kill_switch() -> Result<()> {
    let admin = Admin::connect().await?;
    let cluster = Name::parse("test")?;
    let place = admin.place("stolenown").await?;
    let roles = [role("deploy", &cluster, &place.namespace, "deployer", Duration::from_secs(LONGEST))?];
    let issuer = InstalledIssuer::install(&admin, &roles, &cluster).await?;
    let home = &issuer.home;
    let account = OwnAccount {
        namespace: home.namespace.clone(),
        service_account: Name::parse(ACCOUNT)?,
        secret: Name::parse(OWN)?,
    };
    let audiences = Audiences::new(Vec::new())?;
    admin.apply(&render_renewing(&roles, &cluster, &account, &issuer.issuer, &audiences)?)?;
    let own = made(home, OWN, names::OWN_TYPE).await?;
    let other = made(home, "other", names::OWN_TYPE).await?;
    let twin = issuer.twin(&admin, &[&place.namespace]).await?;
    widen_secrets(&admin, &home.namespace)?;
    issuer.widen(&admin, &home.namespace).await?;
    let (thief, twin) = (admin.client_with(&issuer.token().await?).await?, admin.client_with(&twin).await?);

    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{ACCOUNT}/token", home.namespace);
    let proper = own_token(OWN_LIFE.as_secs(), &own);
    wait::until("the policy to let the issuer renew its token", Duration::from_secs(30), async || {
        Ok(match send(&thief, Method::POST, &path, &proper).await? {
            Ok(answer) => Seen::Ready(answer["status"]["token"].as_str().map(str::to_owned)),
            Err(said) => Seen::NotYet(said),
        })
    })
    .await?
    .context("an answer without a token")?;
    let refusal = format!("ValidatingAdmissionPolicy '{}'", issuer.policy);
    each_fails_by_the_policy(attacks(&home.namespace, &own, &other), &refusal, &thief, &twin).await
}
