//! From the configuration to whose tokens are taken, of jobs and of machines, and who verifies them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use shorepass_config::IssuerConfig;
use shorepass_config::issuer::JobIssuerConfig;
use shorepass_core::job_issuer::JobIssuer;
use shorepass_core::job_token::{JobTokens, NoJobIssuers};
use shorepass_core::machine_token::NoMachineIssuers;
use shorepass_core::name::Name;
use shorepass_oidc::{Machines, Places, Trusted, Verifier};

use crate::enrol::tokens::TokenRules;

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
    let trusted = config.job_issuers.iter().map(trusted);
    Ok(Arc::new(Verifier::new(trusted.collect::<Result<_>>()?)?))
}

/// Whose tokens let in which machines, and who verifies those. Nothing is sent yet.
pub(crate) fn token_rules(config: &IssuerConfig) -> Result<TokenRules> {
    let issuers = &config.enrolment.oidc;
    let rules =
        issuers.iter().map(|known| (known.issuer.issuer.name().clone(), known.admit.clone())).collect();
    if issuers.is_empty() {
        return Ok(TokenRules { rules, verifier: Arc::new(NoMachineIssuers) });
    }
    let trusted = issuers.iter().map(|known| trusted(&known.issuer));
    let verifier = Verifier::new(trusted.collect::<Result<_>>()?)?;
    Ok(TokenRules { rules, verifier: Arc::new(Machines(verifier)) })
}

fn trusted(configured: &JobIssuerConfig) -> Result<Trusted> {
    let read = |file: &PathBuf| {
        let what = || format!("cannot read the certificate authorities in {}", file.display());
        std::fs::read(file).with_context(what)
    };
    let documents = &configured.documents;
    Ok(Trusted {
        issuer: configured.issuer.clone(),
        ca_pem: documents.ca_file.as_ref().map(read).transpose()?,
        places: Places {
            discovery_url: documents.discovery_url.clone(),
            keys_host: documents.keys_host.as_ref().map(ToString::to_string),
            keys_url: documents.keys_url.clone(),
        },
    })
}
