//! `shorepass-issuer ca`: how the issuer's CA stands, and its rotation.
//!
//! It works on the files beside the running daemon, which takes up what it finds there within seconds. Nothing is asked of
//! the daemon: whoever may write to the state directory could do all of it without.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use shorepass_config::IssuerConfig;
use shorepass_config::scalar::{parse_duration, spell_duration};
use shorepass_core::time::{Clock as _, for_people};
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_daemon::hardening;
use shorepass_tls::{Authority, Phase, RotationPlan};

use super::{ConfigFile, UsageError};
use crate::state::StateDirectory;

/// As long as a join token may live, and a runner may stay away.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// The issuer's CA.
#[derive(Subcommand)]
pub(super) enum CaCommand {
    /// Say which CA signs, and how a rotation stands.
    Show(ConfigFile),
    /// Make a CA that follows the one that signs now; both are trusted for a while.
    Rotate(Rotate),
}

/// How long what lasts.
#[derive(clap::Args)]
pub(super) struct Rotate {
    /// The issuer's config file.
    #[arg(long, value_name = "FILE", env = "SHOREPASS_CONFIG")]
    config: PathBuf,
    /// How long the next CA is told to everybody before it signs; 0s for a key that was stolen. [default: a little longer
    /// than spec.certificates.lifetime]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    announce: Option<Duration>,
    /// How long the former CA is trusted after that. [default: a week and a little longer than spec.certificates.lifetime]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    overlap: Option<Duration>,
}

impl CaCommand {
    pub(super) fn run(self) -> Result<()> {
        hardening::no_core_dumps()?;
        match self {
            Self::Show(file) => {
                let config = IssuerConfig::load(&file.config)?;
                let (_, authority) = open(&config)?;
                super::say(&describe(&authority))
            }
            Self::Rotate(rotate) => rotate.run(),
        }
    }
}

impl Rotate {
    fn run(self) -> Result<()> {
        let config = IssuerConfig::load(&self.config)?;
        let plan = self.plan(config.certificate_lifetime)?;
        let (state, authority) = open(&config)?;
        state.rotate(&authority, plan, SystemClock.now())?;
        super::say(&describe(&authority))
    }

    fn plan(&self, lifetime: Duration) -> Result<RotationPlan, UsageError> {
        let longer = lifetime + lifetime / 24;
        let overlap = self.overlap.unwrap_or(WEEK + longer);
        if overlap < lifetime {
            let lifetime = spell_duration(lifetime);
            return Err(UsageError(format!(
                "--overlap: certificates of the former CA live up to {lifetime}, and would be refused before that: write \
                 {lifetime} or more"
            )));
        }
        Ok(RotationPlan { announce: self.announce.unwrap_or(longer), overlap })
    }
}

fn open(config: &IssuerConfig) -> Result<(StateDirectory, Authority)> {
    let state = StateDirectory::open(&config.state_directory)?;
    let authority = state.authority(&config.trust_domain, SystemClock.now(), Arc::new(SystemEntropy))?;
    Ok((state, authority))
}

fn describe(authority: &Authority) -> String {
    let rotation = match authority.phase() {
        Phase::Settled => "no other CA is trusted".to_owned(),
        Phase::Announced { switch, end } => format!(
            "the next CA signs from {}, and this one is trusted until {}",
            for_people(switch),
            for_people(end)
        ),
        Phase::Overlapping { end } => format!("the former CA is trusted until {}", for_people(end)),
    };
    format!("CA with public key sha256:{} signs\n{rotation}\n", authority.key_digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(announce: Option<u64>, overlap: Option<u64>) -> Result<RotationPlan, UsageError> {
        let seconds = |given: Option<u64>| given.map(Duration::from_secs);
        let rotate =
            Rotate { config: PathBuf::new(), announce: seconds(announce), overlap: seconds(overlap) };
        rotate.plan(Duration::from_secs(24 * 3600))
    }

    #[test]
    fn everybody_has_time_to_learn_of_the_next_ca_and_nothing_of_the_former_is_cut_short() {
        let usual = plan(None, None).unwrap();
        assert_eq!(usual.announce, Duration::from_secs(25 * 3600));
        assert_eq!(usual.overlap, WEEK + Duration::from_secs(25 * 3600));
        let stolen = plan(Some(0), Some(24 * 3600)).unwrap();
        assert_eq!(stolen.announce, Duration::ZERO);
        assert!(plan(None, Some(24 * 3600 - 1)).unwrap_err().to_string().contains("write 24h or more"));
    }
}
