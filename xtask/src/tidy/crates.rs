//! Which of our crates may depend on which, and which heavy dependency lives in which room.
//!
//! `core`, `proto` and `files` depend on nothing of ours; the rooms depend on those three and never on each other; `issuer`,
//! `agent` and `cli` are the only places where rooms meet. Direct dependencies of every kind are looked at, also
//! those of tests; for the two programs on the runner also everything that is linked into them.

use anyhow::Result;

use super::Problem;
use crate::cargo::{Dependency, Kind, Package};

/// Our crates, and which of ours each may depend on.
const ROOMS: &[(&str, Ours)] = &[
    ("shorepass-core", Ours::Only(&[])),
    ("shorepass-proto", Ours::Only(&[])),
    ("shorepass-files", Ours::Only(&[])),
    ("shorepass-tls", Ours::Only(&[CORE, FILES])),
    ("shorepass-cluster", Ours::Only(&[CORE, FILES])),
    ("shorepass-conditions", Ours::Only(&[CORE])),
    ("shorepass-config", Ours::Only(&[CORE])),
    ("shorepass-daemon", Ours::Only(&[CORE])),
    ("shorepass-oidc", Ours::Only(&[CORE])),
    ("shorepass-rpc", Ours::Only(&[CORE, PROTO])),
    ("shorepass-store", Ours::Only(&[CORE, PROTO])),
    ("shorepass-exec", Ours::Only(&[PROTO])),
    ("shorepass-testing", Ours::Only(&[CORE])),
    ("shorepass-issuer", Ours::Any),
    ("shorepass-agent", Ours::Any),
    ("shorepass-cli", Ours::Any),
    ("integration-tests", Ours::Any),
    ("xtask", Ours::Only(&[])),
];

const CORE: &str = "shorepass-core";
const FILES: &str = "shorepass-files";
const PROTO: &str = "shorepass-proto";
const TESTING: &str = "shorepass-testing";
const INTEGRATION: &str = "integration-tests";

/// Which of our crates a crate may depend on.
enum Ours {
    /// These.
    Only(&'static [&'static str]),
    /// All of them: rooms meet here.
    Any,
}

/// Heavy dependencies and the rooms that they live in.
const HEAVY: &[Heavy] = &[
    Heavy { names: &["tonic*"], rooms: &["shorepass-rpc"], tests_of: &[] },
    // The keys of token issuers are fetched as a client of the web's PKI, which has nothing in common with our own TLS but
    // the library; tests serve such keys. The integration tests also shake hands as nobody of ours would.
    Heavy {
        names: &["rustls*", "tokio-rustls"],
        rooms: &["shorepass-tls", "shorepass-oidc", TESTING, INTEGRATION],
        tests_of: &[],
    },
    Heavy { names: &["x509-parser"], rooms: &["shorepass-tls", INTEGRATION], tests_of: &[] },
    Heavy { names: &["jsonwebtoken"], rooms: &["shorepass-oidc"], tests_of: &[] },
    // Certificates for tests, and those of the test control plane.
    Heavy { names: &["rcgen"], rooms: &["shorepass-tls", TESTING, "xtask"], tests_of: &[] },
    Heavy { names: &["kube*", "k8s-openapi"], rooms: &["shorepass-cluster", INTEGRATION], tests_of: &[] },
    Heavy { names: &["cel"], rooms: &["shorepass-conditions"], tests_of: &[] },
    Heavy { names: &["sled"], rooms: &["shorepass-store"], tests_of: &[] },
    // The kubeconfig that the command renders is read back as YAML.
    Heavy { names: &["serde-saphyr"], rooms: &["shorepass-config"], tests_of: &["shorepass-cli"] },
];

/// Dependencies that are kept to some of our crates.
struct Heavy {
    /// A name that ends in `*` stands for all that begin like it.
    names: &'static [&'static str],
    /// Who may depend on them.
    rooms: &'static [&'static str],
    /// Whose tests may.
    tests_of: &'static [&'static str],
}

/// What must not be linked into a program, however it would get there.
const NEVER_LINKED: &[(&str, &[&str], &str)] = &[
    (
        "shorepass-agent",
        &["kube*", "k8s-openapi", "sled", "shorepass-cluster", "shorepass-store"],
        "an agent that could mint or record is a bug",
    ),
    (
        "shorepass-exec",
        &["tonic*", "hyper*", "rustls*", "kube*", "tokio*"],
        "kubectl starts the plugin for every command",
    ),
];

/// Checks what the packages say that they depend on.
pub(super) fn check(packages: &[Package]) -> Vec<Problem> {
    let ours: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut problems = Vec::new();
    for package in packages {
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == package.name) else {
            problems.push(problem(package, "a new crate: give it a row in ROOMS".to_owned()));
            continue;
        };
        for dependency in &package.dependencies {
            let wrong = match ours.contains(&dependency.name.as_str()) {
                true => misplaced_ours(package, allowed, dependency),
                false => misplaced_heavy(package, dependency),
            };
            problems.extend(wrong.map(|what| problem(package, what)));
        }
    }
    problems
}

fn misplaced_ours(package: &Package, allowed: &Ours, dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    if name == TESTING {
        let only_tests = dependency.kind == Kind::Dev || package.name == INTEGRATION;
        return (!only_tests).then(|| format!("{TESTING} is a dev-dependency only"));
    }
    match allowed {
        Ours::Any => None,
        Ours::Only(names) if names.contains(&name) => None,
        Ours::Only([]) => Some(format!("may depend on none of our crates, and not on {name}")),
        Ours::Only(names) => {
            Some(format!("may depend on {} of our crates, and not on {name}", names.join(" and ")))
        }
    }
}

fn misplaced_heavy(package: &Package, dependency: &Dependency) -> Option<String> {
    let heavy = HEAVY.iter().find(|heavy| any_matches(heavy.names, &dependency.name))?;
    let name = package.name.as_str();
    let fits = heavy.rooms.contains(&name) || dependency.kind == Kind::Dev && heavy.tests_of.contains(&name);
    (!fits).then(|| format!("{} belongs to {} only", dependency.name, heavy.rooms.join(", ")))
}

/// Checks what is linked into the programs that must stay small. `tree` gives what `cargo tree` prints for a package.
pub(super) fn check_linked(tree: impl Fn(&str) -> Result<String>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (package, never, why) in NEVER_LINKED {
        let mut linked: Vec<String> = linked(&tree(package)?).map(Into::into).collect();
        linked.sort();
        linked.dedup();
        for name in linked.iter().filter(|name| any_matches(never, name)) {
            problems.push(Problem::new(
                *package,
                None,
                format!("links {name} ({why}); `cargo tree -p {package} -i {name}` shows why"),
            ));
        }
    }
    Ok(problems)
}

/// For `cargo tree`: one line for each package that is linked into this one.
pub(super) fn tree_arguments(package: &str) -> [&str; 9] {
    ["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"]
}

/// The names in what `cargo tree` printed.
fn linked(tree: &str) -> impl Iterator<Item = &str> {
    tree.lines().filter_map(|line| line.split_whitespace().next())
}

fn any_matches(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *pattern,
    })
}

fn problem(package: &Package, what: String) -> Problem {
    Problem::new(format!("{} (Cargo.toml)", package.name), None, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, Kind)]) -> Package {
        let dependencies =
            dependencies.iter().map(|&(name, kind)| Dependency { name: name.to_owned(), kind }).collect();
        Package { name: name.to_owned(), manifest_path: "Cargo.toml".into(), dependencies }
    }

    /// What is said about a package with one dependency, in a workspace that has all our crates.
    fn verdict(name: &str, dependency: &str, kind: Kind) -> Vec<String> {
        let mut packages: Vec<Package> = ROOMS.iter().map(|(room, _)| package(room, &[])).collect();
        packages.retain(|package| package.name != name);
        packages.push(package(name, &[(dependency, kind)]));
        check(&packages).into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn edges_that_do_not_fit_are_found() {
        for (package, dependency, kind) in [
            ("shorepass-core", PROTO, Kind::Normal),
            ("shorepass-core", "shorepass-tls", Kind::Dev),
            ("shorepass-rpc", "shorepass-tls", Kind::Normal),
            ("shorepass-store", "shorepass-rpc", Kind::Build),
            ("shorepass-exec", CORE, Kind::Normal),
            ("shorepass-issuer", TESTING, Kind::Normal),
            ("xtask", CORE, Kind::Normal),
            ("shorepass-issuer", "tonic", Kind::Normal),
            ("shorepass-issuer", "tonic-types", Kind::Dev),
            ("shorepass-agent", "rustls", Kind::Normal),
            ("shorepass-rpc", "kube-client", Kind::Normal),
            ("shorepass-issuer", "sled", Kind::Normal),
            ("shorepass-config", "cel", Kind::Normal),
            ("shorepass-issuer", "jsonwebtoken", Kind::Normal),
            ("shorepass-oidc", "shorepass-tls", Kind::Normal),
            ("shorepass-conditions", "shorepass-config", Kind::Normal),
            ("shorepass-cli", "serde-saphyr", Kind::Normal),
            ("shorepass-new", "serde", Kind::Normal),
        ] {
            assert_eq!(verdict(package, dependency, kind).len(), 1, "{package} -> {dependency}");
        }
    }

    #[test]
    fn edges_that_fit_are_left_alone() {
        for (package, dependency, kind) in [
            ("shorepass-rpc", PROTO, Kind::Normal),
            ("shorepass-issuer", "shorepass-store", Kind::Normal),
            ("shorepass-tls", TESTING, Kind::Dev),
            (INTEGRATION, TESTING, Kind::Normal),
            ("shorepass-rpc", "tonic", Kind::Normal),
            ("xtask", "rcgen", Kind::Normal),
            ("shorepass-cli", "serde-saphyr", Kind::Dev),
        ] {
            assert_eq!(verdict(package, dependency, kind), [""; 0], "{package} -> {dependency}");
        }
    }

    #[test]
    fn what_comes_by_a_detour_is_found_too() {
        let tree = |package: &str| {
            Ok(match package {
                "shorepass-agent" => "shorepass-agent v0.1.0 (somewhere)\nhelper v1.0.0\nkube-core v5.0.0\n",
                _ => "shorepass-exec v0.1.0\nprost v0.14.4\ntokio v1.54.1\ntokio v1.54.1 (*)\n",
            }
            .to_owned())
        };
        let problems = check_linked(tree).unwrap();
        let found: Vec<_> =
            problems.iter().map(|problem| (problem.path.as_str(), &problem.what[..10])).collect();
        assert_eq!(found, [("shorepass-agent", "links kube"), ("shorepass-exec", "links toki")]);
    }
}
