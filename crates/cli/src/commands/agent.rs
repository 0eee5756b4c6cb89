//! What users ask this machine's agent.

use std::io::Write;
use std::time::Duration;

use shorepass_exec::{Agent, AskError};
use zeroize::Zeroizing;

use super::{emit, emit_as};
use crate::args::{KubeconfigArgs, StatusArgs, TokenArgs};
use crate::failure::Failure;
use crate::kubeconfig;
use crate::output::agent::AgentStatus;
use crate::progress;

/// The agent may have to ask the issuer, whose own deadline is shorter.
const PATIENCE: Duration = Duration::from_secs(15);

/// This machine's agent.
pub(super) fn local() -> Agent {
    Agent::from_environment(PATIENCE)
}

pub(super) async fn kubeconfig(
    agent: Agent,
    args: &KubeconfigArgs,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let role = args.role.to_string();
    let cluster = ask(agent, move |agent| agent.role(&role)).await?;
    let text = kubeconfig::render(&args.role, args.name.as_deref(), &cluster)?;
    match &args.output {
        None => emit(out, &text),
        Some(file) => emit(out, &kubeconfig::write(file, &text)?),
    }
}

/// Where it is for the API server, kubectl gets it by its plugin, and the agent refuses it here.
pub(super) async fn token(agent: Agent, args: TokenArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let (role, job) = (args.role.to_string(), args.job);
    let credential = ask(agent, move |agent| agent.token(&role, &job)).await?;
    let mut line = Zeroizing::new(String::with_capacity(credential.token.len() + 1));
    line.push_str(&credential.token);
    line.push('\n');
    emit(out, &line)
}

pub(super) async fn status(agent: Agent, args: &StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let status = AgentStatus::of(ask(agent, Agent::status).await?);
    emit_as(out, args.output, || status.document(), || status.table())?;
    match status.problem() {
        None => Ok(()),
        Some(problem) => Err(Failure::Degraded(problem.to_owned())),
    }
}

/// The agent's client blocks, so it gets a thread.
pub(super) async fn ask<T: Send + 'static>(
    agent: Agent,
    question: impl FnOnce(&Agent) -> Result<T, AskError> + Send + 'static,
) -> Result<T, Failure> {
    let asking = tokio::task::spawn_blocking(move || question(&agent));
    match progress::during("the agent", asking).await {
        Ok(answer) => Ok(answer?),
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use prost::Message as _;
    use shorepass_core::name::Name;
    use shorepass_proto::local::v1 as local;
    use shorepass_proto::local::v1::response::Response as Answer;

    use super::*;
    use crate::args::Format;

    /// An agent that gives one answer, and what it was asked.
    struct Scripted {
        directory: tempfile::TempDir,
        asked: JoinHandle<local::Request>,
    }

    impl Scripted {
        fn answering(answer: Answer) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(directory.path().join("agent.sock")).unwrap();
            let asked = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut length = [0; 4];
                stream.read_exact(&mut length).unwrap();
                let mut request = vec![0; u32::from_be_bytes(length) as usize];
                stream.read_exact(&mut request).unwrap();
                let response = local::Response { response: Some(answer) }.encode_to_vec();
                stream.write_all(&(response.len() as u32).to_be_bytes()).unwrap();
                stream.write_all(&response).unwrap();
                local::Request::decode(request.as_slice()).unwrap()
            });
            Self { directory, asked }
        }

        fn agent(&self) -> Agent {
            Agent::at(self.directory.path().join("agent.sock"), PATIENCE)
        }
    }

    fn role_answer() -> Answer {
        Answer::Role(local::RoleResponse {
            cluster: "staging".to_owned(),
            server: "https://10.0.0.1:6443".to_owned(),
            namespace: "web".to_owned(),
            ..local::RoleResponse::default()
        })
    }

    fn kubeconfig_args(output: Option<std::path::PathBuf>) -> KubeconfigArgs {
        KubeconfigArgs { role: Name::parse("web-deployer").unwrap(), output, name: None }
    }

    #[tokio::test]
    async fn a_kubeconfig_is_printed_from_what_the_agent_says_of_the_role() {
        let scripted = Scripted::answering(role_answer());
        let mut out = Vec::new();
        kubeconfig(scripted.agent(), &kubeconfig_args(None), &mut out).await.unwrap();
        assert!(String::from_utf8(out).unwrap().contains("server: \"https://10.0.0.1:6443\""));
        let question = local::RoleRequest { role: "web-deployer".to_owned() };
        let asked = scripted.asked.join().unwrap().request;
        assert_eq!(asked, Some(local::request::Request::Role(question)));
    }

    #[tokio::test]
    async fn a_token_for_others_is_one_line_and_is_asked_for_as_such() {
        let scripted = Scripted::answering(Answer::Credential(local::CredentialResponse {
            token: "a.b.c".to_owned(),
            valid_for: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        }));
        let mut out = Vec::new();
        let args = TokenArgs { role: Name::parse("vault").unwrap(), job: "build".to_owned() };
        token(scripted.agent(), args, &mut out).await.unwrap();
        assert_eq!(out, b"a.b.c\n");
        let (role, job) = ("vault".to_owned(), "build".to_owned());
        let question = local::CredentialRequest { role, job, for_others: true };
        assert_eq!(
            scripted.asked.join().unwrap().request,
            Some(local::request::Request::Credential(question))
        );
    }

    #[tokio::test]
    async fn a_kubeconfig_in_a_file_leaves_the_shells_line_on_stdout() {
        let scripted = Scripted::answering(role_answer());
        let file = scripted.directory.path().join("web.yaml");
        let mut out = Vec::new();
        kubeconfig(scripted.agent(), &kubeconfig_args(Some(file.clone())), &mut out).await.unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), format!("export KUBECONFIG={}\n", file.display()));
        assert!(std::fs::read_to_string(file).unwrap().contains("command: shorepass-exec"));
    }

    #[tokio::test]
    async fn a_refusal_keeps_the_agents_words_and_class_and_names_the_request() {
        let error = local::Error {
            class: local::ErrorClass::Denied.into(),
            message: "the role web-deployer is not available".to_owned(),
            remedy: "ask an operator".to_owned(),
            request_id: "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d".to_owned(),
            rules: "# rules of a Role in namespace web\n- {verbs: [\"get\"]}\n".to_owned(),
        };
        let scripted = Scripted::answering(Answer::Error(error));
        let failure =
            kubeconfig(scripted.agent(), &kubeconfig_args(None), &mut Vec::new()).await.unwrap_err();
        assert_eq!(failure.exit_code(), 3);
        let expected = "shorepass: the role web-deployer is not available\n  \
                        request: 0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d\n  try: ask an operator\n\
                        # rules of a Role in namespace web\n- {verbs: [\"get\"]}\n";
        assert_eq!(failure.report(), expected);
    }

    #[tokio::test]
    async fn a_degraded_agent_is_shown_and_then_fails_the_command() {
        let problem = "the issuer does not answer".to_owned();
        let degraded = local::StatusResponse { problem, ..local::StatusResponse::default() };
        let scripted = Scripted::answering(Answer::Status(degraded));
        let mut out = Vec::new();
        let failure =
            status(scripted.agent(), &StatusArgs { output: Format::Json }, &mut out).await.unwrap_err();
        assert_eq!(failure.exit_code(), 6);
        let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(document["degraded"], true);
    }

    #[tokio::test]
    async fn without_an_agent_the_remedy_is_to_start_one() {
        let directory = tempfile::tempdir().unwrap();
        let agent = Agent::at(directory.path().join("agent.sock"), PATIENCE);
        let failure =
            status(agent, &StatusArgs { output: Format::Table }, &mut Vec::new()).await.unwrap_err();
        assert_eq!(failure.exit_code(), 4);
        assert!(failure.report().contains("start shorepass-agent"), "{}", failure.report());
    }
}
