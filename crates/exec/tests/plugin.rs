//! The program against an agent that this test plays.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use prost::Message as _;
use shorepass_proto::local::v1::request::Request as Question;
use shorepass_proto::local::v1::response::Response as Answer;
use shorepass_proto::local::v1::{
    CredentialRequest, CredentialResponse, Error, ErrorClass, Request, Response,
};

const TOKEN: &str = "header.payload.signature";
const REQUEST: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
const VERSION: &str = r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{}}"#;

/// The plugin with a clean environment and the agent's socket in `directory`.
fn plugin(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shorepass-exec"));
    command.env_clear().env("SHOREPASS_SOCKET", directory.join("agent.sock")).args(["--role", "web"]);
    command
}

/// Answers one request, and gives what was asked.
fn play_agent(directory: &Path, answer: Option<Answer>) -> std::thread::JoinHandle<CredentialRequest> {
    let listener = UnixListener::bind(directory.join("agent.sock")).expect("the directory is fresh");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the plugin connects");
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("the plugin asks");
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request).expect("the plugin asks in full");
        if let Some(answer) = answer {
            let message = Response { response: Some(answer) }.encode_to_vec();
            let length = u32::try_from(message.len()).expect("the answers here are short");
            // The plugin may be gone already.
            let _ = stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat());
        } else {
            // Says nothing until the plugin gives up.
            let _ = stream.read(&mut [0]);
        }
        match Request::decode(request.as_slice()).expect("the plugin speaks the protocol").request {
            Some(Question::Credential(request)) => request,
            other => panic!("expected a request for a credential, got {other:?}"),
        }
    })
}

fn token() -> Option<Answer> {
    let valid_for = Some(prost_types::Duration { seconds: 600, nanos: 0 });
    Some(Answer::Credential(CredentialResponse { token: TOKEN.to_owned(), valid_for }))
}

fn check_refused(output: &Output, code: i32, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "stdout carries credentials only");
    for word in says {
        assert!(stderr.contains(word), "{word:?} is missing in {stderr}");
    }
}

#[test]
fn prints_one_exec_credential_with_and_without_exec_info() {
    for exec_info in [None, Some(VERSION)] {
        let directory = tempfile::tempdir().unwrap();
        let agent = play_agent(directory.path(), token());
        let mut command = plugin(directory.path());
        command.env("SHOREPASS_JOB", "build-7");
        command.envs(exec_info.map(|info| ("KUBERNETES_EXEC_INFO", info)));
        let output = command.output().unwrap();
        let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed["status"]["token"], TOKEN);
        assert!(output.status.success() && output.stderr.is_empty());
        let asked = agent.join().unwrap();
        assert_eq!((asked.role.as_str(), asked.job.as_str()), ("web", "build-7"));
    }
}

#[test]
fn another_version_of_the_protocol_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    let beta = VERSION.replace("/v1", "/v1beta1");
    let output = plugin(directory.path()).env("KUBERNETES_EXEC_INFO", beta).output().unwrap();
    check_refused(&output, 2, &["v1beta1", "kubeconfig"]);
}

#[test]
fn an_unknown_argument_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    let output = plugin(directory.path()).arg("--rule").output().unwrap();
    check_refused(&output, 2, &["--rule", "--help"]);
}

#[test]
fn an_agent_that_does_not_run_is_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let output = plugin(directory.path()).output().unwrap();
    check_refused(&output, 4, &["agent.sock", "start shorepass-agent"]);
}

#[test]
fn each_class_of_refusal_has_its_exit_code() {
    for (class, code) in [
        (ErrorClass::Failure, 1),
        (ErrorClass::Usage, 2),
        (ErrorClass::Denied, 3),
        (ErrorClass::Unreachable, 4),
        (ErrorClass::LeaseEnded, 5),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let output = refused_with(directory.path(), Error { class: class.into(), ..error() });
        check_refused(&output, code, &["it was refused", "ask nicely"]);
    }
}

fn error() -> Error {
    Error {
        class: ErrorClass::Denied.into(),
        message: "it was refused".to_owned(),
        remedy: "ask nicely".to_owned(),
        request_id: REQUEST.to_owned(),
        rules: String::new(),
    }
}

fn refused_with(directory: &Path, error: Error) -> Output {
    let agent = play_agent(directory, Some(Answer::Error(error)));
    let output = plugin(directory).output().expect("the plugin runs");
    agent.join().expect("the agent is asked");
    output
}

#[test]
fn a_refusal_names_its_request_unless_the_agent_names_none() {
    let directory = tempfile::tempdir().unwrap();
    let output = refused_with(directory.path(), error());
    let expected = format!("shorepass-exec: it was refused\n  request: {REQUEST}\n  try: ask nicely\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);

    let directory = tempfile::tempdir().unwrap();
    let output = refused_with(directory.path(), Error { request_id: String::new(), ..error() });
    let expected = "shorepass-exec: it was refused\n  try: ask nicely\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
}

#[test]
fn a_refusal_for_want_of_rights_ends_with_the_rules_to_add() {
    let directory = tempfile::tempdir().unwrap();
    let rules = "# rules of a Role in namespace web\n- {verbs: [\"get\"]}\n";
    let output = refused_with(directory.path(), Error { rules: rules.to_owned(), ..error() });
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.ends_with(&format!("  try: ask nicely\n{rules}")), "{told}");
}

#[test]
fn an_agent_that_says_nothing_is_given_up_within_five_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let agent = play_agent(directory.path(), None);
    let started = Instant::now();
    let output = plugin(directory.path()).output().unwrap();
    check_refused(&output, 4, &["did not answer"]);
    assert!(started.elapsed() < Duration::from_secs(6), "took {:?}", started.elapsed());
    agent.join().unwrap();
}

#[test]
fn a_reader_that_went_away_is_an_error_without_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let agent = play_agent(directory.path(), token());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = plugin(directory.path()).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    check_refused(&output, 1, &["stdout"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains(TOKEN));
    agent.join().unwrap();
}
