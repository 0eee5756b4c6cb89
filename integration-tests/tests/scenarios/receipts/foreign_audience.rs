//! Tokens for somebody else than the API server: it refuses them as long as they live, and that proves nothing.

use integration_tests::audience_webhook::AudienceWebhook;
use integration_tests::proxy::claims;
use shorepass_core::receipt::Why;

use super::*;

/// Somebody who verifies tokens by himself.
const FOREIGN: &str = "https://vault.example.org";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_a_foreign_audience_is_never_proved_dead() -> Result<()> {
    let scene = Scene::knowing("foreign").await?;
    let Site { admin, place, identity, .. } = &scene.site;
    identity.allow_audiences(admin, scene.site.granted(), &[FOREIGN])?;
    let _webhook = AudienceWebhook::install(admin, &place.namespace, FOREIGN).await?;
    for _ in 0..PATIENCE {
        let issued = for_somebody_else(&scene).await?;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let record = scene.revoke(&issued.lease.id).await?;
        let receipt = record.receipt.clone().context("no receipt")?;
        assert_eq!(receipt.verdict(), ReceiptVerdict::Unproved, "{receipt:?}");
        if was_late(&record) {
            continue;
        }
        ensure!(receipt.reason.starts_with(Why::NotAcceptedBefore.as_str()), "{receipt:?}");
        ensure!(receipt.dead_by_time.is_none() && !receipt.canaries.is_empty(), "{receipt:?}");
        return scene.has_no_anchors().await;
    }
    bail!("no lease had its canaries in time")
}

/// A lease with such a token, as soon as policy and webhook are in effect.
async fn for_somebody_else(scene: &Scene) -> Result<Issued> {
    wait::until("a token for a foreign audience", Duration::from_secs(30), async || {
        let issued = match scene.platform.issue(&scene.job, scene.role).await {
            Ok(issued) => issued,
            Err(error) => return Ok(Seen::NotYet(error.to_string())),
        };
        let audiences = &claims(&issued.credential.token)?["aud"];
        if *audiences != json!([FOREIGN]) {
            scene.platform.release(&issued.lease.id).await?;
            return Ok(Seen::NotYet(audiences.to_string()));
        }
        let client = scene.site.admin.client_with(&issued.credential.token).await?;
        ensure!(who_am_i(&client).await?.is_none(), "the API server takes a token that is not for it");
        Ok(Seen::Ready(issued))
    })
    .await
}
