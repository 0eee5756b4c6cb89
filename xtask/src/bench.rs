//! `cargo xtask bench`: builds for release, starts a Kubernetes, and lets the loader measure.
//!
//! What is measured and how is in `integration-tests/src/bench/`; xtask only sets the stage. Numbers go to stdout, progress
//! to stderr.

use std::ffi::OsString;

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::control_plane::{self, Options, Release};
use crate::process::Owned;
use crate::{cargo, environment, paths, process, signals};

/// Measure speed, memory and space against a yardstick in the same run.
#[derive(clap::Args)]
pub(crate) struct Command {
    /// What to measure.
    name: Name,
    /// How to print it.
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// How many times thing and yardstick take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Of `store`: how many leases come and go while space is watched.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    cycles: u32,
    /// Run API server and etcd on one half of the CPUs, issuer and loader on the other, as where they are on machines of their own.
    #[arg(long)]
    apart: bool,
    /// The Kubernetes to run it on: the default and the oldest supported one. [default: 1.36]
    #[arg(long, value_name = "RELEASE")]
    kubernetes: Option<Release>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Issue with 1, 16 and 64 callers, against anchor and TokenRequest sent directly.
    Mint,
    /// Refresh with 1, 16 and 64 callers, against a TokenRequest sent directly.
    Refresh,
    /// The revocation of 1,000 leases, against as many deletes sent directly.
    Revoke,
    /// A decision among 1,000 roles, on 20 claims and with a condition, against what it may take. Without a Kubernetes.
    Policy,
    /// Commits, a start with 100,000 live leases, and the space after many leases (`--cycles`).
    Store,
}

impl Name {
    /// What is built for it: the loader alone where it starts nothing.
    fn build(self) -> &'static [&'static str] {
        match self {
            Self::Policy => {
                &["build", "--release", "--package", "integration-tests", "--bin", "shorepass-bench"]
            }
            Self::Mint | Self::Refresh | Self::Revoke | Self::Store => {
                &["build", "--release", "--workspace", "--bins", "--exclude", "xtask"]
            }
        }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

impl Command {
    /// Runs it.
    pub(crate) fn run(self) -> Result<()> {
        signals::watch()?;
        if !matches!(self.name, Name::Policy) {
            control_plane::prepare(self.kubernetes, false)?;
        }
        eprintln!("building for release (usually 8 min the first time)");
        cargo::run(self.name.build())?;
        let programs = paths::target().join("release");
        let mut command = process::command(programs.join("shorepass-bench"));
        command.env_remove("KUBECONFIG").args(self.arguments());
        if matches!(self.name, Name::Policy) {
            return measure(command);
        }
        let options = Options { name: "bench".to_owned(), release: self.kubernetes, controllers: false };
        let halves = self.apart.then(halves).transpose()?;
        if let Some((first, _)) = &halves {
            run_on(first)?;
        }
        let mut control_plane = control_plane::start(&options)?;
        if let Some((_, second)) = &halves {
            run_on(second)?;
            command.env(environment::APART, "true");
        }
        // Last: the tests' programs are another build.
        command.envs(control_plane.facts().environment()).env(environment::BIN_DIR, &programs);
        let measured = measure(command);
        control_plane.stop().context("cannot stop the control plane of the benchmark")?;
        measured
    }

    fn arguments(&self) -> [OsString; 4] {
        let name = match self.name {
            Name::Mint => "mint",
            Name::Refresh => "refresh",
            Name::Revoke => "revoke",
            Name::Policy => "policy",
            Name::Store => "store",
        };
        let output = match self.output {
            Output::Table => "table",
            Output::Json => "json",
        };
        [name.into(), output.into(), self.rounds.to_string().into(), self.cycles.to_string().into()]
    }
}

/// The CPUs that this process may use, in two halves.
fn halves() -> Result<(CpuSet, CpuSet)> {
    let all = sched_getaffinity(None).context("cannot ask which CPUs there are")?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
    ensure!(cpus.len() > 1, "--apart needs two CPUs, and there is one");
    let (first, second) = cpus.split_at(cpus.len() / 2);
    let set_of = |cpus: &[usize]| {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu));
        set
    };
    Ok((set_of(first), set_of(second)))
}

/// Whatever is started from now on runs on these CPUs.
fn run_on(cpus: &CpuSet) -> Result<()> {
    sched_setaffinity(None, cpus).context("cannot say on which CPUs to run")
}

fn measure(command: std::process::Command) -> Result<()> {
    let mut loader = Owned::spawn_visible("shorepass-bench", command)?;
    let status = loader.wait(|| Ok(()))?;
    ensure!(status.success(), "the benchmark failed; it says why above");
    Ok(())
}
