//! Tokens of machines that are known beforehand: what verification says of each is written down, not found out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::claims::{Claim, Claims};
use shorepass_core::digest::Digest;
use shorepass_core::job_issuer::{JobIssuer, JobIssuerError, KnownClaim};
use shorepass_core::machine_token::{MachineToken, MachineTokenError, MachineTokens};
use shorepass_core::name::Name;
use shorepass_core::time::{Timestamp, after};

/// Verifies what it was told of, and counts how often a signature is checked.
#[derive(Debug, Default)]
pub struct KnownMachines(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, Result<MachineToken, MachineTokenError>>,
    verified: usize,
}

impl KnownMachines {
    /// None yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What verification says of a token from now on.
    pub fn put(&self, token: &str, verified: Result<MachineToken, MachineTokenError>) {
        self.state().known.insert(token.to_owned(), verified);
    }

    /// How many signatures were checked.
    pub fn verified(&self) -> usize {
        self.state().verified
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl MachineTokens for KnownMachines {
    fn look(&self, token: &str, _: Timestamp) -> Result<(), MachineTokenError> {
        let known = self.state().known.contains_key(token);
        let unknown = || MachineTokenError::Rejected {
            told: "this is no token",
            explanation: "it is not known".to_owned(),
        };
        if known { Ok(()) } else { Err(unknown()) }
    }

    async fn verify(&self, token: &str, now: Timestamp) -> Result<MachineToken, MachineTokenError> {
        self.look(token, now)?;
        let mut state = self.state();
        state.verified += 1;
        state.known[token].clone()
    }
}

/// An issuer called `cloud`, whose tokens have a zone.
pub fn cloud() -> Result<JobIssuer, JobIssuerError> {
    let name =
        Name::parse("cloud").map_err(|cause| JobIssuerError { field: "name", problem: cause.to_string() })?;
    let zone = KnownClaim {
        name: "zone".to_owned(),
        path: vec!["zone".to_owned()],
        kind: shorepass_core::claims::ClaimKind::Text,
        project: false,
    };
    let (url, audience) = ("https://id.example.org", "https://issuer.example.org/machines");
    JobIssuer::of_machines(name, url.to_owned(), audience.to_owned(), vec![zone])
}

/// What a token of that issuer says, which is known by `id` and lives five minutes.
pub fn machine(id: &str, subject: &str, zone: &str, now: Timestamp) -> MachineToken {
    let mut claims = Claims::default();
    for (claim, value) in [("sub", subject), ("zone", zone)] {
        claims.insert(claim, Claim::Text(value.to_owned())).expect("claims of tests are fit to be read");
    }
    MachineToken {
        issuer: Name::parse("cloud").expect("it is in the grammar of names"),
        subject: subject.to_owned(),
        claims,
        replay: Digest::of_bytes(id.as_bytes()),
        spent_until: after(now, Duration::from_secs(5 * 60)),
    }
}
