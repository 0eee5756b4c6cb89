//! What somebody can do who has stolen the issuer's credential: nothing beyond the roles.
//!
//! Each attack is made twice: with the issuer's credential, under the policy, where it must fail by that policy, and
//! with a twin's that has the same RBAC and no policy, where it must succeed. An attack that fails for another reason
//! than the policy would prove nothing.

mod audiences;
mod modes;
mod own;

use anyhow::{Result, bail, ensure};
use http::{Method, Request};
use integration_tests::admin::{Admin, Place};
use integration_tests::decisions::role;
use integration_tests::issuer_identity::InstalledIssuer;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use serde_json::{Value, json};
use shorepass_core::name::Name;
use std::collections::BTreeMap;
use std::time::Duration;

const LONGEST: u64 = 1200;
const PASSWORD: &str = "hunter2";
/// Base64 of the password, as the API server would give it away.
const ENCODED: &str = "aHVudGVyMg==";
const CHANGED: &str = "Y2hhbmdlZA==";
const LEASE: &str = "shorepass-zzzzzzzzzzzzzzzzzzzzzzzzzz";

/// A request, and how its success shows in the answer.
struct Attack {
    what: &'static str,
    method: Method,
    path: String,
    body: Value,
    succeeded: fn(&Value) -> bool,
}

struct Scene {
    admin: Admin,
    place: Place,
    issuer: InstalledIssuer,
    thief: Client,
    twin: Client,
    lease_uid: String,
    foreign_uid: String,
    /// A foreign Lease, and one with the name of the issuer's own.
    leases: Vec<ObjectMeta>,
}

async fn scene() -> Result<Scene> {
    let admin = Admin::connect().await?;
    let cluster = Name::parse("test")?;
    let place = admin.place("stolen").await?;
    for service_account in ["deployer", "admin"] {
        place.service_account(service_account).await?;
    }
    let roles = [role("deploy", &cluster, &place.namespace, "deployer", Duration::from_secs(LONGEST))?];
    let issuer = InstalledIssuer::install(&admin, &roles, &cluster).await?;
    let twin = issuer.twin(&admin, &[&place.namespace]).await?;
    // As if a controller had copied something into it.
    let lease = secret(LEASE, "shorepass.dev/lease", PASSWORD);
    let lease = place.secrets().create(&PostParams::default(), &lease).await?;
    let mut leases = Vec::new();
    for name in ["foreign", &issuer.policy] {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..Lease::default()
        };
        let api: Api<Lease> = Api::namespaced(admin.client.clone(), place.namespace.as_str());
        leases.push(api.create(&PostParams::default(), &lease).await?.metadata);
    }
    let foreign = secret("foreign", "Opaque", PASSWORD);
    let foreign = place.secrets().create(&PostParams::default(), &foreign).await?;
    Ok(Scene {
        thief: admin.client_with(&issuer.token().await?).await?,
        twin: admin.client_with(&twin).await?,
        lease_uid: lease.metadata.uid.unwrap_or_default(),
        foreign_uid: foreign.metadata.uid.unwrap_or_default(),
        admin,
        place,
        issuer,
        leases,
    })
}

fn secret(name: &str, type_: &str, password: &str) -> Secret {
    let data = (!password.is_empty()).then(|| BTreeMap::from([("password".to_owned(), password.to_owned())]));
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        type_: Some(type_.to_owned()),
        string_data: data,
        ..Secret::default()
    }
}

impl Scene {
    /// Each breaks one rule of the policy and keeps all others.
    fn attacks(&self) -> Vec<Attack> {
        let mut attacks = self.attacks_on_secrets();
        attacks.extend(self.attacks_on_tokens());
        attacks.extend(self.attacks_on_leases());
        let path = format!("{}/foreign", self.secrets());
        let body = json!({});
        let succeeded: fn(&Value) -> bool = |answer| answer["status"] == "Success";
        attacks.push(Attack {
            what: "delete a foreign Secret",
            method: Method::DELETE,
            path,
            body,
            succeeded,
        });
        attacks
    }

    fn attacks_on_secrets(&self) -> Vec<Attack> {
        let foreign = format!("{}/foreign", self.secrets());
        let lease = format!("{}/{LEASE}", self.secrets());
        let mut labelled = lease_secret("h");
        labelled["metadata"]["labels"]["replicator.example.org/from"] = json!("foreign");
        let given_away = |answer: &Value| answer["data"]["password"] == ENCODED;
        let read = |what, path: &str, propagation: &str| Attack {
            what,
            method: Method::DELETE,
            path: path.to_owned(),
            body: json!({"propagationPolicy": propagation, "dryRun": ["All"]}),
            succeeded: given_away,
        };
        let create = |what, body| {
            let succeeded: fn(&Value) -> bool = |made| made["metadata"]["uid"].is_string();
            Attack { what, method: Method::POST, path: self.secrets(), body, succeeded }
        };
        let changed =
            json!({"metadata": {"name": "foreign"}, "stringData": {"password": "changed"}, "type": "Opaque"});
        vec![
            read("read a foreign Secret by a foreground dry-run delete", &foreign, "Foreground"),
            read("read a foreign Secret by an orphaning dry-run delete", &foreign, "Orphan"),
            read("read a lease Secret by a foreground dry-run delete", &lease, "Foreground"),
            read("read a lease Secret by an orphaning dry-run delete", &lease, "Orphan"),
            create("make a permanent token", permanent_token()),
            create("make a Secret of another type", changed_lease("a", "type", json!("Opaque"))),
            create("make a Secret with data", changed_lease("b", "stringData", json!({"key": "value"}))),
            create(
                "make a lease Secret that a finalizer keeps alive",
                changed_metadata("c", "finalizers", json!(["example.org/never"])),
            ),
            create(
                "make a lease Secret of another name",
                changed_metadata("d", "name", json!("shorepass-x")),
            ),
            create("make a lease Secret without the label", changed_metadata("e", "labels", json!({}))),
            create(
                "make a lease Secret that a controller fills because of an annotation",
                changed_metadata("g", "annotations", json!({"replicator.example.org/from": "web/foreign"})),
            ),
            create("make a lease Secret that a controller fills because of a label", labelled),
            Attack {
                what: "change a foreign Secret",
                method: Method::PUT,
                path: foreign.clone(),
                body: changed,
                succeeded: |answer| answer["data"]["password"] == CHANGED,
            },
        ]
    }

    fn attacks_on_tokens(&self) -> Vec<Attack> {
        let lease = json!({"apiVersion": "v1", "kind": "Secret", "name": LEASE, "uid": self.lease_uid});
        let foreign =
            json!({"apiVersion": "v1", "kind": "Secret", "name": "foreign", "uid": self.foreign_uid});
        let mint = |what, service_account: &str, body| Attack {
            what,
            method: Method::POST,
            path: format!(
                "/api/v1/namespaces/{}/serviceaccounts/{service_account}/token",
                self.place.namespace
            ),
            body,
            succeeded: |answer| answer["status"]["token"].as_str().is_some_and(|token| !token.is_empty()),
        };
        let mut untraceable = token_request(600, &lease);
        untraceable["metadata"] = json!({});
        let for_others = |audiences| {
            let mut request = token_request(600, &lease);
            request["spec"]["audiences"] = audiences;
            request
        };
        vec![
            mint("mint a token for somebody else", "deployer", for_others(json!(["sts.amazonaws.com"]))),
            mint(
                "mint a token for the API server and somebody else",
                "deployer",
                for_others(json!(["https://kubernetes.default.svc", "vault"])),
            ),
            mint("mint a token bound to nothing", "deployer", token_request(600, &Value::Null)),
            mint("mint a token bound to a foreign Secret", "deployer", token_request(600, &foreign)),
            mint("mint a token that lives too long", "deployer", token_request(LONGEST + 1, &lease)),
            mint("mint a token of another ServiceAccount", "admin", token_request(600, &lease)),
            mint("mint a token that names no lease", "deployer", untraceable),
        ]
    }

    /// Whoever holds a controller's Lease stands in for the controller.
    fn attacks_on_leases(&self) -> Vec<Attack> {
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.place.namespace);
        let by_thief = |metadata: Value| json!({"metadata": metadata, "spec": {"holderIdentity": "thief"}});
        let known = |metadata: &ObjectMeta| {
            by_thief(json!({"name": metadata.name, "resourceVersion": metadata.resource_version}))
        };
        let held: fn(&Value) -> bool = |answer| answer["spec"]["holderIdentity"] == "thief";
        let deleted: fn(&Value) -> bool = |answer| answer["status"] == "Success";
        let attack = |what, method, path, body, succeeded| Attack { what, method, path, body, succeeded };
        let foreign = format!("{leases}/foreign");
        // The name of its own, in another namespace.
        let own = format!("{leases}/{}", self.issuer.policy);
        let elsewhere = known(&self.leases[1]);
        vec![
            attack("make a Lease", Method::POST, leases.clone(), by_thief(json!({"name": "made"})), held),
            attack("hold a foreign Lease", Method::PUT, foreign.clone(), known(&self.leases[0]), held),
            attack("hold a Lease of another namespace", Method::PUT, own, elsewhere, held),
            attack("delete a foreign Lease", Method::DELETE, foreign, json!({}), deleted),
        ]
    }

    fn secrets(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.place.namespace)
    }
}

fn token_request(seconds: u64, bound: &Value) -> Value {
    let annotations = json!({"shorepass.dev/lease-id": "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d"});
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"annotations": annotations},
        "spec": {"audiences": [], "expirationSeconds": seconds, "boundObjectRef": bound},
    })
}

/// What the issuer may create; `letter` makes the name.
fn lease_secret(letter: &str) -> Value {
    let name = format!("shorepass-{}", letter.repeat(26));
    let labels = json!({"app.kubernetes.io/managed-by": "shorepass"});
    json!({"metadata": {"name": name, "labels": labels}, "type": "shorepass.dev/lease"})
}

fn changed_lease(letter: &str, field: &str, value: Value) -> Value {
    let mut secret = lease_secret(letter);
    secret[field] = value;
    secret
}

fn changed_metadata(letter: &str, field: &str, value: Value) -> Value {
    let mut secret = lease_secret(letter);
    secret["metadata"][field] = value;
    secret
}

fn permanent_token() -> Value {
    let mut secret = changed_lease("f", "type", json!("kubernetes.io/service-account-token"));
    // Of one that no role names: for those of roles nobody makes one.
    secret["metadata"]["annotations"] = json!({"kubernetes.io/service-account.name": "admin"});
    secret
}

/// The answer, or what the API server said instead.
async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Result<Result<Value, String>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(body)?)?;
    match client.request::<Value>(request).await {
        Ok(answer) => Ok(Ok(answer)),
        Err(kube::Error::Api(status)) => Ok(Err(format!("{} {}", status.code, status.message))),
        Err(error) => Err(error.into()),
    }
}

/// The thief is refused by the policy, and who has the same rights without it succeeds.
async fn each_fails_by_the_policy(
    attacks: Vec<Attack>,
    refusal: &str,
    thief: &Client,
    twin: &Client,
) -> Result<()> {
    for Attack { what, method, path, body, succeeded } in attacks {
        match send(thief, method.clone(), &path, &body).await? {
            Err(said) => ensure!(said.contains(refusal), "{what}: refused, but not by the policy: {said}"),
            Ok(answer) => bail!("{what}: the stolen issuer can: {answer}"),
        }
        match send(twin, method, &path, &body).await? {
            Err(said) => bail!("{what}: fails even without the policy: {said}"),
            Ok(answer) => ensure!(succeeded(&answer), "{what}: no success without the policy: {answer}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_attack_fails_under_the_policy_and_works_without_it() -> Result<()> {
    let scene = scene().await?;
    scene.issuer.widen(&scene.admin, &scene.place.namespace).await?;
    let refusal = format!("ValidatingAdmissionPolicy '{}'", scene.issuer.policy);
    each_fails_by_the_policy(scene.attacks(), &refusal, &scene.thief, &scene.twin).await
}

#[tokio::test]
async fn the_issuer_may_not_look_at_secrets_or_change_them() -> Result<()> {
    let scene = scene().await?;
    let secrets = scene.secrets();
    let foreign = format!("{secrets}/foreign");
    let object = serde_json::to_value(secret("foreign", "Opaque", "changed"))?;
    for (method, path, body) in [
        (Method::GET, &foreign, Value::Null),
        (Method::GET, &secrets, Value::Null),
        (Method::PUT, &foreign, object),
        (Method::DELETE, &secrets, Value::Null),
    ] {
        let answer = send(&scene.thief, method.clone(), path, &body).await?;
        let refused = answer.as_ref().is_err_and(|said| said.starts_with("403") && said.contains("cannot"));
        ensure!(refused, "{method} {path}: {answer:?}");
    }
    Ok(())
}
