//! What proves that the token is real, is the one we issued, and may do what its ServiceAccount may and nothing more.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::daemons::{Daemons, Kubectl, ROLE};
use super::site::{Site, output};
use crate::process::{self, Seen};

const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The first token. A new admission policy takes seconds to take effect, and until then nothing is minted.
pub(super) fn first_token(daemons: &mut Daemons) -> Result<()> {
    process::wait_until("the admission policy to take effect", Duration::from_secs(40), || {
        daemons.check()?;
        match daemons.token() {
            Ok(_) => Ok(Seen::Ready(())),
            Err(error) if format!("{error:#}").contains("ADMISSION_POLICY_MISSING") => {
                Ok(Seen::NotYet(error.to_string()))
            }
            Err(error) => Err(error),
        }
    })
}

/// Real commands: what the ServiceAccount may do works, what it may not is Forbidden.
pub(super) fn may_and_may_not(kubectl: &Kubectl) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for may in [
        &["create", "configmap", "release", "--from-literal=version=1"][..],
        &["get", "configmap", "release", "-o", "name"],
        &["delete", "configmap", "release"],
    ] {
        let said = output(&mut kubectl.command(may), None)?;
        lines.push(format!("kubectl {:<44} {}", may.join(" "), said.trim()));
    }
    for may_not in [&["get", "secrets"][..], &["get", "nodes"]] {
        let done = kubectl.command(may_not).output().context("cannot run kubectl")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(
            !done.status.success() && said.contains("Forbidden") && said.contains("deployer"),
            "`kubectl {}` should be Forbidden for deployer, but said: {}",
            may_not.join(" "),
            said.trim()
        );
        lines.push(format!("kubectl {:<44} Forbidden", may_not.join(" ")));
    }
    Ok(lines)
}

/// One credential, seen from three sides.
pub(super) struct Credential {
    pub(super) lease: String,
    pub(super) jti: String,
    /// The token that a client keeps, to see it die.
    pub(super) kept: String,
    seen_by: &'static str,
}

impl Credential {
    /// The `jti` of the lease, of the JWT, and of a request of kubectl as the API server saw it. The agent refreshes
    /// meanwhile (every five seconds in the demo), so all three are looked at until one token shows on all sides.
    pub(super) fn of(daemons: &mut Daemons, site: &Site, kubectl: &Kubectl) -> Result<Self> {
        process::wait_until("the same jti on all sides", Duration::from_secs(30), || {
            daemons.check()?;
            let kept = daemons.token()?;
            let jwt = jti_of(&kept)?;
            let (seen, seen_by) = match site.audit_log() {
                Some(log) => (seen_in_audit_log(kubectl, log, &jwt)?, "the API server's audit log"),
                None => (seen_by_whoami(kubectl)?, "the API server (kubectl auth whoami)"),
            };
            let (lease, recorded) = newest_lease(daemons)?;
            if seen == jwt && recorded == jwt {
                return Ok(Seen::Ready(Self { lease, jti: jwt, kept, seen_by }));
            }
            Ok(Seen::NotYet(format!("JWT {jwt}, lease {recorded}, {seen_by} {seen}")))
        })
    }

    pub(super) fn agreement(&self) -> String {
        format!("jti {}: equal in the lease, in the JWT, and in {}", self.jti, self.seen_by)
    }
}

/// The live lease of the demo's role and the `jti` of its newest token.
fn newest_lease(daemons: &Daemons) -> Result<(String, String)> {
    let list = daemons.operator_json(&["lease", "list", "--role", ROLE])?;
    let items = list["items"].as_array().context("a lease list without items")?;
    ensure!(items.len() == 1, "there should be one lease of {ROLE}, not {}", items.len());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok((text(&items[0]["id"]), text(&items[0]["tokens"][0]["jti"])))
}

/// How many leases of the role were ever made.
pub(crate) fn leases_ever(daemons: &Daemons) -> Result<usize> {
    let list = daemons.operator_json(&["lease", "list", "--role", ROLE, "--all"])?;
    list["items"].as_array().map(Vec::len).context("a lease list without items")
}

/// The claims of a JWT (RFC 7519).
pub(crate) fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("the token is not a JWT")?;
    serde_json::from_slice(&base64url(payload)?).context("the JWT's payload is not JSON")
}

fn jti_of(token: &str) -> Result<String> {
    claims(token)?["jti"].as_str().map(str::to_owned).context("the JWT has no jti")
}

/// base64url without padding (RFC 4648, section 5).
fn base64url(text: &str) -> Result<Vec<u8>> {
    data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).context("the JWT's payload is not base64url")
}

/// Makes a request with kubectl and gives the credential id that the audit log has for it.
fn seen_in_audit_log(kubectl: &Kubectl, log: &Path, expected: &str) -> Result<String> {
    output(&mut kubectl.command(&["get", "configmaps", "-o", "name"]), None)?;
    let user = format!("system:serviceaccount:{}:deployer", kubectl.namespace);
    let text = fs::read_to_string(log).context("cannot read the audit log")?;
    let ids: Vec<String> = text
        .lines()
        .filter(|line| line.contains(&user))
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["user"]["username"] == user.as_str())
        .filter_map(|event| event["user"]["extra"][CREDENTIAL_ID][0].as_str().map(str::to_owned))
        .collect();
    let wanted = format!("JTI={expected}");
    let found = ids.iter().find(|id| **id == wanted).or(ids.last());
    Ok(found.map_or_else(String::new, |id| id.trim_start_matches("JTI=").to_owned()))
}

/// What the API server says of the credential of the request that asks (SelfSubjectReview).
fn seen_by_whoami(kubectl: &Kubectl) -> Result<String> {
    let review: Value =
        serde_json::from_str(&output(&mut kubectl.command(&["auth", "whoami", "-o", "json"]), None)?)?;
    let id = review["status"]["userInfo"]["extra"][CREDENTIAL_ID][0].as_str().unwrap_or_default();
    Ok(id.trim_start_matches("JTI=").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jti_is_read_from_the_payload() {
        let payload = data_encoding::BASE64URL_NOPAD.encode(br#"{"jti":"0b8e8a5e"}"#);
        assert_eq!(jti_of(&format!("e30.{payload}.c2ln")).unwrap(), "0b8e8a5e");
        assert!(jti_of("no-jwt").is_err());
    }
}
