//! API servers that nobody named: the cluster lists them, and the list changes.
//!
//! This cluster has no such list, because its server listens on loopback: a proxy gives one in its place.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_came_since_the_start_is_missed_by_one_proof_and_asked_in_the_next() -> Result<()> {
    let site = Site::new("listed").await?;
    let proxy = Proxy::start(&site).await?;
    let (_, port) = site.server()?.trim_end_matches('/').rsplit_once(':').context("no port")?;
    let list = |addresses| {
        let text =
            json!({"endpoints": [{"addresses": addresses}], "ports": [{"port": port.parse::<u16>()?}]});
        anyhow::Ok(Fault::Say(200, text.to_string().leak()))
    };
    let (one, two) = (list(vec!["127.0.0.1"])?, list(vec!["127.0.0.1", "localhost"])?);
    let _before = proxy.fault(Target::Servers, one);
    let knobs = Knobs { kubeconfig: Some(proxy.kubeconfig()), lag_bound: "1s", ..Knobs::default() };
    let scene = Scene::with(site, knobs).await?;
    assert_eq!(in_time(&scene).await?, (ReceiptVerdict::Proved, 1));
    let _after = proxy.fault(Target::Servers, two);
    assert_eq!(in_time(&scene).await?, (ReceiptVerdict::Assumed, 1), "another server was not asked");
    assert_eq!(in_time(&scene).await?, (ReceiptVerdict::Proved, 2));
    scene.has_no_anchors().await
}

/// The verdict on a lease whose canaries came in time, and how many servers were asked.
async fn in_time(scene: &Scene) -> Result<(ReceiptVerdict, usize)> {
    for _ in 0..PATIENCE {
        let issued = scene.seasoned_lease().await?;
        let record = scene.revoke(&issued.lease.id).await?;
        if !was_late(&record) {
            let receipt = record.receipt.context("no receipt")?;
            return Ok((receipt.verdict(), receipt.endpoints.len()));
        }
    }
    bail!("no lease had its canaries in time")
}
