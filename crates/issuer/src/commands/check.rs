//! `shorepass-issuer config check`: what can be said of the documents, with `--against` of decisions of before, and with
//! `--online` of the clusters too.
//!
//! Online it asks each cluster, as the issuer, about the ServiceAccounts of the roles: whether they are allowed what the roles
//! need, and by what jobs can leave something behind. It changes nothing and mints nothing.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use shorepass_conditions::CelConditions;
use shorepass_config::IssuerConfig;
use shorepass_config::role::Roles;
use shorepass_core::cluster::Cluster;
use shorepass_core::policy::Policy;
use shorepass_core::role::Role;
use shorepass_daemon::clock::SystemClock;

use super::{ConfigFile, against, say};
use crate::clusters::connect;
use crate::reviews::{Reviews, missing_of};

/// Which configuration, and how far to look.
#[derive(clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Also asks the clusters whether the roles' ServiceAccounts are allowed what the roles need (exit code 1 if not), and by
    /// what jobs can leave something behind that outlives their leases.
    #[arg(long)]
    online: bool,
    /// An audit file: also tell which of the decisions in it the role documents would change. Nothing is changed by that.
    #[arg(long, value_name = "AUDIT_FILE")]
    against: Option<PathBuf>,
}

impl Check {
    pub(super) fn run(self) -> Result<()> {
        let config = IssuerConfig::load(&self.file.config)?;
        let Roles { roles, warnings, .. } = config.load_roles(&CelConditions)?;
        for warning in warnings {
            eprintln!("shorepass-issuer: warning: {warning}");
        }
        let (file, clusters) = (self.file.config.display(), config.clusters.len());
        say(&format!("{file}: fine; {clusters} cluster(s), {} role(s)\n", roles.len()))?;
        if let Some(audit) = &self.against {
            say(&against::against(audit, &Policy::new(roles.clone())?, &config.trust_domain)?)?;
        }
        if !self.online {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("cannot start")?.block_on(ask(&config, roles))
    }
}

async fn ask(config: &IssuerConfig, roles: Vec<Role>) -> Result<()> {
    let clusters = connect(config).await?;
    let (reviews, policy) = (Reviews::new(Arc::new(SystemClock)), Policy::new(roles)?);
    let (mut lacking, mut unknown) = (0, 0);
    for cluster in clusters.values() {
        reviews.look(&policy, cluster.as_ref()).await;
    }
    for role in policy.roles() {
        let name = role.name();
        let Some(account) = role.gives().existing() else {
            say(&format!("role {name}: not asked, its ServiceAccounts are made for each lease\n"))?;
            continue;
        };
        let Some(cluster) = clusters.get(role.cluster()) else { continue };
        let whose = format!("role {name}: ServiceAccount {}/{}", account.namespace, account.service_account);
        match missing_of(role, account, cluster.as_ref() as &dyn Cluster).await {
            Ok(None) => say(&format!("{whose} is allowed all that the role needs\n"))?,
            Ok(Some(missing)) => {
                lacking += 1;
                say(&format!("{whose} is not allowed all that the role needs; add:\n{}", missing.yaml()))?;
            }
            Err(cause) => {
                unknown += 1;
                say(&format!(
                    "{whose}: it is not known whether it is allowed what the role needs: {cause}\n"
                ))?;
            }
        }
        if let Some(escapes) = reviews.escapes_of(name) {
            say(&format!("role {name}: rights that outlive a lease: {escapes}\n"))?;
        }
    }
    match (lacking, unknown) {
        (0, 0) => Ok(()),
        (0, _) => bail!("{unknown} role(s) could not be asked about"),
        (_, _) => bail!("{lacking} role(s) need what their ServiceAccounts are not allowed"),
    }
}
