//! `cargo xtask`: what developers and CI run.
//!
//! Only the list of commands lives here; each one is a module. xtask starts processes and reads files. It depends
//! on none of our crates, nor on kube, tonic or tokio, so that it builds early and cannot be broken by the
//! code that it tests.

mod bench;
mod cargo;
mod ci;
mod control_plane;
mod demo;
mod deny;
mod environment;
mod go;
mod mutants;
mod paths;
mod process;
mod progress;
mod protobuf;
mod signals;
mod soak;
mod test;
mod tidy;
mod tools;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of shorepass.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Command),
    /// Start, stop and describe a real Kubernetes API server for tests.
    #[command(subcommand)]
    ControlPlane(control_plane::Command),
    Test(test::Command),
    Bench(bench::Command),
    Mutants(mutants::Command),
    /// Run what only time shows.
    Soak(soak::Command),
    /// Run everything that must hold before a change lands: what `.ci/run` runs.
    Ci,
    /// Check the rules that neither rustc nor clippy knows.
    Tidy,
    /// Write what is generated and committed: proto/image.binpb.
    Codegen,
    /// Check proto/ with buf: lint, breaking changes, and that its image is up to date.
    LintProto,
    /// Check all dependencies with cargo-deny: bans, licences, sources, and advisories where they can be had.
    Deny,
    /// Run the pinned buf: `cargo xtask buf lint proto`.
    #[command(disable_help_flag = true)]
    Buf {
        /// What buf gets, unchanged.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    #[command(hide = true)]
    Owned(process::OwnedCommand),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(command) => command.run(),
        Command::ControlPlane(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Mutants(command) => command.run(),
        Command::Soak(command) => command.run(),
        Command::Ci => ci::run(),
        Command::Tidy => tidy::run(),
        Command::Codegen => protobuf::codegen(),
        Command::LintProto => protobuf::check(),
        Command::Deny => deny::run(),
        Command::Buf { arguments } => tools::run_buf(&arguments),
        Command::Owned(command) => command.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<signals::Interrupted>() => {
            eprintln!("{}", signals::Interrupted);
            ExitCode::from(130)
        }
        Err(error) if error.is::<test::Failed>() => ExitCode::FAILURE,
        Err(error) => {
            // Not `{error:?}`: a backtrace through xtask says nothing about what went wrong.
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}
