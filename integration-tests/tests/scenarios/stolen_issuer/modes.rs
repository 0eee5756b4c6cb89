//! The same thief where there are strict and unbound roles.
//!
//! Its twin has the rights of all modes, and both get more than that: what holds the thief is the policy alone.

use anyhow::{Result, ensure};
use http::Method;
use integration_tests::admin::{Admin, Place};
use integration_tests::decisions::{giving, role};
use integration_tests::issuer_identity::InstalledIssuer;
use kube::Client;
use kube::api::PostParams;
use serde_json::{Value, json};
use shorepass_core::gives::{Gives, RbacName, Rights, RoleRef, Strict, StrictBinding};
use shorepass_core::name::Name;
use shorepass_core::role::Target;
use std::time::Duration;

use super::{Attack, LONGEST, each_fails_by_the_policy, secret, send, token_request};

const RBAC: &str = "rbac.authorization.k8s.io";
/// A generated ServiceAccount and its lease Secret, and the Secret of another lease.
const OWN: &str = "shorepass-aaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "shorepass-bbbbbbbbbbbbbbbbbbbbbbbbbb";

struct Scene {
    admin: Admin,
    /// Where strict roles give rights.
    place: Place,
    /// Where they give none.
    elsewhere: Place,
    /// Where generated ServiceAccounts are.
    strict: Place,
    issuer: InstalledIssuer,
    thief: Client,
    twin: Client,
    own_uid: String,
    other_uid: String,
}

async fn scene() -> Result<Scene> {
    let admin = Admin::connect().await?;
    let cluster = Name::parse("test")?;
    let place = admin.place("stolenstrict").await?;
    let elsewhere = admin.place("stolenelse").await?;
    let strict = admin.guard(admin.unique("stolengen"));
    let longest = Duration::from_secs(LONGEST);
    let deploy = role("deploy", &cluster, &place.namespace, "deployer", longest)?;
    let deployer = Rights::Existing(RoleRef::Role(RbacName::parse("deployer")?));
    let bindings = vec![StrictBinding { namespace: place.namespace.clone(), rights: deployer }];
    let given = Strict { cluster: cluster.clone(), namespace: strict.namespace.clone(), bindings };
    let release = giving(&role("release", &cluster, &place.namespace, "x", longest)?, given.into())?;
    let service_account = "status".to_owned();
    let status = Target { cluster: cluster.clone(), namespace: place.namespace.clone(), service_account };
    let short = role("status", &cluster, &place.namespace, "status", Duration::from_secs(600))?;
    let status = giving(&short, Gives::Unbound(status))?;
    for account in ["deployer", "status", "victim", "bystander"] {
        place.service_account(account).await?;
    }
    let issuer = InstalledIssuer::install(&admin, &[deploy, release, status], &cluster).await?;
    for account in ["guest", "visitor"] {
        strict.service_account(account).await?;
    }
    let mut uids = Vec::new();
    for name in [OWN, OTHER] {
        let lease = secret(name, "shorepass.dev/lease", "");
        let made = strict.secrets().create(&PostParams::default(), &lease).await?;
        uids.push(made.metadata.uid.unwrap_or_default());
    }
    let namespaces = [&place.namespace, &strict.namespace];
    let twin = issuer.twin(&admin, &namespaces).await?;
    for namespace in [&place.namespace, &strict.namespace, &elsewhere.namespace, &issuer.home.namespace] {
        issuer.widen(&admin, namespace).await?;
    }
    let scene = Scene {
        thief: admin.client_with(&issuer.token().await?).await?,
        twin: admin.client_with(&twin).await?,
        own_uid: uids[0].clone(),
        other_uid: uids[1].clone(),
        admin,
        place,
        elsewhere,
        strict,
        issuer,
    };
    scene.make(&account_of(OWN, &json!({})), &scene.accounts(&scene.strict)).await?;
    scene.make(&account_of(OTHER, &json!({})), &scene.accounts(&scene.strict)).await?;
    scene.make(&scene.foreign_binding(), &scene.bindings(&scene.place)).await?;
    Ok(scene)
}

/// A ServiceAccount as the issuer may make it, with some metadata changed.
fn account_of(name: &str, metadata: &Value) -> Value {
    json!({"metadata": changed(name, metadata), "automountServiceAccountToken": false})
}

fn changed(name: &str, changes: &Value) -> Value {
    let mut metadata = json!({"name": name, "labels": {"app.kubernetes.io/managed-by": "shorepass"}});
    for (key, value) in changes.as_object().into_iter().flatten() {
        metadata[key] = value.clone();
    }
    metadata
}

/// The name of something that is made for a lease; `letter` makes it.
fn generated(letter: &str) -> String {
    format!("shorepass-{}", letter.repeat(26))
}

impl Scene {
    async fn make(&self, object: &Value, path: &str) -> Result<()> {
        let made = send(&self.admin.client, Method::POST, path, object).await?;
        ensure!(made.is_ok(), "{path}: {made:?}");
        Ok(())
    }

    fn accounts(&self, place: &Place) -> String {
        format!("/api/v1/namespaces/{}/serviceaccounts", place.namespace)
    }

    fn bindings(&self, place: &Place) -> String {
        format!("/apis/{RBAC}/v1/namespaces/{}/rolebindings", place.namespace)
    }

    fn foreign_binding(&self) -> Value {
        json!({
            "metadata": {"name": "foreign"},
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "deployer"},
            "subjects": [{"kind": "ServiceAccount", "namespace": self.place.namespace, "name": "victim"}],
        })
    }

    /// A RoleBinding as the issuer may make it.
    fn binding(&self, letter: &str) -> Value {
        let account = generated(letter);
        json!({
            "metadata": changed(&format!("{account}-0"), &json!({})),
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "deployer"},
            "subjects": [{"kind": "ServiceAccount", "namespace": self.strict.namespace, "name": account}],
        })
    }

    fn attacks(&self) -> Vec<Attack> {
        let mut attacks = self.attacks_on_accounts();
        attacks.extend(self.attacks_on_bindings());
        attacks.extend(self.attacks_on_tokens());
        attacks
    }

    fn attacks_on_accounts(&self) -> Vec<Attack> {
        let make = |what, place: &Place, body| made(what, self.accounts(place), body);
        let strict = &self.strict;
        let role_of_a_cloud =
            json!({"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/admin"}});
        let of_a_cloud = json!({"labels": {"app.kubernetes.io/managed-by": "shorepass", "azure.workload.identity/use": "true"}});
        let mut with_secrets = account_of(&generated("g"), &json!({}));
        with_secrets["imagePullSecrets"] = json!([{"name": "registry"}]);
        vec![
            make(
                "make a ServiceAccount of another name",
                strict,
                account_of("shorepass-issuer2", &json!({})),
            ),
            make("make a ServiceAccount elsewhere", &self.place, account_of(&generated("c"), &json!({}))),
            make("make one without the label", strict, account_of(&generated("d"), &json!({"labels": {}}))),
            make("make one with a role of a cloud", strict, account_of(&generated("e"), &role_of_a_cloud)),
            make("make one with a label of a cloud", strict, account_of(&generated("f"), &of_a_cloud)),
            make("make one that pulls images", strict, with_secrets),
            make(
                "make one that stays",
                strict,
                account_of(&generated("h"), &json!({"finalizers": ["example.org/x"]})),
            ),
            changes(
                "change a ServiceAccount",
                format!("{}/guest", self.accounts(strict)),
                account_of("guest", &json!({})),
            ),
            deletes("delete a foreign ServiceAccount", format!("{}/victim", self.accounts(&self.place))),
            deletes(
                "delete a ServiceAccount that is not generated",
                format!("{}/visitor", self.accounts(strict)),
            ),
        ]
    }

    fn attacks_on_bindings(&self) -> Vec<Attack> {
        let place = &self.place;
        let make = |what, place: &Place, body| made(what, self.bindings(place), body);
        let with = |letter: &str, field: &str, value: Value| {
            let mut binding = self.binding(letter);
            binding[field] = value;
            binding
        };
        let role = |kind: &str, name: &str| json!({"apiGroup": RBAC, "kind": kind, "name": name});
        let account = |namespace: &Name, name: &str| json!({"kind": "ServiceAccount", "namespace": namespace, "name": name});
        let own = |letter: &str| account(&self.strict.namespace, &generated(letter));
        let user = json!([{"apiGroup": RBAC, "kind": "User", "name": "mallory"}]);
        let group = json!([{"apiGroup": RBAC, "kind": "Group", "name": "system:authenticated"}]);
        let changed_by = |letter: &str, metadata: Value| {
            let name = format!("{}-0", generated(letter));
            with(letter, "metadata", changed(&name, &metadata))
        };
        let mut renamed = self.binding("q");
        renamed["metadata"]["name"] = json!("mine");
        let mut foreign = self.foreign_binding();
        foreign["subjects"] = group.clone();
        vec![
            make("bind a user", place, with("c", "subjects", user)),
            make("bind everybody", place, with("d", "subjects", group)),
            make(
                "bind a foreign ServiceAccount",
                place,
                with("e", "subjects", json!([account(&place.namespace, "victim")])),
            ),
            make(
                "bind an ungenerated one",
                place,
                with("f", "subjects", json!([account(&self.strict.namespace, "guest")])),
            ),
            make(
                "bind one of another namespace",
                place,
                with("g", "subjects", json!([account(&place.namespace, &generated("g"))])),
            ),
            make("bind two at once", place, with("h", "subjects", json!([own("h"), own("i")]))),
            make("bind one in the name of another", place, with("j", "subjects", json!([own("k")]))),
            make("bind to another Role", place, with("l", "roleRef", role("Role", "secret-reader"))),
            make("bind to a ClusterRole", place, with("m", "roleRef", role("ClusterRole", "admin"))),
            make("bind to cluster-admin", place, with("n", "roleRef", role("ClusterRole", "cluster-admin"))),
            make("bind in another namespace", &self.elsewhere, self.binding("o")),
            make("bind without the label", place, changed_by("p", json!({"labels": {}}))),
            make("bind with an annotation", place, changed_by("r", json!({"annotations": {"x": "y"}}))),
            make("bind for good", place, changed_by("s", json!({"finalizers": ["example.org/x"]}))),
            make("bind under another name", place, renamed),
            changes("change a RoleBinding", format!("{}/foreign", self.bindings(place)), foreign),
            deletes("delete a foreign RoleBinding", format!("{}/foreign", self.bindings(place))),
        ]
    }

    fn attacks_on_tokens(&self) -> Vec<Attack> {
        let bound =
            |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Secret", "name": name, "uid": uid});
        let mint = |what, place: &Place, account: &str, seconds, bound: &Value| Attack {
            what,
            method: Method::POST,
            path: format!("{}/{account}/token", self.accounts(place)),
            body: token_request(seconds, bound),
            succeeded: |answer| answer["status"]["token"].as_str().is_some_and(|token| !token.is_empty()),
        };
        let (own, other) = (bound(OWN, &self.own_uid), bound(OTHER, &self.other_uid));
        let (strict, place, nothing) = (&self.strict, &self.place, &Value::Null);
        vec![
            mint("mint a generated account's token bound to nothing", strict, OWN, 600, nothing),
            mint("mint one bound to another lease", strict, OWN, 600, &other),
            mint("mint one that lives too long", strict, OWN, LONGEST + 1, &own),
            mint("mint a token of an ungenerated account there", strict, "guest", 600, &own),
            mint("mint the issuer's own token", &self.issuer.home, "issuer", 600, nothing),
            mint("mint an unbound token that lives too long", place, "status", 601, nothing),
            mint("mint an unbound token of a bound role", place, "deployer", 600, nothing),
            mint("mint an unbound token of nobody's account", place, "bystander", 600, nothing),
        ]
    }
}

fn made(what: &'static str, path: String, body: Value) -> Attack {
    Attack { what, method: Method::POST, path, body, succeeded: |made| made["metadata"]["uid"].is_string() }
}

fn changes(what: &'static str, path: String, body: Value) -> Attack {
    Attack { what, method: Method::PUT, path, body, succeeded: |made| made["metadata"]["uid"].is_string() }
}

fn deletes(what: &'static str, path: String) -> Attack {
    let succeeded: fn(&Value) -> bool =
        |answer| answer["status"] == "Success" || answer["metadata"]["name"].is_string();
    Attack { what, method: Method::DELETE, path, body: json!({}), succeeded }
}

#[tokio::test]
async fn each_attack_on_other_modes_fails_under_the_policy_and_works_without_it() -> Result<()> {
    let scene = scene().await?;
    let refusal = format!("ValidatingAdmissionPolicy '{}'", scene.issuer.policy);
    each_fails_by_the_policy(scene.attacks(), &refusal, &scene.thief, &scene.twin).await
}

#[tokio::test]
async fn the_issuer_may_not_write_rules_or_bind_in_the_whole_cluster() -> Result<()> {
    let scene = scene().await?;
    let roles = format!("/apis/{RBAC}/v1/namespaces/{}/roles", scene.place.namespace);
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    let everything = json!({
        "metadata": {"name": generated("z")},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "namespace": scene.strict.namespace, "name": OWN}],
    });
    for (path, body) in [
        (roles, json!({"metadata": {"name": "mine"}, "rules": rules})),
        (format!("/apis/{RBAC}/v1/clusterrolebindings"), everything),
    ] {
        let answer = send(&scene.thief, Method::POST, &path, &body).await?;
        let refused = answer.as_ref().is_err_and(|said| said.starts_with("403") && said.contains("cannot"));
        ensure!(refused, "{path}: {answer:?}");
    }
    Ok(())
}
