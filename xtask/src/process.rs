//! Child processes that end with us, and waiting for what they do.
//!
//! An [`Owned`] child is stopped when it is dropped, and dies when xtask is killed with SIGKILL. It does not restart
//! anything and it captures no output: everything goes to a log file, whose last lines become the error, or to whoever
//! watches us.
//!
//! The questionable decision: a child is started through xtask itself (`xtask owned`), which asks the kernel for a
//! death signal and then becomes the program. `pre_exec` would need `unsafe`, and setpriv is not on every machine.
//! The kernel ties that signal to the *thread* that started the child, so start children from a thread that stays.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::signals;

/// How long a child may take to end after SIGTERM before it gets SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// How often a wait looks again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How many lines of a log an error shows.
const TAIL_LINES: usize = 20;

/// A command for a child that dies with xtask, in a process group of its own so that a Ctrl-C on the terminal
/// reaches only xtask, which then stops its children in order. Add arguments, then [`Owned::spawn`] it.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    if cfg!(test) {
        // A unit test cannot start itself as `xtask owned`.
        let mut command = Command::new(program);
        command.process_group(0);
        return command;
    }
    // Not `current_exe`: cargo may have replaced that file since we started.
    let mut command = Command::new("/proc/self/exe");
    command.args(["owned", "--parent"]).arg(std::process::id().to_string()).arg("--").arg(program);
    command.process_group(0);
    command
}

/// The far side of [`command`]: runs in the child, before the program.
#[derive(clap::Args)]
pub(crate) struct OwnedCommand {
    #[arg(long)]
    parent: i32,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

impl OwnedCommand {
    /// Becomes the program; returns only if it cannot.
    pub(crate) fn run(self) -> Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .context("cannot ask for a signal at the parent's death")?;
        // The parent may have died before the kernel was asked.
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        ensure!(parent == Some(self.parent), "the parent process {} is gone", self.parent);
        become_program(&self.command).map(|never| match never {})
    }
}

fn become_program(command: &[OsString]) -> Result<Infallible> {
    let (program, arguments) = command.split_first().context("no program to run")?;
    let cause = Command::new(program).args(arguments).exec();
    Err(cause).with_context(|| format!("cannot run {}", program.display()))
}

/// A child process that is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Owned {
    name: String,
    child: Child,
    /// None if its output is ours.
    log: Option<PathBuf>,
}

impl Owned {
    /// Starts `command`, as made by [`command`], with nothing on stdin and with stdout and stderr in the file `log`.
    pub(crate) fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().context("cannot share the log file")?;
        command.stdout(output).stderr(errors);
        Self::start(name, command, Some(log.to_path_buf()))
    }

    /// Starts `command`, as made by [`command`], with nothing on stdin and with our stdout and stderr.
    pub(crate) fn spawn_visible(name: &str, command: Command) -> Result<Self> {
        Self::start(name, command, None)
    }

    fn start(name: &str, mut command: Command, log: Option<PathBuf>) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// What the child is called in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, which is also its process group.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// An error with the last lines of the log if it ended, however it ended: for children that should run.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status}); {}", self.name, self.last_lines()),
        }
    }

    /// Waits for its end, calling `meanwhile` now and then; an error with the last lines of the log if it failed.
    pub(crate) fn finish(&mut self, mut meanwhile: impl FnMut(&Path)) -> Result<()> {
        let log = self.log.clone();
        let status = self.wait(|| {
            log.iter().for_each(|log| meanwhile(log));
            Ok(())
        })?;
        if !status.success() {
            bail!("{} failed ({status}); {}", self.name, self.last_lines());
        }
        Ok(())
    }

    /// Waits for its end, however it ends, calling `meanwhile` now and then, whose error ends the wait.
    pub(crate) fn wait(&mut self, mut meanwhile: impl FnMut() -> Result<()>) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            meanwhile()?;
            signals::pause(LOOK_EVERY)?;
        }
    }

    /// The end of its log, ready to stand in an error.
    pub(crate) fn last_lines(&self) -> String {
        self.log.as_deref().map_or_else(|| "it said why above".to_owned(), last_lines)
    }

    /// SIGTERM to its process group, SIGKILL if that does not help, and waits until it is gone.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        let started = Instant::now();
        while started.elapsed() < GRACE {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::KILL)?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Signals the process group. The child is not waited for yet when this is called, so the id is still ours.
    fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let id = id.with_context(|| format!("{} has no process id", self.name))?;
        match rustix::process::kill_process_group(id, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(cause) => Err(cause).with_context(|| format!("cannot signal {}", self.name)),
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// The end of a log file, ready to stand in an error.
pub(crate) fn last_lines(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return "its log is empty".to_owned();
    }
    let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    format!("the last lines of its log:\n    {}", tail.join("\n    "))
}

/// How many lines a log file has so far.
pub(crate) fn lines(log: &Path) -> usize {
    fs::read(log).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count())
}

/// What one look at a condition showed.
pub(crate) enum Seen<T> {
    /// It holds.
    Ready(T),
    /// It does not hold yet; what was seen instead.
    NotYet(String),
}

/// Looks again and again until `look` says ready. An error of `look` ends the wait (a process died); at the
/// timeout the error says what was seen last.
pub(crate) fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let last = match look()? {
            Seen::Ready(value) => return Ok(value),
            Seen::NotYet(last) => last,
        };
        if started.elapsed() >= timeout {
            bail!("waited {} s for {what}; last seen: {last}", timeout.as_secs());
        }
        signals::pause(LOOK_EVERY)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Owned {
        let log = std::env::temp_dir().join(format!("xtask-{}-{:p}.log", std::process::id(), script));
        let mut command = command("sh");
        command.args(["-c", script]);
        Owned::spawn("sh", command, &log).unwrap()
    }

    fn forget(child: Owned) {
        let log = child.log.clone().unwrap();
        drop(child);
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_failed_child_shows_the_end_of_its_log() {
        let mut child = shell("echo one; echo two >&2; exit 3");
        let error = child.finish(|_| ()).unwrap_err().to_string();
        assert!(error.contains("one\n    two"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        forget(child);
    }

    #[test]
    fn a_dropped_child_is_gone_with_its_children() {
        let mut child = shell("sleep 600 & echo $!; wait");
        let log = child.log.clone().unwrap();
        let grandchild = wait_until("the id of the grandchild", Duration::from_secs(10), || {
            let text = fs::read_to_string(&log)?;
            Ok(text.trim().parse::<i32>().map_or_else(|e| Seen::NotYet(e.to_string()), Seen::Ready))
        });
        let grandchild = Pid::from_raw(grandchild.unwrap()).unwrap();
        child.check().unwrap();
        forget(child);
        wait_until("the end of the grandchild", Duration::from_secs(10), || {
            let gone = rustix::process::test_kill_process(grandchild).is_err();
            Ok(if gone { Seen::Ready(()) } else { Seen::NotYet("it runs".to_owned()) })
        })
        .unwrap();
    }

    #[test]
    fn a_wait_that_times_out_says_what_was_seen_last() {
        let wait = wait_until("spring", Duration::ZERO, || Ok(Seen::<()>::NotYet("snow".to_owned())));
        assert_eq!(wait.unwrap_err().to_string(), "waited 0 s for spring; last seen: snow");
    }
}
