//! Tokens by which machines are let in: what an identity provider other than a CI system gives a machine, and the port behind
//! which they are verified.
//!
//! Which claims of whose tokens let in whom is [`MachineRule`]; claims are compared whole and byte by byte, and what is not
//! listed lets nobody in. The token itself is kept nowhere.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::claims::{Claim, Claims};
use crate::digest::Digest;
use crate::job_issuer::JobIssuer;
use crate::job_requirement::{RequirementError, check_values};
use crate::labels::Labels;
use crate::name::{Name, NamePattern};
use crate::time::Timestamp;

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineToken {
    /// Its issuer, by its name in the configuration.
    pub issuer: Name,
    /// Its `sub`.
    pub subject: String,
    /// Its claims, as far as the issuer's are known.
    pub claims: Claims,
    /// What it is known by when it comes again, as that of a job token.
    pub replay: Digest,
    /// Until when it could come again: its expiry and the leeway.
    pub spent_until: Timestamp,
}

/// Why a token lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineTokenError {
    /// It is not what an issuer that is trusted here gives out for this.
    #[error("{explanation}")]
    Rejected {
        /// For its bearer: what to do, and nothing of what else would have been taken.
        told: &'static str,
        /// For operators.
        explanation: String,
    },
    /// The keys of its issuer are not known and cannot be had.
    #[error("the keys of issuer {issuer} cannot be had: {explanation}")]
    Unavailable {
        /// Whose.
        issuer: Name,
        /// Why not.
        explanation: String,
        /// When to come back.
        retry_after: Duration,
    },
}

/// Verifies the tokens of machines.
#[async_trait]
pub trait MachineTokens: Send + Sync {
    /// What can be seen without asking anybody and without its signature: whose it says that it is, for whom and for when.
    fn look(&self, token: &str, now: Timestamp) -> Result<(), MachineTokenError>;

    /// The same, and that its issuer has made it. Whether it was used before is for the ledger.
    async fn verify(&self, token: &str, now: Timestamp) -> Result<MachineToken, MachineTokenError>;
}

/// Where no such issuer is configured: no token is taken.
#[derive(Clone, Copy, Debug)]
pub struct NoMachineIssuers;

#[async_trait]
impl MachineTokens for NoMachineIssuers {
    fn look(&self, _: &str, _: Timestamp) -> Result<(), MachineTokenError> {
        Err(none_is_taken())
    }

    async fn verify(&self, _: &str, _: Timestamp) -> Result<MachineToken, MachineTokenError> {
        Err(none_is_taken())
    }
}

fn none_is_taken() -> MachineTokenError {
    MachineTokenError::Rejected {
        told: "this issuer lets in no machines by tokens: its operators add an issuer to enrolment.oidc",
        explanation: "enrolment.oidc is not configured".to_owned(),
    }
}

/// Which tokens of one issuer let in whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineRule {
    claims: BTreeMap<String, Vec<Claim>>,
    /// The names that such machines may have as runners.
    pub runners: Vec<NamePattern>,
    /// The labels that they get.
    pub labels: Labels,
}

impl MachineRule {
    /// Checks the claims with the values that each may have; there has to be one.
    pub fn new(
        issuer: &JobIssuer,
        claims: Vec<(String, Vec<Claim>)>,
        runners: Vec<NamePattern>,
        labels: Labels,
    ) -> Result<Self, RequirementError> {
        let mut wanted = BTreeMap::new();
        for (claim, values) in claims {
            let refused = |problem| RequirementError { claim: Some(claim.clone()), problem };
            check_values(issuer, &claim, &values).map_err(refused)?;
            if wanted.insert(claim.clone(), values).is_some() {
                return Err(refused(format!("claim {claim} stands here twice")));
            }
        }
        if wanted.is_empty() {
            let problem = format!(
                "without a claim every token of {} lets a machine in: name what tells yours apart, such as sub",
                issuer.name()
            );
            return Err(RequirementError { claim: None, problem });
        }
        Ok(Self { claims: wanted, runners, labels })
    }

    /// The first claim that a token lacks, or that is another; none if it is one of these.
    pub fn unmet(&self, claims: &Claims) -> Option<&str> {
        let is_met = |claim: &str, values: &[Claim]| claims.get(claim).is_some_and(|is| values.contains(is));
        self.claims.iter().find(|(claim, values)| !is_met(claim, values)).map(|(claim, _)| claim.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::ClaimKind;
    use crate::job_issuer::KnownClaim;

    /// Claims of a token.
    type Shown = &'static [(&'static str, &'static str)];
    /// Claims of a rule.
    type Wanted = &'static [(&'static str, &'static [&'static str])];

    fn issuer() -> JobIssuer {
        let known = |name: &str, kind| KnownClaim {
            name: name.to_owned(),
            path: vec![name.to_owned()],
            kind,
            project: false,
        };
        let claims = vec![known("zone", ClaimKind::Text), known("groups", ClaimKind::Texts)];
        JobIssuer::of_machines(
            Name::parse("cloud").unwrap(),
            "https://id".to_owned(),
            "us".to_owned(),
            claims,
        )
        .unwrap()
    }

    fn text(text: &str) -> Claim {
        Claim::Text(text.to_owned())
    }

    fn rule(claims: &[(&str, &[&str])]) -> Result<MachineRule, RequirementError> {
        let values = |all: &[&str]| all.iter().map(|value| text(value)).collect();
        let claims = claims.iter().map(|(claim, all)| ((*claim).to_owned(), values(all))).collect();
        MachineRule::new(&issuer(), claims, vec![NamePattern::parse("prod-*").unwrap()], Labels::default())
    }

    #[test]
    fn all_claims_have_to_be_there_with_one_of_their_values() {
        let rule = rule(&[("sub", &["vm-1"]), ("zone", &["a", "b"])]).unwrap();
        let table: &[(Shown, Option<&str>)] = &[
            (&[("sub", "vm-1"), ("zone", "b")], None),
            (&[("sub", "vm-1"), ("zone", "c")], Some("zone")),
            (&[("sub", "vm-1")], Some("zone")),
            (&[("sub", "vm-11"), ("zone", "a")], Some("sub")),
            (&[("sub", "VM-1"), ("zone", "a")], Some("sub")),
            (&[], Some("sub")),
        ];
        for (claims, unmet) in table {
            let mut known = Claims::default();
            claims.iter().for_each(|(claim, value)| known.insert(claim, text(value)).unwrap());
            assert_eq!(rule.unmet(&known), *unmet, "{claims:?}");
        }
        let mut number = Claims::default();
        number.insert("sub", Claim::Number(1)).unwrap();
        assert_eq!(rule.unmet(&number), Some("sub"));
    }

    #[test]
    fn a_rule_that_tells_nobody_apart_is_none() {
        let table: &[(Wanted, &str)] = &[
            (&[], "every token of cloud"),
            (&[("role", &["x"])], "have no claim \"role\""),
            (&[("groups", &["x"])], "is a list"),
            (&[("sub", &[])], "no value of sub"),
            (&[("sub", &["a"]), ("sub", &["b"])], "twice"),
        ];
        for (claims, problem) in table {
            let refused = rule(claims).unwrap_err().to_string();
            assert!(refused.contains(problem), "{problem}: {refused}");
        }
    }
}
