//! The command line of users and operators: what the agent keeps, and what the issuer knows.
//!
//! Users' commands ask the agent over its socket; operators' commands call the issuer over mTLS; those about role
//! documents read the documents and ask nobody; one, `can-i`, shows an API server the token that the agent gives it. It decides nothing about
//! leases, keeps no state, and never edits a file that is not its own.
//!
//! Questionable: the arguments are searched for secrets before they are parsed. Whoever finds a leaked token pastes it
//! somewhere, and a parser's error would print it once more.

mod args;
mod commands;
mod failure;
mod kubeconfig;
mod operator;
mod output;
mod pasted;
mod payload;
mod progress;
mod token_claims;

use std::ffi::OsString;
use std::io::Write as _;

use clap::Parser as _;

use crate::args::Cli;
use crate::failure::Failure;

/// Runs the command that the arguments name; the exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(pasted) = pasted::find(&arguments) {
        return told(&Failure::Pasted(pasted));
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(usage) => {
            // Nobody is left to tell when this cannot be written.
            let _ = usage.print();
            return u8::try_from(usage.exit_code()).unwrap_or(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(cli.command)),
        Err(cause) => Err(Failure::Runtime(cause)),
    };
    match outcome {
        Ok(()) => 0,
        Err(failure) => told(&failure),
    }
}

fn told(failure: &Failure) -> u8 {
    // As above.
    let _ = write!(std::io::stderr().lock(), "{}", failure.report());
    failure.exit_code()
}
