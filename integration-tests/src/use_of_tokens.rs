//! What a token's holder does with it: ask the API server who it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, UserInfo};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::wait::{self, Seen};

/// How long an API server goes on accepting a token that it accepted just before the anchor's deletion (its cache of
/// successes), with slack.
pub const CACHED: Duration = Duration::from_secs(12);

/// Who the API server says the client is; none if it says 401.
pub async fn who_am_i(client: &Client) -> Result<Option<UserInfo>> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    match reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await {
        Ok(review) => {
            let user = review.status.and_then(|status| status.user_info);
            Ok(Some(user.context("a review without a user")?))
        }
        Err(kube::Error::Api(status)) if status.code == 401 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the token is refused, and then makes sure that it stays refused.
pub async fn is_refused_for_good(client: &Client) -> Result<()> {
    wait::until("the token to be refused", CACHED, async || {
        Ok(match who_am_i(client).await? {
            None => Seen::Ready(()),
            Some(user) => Seen::NotYet(format!("accepted as {user:?}")),
        })
    })
    .await?;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        if let Some(user) = who_am_i(client).await? {
            bail!("refused, and {:?} later accepted again as {user:?}", since.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
