//! The command line: two options, so it is read by hand and not by a library that would be most of this program.

use std::ffi::OsString;

use shorepass_exec::JOB_VARIABLE;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Gives kubectl and other Kubernetes clients a token from shorepass-agent.

Usage: shorepass-exec --role ROLE [--job JOB]

Options:
  --role ROLE    the role to use
  --job JOB      the job that uses it [environment: SHOREPASS_JOB; default: this user's job]
  -h, --help     prints this
  -V, --version  prints the version

Environment:
  SHOREPASS_SOCKET  the agent's socket [default: /run/shorepass/agent.sock]

`shorepass kubeconfig --role ROLE` prints a kubeconfig that runs this program.
Exit codes: 1 failure, 2 usage, 3 denied, 4 unreachable, 5 lease ended or revoked.
";

/// What `--version` prints.
pub(crate) const VERSION: &str = concat!("shorepass-exec ", env!("CARGO_PKG_VERSION"), "\n");

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation {
    /// Print a credential.
    Credential(Arguments),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Which credential.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The role.
    pub(crate) role: String,
    /// The job; empty for the default one.
    pub(crate) job: String,
}

/// What is wrong with the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("{0} is missing: name the role to use, as in shorepass-exec --role web-deployer")]
    Missing(&'static str),
    #[error("{0} needs a value")]
    NoValue(&'static str),
    #[error("{0} is given twice")]
    Twice(&'static str),
    #[error("unexpected argument {0:?}")]
    Unexpected(OsString),
}

/// Reads the arguments after the program's name, and SHOREPASS_JOB.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Invocation, UsageError> {
    parse_with(arguments, std::env::var(JOB_VARIABLE).ok())
}

fn parse_with(
    mut arguments: impl Iterator<Item = OsString>,
    job_of_environment: Option<String>,
) -> Result<Invocation, UsageError> {
    let mut role = None;
    let mut job = None;
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().ok_or_else(|| UsageError::Unexpected(argument.clone()))?;
        let (name, joined) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let (name, slot) = match name {
            "-h" | "--help" => return Ok(Invocation::Help),
            "-V" | "--version" => return Ok(Invocation::Version),
            "--role" => ("--role", &mut role),
            "--job" => ("--job", &mut job),
            _ => return Err(UsageError::Unexpected(argument)),
        };
        let value = joined.or_else(|| arguments.next()?.into_string().ok());
        let value = value.filter(|value| !value.is_empty()).ok_or(UsageError::NoValue(name))?;
        if slot.replace(value).is_some() {
            return Err(UsageError::Twice(name));
        }
    }
    let role = role.ok_or(UsageError::Missing("--role"))?;
    Ok(Invocation::Credential(Arguments { role, job: job.or(job_of_environment).unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, job: Option<&str>) -> Result<Invocation, UsageError> {
        parse_with(line.split_whitespace().map(OsString::from), job.map(str::to_owned))
    }

    fn credential(role: &str, job: &str) -> Result<Invocation, UsageError> {
        Ok(Invocation::Credential(Arguments { role: role.to_owned(), job: job.to_owned() }))
    }

    #[test]
    fn the_job_comes_from_the_option_or_the_environment_or_is_the_default() {
        assert_eq!(check("--role web", None), credential("web", ""));
        assert_eq!(check("--role=web", Some("build-1")), credential("web", "build-1"));
        assert_eq!(check("--job build-2 --role web", Some("build-1")), credential("web", "build-2"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(check("", None), Err(UsageError::Missing("--role")));
        assert_eq!(check("--role", None), Err(UsageError::NoValue("--role")));
        assert_eq!(check("--role=", None), Err(UsageError::NoValue("--role")));
        assert_eq!(check("--role a --role b", None), Err(UsageError::Twice("--role")));
        assert_eq!(check("--rule a", None), Err(UsageError::Unexpected("--rule".into())));
    }

    #[test]
    fn help_and_version_win() {
        assert_eq!(check("--role a --help", None), Ok(Invocation::Help));
        assert_eq!(check("-V", None), Ok(Invocation::Version));
    }
}
