//! Processes under test, started as a user would start them.
//!
//! What is started here is gone when its [`Process`] is dropped, also when a test panics, and also when the whole test
//! run is killed: a shell waits beside the program for the end of a pipe that only we hold, and then kills the program.
//! `pre_exec` with a death signal would need `unsafe`. Output comes through pipes, so that a limit on the size of the
//! program's files does not hit its log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
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
    copies: Vec<JoinHandle<()>>,
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
        let copies = vec![copy(child.stdout.take(), file.try_clone()?), copy(child.stderr.take(), file)];
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
        for copy in self.copies.drain(..) {
            let _ = copy.join();
        }
        let stderr = std::fs::read_to_string(&self.log).context("what was printed is no text")?;
        Ok(Done { code: status.code(), stdout: String::new(), stderr })
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

/// Copies until the pipe ends.
fn copy(from: Option<impl Read + Send + 'static>, mut to: File) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let Some(mut from) = from else { return };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                // One write for what was read together keeps the lines of both pipes whole.
                Ok(length) if to.write_all(&buffer[..length]).is_ok() => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return,
            }
        }
    })
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
