//! From the configuration to whose job tokens are taken, and who verifies them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use shorepass_config::IssuerConfig;
use shorepass_core::job_issuer::JobIssuer;
use shorepass_core::job_token::{JobTokens, NoJobIssuers};
use shorepass_core::name::Name;
use shorepass_oidc::{Places, Trusted, Verifier};

/// What is known of them, by name.
pub(crate) fn known(config: &IssuerConfig) -> BTreeMap<Name, JobIssuer> {
    let issuers = config.job_issuers.iter().map(|configured| configured.issuer.clone());
    issuers.map(|issuer| (issuer.name().clone(), issuer)).collect()
}

/// Who verifies their tokens. Nothing is sent yet.
pub(crate) fn verifier(config: &IssuerConfig) -> Result<Arc<dyn JobTokens>> {
    if config.job_issuers.is_empty() {
        return Ok(Arc::new(NoJobIssuers));
    }
    let trusted = config.job_issuers.iter().map(|configured| {
        let read = |file: &PathBuf| {
            let what = || format!("cannot read the certificate authorities in {}", file.display());
            std::fs::read(file).with_context(what)
        };
        Ok(Trusted {
            issuer: configured.issuer.clone(),
            ca_pem: configured.ca_file.as_ref().map(read).transpose()?,
            places: Places {
                discovery_url: configured.discovery_url.clone(),
                keys_host: configured.keys_host.as_ref().map(ToString::to_string),
                keys_url: configured.keys_url.clone(),
            },
        })
    });
    Ok(Arc::new(Verifier::new(trusted.collect::<Result<_>>()?)?))
}
