//! Whose job tokens are taken, from configuration to what verifies them.

use std::sync::Arc;

use anyhow::{Context, Result};
use shorepass_config::issuer::JobIssuerConfig;
use shorepass_core::job_token::{JobTokens, NoJobIssuers};
use shorepass_oidc::{Trusted, Verifier};

/// What verifies the tokens of these issuers. Their certificate authorities are read once.
pub(crate) fn verifier(configured: &[JobIssuerConfig]) -> Result<Arc<dyn JobTokens>> {
    if configured.is_empty() {
        return Ok(Arc::new(NoJobIssuers));
    }
    let trusted = configured.iter().map(trusted).collect::<Result<Vec<Trusted>>>()?;
    Ok(Arc::new(Verifier::new(trusted)?))
}

fn trusted(configured: &JobIssuerConfig) -> Result<Trusted> {
    let JobIssuerConfig { issuer, ca_file, keys_host } = configured;
    let ca_pem = ca_file.as_ref().map(|path| {
        std::fs::read(path)
            .with_context(|| format!("cannot read caFile {} of job issuer {}", path.display(), issuer.name()))
    });
    Ok(Trusted {
        issuer: issuer.clone(),
        ca_pem: ca_pem.transpose()?,
        keys_host: keys_host.as_ref().map(ToString::to_string),
    })
}
