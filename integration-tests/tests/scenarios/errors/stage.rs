//! What the provocations stand on: one issuer behind the proxy, with roles that cannot work, and a few callers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::ci_system::CiSystem;
use integration_tests::client::{self, Client, new_id};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::issuer_identity::InstalledIssuer;
use integration_tests::proxy::Proxy;
use integration_tests::site::{DEPLOY, Document, NEEDY, RELEASE, RoleDocument, Site};
use integration_tests::wait::{self, Seen};
use prost_types::Duration as WireDuration;
use shorepass_proto::v1::{self, LeaseState};
use shorepass_rpc::client::{ApiClient, ClientError};
use shorepass_testing::certificates::TestCa;

/// The least that a join token can be told to live.
const SHORTEST: Duration = Duration::from_secs(60);

/// A ServiceAccount that nobody has made.
pub(super) const ABSENT: RoleDocument =
    RoleDocument { name: "absent", service_account: "absent", granted: true };
/// One that is replaced.
pub(super) const REPLACED: RoleDocument =
    RoleDocument { name: "replaced", service_account: "replaced", granted: true };
/// One that exists and that the cluster does not let the issuer use.
pub(super) const UNGRANTED: RoleDocument =
    RoleDocument { name: "ungranted", service_account: "ungranted", granted: false };

/// A strict role that binds to a Role which nobody has made.
pub(super) const ROLELESS: Document = Document {
    name: "roleless",
    gives: "  strict: {namespace: @STRICT@, bindings: [{namespace: @NAMESPACE@, role: nobodys}]}
",
};

/// What the CI system that does not answer would say.
const DOWN: &str = "system: generic, runner: firstUse, jobClaim: build, claims: [{name: build}, {name: project, project: true}]";

/// The pods that are let in besides: there are none.
const PODS: &str = "    pods: [{cluster: test, audience: \"https://shorepass.test/pods\", serviceAccounts: [{namespace: ci, name: runner}], runners: [test-*]}]\n";

/// What the tokens of machines are for.
pub(super) const MACHINES: &str = "https://shorepass.test/machines";

/// Which of them let in whom.
const ADMIT: &str = "admit: [{claims: {sub: vm-1}, runners: [test-*]}]";

/// Dropped in this order.
pub(super) struct Stage {
    pub(super) issuer: IssuerUnderTest,
    pub(super) proxy: Proxy,
    pub(super) operator: Client,
    pub(super) runner: Client,
    pub(super) stranger: Client,
    /// Of the runner.
    pub(super) job: String,
    short_lived: (String, Instant),
    /// A CI system whose tokens are taken.
    pub(super) gitlab: CiSystem,
    /// One that does not answer.
    pub(super) down: CiSystem,
    _folder: tempfile::TempDir,
    pub(super) site: Site,
}

/// Another issuer than the stage's. Dropped in this order.
pub(super) struct Another {
    pub(super) issuer: IssuerUnderTest,
    pub(super) platform: Client,
    pub(super) identity: InstalledIssuer,
}

impl Stage {
    pub(super) async fn set() -> Result<Self> {
        let site =
            Site::with_all("errors", &[DEPLOY, ABSENT, REPLACED, UNGRANTED], &[ROLELESS, RELEASE, NEEDY])
                .await?;
        for account in [REPLACED.service_account, UNGRANTED.service_account] {
            site.place.service_account(account).await?;
        }
        let proxy = Proxy::start(&site).await?;
        let folder = tempfile::tempdir()?;
        let gitlab = CiSystem::start("gitlab", folder.path()).await?;
        let down = CiSystem::start("down", folder.path()).await?;
        down.go_down();
        let job_issuers = gitlab.document("system: gitlab, runner: firstUse") + &down.document(DOWN);
        let machines = gitlab.machines(MACHINES, ADMIT) + &down.machines(MACHINES, ADMIT);
        let enrolment = format!("{PODS}    oidc:\n{machines}");
        let kubeconfig = Some(proxy.kubeconfig());
        let knobs = Knobs { kubeconfig, job_issuers, enrolment, ..Knobs::default() };
        let issuer = IssuerUnderTest::start(&site, knobs).await?;
        let operator = issuer.operator()?;
        let lifetime = WireDuration { seconds: SHORTEST.as_secs() as i64, nanos: 0 };
        let request = client::create_join_token("test-late", false);
        let request = v1::CreateJoinTokenRequest { lifetime: Some(lifetime), ..request };
        let late = operator.call(ApiClient::create_join_token, request).await?;
        let short_lived = (late.join_token.clone(), Instant::now());
        let runner = issuer.runner("test-1").await?;
        let stranger = issuer.runner("test-2").await?;
        let job = runner.start_job().await?;
        Ok(Self {
            issuer,
            proxy,
            operator,
            runner,
            stranger,
            job,
            short_lived,
            gitlab,
            down,
            _folder: folder,
            site,
        })
    }

    /// A join token that has expired: the shortest life takes a minute.
    pub(super) async fn expired_join_token(&self) -> &str {
        let (join_token, created) = &self.short_lived;
        tokio::time::sleep((SHORTEST + Duration::from_secs(1)).saturating_sub(created.elapsed())).await;
        join_token
    }

    /// What an issue of the runner is refused with.
    pub(super) async fn refused_issue(&self, role: &str) -> Result<ClientError> {
        client::refused(self.runner.issue(&self.job, role).await)
    }

    /// Another issuer for the same cluster and roles, with something else about it.
    pub(super) async fn issuer_with(&self, knobs: Knobs) -> Result<Another> {
        let identity = self.site.another_issuer().await?;
        self.issuer_as(identity, knobs).await
    }

    pub(super) async fn issuer_as(&self, identity: InstalledIssuer, knobs: Knobs) -> Result<Another> {
        let mut issuer = IssuerUnderTest::prepare_as(&self.site, &identity, knobs)?;
        issuer.run().await?;
        let platform = issuer.platform("test-portal")?;
        Ok(Another { issuer, platform, identity })
    }

    /// The issuer's CA, in the hands of the test.
    pub(super) fn authority(&self) -> Result<TestCa> {
        let read = |name: &str| {
            let file = self.issuer.state().join(name);
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
        };
        Ok(TestCa::from_pem(&read("ca.pem")?, &read("ca.key")?))
    }

    /// An id that nothing has.
    pub(super) fn nothing(&self) -> String {
        new_id()
    }

    /// The audit line of a decision.
    pub(super) fn decision(&self, error: &ClientError) -> Result<serde_json::Value> {
        let refusal = error.refusal().context("no refusal")?;
        let id = refusal.metadata.get("decision_id").context("no decision id")?;
        let line = self.issuer.audit()?.into_iter().find(|line| line["decision"] == id.as_str());
        line.context("the decision is not in the audit file")
    }

    /// None of the anchors that an issuer's audit file names is there; its log tells why otherwise.
    pub(super) async fn no_anchor_is_left_of(&self, issuer: &IssuerUnderTest) -> Result<()> {
        let lines = issuer.audit()?;
        let anchors: BTreeSet<&str> = lines.iter().filter_map(|line| line["anchor"].as_str()).collect();
        ensure!(!anchors.is_empty(), "the audit file names no anchor");
        let secrets = self.site.place.secrets();
        for anchor in anchors {
            let found = secrets.get_opt(anchor).await?;
            ensure!(found.is_none(), "{anchor} is there:\n{}", issuer.log());
        }
        Ok(())
    }

    /// Waits until the namespace holds the anchors of living leases and nothing else.
    pub(super) async fn nothing_is_left_of_what_was_refused(&self) -> Result<()> {
        let lives = |state| matches!(state, LeaseState::Active);
        wait::until("only the anchors of living leases", Duration::from_secs(20), async || {
            let leases = self.operator.leases().await?;
            let told: Vec<String> = leases
                .iter()
                .filter_map(|record| {
                    let lease = record.lease.as_ref()?;
                    Some(format!("{} {:?} {:?} {}", record.anchor, lease.state(), lease.end, lease.role))
                })
                .collect();
            let wanted: BTreeSet<String> = leases
                .into_iter()
                .filter(|record| record.lease.as_ref().is_some_and(|lease| lives(lease.state())))
                .map(|record| record.anchor)
                .collect();
            let secrets = self.site.place.secrets().list(&Default::default()).await?;
            let mut found: BTreeSet<String> =
                secrets.items.into_iter().filter_map(|secret| secret.metadata.name).collect();
            let strict = self.site.left_of_strict_leases().await?;
            found.extend(strict.iter().filter_map(|name| name.split(' ').nth(1).map(str::to_owned)));
            let unwanted: Vec<&String> = found.symmetric_difference(&wanted).collect();
            Ok(if unwanted.is_empty() {
                Seen::Ready(())
            } else {
                Seen::NotYet(format!("{unwanted:?} of {told:#?}"))
            })
        })
        .await
    }
}
