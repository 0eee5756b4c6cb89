//! Enrol a runner; what becomes of its certificates is in [`lineage`].
//!
//! How it shows which machine it is is told in [`method`]: by a join token, by the token of the pod that it is, or by
//! a token of an OIDC issuer. A join token
//! is taken by one conditional commit, durable before anything is signed. A reply that got lost is given again to the same
//! key, and to no other.

mod join_tokens;
pub mod lineage;
mod method;
pub mod pods;
mod rejoin;
pub mod strangers;
pub mod tokens;

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::caller::{Kind, Owner, SpiffeId};
use shorepass_core::enrolment::{Enrolment, JoinRefusal, Life, Origin, Taken};
use shorepass_core::id::EnrolmentId;
use shorepass_core::lease::{EndCause, Lease};
use shorepass_core::ledger::Change;
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::time::{after, for_people};
use shorepass_rpc::api::{Certificate, Enrolling as Presented, Ticket};
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_tls::Authority;
use shorepass_tls::CertificateRequest;

use self::join_tokens::{ShownJoinToken, join_refused};
use self::method::{Admission, Admits, Gives, Method, Rejected, Uses};
use self::pods::{PodRule, Pods, ShownPodToken};
use self::rejoin::Nonces;
use self::tokens::{ShownToken, TokenRules, Tokens};
use crate::mutants;
use crate::outside::{Outside, Refusing, ledger_refused};
use crate::revoke::Ends;

/// When an agent may ask again while no runner is enrolled: an operator has to act first.
const SECURITY_RETRY: Duration = Duration::from_secs(30);

/// Gives runners their identity.
#[derive(Clone)]
pub struct Enrolling {
    outside: Arc<Outside>,
    ends: Ends,
    authority: Arc<Authority>,
    trust_domain: TrustDomain,
    lifetime: Duration,
    rejoin_window: Duration,
    nonces: Arc<Nonces>,
    pods: Arc<Pods>,
    tokens: Arc<Tokens>,
}

/// How long certificates are good, and for what after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of a certificate.
    pub certificate: Duration,
    /// How long after its end a runner may still come back with it; 0: not at all.
    pub rejoin: Duration,
}

/// Who is let in besides those with join tokens.
pub struct Ways {
    /// Pods.
    pub pods: Vec<PodRule>,
    /// Machines with tokens of OIDC issuers.
    pub tokens: TokenRules,
}

/// A request for a first certificate whose parts are well-formed and fit together.
struct Asked {
    request: CertificateRequest,
    spiffe_id: SpiffeId,
}

/// What to commit, the enrolment that comes of it, and the leases of the one before, which end with it.
type Planned = (Vec<Change>, (Enrolment, Vec<Lease>));

impl Enrolling {
    /// Certificates of these lifetimes, signed by `authority`.
    pub fn new(
        outside: Arc<Outside>,
        ends: Ends,
        authority: Arc<Authority>,
        trust_domain: TrustDomain,
        lifetimes: Lifetimes,
        ways: Ways,
    ) -> Self {
        let nonces = Arc::new(Nonces::new(outside.entropy.as_ref()));
        let Lifetimes { certificate: lifetime, rejoin: rejoin_window } = lifetimes;
        let pods = Arc::new(Pods::new(ways.pods, outside.clock.clone()));
        let tokens = Arc::new(Tokens::new(ways.tokens, outside.clock.clone()));
        Self { outside, ends, authority, trust_domain, lifetime, rejoin_window, nonces, pods, tokens }
    }

    /// Exchanges what lets a machine in for a certificate.
    pub async fn enroll(&self, presented: Presented) -> Result<Certificate, Refused> {
        let name = presented.name.clone();
        match self.enroll_as(presented).await {
            Ok(certificate) => Ok(certificate),
            // Nobody fills the audit file faster than they may ask.
            Err(Rejected { refused, .. }) if refused.reason == Reason::RateLimited => Err(refused),
            Err(Rejected { refused, explanation }) => {
                let subject = name.as_str();
                let refusing = Refusing { caller: None, method: "Enroll", subject, refused, explanation };
                Err(self.outside.refuse(refusing).await)
            }
        }
    }

    async fn enroll_as(&self, presented: Presented) -> Result<Certificate, Rejected> {
        if let Some(problem) = self.outside.ledger.security().problem() {
            return Err(security_lost(problem).into());
        }
        let Presented { ticket, name, certificate_request_pem } = presented;
        let admits = self.method(ticket).look(&name).await?;
        let spiffe_id = SpiffeId { trust_domain: self.trust_domain.clone(), kind: Kind::Runner, name };
        let request = self.read_request(&certificate_request_pem, &spiffe_id)?;
        let asked = Asked { request, spiffe_id };
        let (enrolment, ending) = {
            let _alone = self.outside.gate.write().await; // two tickets for one name take turns
            self.ends.again_on_conflict(|| self.plan(admits.as_ref(), &asked)).await?
        };
        ending.into_iter().for_each(|lease| self.ends.cut_in_background(lease));
        let pod = enrolment.origin.as_ref().and_then(Origin::pod).map(tracing::field::display);
        tracing::info!(runner = %asked.spiffe_id, enrolment = %enrolment.id, pod, "runner enrolled");
        Ok(self.sign(&asked.request, &enrolment)?)
    }

    fn method(&self, ticket: Ticket) -> Box<dyn Method> {
        let outside = self.outside.clone();
        match ticket {
            Ticket::JoinToken(text) => {
                Box::new(ShownJoinToken { outside, authority: self.authority.clone(), text })
            }
            Ticket::Pod { cluster, token } => {
                Box::new(ShownPodToken { outside, pods: self.pods.clone(), cluster, token })
            }
            Ticket::Oidc(text) => Box::new(ShownToken { outside, tokens: self.tokens.clone(), text }),
        }
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

    /// One conditional commit: the ticket used up, the name given, whoever had it before cut off with its leases.
    fn plan(&self, admits: &dyn Admits, asked: &Asked) -> Result<Planned, Refused> {
        match admits.admit(asked)? {
            Admission::Again(id, uses) => self.plan_again(id, uses, asked),
            Admission::First(gives) => self.plan_first(gives, asked),
        }
    }

    fn plan_first(&self, gives: Gives, asked: &Asked) -> Result<Planned, Refused> {
        let now = self.outside.clock.now();
        let ledger = &self.outside.ledger;
        let id = EnrolmentId::generate(now, self.outside.entropy.as_ref());
        self.outside.not_banned(&Owner { spiffe_id: asked.spiffe_id.clone(), enrolment: id })?;
        let before = ledger.latest_enrolment(&asked.spiffe_id).map_err(|cause| ledger_refused(&cause))?;
        let before = before.filter(|enrolment| enrolment.replaced.is_none());
        // A banned enrolment holds its name no more.
        let holds = |enrolment: &&Enrolment| {
            let banned = self.outside.bans.on(&enrolment.owner()).is_some();
            (enrolment.is_live(now) || enrolment.cloned.is_some()) && !banned
        };
        if let Some(held) = before.as_ref().filter(holds).filter(|held| !gives.may_replace(held)) {
            return Err(match &held.cloned {
                Some(cloned) => lineage::cloned(&held.spiffe_id, cloned),
                None => enrolment_exists(&asked.spiffe_id.name, held),
            });
        }
        // A join token is an operator's word; what a machine gets by itself brings nothing back that an operator shut out.
        if let Some(before) = before.as_ref().filter(|_| gives.origin.is_some()) {
            self.outside.not_banned(&before.owner())?;
        }
        let Gives { labels, origin, uses, replaces: _ } = gives;
        let key = asked.request.key();
        let enrolment = Enrolment::first(id, asked.spiffe_id.clone(), labels, key, self.life()).by(origin);
        let taken = Taken { at: now, enrolment: enrolment.id, key };
        let mut changes: Vec<_> = uses.map(|uses| uses(taken)).into_iter().collect();
        let mut ending = Vec::new();
        if let Some(before) = before {
            let (ends, leases) = self.ends.ends_of_enrolment(&before, &EndCause::EnrolmentReplaced)?;
            changes.push(Change::EnrolmentReplaced { enrolment: before.replace(now) });
            changes.extend(ends);
            ending = leases;
        }
        changes.push(Change::Enrolled { enrolment: enrolment.clone() });
        Ok((mutants::altered(changes), (enrolment, ending)))
    }

    /// The reply to the first use got lost, and the same key asks again.
    fn plan_again(&self, id: EnrolmentId, uses: Option<Uses>, asked: &Asked) -> Result<Planned, Refused> {
        let now = self.outside.clock.now();
        let found = self.outside.ledger.enrolment(id).map_err(|cause| ledger_refused(&cause))?;
        let stands = |enrolment: &Enrolment| {
            enrolment.is_live(now)
                && enrolment.spiffe_id == asked.spiffe_id
                && enrolment.key == asked.request.key()
        };
        let enrolment = found.filter(stands).ok_or_else(|| join_refused(JoinRefusal::Used))?;
        self.outside.not_banned(&enrolment.owner())?;
        let again = enrolment.again(after(now, self.lifetime));
        let taken = Taken { at: now, enrolment: again.id, key: again.key };
        let mut changes: Vec<_> = uses.map(|uses| uses(taken)).into_iter().collect();
        changes.push(Change::Renewed { enrolment: again.clone(), at: now });
        Ok((changes, (again, Vec::new())))
    }

    /// Of a certificate that is signed now.
    fn life(&self) -> Life {
        let from = self.outside.clock.now();
        Life { from, until: after(from, self.lifetime) }
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

/// A used join token may look unused, and an enrolment that is in the way may be forgotten.
fn security_lost(problem: String) -> Refused {
    Refused::new(Reason::StoreUnavailable, problem).retry(SECURITY_RETRY)
}

fn enrolment_exists(name: &Name, live: &Enrolment) -> Refused {
    let message = format!(
        "runner {name} is enrolled until {}; to replace it, which ends its leases, use a join token made with --replace",
        for_people(live.certificate_expires)
    );
    Refused::new(Reason::EnrolmentExists, message)
}
