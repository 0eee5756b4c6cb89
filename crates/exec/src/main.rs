//! `shorepass-exec`: the exec plugin that kubeconfigs name.
//!
//! Stdout carries one ExecCredential or nothing; everything for people goes to stderr. It keeps nothing between runs:
//! the protocol cannot say that a token was refused (kubernetes exec protocol v1 has no `response`), so only the agent
//! may decide what is still good. A stuck plugin is a stuck kubectl, so a watchdog ends this after five seconds.

mod arguments;
mod exec_credential;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use shorepass_exec::{Agent, AskError};

use crate::arguments::{Arguments, Invocation, UsageError};
use crate::exec_credential::ProtocolError;

/// How long the agent is waited for.
const PATIENCE: Duration = Duration::from_millis(4500);

/// When the watchdog ends the process, whatever it is doing.
const DEADLINE: Duration = Duration::from_secs(5);

/// The exit code where nothing answered in time.
const UNREACHABLE: i32 = 4;

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("cannot write the credential to stdout: {0}")]
    Output(io::Error),
}

impl Failure {
    fn remedy(&self) -> String {
        match self {
            Self::Usage(_) => "see shorepass-exec --help".to_owned(),
            Self::Protocol(error) => error.remedy().to_owned(),
            Self::Ask(error) => error.remedy(),
            Self::Output(_) => "let the program that runs this plugin read its output".to_owned(),
        }
    }

    /// What stands on stderr.
    fn report(&self) -> String {
        let (request, rules) = match self {
            Self::Ask(error) => (error.request_id(), error.rules()),
            Self::Usage(_) | Self::Protocol(_) | Self::Output(_) => (None, ""),
        };
        let request = request.map_or_else(String::new, |id| format!("  request: {id}\n"));
        format!("shorepass-exec: {self}\n{request}  try: {}\n{rules}", self.remedy())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Protocol(_) => 2,
            Self::Ask(error) => error.exit_code(),
            Self::Output(_) => 1,
        }
    }
}

fn main() -> ExitCode {
    std::thread::spawn(|| {
        std::thread::sleep(DEADLINE);
        // Not eprintln: on a closed stderr it panics, and then nothing would end the process.
        let _ = writeln!(io::stderr(), "shorepass-exec: gave up after {} s", DEADLINE.as_secs());
        std::process::exit(UNREACHABLE);
    });
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A closed stderr must not turn into a panic.
            let _ = write!(io::stderr(), "{}", failure.report());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run() -> Result<(), Failure> {
    let arguments = match arguments::parse(std::env::args_os().skip(1))? {
        Invocation::Credential(arguments) => arguments,
        Invocation::Help => return print(arguments::HELP.as_bytes()),
        Invocation::Version => return print(arguments::VERSION.as_bytes()),
    };
    exec_credential::check_request(std::env::var("KUBERNETES_EXEC_INFO").ok().as_deref())?;
    let Arguments { role, job } = arguments;
    let credential = Agent::from_environment(PATIENCE).credential(&role, &job)?;
    print(&exec_credential::render(&credential, SystemTime::now()))
}

/// Writes around the standard library's buffer, which nobody would wipe.
fn print(output: &[u8]) -> Result<(), Failure> {
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(Failure::Output)?;
    File::from(stdout).write_all(output).map_err(Failure::Output)
}
