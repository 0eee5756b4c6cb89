//! `cargo xtask soak`: what only time shows. `long-job` is a job that outlives its tokens; `--kills` is the crash test with
//! many more kills; `fuzz` gives what parses other people's input more of it.
//!
//! In `long-job`: tokens of ten minutes, the shortest that Kubernetes gives, for 25 minutes: the job's kubectl goes on all the time,
//! the agent refreshes as it does in production (no `maxAge`), and the tokens of the beginning have ended before the
//! end. A summary is printed also when something failed, and then the exit code says so.
//!
//! The programs are copied first: a `cargo build` in the same checkout must not exchange them under a run that takes so
//! long.

mod fuzz;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::control_plane::Release;
use crate::demo::daemons::{Daemons, Kubectl};
use crate::demo::evidence;
use crate::demo::site::Site;
use crate::progress::Progress;
use crate::{demo, environment, paths, signals, test};

/// How long the job lasts: two tokens and a half.
const JOB: Duration = Duration::from_secs(25 * 60);

/// From one kubectl to the next.
const EVERY: Duration = Duration::from_secs(2);

/// Failures that are shown in full.
const TOLD: usize = 5;

const PROGRAMS: [&str; 4] = ["shorepass-issuer", "shorepass-agent", "shorepass-exec", "shorepass"];

/// Runs that take long and are not a part of the tests.
#[derive(clap::Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Command {
    #[command(subcommand)]
    run: Option<Run>,
    /// The crash test with many more kills (1000, unless another number is given): issuers die at each of their fail points
    /// and at random.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1000", required = true)]
    kills: Option<u32>,
    /// The seed of a run with --kills that failed, to see it again.
    #[arg(long, requires = "kills")]
    seed: Option<u64>,
    /// The Kubernetes for --kills: the default and the oldest supported one. [default: 1.36]
    #[arg(long, value_name = "RELEASE", requires = "kills")]
    kubernetes: Option<Release>,
}

#[derive(clap::Subcommand)]
enum Run {
    /// A job of 25 minutes with tokens of ten minutes.
    LongJob {
        /// The Kubernetes to run it on: the default and the oldest supported one. [default: 1.36]
        #[arg(long, value_name = "RELEASE")]
        kubernetes: Option<Release>,
    },
    /// Many more inputs for what reads documents, tokens, certificate requests and certificates.
    Fuzz {
        /// How long each of them.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

impl Command {
    /// Runs it and prints the summary.
    pub(crate) fn run(self) -> Result<()> {
        let Self { run, kills, seed, kubernetes } = self;
        match run {
            Some(Run::LongJob { kubernetes }) => return long_job_on(kubernetes),
            Some(Run::Fuzz { seconds }) => return fuzz::run(seconds),
            None => {}
        }
        let kills = kills.context("say --kills, long-job or fuzz")?;
        let mut variables = vec![(environment::KILLS, kills.to_string().into())];
        variables.extend(seed.map(|seed| (environment::SEED, seed.to_string().into())));
        test::Command::some(&["crashes::"], variables, kubernetes).run()
    }
}

fn long_job_on(kubernetes: Option<Release>) -> Result<()> {
    signals::watch()?;
    demo::build()?;
    let mut site = Site::ours(kubernetes)?;
    let mut daemons = None;
    let outcome = start(&mut site, &mut daemons).and_then(|kubectl| {
        let daemons = daemons.as_mut().context("the daemons were started")?;
        long_job(&site, daemons, &kubectl)
    });
    if let (Err(error), Some(daemons)) = (&outcome, &daemons)
        && !error.is::<signals::Interrupted>()
    {
        daemons.last_lines().iter().for_each(|(name, lines)| eprintln!("{name}: {lines}"));
    }
    drop(daemons);
    let removed = site.remove();
    let summary = outcome?;
    summary.print();
    removed?;
    summary.verdict()
}

fn start(site: &mut Site, daemons: &mut Option<Daemons>) -> Result<Kubectl> {
    let programs = copy_programs(site.folder())?;
    site.set_up()?;
    let daemons = daemons.insert(Daemons::with(site, programs, None)?);
    daemons.start_issuer(site)?;
    daemons.start_agent()?;
    daemons.kubectl(site)
}

fn copy_programs(folder: &Path) -> Result<PathBuf> {
    let copies = folder.join("bin");
    fs::create_dir(&copies).with_context(|| format!("cannot make {}", copies.display()))?;
    for name in PROGRAMS {
        fs::copy(paths::daemons().join(name), copies.join(name))
            .with_context(|| format!("cannot copy {name}"))?;
    }
    Ok(copies)
}

fn long_job(site: &Site, daemons: &mut Daemons, kubectl: &Kubectl) -> Result<Summary> {
    let minutes = format!("{} min", JOB.as_secs() / 60);
    let mut progress = Progress::start("a job that is longer than its tokens", &minutes);
    let mut job = Job { started: Instant::now(), calls: 0, failures: Vec::new(), tokens: Tokens::default() };
    let rss = [resident(daemons)?, [0; 2]];
    while job.started.elapsed() < JOB {
        let round = Instant::now();
        daemons.check()?;
        job.call(kubectl)?;
        job.tokens.look(&daemons.token()?)?;
        progress.tick(|| job.progress());
        while round.elapsed() < EVERY {
            signals::pause(Duration::from_millis(50))?;
        }
    }
    progress.done();
    let leases = evidence::leases_ever(daemons)?;
    Ok(Summary { description: site.describe(), job, leases, rss: [rss[0], resident(daemons)?] })
}

/// What the job did so far.
struct Job {
    started: Instant,
    calls: usize,
    failures: Vec<String>,
    tokens: Tokens,
}

impl Job {
    fn call(&mut self, kubectl: &Kubectl) -> Result<()> {
        let mut command: Process = kubectl.command(&["get", "configmaps", "-o", "name"]);
        let done = command.output().context("cannot run kubectl")?;
        self.calls += 1;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            self.failures.push(format!("after {} s: {said}", self.started.elapsed().as_secs()));
        }
        Ok(())
    }

    fn progress(&self) -> String {
        let Self { calls, failures, tokens, .. } = self;
        format!("{calls} calls, {} failures, {} tokens", failures.len(), tokens.jtis.len())
    }
}

/// The tokens that the job was given, by their claims.
#[derive(Default)]
struct Tokens {
    jtis: BTreeSet<String>,
    anchors: BTreeSet<String>,
    first_end: Option<u64>,
}

impl Tokens {
    fn look(&mut self, token: &str) -> Result<()> {
        let claims = evidence::claims(token)?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        self.jtis.insert(text(&claims["jti"]).context("a token without jti")?);
        self.anchors
            .insert(text(&claims["kubernetes.io"]["secret"]["uid"]).context("a token without anchor")?);
        let end = claims["exp"].as_u64().context("a token without end")?;
        self.first_end = Some(self.first_end.map_or(end, |first| first.min(end)));
        Ok(())
    }
}

/// What came of it.
struct Summary {
    description: String,
    job: Job,
    leases: usize,
    /// Resident memory of issuer and agent in KiB, at the start and at the end.
    rss: [[u64; 2]; 2],
}

impl Summary {
    fn print(&self) {
        let Self { description, job, leases, rss: [before, after] } = self;
        let mib = |kib: u64| kib as f64 / 1024.0;
        println!("{description}");
        println!("duration               {} s", job.started.elapsed().as_secs());
        println!("kubectl calls          {}", job.calls);
        println!("failures               {}", job.failures.len());
        println!("refreshes              {}", job.tokens.jtis.len().saturating_sub(1));
        println!("distinct jti           {}", job.tokens.jtis.len());
        println!("distinct Secret UIDs   {}", job.tokens.anchors.len());
        println!("leases                 {leases}");
        println!("first token over       {}", if self.first_token_is_over() { "yes" } else { "no" });
        println!(
            "RSS of the issuer      {:.1} MiB at the start, {:.1} MiB at the end",
            mib(before[0]),
            mib(after[0])
        );
        println!(
            "RSS of the agent       {:.1} MiB at the start, {:.1} MiB at the end",
            mib(before[1]),
            mib(after[1])
        );
        job.failures.iter().take(TOLD).for_each(|failure| println!("failed {failure}"));
    }

    fn verdict(&self) -> Result<()> {
        let Self { job, leases, .. } = self;
        ensure!(job.failures.is_empty(), "{} of {} calls failed", job.failures.len(), job.calls);
        ensure!(job.tokens.jtis.len() > 2, "the token was hardly refreshed");
        ensure!(self.first_token_is_over(), "the job was not longer than its first token");
        ensure!(job.tokens.anchors.len() == 1, "the tokens stand on {} anchors", job.tokens.anchors.len());
        ensure!(*leases == 1, "the job took {leases} leases");
        Ok(())
    }

    fn first_token_is_over(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.job.tokens.first_end.is_some_and(|end| end < now)
    }
}

/// Resident memory of issuer and agent in KiB, from `/proc/<pid>/status`.
fn resident(daemons: &Daemons) -> Result<[u64; 2]> {
    let mut all = [0; 2];
    for (one, id) in all.iter_mut().zip(daemons.ids()) {
        let id = id.context("a daemon does not run")?;
        let status = fs::read_to_string(format!("/proc/{id}/status")).context("cannot read /proc")?;
        *one = rss(&status).with_context(|| format!("process {id} has no VmRSS"))?;
    }
    Ok(all)
}

fn rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_its_line() {
        assert_eq!(rss("Name:\tx\nVmRSS:\t   12345 kB\nThreads:\t1\n"), Some(12345));
        assert_eq!(rss("Name:\tx\n"), None);
    }
}
