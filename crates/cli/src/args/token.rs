//! `token`: whose.

use clap::Args;
use shorepass_core::name::Name;

/// Which token.
#[derive(Args)]
pub(crate) struct TokenArgs {
    /// The role; its document names audiences
    #[arg(long, value_parser = Name::parse)]
    pub(crate) role: Name,
    /// The job's name on this machine [default: this user's job]
    #[arg(long, env = "SHOREPASS_JOB", default_value = "", hide_default_value = true)]
    pub(crate) job: String,
}
