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
