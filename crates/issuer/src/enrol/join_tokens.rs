//! Enrolment by a one-time join token: its pattern says which names, its labels are the runner's.

use std::sync::Arc;

use async_trait::async_trait;
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{Join, JoinRefusal, JoinToken};
use shorepass_core::ledger::Change;
use shorepass_core::name::Name;
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_tls::{Authority, JoinTokenText};
use zeroize::Zeroizing;

use super::Asked;
use super::method::{Admission, Admits, Gives, Method, Rejected, Replaces};
use crate::outside::{Outside, ledger_refused};

/// A join token that was shown.
pub(super) struct ShownJoinToken {
    pub(super) outside: Arc<Outside>,
    /// Whose public key our join tokens carry.
    pub(super) authority: Arc<Authority>,
    pub(super) text: Zeroizing<String>,
}

#[async_trait]
impl Method for ShownJoinToken {
    async fn look(&self, _: &Name) -> Result<Box<dyn Admits>, Rejected> {
        let unknown = |why: String| Refused::new(Reason::JoinTokenUnknown, why);
        let text = JoinTokenText::parse(&self.text).map_err(|cause| unknown(cause.to_string()))?;
        if !self.authority.is_pinned_by(text.ca()) {
            let why = "this join token was made by another issuer; ask this one's operators";
            return Err(unknown(why.to_owned()).into());
        }
        let known = KnownJoinToken { outside: self.outside.clone(), digest: text.secret_digest() };
        known.record()?; // nobody without a join token gets as far as the gate
        Ok(Box::new(known))
    }
}

struct KnownJoinToken {
    outside: Arc<Outside>,
    digest: Digest,
}

impl KnownJoinToken {
    fn record(&self) -> Result<JoinToken, Refused> {
        let found = self.outside.ledger.join_token(self.digest).map_err(|cause| ledger_refused(&cause))?;
        found.ok_or_else(|| {
            Refused::new(
                Reason::JoinTokenUnknown,
                "no such join token was made here; ask an operator for one",
            )
        })
    }
}

impl Admits for KnownJoinToken {
    fn admit(&self, asked: &Asked) -> Result<Admission, Refused> {
        let join_token = self.record()?;
        let now = self.outside.clock.now();
        match join_token.admits(&asked.spiffe_id.name, asked.request.key(), now).map_err(join_refused)? {
            Join::Again(id) => Ok(Admission::Again(id, None)),
            Join::First => Ok(Admission::First(Gives {
                labels: join_token.labels.clone(),
                origin: None,
                replaces: if join_token.replace { Replaces::Any } else { Replaces::Nothing },
                uses: Some(Box::new(|taken| Change::JoinTokenTaken { join_token: join_token.take(taken) })),
            })),
        }
    }
}

pub(super) fn join_refused(refusal: JoinRefusal) -> Refused {
    let reason = match refusal {
        JoinRefusal::Used => Reason::JoinTokenUsed,
        JoinRefusal::Expired(_) => Reason::JoinTokenExpired,
        JoinRefusal::Name { .. } => Reason::RunnerNameNotAllowed,
    };
    Refused::new(reason, refusal.to_string())
}
