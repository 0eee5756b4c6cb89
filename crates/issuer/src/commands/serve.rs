//! `shorepass-issuer serve`: reads the configuration, then hands over to [`crate::compose`].

use std::path::Path;

use anyhow::{Context, Result};
use shorepass_conditions::CelConditions;
use shorepass_config::role::Roles;
use shorepass_config::{Fault, IssuerConfig};
use shorepass_daemon::shutdown::survive_file_size_limit;
use shorepass_daemon::{hardening, telemetry};

use crate::compose;

/// Runs until SIGTERM or SIGINT.
pub(super) fn run(file: &Path) -> Result<()> {
    telemetry::init("info")?;
    hardening::no_core_dumps()?;
    hardening::private_files();
    #[cfg(feature = "fail-points")]
    crate::fail_points::check()?;
    #[cfg(feature = "mutants")]
    crate::mutants::check()?;
    let config = IssuerConfig::load(file)?;
    let Roles { roles, warnings, .. } = config.load_roles(&CelConditions)?;
    for Fault { file, line, column, path, problem, .. } in warnings {
        let place = format!("{}:{line}:{column}", file.display());
        tracing::warn!(place, path, problem, "a role document does not do what it seems to");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        survive_file_size_limit().context("cannot watch for signals")?;
        compose::serve(config, roles).await
    })
}
