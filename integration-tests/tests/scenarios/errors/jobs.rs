//! Job tokens that open nothing.

use anyhow::{Context, Result};
use integration_tests::ci_system::AUDIENCE;
use integration_tests::client;
use serde_json::json;
use shorepass_rpc::client::ClientError;

use super::stage::Stage;

impl Stage {
    async fn refused_token(&self, token: &str) -> Result<ClientError> {
        client::refused(self.runner.start_job_with(token).await)
    }
}

/// Tokens of nobody, for somebody else, and of somebody whom nobody trusts.
pub(super) async fn rejected_tokens(stage: &Stage) -> Result<Vec<ClientError>> {
    let gitlab = &stage.gitlab;
    let good = gitlab.gitlab_token(json!({}))?;
    let (rest, signature) = good.rsplit_once('.').context("a token has a signature")?;
    let reversed: String = signature.chars().rev().collect();
    let tokens = [
        "a.b.c".to_owned(),
        format!("{rest}.{reversed}"),
        format!("{rest}."),
        gitlab.gitlab_token(json!({"aud": "https://example.org"}))?,
        gitlab.gitlab_token(json!({"aud": format!("{AUDIENCE}/test-1")}))?,
        gitlab.gitlab_token(json!({"aud": [AUDIENCE, "https://example.org"]}))?,
        gitlab.gitlab_token(json!({"iss": "https://gitlab.example.org"}))?,
        gitlab.gitlab_token(json!({"project_id": ["4711"]}))?,
    ];
    let mut errors = Vec::new();
    for token in tokens {
        errors.push(stage.refused_token(&token).await?);
    }
    Ok(errors)
}

pub(super) async fn expired_token(stage: &Stage) -> Result<Vec<ClientError>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let token = stage.gitlab.gitlab_token(json!({"iat": now - 600, "nbf": now - 600, "exp": now - 300}))?;
    Ok(vec![stage.refused_token(&token).await?])
}

pub(super) async fn used_token(stage: &Stage) -> Result<Vec<ClientError>> {
    let token = stage.gitlab.gitlab_token(json!({}))?;
    stage.runner.start_job_with(&token).await?;
    Ok(vec![
        stage.refused_token(&token).await?,
        client::refused(stage.stranger.start_job_with(&token).await)?,
    ])
}

/// One whose keys were never seen.
pub(super) async fn unreachable_job_issuer(stage: &Stage) -> Result<Vec<ClientError>> {
    let token = stage.down.token(json!({"sub": "x", "build": "1", "project": "p"}))?;
    Ok(vec![stage.refused_token(&token).await?])
}
