//! An issuer that is killed in the middle of a proof: it leaves no control for good, and says nothing that was not proved.

use http::Method;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_proof_leaves_no_control() -> Result<()> {
    let (mut scene, proxy) = behind_a_proxy(Site::new("midproof").await?).await?;
    for _ in 0..PATIENCE {
        let issued = scene.seasoned_lease().await?;
        let before = proxy.seen().len();
        let operator = scene.operator.clone();
        let revoking = tokio::spawn(async move { operator.revoke(of_lease(&issued)).await });
        if !control_is_there(&proxy, before, |status| status.is_some_and(|status| status.is_success())).await
        {
            let steps = revoking.await??;
            scene.unblock(&steps.last().and_then(|step| step.lease.clone())).await?;
            continue;
        }
        let hanging = proxy.fault(Target::Everything, Fault::Hang);
        scene.issuer.kill()?;
        drop((hanging, revoking));
        let left = scene.anchors().await?;
        ensure!(left.len() == 1, "the crash was not in the middle of a proof: {left:?}");
        scene.issuer.run().await?;
        scene.has_no_anchors().await?;
        return was_planned(&scene, &left[0]);
    }
    bail!("no lease had its canaries in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_strict_leases_proof_leaves_no_service_account_and_no_proof() -> Result<()>
{
    let (mut scene, proxy) = behind_a_proxy(Site::with_modes("strict-midproof").await?).await?;
    scene.role = RELEASE.name;
    for _ in 0..PATIENCE {
        let issued = scene.seasoned_lease().await?;
        let (id, before) = (issued.lease.id.clone(), proxy.seen().len());
        // The control has its ServiceAccount by then, and no Secret yet.
        let hanging = proxy.fault(Target::Anchors, Fault::Hang);
        let operator = scene.operator.clone();
        let revoking = tokio::spawn(async move { operator.revoke(of_lease(&issued)).await });
        if !control_is_there(&proxy, before, |_| true).await {
            drop(hanging);
            let steps = revoking.await??;
            scene.unblock(&steps.last().and_then(|step| step.lease.clone())).await?;
            continue;
        }
        scene.issuer.kill()?;
        drop((hanging, revoking));
        let left = scene.site.left_of_strict_leases().await?;
        let account = match left.as_slice() {
            [one] => one.strip_prefix("ServiceAccount "),
            _ => None,
        };
        let account = account.with_context(|| format!("the crash was not in the middle of it: {left:?}"))?;
        scene.issuer.run().await?;
        wait::until("nothing of lease and control", Duration::from_secs(20), async || {
            let left = scene.site.left_of_strict_leases().await?;
            Ok(if left.is_empty() { Seen::Ready(()) } else { Seen::NotYet(format!("{left:?}")) })
        })
        .await?;
        let records = scene.issuer.operator()?.leases().await?;
        let of_it = |record: &&LeaseRecord| record.lease.as_ref().is_some_and(|lease| lease.id == id);
        let record = records.iter().find(of_it).context("the lease is not listed")?;
        let claims = record.receipt.as_ref().and_then(|receipt| receipt.dead_by_time);
        ensure!(claims.is_none(), "nobody has seen that: {:?}", record.receipt);
        return was_planned(&scene, account);
    }
    bail!("no lease had its canaries in time")
}

/// That the control of this name was recorded.
fn was_planned(scene: &Scene, control: &str) -> Result<()> {
    let planned = scene
        .issuer
        .audit()?
        .iter()
        .any(|line| line["event"] == "control.planned" && line["anchor"] == control);
    ensure!(planned, "the control was made before it was recorded");
    Ok(())
}

fn of_lease(issued: &Issued) -> LeaseSelector {
    LeaseSelector { lease_id: issued.lease.id.clone(), ..LeaseSelector::default() }
}

/// Whether the creation of an anchor was seen since then, answered in this way; looks for a second.
async fn control_is_there(
    proxy: &Proxy,
    before: usize,
    answered: impl Fn(Option<http::StatusCode>) -> bool,
) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let made = proxy.seen()[before..].iter().any(|seen| {
            let creates = seen.method == Method::POST && seen.path.contains("/secrets");
            creates && !seen.path.contains("dryRun") && answered(seen.status)
        });
        if made {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}
