//! No secret is written anywhere but where it belongs, at any log level, whatever happens.
//!
//! The secrets are those that really existed: every JWT that a proxy saw, the join tokens, the private keys. The story
//! goes through issue, refresh, refusals, pasted tokens, revocation, crashes and restarts with logs at trace level.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{self, AgentUnderTest, as_operator};
use integration_tests::client::{refused, try_enroll};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::Done;
use integration_tests::proxy::{Answer, Fault, Proxy, Target};
use integration_tests::secrets::{Secret, leaks, leaks_in_folder};
use integration_tests::site::Site;
use integration_tests::wait::{self, Seen};
use serde_json::json;

/// Certificates are renewed within the story, so that there are more keys than one.
const CERTIFICATES: &str = "40s";

/// Dropped in this order.
struct Story {
    agent: AgentUnderTest,
    issuer: IssuerUnderTest,
    proxy: Proxy,
    _site: Site,
    /// What programs printed that were not to print a secret, and who was started how.
    heard: Vec<(String, String)>,
    join_tokens: Vec<String>,
    agent_keys: Vec<String>,
}

impl Story {
    async fn begin() -> Result<Self> {
        let site = Site::new("secrets").await?;
        let proxy = Proxy::start(&site).await?;
        let knobs = Knobs {
            kubeconfig: Some(proxy.kubeconfig()),
            certificates: CERTIFICATES,
            log: "trace",
            ..Knobs::default()
        };
        let issuer = IssuerUnderTest::start(&site, knobs).await?;
        let join_token =
            as_operator(&issuer, &["join-token", "create", "--runners", "test-1"])?.succeeded()?;
        let knobs = agent::Knobs { max_age: Some("2s"), log: "trace", ..agent::Knobs::default() };
        let mut agent = AgentUnderTest::prepare(&issuer, "test-1", join_token.trim(), knobs)?;
        agent.run().await?;
        let join_tokens = vec![join_token];
        Ok(Self { agent, issuer, proxy, _site: site, heard: Vec::new(), join_tokens, agent_keys: Vec::new() })
    }

    fn hear(&mut self, what: &str, done: Done) {
        self.heard.push((format!("stdout of {what}"), done.stdout));
        self.heard.push((format!("stderr of {what}"), done.stderr));
    }

    fn operator(&mut self, arguments: &[&str]) -> Result<()> {
        let done = as_operator(&self.issuer, arguments)?;
        self.hear(&format!("shorepass {}", arguments[..1].join(" ")), done);
        Ok(())
    }

    /// The agent's key as it is now.
    fn keep_agent_key(&mut self) -> Result<String> {
        let key = fs::read_to_string(self.agent_identity())?;
        self.agent_keys.push(key.clone());
        Ok(key)
    }

    fn agent_identity(&self) -> std::path::PathBuf {
        self.agent.folder().join("state/identity.pem")
    }

    fn keep_command_lines(&mut self) -> Result<()> {
        let issuer = self.issuer.process()?.id();
        let agent = self.agent.process()?.id();
        for (what, id) in [("issuer", issuer), ("agent", agent)] {
            let read = |file: &str| {
                fs::read(format!("/proc/{id}/{file}")).map(|text| String::from_utf8_lossy(&text).into_owned())
            };
            self.heard.push((format!("command line of the {what}"), read("cmdline")?));
        }
        Ok(())
    }

    async fn uses_and_refreshes(&mut self) -> Result<()> {
        let first = self.agent.token("deploy")?;
        let done = Done::of(self.agent.kubectl("deploy")?.args(["get", "configmaps"]))?;
        ensure!(done.code == Some(0), "kubectl: {}", done.stderr);
        self.hear("kubectl", done);
        wait::until("a refresh", Duration::from_secs(20), async || {
            let token = self.agent.token("deploy")?;
            Ok(if token == first { Seen::NotYet("the first token".to_owned()) } else { Seen::Ready(()) })
        })
        .await
    }

    async fn is_renewed(&mut self) -> Result<()> {
        let first = self.keep_agent_key()?;
        wait::until("a renewed certificate", Duration::from_secs(30), async || {
            let now = fs::read_to_string(self.agent_identity())?;
            Ok(if now == first { Seen::NotYet("the first one".to_owned()) } else { Seen::Ready(()) })
        })
        .await?;
        self.keep_agent_key()?;
        Ok(())
    }

    /// People paste secrets where they do not belong.
    async fn pastes(&mut self) -> Result<()> {
        let token = self.agent.token("deploy")?;
        self.operator(&["whois", &token])?;
        let join_token = self.join_tokens[0].trim().to_owned();
        self.operator(&["lease", "show", &join_token])?;
        let done = self.agent.exec(&token)?;
        self.hear("shorepass-exec with a token for a role", done);
        let unused = self.issuer.join_token("test-*", false).await?;
        let mistyped = unused.replacen("spjt1.", "spjt1.x", 1);
        for (text, name) in [(join_token.as_str(), "test-2"), (&mistyped, "test-2"), (&unused, "other")] {
            let error = refused(try_enroll(&self.issuer, text, name).await?)?;
            self.heard.push(("a refused enrolment".to_owned(), format!("{error} {error:?}")));
        }
        self.join_tokens.push(unused);
        Ok(())
    }

    /// API servers answer wrongly, late and not at all.
    async fn meets_faults(&mut self) -> Result<()> {
        let platform = self.issuer.platform("test-portal")?;
        let job = platform.start_job().await?;
        let busy = Answer { status: 429, reason: "TooManyRequests", message: "later", retry_after: Some(1) };
        let faults = [
            Fault::change(|answer| answer["spec"]["audiences"] = json!(["elsewhere"])),
            Fault::change(|answer| answer["status"]["expirationTimestamp"] = json!("soon")),
            Fault::Answer(busy),
            Fault::LoseReply,
        ];
        for fault in faults {
            let _fault = self.proxy.fault(Target::Tokens, fault);
            let error = refused(platform.issue(&job, "deploy").await)?;
            self.heard.push(("a refused issue".to_owned(), format!("{error} {error:?}")));
            // A cluster that is busy is left alone for the second that it wants.
            tokio::time::sleep(Duration::from_millis(1_200)).await;
        }
        let issued = platform.issue(&job, "deploy").await?;
        self.heard
            .push(("an answer of the API, for debugging".to_owned(), format!("{:?}", issued.credential)));
        Ok(())
    }

    async fn crashes_and_is_revoked(&mut self) -> Result<()> {
        self.keep_command_lines()?;
        self.issuer.kill()?;
        self.agent.kill()?;
        self.issuer.run().await?;
        self.agent.run().await?;
        self.agent.token("deploy")?;
        self.operator(&["lease", "list", "-o", "json"])?;
        self.operator(&["lease", "revoke", "--role", "deploy", "--reason", "leaked"])?;
        let done = wait::until("the agent to learn of it", Duration::from_secs(20), async || {
            let done = self.agent.exec("deploy")?;
            Ok(if done.code == Some(0) { Seen::NotYet("a token".to_owned()) } else { Seen::Ready(done) })
        })
        .await?;
        self.hear("shorepass-exec after the revocation", done);
        let status = self.agent.status()?;
        self.heard.push(("shorepass status".to_owned(), status.to_string()));
        for path in ["/metrics", "/readyz", "/livez"] {
            self.heard.push((path.to_owned(), self.issuer.get(path).await?));
        }
        self.keep_agent_key()?;
        self.agent.stop()?;
        self.issuer.stop()?;
        Ok(())
    }

    fn secrets(&self) -> Result<Vec<Secret>> {
        let mut secrets = Vec::new();
        for (number, jwt) in self.proxy.jwts().iter().enumerate() {
            secrets.push(Secret::jwt(format!("JWT {number}"), jwt)?);
        }
        ensure!(secrets.len() > 4, "only {} JWTs were seen", secrets.len());
        let (state, agent) = (self.issuer.state(), self.agent.folder());
        for (number, join_token) in self.join_tokens.iter().enumerate() {
            let secret = Secret::join_token(format!("join token {number}"), join_token)?;
            secrets.push(secret.at_home_in(agent.join("join-token")));
        }
        for (number, pem) in self.agent_keys.iter().enumerate() {
            let secret = Secret::private_key(format!("the agent's key {number}"), pem)?;
            secrets.push(secret.at_home_in(self.agent_identity()));
        }
        let folder = self.issuer.folder();
        for file in [
            state.join("ca.key"),
            folder.join("operator-alice/identity.pem"),
            folder.join("platform-test-portal/identity.pem"),
        ] {
            let pem = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            secrets
                .push(Secret::private_key(format!("the key in {}", file.display()), &pem)?.at_home_in(file));
        }
        let seal = state.join("anchor.key");
        secrets.push(Secret::bytes("the key of the anchors", &fs::read(&seal)?).at_home_in(seal));
        Ok(secrets)
    }

    fn leaks(&self, secrets: &[Secret]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (place, content) in &self.heard {
            found.extend(leaks(secrets, place, content.as_bytes()));
        }
        for folder in [self.issuer.folder(), self.agent.folder()] {
            found.extend(leaks_in_folder(secrets, folder)?);
        }
        Ok(found)
    }
}

/// Writes behind what is there.
fn plant(file: &Path, secret: &str) -> Result<()> {
    let mut text = fs::read(file)?;
    text.extend_from_slice(b"\nplanted: ");
    text.extend_from_slice(secret.as_bytes());
    Ok(fs::write(file, text)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_where_it_does_not_belong_and_a_planted_one_is_found() -> Result<()> {
    let mut story = Story::begin().await?;
    story.uses_and_refreshes().await?;
    story.is_renewed().await?;
    story.pastes().await?;
    story.meets_faults().await?;
    story.crashes_and_is_revoked().await?;

    let log = story.issuer.log();
    ensure!(
        log.contains("\"TRACE\"") && story.agent.log().contains("\"TRACE\""),
        "the logs are not at trace level"
    );
    let secrets = story.secrets()?;
    let found = story.leaks(&secrets)?;
    ensure!(found.is_empty(), "secrets were written: {found:#?}");

    let jwt = story.proxy.jwts().into_iter().next().context("no JWT")?;
    let signature = jwt.rsplit('.').next().context("no signature")?.to_owned();
    let join_token = story.join_tokens[0].trim().split('.').nth(1).context("no secret")?.to_owned();
    let key = story.agent_keys[0].lines().nth(1).context("no key")?.to_owned();
    let planted = [
        (story.issuer.log_file(), signature),
        (story.issuer.audit_file(), join_token),
        (story.agent.folder().join("state/sessions.json"), key),
    ];
    for (file, secret) in &planted {
        plant(file, secret)?;
    }
    let found = story.leaks(&secrets)?;
    for (file, _) in &planted {
        let place = file.display().to_string();
        ensure!(found.iter().any(|leak| leak.ends_with(&place)), "not found in {place}: {found:#?}");
    }
    Ok(())
}
