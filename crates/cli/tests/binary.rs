//! The binary from outside: what reaches stdout and stderr, and the exit code.
#![allow(clippy::unwrap_used, reason = "only tests use this")]

use std::process::{Command, Output};

const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiI3ZWU1MmJlMC05MDQ1In0.c2lnbmF0dXJlLXNpZ25hdHVyZQ";

fn shorepass(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shorepass"));
    command.args(arguments).env_remove("SHOREPASS_CONFIG").env("SHOREPASS_SOCKET", "/nonexistent/agent.sock");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_pasted_token_is_refused_by_every_command_and_shown_by_none() {
    for arguments in [
        vec!["whois", JWT],
        vec!["whois", "--no-such-option", JWT],
        vec!["lease", "show", JWT],
        vec!["unblock", JWT],
        vec!["lease", "list", "--runner", JWT],
        vec!["kubeconfig", "--role", JWT],
        vec![JWT],
    ] {
        let output = shorepass(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(JWT.split('.').all(|part| !shown.contains(part)), "{shown}");
        assert!(shown.contains("shorepass whois 7ee52be0-9045"), "{shown}");
    }
}

#[test]
fn help_is_no_failure_and_nonsense_is_one_of_usage() {
    assert_eq!(shorepass(&["--help"]).status.code(), Some(0));
    assert_eq!(shorepass(&["lease", "revoke", "--reason", "x"]).status.code(), Some(2));
    assert_eq!(shorepass(&["nonsense"]).status.code(), Some(2));
}

#[test]
fn operators_commands_without_a_config_say_how_to_name_one() {
    let output = shorepass(&["lease", "list"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("\n  try: name its folder in SHOREPASS_CONFIG"));
    assert!(output.stdout.is_empty());
}

#[test]
fn without_an_agent_stdout_stays_empty() {
    let output = shorepass(&["kubeconfig", "--role", "web-deployer"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).starts_with("shorepass: no agent answers at /nonexistent/agent.sock\n"));
}

#[test]
fn completions_name_the_commands() {
    let output = shorepass(&["completions", "bash"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("join-token"));
}

mod roles {
    //! `role explain` and `role test`, on the examples.

    use std::path::{Path, PathBuf};

    use super::*;

    const BY_CONFIG: [&str; 2] = ["--issuer-config", "deploy/examples/issuer.yaml"];

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn role(arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shorepass"));
        command.current_dir(root()).arg("role").args(arguments).args(BY_CONFIG).output().unwrap()
    }

    /// `role explain` of the example for jobs, to the runner prod-1 of the right pool.
    fn explain(more: &[&str]) -> Output {
        let example = ["explain", "--roles", "deploy/examples/role-jobs.yaml", "web-deployer"];
        let runner = ["--runner", "prod-1", "--label", "pool=production"];
        role(&[&example, runner.as_slice(), more].concat())
    }

    fn payload(exchange: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let mut text = std::fs::read_to_string(root().join("deploy/examples/gitlab-claims.json")).unwrap();
        for (part, other) in exchange {
            assert!(text.contains(part), "{part}");
            text = text.replace(part, other);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_documented_commands_do_what_the_documentation_says() {
        let docs = std::fs::read_to_string(root().join("docs/roles.md")).unwrap().replace("\\\n", " ");
        let commands: Vec<Vec<&str>> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("shorepass role "))
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(commands.len(), 2, "{commands:?}");
        for arguments in commands {
            let mut command = Command::new(env!("CARGO_BIN_EXE_shorepass"));
            let output = command.current_dir(root()).arg("role").args(&arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
            let expected = match arguments[0] {
                "test" => "\n5 passed, 0 failed\n",
                _ => "subjects[0]: ref is \"feature\", not \"main\"\n",
            };
            assert!(text(&output.stdout).contains(expected), "{}", text(&output.stdout));
        }
    }

    #[test]
    fn the_tests_of_every_example_pass() {
        for example in ["role", "role-strict", "role-unbound"] {
            let output = role(&["test", "--roles", &format!("deploy/examples/{example}.yaml")]);
            assert_eq!(output.status.code(), Some(0), "{example}: {}", text(&output.stdout));
            assert!(text(&output.stdout).ends_with("2 passed, 0 failed\n"), "{}", text(&output.stdout));
        }
    }

    #[test]
    fn a_role_that_is_given_is_explained_with_its_lifetimes_and_what_was_not_read() {
        let main =
            payload(&[("feature", "main"), ("\"ref_protected\": \"false\"", "\"ref_protected\": \"true\"")]);
        let path = main.path().to_str().unwrap();
        let output = explain(&["--claims", path]);
        let shown = text(&output.stdout);
        assert!(
            shown.contains("role web-deployer is given to spiffe://ci.example.org/runner/prod-1\n"),
            "{shown}"
        );
        assert!(shown.contains("tokens: 30m00s, at most 1h00m\nleases: 1h00m, at most 1h00m\n"), "{shown}");
        let document: serde_json::Value =
            serde_json::from_slice(&explain(&["--claims", path, "-o", "json"]).stdout).unwrap();
        assert_eq!(document["kind"], "RoleExplanation");
        assert_eq!(
            (&document["allowed"], &document["lifetimes"]["lease"]["max"]),
            (&true.into(), &3600.into())
        );
        let unread = document["claimsNotRead"].as_array().unwrap();
        assert!(!unread.contains(&"iss".into()), "{document}");
    }

    #[test]
    fn a_role_that_is_not_given_says_what_each_subject_lacks() {
        let output = explain(&["--asserted"]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("subjects[0]: the job is asserted, and the item names jobs\n"));
        let listed = payload(&[]);
        let unknown = explain(&["--claims", listed.path().to_str().unwrap(), "--issuer", "github"]);
        assert_eq!(unknown.status.code(), Some(2));
        assert!(text(&unknown.stderr).contains("has no github (it has gitlab)"), "{}", text(&unknown.stderr));
    }

    #[test]
    fn a_test_that_fails_says_why_and_fails_the_command() {
        let example = std::fs::read_to_string(root().join("deploy/examples/role-jobs.yaml")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let turned = example.replacen("expect: allowed", "expect: denied", 1);
        let turned = turned.replacen("because: label pool", "because: label env", 1);
        std::fs::write(folder.path().join("web.yaml"), turned).unwrap();
        let folder = folder.path().to_str().unwrap();
        let output = role(&["test", "--roles", folder, "web-deployer"]);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(shown.contains("FAIL web-deployer: the deploy job on main (web.yaml:"), "{shown}");
        assert!(shown.contains("allowed: role web-deployer: subjects[0]: it gives the role\n"), "{shown}");
        assert!(shown.contains("denied, but not because of \"label env\": role web-deployer"), "{shown}");
        assert!(shown.ends_with("3 passed, 2 failed\n"), "{shown}");
        let nobody = role(&["test", "--roles", folder, "web-delpoyer"]);
        assert_eq!(nobody.status.code(), Some(2));
        assert!(text(&nobody.stderr).contains("they have: web-deployer"));
    }

    #[test]
    fn documents_without_a_test_are_no_success() {
        let example = std::fs::read_to_string(root().join("deploy/examples/role.yaml")).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), example.split("tests:").next().unwrap()).unwrap();
        let output = role(&["test", "--roles", file.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("no tests in the role documents"), "{}", text(&output.stderr));
    }
}
