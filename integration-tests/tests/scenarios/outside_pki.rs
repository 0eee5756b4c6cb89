//! Certificates of another PKI, made by openssl: platforms and operators of a trust bundle, and a bundle that changes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::agent::as_operator;
use integration_tests::client::{Client, refused};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::Done;
use integration_tests::raw::RawClient;
use integration_tests::site::Site;
use integration_tests::wait::{self, Seen};
use rustix::process::{Pid, Signal};
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::SystemClock;
use shorepass_daemon::telemetry::Chain;
use shorepass_proto::v1::{ErrorReason, ListLeasesRequest, ListRolesRequest};
use shorepass_rpc::client::ApiClient;
use shorepass_testing::certificates::Pair;
use shorepass_testing::openssl::{Leaf, OpensslCa};
use shorepass_tls::Identity;

/// The issuer looks every 5 s.
const NOTICED: Duration = Duration::from_secs(15);

const BUNDLES: &str = "    - name: partner
      trustDomain: partner.example.org
      file: partner.pem
      kinds: [platform, operator]
      pathPrefixes: [/platform/test-, /operator/carol]
";

/// A role of the deployer for the partner's platforms.
const ROLE: &str = "\
apiVersion: shorepass.dev/v1
kind: Role
metadata: {name: partner-deploy}
spec:
  cluster: test
  target: {namespace: @NAMESPACE@, serviceAccount: deployer}
  lifetimes: {token: {default: 10m, max: 1h}, lease: {default: 1h, max: 1h}}
  subjects: [{trustDomain: partner.example.org, platforms: [test-*]}]
";

struct Stage {
    issuer: IssuerUnderTest,
    /// The CA of the bundle, and one below it that signs.
    root: OpensslCa,
    intermediate: OpensslCa,
    site: Site,
}

impl Stage {
    async fn new(purpose: &str) -> Result<Self> {
        let site = Site::new(purpose).await?;
        let knobs = Knobs { trust_bundles: BUNDLES.to_owned(), roles: ROLE.to_owned(), ..Knobs::default() };
        let issuer = IssuerUnderTest::prepare(&site, knobs)?;
        let root = OpensslCa::root("partner", SystemClock.now());
        let intermediate = root.intermediate("partner intermediate", "");
        let mut stage = Self { issuer, root, intermediate, site };
        stage.write(stage.root.certificate_pem())?;
        stage.issuer.run().await?;
        Ok(stage)
    }

    /// Replaces the bundle's file, as its keeper should: by rename.
    fn write(&self, text: &str) -> Result<()> {
        let (new, file) = (self.issuer.folder().join(".new"), self.issuer.folder().join("partner.pem"));
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, file)?)
    }

    fn hang_up(&self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.issuer.process()?.id())?).context("no process")?;
        Ok(rustix::process::kill_process(pid, Signal::HUP)?)
    }

    fn pair(&self, ca: &OpensslCa, path: &str) -> Pair {
        let name = format!("URI:spiffe://partner.example.org/{path}");
        ca.leaf(&Leaf { names: &[&name], ..Leaf::default() })
    }

    /// Key, chain and the issuer's bundle in one text.
    fn identity_pem(&self, ca: &OpensslCa, path: &str) -> Result<String> {
        let ours = std::fs::read_to_string(self.issuer.state().join("ca.pem"))?;
        Ok(self.pair(ca, path).identity_pem(&ours))
    }

    fn client(&self, ca: &OpensslCa, path: &str) -> Result<Client> {
        Client::new(&self.issuer, &Identity::parse(self.identity_pem(ca, path)?.as_bytes())?)
    }

    async fn until_ready_shows(&self, part: &str, shown: bool) -> Result<()> {
        wait::until(&format!("{part:?} in /readyz: {shown}"), NOTICED, async || {
            let answer = self.issuer.get("/readyz").await?;
            Ok(if answer.contains(part) == shown { Seen::Ready(()) } else { Seen::NotYet(answer) })
        })
        .await
    }
}

#[tokio::test]
async fn a_platform_of_another_pki_has_the_roles_that_name_its_trust_domain_and_what_is_its_own() -> Result<()>
{
    let stage = Stage::new("outside").await?;
    let theirs = stage.client(&stage.intermediate, "platform/test-portal")?;
    let ours = stage.issuer.platform("test-portal")?;
    let (their_job, our_job) = (theirs.start_job().await?, ours.start_job().await?);
    let lease = theirs.issue(&their_job, "partner-deploy").await?.lease.id;
    let token = theirs.refresh(&lease).await?.credential.token.clone();
    let kube = stage.site.admin.client_with(&token).await?;
    kube.apiserver_version().await.context("the token is of no use")?;

    // The same name of the issuer's own trust domain is somebody else, in roles and in what belongs to whom.
    for (client, job, role) in [(&theirs, &their_job, "deploy"), (&ours, &our_job, "partner-deploy")] {
        let error = refused(client.issue(job, role).await)?;
        assert_eq!(error.reason(), Some(ErrorReason::RoleNotAvailable), "{role}: {error:?}");
    }
    assert_eq!(refused(ours.refresh(&lease).await)?.reason(), Some(ErrorReason::LeaseNotAvailable));
    assert_eq!(refused(ours.end_job(&their_job).await)?.reason(), Some(ErrorReason::JobNotAvailable));

    // A certificate made anew, with another key, is the same owner.
    theirs.release(&lease).await?;
    let again = stage.client(&stage.root, "platform/test-portal")?;
    let lease = again.issue(&their_job, "partner-deploy").await?.lease.id;
    theirs.refresh(&lease).await?;

    // Who is banned by its SPIFFE ID is banned, whoever has signed it.
    let banned = format!("{}", theirs.spiffe_id);
    as_operator(&stage.issuer, &["ban", &banned, "--reason", "stolen"])?.succeeded()?;
    again.reset(); // its connection was closed
    let error = refused(again.call(ApiClient::list_roles, ListRolesRequest::default()).await)?;
    assert_eq!(error.reason(), Some(ErrorReason::Banned), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn an_operator_of_another_pki_is_let_in_where_that_is_named_and_by_its_name_alone() -> Result<()> {
    let stage = Stage::new("carol").await?;
    let folder = stage.issuer.folder().join("carol");
    std::fs::create_dir(&folder)?;
    let made = stage.issuer.identity_folder("operator", "alice")?;
    std::fs::copy(made.join("config.yaml"), folder.join("config.yaml"))?;
    let file = folder.join("identity.pem");
    std::fs::copy(made.join("identity.pem"), &file)?; // for its mode
    std::fs::write(&file, stage.identity_pem(&stage.intermediate, "operator/carol")?)?;
    let mut command = std::process::Command::new(stage.site.admin.environment.bin_dir.join("shorepass"));
    command.args(["lease", "list", "-o", "json"]).env("SHOREPASS_CONFIG", &folder);
    let told = Done::of(&mut command)?.succeeded()?;
    ensure!(told.contains("LeaseList"), "{told}");
    let ours = std::fs::read_to_string(stage.issuer.state().join("ca.pem"))?;
    for path in ["operator/dave", "platform/portal", "runner/test-1"] {
        let peer = RawClient::new(&ours, Some(stage.pair(&stage.intermediate, path)));
        assert_eq!(peer.alert(stage.issuer.addresses().api).await?, 49, "{path}");
    }
    let log = stage.issuer.log();
    ensure!(log.contains("that trust bundle partner is not for"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_bundle_that_changes_ends_the_calls_of_a_ca_that_is_gone_and_a_bad_one_changes_nothing()
-> Result<()> {
    let stage = Stage::new("reload").await?;
    let next = OpensslCa::root("partner", SystemClock.now());
    let old = stage.client(&stage.intermediate, "platform/test-portal")?;
    let operator = stage.issuer.operator()?;
    let list = || operator.call(ApiClient::list_leases, ListLeasesRequest::default());
    let roles = |client: &Client| {
        let client = client.clone();
        async move { client.call(ApiClient::list_roles, ListRolesRequest::default()).await }
    };
    roles(&old).await?;
    list().await?;

    stage.write("")?;
    stage.hang_up()?;
    stage.until_ready_shows("trust bundle partner does not load", true).await?;
    old.reset();
    roles(&old).await?;

    stage.write(&format!("{}{}", stage.root.certificate_pem(), next.certificate_pem()))?;
    stage.until_ready_shows("trust bundle partner does not load", false).await?;
    let new = stage.client(&next, "platform/test-portal")?;
    roles(&new).await?;
    roles(&old).await?;

    stage.write(next.certificate_pem())?;
    wait::until("the alert", NOTICED, async || {
        let Err(error) = roles(&old).await else { return Ok(Seen::NotYet("it is let in".to_owned())) };
        let told = Chain(&error).to_string();
        // The connection that was closed may tell of that first.
        Ok(if told.contains("unknown_ca (48)") { Seen::Ready(()) } else { Seen::NotYet(told) })
    })
    .await?;
    roles(&new).await?;
    list().await?;
    let closed = stage.issuer.log().matches("its caller was shut out; closing").count();
    ensure!(closed == 1, "{closed} connections were closed, not only that of the CA that is gone");
    Ok(())
}
