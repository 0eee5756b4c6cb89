//! What a job asks of this machine's agent: its session.
//!
//! The token is read from the environment or a file and never from an argument, which every user of the machine can see.

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use shorepass_core::job_token::JOB_TOKEN_LIMIT;
use shorepass_exec::Agent;
use zeroize::Zeroizing;

use super::agent::ask;
use super::emit;
use crate::args::{JobEndArgs, JobStartArgs};
use crate::failure::Failure;

/// Where CI systems put the token for us.
const TOKEN_VARIABLE: &str = "SHOREPASS_JOB_TOKEN";

/// Why there is no token to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoJobToken {
    /// Nowhere.
    #[error("there is no job token: {TOKEN_VARIABLE} is not set, and no file was named with --token-file")]
    Nowhere,
    /// An empty text.
    #[error("the job token is empty")]
    Empty,
    /// More than any token.
    #[error("this is longer than any job token, {JOB_TOKEN_LIMIT} bytes")]
    TooLong,
    /// The file cannot be read.
    #[error("cannot read the job token from {}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

pub(super) async fn start(agent: Agent, args: JobStartArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let JobStartArgs { token_file, job } = args;
    let token = token(token_file.as_deref())?;
    let started = ask(agent, move |agent| agent.start_job(&job, &token)).await?;
    emit(out, &format!("job session {}\n", started.job_id))
}

pub(super) async fn end(agent: Agent, args: JobEndArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let ended = ask(agent, move |agent| agent.end_job(&args.job)).await?;
    emit(out, &format!("job ended, {} lease(s) given back\n", ended.leases))
}

fn token(file: Option<&Path>) -> Result<Zeroizing<String>, NoJobToken> {
    let text = match file {
        None => Zeroizing::new(std::env::var(TOKEN_VARIABLE).map_err(|_| NoJobToken::Nowhere)?),
        Some(file) => {
            let unreadable = |source| NoJobToken::Unreadable { file: file.to_owned(), source };
            let mut text = Zeroizing::new(String::new());
            let limit = (JOB_TOKEN_LIMIT + 2) as u64;
            let read = match file == Path::new("-") {
                true => std::io::stdin().take(limit).read_to_string(&mut text),
                false => {
                    std::fs::File::open(file).and_then(|file| file.take(limit).read_to_string(&mut text))
                }
            };
            read.map_err(unreadable)?;
            text
        }
    };
    match text.trim() {
        "" => Err(NoJobToken::Empty),
        token if token.len() > JOB_TOKEN_LIMIT => Err(NoJobToken::TooLong),
        token => Ok(Zeroizing::new(token.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<String, NoJobToken> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        token(Some(file.path())).map(|token| token.to_string())
    }

    #[test]
    fn a_token_is_read_without_the_line_break_after_it() {
        assert_eq!(read("a.b.c\n").unwrap(), "a.b.c");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert!(matches!(read("\n"), Err(NoJobToken::Empty)));
        assert!(matches!(read(&"a".repeat(JOB_TOKEN_LIMIT + 10)), Err(NoJobToken::TooLong)));
        let missing = token(Some(Path::new("/nonexistent/token")));
        assert!(matches!(missing, Err(NoJobToken::Unreadable { .. })));
    }
}
