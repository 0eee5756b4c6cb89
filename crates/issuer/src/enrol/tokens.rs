//! Enrolment by an OIDC token of an issuer that the config trusts for it: its claims say which names and labels.
//!
//! The use of a token spends it, in the commit that lets the machine in: whoever shows it again is refused, also after a
//! restart. What can be seen without cryptography is looked at first, and the rest is bounded
//! ([`strangers`](super::strangers)).
//!
//! Nobody is replaced: a token of the same subject may be another machine's. To give a name anew, an operator makes a join token
//! with `--replace`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use shorepass_core::enrolment::{Enrolment, Origin};
use shorepass_core::job::{SpentBy, SpentToken};
use shorepass_core::labels::Labels;
use shorepass_core::ledger::Change;
use shorepass_core::machine_token::{MachineRule, MachineToken, MachineTokenError, MachineTokens};
use shorepass_core::name::Name;
use shorepass_core::time::Clock;
use shorepass_rpc::refused::{Reason, Refused};
use zeroize::Zeroizing;

use super::Asked;
use super::method::{Admission, Admits, Gives, Method, Rejected, Replaces, Uses};
use super::strangers::Strangers;
use crate::outside::{Outside, ledger_refused};

/// Whose tokens let in whom, and who verifies them.
pub struct TokenRules {
    /// By the issuer's name.
    pub rules: BTreeMap<Name, Vec<MachineRule>>,
    /// Who verifies them.
    pub verifier: Arc<dyn MachineTokens>,
}

/// All rules, and how often a signature is checked.
pub(super) struct Tokens {
    known: TokenRules,
    strangers: Strangers,
}

impl Tokens {
    pub(super) fn new(known: TokenRules, clock: Arc<dyn Clock>) -> Self {
        Self { known, strangers: Strangers::new(clock) }
    }

    /// The labels of the first rule that is for such a token and such a name.
    fn labels(&self, token: &MachineToken, name: &Name) -> Result<Labels, Rejected> {
        let rules = self.known.rules.get(&token.issuer).map(Vec::as_slice).unwrap_or_default();
        let missed: Vec<&str> = rules.iter().filter_map(|rule| rule.unmet(&token.claims)).collect();
        if missed.len() == rules.len() {
            return Err(no_rule(token, &missed));
        }
        let mut rules = rules.iter().filter(|rule| rule.unmet(&token.claims).is_none());
        let rule = rules.find(|rule| rule.runners.iter().any(|runners| runners.matches(name)));
        let rule = rule.ok_or_else(|| {
            let message = format!(
                "machines with this token may not be called {name}: correct `name` in the agent's config, or \
                 enrolment.oidc in the issuer's"
            );
            Refused::new(Reason::RunnerNameNotAllowed, message)
        })?;
        Ok(rule.labels.clone())
    }
}

fn no_rule(token: &MachineToken, missed: &[&str]) -> Rejected {
    let told = "the claims of this token let no machine in: ask the operators for a rule in enrolment.oidc of the issuer's \
                config";
    let claims: Vec<_> = token.claims.iter().map(|(claim, value)| format!("{claim}={value}")).collect();
    let explanation = format!(
        "the token of {} has {}; the first claim that each rule misses: {}",
        token.issuer,
        claims.join(" "),
        missed.join(", ")
    );
    rejected(told, explanation)
}

/// A token that was shown.
pub(super) struct ShownToken {
    pub(super) outside: Arc<Outside>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) text: Zeroizing<String>,
}

#[async_trait]
impl Method for ShownToken {
    async fn look(&self, name: &Name) -> Result<Box<dyn Admits>, Rejected> {
        let verifier = &self.tokens.known.verifier;
        let now = self.outside.clock.now();
        verifier.look(&self.text, now).map_err(token_refused)?;
        let _turn = self.tokens.strangers.turn()?;
        let token = verifier.verify(&self.text, now).await.map_err(token_refused)?;
        let labels = self.tokens.labels(&token, name)?;
        Ok(Box::new(KnownToken { outside: self.outside.clone(), labels, token }))
    }
}

struct KnownToken {
    outside: Arc<Outside>,
    labels: Labels,
    token: MachineToken,
}

impl KnownToken {
    fn origin(&self) -> Origin {
        let MachineToken { issuer, subject, .. } = &self.token;
        Origin::Token { issuer: issuer.clone(), subject: subject.clone() }
    }

    fn spends(&self) -> Uses {
        let MachineToken { replay, spent_until: until, .. } = self.token;
        Box::new(move |taken| {
            let spent = SpentToken { replay, by: SpentBy::Enrolment(taken.enrolment), until };
            Change::EnrolmentTokenTaken { spent, at: taken.at }
        })
    }

    /// The agent keeps its key until it is answered: a reply that got lost is given again to it alone.
    fn is_its_own(&self, held: &Enrolment, asked: &Asked) -> bool {
        held.is_live(self.outside.clock.now())
            && held.spiffe_id == asked.spiffe_id
            && held.key == asked.request.key()
            && held.origin == Some(self.origin())
    }
}

impl Admits for KnownToken {
    fn admit(&self, asked: &Asked) -> Result<Admission, Refused> {
        let ledger = &self.outside.ledger;
        let failed = |cause| ledger_refused(&cause);
        if let Some(spent) = ledger.spent_token(self.token.replay).map_err(failed)? {
            let held = match spent.by {
                SpentBy::Enrolment(id) => ledger.enrolment(id).map_err(failed)?,
                SpentBy::Job(_) => None,
            };
            let held = held.filter(|held| self.is_its_own(held, asked)).ok_or_else(used)?;
            return Ok(Admission::Again(held.id, None));
        }
        // By the time it asks again, its file may hold the next token.
        let held = ledger.latest_enrolment(&asked.spiffe_id).map_err(failed)?;
        Ok(match held.filter(|held| self.is_its_own(held, asked)) {
            Some(held) => Admission::Again(held.id, Some(self.spends())),
            None => Admission::First(Gives {
                labels: self.labels.clone(),
                origin: Some(self.origin()),
                replaces: Replaces::Nothing,
                uses: Some(self.spends()),
            }),
        })
    }
}

fn used() -> Refused {
    let message = "this token has let a machine in already: get a new one for each enrolment, and look who else can read it \
                   if you did not use it";
    Refused::new(Reason::EnrolmentTokenUsed, message)
}

fn token_refused(cause: MachineTokenError) -> Rejected {
    match cause {
        MachineTokenError::Rejected { told, explanation } => rejected(told, explanation),
        MachineTokenError::Unavailable { ref issuer, retry_after, .. } => {
            let message = format!(
                "the key of this token is not among those of issuer {issuer} that are known, and they cannot be fetched again \
                 at the moment: try again later"
            );
            let refused = Refused::new(Reason::EnrolmentIssuerUnavailable, message).retry(retry_after);
            Rejected { refused, explanation: cause.to_string() }
        }
    }
}

fn rejected(told: &str, explanation: String) -> Rejected {
    Rejected { refused: Refused::new(Reason::EnrolmentTokenRejected, told), explanation }
}
