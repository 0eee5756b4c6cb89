//! The same thief where roles give tokens for others than the API server: to those alone, and of those ServiceAccounts.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::Method;
use integration_tests::admin::Admin;
use integration_tests::decisions::{giving, role};
use integration_tests::issuer_identity::InstalledIssuer;
use kube::api::PostParams;
use serde_json::{Value, json};
use shorepass_core::audience::Audiences;
use shorepass_core::gives::Gives;
use shorepass_core::name::Name;
use shorepass_core::role::{Role, Target};

use super::{Attack, LEASE, LONGEST, each_fails_by_the_policy, secret, send, token_request};

const VAULT: &str = "https://vault.shorepass.test";
const REGISTRY: &str = "registry";
const API_SERVER: &str = "https://kubernetes.default.svc";
/// What the role for others gives at most.
const SHORTER: u64 = 600;

/// `deployer` for the API server, and for vault and registry together; `pusher` for the registry alone; `beacon`, bound to
/// nothing, for the registry.
fn roles(cluster: &Name, namespace: &Name) -> Result<Vec<Role>> {
    let role = |name: &str, account: &str, longest| {
        role(name, cluster, namespace, account, Duration::from_secs(longest))
    };
    let for_others = |role: Role, named: &[&str]| -> Result<Role> {
        let named = named.iter().copied().map(str::to_owned).collect();
        Ok(role.with_audiences(Audiences::new(named)?)?)
    };
    let service_account = "beacon".to_owned();
    let beacon = Target { cluster: cluster.clone(), namespace: namespace.clone(), service_account };
    Ok(vec![
        role("deploy", "deployer", LONGEST)?,
        for_others(role("vault", "deployer", SHORTER)?, &[VAULT, REGISTRY])?,
        for_others(role("push", "pusher", SHORTER)?, &[REGISTRY])?,
        for_others(giving(&role("beacon", "beacon", SHORTER)?, Gives::Unbound(beacon))?, &[REGISTRY])?,
    ])
}

#[tokio::test]
async fn a_token_is_for_exactly_whom_a_role_names_with_its_service_account() -> Result<()> {
    let (admin, cluster) = (Admin::connect().await?, Name::parse("test")?);
    let place = admin.place("stolenaud").await?;
    for account in ["deployer", "pusher", "beacon", "victim"] {
        place.service_account(account).await?;
    }
    let roles = roles(&cluster, &place.namespace)?;
    let issuer = InstalledIssuer::install(&admin, &roles, &cluster).await?;
    let twin = issuer.twin(&admin, &[&place.namespace]).await?;
    issuer.widen(&admin, &place.namespace).await?;
    let lease = secret(LEASE, "shorepass.dev/lease", "");
    let uid = place.secrets().create(&PostParams::default(), &lease).await?.metadata.uid.unwrap_or_default();
    let (thief, twin) = (admin.client_with(&issuer.token().await?).await?, admin.client_with(&twin).await?);

    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": LEASE, "uid": uid});
    let path =
        |account: &str| format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", place.namespace);
    let request = |seconds, bound: &Value, audiences: &[&str]| {
        let mut request = token_request(seconds, bound);
        request["spec"]["audiences"] = json!(audiences);
        request
    };
    for (account, bound, audiences) in [
        ("deployer", &bound, &[][..]),
        ("deployer", &bound, &[API_SERVER]),
        ("deployer", &bound, &[VAULT, REGISTRY]),
        ("pusher", &bound, &[REGISTRY]),
        ("beacon", &Value::Null, &[REGISTRY]),
    ] {
        let answer = send(&thief, Method::POST, &path(account), &request(SHORTER, bound, audiences)).await?;
        let given = answer.as_ref().is_ok_and(|answer| answer["status"]["token"].is_string());
        ensure!(given, "what a role gives is refused: {account} for {audiences:?}: {answer:?}");
    }

    let mint = |what, account: &str, seconds, bound: &Value, audiences: &[&str]| Attack {
        what,
        method: Method::POST,
        path: path(account),
        body: request(seconds, bound, audiences),
        succeeded: |answer| answer["status"]["token"].as_str().is_some_and(|token| !token.is_empty()),
    };
    let both = format!("{VAULT} {REGISTRY}");
    let attacks = vec![
        mint("of another ServiceAccount for that audience", "victim", SHORTER, &bound, &[REGISTRY]),
        mint("for the audience of another ServiceAccount", "pusher", SHORTER, &bound, &[VAULT]),
        mint("for all that any role names", "pusher", SHORTER, &bound, &[VAULT, REGISTRY]),
        mint("for one of two", "deployer", SHORTER, &bound, &[VAULT]),
        mint("for one more", "deployer", SHORTER, &bound, &[VAULT, REGISTRY, "sts.amazonaws.com"]),
        mint("for the API server besides", "pusher", SHORTER, &bound, &[REGISTRY, API_SERVER]),
        mint("for one that reads like two", "deployer", SHORTER, &bound, &[&both]),
        mint("for the API server, which no role gives it for", "pusher", SHORTER, &bound, &[]),
        mint("for the API server, by its name", "pusher", SHORTER, &bound, &[API_SERVER]),
        mint("for others as long as for the API server", "deployer", SHORTER + 1, &bound, &[VAULT, REGISTRY]),
        mint("bound to nothing", "pusher", SHORTER, &Value::Null, &[REGISTRY]),
        mint("bound to nothing, for the API server", "beacon", SHORTER, &Value::Null, &[]),
    ];
    let refusal = format!("ValidatingAdmissionPolicy '{}'", issuer.policy);
    each_fails_by_the_policy(attacks, &refusal, &thief, &twin).await
}
