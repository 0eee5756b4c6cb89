//! The certificates of a runner after the first: renewal, the first use of a renewal, and who uses a copy.
//!
//! Which certificate of its lineage a call was made with is asked before every call, of the record, in memory. The ledger is
//! written where that changes something: at the first use of a renewal, and when a clone is found. A first use that cannot be
//! recorded is let through and recorded at the next call: until then an older certificate counts, and nothing else is lost.
//!
//! Whoever finds a clone does not know which of the two is the copy: the enrolment ends, and nobody gets anything by it any
//! more, until an operator has looked.

use shorepass_core::caller::{Caller, Kind, Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{CertificateUse, CloneCause, Cloned, Enrolment, Renewal};
use shorepass_core::lease::{EndCause, Lease};
use shorepass_core::ledger::Change;
use shorepass_core::time::for_people;
use shorepass_rpc::api::Certificate;
use shorepass_rpc::refused::{Reason, Refused};

use super::Enrolling;
use crate::outside::ledger_refused;

/// What a call tells about its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// It follows the one before.
    FirstUse,
    /// There are two who have it.
    Clone,
}

impl Enrolling {
    /// Renews the certificate that the call was made with; idempotent for one key.
    pub async fn renew(&self, caller: &Caller, request_pem: &[u8]) -> Result<Certificate, Refused> {
        if !caller.is_own() {
            return Err(renewed_elsewhere(caller));
        }
        let request = self.read_request(request_pem, caller.spiffe_id())?;
        if request.key() == caller.key() {
            let why = "is for the key of the certificate that it comes with: make a new one for each renewal";
            return Err(Refused::field("certificate_request_pem", why));
        }
        let renewed = {
            let _together = self.outside.gate.read().await; // a ban comes before or after
            self.outside.not_banned(&caller.owner())?;
            let plan = || {
                let life = self.life();
                match self.enrolment_of(caller)?.renew(caller.key(), request.key(), life) {
                    Renewal::Granted(enrolment) => {
                        let change = Change::Renewed { enrolment: (*enrolment).clone(), at: life.from };
                        Ok((vec![change], Some(*enrolment)))
                    }
                    Renewal::Clone => Ok((Vec::new(), None)),
                }
            };
            self.ends.again_on_conflict(plan).await?
        };
        let Some(renewed) = renewed else {
            return Err(self.shut_out(&caller.owner(), caller.certificate(), CloneCause::Renewed).await);
        };
        tracing::info!(runner = %renewed.spiffe_id, "certificate renewed");
        self.sign(&request, &renewed)
    }

    /// Lets a call in, or says why not; or what has to be noted first ([`Self::note`]).
    pub fn admit(&self, caller: &Caller) -> Result<Option<Noticed>, Refused> {
        self.check(caller)?;
        let now = self.outside.clock.now();
        Ok(match caller.kind() {
            Kind::Runner if caller.is_own() => match self.enrolment_of(caller)?.use_of(caller.key(), now) {
                CertificateUse::InUse | CertificateUse::Overtaken => None,
                CertificateUse::First => Some(Noticed::FirstUse),
                CertificateUse::Older => Some(Noticed::Clone),
            },
            Kind::Runner | Kind::Platform | Kind::Operator | Kind::Issuer => None,
        })
    }

    /// Records what was noticed about the certificate of a call, and lets it in or not.
    pub async fn note(&self, caller: &Caller, noticed: Noticed) -> Result<(), Refused> {
        match noticed {
            Noticed::FirstUse => self.follow(caller).await,
            Noticed::Clone => {
                Err(self.shut_out(&caller.owner(), caller.certificate(), CloneCause::Used).await)
            }
        }
    }

    /// Whether the caller's CA is still trusted, its enrolment still stands and nobody has banned it. Platforms, operators and
    /// whoever has a certificate of a trust bundle have no enrolment in the ledger.
    ///
    /// Whoever was shut out may be forgotten where security state was lost, so that no certificate of before counts then.
    pub fn check(&self, caller: &Caller) -> Result<(), Refused> {
        if !self.outside.trust.trusts(caller) {
            return Err(authority_removed(caller));
        }
        self.outside.not_banned(&caller.owner())?;
        let security = self.outside.ledger.security();
        if let Some(problem) = security.problem().filter(|_| !security.admits(caller.issued())) {
            return Err(certificate_of_before(caller, &problem));
        }
        match caller.kind() {
            Kind::Runner if caller.is_own() => self.enrolment_of(caller).map(|_| ()),
            Kind::Runner | Kind::Platform | Kind::Operator | Kind::Issuer => Ok(()),
        }
    }

    fn enrolment_of(&self, caller: &Caller) -> Result<Enrolment, Refused> {
        self.standing_of(&caller.owner())
    }

    /// The enrolment of this owner, unless it is over.
    pub(super) fn standing_of(&self, owner: &Owner) -> Result<Enrolment, Refused> {
        let found = self.outside.ledger.enrolment(owner.enrolment).map_err(|cause| ledger_refused(&cause))?;
        standing(found, &owner.spiffe_id)
    }

    /// Records the first use of a renewal.
    async fn follow(&self, caller: &Caller) -> Result<(), Refused> {
        let plan = || {
            let (enrolment, now) = (self.enrolment_of(caller)?, self.outside.clock.now());
            match enrolment.use_of(caller.key(), now) {
                CertificateUse::First => {
                    let enrolment = enrolment.follow(caller.key(), now);
                    Ok((vec![Change::RenewalUsed { enrolment, at: now }], ()))
                }
                // Another call was faster.
                CertificateUse::InUse | CertificateUse::Overtaken | CertificateUse::Older => {
                    Ok((Vec::new(), ()))
                }
            }
        };
        let _together = self.outside.gate.read().await; // a ban comes before or after
        match self.ends.again_on_conflict(plan).await {
            Err(refused) if unrecorded(refused.reason) => {
                tracing::warn!(runner = %caller.spiffe_id(), error = %refused, "the first use of a renewed certificate was not recorded");
                Ok(())
            }
            result => result,
        }
    }

    /// Ends the enrolment of a runner of whose identity there is a copy, with all that hangs on it; what both are told.
    pub(super) async fn shut_out(&self, owner: &Owner, certificate: Digest, cause: CloneCause) -> Refused {
        let _alone = self.outside.gate.write().await; // no lease begins between the end and the list of those to end
        let plan = || {
            let at = self.outside.clock.now();
            let found = Cloned { at, cause, certificate };
            let over = self.standing_of(owner)?.found_cloned(found.clone());
            let (ends, leases) = self.ends.ends_of_enrolment(&over, &EndCause::EnrolmentCloned)?;
            let mut changes = vec![Change::EnrolmentCloned { enrolment: over }];
            changes.extend(ends);
            Ok((changes, (found, leases)))
        };
        match self.ends.again_on_conflict(plan).await {
            Ok((found, leases)) => {
                self.tell(owner, &found, &leases);
                leases.into_iter().for_each(|lease| self.ends.cut_in_background(lease));
                cloned(&owner.spiffe_id, &found)
            }
            // Another call has found it, or it cannot be recorded: then it is found again.
            Err(refused) => refused,
        }
    }

    fn tell(&self, owner: &Owner, found: &Cloned, leases: &[Lease]) {
        let connections = self.outside.connections.close(|other| other == owner);
        metrics::counter!("shorepass_runner_clones_total").increment(1);
        tracing::error!(
            runner = %owner.spiffe_id, enrolment = %owner.enrolment, cause = found.cause.describe(),
            certificate = %found.certificate, leases = leases.len(), connections,
            "a runner's identity is in use at two places: both are shut out; find out where the copy is, and enrol \
             the runner with a join token made with --replace"
        );
    }
}

/// Whether nothing was recorded, and nothing was decided.
fn unrecorded(reason: Reason) -> bool {
    matches!(reason, Reason::StoreUnavailable | Reason::AuditUnavailable)
}

/// The enrolment that was found for a certificate of this runner, unless it is over.
fn standing(found: Option<Enrolment>, runner: &SpiffeId) -> Result<Enrolment, Refused> {
    match found.filter(|enrolment| enrolment.spiffe_id == *runner) {
        Some(Enrolment { replaced: None, cloned: Some(found), .. }) => Err(cloned(runner, &found)),
        Some(enrolment) if enrolment.replaced.is_none() => Ok(enrolment),
        Some(_) | None => {
            let message = "this runner's enrolment was replaced or is not known here; enrol it again with a new join token";
            Err(Refused::new(Reason::EnrolmentEnded, message))
        }
    }
}

/// What both halves of a cloned runner are told, and who wants to enrol in its place.
pub(super) fn cloned(runner: &SpiffeId, found: &Cloned) -> Refused {
    let since = for_people(found.at);
    let message = format!(
        "the identity of {runner} was found in use at two places at {since}, and both are shut out: an operator has to \
         find out where the copy is, and then to make a join token with --replace"
    );
    Refused::new(Reason::RunnerCloned, message).with("since", found.at.to_string())
}

fn authority_removed(caller: &Caller) -> Refused {
    let message = format!(
        "the CA that has signed the certificate of {} is not trusted here any more: connect with a renewed one, or enrol \
         again",
        caller.spiffe_id()
    );
    Refused::new(Reason::CertificateExpired, message)
}

fn renewed_elsewhere(caller: &Caller) -> Refused {
    let message = format!(
        "Renew is for runners that this issuer has enrolled: the certificate of {} is renewed by the PKI that made it",
        caller.spiffe_id()
    );
    Refused::new(Reason::CallerKind, message)
}

fn certificate_of_before(caller: &Caller, problem: &str) -> Refused {
    let renewal = match caller.kind() {
        Kind::Operator | Kind::Platform if caller.is_own() => {
            "; a new identity made with `shorepass-issuer identity create` is accepted"
        }
        Kind::Runner if caller.is_own() => "",
        Kind::Runner | Kind::Operator | Kind::Platform | Kind::Issuer => {
            "; a certificate that is made from now on is accepted"
        }
    };
    Refused::new(Reason::EnrolmentEnded, format!("{problem}{renewal}"))
}
