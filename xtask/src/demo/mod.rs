//! `cargo xtask demo`: one credential from a clone to a revoked kubectl, on a real Kubernetes, with evidence.
//!
//! Each step prints what it saw, and fails the demo when it did not see what it claims. The steps stand here in order;
//! what they do is in the other files: [`site`] the cluster's side, [`daemons`] ours, [`evidence`] what proves it,
//! [`ending`] the revocation. Everything is removed in the end, also after Ctrl-C and after a failure.

pub(crate) mod daemons;
mod ending;
pub(crate) mod evidence;
mod show;
pub(crate) mod site;

use std::path::PathBuf;
use std::process::Command as Process;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::control_plane::Release;
use crate::{paths, signals};
use daemons::Daemons;
use show::Show;
use site::Site;

/// Show one credential being issued, used, refreshed and revoked on a real Kubernetes.
///
/// Builds and starts everything it needs: etcd and kube-apiserver (about six minutes the first time), the issuer, the
/// agent, kubectl. Ends with 0 only if each step saw what it claims.
#[derive(clap::Args)]
pub(crate) struct Command {
    /// Leave all of it running until Ctrl-C, and print the lines to play with it.
    #[arg(long)]
    keep: bool,
    /// The Kubernetes to build and start. [default: 1.36]
    #[arg(long, value_name = "RELEASE", conflicts_with = "kubeconfig")]
    kubernetes: Option<Release>,
    /// Use a cluster that you have: a kubeconfig with the rights to make namespaces, roles and admission policies.
    #[arg(long, value_name = "FILE", requires = "context")]
    kubeconfig: Option<PathBuf>,
    /// The context in that kubeconfig.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
}

impl Command {
    /// Runs the steps, then removes what they made.
    pub(crate) fn run(self) -> Result<()> {
        signals::watch()?;
        build()?;
        let mut show = Show::new();
        let mut site = match (&self.kubeconfig, &self.context) {
            (Some(kubeconfig), Some(context)) => Site::theirs(kubeconfig, context)?,
            _ => Site::ours(self.kubernetes)?,
        };
        let mut daemons = None;
        let outcome = steps(&mut show, &mut site, &mut daemons, self.keep);
        // What goes wrong because of a signal is no failure of a step.
        let outcome = outcome.map_err(|error| signals::check().err().unwrap_or(error));
        if let (Err(error), Some(daemons)) = (&outcome, &daemons)
            && !error.is::<signals::Interrupted>()
        {
            show.failure(daemons);
        }
        let step = show.begin(8, "stop and remove");
        drop(daemons);
        let removed = site.remove();
        match (outcome, removed) {
            (Ok(()), Ok(what)) => {
                step.end(&mut show, &[what]);
                show.all_well();
                Ok(())
            }
            (Err(error), Ok(_)) => Err(error),
            (Ok(()), Err(error)) => Err(error),
            (Err(error), Err(left)) => {
                eprintln!("warning: not everything was removed: {left:#}");
                Err(error)
            }
        }
    }
}

fn steps(show: &mut Show, site: &mut Site, daemons: &mut Option<Daemons>, keep: bool) -> Result<()> {
    show.done(1, "control plane", site.started_in(), &[site.describe()]);

    let step = show.begin(2, "in the cluster");
    let set_up = site.set_up()?;
    step.end(show, &set_up);

    signals::check()?;
    let step = show.begin(3, "shorepass-issuer");
    let daemons = daemons.insert(Daemons::new(site)?);
    let started = daemons.start_issuer(site)?;
    step.end(show, &started);

    signals::check()?;
    let step = show.begin(4, "shorepass-agent");
    let enrolled = daemons.start_agent()?;
    step.end(show, &enrolled);

    signals::check()?;
    let step = show.begin(5, "kubectl");
    let kubectl = daemons.kubectl(site)?;
    evidence::first_token(daemons)?;
    let mut lines = evidence::may_and_may_not(&kubectl)?;
    let credential = evidence::Credential::of(daemons, site, &kubectl)?;
    lines.push(credential.agreement());
    step.end(show, &lines);

    signals::check()?;
    let step = show.begin(6, "shorepass lease list");
    let table = daemons.operator(&["lease", "list"])?;
    ensure!(table.contains(&credential.jti), "`shorepass lease list` does not show jti {}", credential.jti);
    step.end(show, &table.lines().map(str::to_owned).collect::<Vec<_>>());

    if keep {
        show.keep(&daemons.lines_to_paste(site, &kubectl));
        return wait_for_the_end();
    }

    signals::check()?;
    let step = show.begin(7, "shorepass lease revoke");
    let revoked = ending::revoke_and_watch(daemons, site, &kubectl, &credential)?;
    step.end(show, &revoked);
    Ok(())
}

/// Sleeps until Ctrl-C, which is how `--keep` ends well.
fn wait_for_the_end() -> Result<()> {
    loop {
        if signals::pause(Duration::from_millis(200)).is_err() {
            eprintln!();
            return Ok(());
        }
    }
}

/// Builds our programs; cargo shows its own progress.
pub(crate) fn build() -> Result<()> {
    eprintln!("building shorepass (usually 4 min the first time)");
    let status = Process::new(env!("CARGO"))
        .args(["build", "--workspace", "--bins", "--exclude", "xtask"])
        .current_dir(paths::root())
        .status()
        .context("cannot run cargo")?;
    signals::check()?;
    ensure!(status.success(), "shorepass does not build; cargo says why above");
    Ok(())
}
