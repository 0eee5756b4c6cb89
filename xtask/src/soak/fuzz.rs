//! `soak fuzz`: what a peer or a document can bring, with other inputs than the normal tests have time for, each for a while.
//!
//! Two kinds, and both also run with the normal tests. A target is bolero's: files that are kept beside it in `__fuzz__`, as
//! they are, and changed at random. A property is proptest's: inputs of a grammar, shrunk when one fails, and kept in
//! `proptest-regressions`. Neither looks at which code an input reaches.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::Owned;
use crate::{cargo, signals};

/// The targets: what is fuzzed, the package, and the test.
const TARGETS: [(&str, &str, &str); 5] = [
    ("role documents", "shorepass-config", "role::tests::target::role_documents"),
    ("job tokens", "shorepass-oidc", "tests::target::job_tokens"),
    ("certificate requests", "shorepass-tls", "tests::targets::certificate_requests"),
    ("the names in certificates", "shorepass-tls", "tests::targets::certificate_names"),
    ("join tokens", "shorepass-tls", "tests::targets::join_tokens"),
];

/// The properties: what they are about, the package, and what their names have in common.
const PROPERTIES: [(&str, &str, &str); 4] = [
    ("tokens with other claims, key sets", "shorepass-oidc", "tests::fuzz::"),
    ("conditions", "shorepass-conditions", "tests::oracle::"),
    ("damaged documents and configs", "shorepass-config", "makes_the_reader_panic"),
    ("certificates", "shorepass-tls", "tests::fuzz::"),
];

/// The inputs of one run of properties, which are run again until their time is over.
const CASES: &str = "2000";

pub(super) fn run(seconds: u32) -> Result<()> {
    signals::watch()?;
    let time = Duration::from_secs(seconds.into());
    for (what, package, target) in TARGETS {
        // bolero tells how many inputs there were.
        let mut command = tests(package, &["--nocapture", "--exact", target])?;
        command.env("BOLERO_RANDOM_TEST_TIME_MS", time.as_millis().to_string());
        // Without it the number of the normal tests would end it before.
        command.env("BOLERO_RANDOM_ITERATIONS", usize::MAX.to_string());
        finish(what, command)?;
        println!("{what}: done");
    }
    for (what, package, properties) in PROPERTIES {
        tests(package, &[properties])?;
        let started = Instant::now();
        let mut runs = 0;
        while runs == 0 || started.elapsed() < time {
            let mut command = tests(package, &[properties])?;
            command.env("PROPTEST_CASES", CASES);
            finish(what, command)?;
            runs += 1;
        }
        let took = started.elapsed().as_secs();
        println!("{what}: {runs} times {CASES} inputs for each property, in {took} s");
    }
    Ok(())
}

/// The tests of that name in a package's library; an error if there is none, which would pass, too.
fn tests(package: &str, named: &[&str]) -> Result<Command> {
    let start = ["test", "--quiet", "--package", package, "--lib", "--"];
    cargo::run(&["test", "--package", package, "--lib", "--no-run"])?;
    let listed = cargo::ask(&[&start, named, &["--list"]].concat())?;
    ensure!(listed.contains(": test"), "{package} has no test {}", named.join(" "));
    Ok(cargo::command(&[&start, named].concat()))
}

fn finish(what: &str, command: Command) -> Result<()> {
    Owned::spawn_visible(what, command)?
        .finish(|_| ())
        .with_context(|| format!("{what}: an input was found that breaks a property; it is shown above"))
}
