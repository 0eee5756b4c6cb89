//! `shorepass-issuer identity create`: a folder with identity, bundle and a ready config for an operator or a platform.
//!
//! It signs with the CA's key on the issuer's machine, beside the running daemon: whoever can read that key can do the
//! same, so there is nothing to ask the daemon for. What it makes it hands over to the daemon, which writes the audit
//! file ([`crate::identities`]). Operators get 12 h, platforms what the config gives to certificates.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use shorepass_config::{ClientConfig, IssuerConfig};
use shorepass_config::{Host, HostPort};
use shorepass_core::caller::{Kind, Owner, SpiffeId};
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::Name;
use shorepass_core::time::{Clock as _, Timestamp, for_people};
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_tls::{Authority, Identity, IdentityFile};

use super::UsageError;
use crate::identities::{self, Handover, Line};
use crate::state::StateDirectory;

/// What an operator's certificate lasts at most.
const OPERATOR_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Identities of operators and platforms.
#[derive(Subcommand)]
pub(super) enum IdentityCommand {
    /// Make one: key, certificate, bundle and config.yaml in a new folder.
    Create(Create),
}

/// Whose identity, and where it goes.
#[derive(clap::Args)]
pub(super) struct Create {
    /// The issuer's config file.
    #[arg(long, value_name = "FILE", env = "SHOREPASS_CONFIG")]
    config: PathBuf,
    /// What it is for.
    #[arg(long)]
    kind: IdentityKind,
    /// Its name: 1 to 63 of a-z, 0-9 and '-'.
    #[arg(long, value_parser = Name::parse)]
    name: Name,
    /// The folder to make; it must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How it reaches the issuer. [default: the first of spec.issuer.dnsNames with the port of spec.listen.api]
    #[arg(long, value_name = "HOST:PORT", value_parser = HostPort::parse)]
    api: Option<HostPort>,
}

#[derive(Clone, Copy, ValueEnum)]
enum IdentityKind {
    /// A person or tool that administers; 12 h.
    Operator,
    /// An internal system that calls the API.
    Platform,
}

impl IdentityCommand {
    pub(super) fn run(self) -> Result<()> {
        let Self::Create(create) = self;
        create.run()
    }
}

impl Create {
    fn run(self) -> Result<()> {
        let config = IssuerConfig::load(&self.config)?;
        let (kind, lifetime) = match self.kind {
            IdentityKind::Operator => (Kind::Operator, OPERATOR_LIFETIME.min(config.certificate_lifetime)),
            IdentityKind::Platform => (Kind::Platform, config.certificate_lifetime),
        };
        let issuer_api = self.api(&config)?;
        let now = SystemClock.now();
        let state = StateDirectory::open(&config.state_directory)?;
        let authority = state.authority(&config.trust_domain, now, Arc::new(SystemEntropy))?;
        let spiffe_id = SpiffeId { trust_domain: config.trust_domain.clone(), kind, name: self.name };
        // Before anything is signed: an identity that is in the audit file was handed out, as far as we can tell.
        make_folder(&self.out)?;
        let identity = match make(&state, &authority, &spiffe_id, lifetime, now) {
            Ok(identity) => identity,
            Err(cause) => {
                let _ = std::fs::remove_dir(&self.out); // it is empty
                return Err(cause);
            }
        };
        IdentityFile::new(self.out.join("identity.pem")).store(&identity)?;
        write(&self.out.join("bundle.pem"), &authority.bundle_pem())?;
        let client = ClientConfig {
            trust_domain: config.trust_domain,
            issuer_name: config.name,
            issuer_api,
            identity_file: PathBuf::from("identity.pem"),
        };
        let file = self.out.join("config.yaml");
        write(&file, client.to_yaml()?.as_bytes())?;
        let file = std::path::absolute(&file).unwrap_or(file);
        super::say(&format!(
            "{spiffe_id} until {}\nuse it with: export SHOREPASS_CONFIG={}\n",
            for_people(identity.expires()),
            file.display()
        ))
    }

    fn api(&self, config: &IssuerConfig) -> Result<HostPort> {
        if let Some(api) = &self.api {
            return Ok(api.clone());
        }
        let host: Option<Host> = config.dns_names.first().cloned();
        let (Some(host), port @ 1..) = (host, config.listen.api.port()) else {
            return Err(UsageError("say with --api HOST:PORT how the issuer is reached".to_owned()).into());
        };
        Ok(HostPort { host, port })
    }
}

/// Signs, and writes down what was signed.
fn make(
    state: &StateDirectory,
    authority: &Authority,
    spiffe_id: &SpiffeId,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Identity> {
    let mut handover = Handover::open(&state.join(identities::FILE))?;
    // The same caller as before owns what it owned before.
    let enrolment = handover.enrolment_of(spiffe_id)?;
    let enrolment = enrolment.unwrap_or_else(|| EnrolmentId::generate(now, &SystemEntropy));
    let identity = authority.create_identity(spiffe_id, enrolment, lifetime, now)?;
    let owner = Owner { spiffe_id: spiffe_id.clone(), enrolment };
    handover.append(&Line::new(&owner, now, identity.expires(), identity.certificate()))?;
    Ok(identity)
}

fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).with_context(|| {
        format!(
            "cannot make the folder {}; it must not exist, and its parent must be writable",
            path.display()
        )
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
