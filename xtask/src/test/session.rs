//! One run of the tests: where they may write, how their programs are started, and what they leave behind.
//!
//! Every program gets a TMPDIR that must be empty in the end, a variable that marks it and its children, and no
//! setting of the user's that is meant for shorepass or kubectl. Dropping the session ends what is still marked.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::left_over;
use super::suites::{Suite, log_of};
use super::tally::Tally;
use crate::process::{self, Owned};
use crate::progress::Progress;
use crate::{cargo, environment, paths};

/// How many tests a program of the standard harness runs at once; `--test-threads` goes before it.
const TEST_THREADS: &str = "RUST_TEST_THREADS";
/// What takes longer than this shows that it moves.
const SILENCE: Duration = Duration::from_secs(2);

/// A run of the tests.
pub(super) struct Session {
    filters: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    logs: PathBuf,
    temporary: PathBuf,
    run: String,
    /// Locked as long as this lives: two runs in one checkout would find each other's leftovers.
    _lock: File,
}

impl Session {
    /// Begins with empty folders.
    pub(super) fn start(filters: Vec<OsString>, variables: Vec<(&'static str, OsString)>) -> Result<Self> {
        let folder = paths::target().join("tests");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let lock = lock(&folder)?;
        let (logs, temporary) = (folder.join("logs"), folder.join("tmp"));
        for path in [&logs, &temporary] {
            if path.exists() {
                fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
            fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        left_over::adopt_orphans()?;
        let run = format!("{}-{}", std::process::id(), left_over::started());
        Ok(Self { filters, variables, logs, temporary, run, _lock: lock })
    }

    /// Whether somebody asked for less than all tests.
    pub(super) fn is_filtered(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Runs a test program and says in one line what came of it; all that it printed if a test failed.
    pub(super) fn run_quietly(&self, suite: &Suite) -> Result<Tally> {
        self.count(&suite.name, self.command(suite))
    }

    /// Runs the examples in the documentation.
    pub(super) fn run_examples_in_docs(&self) -> Result<Tally> {
        let mut command = cargo::command(&["test", "--quiet", "--workspace", "--doc", "--"]);
        self.furnish(&mut command);
        self.count("examples in docs", command)
    }

    /// Runs a test program, shows what it prints while it prints it, and looks after what it needs: `others` are our
    /// other children.
    pub(super) fn run_openly(
        &self,
        suite: &Suite,
        variables: Vec<(&'static str, OsString)>,
        others: &[u32],
        mut look_after: impl FnMut() -> Result<()>,
    ) -> Result<Tally> {
        let mut command = self.command(suite);
        command.envs(variables).env(TEST_THREADS, scenarios_at_once().to_string());
        let log = log_of(&suite.name, &self.logs);
        let mut child = Owned::spawn(&suite.name, command, &log)?;
        let mut output = File::open(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let mut show = || io::copy(&mut output, &mut io::stdout()).context("cannot show the output");
        let id = child.id();
        let status = child.wait(|| {
            show()?;
            left_over::reap(&[&[id], others].concat());
            look_after()
        })?;
        show()?;
        Ok(tally(&log, status.success())?.unwrap_or_else(|| {
            println!("{} ended ({status}) without a result", suite.name);
            Tally::CRASHED
        }))
    }

    /// Whether any of its tests would run.
    pub(super) fn has_tests(&self, suite: &Suite) -> Result<bool> {
        if !self.is_filtered() {
            return Ok(true);
        }
        let output = Command::new(&suite.program)
            .args(&self.filters)
            .arg("--list")
            .current_dir(&suite.folder)
            .output()
            .with_context(|| format!("cannot run {}", suite.program.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().any(|line| line.ends_with(": test")))
    }

    /// What is left of the run: processes and files. The processes are ended.
    pub(super) fn left_over(&self) -> Result<Vec<String>> {
        let mut complaints = left_over::end_processes(&self.run, Duration::from_secs(5))?;
        for entry in fs::read_dir(&self.temporary).context("cannot read the temporary folder")? {
            let path = entry.context("cannot read the temporary folder")?.path();
            complaints.push(format!("a test left {}", path.display()));
        }
        Ok(complaints)
    }

    fn command(&self, suite: &Suite) -> Command {
        let mut command = process::command(&suite.program);
        command.current_dir(&suite.folder).env("CARGO_MANIFEST_DIR", &suite.folder);
        self.furnish(&mut command);
        command
    }

    fn furnish(&self, command: &mut Command) {
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("SHOREPASS_") {
                command.env_remove(&name);
            }
        }
        command.env_remove("KUBECONFIG").envs(self.variables.iter().cloned());
        command.env("TMPDIR", &self.temporary).env(environment::RUN, &self.run).args(&self.filters);
    }

    fn count(&self, name: &str, command: Command) -> Result<Tally> {
        let started = Instant::now();
        let log = log_of(name, &self.logs);
        let mut child = Owned::spawn(name, command, &log)?;
        let mut progress = None;
        let id = child.id();
        let status = child.wait(|| {
            left_over::reap(&[id]);
            if started.elapsed() > SILENCE {
                let begin = || Progress::start(name, "a few seconds");
                progress.get_or_insert_with(begin).tick(|| "running".to_owned());
            }
            Ok(())
        })?;
        drop(progress);
        let tally = tally(&log, status.success())?;
        if tally.is_none() || !status.success() {
            let output = fs::read_to_string(&log).unwrap_or_default();
            println!("{name} failed ({status}):\n{output}");
        }
        let tally = tally.unwrap_or(Tally::CRASHED);
        if tally.ran() > 0 {
            println!("{name}: {tally} in {:.1} s", started.elapsed().as_secs_f64());
        }
        io::stdout().flush().context("cannot write to stdout")?;
        Ok(tally)
    }
}

/// More than there are processors: a scenario waits most of the time, for deadlines, caches and pauses.
fn scenarios_at_once() -> usize {
    2 * thread::available_parallelism().map_or(2, NonZero::get)
}

impl Drop for Session {
    fn drop(&mut self) {
        let ended = left_over::end_processes(&self.run, Duration::ZERO);
        let removed = fs::remove_dir_all(&self.temporary).context("cannot remove the temporary folder");
        for error in [ended.err(), removed.err()].into_iter().flatten() {
            eprintln!("warning: {error:#}");
        }
    }
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another `cargo xtask test` runs in this checkout: wait for its end")
        }
        Err(TryLockError::Error(cause)) => {
            Err(cause).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// What a program counted; none if it failed in another way than by its tests.
fn tally(log: &Path, success: bool) -> Result<Option<Tally>> {
    let bytes = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let tally = Tally::parse(&String::from_utf8_lossy(&bytes));
    Ok(tally.filter(|tally| success || tally.failed > 0))
}
