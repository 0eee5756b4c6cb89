//! The revocation, watched from outside: a client that kept the token, and kubectl with the plugin.
//!
//! Both ask all the time. The kept token must be refused within the bound that Kubernetes' constants set (10 s of
//! authentication cache, and a second of slack), and from its first refusal on, nothing of either may succeed any more.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::daemons::{Daemons, Kubectl};
use super::evidence::{Credential, leases_ever};
use super::site::{Site, write_private};
use crate::signals;

/// The API server's cache of good authentications, and a second of slack.
const BOUND: Duration = Duration::from_secs(11);
/// How long both are watched after the first refusal.
const WATCH: Duration = Duration::from_secs(15);

/// Revokes, watches, and tells.
pub(super) fn revoke_and_watch(
    daemons: &mut Daemons,
    site: &mut Site,
    kubectl: &Kubectl,
    credential: &Credential,
) -> Result<Vec<String>> {
    let kept = Kept::new(site, kubectl, credential)?;
    ensure!(kept.ask()?.is_none(), "the kept token should work before the revocation");
    let leases = leases_ever(daemons)?;

    let asked = Instant::now();
    let said = daemons.operator(&["lease", "revoke", &credential.lease, "--reason", "demo"])?;
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();

    let refusal = wait_for_refusal(&kept, asked)?;
    let by_client = asked.elapsed();
    let plugin = watch(daemons, site, kubectl, &kept)?;

    ensure!(leases_ever(daemons)? == leases, "the agent got a new lease after the revocation");
    let denial = denial(daemons)?;
    let took = match site.audit_log() {
        Some(log) => format!("{:.3} s by the API server's audit log", from_audit_log(log, credential)?),
        None => format!("{:.3} s as that client saw it", by_client.as_secs_f64()),
    };
    lines.push(format!("from revoke to the first 401: {took}"));
    lines.push(format!("the kept token: {refusal}"));
    lines.push(format!("kubectl with the plugin: {plugin}"));
    lines.push(format!("the agent's log: {denial}"));
    lines.push(format!(
        "{} s later: not one call of either succeeded, and no new lease was made",
        WATCH.as_secs()
    ));
    Ok(lines)
}

/// A client that kept the token: kubectl with nothing but that token.
struct Kept {
    program: PathBuf,
    kubeconfig: PathBuf,
    path: String,
}

impl Kept {
    fn new(site: &Site, kubectl: &Kubectl, credential: &Credential) -> Result<Self> {
        let text = fs::read_to_string(&kubectl.kubeconfig).context("cannot read the job's kubeconfig")?;
        let before = text.split("\nusers:").next().unwrap_or_default();
        let user = text
            .split("\nusers:")
            .nth(1)
            .and_then(|users| users.lines().find_map(|line| line.trim().strip_prefix("- name: ")))
            .context("the job's kubeconfig has no user")?;
        let kubeconfig = site.folder().join("kept.kubeconfig");
        let token = &credential.kept;
        write_private(
            &kubeconfig,
            &format!("{before}\nusers:\n- name: {user}\n  user:\n    token: {token}\n"),
        )?;
        // The selector marks this client's requests in the audit log.
        let path = format!("/api/v1/namespaces/{}/configmaps?labelSelector=client%3Dkept", kubectl.namespace);
        Ok(Self { program: kubectl.program.clone(), kubeconfig, path })
    }

    /// One request; none if it succeeded, else what kubectl said.
    fn ask(&self) -> Result<Option<String>> {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["get", "--raw", &self.path]);
        refusal(&mut command)
    }
}

/// Runs; none if it succeeded, else the last line of what it said.
fn refusal(command: &mut Command) -> Result<Option<String>> {
    let done = command.process_group(0).output().context("cannot run kubectl")?;
    if done.status.success() {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
}

fn is_unauthorized(said: &str) -> bool {
    said.contains("Unauthorized") || said.contains("must be logged in") || said.contains("must log in")
}

fn wait_for_refusal(kept: &Kept, asked: Instant) -> Result<String> {
    loop {
        match kept.ask()? {
            Some(said) if is_unauthorized(&said) => return Ok(last_line(&said)),
            Some(said) => bail!("the kept token should be refused with 401, but kubectl said: {said}"),
            None if asked.elapsed() > BOUND => {
                bail!("the kept token still works {} s after the revocation", asked.elapsed().as_secs())
            }
            None => signals::pause(Duration::from_millis(20))?,
        }
    }
}

/// Asks with both for [`WATCH`]; each call must be refused, and for the right reason. What the plugin said last.
fn watch(daemons: &mut Daemons, site: &mut Site, kubectl: &Kubectl, kept: &Kept) -> Result<String> {
    let started = Instant::now();
    let mut plugin = String::new();
    while started.elapsed() < WATCH {
        daemons.check()?;
        site.check()?;
        match kept.ask()? {
            Some(said) => {
                ensure!(is_unauthorized(&said), "the kept token should be refused with 401, but: {said}")
            }
            None => bail!("the kept token came back to life"),
        }
        plugin = refusal(&mut kubectl.command(&["get", "configmaps"]))?
            .context("kubectl with the plugin works again after the revocation")?;
        ensure!(
            is_unauthorized(&plugin) || tells_why(&plugin),
            "kubectl with the plugin should be refused because of the revocation, but: {plugin}"
        );
        signals::pause(Duration::from_millis(100))?;
    }
    let telling = plugin.lines().find(|line| tells_why(line));
    telling.map(|line| line.trim().to_owned()).with_context(|| {
        format!("kubectl with the plugin should say in the end who revoked the lease, but said: {plugin}")
    })
}

fn tells_why(said: &str) -> bool {
    said.contains("blocked") || said.contains("revoked")
}

/// The agent's log line about the denial.
fn denial(daemons: &Daemons) -> Result<String> {
    let log = daemons.agent_log()?;
    let line = log.lines().rev().find(|line| line.contains("BLOCKED"));
    line.map(str::to_owned).context("the agent's log shows no denial")
}

/// Seconds from the delete of the anchor to the first 401 of the kept token, by the API server's own clock.
fn from_audit_log(log: &Path, credential: &Credential) -> Result<f64> {
    let text = fs::read_to_string(log).context("cannot read the audit log")?;
    let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let deleted = events
        .iter()
        .rev()
        .find(|event| event["verb"] == "delete" && event["objectRef"]["resource"] == "secrets")
        .context("the audit log shows no delete of an anchor")?;
    let first = events
        .iter()
        .find(|event| {
            event["responseStatus"]["code"] == 401
                && event["requestURI"].as_str().is_some_and(|uri| uri.contains("client%3Dkept"))
        })
        .with_context(|| format!("the audit log shows no 401 for the token {}", credential.jti))?;
    let took = seconds(&first["requestReceivedTimestamp"])? - seconds(&deleted["requestReceivedTimestamp"])?;
    Ok(took.rem_euclid(24.0 * 3600.0)) // midnight may have come in between
}

/// Seconds since midnight of an RFC 3339 time in UTC with microseconds; enough for a difference of seconds.
fn seconds(time: &Value) -> Result<f64> {
    let text = time.as_str().unwrap_or_default();
    let clock = text.split_once('T').map(|(_, clock)| clock.trim_end_matches('Z'));
    let parts: Vec<f64> = clock.unwrap_or_default().split(':').filter_map(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = parts[..] else { bail!("{text:?} is not a time of the audit log") };
    Ok(hours * 3600.0 + minutes * 60.0 + seconds)
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn audit_times_differ_by_seconds() {
        let time = |text: &str| seconds(&json!(text)).unwrap();
        let difference = time("2026-11-22T08:00:01.500000Z") - time("2026-11-22T07:59:59.250000Z");
        assert!((difference - 2.25).abs() < 1e-6, "{difference}");
        assert!(seconds(&json!("yesterday")).is_err());
    }
}
