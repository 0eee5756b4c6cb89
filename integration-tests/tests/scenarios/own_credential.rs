//! The issuer's own credential: made once by an administrator, renewed by the issuer, ended by deleting one Secret.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use integration_tests::admin::Admin;
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::Done;
use integration_tests::site::{CLUSTER, DEPLOY, Site};
use integration_tests::use_of_tokens::{is_refused_for_good, who_am_i};
use integration_tests::wait::{self, Seen};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube::config::Kubeconfig;
use serde_json::Value;
use shorepass_proto::v1::ErrorReason;

const ACCOUNT: &str = "issuer";
const SECRET: &str = "own";
/// For renewals that wait for a policy, and what a cluster and a slow machine need to tell of a kill switch.
const NOTICED: Duration = Duration::from_secs(60);

/// A token of the issuer's ServiceAccount that ends with this Secret, which is made.
pub(super) async fn bound_token(site: &Site, secret: &str) -> Result<String> {
    let home = &site.identity.home;
    let object = Secret {
        metadata: ObjectMeta { name: Some(secret.to_owned()), ..ObjectMeta::default() },
        ..Secret::default()
    };
    let made = home.secrets().create(&PostParams::default(), &object).await?;
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Secret".to_owned()),
        name: Some(secret.to_owned()),
        uid: made.metadata.uid,
    };
    let spec = TokenRequestSpec { bound_object_ref: Some(bound), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts = home.service_accounts();
    let answer = accounts.create_token_request(ACCOUNT, &PostParams::default(), &request).await?;
    Ok(answer.status.context("a TokenRequest without status")?.token)
}

/// What an administrator runs.
struct Setup<'a> {
    admin: &'a Admin,
    roles: String,
    issuer: String,
    namespace: String,
    folder: &'a Path,
}

impl<'a> Setup<'a> {
    fn of_site(site: &'a Site, folder: &'a Path) -> Self {
        let (issuer, namespace) =
            (site.identity.issuer.to_string(), site.identity.home.namespace.to_string());
        Self { admin: &site.admin, roles: site.role_documents(), issuer, namespace, folder }
    }

    fn run(&self, more: &[&str]) -> Result<Done> {
        let roles = self.folder.join("roles");
        fs::create_dir_all(&roles)?;
        fs::write(roles.join("roles.yaml"), &self.roles)?;
        let kubeconfig = &self.admin.environment.kubeconfig;
        let context = Kubeconfig::read_from(kubeconfig)?.current_context.context("no current context")?;
        let mut command = Command::new(self.admin.environment.bin_dir.join("shorepass-issuer"));
        command.args(["cluster", "bootstrap", "--context", &context, "--cluster", CLUSTER, "--kubeconfig"]);
        command.arg(kubeconfig).arg("--roles").arg(roles).arg("--out").arg(self.out());
        command.args(["--issuer", &self.issuer, "--namespace", &self.namespace]);
        command.args(["--service-account", ACCOUNT]).args(more);
        Done::of(&mut command)
    }

    fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.out().join(format!("{CLUSTER}.kubeconfig"))
    }

    fn token_file(&self) -> PathBuf {
        self.out().join(format!("{CLUSTER}.token"))
    }

    fn token(&self) -> Result<String> {
        fs::read_to_string(self.token_file()).context("there is no token")
    }

    fn connect(&self) -> String {
        let path = self.kubeconfig();
        format!(
            "{{kubeconfig: {{path: {}, context: shorepass-issuer}}, renew: {{namespace: {}, serviceAccount: {ACCOUNT}, \
             secret: {SECRET}}}}}",
            path.display(),
            self.namespace
        )
    }
}

fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("no JWT")?;
    Ok(serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes())?)?)
}

fn life(claims: &Value) -> i64 {
    claims["exp"].as_i64().unwrap_or_default() - claims["iat"].as_i64().unwrap_or_default()
}

async fn remark(issuer: &IssuerUnderTest, what: &str, is_it: impl Fn(&str) -> bool) -> Result<()> {
    wait::until(what, NOTICED, async || {
        let ready = issuer.get("/readyz").await?;
        ensure!(ready.starts_with("HTTP/1.1 200"), "one cluster takes the issuer out of service: {ready}");
        Ok(if is_it(&ready) { Seen::Ready(()) } else { Seen::NotYet(ready) })
    })
    .await
    .with_context(|| issuer.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_renews_its_own_token_and_deleting_the_secret_ends_it() -> Result<()> {
    let site = Site::new("renewing").await?;
    let folder = tempfile::tempdir()?;
    let setup = Setup::of_site(&site, folder.path());
    let bootstrap = ["--secret", SECRET, "--lifetime", "10m"];
    site.admin.apply(&setup.run(&bootstrap)?.succeeded()?)?;
    let first = setup.token()?;
    ensure!(life(&claims(&first)?) == 600, "the first token is short");

    // It is too short, so it is renewed at the start: what is in the file then is what was promised.
    let knobs = Knobs { connect: Some(setup.connect()), ..Knobs::default() };
    let issuer = IssuerUnderTest::start(&site, knobs).await?;
    let own = wait::until("the issuer to renew its token", NOTICED, async || {
        let held = setup.token()?;
        Ok(if held == first { Seen::NotYet(issuer.log()) } else { Seen::Ready(held) })
    })
    .await?;
    let told = claims(&own)?;
    let kubernetes = &told["kubernetes.io"];
    ensure!(life(&told) == 24 * 3600, "{told}");
    ensure!(
        kubernetes["serviceaccount"]["name"] == ACCOUNT && kubernetes["secret"]["name"] == SECRET,
        "{told}"
    );
    ensure!(kubernetes["secret"]["uid"] == claims(&first)?["kubernetes.io"]["secret"]["uid"], "{told}");
    let mode = fs::metadata(setup.token_file())?.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "the token's mode is {mode:o}");
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    let lease = platform.issue(&job, DEPLOY.name).await?.lease;
    remark(&issuer, "a credential that is well", |ready| !ready.contains("credential-")).await?;
    let metrics = issuer.get("/metrics").await?;
    for series in [
        "own_credential_renewals_total{cluster=\"test\",outcome=\"renewed\"} 1",
        "own_credential_ends_timestamp_seconds{cluster=\"test\"}",
    ] {
        ensure!(metrics.contains(series), "{series} is not in {metrics}");
    }

    // The kill switch: what was stolen, in whatever version, is dead within the cache's time, and so is the issuer.
    site.identity.home.secrets().delete(SECRET, &DeleteParams::default()).await?;
    for token in [&first, &own] {
        is_refused_for_good(&site.admin.client_with(token).await?).await?;
    }
    let anchors = site.place.anchors().await?.len();
    let refused = platform.issue(&job, DEPLOY.name).await.err().context("it mints without a credential")?;
    ensure!(refused.reason() == Some(ErrorReason::ClusterUnreachable), "{refused}");
    ensure!(platform.refresh(&lease.id).await.is_err(), "it refreshes without a credential");
    ensure!(site.place.anchors().await?.len() == anchors, "it made an anchor without a credential");
    let switch = format!("credential-test: the kill switch was pulled: Secret {}/{SECRET}", setup.namespace);
    remark(&issuer, "the kill switch to be told", |ready| ready.contains(&switch)).await?;

    // Back by an administrator only, and what was stolen stays dead.
    setup.run(&bootstrap)?.succeeded()?;
    remark(&issuer, "the new credential to be taken", |ready| !ready.contains("credential-")).await?;
    let next = claims(&setup.token()?)?;
    ensure!(next["kubernetes.io"]["secret"]["uid"] != kubernetes["secret"]["uid"], "the Secret is the same");
    for token in [&first, &own] {
        let who = who_am_i(&site.admin.client_with(token).await?).await?;
        ensure!(who.is_none(), "a token of before lives again: {who:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bootstrap_makes_what_is_missing_once_and_keeps_nothing_of_the_administrator() -> Result<()> {
    let admin = Admin::connect().await?;
    let home = admin.guard(admin.unique("bootstrapped"));
    let folder = tempfile::tempdir()?;
    let roles =
        include_str!("../../../deploy/examples/role.yaml").replace("cluster: staging", "cluster: test");
    let (issuer, namespace) = (home.namespace.to_string(), home.namespace.to_string());
    let setup = Setup { admin: &admin, roles, issuer, namespace, folder: folder.path() };
    // What is wrong with the documents is told before anything is made.
    setup
        .run(&["--secret", &format!("shorepass-{}", "a".repeat(26))])?
        .failed(2, &["named like a lease's"])?;
    ensure!(home.secrets().list(&Default::default()).await?.items.is_empty() && !setup.out().exists());

    let done = setup.run(&[])?;
    let made = format!(
        "made: Namespace {0}, ServiceAccount {0}/issuer, Secret {0}/shorepass-issuer-credential",
        home.namespace
    );
    for said in [&made, "renew: {namespace: ", "kill switch"] {
        ensure!(done.stderr.contains(said), "{said}\n{}", done.stderr);
    }
    let first = setup.token()?;
    let who = who_am_i(&admin.client_with(&first).await?).await?.context("the token is no good")?;
    ensure!(who.username == Some(format!("system:serviceaccount:{}:issuer", home.namespace)), "{who:?}");
    let text = fs::read_to_string(setup.kubeconfig())?;
    ensure!(!text.contains("client-key") && !text.contains("token:") && text.contains("tokenFile"), "{text}");
    for file in [setup.kubeconfig(), setup.token_file()] {
        let mode = fs::metadata(&file)?.permissions().mode() & 0o7777;
        ensure!(mode == 0o600, "{} has mode {mode:o}", file.display());
    }
    let rights = done.succeeded()?;
    ensure!(rights.contains("-renewal\"") && rights.contains("variables.renews"), "{rights}");

    let again = setup.run(&[])?;
    ensure!(again.stderr.contains("made: nothing that was not there"), "{}", again.stderr);
    ensure!(again.succeeded()? == rights && setup.token()? != first, "another token, and the same rights");
    let foreign = Secret {
        metadata: ObjectMeta { name: Some("foreign".to_owned()), ..ObjectMeta::default() },
        ..Secret::default()
    };
    let secrets: Api<Secret> = home.secrets();
    secrets.create(&PostParams::default(), &foreign).await?;
    setup.run(&["--secret", "foreign"])?.failed(1, &["is there already and is of type Opaque"])
}
