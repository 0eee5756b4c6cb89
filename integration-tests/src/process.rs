//! Processes under test, started as a user would start them.
//!
//! What is started here is gone when its [`Process`] is dropped, also when a test panics, and also when the whole test
//! run is killed: a shell waits beside the program for the end of a pipe that only we hold, and then kills the program.
//! `pre_exec` with a death signal would need `unsafe`. Output comes through pipes, so that a limit on the size of the
//! program's files does not hit its log.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Resource, Rlimit, Signal};

/// What the shell does before it becomes the program: leave somebody behind who kills the program (`$$`) when our pipe ends. The pid cannot
/// have been given to somebody else by then: it names the process group of who kills.
const WRAPPER: &str = "exec 3<&0 </dev/null; \
                       { read _ <&3; kill -KILL $$; } >/dev/null 2>&1 & exec \"$0\" \"$@\" 3<&-";

/// How long a program may take to end after SIGTERM: the issuer's own grace, with slack.
const GRACE: Duration = Duration::from_secs(20);

/// A running program, with its output in a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    copies: Vec<Copied>,
}

impl Process {
    /// Starts `program` and appends what it prints to the file `log`.
    pub fn start(
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WRAPPER]).arg(program).args(arguments);
        command.envs(environment.iter().copied()).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let file = open().with_context(|| format!("cannot write {}", log.display()))?;
        let mut copies = Vec::new();
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            copies.push(Copied::begin(stdout, file.try_clone()?));
            copies.push(Copied::begin(stderr, file));
        }
        Ok(Self { name, child, log: log.to_path_buf(), copies })
    }

    /// The program's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of the log if the program has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.last_lines()),
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.end_group();
        self.child.wait()?;
        Ok(())
    }

    /// SIGSTOP: it stands still, as on a machine that is suspended.
    pub fn pause(&self) -> Result<()> {
        Ok(rustix::process::kill_process(self.pid()?, Signal::STOP)?)
    }

    /// SIGCONT.
    pub fn go_on(&self) -> Result<()> {
        Ok(rustix::process::kill_process(self.pid()?, Signal::CONT)?)
    }

    /// SIGTERM, without waiting for what it does.
    pub fn terminate(&self) -> Result<()> {
        Ok(rustix::process::kill_process(self.pid()?, Signal::TERM)?)
    }

    /// SIGTERM; how it ended.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.terminate()?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                start.elapsed() < GRACE,
                "{} did not end after SIGTERM:\n{}",
                self.name,
                self.last_lines()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How it ended, by itself and soon; what it printed is all in `stderr`.
    pub fn end(mut self) -> Result<Done> {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None => ensure!(start.elapsed() < GRACE, "{} goes on:\n{}", self.name, self.last_lines()),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        for copied in self.copies.drain(..) {
            let _ = copied.thread.join();
        }
        let stderr = std::fs::read_to_string(&self.log).context("what was printed is no text")?;
        Ok(Done { code: status.code(), stdout: String::new(), stderr })
    }

    /// Waits until all that it has printed so far is in its log.
    pub fn settle(&self) {
        self.copies.iter().for_each(Copied::settle);
    }

    /// From now on the program cannot make a file longer than this, nor write behind it: a failed write, unless it takes the
    /// signal SIGXFSZ as it comes, which ends it. None lifts that.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let limit = Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(Some(self.pid()?), Resource::Fsize, limit)?;
        Ok(())
    }

    /// What it printed last.
    pub fn last_lines(&self) -> String {
        self.settle();
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn pid(&self) -> Result<Pid> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        id.context("a process without id")
    }

    /// Kills the program and who waits beside it.
    fn end_group(&self) {
        if let Ok(group) = self.pid() {
            // Nobody is left in it if both have ended.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_group();
        let _ = self.child.wait();
    }
}

/// A pipe that is copied to a file until it ends.
struct Copied {
    pipe: Arc<OwnedFd>,
    /// Held from before something is read until it is written.
    file: Arc<Mutex<File>>,
    thread: JoinHandle<()>,
}

impl Copied {
    fn begin(pipe: impl Into<OwnedFd>, file: File) -> Self {
        let (pipe, file) = (Arc::new(pipe.into()), Arc::new(Mutex::new(file)));
        let thread = std::thread::spawn({
            let (pipe, file) = (pipe.clone(), file.clone());
            move || {
                let mut buffer = vec![0; 64 * 1024];
                while copy_some(&pipe, &file, &mut buffer) {}
            }
        });
        Self { pipe, file, thread }
    }

    fn settle(&self) {
        let is_behind = || {
            let _file = lock(&self.file);
            rustix::io::ioctl_fionread(&self.pipe).is_ok_and(|bytes| bytes > 0)
        };
        while is_behind() && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Whether there may be more.
fn copy_some(pipe: &OwnedFd, file: &Mutex<File>, buffer: &mut [u8]) -> bool {
    if rustix::event::poll(&mut [PollFd::new(pipe, PollFlags::IN)], None).is_err() {
        return true; // interrupted
    }
    let mut file = lock(file);
    match rustix::io::read(pipe, &mut *buffer) {
        Ok(0) => false,
        // One write for what was read together keeps the lines of both pipes whole.
        Ok(length) => file.write_all(&buffer[..length]).is_ok(),
        Err(error) => error == rustix::io::Errno::INTR,
    }
}

fn lock(file: &Mutex<File>) -> MutexGuard<'_, File> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a command did that has ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Done {
    /// Runs the command to its end, with nothing on stdin.
    pub fn of(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
        Ok(Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).with_context(|| format!("{name} prints no text"))?,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What it printed, if it succeeded.
    pub fn succeeded(self) -> Result<String> {
        ensure!(self.code == Some(0), "exit code {:?}: {}{}", self.code, self.stdout, self.stderr);
        Ok(self.stdout)
    }

    /// That it failed with this code and complained in these words.
    pub fn failed(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(self.code == Some(code), "exit code {:?} and not {code}: {}", self.code, self.stderr);
        for word in words {
            ensure!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(script: &str, log: &Path) -> Process {
        Process::start(Path::new("/bin/sh"), &["-c", script], &[], log).unwrap()
    }

    fn is_there(id: u32) -> bool {
        // A zombie is not there.
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn a_process_ends_with_its_owner_and_its_output_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let process = process("echo started; sleep 600", &log);
        let start = Instant::now();
        while !process.last_lines().contains("started") {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        let id = process.id();
        assert!(is_there(id));
        drop(process);
        assert!(!is_there(id));
    }

    #[test]
    fn a_process_ends_when_nobody_holds_its_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = process("sleep 600", &folder.path().join("log"));
        drop(process.child.stdin.take());
        let status = process.child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    #[test]
    fn what_was_printed_before_something_else_is_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let (log, done) = (folder.path().join("log"), folder.path().join("done"));
        let process = process(&format!("sleep 0.2; echo printed; touch {}; sleep 600", done.display()), &log);
        let slow = lock(&process.copies[0].file); // nothing is copied while this is held
        let start = Instant::now();
        while !done.exists() {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        std::thread::scope(|scope| {
            let settled = scope.spawn(|| {
                process.settle();
                std::fs::read_to_string(&log).unwrap()
            });
            std::thread::sleep(Duration::from_millis(200));
            drop(slow);
            assert_eq!(settled.join().unwrap(), "printed\n");
        });
    }

    #[test]
    fn a_file_over_the_limit_is_a_failed_write() {
        let folder = tempfile::tempdir().unwrap();
        let (log, file) = (folder.path().join("log"), folder.path().join("file"));
        let script = format!(
            "trap '' XFSZ; while ! [ -e {0}.go ]; do sleep 0.05; done; echo too long >{0} || echo refused",
            file.display()
        );
        let process = process(&script, &log);
        process.limit_files(Some(3)).unwrap();
        std::fs::write(folder.path().join("file.go"), "").unwrap();
        let start = Instant::now();
        while !process.last_lines().contains("refused") {
            assert!(start.elapsed() < Duration::from_secs(10), "{}", process.last_lines());
        }
    }
}
