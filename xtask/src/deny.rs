//! `cargo xtask deny`: cargo-deny over all dependencies, as `deny.toml` says.
//!
//! Bans, licences and sources are always checked. The database of advisories has to be fetched and is not within
//! reach of every machine: where it cannot be had, that is said and is no failure. What is said is what was checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{self, Owned, Seen};
use crate::progress::Progress;
use crate::{cargo, paths, signals};

/// The pinned cargo-deny.
const VERSION: &str = "0.20.2";

/// How long the database may take.
const FETCH: Duration = Duration::from_secs(120);

/// Checks the dependencies.
pub(crate) fn run() -> Result<()> {
    signals::watch()?;
    let program = obtain()?;
    check(&program, &["bans", "licenses", "sources"])?;
    match fetch_database(&program) {
        Ok(()) => {
            check(&program, &["--disable-fetch", "advisories"])?;
            println!("checked: bans, licences, sources, advisories");
        }
        Err(error) if error.is::<signals::Interrupted>() => return Err(error),
        Err(error) => {
            println!("the advisory database cannot be had: {error:#}");
            println!("checked: bans, licences, sources; NOT checked: advisories");
        }
    }
    Ok(())
}

/// The path of cargo-deny, built if needed. A debug build: it is built in a third of the time and runs for a second.
fn obtain() -> Result<PathBuf> {
    let folder = paths::target().join("cargo-tools");
    let program = folder.join("bin/cargo-deny");
    if is_current(&program) {
        return Ok(program);
    }
    let build = folder.join("build");
    fs::create_dir_all(&build).with_context(|| format!("cannot create {}", build.display()))?;
    let mut command = cargo::command(&["install", "cargo-deny", "--version", VERSION, "--locked", "--force"]);
    command.args(["--debug", "--config", "profile.dev.debug=false", "--no-default-features"]);
    command.arg("--root").arg(&folder).arg("--target-dir").arg(&build);
    let mut progress =
        Progress::start(&format!("building cargo-deny {VERSION}"), "2 minutes on two cores, once");
    Owned::spawn("cargo install", command, &folder.join("build.log"))?
        .finish(|log| progress.tick(|| format!("{} lines in its log", process::lines(log))))
        .context("cannot build cargo-deny")?;
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    progress.done();
    Ok(program)
}

fn is_current(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    output
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().ends_with(&format!(" {VERSION}")))
}

fn check(program: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = process::command(program);
    command.args(["--log-level", "warn", "check"]).args(arguments).current_dir(paths::root());
    Owned::spawn_visible("cargo deny", command)?.finish(|_| ())
}

fn fetch_database(program: &Path) -> Result<()> {
    let mut command = process::command(program);
    command.args(["fetch", "db"]).current_dir(paths::root());
    // Nobody is there to give a password.
    command.env("GIT_TERMINAL_PROMPT", "0");
    let log = paths::target().join("cargo-tools/fetch.log");
    let mut fetch = Owned::spawn("cargo deny fetch", command, &log)?;
    let status = process::wait_until("the advisory database", FETCH, || {
        Ok(fetch.ended()?.map_or_else(|| Seen::NotYet("it is being fetched".to_owned()), Seen::Ready))
    })?;
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        bail!("{}", said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given"));
    }
    Ok(())
}
