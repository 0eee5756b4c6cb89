//! kubectl with a kubeconfig that has nothing in it but the exec plugin, and the plugin by itself.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{AgentUnderTest, Knobs};
use integration_tests::audit_log::AuditLog;
use integration_tests::job::copy_of;
use integration_tests::process::Done;
use integration_tests::proxy::claims;
use integration_tests::scene::Scene;
use integration_tests::site::DEPLOY;
use serde_json::Value;
use shorepass_core::time::{Clock as _, Timestamp};
use shorepass_daemon::clock::SystemClock;

const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// A user that nobody is.
const NOBODY: u32 = 65_534;

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().with_context(|| format!("no text: {value}"))?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_may_do_what_the_service_account_may_and_nothing_else() -> Result<()> {
    let scene = Scene::new("kubectl").await?;
    scene.kubectl(&["create", "configmap", "release", "--from-literal=version=1"])?.succeeded()?;
    let found = scene.kubectl(&["get", "configmap", "release", "-o", "name"])?.succeeded()?;
    assert_eq!(found.trim(), "configmap/release");
    scene.kubectl(&["delete", "configmap", "release"])?.succeeded()?;
    for forbidden in [&["get", "secrets"][..], &["get", "nodes"], &["get", "configmaps", "-n", "default"]] {
        let account = format!("system:serviceaccount:{}:deployer", scene.site.place.namespace);
        scene.kubectl(forbidden)?.failed(1, &["Forbidden", &account])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubeconfig_holds_the_exec_plugin_and_no_credential() -> Result<()> {
    let scene = Scene::new("kubeconfig").await?;
    let printed =
        Done::of(scene.agent.tool("shorepass").args(["kubeconfig", "--role", DEPLOY.name]))?.succeeded()?;
    assert!(printed.contains("command: shorepass-exec"), "{printed}");
    for credential in ["token", "client-key", "client-certificate", "password", "auth-provider"] {
        assert!(!printed.contains(credential), "{credential} is in {printed}");
    }
    scene.kubectl(&["get", "configmaps"])?.succeeded()?;
    let written = std::fs::read_to_string(scene.agent.folder().join("deploy.kubeconfig"))?;
    assert_eq!(written, printed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_jwt_and_audit_log_name_the_same_token() -> Result<()> {
    let scene = Scene::new("jti").await?;
    scene.kubectl(&["get", "configmaps"])?.succeeded()?;
    let claims = claims(&scene.token()?)?;
    let jti = text(&claims["jti"])?;

    let lease = scene.only_lease()?;
    assert_eq!(lease["tokens"][0]["jti"], jti.as_str());
    let owner = scene.operator_json(&["whois", &jti])?;
    assert_eq!(owner["lease"]["id"], lease["id"]);

    let user = format!("system:serviceaccount:{}:deployer", scene.site.place.namespace);
    let event = AuditLog::open(&scene.site.admin.environment)
        .wait_for("kubectl's request in the audit log", |event| {
            event["user"]["username"] == user.as_str() && event["objectRef"]["resource"] == "configmaps"
        })
        .await?;
    assert_eq!(event["user"]["extra"][CREDENTIAL_ID][0], format!("JTI={jti}").as_str());

    let (_, anchor) = scene.only_anchor().await?;
    assert_eq!(text(&claims["kubernetes.io"]["secret"]["uid"])?, anchor);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kubectl_at_once_share_the_first_lease_of_a_cold_agent() -> Result<()> {
    let scene = Scene::new("cold").await?;
    let request = scene.request()?;
    let children: Vec<_> = (0..50)
        .map(|_| {
            let mut command = copy_of(&request);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        })
        .collect::<Result<_, _>>()?;
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let lease = scene.only_lease()?;
    assert_eq!(lease["tokens"].as_array().map(Vec::len), Some(1), "{lease:#}");
    scene.only_anchor().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_prints_one_credential_whose_expiry_is_early_and_not_past() -> Result<()> {
    let scene = Scene::new("plugin").await?;
    let info = r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false}}"#;
    for exec_info in [None, Some(info)] {
        let mut command = scene.agent.tool("shorepass-exec");
        command.args(["--role", DEPLOY.name]).env_remove("KUBERNETES_EXEC_INFO");
        command.envs(exec_info.map(|info| ("KUBERNETES_EXEC_INFO", info)));
        let done = Done::of(&mut command)?;
        assert_eq!(done.stderr, "");
        let printed = done.succeeded()?;
        let credential: Value =
            serde_json::from_str(&printed).context("stdout is more than one JSON document")?;
        assert_eq!(credential["kind"], "ExecCredential");
        let claims = claims(&text(&credential["status"]["token"])?)?;
        let told: Timestamp = text(&credential["status"]["expirationTimestamp"])?.parse()?;
        let true_end = claims["exp"].as_i64().context("a token without end")?;
        let now = SystemClock.now();
        assert!(told > now && told.as_second() < true_end, "{now} {told} {true_end}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_the_plugin_says_to_start_one() -> Result<()> {
    let mut scene = Scene::new("noagent").await?;
    let kubectl = scene.request()?;
    scene.agent.stop()?;
    let done = scene.agent.exec(DEPLOY.name)?;
    done.failed(4, &["no agent answers at", "agent.sock", "start shorepass-agent"])?;
    assert_eq!(done.stdout, "");
    // And so does kubectl, which passes on what its plugin says.
    Done::of(&mut copy_of(&kubectl))?.failed(1, &["start shorepass-agent", "exit code 4"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_not_allowed_looks_like_one_that_does_not_exist() -> Result<()> {
    let scene = Scene::new("norole").await?;
    // The role is for runners test-*.
    let stranger = AgentUnderTest::start(&scene.issuer, "other-1", Knobs::default()).await?;
    let not_allowed = stranger.exec(DEPLOY.name)?;
    let unknown = scene.agent.exec("nothing")?;
    for done in [&not_allowed, &unknown] {
        done.failed(3, &["is not available to this caller and job", "under decision"])?;
        assert_eq!(done.stdout, "");
    }
    let anonymous = |done: &Done, role: &str| {
        let text = done.stderr.replace(role, "ROLE");
        let told: Vec<_> = text.lines().filter(|line| !line.starts_with("  request: ")).collect();
        let text = told.join("\n");
        text.split("under decision").next().unwrap_or_default().to_owned()
    };
    assert_eq!(anonymous(&not_allowed, DEPLOY.name), anonymous(&unknown, "nothing"));
    assert!(scene.leases()?.is_empty());
    // The job is told, in its row too; the agent itself is as well as before.
    let status = Done::of(scene.agent.tool("shorepass").arg("status"))?.succeeded()?;
    assert!(status.contains("STATE") && status.contains("well"), "{status}");
    assert!(status.contains("is not available to this caller and job"), "{status}");
    scene.agent.exec("No Role")?.failed(2, &["role"])
}

/// The agent's config names a user that is not us. Who runs as root can be that user, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_socket_serves_the_users_that_the_config_names_by_the_uid_of_the_peer() -> Result<()> {
    let knobs = Knobs { users: vec![NOBODY], ..Knobs::default() };
    let scene = Scene::with("users", integration_tests::issuer::Knobs::default(), knobs).await?;
    let us = rustix::process::getuid().as_raw();
    // Nothing that a client says makes it another user.
    for job in [String::new(), format!("default:{NOBODY}")] {
        let mut command = scene.agent.tool("shorepass-exec");
        let done =
            Done::of(command.args(["--role", DEPLOY.name]).env("SHOREPASS_JOB", job).env("UID", "65534"))?;
        done.failed(3, &[&format!("uid {us} may not ask this agent for that"), "jobs.users"])?;
        assert_eq!(done.stdout, "");
    }
    assert!(scene.leases()?.is_empty());
    if us == 0 {
        // The tests' folder is private; the way to the socket is not.
        std::fs::set_permissions(scene.agent.folder(), std::fs::Permissions::from_mode(0o711))?;
        as_nobody(&scene)?.succeeded()?;
        assert_eq!(scene.only_lease()?["job"]["asserted"]["id"], format!("default:{NOBODY}").as_str());
    }
    Ok(())
}

fn as_nobody(scene: &Scene) -> Result<Done> {
    let program = from_here(Path::new(scene.agent.tool("shorepass-exec").get_program()))?;
    let mut command = Command::new(program);
    command.env("SHOREPASS_SOCKET", from_here(&scene.agent.folder().join("agent.sock"))?);
    Done::of(command.args(["--role", DEPLOY.name]).uid(NOBODY).gid(NOBODY))
}

/// The way from this folder of the repository, for who may not enter what the repository lies in.
fn from_here(path: &Path) -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    let inside = here.parent().and_then(|root| path.strip_prefix(root).ok());
    Ok(inside.map_or_else(|| path.to_owned(), |inside| Path::new("..").join(inside)))
}
