//! `shorepass-agent`: reads the command line and ends with the exit code of what happened.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shorepass_agent::serve;
use shorepass_config::AgentConfig;
use shorepass_daemon::telemetry::Chain;
use shorepass_daemon::{hardening, telemetry};
use tokio::runtime::{Builder, Runtime};

/// The exit code for what the command line or the config gets wrong.
const USAGE: u8 = 2;

/// Keeps a runner's Kubernetes tokens fresh and serves them to its jobs.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Enrols if need be and serves local jobs until SIGTERM; leases stay for the next start
    Serve(Config),
    /// Gives everything back: ends all jobs and their leases
    Leave(Config),
}

#[derive(clap::Args)]
struct Config {
    /// The agent's config
    #[arg(long, env = "SHOREPASS_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    hardening::private_files();
    if let Err(error) = hardening::no_core_dumps() {
        return fail(&error, 1);
    }
    if let Err(error) = telemetry::init("info") {
        return fail(&error, USAGE);
    }
    let (Command::Serve(Config { config }) | Command::Leave(Config { config })) = &command;
    let config = match AgentConfig::load(config) {
        Ok(config) => config,
        Err(error) => return fail(&error, USAGE),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let outcome = match command {
        Command::Serve(_) => runtime.block_on(serve::serve(config)),
        Command::Leave(_) => runtime.block_on(serve::leave(config)).map(|left| {
            // A reader that is gone does not undo what was given back.
            let _ = writeln!(io::stdout(), "ended {} jobs and {} leases", left.jobs, left.leases);
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

/// Two threads: one to serve while the other writes to a slow disk.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("shorepass-agent: {}", Chain(error));
    ExitCode::from(code)
}
