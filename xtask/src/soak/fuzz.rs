//! `soak fuzz`: the properties of what a peer or a document can bring, with other inputs, each for a while.
//!
//! They are proptest's, which also run with the normal tests: it makes inputs of the grammar, shrinks what fails, and keeps it
//! in `proptest-regressions`, which is what a corpus is for here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::Owned;
use crate::{cargo, signals};

/// What is fuzzed: the package, and the name that its properties have in common.
const TARGETS: [(&str, &str, &str); 4] = [
    ("job tokens and key sets", "shorepass-oidc", "tests::fuzz::"),
    ("conditions", "shorepass-conditions", "tests::oracle::"),
    ("role documents and configs", "shorepass-config", "makes_the_reader_panic"),
    ("join tokens, certificate requests, certificates and their names", "shorepass-tls", "tests::fuzz::"),
];

/// The inputs of one run; a target is run again until its time is over.
const CASES: &str = "2000";

pub(super) fn run(seconds: u32) -> Result<()> {
    signals::watch()?;
    let time = Duration::from_secs(seconds.into());
    for (what, package, properties) in TARGETS {
        cargo::run(&["test", "--package", package, "--lib", "--no-run"])?;
        let started = Instant::now();
        let mut runs = 0;
        while runs == 0 || started.elapsed() < time {
            let mut command =
                cargo::command(&["test", "--quiet", "--package", package, "--lib", "--", properties]);
            command.env("PROPTEST_CASES", CASES);
            Owned::spawn_visible(package, command)?.finish(|_| ()).with_context(|| {
                format!("{what}: an input was found that breaks a property; it is shown above")
            })?;
            runs += 1;
        }
        println!(
            "{what}: {runs} times {CASES} inputs for each property, in {} s",
            started.elapsed().as_secs()
        );
    }
    Ok(())
}
