//! One module for each family of commands. They ask, and hand the answer to `output`.

mod agent;
mod bans;
mod can_i;
pub(crate) mod jobs;
mod leases;
mod online;
mod others;
mod pages;
mod revoke;
mod roles;
mod runners;

use std::io::Write;

use clap::CommandFactory as _;

use crate::args::{
    BlockCommand, Cli, Command, Format, JobCommand, JoinTokenCommand, LeaseCommand, RoleCommand,
    RunnerCommand,
};
use crate::failure::Failure;

/// Runs a command.
pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Kubeconfig(args) => agent::kubeconfig(agent::local(), &args, &mut out).await,
        Command::Token(args) => agent::token(agent::local(), args, &mut out).await,
        Command::Status(args) => agent::status(agent::local(), &args, &mut out).await,
        Command::CanI(args) => can_i::can_i(agent::local(), args, &mut out).await,
        Command::Job(JobCommand::Start(args)) => jobs::start(agent::local(), args, &mut out).await,
        Command::Job(JobCommand::End(args)) => jobs::end(agent::local(), args, &mut out).await,
        Command::Lease(LeaseCommand::List(args)) => leases::list(&args, &mut out).await,
        Command::Lease(LeaseCommand::Show(args)) => leases::show(&args, &mut out).await,
        Command::Lease(LeaseCommand::Revoke(args)) => revoke::revoke(&args, &mut out).await,
        Command::Block(BlockCommand::List(args)) => others::list_blocks(&args, &mut out).await,
        Command::Unblock(args) => others::unblock(&args, &mut out).await,
        Command::Runner(RunnerCommand::List(args)) => runners::list(&args, &mut out).await,
        Command::Ban(args) => bans::ban(&args, &mut out).await,
        Command::Unban(args) => bans::unban(&args, &mut out).await,
        Command::Whois(args) => others::whois(&args, &mut out).await,
        Command::JoinToken(JoinTokenCommand::Create(args)) => {
            others::create_join_token(&args, &mut out).await
        }
        Command::Role(RoleCommand::Explain(args)) => roles::explain(&args, &mut out),
        Command::Role(RoleCommand::Test(args)) => roles::test(&args, &mut out).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "shorepass", &mut script);
            out.write_all(&script).and_then(|()| out.flush()).map_err(Failure::Output)
        }
    }
}

/// Writes now: a reader must not wait for the next step to see this one.
fn emit(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Writes one of the two.
fn emit_as(
    out: &mut dyn Write,
    format: Format,
    document: impl FnOnce() -> String,
    table: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match format {
        Format::Json => emit(out, &document()),
        Format::Table => emit(out, &table()),
    }
}
