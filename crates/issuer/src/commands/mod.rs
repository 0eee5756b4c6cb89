//! The command line: `serve`, `config check`, `config schema`, `rbac`, `cluster bootstrap`, `identity create`, `ca`, `store`.

mod against;
mod ca;
mod check;
mod cluster;
mod identity;
mod rbac;
mod serve;
mod store;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use shorepass_config::ConfigErrors;
use shorepass_daemon::telemetry::TelemetryError;

/// The central daemon of shorepass: decides by policy, mints short-lived ServiceAccount tokens, records and revokes them.
#[derive(Parser)]
#[command(name = "shorepass-issuer", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon.
    Serve(ConfigFile),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the RBAC and the admission policy that the issuer needs in a cluster, for `kubectl apply -f -`.
    Rbac(rbac::Rbac),
    /// Set up a cluster for the issuer.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Make identities for operators and platforms.
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Look at the issuer's CA, and rotate it.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Verify, export, import or rebuild the ledger, while the issuer is stopped.
    #[command(subcommand)]
    Store(store::StoreCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check the config file and the role documents; prints every problem with its place.
    Check(check::Check),
    /// Print the JSON Schema of role documents, for editors.
    Schema,
}

/// Which configuration.
#[derive(clap::Args)]
struct ConfigFile {
    /// The config file (kind IssuerConfig).
    #[arg(long, value_name = "FILE", env = "SHOREPASS_CONFIG")]
    config: PathBuf,
}

/// A command line that does not say enough; one that clap cannot see by itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// The exit code for what the command line or a document gets wrong.
const USAGE: u8 = 2;

/// Does what the command line says. Exit code 1 for a failure, 2 for a wrong command line, document or log filter.
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(file) => serve::run(&file.config),
        Command::Config(ConfigCommand::Check(command)) => command.run(),
        Command::Config(ConfigCommand::Schema) => say(shorepass_config::role::SCHEMA),
        Command::Rbac(command) => command.run(),
        Command::Cluster(command) => command.run(),
        Command::Identity(command) => command.run(),
        Command::Ca(command) => command.run(),
        Command::Store(command) => command.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `{error:?}`: a backtrace tells an operator nothing.
            eprintln!("shorepass-issuer: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  because: {cause}"));
            exit_code(&error)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let usage = error.is::<ConfigErrors>() || error.is::<TelemetryError>() || error.is::<UsageError>();
    if usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}

/// Writes to stdout. A reader that has seen enough is no failure; a full disk is.
fn say(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(cause) if cause.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(cause).context("cannot write to stdout")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bad_value_is_refused_as_usage_before_anything_is_done() {
        let create = ["identity", "create", "--config", "c", "--kind", "operator", "--out", "o"].as_slice();
        let rbac = ["rbac", "--roles", "r"].as_slice();
        let bootstrap = "cluster bootstrap --roles r --kubeconfig k --context c --out o";
        let bootstrap = bootstrap.split(' ').collect::<Vec<_>>();
        let bootstrap = bootstrap.as_slice();
        for (command, option, value) in [
            (create, "--name", "Alice"),
            (create, "--name", ""),
            (create, "--api", "issuer"),
            (rbac, "--cluster", "a_b"),
            (rbac, "--issuer", "a.b"),
            (rbac, "--namespace", "-"),
            (rbac, "--service-account", "A"),
            (rbac, "--renew-secret", "a.b"),
            (bootstrap, "--secret", "a.b"),
            (bootstrap, "--lifetime", "599s"),
            (bootstrap, "--lifetime", "25h"),
        ] {
            let rest = if option == "--api" { ["--name", "alice"].as_slice() } else { &[] };
            let line = [&["shorepass-issuer"], command, rest, &[option, value]].concat();
            let refused = Cli::try_parse_from(line).err().unwrap();
            assert_eq!(refused.exit_code(), i32::from(USAGE), "{option} {value}");
            assert!(refused.to_string().contains(option), "{refused}");
        }
    }

    #[test]
    fn what_a_person_has_to_say_otherwise_ends_with_2() {
        let code = |error: anyhow::Error| format!("{:?}", exit_code(&error));
        let usage = format!("{:?}", ExitCode::from(USAGE));
        assert_eq!(code(UsageError("say more".to_owned()).into()), usage);
        assert_ne!(code(anyhow::anyhow!("the disk is full")), usage);
    }
}
