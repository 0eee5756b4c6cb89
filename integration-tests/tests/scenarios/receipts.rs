//! Receipts: what they say of the end of a lease is true at the real API server, and what cannot be shown is not said.
//!
//! A cut waits 100 ms for canaries, and a machine that runs all scenarios at the same time does not always make it: then the
//! receipt says that, which is right, and the scenario looks at the next lease.

mod crash;
mod foreign_audience;
mod lagging;
mod listed_servers;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::agent::as_operator;
use integration_tests::client::{Client, Issued};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::proxy::{Answer, Fault, Proxy, Target};
use integration_tests::site::{DEPLOY, RELEASE, Site};
use integration_tests::use_of_tokens::{CACHED, who_am_i};
use integration_tests::wait::{self, Seen};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use shorepass_core::time::{Timestamp, until};
use shorepass_proto::v1::{
    LeaseRecord, LeaseSelector, LeaseState, ReceiptVerdict, RevokeLeasesRequest, RevokeReceipt,
    UnblockRequest,
};
use shorepass_rpc::client::ApiClient;

/// How many leases may have late canaries before that is no accident any more.
const PATIENCE: usize = 20;

/// How many leases a stolen runner has.
const LEASES: usize = 50;

/// How long the issuer takes at most until it has ended all of them: on a machine that needs longer, some canaries are late.
const LEISURE: Duration = Duration::from_secs(10);

/// How long after its end a lease is dead: a receipt is there 25 s after the cut, and its time is 10 s later at the latest.
const DEAD_AFTER: Duration = Duration::from_secs(36);

/// How long an operator waits at most: 10 s until the last cut, 25 s for the receipts; and the client's own start.
const ALL_RECEIPTS: Duration = Duration::from_secs(40);

/// Why a receipt may be unproved on a busy machine.
const LATE: &str = "the delete did not wait for the canaries";

struct Scene {
    issuer: IssuerUnderTest,
    operator: Client,
    platform: Client,
    job: String,
    role: &'static str,
    site: Site,
}

impl Scene {
    async fn with(site: Site, knobs: Knobs) -> Result<Self> {
        let issuer = IssuerUnderTest::start(&site, knobs).await?;
        let platform = issuer.platform("test-portal")?;
        let job = platform.start_job().await?;
        Ok(Self { operator: issuer.operator()?, issuer, platform, job, role: DEPLOY.name, site })
    }

    /// An issuer that knows all API servers, and that they do not lag.
    async fn knowing(purpose: &str) -> Result<Self> {
        Self::knowing_servers_of(Site::new(purpose).await?).await
    }

    async fn knowing_servers_of(site: Site) -> Result<Self> {
        let server = site.server()?.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let knobs = Knobs { endpoints: vec![server], lag_bound: "1s", ..Knobs::default() };
        Self::with(site, knobs).await
    }

    async fn lease(&self) -> Result<Issued> {
        Ok(self.platform.issue(&self.job, self.role).await?)
    }

    /// A lease whose anchor every API server has seen by now.
    async fn seasoned_lease(&self) -> Result<Issued> {
        let issued = self.lease().await?;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        Ok(issued)
    }

    /// Revokes it as an operator who waits; the lease with its receipt.
    async fn revoke(&self, lease: &str) -> Result<LeaseRecord> {
        self.revoke_and(lease, || ()).await
    }

    /// The same; `then` is called as soon as the lease has ended.
    async fn revoke_and(&self, lease: &str, then: impl FnOnce()) -> Result<LeaseRecord> {
        let selector = Some(LeaseSelector { lease_id: lease.to_owned(), ..LeaseSelector::default() });
        let request =
            RevokeLeasesRequest { selector, reason: "leaked".to_owned(), dry_run: false, wait: true };
        let mut steps = self.operator.call(ApiClient::revoke_leases, request).await?;
        let mut last = steps.next().await?.context("a revocation without steps")?;
        then();
        while let Some(step) = steps.next().await? {
            last = step;
        }
        ensure!(last.receipt() == RevokeReceipt::Arrived, "{last:?}");
        self.unblock(&last.lease).await?;
        last.lease.context("a step without its lease")
    }

    /// So that the next lease can be issued.
    async fn unblock(&self, lease: &Option<LeaseRecord>) -> Result<()> {
        let block = lease.as_ref().and_then(|lease| lease.block.as_ref()).context("no block")?;
        let request = UnblockRequest { block_id: block.id.clone() };
        self.operator.call(ApiClient::unblock, request).await?;
        Ok(())
    }

    /// The names of the anchors there.
    async fn anchors(&self) -> Result<Vec<String>> {
        let secrets = self.site.place.secrets().list(&ListParams::default()).await?;
        let anchors = secrets.into_iter().filter(|one| one.type_.as_deref() == Some("shorepass.dev/lease"));
        Ok(anchors.filter_map(|anchor| anchor.metadata.name).collect())
    }

    async fn has_no_anchors(&self) -> Result<()> {
        wait::until("no anchor", Duration::from_secs(20), async || {
            let anchors = self.anchors().await?;
            Ok(if anchors.is_empty() { Seen::Ready(()) } else { Seen::NotYet(format!("{anchors:?}")) })
        })
        .await
    }
}

async fn behind_a_proxy(site: Site) -> Result<(Scene, Proxy)> {
    let proxy = Proxy::start(&site).await?;
    let knobs = Knobs { kubeconfig: Some(proxy.kubeconfig()), lag_bound: "1s", ..Knobs::default() };
    Ok((Scene::with(site, knobs).await?, proxy))
}

/// The reason, if it is one that only a busy machine has.
fn was_late(record: &LeaseRecord) -> bool {
    record.receipt.as_ref().is_some_and(|receipt| receipt.reason.starts_with(LATE))
}

/// Uses a token again and again until it is refused; when the last request was sent that was not.
fn in_constant_use(client: kube::Client) -> tokio::task::JoinHandle<Result<Timestamp>> {
    tokio::spawn(async move {
        let (start, mut last, mut sent) = (Instant::now(), Timestamp::now(), Timestamp::now());
        while who_am_i(&client).await?.is_some() {
            ensure!(start.elapsed() < Duration::from_secs(120), "it works for ever");
            last = sent;
            // Often enough that every API server knows it all the time, and no load worth mentioning.
            tokio::time::sleep(Duration::from_secs(1)).await;
            sent = Timestamp::now();
        }
        Ok(last)
    })
}

/// Waits until then, and then makes sure that the token is dead and stays so.
async fn is_dead_by(client: &kube::Client, dead_by: &prost_types::Timestamp) -> Result<()> {
    let dead_by = Timestamp::new(dead_by.seconds, dead_by.nanos)?;
    let left = Duration::try_from(dead_by.duration_since(Timestamp::now())).unwrap_or_default();
    ensure!(left < Duration::from_secs(15), "a receipt that names a time so far away: {left:?}");
    tokio::time::sleep(left).await;
    for _ in 0..10 {
        ensure!(who_am_i(client).await?.is_none(), "it works after {dead_by}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proved_lease_is_dead_when_its_receipt_says_idle_or_in_constant_use() -> Result<()> {
    let scene = Scene::knowing("receipt").await?;
    for used in [false, true] {
        let record = is_proved_dead(&scene, used).await?;
        shows_the_same(&scene, &record)?;
    }
    scene.has_no_anchors().await?;
    let metrics = scene.issuer.get("/metrics").await?;
    for metric in ["verdict=\"proved\"", "shorepass_revocation_delay_seconds_count"] {
        ensure!(metrics.contains(metric), "{metric} is not in:\n{metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_lease_is_proved_dead_idle_or_in_constant_use_although_its_service_account_is_gone()
-> Result<()> {
    let mut scene = Scene::knowing_servers_of(Site::with_modes("strict-receipt").await?).await?;
    scene.role = RELEASE.name;
    for used in [false, true] {
        is_proved_dead(&scene, used).await?;
    }
    wait::until("nothing of lease and control", Duration::from_secs(20), async || {
        let left = scene.site.left_of_strict_leases().await?;
        Ok(if left.is_empty() { Seen::Ready(()) } else { Seen::NotYet(format!("{left:?}")) })
    })
    .await
}

/// Revokes a lease whose token is idle or in constant use, until one is proved to be dead, and sees whether that is true; the
/// lease with its receipt.
async fn is_proved_dead(scene: &Scene, used: bool) -> Result<LeaseRecord> {
    for _ in 0..PATIENCE {
        let issued = scene.seasoned_lease().await?;
        let idle = scene.platform.refresh(&issued.lease.id).await?;
        let idle = scene.site.admin.client_with(&idle.credential.token).await?;
        let client = scene.site.admin.client_with(&issued.credential.token).await?;
        let usage = used.then(|| in_constant_use(client.clone()));
        if used {
            who_am_i(&client).await?.context("refused before the revocation")?;
        }
        let record = scene.revoke(&issued.lease.id).await?;
        let receipt = record.receipt.clone().context("no receipt")?;
        if receipt.verdict() != ReceiptVerdict::Proved {
            ensure!(was_late(&record), "unproved for another reason: {receipt:?}");
            continue;
        }
        ensure!(receipt.canaries.len() >= 3, "{receipt:?}");
        ensure!(
            who_am_i(&idle).await?.is_none(),
            "a token that was never used is taken after {:?}",
            receipt.observe_time
        );
        let ending = ending_of(&record)?;
        let refused = until(ending, moment(receipt.refuse_time.as_ref())?);
        ensure!(refused < CACHED, "a canary was refused after {refused:?}");
        is_dead_by(&client, &receipt.dead_by_time.context("proved without a time")?).await?;
        if let Some(usage) = usage {
            let (last, dead_by) = (usage.await??, moment(receipt.dead_by_time.as_ref())?);
            ensure!(last <= dead_by, "a request of {last} was accepted, and the token is dead by {dead_by}");
            ensure!(until(ending, last) < CACHED, "a request of {last} was accepted, it ended at {ending}");
        }
        return Ok(record);
    }
    bail!("no lease had its canaries in time")
}

/// `lease show`, its JSON and the audit file tell of the same receipt and the whole life.
fn shows_the_same(scene: &Scene, record: &LeaseRecord) -> Result<()> {
    let id = &record.lease.as_ref().context("no lease")?.id;
    let shown = as_operator(&scene.issuer, &["lease", "show", id, "-o", "json"])?.succeeded()?;
    let shown: Value = serde_json::from_str(&shown)?;
    let states: Vec<_> = shown["transitions"].as_array().context("no transitions")?.iter().collect();
    let names: Vec<_> = states.iter().map(|step| step["state"].clone()).collect();
    assert_eq!(names, ["pending", "active", "ending", "ended"]);
    assert_eq!(states[2]["cause"], "revoked");
    ensure!(states.iter().all(|step| step["time"].is_string()), "{states:?}");
    assert_eq!(shown["pins"]["anchorUid"], record.pins.clone().context("no pins")?.anchor_uid);
    assert_eq!(shown["receipt"]["verdict"], "proved");
    let table = as_operator(&scene.issuer, &["lease", "show", id])?.succeeded()?;
    ensure!(table.contains("RECEIPT") && table.contains("proved: dead by"), "{table}");
    let lines = scene.issuer.audit()?;
    let line = lines.iter().find(|line| line["event"] == "lease.receipt" && line["lease"] == id.as_str());
    let line = line.context("the audit file has no lease.receipt")?;
    assert_eq!((&line["verdict"], &line["deadBy"]), (&json!("proved"), &shown["receipt"]["deadBy"]));
    assert_eq!(line["canaries"], shown["receipt"]["canaries"]);
    Ok(())
}

/// A lease whose token is in use until it is refused.
struct Used {
    client: kube::Client,
    usage: tokio::task::JoinHandle<Result<Timestamp>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_leases_of_a_runner_in_constant_use_get_fifty_receipts_and_none_is_wrong() -> Result<()> {
    let scene = Scene::knowing("fifty").await?;
    for runner in ["test-1", "test-2"] {
        let (proved, took) = all_of_a_runner(&scene, runner).await?;
        if proved == LEASES {
            return scene.has_no_anchors().await;
        }
        ensure!(took > LEISURE, "{proved} of {LEASES} proved in {took:?}: there was time for all");
    }
    scene.has_no_anchors().await
}

/// What an operator sees who revokes all leases of a runner and waits for their receipts; how many are proved to be dead, and how
/// long it takes.
async fn all_of_a_runner(scene: &Scene, name: &str) -> Result<(usize, Duration)> {
    let mut all = in_use(scene, name).await?;
    let start = Instant::now();
    let arguments = ["lease", "revoke", "--runner", name, "--reason", "stolen", "--wait"];
    let done = as_operator(&scene.issuer, &arguments)?;
    let took = start.elapsed();
    ensure!(took < ALL_RECEIPTS, "{took:?}");
    let printed = |words: &str| done.stdout.lines().filter(|line| line.contains(words)).count();
    let (proved, late) = (printed("  proved: dead by "), printed(LATE));
    ensure!(proved + late == LEASES, "{}", done.stdout);
    ensure!(printed(&format!("{LEASES} revoked; {LEASES} blocks set")) == 1, "{}", done.stdout);
    ensure!(proved == 0 || printed(&format!("receipts: {proved} proved")) == 1, "{}", done.stdout);
    assert_eq!(done.code, Some(if proved == LEASES { 0 } else { 1 }));
    if took > Duration::from_secs(4) {
        ensure!(done.stderr.contains("shorepass: waiting for "), "no progress in {took:?}: {}", done.stderr);
    }
    let mut checks = tokio::task::JoinSet::new();
    for record in scene.operator.leases().await? {
        let id = &record.lease.as_ref().context("a record without its lease")?.id;
        if let Some(used) = all.remove(id) {
            checks.spawn(async move { is_true(&record, used).await });
        }
    }
    ensure!(all.is_empty(), "{} leases are not listed", all.len());
    while let Some(checked) = checks.join_next().await {
        checked??;
    }
    Ok((proved, took))
}

/// Fifty leases of a new runner, by their ids, all of them in use and seen by every API server.
async fn in_use(scene: &Scene, name: &str) -> Result<HashMap<String, Used>> {
    let runner = scene.issuer.runner(name).await?;
    let job = runner.start_job().await?;
    let mut all = HashMap::new();
    for _ in 0..LEASES {
        let issued = runner.issue(&job, DEPLOY.name).await?;
        let client = scene.site.admin.client_with(&issued.credential.token).await?;
        let usage = in_constant_use(client.clone());
        all.insert(issued.lease.id, Used { client, usage });
    }
    for used in all.values() {
        who_am_i(&used.client).await?.context("refused before the revocation")?; // their connections are made by now
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    Ok(all)
}

/// The receipt's time is inside the published bound, and no request was accepted after it.
async fn is_true(record: &LeaseRecord, used: Used) -> Result<()> {
    let ending = ending_of(record)?;
    let receipt = record.receipt.as_ref().context("no receipt")?;
    if receipt.verdict() == ReceiptVerdict::Proved {
        let dead_by = moment(receipt.dead_by_time.as_ref())?;
        ensure!(until(ending, dead_by) <= DEAD_AFTER, "ended at {ending}: {receipt:?}");
        is_dead_by(&used.client, receipt.dead_by_time.as_ref().context("no time")?).await?;
        let last = used.usage.await??;
        ensure!(last <= dead_by, "a request of {last} was accepted, and the token is dead by {dead_by}");
    } else {
        ensure!(was_late(record), "{receipt:?}");
        let last = used.usage.await??;
        ensure!(until(ending, last) <= DEAD_AFTER, "a request of {last} was accepted after {ending}");
    }
    Ok(())
}

/// When its end was recorded.
fn ending_of(record: &LeaseRecord) -> Result<Timestamp> {
    let ending = record.transitions.iter().find(|step| step.state() == LeaseState::Ending);
    moment(ending.and_then(|step| step.time.as_ref()))
}

fn moment(time: Option<&prost_types::Timestamp>) -> Result<Timestamp> {
    let time = time.context("no time")?;
    Ok(Timestamp::new(time.seconds, time.nanos)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finalizer_on_the_anchor_leaves_nothing_proved() -> Result<()> {
    let scene = Scene::knowing("held").await?;
    let issued = scene.lease().await?;
    let anchor = scene.anchors().await?.pop().context("no anchor")?;
    let hold = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let secrets = scene.site.place.secrets();
    secrets.patch(&anchor, &PatchParams::default(), &hold(json!(["example.org/held"]))).await?;
    let record = scene.revoke(&issued.lease.id).await?;
    let receipt = record.receipt.context("no receipt")?;
    assert_eq!(receipt.verdict(), ReceiptVerdict::Unproved);
    ensure!(receipt.reason.contains("finalizer") && receipt.reason.contains(&anchor), "{receipt:?}");
    ensure!(receipt.dead_by_time.is_none(), "{receipt:?}");
    secrets.patch(&anchor, &PatchParams::default(), &hold(Value::Null)).await?;
    scene.has_no_anchors().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_was_confirmed_and_not_done_is_seen_and_sent_again() -> Result<()> {
    let (scene, proxy) = behind_a_proxy(Site::new("unheeded").await?).await?;
    for _ in 0..PATIENCE {
        let issued = scene.seasoned_lease().await?;
        let unheeded = proxy.fault(Target::Cuts, Fault::Ignore);
        let record = scene.revoke(&issued.lease.id).await?;
        drop(unheeded);
        let receipt = record.receipt.clone().context("no receipt")?;
        assert_eq!(receipt.verdict(), ReceiptVerdict::Unproved, "{receipt:?}");
        if was_late(&record) {
            continue; // nobody saw that it was not done
        }
        ensure!(receipt.reason.contains("accepted as long as"), "{receipt:?}");
        let later = wait::until("another receipt", Duration::from_secs(40), async || {
            let is_it =
                |record: &LeaseRecord| record.lease.as_ref().is_some_and(|lease| lease.id == issued.lease.id);
            let record = scene.operator.leases().await?.into_iter().find(is_it);
            let later = record.and_then(|record| record.receipt).context("no receipt")?;
            Ok(if later == receipt { Seen::NotYet(format!("{later:?}")) } else { Seen::Ready(later) })
        })
        .await?;
        // One URL, behind which there may be others.
        assert_eq!(later.verdict(), ReceiptVerdict::Assumed, "{later:?}");
        let client = scene.site.admin.client_with(&issued.credential.token).await?;
        is_dead_by(&client, &later.dead_by_time.context("assumed without a time")?).await?;
        // Others may be there: controls, whose deletes were not done either, and nobody's token is bound to.
        ensure!(!scene.anchors().await?.contains(&record.anchor), "{} is there", record.anchor);
        return Ok(());
    }
    bail!("no lease had its canaries in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_refuses_everything_proves_nothing() -> Result<()> {
    let site = Site::new("refuser").await?;
    let proxy = Proxy::start(&site).await?;
    let knobs = Knobs { kubeconfig: Some(proxy.kubeconfig()), lag_bound: "1s", ..Knobs::default() };
    let scene = Scene::with(site, knobs).await?;
    let refusal = Answer { status: 401, reason: "Unauthorized", message: "Unauthorized", retry_after: None };
    let faulty = proxy.fault(Target::Reviews, Fault::Answer(refusal));
    let mut verdicts = Vec::new();
    for _ in 0..PATIENCE {
        let issued = scene.seasoned_lease().await?;
        let record = scene.revoke(&issued.lease.id).await?;
        let receipt = record.receipt.clone().context("no receipt")?;
        assert_eq!(receipt.verdict(), ReceiptVerdict::Unproved, "a refusal alone was taken for a proof");
        if !was_late(&record) {
            ensure!(receipt.reason.contains("not accepted before the cut"), "{receipt:?}");
            verdicts.push(receipt);
            break;
        }
    }
    ensure!(!verdicts.is_empty(), "no lease had its canaries in time");
    drop(faulty);
    // The same proxy, honest: it is one URL, behind which there may be others.
    for _ in 0..PATIENCE {
        let issued = scene.seasoned_lease().await?;
        let record = scene.revoke(&issued.lease.id).await?;
        if !was_late(&record) {
            let receipt = record.receipt.context("no receipt")?;
            assert_eq!(receipt.verdict(), ReceiptVerdict::Assumed, "{receipt:?}");
            return scene.has_no_anchors().await;
        }
    }
    bail!("no lease had its canaries in time")
}
