//! `cargo xtask ci`: what must hold before a change lands, the quick checks first. `.ci/run` calls it.
//!
//! It stops at the first failure and says how long each step took. The tests come last, so that their count is the
//! last line.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{cargo, deny, protobuf, signals, test, tidy};

type Step = (&'static str, fn() -> Result<()>);

/// All but the tests.
const STEPS: &[Step] = &[
    ("dependencies", || cargo::run(&["fetch", "--locked"])),
    ("format", || cargo::run(&["fmt", "--all", "--check"])),
    ("tidy", tidy::run),
    ("proto", protobuf::check),
    ("deny", deny::run),
    ("clippy", || cargo::run(&CLIPPY)),
];

/// With the code that only test builds have.
const CLIPPY: [&str; 8] = [
    "clippy",
    "--workspace",
    "--all-targets",
    "--features",
    "shorepass-issuer/fail-points,shorepass-issuer/mutants",
    "--",
    "--deny",
    "warnings",
];

/// Runs all steps.
pub(crate) fn run() -> Result<()> {
    signals::watch()?;
    let started = Instant::now();
    let mut times = Vec::new();
    for (name, step) in STEPS {
        times.push(timed(name, *step)?.1);
    }
    let (report, time) = timed("tests", || test::Command::default().execute())?;
    times.push(time);
    println!("== {}; {} in all", times.join(", "), minutes(started.elapsed()));
    println!("{}", report.count);
    report.verdict()
}

/// Runs a step; gives what came of it and a line about how long it took.
fn timed<T>(name: &str, step: impl FnOnce() -> Result<T>) -> Result<(T, String)> {
    println!("== {name}");
    let started = Instant::now();
    let outcome = step().with_context(|| format!("the step \"{name}\" failed"))?;
    let time = format!("{name} {}", minutes(started.elapsed()));
    println!("== {time}");
    Ok((outcome, time))
}

fn minutes(duration: Duration) -> String {
    format!("{} min {:02} s", duration.as_secs() / 60, duration.as_secs() % 60)
}
