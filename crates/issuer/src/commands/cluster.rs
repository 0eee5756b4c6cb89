//! `shorepass-issuer cluster bootstrap`: the issuer's account and first credential in a cluster, made with an administrator's
//! kubeconfig, of which nothing is kept.
//!
//! Rights are printed and not applied: an administrator should read what an issuer may do before it may. stdout is for
//! `kubectl apply -f -`, everything for people goes to stderr.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use shorepass_cluster::{Advertise, Bootstrap, Bootstrapped, Connection, OWN_LIFE, OwnAccount};
use shorepass_config::scalar::parse_duration;
use shorepass_core::name::Name;
use shorepass_core::receipt::LAG_BOUND;
use shorepass_core::time::{Clock as _, for_people};
use shorepass_daemon::clock::SystemClock;
use shorepass_daemon::hardening;

use super::rbac::Which;

/// Kubernetes gives no token less.
const FLOOR: Duration = Duration::from_secs(600);

/// Clusters of the issuer.
#[derive(Subcommand)]
pub(super) enum ClusterCommand {
    /// Make the issuer's ServiceAccount and first token with an administrator's kubeconfig; print the rights it needs.
    Bootstrap(Args),
}

/// Whose rights are used, and what is made.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The administrator's kubeconfig; nothing of it is kept.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The context in it.
    #[arg(long, value_name = "NAME")]
    context: String,
    #[command(flatten)]
    which: Which,
    /// The Secret that the issuer's tokens are bound to; deleting it ends them.
    #[arg(long, value_name = "NAME", default_value = "shorepass-issuer-credential", value_parser = Name::parse)]
    secret: Name,
    /// Where the issuer's kubeconfig and token are written; it is made if it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long the first token lives: until then the issuer must have started.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    lifetime: Duration,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let life = parse_duration(text)?;
    if (FLOOR..=OWN_LIFE).contains(&life) { Ok(life) } else { Err("write 10m to 24h".to_owned()) }
}

impl ClusterCommand {
    pub(super) fn run(self) -> Result<()> {
        let Self::Bootstrap(args) = self;
        args.run()
    }
}

impl Args {
    fn run(self) -> Result<()> {
        hardening::no_core_dumps()?;
        hardening::private_files();
        // First what can be wrong without a cluster: then nothing is made.
        let (cluster, account, rights) = self.which.render_renewing(self.secret)?;
        make_folder(&self.out)?;
        let folder = std::path::absolute(&self.out).unwrap_or(self.out);
        let admin = Connection {
            name: cluster.clone(),
            kubeconfig: self.kubeconfig,
            context: self.context,
            advertise: Advertise::default(),
            issuer: self.which.issuer,
            endpoints: Vec::new(),
            lag_bound: LAG_BOUND,
        };
        let bootstrap = Bootstrap { admin, account: account.clone(), life: self.lifetime, folder };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start")?;
        let made = runtime.block_on(bootstrap.run(SystemClock.now()))?;
        super::say(&rights)?;
        eprint!("{}", told(&cluster, &account, &made));
        Ok(())
    }
}

fn make_folder(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            Err(cause).with_context(|| format!("cannot make the folder {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What was made, and what comes next.
fn told(cluster: &Name, account: &OwnAccount, bootstrapped: &Bootstrapped) -> String {
    let OwnAccount { namespace, service_account, secret } = account;
    let Bootstrapped { kubeconfig, context, expires, made } = bootstrapped;
    let made = if made.is_empty() { "nothing that was not there".to_owned() } else { made.join(", ") };
    let (expires, path) = (for_people(*expires), kubeconfig.display());
    format!(
        "\
made: {made}
wrote {path} and the token beside it, which ends at {expires}: start the issuer before that, it renews it from then on
1. apply what was printed (kubectl apply -f -)
2. both files belong to the issuer's user, in a folder that it may write to
3. in the issuer's config:
  clusters:
    - name: {cluster}
      connect:
        kubeconfig: {{path: {path}, context: {context}}}
        renew: {{namespace: {namespace}, serviceAccount: {service_account}, secret: {secret}}}
      coordination: {{namespace: {namespace}}}
kill switch, if the issuer is stolen: kubectl -n {namespace} delete secret {secret}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_token_lives_from_ten_minutes_to_a_day() {
        assert_eq!(lifetime("10m"), Ok(FLOOR));
        assert_eq!(lifetime("24h"), Ok(OWN_LIFE));
        for odd in ["599s", "25h", "1", ""] {
            assert!(lifetime(odd).is_err(), "{odd}");
        }
    }
}
