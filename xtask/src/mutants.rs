//! `cargo xtask mutants`: whether the tests find the mistakes that they are there to find.
//!
//! The issuer is built with its feature `mutants` in the same way as for the tests; one variable chooses the mistake.
//! For each, the scenarios that should notice run first. A mutant that all of them let pass survives, and that is an error.

use anyhow::{Result, ensure};

use crate::control_plane::Release;
use crate::{environment, signals, test};

/// A mistake, and which scenarios are asked about it.
const MUTANTS: [(&str, &[&str]); 11] = [
    ("acknowledge-before-fsync", &["crashes::"]),
    ("skip-audit-line", &["issuing::", "crashes::"]),
    ("cut-before-ending", &["crashes::"]),
    ("new-anchor-on-refresh", &["refresh::", "crashes::"]),
    ("ignore-blocks", &["revocation::"]),
    ("skip-owner-check", &["issuing::", "revocation::"]),
    ("join-token-twice", &["at_once::"]),
    ("forget-pending", &["crashes::", "restart::"]),
    ("unpaired-refusal", &["receipts::"]),
    ("ignore-lag", &["receipts::lagging::"]),
    ("ask-one-server", &["receipts::lagging::"]),
];

/// Run the tests against an issuer that makes a mistake, once for each mistake that is known.
#[derive(clap::Args)]
pub(crate) struct Command {
    /// Only these mistakes.
    #[arg(value_name = "MUTANT")]
    names: Vec<String>,
    /// The Kubernetes to run it on: the default and the oldest supported one. [default: 1.36]
    #[arg(long, value_name = "RELEASE")]
    kubernetes: Option<Release>,
}

impl Command {
    /// Runs it; an error if a mutant survives.
    pub(crate) fn run(self) -> Result<()> {
        signals::watch()?;
        let known = MUTANTS.map(|(name, _)| name);
        for name in &self.names {
            ensure!(
                known.contains(&name.as_str()),
                "there is no mutant {name}; there are {}",
                known.join(", ")
            );
        }
        let mut survivors = Vec::new();
        for (name, scenarios) in MUTANTS {
            if !self.names.is_empty() && !self.names.iter().any(|wanted| wanted == name) {
                continue;
            }
            signals::check()?;
            println!("== {name}");
            let variables = vec![(environment::MUTANT, name.into())];
            let tests = test::Command::some(scenarios, variables, self.kubernetes).with_mutants();
            let survives = tests.execute()?.verdict().is_ok();
            println!("== {name}: {}", if survives { "SURVIVES" } else { "found" });
            survivors.extend(survives.then_some(name));
        }
        ensure!(survivors.is_empty(), "no test finds {}", survivors.join(", "));
        Ok(())
    }
}
