//! `shorepass-issuer store`: what an operator does to the ledger while the issuer is stopped.
//!
//! All of it takes the ledger's lock, so that it is refused while an issuer runs. How far it is goes to stderr as log
//! lines every two seconds, what came of it to stdout.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use clap::Subcommand;
use shorepass_config::IssuerConfig;
use shorepass_core::security::SecurityState;
use shorepass_core::time::{Timestamp, for_people};
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_daemon::{hardening, telemetry};
use shorepass_store::{Offline, Rebuilt, Transferred};

use super::ConfigFile;
use crate::compose::ledger_options;

/// The ledger, while the issuer is stopped.
#[derive(Subcommand)]
pub(super) enum StoreCommand {
    /// Read every record, every audit line and the copy of the security state, and say what is damaged; changes nothing.
    ///
    /// Exit code 1 if anything is damaged. It needs room for the records once more.
    Verify(ConfigFile),
    /// Write all records to a file, one JSON object a line. The audit file is not part of it: copy that as it is.
    Export(Export),
    /// Make the records of an export in a state directory that has none.
    Import(Import),
    /// Make damaged or lost records anew: from the audit file, and security state also from its second copy.
    ///
    /// The old records are moved aside and not removed. Where security state was found lost, it comes back from a restored
    /// audit file or second copy that lacks nothing; else exit code 1. Does nothing where nothing is damaged or lost.
    Rebuild(Rebuild),
}

/// Where the records go.
#[derive(clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    file: ConfigFile,
    /// The file to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Where the records come from.
#[derive(clap::Args)]
pub(super) struct Import {
    #[command(flatten)]
    file: ConfigFile,
    /// What `store export` wrote.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
}

/// What may be lost.
#[derive(clap::Args)]
pub(super) struct Rebuild {
    #[command(flatten)]
    file: ConfigFile,
    /// Go on although bans, blocks, used join tokens and enrolments are lost: who was shut out may come in again.
    #[arg(long)]
    accept_loss: bool,
}

impl StoreCommand {
    pub(super) fn run(self) -> Result<()> {
        telemetry::init("info")?;
        hardening::private_files();
        match self {
            Self::Verify(file) => verify(&file.config),
            Self::Export(export) => {
                let Transferred { rows, lost } = open(&export.file.config)?.export(&export.out)?;
                super::say(&format!("{rows} records are in {}\n{}", export.out.display(), carried(lost)))
            }
            Self::Import(import) => {
                let Transferred { rows, lost } = open(&import.file.config)?.import(&import.from)?;
                super::say(&format!("{rows} records came from {}\n{}", import.from.display(), carried(lost)))
            }
            Self::Rebuild(rebuild) => {
                let rebuilt = open(&rebuild.file.config)?.rebuild(rebuild.accept_loss)?;
                super::say(&match rebuilt {
                    Rebuilt::Nothing => "nothing is damaged, and nothing was done\n".to_owned(),
                    Rebuilt::LossAccepted => {
                        "the loss of security state is accepted: runners enrol again\n".to_owned()
                    }
                    Rebuilt::Anew(told) => format!("{told}\n"),
                    Rebuilt::Regained(lost, of) => format!(
                        "security state that was found lost at {} came back from {of}: none is missing\n",
                        for_people(lost)
                    ),
                })
            }
        }
    }
}

/// What whoever carries records elsewhere must know of a loss that they carry with them.
fn carried(lost: Option<Timestamp>) -> String {
    let told = SecurityState::of(lost).problem();
    told.map(|problem| format!("this goes with the records: {problem}\n")).unwrap_or_default()
}

fn open(config: &Path) -> Result<Offline> {
    let config = IssuerConfig::load(config)?;
    let state = &config.state_directory;
    ensure!(state.is_dir(), "there is no state directory {}; make it with mode 0700 first", state.display());
    Ok(Offline::lock(state, ledger_options(&config), Arc::new(SystemClock), Arc::new(SystemEntropy))?)
}

fn verify(config: &Path) -> Result<()> {
    let report = open(config)?.verify()?;
    let problems = report.records.len() + report.others.len();
    for line in report.facts.iter().chain(&report.records).chain(&report.others) {
        super::say(&format!("{line}\n"))?;
    }
    if problems > 0 {
        bail!(
            "{problems} problem(s): `shorepass-issuer store rebuild` makes damaged records anew, or says what it lacks for that; \
             a start of the issuer writes a damaged copy anew"
        );
    }
    super::say("nothing is damaged\n")
}
