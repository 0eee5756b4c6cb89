//! Strict and unbound leases on a real API server: rights when a token is handed out, nothing when it is cut, and what an
//! unbound token cannot be stopped from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Request;
use integration_tests::agent::as_operator;
use integration_tests::client::{self, Client, Issued};
use integration_tests::decisions::{Decisions, call};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::proxy::{Fault, Proxy, Target, claims};
use integration_tests::site::{DEPLOY, Document, RELEASE, STATUS, Site};
use integration_tests::use_of_tokens::{is_refused_for_good, who_am_i};
use integration_tests::wait::{self, Seen};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use shorepass_core::cluster::{Cluster as _, MintError};
use shorepass_core::name::Name;
use shorepass_core::role::Role;
use shorepass_proto::v1::{self, LeaseMode, LeaseState, RevokeOutcome};
use shorepass_rpc::client::ApiClient;

/// After a binding is deleted: a request is refused within milliseconds; with room for a slow machine.
const FORBIDDEN_WITHIN: Duration = Duration::from_secs(3);

/// Dropped in this order: the issuer before the cluster's side of it.
struct Scene {
    issuer: IssuerUnderTest,
    site: Site,
}

async fn scene(purpose: &str) -> Result<Scene> {
    let site = Site::with_modes(purpose).await?;
    Ok(Scene { issuer: IssuerUnderTest::start(&site, Knobs::default()).await?, site })
}

impl Scene {
    async fn leased(&self, role: &str) -> Result<(Client, String, Issued)> {
        let runner = self.issuer.runner("test-1").await?;
        let job = runner.start_job().await?;
        let issued = runner.issue(&job, role).await?;
        Ok((runner, job, issued))
    }

    async fn holder(&self, issued: &Issued) -> Result<kube::Client> {
        self.site.admin.client_with(&issued.credential.token).await
    }

    /// The status of a request that the role allows.
    async fn uses(&self, holder: &kube::Client, resource: &str) -> Result<u16> {
        let path = format!("{resource}?limit=1").replace("@", self.site.place.namespace.as_str());
        match holder.request::<Value>(Request::get(path).body(Vec::new())?).await {
            Ok(_) => Ok(200),
            Err(kube::Error::Api(status)) => Ok(status.code),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until nothing is left of any strict lease.
    async fn nothing_is_left(&self, patience: Duration) -> Result<()> {
        wait::until("nothing of strict leases", patience, async || {
            let left = self.site.left_of_strict_leases().await?;
            Ok(if left.is_empty() { Seen::Ready(()) } else { Seen::NotYet(format!("{left:?}")) })
        })
        .await
    }

    /// The token loses its rights within our bound, and is not let in any more after the API server's cache.
    async fn dies(&self, holder: &kube::Client) -> Result<()> {
        let since = Instant::now();
        loop {
            match self.uses(holder, CONFIG_MAPS).await? {
                200 => ensure!(since.elapsed() < FORBIDDEN_WITHIN, "it works {:?} later", since.elapsed()),
                401 | 403 => break,
                other => bail!("answered {other}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        is_refused_for_good(holder).await
    }
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/@/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/@/deployments";
const SERVICES: &str = "/api/v1/namespaces/@/services";
const SECRETS: &str = "/api/v1/namespaces/@/secrets";

#[tokio::test]
async fn a_strict_lease_has_its_rights_at_once_and_no_others() -> Result<()> {
    let scene = scene("strict").await?;
    let (runner, _, issued) = scene.leased(RELEASE.name).await?;
    let holder = scene.holder(&issued).await?;
    // From a Role, from rules of the document, from a ClusterRole.
    for resource in [CONFIG_MAPS, DEPLOYMENTS, SERVICES] {
        assert_eq!(scene.uses(&holder, resource).await?, 200, "{resource}");
    }
    assert_eq!(scene.uses(&holder, SECRETS).await?, 403);

    let strict = scene.site.strict.as_ref().context("no strict namespace")?;
    let lease = &issued.lease;
    assert_eq!((lease.mode(), lease.bindings.len()), (LeaseMode::Strict, 3));
    assert_eq!(lease.namespace, strict.namespace.as_str());
    let cluster = issued.credential.cluster.clone().context("no cluster")?;
    assert_eq!(cluster.namespace, scene.site.place.namespace.as_str(), "a job works where its rights are");
    let user = who_am_i(&holder).await?.context("a fresh token is refused")?;
    let account = format!("system:serviceaccount:{}:{}", strict.namespace, lease.service_account);
    assert_eq!(user.username.as_deref(), Some(account.as_str()));
    assert_eq!(scene.site.left_of_strict_leases().await?.len(), 5, "Secret, ServiceAccount, three bindings");

    let again = runner.refresh(&lease.id).await?;
    assert_eq!(scene.uses(&scene.holder(&again).await?, CONFIG_MAPS).await?, 200);
    assert_eq!(scene.site.left_of_strict_leases().await?.len(), 5, "a refresh makes nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_that_somebody_made_under_the_name_of_a_leases_own_is_left_alone() -> Result<()> {
    let scene = scene("strict-again").await?;
    let (runner, _, issued) = scene.leased(RELEASE.name).await?;
    let accounts = scene.site.strict.as_ref().context("there are no strict roles")?;
    let [record] = &scene.issuer.operator()?.leases().await?[..] else { bail!("there is one lease") };
    let name = record.anchor.clone();
    accounts.service_accounts().delete(&name, &DeleteParams::default()).await?;
    let foreign = accounts.service_account(&name).await?;
    // As the issuer's own are labelled, so that no policy keeps the issuer from deleting it.
    let label = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "shorepass"}}});
    accounts.service_accounts().patch(&name, &PatchParams::default(), &Patch::Merge(label)).await?;
    let error = client::refused(runner.refresh(&issued.lease.id).await)?;
    ensure!(error.reason() == Some(v1::ErrorReason::ServiceAccountReplaced), "{error}");
    wait::until("the end of the lease", Duration::from_secs(20), async || {
        let records = scene.issuer.operator()?.leases().await?;
        let state = records.first().and_then(|record| record.lease.as_ref()).map(v1::Lease::state);
        Ok(if state == Some(LeaseState::Ended) {
            Seen::Ready(())
        } else {
            Seen::NotYet(format!("{state:?}"))
        })
    })
    .await?;
    let left = accounts.service_accounts().get(&name).await?;
    ensure!(left.metadata.uid.as_ref() == Some(&foreign), "somebody else's ServiceAccount was deleted");
    let left = scene.site.left_of_strict_leases().await?;
    ensure!(left == [format!("ServiceAccount {name}")], "{left:?}");
    Ok(())
}

#[tokio::test]
async fn a_released_strict_lease_leaves_nothing() -> Result<()> {
    let scene = scene("released").await?;
    let (runner, job, issued) = scene.leased(RELEASE.name).await?;
    let other = runner.issue(&job, RELEASE.name).await?;
    let released = runner.release(&issued.lease.id).await?;
    assert_eq!(released.state(), LeaseState::Ended);
    assert_eq!(scene.site.left_of_strict_leases().await?.len(), 5, "the other lease lives");
    assert_eq!(scene.uses(&scene.holder(&other).await?, CONFIG_MAPS).await?, 200);
    runner.end_job(&job).await?;
    scene.nothing_is_left(Duration::from_secs(5)).await?;
    scene.dies(&scene.holder(&other).await?).await
}

#[tokio::test]
async fn a_revoked_strict_lease_is_forbidden_in_milliseconds_and_dead_in_ten_seconds() -> Result<()> {
    let scene = scene("revoked").await?;
    let (_, _, issued) = scene.leased(RELEASE.name).await?;
    let holder = scene.holder(&issued).await?;
    assert_eq!(scene.uses(&holder, CONFIG_MAPS).await?, 200, "used just before, so that it is cached");
    let selector = v1::LeaseSelector { lease_id: issued.lease.id.clone(), ..Default::default() };
    let steps = scene.issuer.operator()?.revoke(selector).await?;
    assert_eq!(steps.first().context("no step")?.outcome(), RevokeOutcome::Revoked);
    scene.dies(&holder).await?;
    scene.nothing_is_left(Duration::from_secs(5)).await
}

#[tokio::test]
async fn what_a_group_gives_to_a_strict_lease_is_found_when_it_begins_and_told_as_not_removed() -> Result<()>
{
    let scene = scene("bygroup").await?;
    let (runner, job, before) = scene.leased(RELEASE.name).await?;
    let show = |lease: &str| as_operator(&scene.issuer, &["lease", "show", lease])?.succeeded();
    let plain = show(&before.lease.id)?;
    ensure!(!plain.contains("NOT REMOVED"), "what everybody may is told: {plain}");

    // The same rule that the lease's own binding gives, and one in its own namespace.
    let namespace = &scene.site.place.namespace;
    let strict = &scene.site.strict.as_ref().context("no strict namespace")?.namespace;
    let group = format!(
        "subjects: [{{kind: Group, apiGroup: rbac.authorization.k8s.io, name: 'system:serviceaccounts:{strict}'}}]"
    );
    let binding = |namespace: &Name| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
             metadata: {{name: by-group, namespace: {namespace}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: deployer}}\n{group}\n"
        )
    };
    let own = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: deployer, namespace: {strict}}}\n\
         rules: [{{apiGroups: [''], resources: [secrets], verbs: [get]}}]\n"
    );
    scene.site.admin.apply(&[own, binding(strict), binding(namespace)].join("---\n"))?;
    let lease = wait::until("both rights by the group", Duration::from_secs(20), async || {
        let lease = runner.issue(&job, RELEASE.name).await?.lease.id;
        let shown = show(&lease)?;
        let told = shown.matches("NOT REMOVED").count();
        Ok(if told == 2 { Seen::Ready(lease) } else { Seen::NotYet(shown) })
    })
    .await?;
    let shown = show(&lease)?;
    for right in
        [format!("configmaps in namespace {namespace}"), format!("get secrets in namespace {strict}")]
    {
        ensure!(shown.contains(&format!("{right}: it has this from elsewhere")), "{right}: {shown}");
    }

    let revoke = ["lease", "revoke", &lease, "--reason", "leaked", "--wait"];
    let told = as_operator(&scene.issuer, &revoke)?.stdout;
    let receipt = told.lines().find(|line| line.contains("; not removed: ")).context(told.clone())?;
    ensure!(receipt.contains(&format!("get secrets in namespace {strict}")), "{receipt}");
    let audit = scene.issuer.audit()?;
    for event in ["lease.active", "lease.receipt"] {
        let line = audit.iter().find(|line| line["event"] == event && line["lease"] == lease.as_str());
        let told = line.and_then(|line| line["notRemoved"].as_array()).context(event)?;
        ensure!(told.len() == 2, "{event}: {told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_strict_lease_that_a_crash_left_pending_is_made_anew_whole_or_nothing_is_left_of_it() -> Result<()>
{
    let site = Site::with_modes("strictcrash").await?;
    let proxy = Proxy::start(&site).await?;
    let knobs = Knobs { kubeconfig: Some(proxy.kubeconfig()), ..Knobs::default() };
    let issuer = IssuerUnderTest::start(&site, knobs).await?;
    let mut scene = Scene { issuer, site };
    let runner = Arc::new(scene.issuer.runner("test-1").await?);
    let job = runner.start_job().await?;
    let (again, once) = (client::issue(&job, RELEASE.name), client::issue(&job, RELEASE.name));
    let hang = proxy.fault(Target::Tokens, Fault::Hang);
    let ask = |request: v1::IssueRequest| {
        let runner = runner.clone();
        tokio::spawn(async move { runner.call(ApiClient::issue, request).await.map(drop) })
    };
    let asking = [ask(again.clone()), ask(once)];
    wait::until("everything but the tokens", Duration::from_secs(20), async || {
        let left = scene.site.left_of_strict_leases().await?;
        let asked = proxy.seen();
        let hanging =
            asked.iter().filter(|seen| seen.path.ends_with("/token") && seen.status.is_none()).count();
        Ok(if left.len() == 10 && hanging == 2 { Seen::Ready(()) } else { Seen::NotYet(format!("{left:?}")) })
    })
    .await?;
    scene.issuer.kill()?;
    for asked in asking {
        ensure!(asked.await?.is_err(), "a token came from nowhere");
    }
    assert_eq!(scene.site.left_of_strict_leases().await?.len(), 10, "the crash left it all");
    drop(hang);
    scene.issuer.run().await?;

    let answer = runner.call(ApiClient::issue, again.clone()).await?;
    let (lease, credential) = (answer.lease.unwrap_or_default(), answer.credential.unwrap_or_default());
    let holder = scene.site.admin.client_with(&credential.token).await?;
    assert_eq!(scene.uses(&holder, CONFIG_MAPS).await?, 200, "its rights are in effect");
    let reviews: Vec<_> =
        proxy.seen().into_iter().filter(|seen| seen.path.ends_with("/selfsubjectrulesreviews")).collect();
    let purpose = format!(" lease/{} request/", lease.id);
    ensure!(!reviews.is_empty(), "nobody looked at the rights");
    for review in reviews {
        let agent = &review.user_agent;
        ensure!(agent.contains(&purpose) && agent.ends_with(" review"), "who asks is not told: {agent}");
    }
    let second = runner.call(ApiClient::issue, again).await?.lease.unwrap_or_default();
    assert_eq!((second.id, second.service_account), (lease.id.clone(), lease.service_account.clone()));
    // The other one waits for its request for 60 s, and nobody comes.
    wait::until("the lease that came again alone", Duration::from_secs(90), async || {
        let left = scene.site.left_of_strict_leases().await?;
        let its_own = left.len() == 5 && left.iter().all(|named| named.contains(&lease.service_account));
        Ok(if its_own { Seen::Ready(()) } else { Seen::NotYet(format!("{left:?}")) })
    })
    .await?;
    assert_eq!(scene.uses(&holder, CONFIG_MAPS).await?, 200, "it lives");
    runner.end_job(&job).await?;
    scene.nothing_is_left(Duration::from_secs(20)).await?;
    scene.dies(&holder).await
}

/// The roles of a site as the issuer reads them, for scenarios that only meet the cluster.
fn roles(site: &Site) -> Result<Vec<Role>> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("roles.yaml"), site.role_documents())?;
    Ok(shorepass_config::role::load_directory(folder.path())?)
}

#[tokio::test]
async fn a_right_to_bind_that_is_missing_is_named() -> Result<()> {
    let scene = scene("nobind").await?;
    let namespace = &scene.site.place.namespace;
    let (runner, job, _) = scene.leased(RELEASE.name).await?;
    let before = scene.site.left_of_strict_leases().await?;
    let rights: Api<k8s_openapi::api::rbac::v1::Role> =
        Api::namespaced(scene.site.admin.client.clone(), namespace.as_str());
    let name = format!("{}-strict", scene.site.identity.policy);
    let whole = rights.get(&name).await?;
    let without = |verb: &str| {
        let mut rules = json!(whole.rules);
        for rule in rules.as_array_mut().into_iter().flatten() {
            if let Some(verbs) = rule["verbs"].as_array_mut() {
                verbs.retain(|given| given != verb);
            }
        }
        if let Some(rules) = rules.as_array_mut() {
            rules.retain(|rule| rule["verbs"] != json!([]));
        }
        Patch::Merge(json!({"rules": rules}))
    };
    for (verb, rule) in [
        ("bind", format!("bind roles \"deployer\" in namespace \"{namespace}\"")),
        ("get", format!("get roles \"deployer\" in namespace \"{namespace}\"")),
        ("create", format!("create rolebindings in namespace \"{namespace}\"")),
    ] {
        rights.patch(&name, &PatchParams::default(), &without(verb)).await?;
        wait::until(&format!("{rule} to be named"), Duration::from_secs(20), async || {
            let told = match runner.issue(&job, RELEASE.name).await {
                Ok(_) => "a lease".to_owned(),
                Err(error) => {
                    let refusal = error.refusal().context("no refusal")?;
                    refusal.metadata.get("rule").cloned().unwrap_or_else(|| refusal.message.clone())
                }
            };
            Ok(if told == rule { Seen::Ready(()) } else { Seen::NotYet(told) })
        })
        .await?;
    }
    rights.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"rules": whole.rules}))).await?;
    runner.end_job(&job).await?;
    ensure!(!before.is_empty(), "there was a lease");
    scene.nothing_is_left(Duration::from_secs(90)).await
}

#[tokio::test]
async fn a_role_that_is_gone_is_named_before_anything_is_made() -> Result<()> {
    let site = Site::with_modes("norole").await?;
    let cluster = site.identity.connect().await?;
    let decisions = Decisions::new(roles_for(&site, &[RELEASE])?)?;
    let existing: Api<k8s_openapi::api::rbac::v1::Role> =
        Api::namespaced(site.admin.client.clone(), site.place.namespace.as_str());
    existing.delete("deployer", &DeleteParams::default()).await?;
    let order = decisions.order(RELEASE.name, None)?;
    let refused = cluster.mint(&order, "v1.x.y", &call()).await.err();
    let namespace = Some(site.place.namespace.clone());
    let missing = MintError::RoleMissing { role: "Role/deployer".to_owned(), namespace };
    assert_eq!(refused, Some(missing));
    assert_eq!(site.left_of_strict_leases().await?, Vec::<String>::new());
    Ok(())
}

/// The roles of these documents, for runner `test` of the decisions.
fn roles_for(site: &Site, documents: &[Document]) -> Result<Vec<Role>> {
    let wanted = |role: &Role| documents.iter().any(|document| document.name == role.name().as_str());
    let subject = shorepass_core::role::Subject {
        runners: vec![shorepass_core::name::NamePattern::parse("test")?],
        platforms: vec![],
        accept_asserted_jobs: true,
        ..shorepass_core::role::Subject::default()
    };
    roles(site)?
        .into_iter()
        .filter(wanted)
        .map(|role| {
            let (gives, token, lease) = (role.gives().clone(), role.token(), role.lease());
            let subjects = vec![subject.clone()];
            Ok(Role::new(role.name().clone(), gives, token, lease, subjects, role.digest())?)
        })
        .collect()
}

#[tokio::test]
async fn an_unbound_token_is_bound_to_nothing_and_outlives_its_lease() -> Result<()> {
    let scene = scene("unbound").await?;
    let (runner, job, issued) = scene.leased(STATUS.name).await?;
    assert_eq!(issued.lease.mode(), LeaseMode::Unbound);
    let about = claims(&issued.credential.token)?;
    ensure!(about["kubernetes.io"].get("secret").is_none(), "it is bound: {about}");
    assert_eq!(scene.site.place.secrets().list(&Default::default()).await?.items.len(), 0);
    let offers = runner.call(ApiClient::list_roles, v1::ListRolesRequest::default()).await?.roles;
    let modes: Vec<_> = offers.iter().map(|role| (role.name.as_str(), role.mode())).collect();
    let expected = [
        (DEPLOY.name, LeaseMode::Bound),
        (RELEASE.name, LeaseMode::Strict),
        (STATUS.name, LeaseMode::Unbound),
    ];
    assert_eq!(modes, expected);

    let list = as_operator(&scene.issuer, &["lease", "list"])?.succeeded()?;
    ensure!(list.contains(" UNBOUND "), "{list}");
    let show = as_operator(&scene.issuer, &["lease", "show", &issued.lease.id])?.succeeded()?;
    ensure!(show.contains("UNBOUND: nothing ends its tokens"), "{show}");
    let revoke = as_operator(&scene.issuer, &["lease", "revoke", &issued.lease.id, "--reason", "leaked"])?;
    ensure!(revoke.code == Some(1) && revoke.stdout.contains("tokens remain"), "{revoke:?}");
    ensure!(revoke.stdout.contains("UNBOUND: nothing ends its tokens, which work until"), "{revoke:?}");
    let again =
        as_operator(&scene.issuer, &["lease", "revoke", "--role", STATUS.name, "--reason", "leaked"])?;
    ensure!(again.code == Some(1) && again.stdout.contains("1 tokens remain"), "it had ended: {again:?}");
    let ended = scene.issuer.audit()?.into_iter().find(|line| line["event"] == "lease.ended");
    let ended = ended.context("no end in the audit file")?;
    ensure!(ended["mode"] == "unbound" && ended["tokensUntil"].is_string(), "{ended}");

    let holder = scene.holder(&issued).await?;
    tokio::time::sleep(Duration::from_secs(12)).await; // longer than any cache of the API server
    who_am_i(&holder).await?.context("what the listing says is not true: the token died")?;
    ensure!(runner.issue(&job, STATUS.name).await.is_err(), "its owner is not blocked");
    Ok(())
}

#[tokio::test]
async fn a_token_bound_to_nothing_is_refused_by_the_cluster_unless_a_role_says_so() -> Result<()> {
    let site = Site::with_all("notunbound", &[DEPLOY], &[RELEASE]).await?;
    let document = site.role_documents().replace("  lifetimes:", "  dangerouslyUnbound: true\n  lifetimes:");
    let deploy = document.split("---\n").next().context("no document")?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("roles.yaml"), deploy.replace("runners: [test-*]", "runners: [test]"))?;
    let decisions = Decisions::new(shorepass_config::role::load_directory(folder.path())?)?;
    let cluster = site.identity.connect().await?;
    let order = decisions.order(DEPLOY.name, None)?;
    let refused = cluster.mint(&order, "", &call()).await.err();
    match refused {
        Some(MintError::Forbidden { rule }) if rule.contains(&site.identity.policy) => Ok(()),
        other => bail!("it was not refused by the policy: {other:?}"),
    }
}
