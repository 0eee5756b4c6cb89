//! The test programs: compiled by cargo, found by what it says that it made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cargo::{self, Package};
use crate::paths;
use crate::process::Owned;

/// The package whose test program needs a control plane.
const INTEGRATION: &str = "integration-tests";

/// The daemons and all test programs in one go: two would resolve features twice and compile much of it twice.
const BUILD: [&str; 5] = ["build", "--workspace", "--bins", "--tests", "--features"];

/// One test program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suite {
    /// Its package and target, such as `shorepass-core lib`.
    pub(super) name: String,
    /// The program.
    pub(super) program: PathBuf,
    /// The folder of its package, where cargo would run it.
    pub(super) folder: PathBuf,
}

/// All of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Suites {
    /// Those that need nothing.
    pub(super) units: Vec<Suite>,
    /// The one that needs a control plane.
    pub(super) integration: Vec<Suite>,
}

/// Compiles the daemons and the tests with these features of the issuer.
pub(super) fn build(features: &str) -> Result<Suites> {
    let build = [&BUILD[..], &[features]].concat();
    cargo::run(&build)?;
    // Once more, for a machine to read: everything is there already.
    let log = paths::target().join("tests-built.json");
    let mut arguments = build;
    arguments.extend(["--quiet", "--message-format=json"]);
    Owned::spawn("cargo build", cargo::command(&arguments), &log)?.finish(|_| ())?;
    let messages = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    fs::remove_file(&log).with_context(|| format!("cannot remove {}", log.display()))?;
    Ok(find(&messages, &cargo::packages()?))
}

/// What cargo says of one thing that it made.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The lines that are no artifacts (messages of the compiler, warnings from the log) are passed over.
fn find(messages: &str, packages: &[Package]) -> Suites {
    let mut suites = Suites::default();
    for artifact in messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok()) {
        let package = packages.iter().find(|package| package.manifest_path == artifact.manifest_path);
        let (Some(program), Some(package), true) = (artifact.executable, package, artifact.profile.test)
        else {
            continue;
        };
        let kind = artifact.target.kind.join(" ");
        let suite = Suite {
            name: match kind.as_str() {
                "lib" => format!("{} lib", package.name),
                _ => format!("{} {kind} {}", package.name, artifact.target.name),
            },
            program,
            folder: package.folder().to_path_buf(),
        };
        match package.name == INTEGRATION && kind == "test" {
            true => suites.integration.push(suite),
            false => suites.units.push(suite),
        }
    }
    suites.units.sort_by(|left, right| left.name.cmp(&right.name));
    suites
}

/// The file for its output.
pub(super) fn log_of(suite: &str, folder: &Path) -> PathBuf {
    folder.join(format!("{}.log", suite.replace(' ', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_what_cargo_made() {
        let artifact = |package: &str, kind: &str, name: &str, test: bool, program: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"{package}/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":{program}}}"#
            )
        };
        let messages = [
            artifact("crates/b", "lib", "b", true, r#""b-1""#),
            artifact("crates/b", "lib", "b", false, "null"),
            artifact("crates/b", "bin", "b-daemon", false, r#""b-daemon""#),
            artifact("elsewhere", "lib", "foreign", true, r#""foreign""#),
            r#"{"reason":"compiler-message","manifest_path":"crates/b/Cargo.toml"}"#.to_owned(),
            artifact("it", "test", "it", true, r#""it-1""#),
            artifact("it", "lib", "harness", true, r#""harness-1""#),
            "warning: something".to_owned(),
        ];
        let packages = ["b", INTEGRATION].map(|name| Package {
            name: name.to_owned(),
            manifest_path: if name == "b" { "crates/b/Cargo.toml" } else { "it/Cargo.toml" }.into(),
            dependencies: Vec::new(),
        });
        let suites = find(&messages.join("\n"), &packages);
        let names = |suites: &[Suite]| suites.iter().map(|suite| suite.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&suites.units), ["b lib", "integration-tests lib"]);
        assert_eq!(names(&suites.integration), ["integration-tests test it"]);
        assert_eq!(suites.integration[0].folder, Path::new("it"));
    }
}
