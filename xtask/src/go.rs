//! Builds programs that a `go.mod` of ours pins, once, into a cache under `target/`.
//!
//! It downloads nothing itself: the Go client does, with go.sum as the guard and with the settings of the user.
//! Whoever holds the lock builds, others wait and then find the result. The finished folder appears by one rename,
//! so a killed build leaves no half program.
//!
//! The questionable decision: what a build was made from stands next to it as text (go.mod, go.sum, flags) and is
//! compared whole. A hash would say the same and explain less.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{self, Owned};
use crate::progress::Progress;
use crate::signals;

/// The oldest Go that can build what we pin.
const OLDEST_GO: (u32, u32) = (1, 26);

/// The file in a finished folder that says what it was built from.
const BUILT_FROM: &str = "built-from";

/// A program of a pinned module.
pub(crate) struct Program {
    /// The import path of its main package.
    pub(crate) package: &'static str,
    /// What the file is to be called.
    pub(crate) name: &'static str,
}

/// Something to build.
pub(crate) struct Build {
    /// What it is called in messages.
    pub(crate) what: String,
    /// How long it takes on two cores with an empty cache.
    pub(crate) usually: &'static str,
    /// The folder with go.mod and go.sum.
    pub(crate) module: PathBuf,
    /// The programs.
    pub(crate) programs: &'static [Program],
    /// Linker flags beyond `-s -w`.
    pub(crate) linker_flags: String,
    /// The folder under `target/` for the result, the lock and the log.
    pub(crate) cache: PathBuf,
    /// What to do without Go, one line each.
    pub(crate) ways_out: &'static [&'static str],
}

impl Build {
    /// The folder with the programs, built if it is not there or was built from something else.
    pub(crate) fn obtain(&self) -> Result<PathBuf> {
        let folder = self.cache.join("bin");
        let wanted = self.built_from()?;
        if self.is_current(&folder, &wanted) {
            return Ok(folder);
        }
        signals::watch()?;
        fs::create_dir_all(&self.cache).with_context(|| format!("cannot create {}", self.cache.display()))?;
        let _lock = self.lock()?;
        if self.is_current(&folder, &wanted) {
            return Ok(folder);
        }
        self.check_go()?;
        self.build(&folder, &wanted)?;
        Ok(folder)
    }

    fn is_current(&self, folder: &Path, wanted: &str) -> bool {
        fs::read_to_string(folder.join(BUILT_FROM)).is_ok_and(|found| found == wanted)
            && self.programs.iter().all(|program| folder.join(program.name).is_file())
    }

    fn built_from(&self) -> Result<String> {
        let read = |name| {
            let path = self.module.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let arguments = self.arguments(Path::new("bin")).join(" ");
        Ok(format!("go {arguments}\n\n{}\n{}", read("go.mod")?, read("go.sum")?))
    }

    fn arguments(&self, output: &Path) -> Vec<String> {
        let mut arguments: Vec<String> = ["build", "-v", "-trimpath", "-mod=readonly"].map(Into::into).into();
        arguments.push(format!("-ldflags=-s -w {}", self.linker_flags).trim_end().to_owned());
        arguments.push("-o".to_owned());
        arguments.push(format!("{}/", output.display()));
        arguments.extend(self.programs.iter().map(|program| program.package.to_owned()));
        arguments
    }

    /// Two processes that want the same would each take minutes and then collide: the second waits for the first.
    fn lock(&self) -> Result<File> {
        let path = self.cache.join("build.lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut progress = None;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => progress
                    .get_or_insert_with(|| {
                        Progress::start(&format!("another xtask builds {}", self.what), self.usually)
                    })
                    .tick(|| "waiting for it".to_owned()),
                Err(TryLockError::Error(cause)) => {
                    return Err(cause).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            signals::pause(Duration::from_millis(200))?;
        }
    }

    fn build(&self, folder: &Path, wanted: &str) -> Result<()> {
        let partial = self.cache.join("bin.partial");
        remove_folder(&partial)?;
        fs::create_dir(&partial).with_context(|| format!("cannot create {}", partial.display()))?;

        let mut command = process::command("go");
        command.args(self.arguments(&partial)).current_dir(&self.module);
        isolate(&mut command);
        let mut progress = Progress::start(&format!("building {} with Go", self.what), self.usually);
        Owned::spawn("go build", command, &self.cache.join("build.log"))?
            .finish(|log| progress.tick(|| format!("{} packages compiled", process::lines(log))))
            .with_context(|| format!("cannot build {}", self.what))?;

        for program in self.programs {
            let built = partial.join(last_element(program.package));
            fs::rename(&built, partial.join(program.name))
                .with_context(|| format!("go build left no {}", built.display()))?;
        }
        fs::write(partial.join(BUILT_FROM), wanted).context("cannot note what was built")?;
        remove_folder(folder)?;
        fs::rename(&partial, folder).with_context(|| format!("cannot move to {}", folder.display()))?;
        progress.done();
        Ok(())
    }

    /// Asked inside the module, so that a Go that may fetch a newer toolchain for it does so and counts as that.
    fn check_go(&self) -> Result<()> {
        let mut command = Command::new("go");
        command.args(["env", "GOVERSION"]).current_dir(&self.module);
        isolate(&mut command);
        let output = match command.output() {
            Ok(output) => output,
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                bail!(self.no_go("there is no Go on this machine"))
            }
            Err(cause) => return Err(cause).context("cannot run go"),
        };
        let answer = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!(self.no_go(String::from_utf8_lossy(&output.stderr).trim()));
        }
        if go_version(&answer).is_some_and(|version| version < OLDEST_GO) {
            bail!(self.no_go(&format!("{} is too old", answer.trim())));
        }
        Ok(())
    }

    fn no_go(&self, why: &str) -> String {
        let ways: String = self.ways_out.iter().map(|way| format!("\n  - {way}")).collect();
        let (major, minor) = OLDEST_GO;
        format!(
            "cannot build {}: {why}\n  - install Go {major}.{minor} or newer (https://go.dev/dl/){ways}",
            self.what
        )
    }
}

/// What a user may have set for other work must not change what is built here.
fn isolate(command: &mut Command) {
    command.env("CGO_ENABLED", "0").env("GOWORK", "off").env_remove("GOOS").env_remove("GOARCH");
    if env::var_os("GOFLAGS").is_some_and(|flags| flags.to_string_lossy().contains("-mod")) {
        command.env_remove("GOFLAGS");
    }
}

/// `go1.26.8` as (1, 26). A development version has no number and is trusted.
fn go_version(answer: &str) -> Option<(u32, u32)> {
    let mut numbers = answer.trim().strip_prefix("go")?.split(['.', 'r', 'b']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The name that `go build` gives a program: the last element of its package, without a major version.
fn last_element(package: &str) -> &str {
    let is_version = |element: &str| element.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
    package.rsplit('/').find(|element| !is_version(element)).unwrap_or(package)
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            Err(cause).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_of_go() {
        for (answer, version) in [
            ("go1.26.8\n", Some((1, 26))),
            ("go1.26rc1", Some((1, 26))),
            ("go1.9", Some((1, 9))),
            ("go2.0", Some((2, 0))),
            ("devel go1.27-abcdef", None),
        ] {
            assert_eq!(go_version(answer), version, "{answer}");
        }
    }

    #[test]
    fn names_programs_as_go_does() {
        for (package, name) in [
            ("go.etcd.io/etcd/server/v3", "server"),
            ("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
            ("example.test/values", "values"),
        ] {
            assert_eq!(last_element(package), name);
        }
    }
}
