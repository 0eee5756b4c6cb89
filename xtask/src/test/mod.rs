//! `cargo xtask test`: all tests, with everything that they need, and a count at the end that can be believed.
//!
//! Cargo compiles, xtask runs the test programs: so everything is compiled once, with one set of features, and the
//! integration tests get a control plane of their own. The daemons under test are from that same build.
//!
//! None is skipped silently: without a filter it is an error if one is ignored or filtered out or if no integration
//! test ran. What the tests leave behind is an error, too.

mod left_over;
mod objects;
mod session;
mod suites;
mod tally;

use std::ffi::OsString;
use std::{error, fmt};

use anyhow::{Context, Result};

use crate::control_plane::{self, Options, Release};
use session::Session;
use suites::{Suite, Suites};
use tally::Tally;

/// What the control plane of the tests is called.
const CONTROL_PLANE: &str = "test";

/// The features of the issuer under test: it can be told where to die.
const FAIL_POINTS: &str = "shorepass-issuer/fail-points";

/// And which mistakes to make.
const MUTANTS: &str = "shorepass-issuer/fail-points,shorepass-issuer/mutants";

/// Build the daemons, start a Kubernetes, and run all tests.
///
/// The last line says how many passed and failed. The first run builds Kubernetes from source with Go, about six
/// minutes on two cores. KUBEBUILDER_ASSETS, when set, names a folder with kube-apiserver, etcd and kubectl to use
/// instead.
#[derive(Default, clap::Args)]
pub(crate) struct Command {
    /// The Kubernetes to test with: the default and the oldest supported one. [default: 1.36]
    #[arg(long, value_name = "RELEASE")]
    kubernetes: Option<Release>,
    /// What the test programs get, unchanged: parts of names to run only those tests, or options such as --nocapture.
    #[arg(last = true, value_name = "FILTER")]
    filters: Vec<OsString>,
    /// What the programs get besides.
    #[arg(skip)]
    variables: Vec<Variable>,
    /// Whether the issuer can be told to make mistakes.
    #[arg(skip)]
    mutants: bool,
}

/// A variable and its value.
type Variable = (&'static str, OsString);

/// Tests failed or did not run. All is said already.
#[derive(Debug)]
pub(crate) struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tests did not pass")
    }
}

impl error::Error for Failed {}

impl Command {
    /// Only the tests whose name has one of these in it, with these variables.
    pub(crate) fn some(filters: &[&str], variables: Vec<Variable>, kubernetes: Option<Release>) -> Self {
        Self { kubernetes, filters: filters.iter().map(OsString::from).collect(), variables, mutants: false }
    }

    /// The same, against an issuer that can be told to make mistakes.
    pub(crate) fn with_mutants(self) -> Self {
        Self { mutants: true, ..self }
    }

    /// Runs the tests and prints the count as the last line.
    pub(crate) fn run(self) -> Result<()> {
        let report = self.execute()?;
        println!("{}", report.count);
        report.verdict()
    }

    /// Runs the tests and prints everything but the count.
    pub(crate) fn execute(self) -> Result<Report> {
        // Before anything is compiled: without Go this fails, and then it should fail now.
        control_plane::prepare(self.kubernetes, false)?;
        let suites = suites::build(if self.mutants { MUTANTS } else { FAIL_POINTS })?;
        let session = Session::start(self.filters, self.variables)?;
        let outcome = run_all(&session, &suites, self.kubernetes)?;
        let problems = outcome.problems(session.is_filtered());
        for problem in &problems {
            println!("problem: {problem}");
        }
        Ok(Report { count: outcome.total().to_string(), success: problems.is_empty() })
    }
}

/// What is to be said at the very end.
pub(crate) struct Report {
    /// `N passed, N failed`.
    pub(crate) count: String,
    success: bool,
}

impl Report {
    /// An error if the run was no success.
    pub(crate) fn verdict(&self) -> Result<()> {
        if self.success { Ok(()) } else { Err(Failed.into()) }
    }
}

/// What came of a run.
#[derive(Default)]
struct Outcome {
    /// Of the tests that need no control plane.
    units: Tally,
    /// Of the integration tests.
    integration: Tally,
    /// What else is wrong.
    complaints: Vec<String>,
}

impl Outcome {
    fn total(&self) -> Tally {
        self.units + self.integration
    }

    /// Why the run is no success; nothing if it is one.
    fn problems(&self, filtered: bool) -> Vec<String> {
        let total = self.total();
        let mut problems = self.complaints.clone();
        if total.failed > 0 {
            problems.push(format!("{} tests failed", total.failed));
        }
        if !filtered && self.integration.ran() == 0 {
            problems.push("no integration test ran".to_owned());
        }
        if !filtered && total.ignored + total.filtered_out > 0 {
            problems.push(format!(
                "{} tests were ignored and {} filtered out, and nobody asked for that",
                total.ignored, total.filtered_out
            ));
        }
        if filtered && total.ran() == 0 {
            problems.push("no test matches the filter".to_owned());
        }
        problems
    }
}

/// Goes on after a failure: the count at the end is of all tests.
fn run_all(session: &Session, suites: &Suites, kubernetes: Option<Release>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for suite in &suites.units {
        outcome.units += session.run_quietly(suite)?;
    }
    outcome.units += session.run_examples_in_docs()?;
    match &suites.integration[..] {
        [suite] if session.has_tests(suite)? => run_integration(session, suite, kubernetes, &mut outcome)?,
        [_] => (),
        others => outcome
            .complaints
            .push(format!("there is one integration test program, and not {}", others.len())),
    }
    outcome.complaints.extend(session.left_over()?);
    Ok(outcome)
}

fn run_integration(
    session: &Session,
    suite: &Suite,
    kubernetes: Option<Release>,
    outcome: &mut Outcome,
) -> Result<()> {
    // Without controllers: what a test leaves in a namespace that it deletes is not tidied up behind it.
    let options = Options { name: CONTROL_PLANE.to_owned(), release: kubernetes, controllers: false };
    let mut control_plane = control_plane::start(&options)?;
    let facts = control_plane.facts().clone();
    let before = objects::list(&facts)?;
    println!("integration tests on Kubernetes {}", facts.kubernetes);
    let servers: Vec<u32> = facts.processes.iter().map(|(_, id)| *id).collect();
    outcome.integration =
        session.run_openly(suite, facts.environment(), &servers, || control_plane.check())?;
    outcome.complaints.extend(objects::left_over(&facts, &before)?);
    control_plane.stop().context("cannot stop the control plane of the tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(units: Tally, integration: Tally) -> Outcome {
        Outcome { units, integration, complaints: Vec::new() }
    }

    fn passed(passed: u64) -> Tally {
        Tally { passed, ..Tally::default() }
    }

    #[test]
    fn a_run_where_all_passed_is_a_success() {
        let outcome = outcome(passed(2), passed(3));
        assert_eq!(outcome.problems(false), [""; 0]);
        assert_eq!(outcome.total().to_string(), "5 passed, 0 failed");
    }

    #[test]
    fn nothing_is_skipped_silently() {
        for (units, integration) in [
            (passed(2), passed(0)),
            (Tally { ignored: 1, ..passed(2) }, passed(3)),
            (passed(2), Tally { filtered_out: 1, ..passed(3) }),
            (passed(2), Tally { failed: 1, ..passed(3) }),
        ] {
            assert_eq!(outcome(units, integration).problems(false).len(), 1, "{units:?} {integration:?}");
        }
    }

    #[test]
    fn a_filter_may_skip_but_not_all() {
        let skipped = Tally { filtered_out: 9, ignored: 1, ..Tally::default() };
        assert_eq!(outcome(skipped + passed(1), skipped).problems(true), [""; 0]);
        assert_eq!(outcome(skipped, skipped).problems(true), ["no test matches the filter"]);
    }
}
