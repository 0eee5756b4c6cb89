//! Runs cargo on this workspace, and asks it what the workspace is made of.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::paths;
use crate::process::{self, Owned};

/// A cargo that dies with xtask. What `cargo run` told xtask about itself is taken back: a build script that looks at
/// it would be run again, and everything behind it compiled again.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = process::command(program());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.args(arguments).current_dir(paths::root());
    command
}

/// Runs cargo in front of whoever watches; an error if it failed.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let name = format!("cargo {}", arguments.first().copied().unwrap_or_default());
    Owned::spawn_visible(&name, command(arguments))?.finish(|_| ())
}

/// What cargo prints, for questions that it answers at once.
pub(crate) fn ask(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(paths::root()).stdin(Stdio::null());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("cargo printed what is not UTF-8")
}

fn program() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A package of the workspace.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its Cargo.toml.
    pub(crate) manifest_path: PathBuf,
    /// What it depends on by itself.
    pub(crate) dependencies: Vec<Dependency>,
}

impl Package {
    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}

/// One dependency as the package's Cargo.toml has it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The name of the package that is depended on.
    pub(crate) name: String,
    /// For what.
    #[serde(default)]
    pub(crate) kind: Kind,
}

/// What a dependency is for; cargo writes `null` for the ordinary kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Option<String>")]
pub(crate) enum Kind {
    /// For the package itself.
    #[default]
    Normal,
    /// For its tests.
    Dev,
    /// For its build script.
    Build,
}

impl From<Option<String>> for Kind {
    fn from(text: Option<String>) -> Self {
        match text.as_deref() {
            Some("dev") => Self::Dev,
            Some("build") => Self::Build,
            _ => Self::Normal,
        }
    }
}

/// The packages of the workspace.
pub(crate) fn packages() -> Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let answer = ask(&["metadata", "--no-deps", "--format-version", "1"])?;
    let metadata: Metadata =
        serde_json::from_str(&answer).context("cannot read what cargo metadata printed")?;
    Ok(metadata.packages)
}
