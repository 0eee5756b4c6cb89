//! A real Kubernetes for tests: etcd, kube-apiserver and, where asked for, kube-controller-manager.
//!
//! [`start`] gives a [`Running`] that is gone when it is dropped; the `control-plane` commands keep one in a process
//! of its own. There are no nodes, no scheduler and no pods: what is tested is who gets which token.
//!
//! Without the controllers nobody makes `default` ServiceAccounts, fills token Secrets, collects garbage or finishes
//! the deletion of a namespace (it stays `Terminating` and refuses new objects). Tests create the ServiceAccounts
//! that they use, give each scenario a namespace with a new name, and delete the objects in it one by one.

mod binaries;
mod claim;
mod detached;
mod launch;
mod pki;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

pub(crate) use binaries::Release;
pub(crate) use launch::{Facts, Running};

use crate::process::{self, Seen};
use crate::progress::Progress;
use crate::{paths, signals};
use claim::Claim;

/// How long the API server may take until it is ready; about 5 s is usual on two cores.
const READY: Duration = Duration::from_secs(90);

/// A port that was free when it was chosen can be taken before the server binds it.
const ATTEMPTS: u32 = 3;

/// Which control plane to start.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// What it is called: the name of its folder under `target/control-plane/run`. Processes that run at the same
    /// time need different names.
    pub(crate) name: String,
    /// The release to build, or whatever `KUBEBUILDER_ASSETS` has, or the default release.
    pub(crate) release: Option<Release>,
    /// Also kube-controller-manager, for what only controllers do.
    pub(crate) controllers: bool,
}

/// Gets the binaries, starts them on free loopback ports with fresh keys, and waits until they are ready. What was
/// started is stopped and removed when the result is dropped, also when this fails or is interrupted.
///
/// Call it from a thread that lives as long as the result (see `process`).
pub(crate) fn start(options: &Options) -> Result<Running> {
    signals::watch()?;
    let binaries = binaries::obtain(options.release, options.controllers)?;
    claim::sweep(&runs());
    let claim = Claim::take(&runs(), &options.name)?;
    let mut running = Running::new(claim, binaries)?;
    let mut progress = Progress::start(&format!("starting Kubernetes {}", running.facts().kubernetes), "5 s");
    let mut attempt = 1;
    loop {
        match launch_and_wait(&mut running, options.controllers, &mut progress) {
            Err(error) if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") => {
                running.stop()?;
                attempt += 1;
            }
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    running.publish()?;
    progress.done();
    Ok(running)
}

/// A kubectl for a cluster that somebody else runs: `KUBEBUILDER_ASSETS` or built, like the rest.
pub(crate) fn kubectl() -> Result<PathBuf> {
    signals::watch()?;
    Ok(binaries::obtain(None, false)?.path("kubectl"))
}

/// Gets the binaries that [`start`] needs, which takes minutes the first time: for those who want to know early.
pub(crate) fn prepare(release: Option<Release>, controllers: bool) -> Result<()> {
    signals::watch()?;
    binaries::obtain(release, controllers).map(|_| ())
}

fn launch_and_wait(running: &mut Running, controllers: bool, progress: &mut Progress) -> Result<()> {
    running.launch_server()?;
    wait(running, "/readyz", progress)?;
    wait(running, "/api/v1/namespaces/default", progress)?;
    if controllers {
        running.launch_controllers()?;
        wait(running, "/api/v1/namespaces/default/serviceaccounts/default", progress)?;
    }
    Ok(())
}

/// Waits until the API server answers a GET for `path` well.
fn wait(running: &mut Running, path: &str, progress: &mut Progress) -> Result<()> {
    process::wait_until(path, READY, || {
        running.check()?;
        let answer = running.look_at(path)?;
        progress.tick(|| format!("waiting for {path}"));
        Ok(answer.map_or_else(Seen::NotYet, Seen::Ready))
    })
}

/// The folder with one folder for each control plane that runs.
fn runs() -> PathBuf {
    cache().join("run")
}

fn cache() -> PathBuf {
    paths::target().join("control-plane")
}

/// The `control-plane` commands.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Start one in the background and say how to use it.
    ///
    /// The first start builds Kubernetes from source with Go, about six minutes on two cores; later ones take five
    /// seconds. KUBEBUILDER_ASSETS, when set, names a folder with kube-apiserver, etcd and kubectl to use instead.
    Up {
        /// The Kubernetes to run: the default and the oldest supported one. [default: 1.36]
        #[arg(long, value_name = "RELEASE")]
        kubernetes: Option<Release>,
        /// Also run the controllers for namespaces, ServiceAccounts, token Secrets and garbage.
        #[arg(long)]
        controllers: bool,
    },
    /// Stop it and remove everything it made.
    Down,
    /// Print shell lines for it: `eval "$(cargo xtask control-plane env)"`.
    Env,
    /// Be the background process of `up`.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        kubernetes: Option<Release>,
        #[arg(long)]
        controllers: bool,
    },
}

impl Command {
    /// Does what the command says.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Up { kubernetes, controllers } => detached::up(kubernetes, controllers),
            Self::Down => detached::down(),
            Self::Env => detached::env(),
            Self::Serve { kubernetes, controllers } => detached::serve(kubernetes, controllers),
        }
    }
}
