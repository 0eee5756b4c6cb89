//! Anchors that cannot be deleted are counted, with why, until they are gone.

use std::time::Duration;

use anyhow::{Context, Result};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::site::Site;
use integration_tests::wait::{self, Seen};
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// For a pause between two attempts to pass: after two failures it is 4 s, and each slow look adds one.
const TRIED_AGAIN: Duration = Duration::from_secs(90);

async fn counted(issuer: &IssuerUnderTest, cause: &str, count: u32) -> Result<()> {
    wait::until("the gauge of undeletable anchors", TRIED_AGAIN, async || {
        let metrics = issuer.get("/metrics").await?;
        let mut lines = metrics.lines().filter(|line| line.starts_with("shorepass_anchors_undeletable"));
        let found = lines.find(|line| line.contains(&format!("cause=\"{cause}\"")));
        let is_it = found.is_some_and(|line| line.ends_with(&format!(" {count}")));
        Ok(if is_it { Seen::Ready(()) } else { Seen::NotYet(format!("{found:?}")) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_a_finalizer_holds_is_counted_until_it_is_gone() -> Result<()> {
    let site = Site::new("undeletable").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    let held = platform.issue(&job, "deploy").await?;
    counted(&issuer, "finalizer", 0).await?;
    let secrets = site.place.secrets();
    let anchors = secrets.list(&Default::default()).await?;
    let anchor = anchors.items.first().and_then(|anchor| anchor.metadata.name.clone());
    let anchor = anchor.context("there is no anchor")?;
    let finalizers = async |list: serde_json::Value| {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": list}}));
        secrets.patch(&anchor, &PatchParams::default(), &patch).await
    };
    finalizers(json!(["example.org/hold"])).await?;
    platform.release(&held.lease.id).await?;
    counted(&issuer, "finalizer", 1).await?;
    counted(&issuer, "forbidden", 0).await?;
    finalizers(json!(null)).await?;
    counted(&issuer, "finalizer", 0).await
}
