//! Enrol a runner, renew its certificate.
//!
//! A join token is taken by one conditional commit, durable before anything is signed. A reply that got lost is given
//! again to the same key, and to no other.

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::caller::{Caller, Kind, SpiffeId};
use shorepass_core::enrolment::{Enrolment, Join, JoinRefusal, JoinToken, Taken};
use shorepass_core::id::EnrolmentId;
use shorepass_core::ledger::{Change, LedgerError, Revision};
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::time::{after, for_people};
use shorepass_rpc::api::{Certificate, Enrolling as Presented};
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_tls::Authority;
use shorepass_tls::CertificateRequest;
use shorepass_tls::JoinTokenText;

use crate::outside::{Outside, Refusing, ledger_refused};
use crate::revoke::Ends;

/// Gives runners their identity.
#[derive(Clone)]
pub struct Enrolling {
    outside: Arc<Outside>,
    ends: Ends,
    authority: Arc<Authority>,
    trust_domain: TrustDomain,
    lifetime: Duration,
}

/// A request for a first certificate whose parts are well-formed and fit together.
struct Asked {
    join_token: JoinTokenText,
    request: CertificateRequest,
    spiffe_id: SpiffeId,
}

impl Enrolling {
    /// Certificates of `lifetime`, signed by `authority`.
    pub fn new(
        outside: Arc<Outside>,
        ends: Ends,
        authority: Arc<Authority>,
        trust_domain: TrustDomain,
        lifetime: Duration,
    ) -> Self {
        Self { outside, ends, authority, trust_domain, lifetime }
    }

    /// Exchanges a join token for a certificate.
    pub async fn enroll(&self, presented: Presented) -> Result<Certificate, Refused> {
        let name = presented.name.clone();
        let refused = |refused: Refused| async {
            let refusing = Refusing {
                caller: None,
                method: "Enroll",
                subject: name.as_str(),
                explanation: refused.message.clone(),
                refused,
            };
            self.outside.refuse(refusing).await
        };
        let asked = match self.read(&presented) {
            Ok(asked) => asked,
            Err(cause) => return Err(refused(cause).await),
        };
        let enrolment = {
            let _alone = self.outside.gate.write().await; // two tokens for one name take turns
            match self.take(&asked).await {
                Ok(enrolment) => enrolment,
                Err(cause) => return Err(refused(cause).await),
            }
        };
        tracing::info!(runner = %asked.spiffe_id, enrolment = %enrolment.id, "runner enrolled");
        self.sign(&asked.request, &enrolment)
    }

    /// Renews the certificate that the call was made with; idempotent for one key.
    pub async fn renew(&self, caller: &Caller, request_pem: &[u8]) -> Result<Certificate, Refused> {
        let request = self.read_request(request_pem, caller.spiffe_id())?;
        let enrolment = self.enrolment_of(caller)?;
        let now = self.outside.clock.now();
        let renewed = enrolment.renew(request.key(), after(now, self.lifetime));
        let change = Change::Renewed { enrolment: renewed.clone(), at: now };
        self.outside.ledger.commit(vec![change]).await.map_err(|cause| ledger_refused(&cause))?;
        tracing::info!(runner = %renewed.spiffe_id, "certificate renewed");
        self.sign(&request, &renewed)
    }

    /// Whether the caller's enrolment still stands. Platforms and operators have none in the ledger.
    pub fn check(&self, caller: &Caller) -> Result<(), Refused> {
        match caller.kind() {
            Kind::Runner => self.enrolment_of(caller).map(|_| ()),
            Kind::Platform | Kind::Operator | Kind::Issuer => Ok(()),
        }
    }

    fn enrolment_of(&self, caller: &Caller) -> Result<Enrolment, Refused> {
        let found =
            self.outside.ledger.enrolment(caller.enrolment()).map_err(|cause| ledger_refused(&cause))?;
        let stands = |enrolment: &Enrolment| {
            enrolment.replaced.is_none() && enrolment.spiffe_id == *caller.spiffe_id()
        };
        found.filter(stands).ok_or_else(|| {
            let message = "this runner's enrolment was replaced or is not known here; enrol it again with a new join token";
            Refused::new(Reason::EnrolmentEnded, message)
        })
    }

    fn read(&self, presented: &Presented) -> Result<Asked, Refused> {
        let unknown = |why: String| Refused::new(Reason::JoinTokenUnknown, why);
        let join_token =
            JoinTokenText::parse(&presented.join_token).map_err(|cause| unknown(cause.to_string()))?;
        if join_token.ca() != self.authority.key_digest() {
            return Err(unknown(
                "this join token was made by another issuer; ask this one's operators".to_owned(),
            ));
        }
        let spiffe_id = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            kind: Kind::Runner,
            name: presented.name.clone(),
        };
        let request = self.read_request(&presented.certificate_request_pem, &spiffe_id)?;
        Ok(Asked { join_token, request, spiffe_id })
    }

    fn read_request(&self, pem: &[u8], expected: &SpiffeId) -> Result<CertificateRequest, Refused> {
        const FIELD: &str = "certificate_request_pem";
        let request = CertificateRequest::parse(pem).map_err(|cause| Refused::field(FIELD, cause))?;
        let named = request.spiffe_id();
        if named.trust_domain != self.trust_domain {
            let message = format!(
                "this issuer serves trust domain {}, not {}; correct trustDomain in the agent's config",
                self.trust_domain, named.trust_domain
            );
            return Err(Refused::new(Reason::TrustDomainUnknown, message));
        }
        if named != expected {
            return Err(Refused::field(FIELD, format!("it names {named}, but the caller is {expected}")));
        }
        Ok(request)
    }

    /// One conditional commit: the join token taken, the name given, whoever had it before cut off.
    async fn take(&self, asked: &Asked) -> Result<Enrolment, Refused> {
        let now = self.outside.clock.now();
        let ledger = &self.outside.ledger;
        let found =
            ledger.join_token(asked.join_token.secret_digest()).map_err(|cause| ledger_refused(&cause))?;
        let join_token = found.ok_or_else(|| {
            Refused::new(
                Reason::JoinTokenUnknown,
                "no such join token was made here; ask an operator for one",
            )
        })?;
        match join_token.admits(&asked.spiffe_id.name, asked.request.key(), now).map_err(join_refused)? {
            Join::Again(id) => self.give_again(id, asked).await,
            Join::First => self.take_first(join_token, asked).await,
        }
    }

    async fn take_first(&self, join_token: JoinToken, asked: &Asked) -> Result<Enrolment, Refused> {
        let now = self.outside.clock.now();
        let ledger = &self.outside.ledger;
        let before = ledger.latest_enrolment(&asked.spiffe_id).map_err(|cause| ledger_refused(&cause))?;
        let before = before.filter(|enrolment| enrolment.replaced.is_none());
        if let Some(live) = before.as_ref().filter(|enrolment| enrolment.is_live(now) && !join_token.replace)
        {
            return Err(enrolment_exists(&asked.spiffe_id.name, live));
        }
        let enrolment = Enrolment {
            id: EnrolmentId::generate(now, self.outside.entropy.as_ref()),
            spiffe_id: asked.spiffe_id.clone(),
            key: asked.request.key(),
            created: now,
            certificate_expires: after(now, self.lifetime),
            replaced: None,
            revision: Revision::FIRST,
        };
        let taken = Taken { at: now, enrolment: enrolment.id, key: asked.request.key() };
        let mut changes = vec![Change::JoinTokenTaken { join_token: join_token.take(taken) }];
        if let Some(before) = before.clone() {
            changes.push(Change::EnrolmentReplaced { enrolment: before.replace(now) });
        }
        changes.push(Change::Enrolled { enrolment: enrolment.clone() });
        match ledger.commit(changes).await {
            Ok(_) => {}
            Err(LedgerError::Conflict(_)) => return Err(join_refused(JoinRefusal::Used)),
            Err(cause) => return Err(ledger_refused(&cause)),
        }
        if let Some(before) = before {
            self.ends.end_enrolment(&before).await?;
        }
        Ok(enrolment)
    }

    /// The reply to the first use got lost, and the same key asks again.
    async fn give_again(&self, id: EnrolmentId, asked: &Asked) -> Result<Enrolment, Refused> {
        let now = self.outside.clock.now();
        let found = self.outside.ledger.enrolment(id).map_err(|cause| ledger_refused(&cause))?;
        let stands = |enrolment: &Enrolment| {
            enrolment.replaced.is_none()
                && enrolment.spiffe_id == asked.spiffe_id
                && enrolment.key == asked.request.key()
        };
        let enrolment = found.filter(stands).ok_or_else(|| join_refused(JoinRefusal::Used))?;
        let again = enrolment.renew(asked.request.key(), after(now, self.lifetime));
        let change = Change::Renewed { enrolment: again.clone(), at: now };
        self.outside.ledger.commit(vec![change]).await.map_err(|cause| ledger_refused(&cause))?;
        Ok(again)
    }

    fn sign(&self, request: &CertificateRequest, enrolment: &Enrolment) -> Result<Certificate, Refused> {
        let now = self.outside.clock.now();
        let signed =
            self.authority.sign_client(request, &enrolment.spiffe_id, enrolment.id, self.lifetime, now);
        match signed {
            Ok(signed) => Ok(Certificate {
                chain_pem: signed.chain_pem,
                bundle_pem: self.authority.bundle_pem(),
                expires: signed.expires,
            }),
            Err(cause) => Err(Refused::field("certificate_request_pem", cause)),
        }
    }
}

fn join_refused(refusal: JoinRefusal) -> Refused {
    let reason = match refusal {
        JoinRefusal::Used => Reason::JoinTokenUsed,
        JoinRefusal::Expired(_) => Reason::JoinTokenExpired,
        JoinRefusal::Name { .. } => Reason::RunnerNameNotAllowed,
    };
    Refused::new(reason, refusal.to_string())
}

fn enrolment_exists(name: &Name, live: &Enrolment) -> Refused {
    let message = format!(
        "runner {name} is enrolled until {}; to replace it, which ends its leases, use a join token made with --replace",
        for_people(live.certificate_expires)
    );
    Refused::new(Reason::EnrolmentExists, message)
}
