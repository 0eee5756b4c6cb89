//! Programs that do not start, and what they say: the thing, the place and the remedy, and nothing half done.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{self, AgentUnderTest};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::{Done, Process};
use integration_tests::site::Site;
use shorepass_core::digest::Digest;
use shorepass_daemon::clock::SystemEntropy;
use shorepass_tls::JoinTokenText;

/// An issuer's documents with one thing wrong, and what is said about it.
struct Case {
    what: &'static str,
    file: &'static str,
    part: &'static str,
    exchange: &'static str,
    said: &'static [&'static str],
}

const BAD_DOCUMENTS: &[Case] = &[
    Case {
        what: "an unknown key",
        file: "issuer.yaml",
        part: "trustDomain:",
        exchange: "trustDomian:",
        said: &["issuer.yaml:4:3: spec.trustDomian: unknown key", "did you mean `trustDomain`?", "^^^"],
    },
    Case {
        what: "a value of another type",
        file: "issuer.yaml",
        part: "state: {directory: state}",
        exchange: "state: [state]",
        said: &["issuer.yaml:", "spec.state: expected"],
    },
    Case {
        what: "a feature that is not there",
        file: "issuer.yaml",
        part: "state: {directory: state}",
        exchange: "state: {directory: state, encrypt: true}",
        said: &["spec.state.encrypt: unknown key"],
    },
    Case {
        what: "a role for nobody",
        file: "roles/roles.yaml",
        part: "    - runners: [test-*]\n      acceptJobs: asserted\n    - platforms: [test-*]\n      acceptJobs: asserted\n",
        exchange: "    []\n",
        said: &["roles.yaml:", "spec.subjects: a role without a subject"],
    },
    Case {
        what: "a pattern outside the grammar",
        file: "roles/roles.yaml",
        part: "runners: [test-*]",
        exchange: "runners: [\"*\"]",
        said: &["roles.yaml:", "spec.subjects[0].runners[0]", "at least three characters"],
    },
    Case {
        what: "tokens shorter than Kubernetes gives",
        file: "roles/roles.yaml",
        part: "default: 10m, max: 20m",
        exchange: "default: 5m, max: 20m",
        said: &["roles.yaml:", "spec.lifetimes.token", "600 s"],
    },
    Case {
        what: "a role of an unknown cluster",
        file: "roles/roles.yaml",
        part: "cluster: test",
        exchange: "cluster: tset",
        said: &["roles.yaml:", "has no cluster tset, did you mean test?"],
    },
];

fn edit(file: &Path, part: &str, exchange: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    ensure!(text.contains(part), "{part:?} is not in {}", file.display());
    Ok(fs::write(file, text.replacen(part, exchange, 1))?)
}

/// Starts the issuer and waits for its end.
fn start(issuer: &IssuerUnderTest) -> Result<Done> {
    let config = issuer.config().display().to_string();
    let log = issuer.folder().join("start.log");
    let _ = fs::remove_file(&log);
    let program = issuer.command(&[]).get_program().to_owned();
    Process::start(Path::new(&program), &["serve", "--config", &config], &[], &log)?.end()
}

fn files(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = entries.collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn documents_that_are_wrong_are_told_with_place_and_remedy_and_leave_no_state() -> Result<()> {
    let site = Site::new("documents").await?;
    for case in BAD_DOCUMENTS {
        let issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
        edit(&issuer.folder().join(case.file), case.part, case.exchange)?;
        start(&issuer)?.failed(2, case.said).context(case.what)?;
        let check = Done::of(issuer.command(&["config", "check", "--config"]).arg(issuer.config()))?;
        check.failed(2, case.said).with_context(|| format!("{} in `config check`", case.what))?;
        ensure!(!issuer.state().exists(), "{}: state was made", case.what);
    }
    Ok(())
}

#[tokio::test]
async fn a_role_that_no_runner_can_have_yet_is_warned_of_and_loads() -> Result<()> {
    let site = Site::new("warned").await?;
    let mut issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
    let file = issuer.folder().join("roles/roles.yaml");
    let check = || Done::of(issuer.command(&["config", "check", "--config"]).arg(issuer.config()));
    ensure!(!check()?.stderr.contains("warning"), "there is nothing to warn of");
    edit(&file, "    - runners: [test-*]\n      acceptJobs: asserted\n", "    - runners: [test-*]\n")?;
    let line = fs::read_to_string(&file)?.lines().take_while(|line| !line.contains("runners:")).count() + 1;
    let place = format!("{}:{line}:7", file.display());
    let checked = check()?;
    ensure!(checked.code == Some(0) && checked.stdout.contains("fine; "), "{checked:?}");
    for part in [place.as_str(), "spec.subjects[0].runners", "write `acceptJobs: asserted`"] {
        ensure!(checked.stderr.contains(part), "{part}: {checked:?}");
    }
    issuer.run().await?;
    ensure!(
        issuer.log().lines().any(|line| line.contains("WARN") && line.contains(&place)),
        "{}",
        issuer.log()
    );
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_named() -> Result<()> {
    let site = Site::new("port").await?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
    edit(&issuer.config(), "enroll: \"127.0.0.1:0\"", &format!("enroll: \"{address}\""))?;
    start(&issuer)?.failed(1, &["enroll", &address, "in use"])?;
    ensure!(!issuer.state().exists(), "state was made");
    Ok(())
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_is_named_with_the_remedy() -> Result<()> {
    let site = Site::new("state").await?;
    let issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
    // Below a file nobody can make a directory, not even root.
    edit(&issuer.config(), "directory: state}", "directory: issuer.yaml/state}")?;
    start(&issuer)?.failed(1, &["issuer.yaml/state", "name another directory in state.directory"])?;
    edit(&issuer.config(), "directory: issuer.yaml/state}", "directory: /proc}")?;
    start(&issuer)?.failed(1, &["/proc takes no files", "name another directory in state.directory"])?;

    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let join_token = issuer.join_token("test-1", false).await?;
    let agent = AgentUnderTest::prepare(&issuer, "test-1", &join_token, agent::Knobs::default())?;
    edit(&agent.config(), "directory: state", "directory: absent/state")?;
    start_agent(&agent)?.failed(1, &["absent/state", "its parent must exist", "in state.directory"])?;
    edit(&agent.config(), "directory: absent/state", "directory: /proc")?;
    start_agent(&agent)?.failed(1, &["/proc takes no files", "in state.directory"])?;
    Ok(())
}

#[tokio::test]
async fn keys_and_directories_that_others_can_read_are_refused_with_the_remedy() -> Result<()> {
    let site = Site::new("exposed").await?;
    let mut issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    issuer.stop()?;
    for (file, mode, usual) in
        [("", 0o750, 0o700), ("ca.key", 0o640, 0o600), ("anchor.key", 0o604, 0o600), ("ledger", 0o770, 0o700)]
    {
        let path = issuer.state().join(file);
        let before = files(&issuer.state())?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        let name = path.display().to_string();
        let mode = format!("{mode:o}");
        start(&issuer)?
            .failed(1, &[name.trim_end_matches('/'), &mode, "chmod"])
            .with_context(|| name.clone())?;
        fs::set_permissions(&path, Permissions::from_mode(usual))?;
        assert_eq!(files(&issuer.state())?, before);
    }
    issuer.run().await.context("with the usual modes it starts")
}

#[tokio::test]
async fn two_issuers_do_not_share_a_state_directory() -> Result<()> {
    let site = Site::new("shared").await?;
    let running = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let second = IssuerUnderTest::prepare(&site, Knobs::default())?;
    let shared = format!("directory: {}}}", running.state().display());
    edit(&second.config(), "directory: state}", &shared)?;
    start(&second)?.failed(1, &["is in use by another process: stop the other issuer"])?;
    running.operator()?.leases().await.context("the running one was disturbed")?;
    Ok(())
}

#[tokio::test]
async fn a_kubeconfig_without_the_context_names_those_that_it_has() -> Result<()> {
    let site = Site::new("context").await?;
    let issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
    edit(&issuer.config(), "context: test}", "context: tset}")?;
    start(&issuer)?.failed(1, &["has no context \"tset\": it has test", ".kubeconfig"])?;
    Ok(())
}

#[tokio::test]
async fn a_kubeconfig_that_others_can_read_is_refused_with_the_remedy() -> Result<()> {
    let site = Site::new("readable").await?;
    let mut issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
    let file = &site.identity.kubeconfig;
    let remedy = format!("chmod 600 {}", file.display());
    for mode in [0o640, 0o604] {
        fs::set_permissions(file, Permissions::from_mode(mode))?;
        start(&issuer)?.failed(1, &["holds a credential", &format!("mode {mode:04o}"), &remedy])?;
        ensure!(!issuer.state().exists(), "state was made");
    }
    fs::set_permissions(file, Permissions::from_mode(0o600))?;
    issuer.run().await.context("with the usual mode it starts")
}

#[tokio::test]
async fn a_command_line_that_is_wrong_is_usage_and_makes_nothing() -> Result<()> {
    let site = Site::new("usage").await?;
    let issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
    let out = issuer.folder().join("alice").display().to_string();
    let create = |rest: &[&str]| {
        let mut command = issuer.command(&["identity", "create", "--kind", "operator", "--out", &out]);
        Done::of(command.arg("--config").arg(issuer.config()).args(rest))
    };
    create(&["--name", "Alice"])?.failed(2, &["--name", "\"Alice\" is not a name"])?;
    create(&["--name", "alice", "--api", "issuer"])?.failed(2, &["--api", "\"issuer\""])?;
    // The config gives no port that a client could know.
    create(&["--name", "alice"])?.failed(2, &["say with --api HOST:PORT"])?;
    ensure!(!Path::new(&out).exists() && !issuer.state().exists(), "something was made");
    Ok(())
}

/// Starts the agent and waits for its end.
fn start_agent(agent: &AgentUnderTest) -> Result<Done> {
    let config = agent.config().display().to_string();
    let log = agent.folder().join("start.log");
    let _ = fs::remove_file(&log);
    let program = agent.tool("shorepass-agent").get_program().to_owned();
    Process::start(Path::new(&program), &["serve", "--config", &config], &[], &log)?.end()
}

#[tokio::test]
async fn an_agent_with_a_join_token_that_is_not_good_says_which_and_sends_nothing_to_strangers() -> Result<()>
{
    let site = Site::new("join").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let good = issuer.join_token("test-1", false).await?;
    let used = issuer.join_token("test-2", false).await?;
    integration_tests::client::enroll(&issuer, &used, "test-2").await?;
    let foreign =
        JoinTokenText::generate(Digest::of_bytes(b"another CA"), &SystemEntropy).expose().to_string();
    issuer.identities_are_audited().await?;
    let mistyped = good.replacen("spjt1.", "spjt1.x", 1);
    for (join_token, name, said) in [
        (mistyped.as_str(), "test-1", "copy the whole line again"),
        ("hello", "test-1", "ask an operator for one"),
        (&foreign, "test-1", "nothing was sent"),
        (&used, "test-2", "ask an operator for a new one"),
        (&good, "other", "this join token is for runners named"),
    ] {
        let asked = issuer.audit()?.len();
        let agent = AgentUnderTest::prepare(&issuer, name, join_token, agent::Knobs::default())?;
        let done = start_agent(&agent)?;
        done.failed(3, &[said])?;
        ensure!(!done.stderr.contains(join_token), "the join token is repeated: {}", done.stderr);
        ensure!(!agent.folder().join("state/identity.pem").exists(), "there is an identity");
        let sent = join_token == used || join_token == good;
        assert_eq!(issuer.audit()?.len() > asked, sent, "{said}: what reached the issuer");
    }
    Ok(())
}

#[tokio::test]
async fn an_agents_identity_that_others_can_read_is_refused_with_the_remedy() -> Result<()> {
    let site = Site::new("identity").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let mut agent = AgentUnderTest::start(&issuer, "test-1", agent::Knobs::default()).await?;
    agent.stop()?;
    let file = agent.folder().join("state/identity.pem");
    fs::set_permissions(&file, Permissions::from_mode(0o640))?;
    let remedy = format!("chmod 600 {}", file.display());
    start_agent(&agent)?.failed(1, &[&remedy])?;
    Ok(())
}

#[tokio::test]
async fn jobs_are_told_when_no_agent_runs_and_when_its_socket_is_not_for_them() -> Result<()> {
    let site = Site::new("local").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let somebody_else = rustix::process::getuid().as_raw() + 1;
    let knobs = agent::Knobs { users: vec![somebody_else], ..agent::Knobs::default() };
    let join_token = issuer.join_token("test-1", false).await?;
    let mut agent = AgentUnderTest::prepare(&issuer, "test-1", &join_token, knobs)?;
    let socket = agent.folder().join("agent.sock").display().to_string();
    agent.exec("deploy")?.failed(4, &["no agent answers at", &socket, "start shorepass-agent"])?;
    Done::of(agent.tool("shorepass").arg("status"))?.failed(4, &["no agent answers at", &socket])?;

    agent.launch()?;
    integration_tests::wait::until("the agent's identity", std::time::Duration::from_secs(30), async || {
        use integration_tests::wait::Seen;
        Ok(if agent.log().contains("enrolled") { Seen::Ready(()) } else { Seen::NotYet(agent.log()) })
    })
    .await?;
    agent.exec("deploy")?.failed(3, &["jobs.users"])?;
    Ok(())
}
