//! The certificate that the issuer serves with: made by its own CA in memory, and exchanged at half of its life.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use shorepass_config::{Host, IssuerConfig};
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::time::{Clock, until};
use shorepass_daemon::clock::sleep_until_boottime;
use shorepass_daemon::telemetry::Chain;
use shorepass_tls::{Authority, Serving, ServingIdentity, SignError};
use tokio_util::sync::CancellationToken;

/// How the serving identity is made.
#[derive(Clone)]
pub(crate) struct ServingCertificate {
    spiffe_id: SpiffeId,
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
    lifetime: Duration,
}

impl ServingCertificate {
    /// As the config says.
    pub(crate) fn of(config: &IssuerConfig) -> Self {
        let mut serving = Self {
            spiffe_id: SpiffeId {
                trust_domain: config.trust_domain.clone(),
                kind: Kind::Issuer,
                name: config.name.clone(),
            },
            dns_names: Vec::new(),
            addresses: Vec::new(),
            lifetime: config.certificate_lifetime,
        };
        for host in &config.dns_names {
            match host {
                Host::Dns(name) => serving.dns_names.push(name.clone()),
                Host::Address(address) => serving.addresses.push(*address),
            }
        }
        serving
    }

    /// Makes one.
    pub(crate) fn make(
        &self,
        authority: &Authority,
        clock: &dyn Clock,
    ) -> Result<ServingIdentity, SignError> {
        authority.serving(&self.spiffe_id, &self.dns_names, &self.addresses, self.lifetime, clock.now())
    }

    /// Replaces the serving certificate at half of its life; connections that are open stay as they are.
    pub(crate) async fn renew(
        self,
        authority: Arc<Authority>,
        clock: Arc<dyn Clock>,
        tls: Arc<Serving>,
        stop: CancellationToken,
    ) {
        loop {
            let half = until(clock.now(), tls.identity().expires()) / 2;
            let due = clock.since_boot() + half.max(Duration::from_secs(1));
            if stop.run_until_cancelled(sleep_until_boottime(clock.as_ref(), due)).await.is_none() {
                return;
            }
            match self.make(&authority, clock.as_ref()) {
                Ok(next) => {
                    tracing::info!(until = %next.expires(), "serving certificate renewed");
                    tls.swap_identity(next);
                }
                Err(cause) => {
                    tracing::error!(error = %Chain(&cause), "the serving certificate was not renewed");
                }
            }
        }
    }
}
