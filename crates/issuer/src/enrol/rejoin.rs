//! Rejoin: a runner whose certificate has ended, because it slept, gets the next one of its lineage.
//!
//! It shows its newest certificate, which opens no connection any more, and signs a nonce of ours with its key. That is as
//! much as a connection would have proved, and no more is given for it: the same enrolment, under the same checks, for a
//! bounded time after the end. Whoever proves the key of an older certificate of that time has a copy, or is the one who was
//! copied: both are shut out ([`lineage`](super::lineage)). After that time it proves nothing any more.
//!
//! Nonces are kept nowhere until they are used: they carry their time and a tag, so that nobody can use up our room for
//! them. They are good for one certificate, for a minute, once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shorepass_core::caller::{Kind, Owner};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{CloneCause, Enrolment, Renewal};
use shorepass_core::ledger::Change;
use shorepass_core::time::{Entropy, Timestamp, after, for_people};
use shorepass_rpc::api::{Certificate, Nonce, Rejoining};
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_tls::{CertificateRequest, Lapsed};

use super::{Enrolling, security_lost};
use crate::outside::Refusing;

/// How long a nonce is good.
const NONCE_LIFE: Duration = Duration::from_secs(60);
const TIME: usize = 8;
const RANDOM: usize = 16;
const TAG: usize = 32;

/// Makes nonces and takes each once.
pub(super) struct Nonces {
    key: [u8; 32],
    used: Mutex<HashMap<Digest, Timestamp>>,
}

impl Nonces {
    /// Of this process: those of another one, or of one before, are none.
    pub(super) fn new(entropy: &dyn Entropy) -> Self {
        let mut key = [0; 32];
        entropy.fill(&mut key);
        Self { key, used: Mutex::default() }
    }

    /// One for a certificate.
    fn make(&self, certificate: Digest, now: Timestamp, entropy: &dyn Entropy) -> Vec<u8> {
        let mut random = [0; RANDOM];
        entropy.fill(&mut random);
        let stated = [now.as_second().to_be_bytes().as_slice(), &random].concat();
        let tag = self.tag(&stated, certificate);
        [stated.as_slice(), tag.as_bytes()].concat()
    }

    /// Whether it was made here for this certificate, and is good.
    fn is_good(&self, nonce: &[u8], certificate: Digest, now: Timestamp) -> bool {
        if nonce.len() != TIME + RANDOM + TAG {
            return false;
        }
        let (stated, tag) = nonce.split_at(TIME + RANDOM);
        // Compared by their digests, so that the time it takes tells nothing of the tag.
        let is_ours = Digest::of_bytes(tag) == Digest::of_bytes(self.tag(stated, certificate).as_bytes());
        let made = stated.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
        let made = made.and_then(|second| Timestamp::from_second(second).ok());
        is_ours && made.is_some_and(|made| now < after(made, NONCE_LIFE))
    }

    /// Uses it up; false if it was.
    fn take(&self, nonce: &[u8], now: Timestamp) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, at| now < after(*at, NONCE_LIFE * 2));
        used.insert(Digest::of_bytes(nonce), now).is_none()
    }

    /// Keyed from inside and outside, as HMAC is.
    fn tag(&self, stated: &[u8], certificate: Digest) -> Digest {
        let inner = Digest::of_parts([self.key.as_slice(), stated, certificate.as_bytes()]);
        Digest::of_parts([self.key.as_slice(), inner.as_bytes()])
    }
}

impl Enrolling {
    /// Gives a nonce to whoever shows a certificate that may come back.
    pub async fn begin_rejoin(&self, certificate_pem: &[u8]) -> Result<Nonce, Refused> {
        let lapsed = self.read_lapsed(certificate_pem);
        let lapsed = match lapsed.and_then(|lapsed| self.in_window(&lapsed).map(|()| lapsed)) {
            Ok(lapsed) => lapsed,
            Err(refused) => return Err(self.refuse_rejoin(None, refused).await),
        };
        let now = self.outside.clock.now();
        let nonce = self.nonces.make(lapsed.certificate(), now, self.outside.entropy.as_ref());
        Ok(Nonce { bytes: nonce, valid_for: NONCE_LIFE })
    }

    /// Exchanges a certificate that has ended for the next one of its lineage.
    pub async fn rejoin(&self, rejoining: Rejoining) -> Result<Certificate, Refused> {
        let lapsed = match self.read_lapsed(&rejoining.certificate_pem) {
            Ok(lapsed) => lapsed,
            Err(refused) => return Err(self.refuse_rejoin(None, refused).await),
        };
        match self.rejoin_as(&lapsed, &rejoining).await {
            Ok(certificate) => Ok(certificate),
            Err(refused) => Err(self.refuse_rejoin(Some(&lapsed), refused).await),
        }
    }

    async fn rejoin_as(&self, lapsed: &Lapsed, rejoining: &Rejoining) -> Result<Certificate, Refused> {
        if let Some(problem) = self.outside.ledger.security().problem() {
            return Err(security_lost(problem));
        }
        self.in_window(lapsed)?;
        let now = self.outside.clock.now();
        if !self.nonces.is_good(&rejoining.nonce, lapsed.certificate(), now) {
            return Err(again("this nonce was not made here for this certificate, or is too old"));
        }
        let request = self.read_request(&rejoining.certificate_request_pem, lapsed.spiffe_id())?;
        if request.key() == lapsed.key() {
            return Err(Refused::field(
                "certificate_request_pem",
                "is for the key of the certificate that has ended",
            ));
        }
        if !lapsed.is_proved_by(&rejoining.signature, &rejoining.nonce, request.key()) {
            return Err(no(
                "the signature was not made with the key of the certificate for this nonce and request",
            ));
        }
        if !self.nonces.take(&rejoining.nonce, now) {
            return Err(again("this nonce was used already"));
        }
        let owner = Owner { spiffe_id: lapsed.spiffe_id().clone(), enrolment: lapsed.enrolment() };
        let Some(enrolment) = self.record_rejoin(&owner, lapsed, &request).await? else {
            return Err(self.shut_out(&owner, lapsed.certificate(), CloneCause::Renewed).await);
        };
        tracing::info!(runner = %enrolment.spiffe_id, ended = %lapsed.expires(), "runner rejoined after its certificate had ended");
        self.sign(&request, &enrolment)
    }

    /// The enrolment with its next certificate; none if somebody has gone on with it already.
    async fn record_rejoin(
        &self,
        owner: &Owner,
        lapsed: &Lapsed,
        request: &CertificateRequest,
    ) -> Result<Option<Enrolment>, Refused> {
        let plan = || {
            let enrolment = self.standing_of(owner)?;
            self.outside.not_banned(owner)?;
            let life = self.life();
            let renewal = match enrolment.is_newest(lapsed.key()) {
                true => enrolment.renew(lapsed.key(), request.key(), life),
                false => Renewal::Clone,
            };
            match renewal {
                Renewal::Granted(enrolment) => {
                    let change = Change::Rejoined { enrolment: (*enrolment).clone(), at: life.from };
                    Ok((vec![change], Some(*enrolment)))
                }
                Renewal::Clone => Ok((Vec::new(), None)),
            }
        };
        let _together = self.outside.gate.read().await; // a ban comes before or after
        self.ends.again_on_conflict(plan).await
    }

    fn read_lapsed(&self, certificate_pem: &[u8]) -> Result<Lapsed, Refused> {
        const FIELD: &str = "certificate_pem";
        let lapsed = self.authority.lapsed(certificate_pem).map_err(|cause| Refused::field(FIELD, cause))?;
        match lapsed.spiffe_id().kind {
            Kind::Runner => Ok(lapsed),
            Kind::Platform | Kind::Operator | Kind::Issuer => {
                Err(Refused::field(FIELD, "only runners come back after their certificate has ended"))
            }
        }
    }

    fn in_window(&self, lapsed: &Lapsed) -> Result<(), Refused> {
        if self.rejoin_window.is_zero() {
            return Err(no("this issuer lets nobody rejoin (enrolment.rejoinWindow is 0)"));
        }
        let until = after(lapsed.expires(), self.rejoin_window);
        if self.outside.clock.now() < until {
            return Ok(());
        }
        let ended = for_people(lapsed.expires());
        Err(no(&format!(
            "this certificate ended at {ended}, and could be used to rejoin until {}",
            for_people(until)
        )))
    }

    async fn refuse_rejoin(&self, lapsed: Option<&Lapsed>, refused: Refused) -> Refused {
        let subject = lapsed.map(|lapsed| lapsed.spiffe_id().to_string()).unwrap_or_default();
        let explanation = refused.message.clone();
        let refusing = Refusing { caller: None, method: "Rejoin", subject: &subject, explanation, refused };
        self.outside.refuse(refusing).await
    }
}

fn no(why: &str) -> Refused {
    Refused::new(Reason::RejoinRefused, format!("{why}: ask an operator for a new join token"))
}

fn again(why: &str) -> Refused {
    Refused::new(Reason::RejoinRefused, format!("{why}: ask for another one with BeginRejoin"))
}
