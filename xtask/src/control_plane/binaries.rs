//! Where the programs of the control plane come from: `KUBEBUILDER_ASSETS`, or built with Go from the pinned module.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context, Result, bail, ensure};

use super::cache;
use crate::go::{Build, Program};
use crate::paths;

const ASSETS: &str = "KUBEBUILDER_ASSETS";

const PROGRAMS: &[Program] = &[
    Program { package: "go.etcd.io/etcd/server/v3", name: "etcd" },
    Program { package: "k8s.io/kubernetes/cmd/kube-apiserver", name: "kube-apiserver" },
    Program { package: "k8s.io/kubernetes/cmd/kube-controller-manager", name: "kube-controller-manager" },
    Program { package: "k8s.io/kubernetes/cmd/kubectl", name: "kubectl" },
];

const WAYS_OUT: &[&str] = &[
    "or set KUBEBUILDER_ASSETS to a folder that has kube-apiserver, etcd and kubectl",
    "or use a cluster that you have, where the command takes one: --kubeconfig FILE --context NAME",
];

/// A pinned release of Kubernetes; the patch release stands in its go.mod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Release {
    /// The oldest supported one. It ignores the UID in a TokenRequest.
    #[value(name = "1.33")]
    Oldest,
    /// The one that is tested by default.
    #[default]
    #[value(name = "1.36")]
    Newest,
}

impl Release {
    fn module(self) -> PathBuf {
        paths::root().join("integration-tests/control-plane").join(self.to_string())
    }

    /// The pinned version without the `v`, such as `1.36.3`.
    fn version(self) -> Result<String> {
        let path = self.module().join("go.mod");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        pinned(&text).with_context(|| format!("{} requires no k8s.io/kubernetes", path.display()))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oldest => "1.33",
            Self::Newest => "1.36",
        })
    }
}

/// The programs of one control plane.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(super) folder: PathBuf,
    pub(super) kubernetes: String,
}

impl Binaries {
    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }
}

/// The programs in `KUBEBUILDER_ASSETS` if that is set, the built ones otherwise.
pub(super) fn obtain(release: Option<Release>, controllers: bool) -> Result<Binaries> {
    match env::var_os(ASSETS).filter(|folder| !folder.is_empty()) {
        Some(folder) => given(PathBuf::from(folder), release, controllers),
        None => built(release.unwrap_or_default()),
    }
}

fn built(release: Release) -> Result<Binaries> {
    let kubernetes = release.version()?;
    let build = Build {
        what: format!("Kubernetes {kubernetes}"),
        usually: "6 minutes on two cores, once",
        module: release.module(),
        programs: PROGRAMS,
        linker_flags: version_flags(&kubernetes),
        cache: cache().join(&kubernetes),
        ways_out: WAYS_OUT,
    };
    Ok(Binaries { folder: build.obtain()?, kubernetes })
}

fn given(folder: PathBuf, release: Option<Release>, controllers: bool) -> Result<Binaries> {
    let folder = folder.canonicalize().with_context(|| format!("{ASSETS}={}", folder.display()))?;
    for program in PROGRAMS {
        let optional = program.name == "kube-controller-manager" && !controllers;
        let present = folder.join(program.name).is_file();
        ensure!(present || optional, "{ASSETS}={} has no {}", folder.display(), program.name);
    }
    let kubernetes = version_of(&folder.join("kube-apiserver"))?;
    if let Some(release) = release
        && !kubernetes.starts_with(&format!("{release}."))
    {
        bail!("{ASSETS} has Kubernetes {kubernetes} and not {release}: unset it or ask for what it has");
    }
    Ok(Binaries { folder, kubernetes })
}

/// Kubernetes takes its version from the linker, and client-go its own for the user agent. Without them the server says
/// `v0.0.0-master` and clients misbehave.
fn version_flags(kubernetes: &str) -> String {
    let mut numbers = kubernetes.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"]
        .map(|package| {
            format!("-X {package}.gitVersion=v{kubernetes} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}")
        })
        .join(" ")
}

fn version_of(kube_apiserver: &Path) -> Result<String> {
    let output = Command::new(kube_apiserver)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", kube_apiserver.display()))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let version = answer.trim().strip_prefix("Kubernetes v");
    version.map(Into::into).with_context(|| format!("{} --version said {answer:?}", kube_apiserver.display()))
}

/// The version of Kubernetes that a go.mod requires.
fn pinned(go_mod: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let version = line.trim().trim_start_matches("require ").strip_prefix("k8s.io/kubernetes v")?;
        version.split_whitespace().next().map(Into::into)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_is_pinned_to_a_patch_release_of_its_own() {
        for release in [Release::Oldest, Release::Newest] {
            assert!(release.version().unwrap().starts_with(&format!("{release}.")));
        }
    }

    #[test]
    fn the_linker_gets_the_whole_version() {
        let flags = version_flags("1.36.3");
        for part in ["gitVersion=v1.36.3", "gitMajor=1 ", "gitMinor=36"] {
            assert!(format!("{flags} ").contains(part), "{flags}");
        }
    }
}
