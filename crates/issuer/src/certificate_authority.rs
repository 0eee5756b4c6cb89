//! Follows the issuer's CA while it runs: a rotation that a command has begun, the moments at which it goes on, and a
//! certificate that was renewed beside the issuer.
//!
//! Whatever holds from now on is exchanged together: who is trusted, what is served, and what signs. Connections stay, but
//! those of callers whose CA is not trusted any more. Files that do not load change nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::time::for_people;
use shorepass_daemon::admin::Condition;
use shorepass_tls::{Authority, Phase, Serving};
use tokio_util::sync::CancellationToken;

use crate::outside::Outside;
use crate::serving_certificate::ServingCertificate;
use crate::state;

/// How often the files and the clock are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// The task.
pub(crate) struct Following {
    /// Where the CA's files are.
    pub(crate) directory: PathBuf,
    /// The CA.
    pub(crate) authority: Arc<Authority>,
    /// What is served with.
    pub(crate) certificate: ServingCertificate,
    /// Where it is served.
    pub(crate) tls: Arc<Serving>,
    /// Who is trusted and connected.
    pub(crate) outside: Arc<Outside>,
    /// How it stands.
    pub(crate) condition: Condition,
}

impl Following {
    /// Looks every few seconds, until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        let (mut failing, mut owed) = (None, None);
        self.show(self.authority.phase());
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            match self.look(&mut owed) {
                Ok(()) => {
                    if failing.take().is_some() {
                        self.show(self.authority.phase());
                    }
                }
                Err(cause) => {
                    let cause = format!("{cause:#}");
                    self.condition
                        .holds_but(format!("the CA's files do not load, what was read last stays: {cause}"));
                    if failing.as_ref() != Some(&cause) {
                        tracing::error!(
                            error = cause,
                            "the CA's files do not load: what was read last stays"
                        );
                    }
                    failing = Some(cause);
                }
            }
        }
    }

    /// `owed` is what was seen and is not taken up yet.
    fn look(&self, owed: &mut Option<Phase>) -> anyhow::Result<()> {
        let changed = state::refresh(&self.directory, &self.authority, self.outside.clock.now())?;
        *owed = changed.or(*owed);
        if let Some(phase) = *owed {
            self.take(phase)?;
            *owed = None;
        }
        Ok(())
    }

    fn take(&self, phase: Phase) -> anyhow::Result<()> {
        self.outside.trust.swap_own(&self.authority.bundle_pem())?;
        self.tls.swap_identity(self.certificate.make(&self.authority, self.outside.clock.as_ref())?);
        let trust = &self.outside.trust;
        let closed = self.outside.connections.close_callers(|caller| !trust.trusts(caller));
        let key = self.authority.key_digest();
        match phase {
            Phase::Settled => {
                tracing::warn!(%key, closed, "the CA is alone: no other one of this trust domain is trusted")
            }
            Phase::Announced { switch, end } => {
                tracing::warn!(%key, %switch, %end, "the CA is being rotated: the next one is told to everybody");
            }
            Phase::Overlapping { end } => {
                tracing::warn!(%key, %end, "the CA is being rotated: the next one signs");
            }
        }
        self.show(phase);
        Ok(())
    }

    fn show(&self, phase: Phase) {
        match phase {
            Phase::Settled => self.condition.holds(),
            Phase::Announced { switch, end } => self.condition.holds_but(format!(
                "the CA is being rotated: the next one signs from {}, and this one is trusted until {}",
                for_people(switch),
                for_people(end)
            )),
            Phase::Overlapping { end } => self.condition.holds_but(format!(
                "the CA is being rotated: the former one is trusted until {}",
                for_people(end)
            )),
        }
    }
}
