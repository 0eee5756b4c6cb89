//! `control-plane up`, `down` and `env`: one control plane in a process of its own, for developers and scripts.
//!
//! `up` starts `serve`, which owns the processes as any other command would, and waits until it has published how to
//! use them. `down` asks it to end. Nothing restarts what dies: `serve` then stops the rest and keeps the logs.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use super::{Facts, Options, Release, binaries, claim, runs, start};
use crate::process::{self, Seen};
use crate::signals;

/// The name of the run that these commands mean.
const NAME: &str = "up";

/// What `serve` itself takes at most to start or to stop everything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts the control plane in the background.
pub(super) fn up(release: Option<Release>, controllers: bool) -> Result<()> {
    signals::watch()?;
    if runs_already()? {
        return already_up(release, controllers);
    }
    // Here and not in `serve`: it takes minutes, and here somebody watches.
    binaries::obtain(release, controllers)?;

    let log = log();
    fs::create_dir_all(runs()).with_context(|| format!("cannot create {}", runs().display()))?;
    let mut server = spawn_server(release, controllers, &log)?;
    match wait_for(&mut server, &log) {
        Ok(facts) => {
            print!("{}", usage("Kubernetes runs", &facts));
            Ok(())
        }
        Err(error) => {
            end(&mut server);
            // Another `up` that came at the same time may have been faster.
            if runs_already()? {
                return already_up(release, controllers);
            }
            remove_log()?;
            Err(error)
        }
    }
}

fn runs_already() -> Result<bool> {
    Ok(claim::holder(&runs(), NAME)?.is_some())
}

fn already_up(release: Option<Release>, controllers: bool) -> Result<()> {
    let facts = process::wait_until("the control plane that already starts", PATIENCE, || {
        ensure!(runs_already()?, "the control plane that was starting ended");
        Ok(Facts::read(&folder()).map_or_else(|| Seen::NotYet("it is not ready".to_owned()), Seen::Ready))
    })?;
    if let Some(release) = release
        && !facts.kubernetes.starts_with(&format!("{release}."))
    {
        bail!(
            "Kubernetes {} already runs and not {release}: `cargo xtask control-plane down` first",
            facts.kubernetes
        );
    }
    ensure!(
        facts.controllers || !controllers,
        "it already runs, without controllers: `cargo xtask control-plane down` first"
    );
    print!("{}", usage("Kubernetes already runs", &facts));
    Ok(())
}

fn spawn_server(release: Option<Release>, controllers: bool, log: &Path) -> Result<Child> {
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .and_then(|file| file.set_len(0).map(|()| file))
        .with_context(|| format!("cannot write {}", log.display()))?;
    let errors = output.try_clone().context("cannot share the log file")?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["control-plane", "serve"]);
    if let Some(release) = release {
        command.args(["--kubernetes", &release.to_string()]);
    }
    if controllers {
        command.arg("--controllers");
    }
    command.arg0("xtask").stdin(Stdio::null()).stdout(output).stderr(errors);
    command.spawn().context("cannot start the background process")
}

fn wait_for(server: &mut Child, log: &Path) -> Result<Facts> {
    process::wait_until("the control plane", PATIENCE, || {
        if let Some(status) = server.try_wait().context("cannot wait for the background process")? {
            bail!("the background process ended ({status}); {}", process::last_lines(log));
        }
        // Facts of a run that is over are gone: whoever claims the name starts with an empty folder.
        let ours = claim::holder(&runs(), NAME)? == i32::try_from(server.id()).ok();
        Ok(match Facts::read(&folder()).filter(|_| ours) {
            Some(facts) => Seen::Ready(facts),
            None => Seen::NotYet(process::last_lines(log)),
        })
    })
}

/// Ends a background process that did not become ready.
fn end(server: &mut Child) {
    let ended = i32::try_from(server.id()).context("no such process").and_then(|id| signal(id, Signal::TERM));
    if let Err(error) = ended.and_then(|()| server.wait().context("cannot wait for the background process")) {
        eprintln!("warning: {error:#}");
    }
}

/// Stops the control plane and removes what it made. It is no error if none runs.
pub(super) fn down() -> Result<()> {
    signals::watch()?;
    let Some(id) = claim::holder(&runs(), NAME)? else {
        claim::sweep(&runs());
        remove_log()?;
        println!("no control plane runs");
        return Ok(());
    };
    // The number is not stale: its process holds the lock.
    signal(id, Signal::TERM)?;
    process::wait_until("the control plane to end", PATIENCE, || {
        Ok(match claim::holder(&runs(), NAME)? {
            None => Seen::Ready(()),
            Some(id) => Seen::NotYet(format!("process {id} runs")),
        })
    })?;
    claim::sweep(&runs());
    remove_log()?;
    println!("the control plane is stopped");
    Ok(())
}

/// Prints what to put into a shell.
pub(super) fn env() -> Result<()> {
    print!("{}", exports(&published()?));
    Ok(())
}

/// The background process: starts the control plane and owns it until a signal or a failure.
pub(super) fn serve(release: Option<Release>, controllers: bool) -> Result<()> {
    // Away from the terminal that `up` was typed into.
    rustix::process::setsid().context("cannot leave the session")?;
    let mut running = start(&Options { name: NAME.to_owned(), release, controllers })?;
    loop {
        if signals::pause(Duration::from_millis(200)).is_err() {
            return running.stop();
        }
        if let Err(error) = running.check() {
            running.keep_folder();
            return Err(error);
        }
    }
}

fn published() -> Result<Facts> {
    if !runs_already()? {
        let log = log();
        let hint = if log.exists() {
            format!("; the last one ended by itself, see {}", log.display())
        } else {
            String::new()
        };
        bail!("no control plane runs: `cargo xtask control-plane up` starts one{hint}");
    }
    Facts::read(&folder()).context("the control plane is still starting")
}

fn usage(what: &str, facts: &Facts) -> String {
    let controllers = if facts.controllers { " with controllers" } else { "" };
    format!(
        "\
{what}: {}{controllers} at {}
  files and logs  {}
  in your shell   eval \"$(cargo xtask control-plane env)\"
                  \"$SHOREPASS_TEST_KUBECTL\" get namespaces
  stop it         cargo xtask control-plane down
",
        facts.kubernetes,
        facts.server,
        folder().display(),
    )
}

fn exports(facts: &Facts) -> String {
    let kubeconfig = ("KUBECONFIG", facts.kubeconfig.clone().into());
    std::iter::once(kubeconfig)
        .chain(facts.environment())
        .map(|(name, value)| format!("export {name}={}\n", quoted(&value.to_string_lossy())))
        .collect()
}

/// For a POSIX shell: within single quotes nothing is special but the single quote.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn signal(id: i32, signal: Signal) -> Result<()> {
    let id = Pid::from_raw(id).context("no such process")?;
    match rustix::process::kill_process(id, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(cause) => Err(cause).context("cannot signal the background process"),
    }
}

fn remove_log() -> Result<()> {
    let log = log();
    match fs::remove_file(&log) {
        Err(cause) if log.exists() => Err(cause).with_context(|| format!("cannot remove {}", log.display())),
        _ => Ok(()),
    }
}

fn folder() -> PathBuf {
    runs().join(NAME)
}

/// Beside the folder: it is written before the folder is claimed and read after it is gone.
fn log() -> PathBuf {
    runs().join(format!("{NAME}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_value_survives_a_shell() {
        let value = "it's $HOME; `id` \"x\"";
        let output =
            Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(value))).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
    }
}
