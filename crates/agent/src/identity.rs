//! The runner's identity: enrolment with what lets it in ([`ticket`]), renewal at half life with a new key for each certificate.
//!
//! An identity is used only after it is stored; when renewal fails, the old one stays. Enrolment that the issuer refuses
//! ends the agent, because no retry helps; an issuer that cannot be reached is tried again for ever. Whose certificate has
//! expired while the machine slept comes back with a proof of its key.
//!
//! Questionable: the key of an enrolment is kept in memory until it is answered. An agent that is killed in between
//! needs a new join token.

mod ticket;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;
use shorepass_core::id::CallId;
use shorepass_core::refresh::retry_pause;
use shorepass_core::time::{Clock, Entropy, Timestamp, after, until};
use shorepass_daemon::clock::RECHECK;
use shorepass_daemon::telemetry::Chain;
use shorepass_proto::local::v1::ErrorClass;
use shorepass_proto::v1::ErrorReason as Reason;
use shorepass_tls::{
    Identity, IdentityError, IdentityFile, IdentityFileError, JoinTokenError, KeyAndRequest, KeyError,
};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

pub(crate) use self::ticket::{Ticket, TicketSource};
use crate::issuer::IssuerError;
use crate::private::PrivateError;

/// Before the issuer was asked, or has answered, for the first time.
const NOT_YET: &str = "not enrolled yet: the issuer is being asked";

/// The share of half a certificate's life by which a renewal may come early.
const JITTER_SHARE: f64 = 0.2;

/// The issuer, as it gives identities.
#[async_trait]
pub(crate) trait Enrolment: Send + Sync {
    /// Exchanges what lets the machine in for a certificate.
    async fn enroll(
        &self,
        call: &CallId,
        ticket: &Ticket,
        request_pem: &[u8],
    ) -> Result<Granted, EnrolFailure>;

    /// Renews the certificate of the identity that is in use.
    async fn renew(&self, call: &CallId, request_pem: &[u8]) -> Result<Granted, IssuerError>;

    /// Exchanges a certificate that has expired for the next one, for the key with the digest `wanted`.
    async fn rejoin(
        &self,
        call: &CallId,
        identity: &Identity,
        request_pem: &[u8],
        wanted: Digest,
    ) -> Result<Granted, IssuerError>;

    /// Makes a call with the identity that is in use, so that the issuer sees it.
    async fn show(&self, call: &CallId) -> Result<(), IssuerError>;

    /// From now on, this identity is used.
    fn adopt(&self, identity: &Identity);
}

/// A certificate and whom to trust, PEM.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) chain_pem: Vec<u8>,
    pub(crate) bundle_pem: Vec<u8>,
}

/// Why there was no certificate for a ticket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolFailure {
    /// The server is not the issuer that the ticket is for: nothing was sent.
    #[error("{0}")]
    NotTheIssuer(String),
    /// Anything else.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}

/// Why the agent has no identity and gets none.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is nothing to enrol with.
    #[error(
        "this runner is not enrolled and its config names no joinTokenFile, pod or oidc; ask an operator for a join \
         token"
    )]
    NoTicket,
    /// What lets it in cannot be read.
    #[error("cannot use a file that enrolment needs")]
    File(#[source] PrivateError),
    /// It is none.
    #[error("cannot use the join token in {}", .path.display())]
    Text {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: JoinTokenError,
    },
    /// The file has no CA.
    #[error("there is no CA certificate in {}; copy the issuer's ca.pem there", .path.display())]
    Authority {
        /// Its file.
        path: PathBuf,
    },
    /// The file has no token.
    #[error("there is no token in {}; check what is mounted there", .path.display())]
    NoToken {
        /// Its file.
        path: PathBuf,
    },
    /// The server is not the issuer that the ticket is for.
    #[error("cannot enrol: {0}")]
    NotTheIssuer(String),
    /// The issuer says no.
    #[error("the issuer refused to enrol this runner (request {call})")]
    Refused {
        /// Under which id.
        call: CallId,
        /// Why.
        source: IssuerError,
    },
    /// There is no key.
    #[error("cannot make a key")]
    Key(#[source] KeyError),
    /// What the issuer gave is no identity.
    #[error("what the issuer gave is no identity")]
    Identity(#[source] IdentityError),
    /// The identity cannot be kept.
    #[error("cannot store the identity")]
    Store(#[source] IdentityFileError),
}

impl EnrolError {
    /// The exit code of an agent that ends with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Text { .. } | Self::NotTheIssuer(_) | Self::Refused { .. } => 3,
            Self::NoTicket
            | Self::Authority { .. }
            | Self::NoToken { .. }
            | Self::File(_)
            | Self::Key(_)
            | Self::Identity(_)
            | Self::Store(_) => 1,
        }
    }
}

/// How the agent stands with its identity.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) spiffe_id: Option<SpiffeId>,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) problem: Option<String>,
}

impl Standing {
    /// With an identity there is nothing wrong.
    pub(crate) fn of(identity: &Identity) -> Self {
        Self {
            spiffe_id: Some(identity.spiffe_id().clone()),
            expires: Some(identity.expires()),
            problem: None,
        }
    }

    /// What is wrong, if anything.
    pub(crate) fn problem_at(&self, now: Timestamp) -> Option<String> {
        match self.expires {
            Some(expires) if expires <= now => {
                let problem = self.problem.as_deref().unwrap_or("asking the issuer for the next one");
                Some(format!("the certificate of this runner expired at {expires}: {problem}"))
            }
            Some(_) => self.problem.clone(),
            None => Some(self.problem.clone().unwrap_or_else(|| NOT_YET.to_owned())),
        }
    }
}

/// Keeps the identity.
pub(crate) struct Keeper {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) ticket: TicketSource,
    pub(crate) file: IdentityFile,
    pub(crate) enrolment: Arc<dyn Enrolment>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) standing: watch::Sender<Standing>,
}

impl Keeper {
    /// Enrols if need be, then renews for ever. Ends only where the agent cannot get an identity.
    pub(crate) async fn run(self, identity: Option<Identity>) -> EnrolError {
        let (since, identity) = match identity {
            Some(identity) => (identity.not_before(), identity),
            None => match self.enrol().await {
                Ok(identity) => (self.clock.now(), identity),
                Err(error) => return error,
            },
        };
        self.enrolment.adopt(&identity);
        self.stand(&identity);
        self.renew_for_ever(identity, since).await
    }

    async fn enrol(&self) -> Result<Identity, EnrolError> {
        let KeyAndRequest { key, request_pem } =
            KeyAndRequest::generate(&self.spiffe_id).map_err(EnrolError::Key)?;
        let (call, granted) = self.ask_to_enrol(&request_pem).await?;
        let identity =
            Identity::new(key, &granted.chain_pem, &granted.bundle_pem).map_err(EnrolError::Identity)?;
        self.file.store(&identity).map_err(EnrolError::Store)?;
        let (id, expires) = (identity.spiffe_id(), identity.expires());
        info!(request_id = %call, %id, %expires, "enrolled");
        Ok(identity)
    }

    /// The same key each time: an answer that was lost is given again. What lets the machine in is read anew each time: a
    /// pod's token is replaced while the issuer cannot be reached.
    async fn ask_to_enrol(&self, request_pem: &[u8]) -> Result<(CallId, Granted), EnrolError> {
        let mut attempt = 0;
        loop {
            let (call, ticket) = (self.call_id(), self.ticket.read()?);
            let error = match self.enrolment.enroll(&call, &ticket, request_pem).await {
                Ok(granted) => return Ok((call, granted)),
                Err(EnrolFailure::NotTheIssuer(why)) => return Err(EnrolError::NotTheIssuer(why)),
                Err(EnrolFailure::Issuer(error)) if error.class() == ErrorClass::Unreachable => error,
                Err(EnrolFailure::Issuer(source)) => return Err(EnrolError::Refused { call, source }),
            };
            let chain = Chain(&error).to_string();
            warn!(request_id = %call, error = chain, "cannot enrol yet; trying again");
            self.standing.send_modify(|standing| standing.problem = Some(format!("not enrolled: {chain}")));
            self.pause(&mut attempt, &error).await;
        }
    }

    /// `since` is when the identity was new, as far as is known: certificates are dated back for clocks that are off.
    async fn renew_for_ever(&self, mut identity: Identity, mut since: Timestamp) -> EnrolError {
        loop {
            let due = renew_at(since, identity.expires(), crate::jitter(&*self.entropy));
            self.sleep_until(due).await;
            let (mut attempt, mut asking) = (0, None);
            let (call, renewed) = loop {
                let call = self.call_id();
                let error = match self.renew(&call, &identity, &mut asking).await {
                    Ok(renewed) => break (call, renewed),
                    Err(error) => error,
                };
                let chain = Chain(&error).to_string();
                warn!(request_id = %call, error = chain, expires = %identity.expires(), "cannot renew the certificate; trying again");
                let problem = format!("cannot renew the certificate: {chain}{}", error.remedy());
                self.standing.send_modify(|standing| standing.problem = Some(problem));
                if identity.expires() <= self.clock.now() {
                    let problem = self.standing.borrow().problem_at(self.clock.now());
                    warn!(problem, "tokens that are held are served until they end");
                }
                let pause = retry_pause(attempt, crate::jitter(&*self.entropy));
                attempt += 1;
                sleep(pause).await;
            };
            since = self.clock.now();
            identity = renewed;
            self.enrolment.adopt(&identity);
            self.stand(&identity);
            info!(request_id = %call, expires = %identity.expires(), "certificate renewed");
            self.show().await;
        }
    }

    /// The sooner the issuer sees the renewed certificate, the sooner a copy of the one before is found out.
    async fn show(&self) {
        let call = self.call_id();
        if let Err(error) = self.enrolment.show(&call).await {
            debug!(request_id = %call, error = %Chain(&error), "the renewed certificate was not shown; the next call does that");
        }
    }

    /// `asking` is what was asked for and not answered: an answer that was lost is given again to the same key.
    async fn renew(
        &self,
        call: &CallId,
        identity: &Identity,
        asking: &mut Option<KeyAndRequest>,
    ) -> Result<Identity, RenewError> {
        let made = match asking.take() {
            Some(made) => made,
            None => KeyAndRequest::generate(&self.spiffe_id).map_err(RenewError::Key)?,
        };
        // A certificate that is over opens no connection.
        let answer = if identity.expires() <= self.clock.now() {
            self.enrolment.rejoin(call, identity, &made.request_pem, made.key.digest()).await
        } else {
            self.enrolment.renew(call, &made.request_pem).await
        };
        let granted = match answer {
            Ok(granted) => granted,
            Err(error) => {
                *asking = Some(made);
                return Err(RenewError::Issuer(error));
            }
        };
        let KeyAndRequest { key, request_pem: _ } = made;
        let identity =
            Identity::new(key, &granted.chain_pem, &granted.bundle_pem).map_err(RenewError::Identity)?;
        self.file.store(&identity).map_err(RenewError::Store)?;
        Ok(identity)
    }

    fn call_id(&self) -> CallId {
        CallId::generate(self.clock.now(), &*self.entropy)
    }

    fn stand(&self, identity: &Identity) {
        self.standing.send_replace(Standing::of(identity));
    }

    async fn pause(&self, attempt: &mut u32, error: &IssuerError) {
        let told = error.retry_after().unwrap_or_default().min(Duration::from_secs(60));
        let pause = retry_pause(*attempt, crate::jitter(&*self.entropy)).max(told);
        *attempt += 1;
        sleep(pause).await;
    }

    /// By the wall clock, which certificates go by; it may jump, and timers stop in suspend.
    async fn sleep_until(&self, due: Timestamp) {
        loop {
            let left = until(self.clock.now(), due);
            if left.is_zero() {
                return;
            }
            sleep(left.min(RECHECK)).await;
        }
    }
}

impl RenewError {
    /// What to do, where asking again does not help.
    fn remedy(&self) -> &'static str {
        match self {
            Self::Issuer(error)
                if matches!(
                    error.reason(),
                    Some(Reason::RejoinRefused | Reason::EnrolmentEnded | Reason::RunnerCloned)
                ) =>
            {
                "; get a new join token, move identity.pem away and restart the agent"
            }
            Self::Issuer(_) | Self::Key(_) | Self::Identity(_) | Self::Store(_) => "",
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("cannot make a key")]
    Key(#[source] KeyError),
    #[error("the issuer gave no certificate")]
    Issuer(#[source] IssuerError),
    #[error("what the issuer gave is no identity")]
    Identity(#[source] IdentityError),
    #[error("cannot store the renewed identity")]
    Store(#[source] IdentityFileError),
}

/// Half of the life that is left at `since`, and up to a fifth of that earlier. `jitter` is in 0..1.
fn renew_at(since: Timestamp, expires: Timestamp, jitter: f64) -> Timestamp {
    let half = until(since, expires) / 2;
    after(since, half.mul_f64(1.0 - JITTER_SHARE * jitter.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests;
