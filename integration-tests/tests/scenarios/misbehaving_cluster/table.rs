//! Faults that befall the first token of a lease.

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use integration_tests::proxy::{Answer, Fault, Target};
use integration_tests::site::{DEPLOY, RELEASE};
use serde_json::{Value, json};
use shorepass_core::time::Timestamp;
use shorepass_proto::v1::ErrorReason as Reason;
use shorepass_rpc::client::ClientError;
use shorepass_rpc::status::{Code, code_of};

use super::Scene;

const BOTH: &[&str] = &[DEPLOY.name, RELEASE.name];
const BOUND: &[&str] = &[DEPLOY.name];
const STRICT: &[&str] = &[RELEASE.name];

/// One case: the requests it befalls, the leases that are tried, and what their caller is told.
struct Row {
    what: &'static str,
    target: Target,
    fault: Fault,
    roles: &'static [&'static str],
    reason: Reason,
    says: &'static str,
    /// Seconds, where it matters.
    retry_after: Option<u64>,
}

fn row(
    what: &'static str,
    (target, fault): (Target, Fault),
    roles: &'static [&'static str],
    (reason, says): (Reason, &'static str),
) -> Row {
    Row { what, target, fault, roles, reason, says, retry_after: None }
}

fn answer(status: u16, reason: &'static str, message: &'static str) -> Fault {
    Fault::Answer(Answer { status, reason, message, retry_after: None })
}

const RBAC: &str = "serviceaccounts \"x\" is forbidden: User \"issuer\" cannot create resource \
                    \"serviceaccounts/token\" in API group \"\"";
const FULL: &str = "secrets \"x\" is forbidden: exceeded quota: tight, requested: secrets=1";
const BUSY: Fault = Fault::Answer(Answer {
    status: 429,
    reason: "TooManyRequests",
    message: "too many requests, please try again later",
    retry_after: Some(2),
});
const AWAY: Fault = Fault::Answer(Answer {
    status: 503,
    reason: "ServiceUnavailable",
    message: "the server is shutting down",
    retry_after: Some(2),
});
const PAGE: &str = "<html>Bad gateway</html>";

fn connections() -> Vec<Row> {
    use Target::{Anchors, Tokens};
    let unreachable = |says| (Reason::ClusterUnreachable, says);
    vec![
        row("it never answers", (Tokens, Fault::Hang), BOTH, unreachable("no answer within 8 s")),
        row("it answers a byte at a time", (Tokens, Fault::Drip), BOUND, unreachable("no answer within 8 s")),
        row("its answer breaks off", (Tokens, Fault::Truncate), BOTH, unreachable("its answer broke off")),
        row("its answer never ends", (Tokens, Fault::Flood), BOTH, unreachable("its answer is longer than")),
        row("the reply is lost", (Tokens, Fault::LoseReply), BOTH, unreachable("connection")),
        row("the anchor's reply is lost", (Anchors, Fault::LoseReply), BOTH, unreachable("connection")),
        row("the anchor's answer breaks off", (Anchors, Fault::Truncate), BOTH, unreachable("broke off")),
    ]
}

fn refusals() -> Vec<Row> {
    use Target::{Accounts, Anchors, Bindings, Tokens};
    let unreachable = |says| (Reason::ClusterUnreachable, says);
    let failure = || answer(500, "InternalError", "etcd is on fire");
    let forbidden = || answer(403, "Forbidden", RBAC);
    let busy = |target, roles| Row {
        retry_after: Some(2),
        ..row("it is busy", (target, BUSY), roles, (Reason::ClusterBusy, "try again later"))
    };
    let quota = (Reason::QuotaExceeded, "a ResourceQuota leaves the issuer no room to create secrets");
    vec![
        row("it fails", (Tokens, failure()), BOTH, unreachable("it failed (500)")),
        row("it fails with the anchor", (Anchors, failure()), BOTH, unreachable("it failed (500)")),
        row("it fails with the bindings", (Bindings, failure()), STRICT, unreachable("it failed (500)")),
        row("it fails with the account", (Accounts, failure()), STRICT, unreachable("it failed (500)")),
        row("it fails with the review", (Target::Rights, failure()), STRICT, unreachable("it failed (500)")),
        busy(Anchors, BOTH),
        busy(Tokens, BOUND),
        Row {
            retry_after: Some(2),
            ..row(
                "it is away and says for how long",
                (Tokens, AWAY),
                BOUND,
                (Reason::ClusterBusy, "try again later"),
            )
        },
        row(
            "it forbids all of a sudden",
            (Tokens, forbidden()),
            BOTH,
            (Reason::IssuerForbidden, "apply what `shorepass-issuer rbac` prints"),
        ),
        row("a quota has no room", (Anchors, answer(403, "Forbidden", FULL)), BOTH, quota),
        row(
            "something else answers",
            (Tokens, Fault::Say(502, PAGE)),
            BOTH,
            unreachable("that is not a Kubernetes API server"),
        ),
    ]
}

fn lies() -> Vec<Row> {
    use Target::{Anchors, Tokens, TokensToHandOut};
    let rejected = |says| (Reason::ClusterAnswerRejected, says);
    let skewed = |hours: i64| {
        Fault::change(move |answer| {
            shift(&mut answer["metadata"]["creationTimestamp"], hours * 3600);
            relive(answer, 600);
        })
    };
    let clocks = (Reason::ClockSkew, "synchronise both with NTP");
    vec![
        row("it answers garbage", (Tokens, Fault::Say(200, PAGE)), BOTH, rejected("is malformed")),
        row(
            "it answers garbage for the anchor",
            (Anchors, Fault::Say(201, PAGE)),
            BOTH,
            rejected("malformed"),
        ),
        row(
            "the token is empty",
            (Tokens, Fault::change(|answer| answer["status"]["token"] = json!(""))),
            BOTH,
            rejected("is not a JWT"),
        ),
        row(
            "the token lives longer than asked",
            (TokensToHandOut, Fault::change(|answer| relive(answer, 3 * 3600))),
            BOTH,
            rejected("its expiry"),
        ),
        row("its clock is hours ahead", (TokensToHandOut, skewed(3)), BOTH, clocks),
        row("its clock is hours behind", (TokensToHandOut, skewed(-3)), BOTH, clocks),
    ]
}

/// Moves a time in an answer.
fn shift(time: &mut Value, seconds: i64) {
    if let Some(Ok(before)) = time.as_str().map(str::parse::<Timestamp>) {
        let moved = Timestamp::from_second(before.as_second() + seconds).unwrap_or(before);
        *time = json!(moved.to_string());
    }
}

/// Gives the answer, and the token in it, another life; nobody checks the signature but API servers.
fn relive(answer: &mut Value, seconds: i64) {
    answer["status"]["expirationTimestamp"] = answer["metadata"]["creationTimestamp"].clone();
    shift(&mut answer["status"]["expirationTimestamp"], seconds);
    let expires = answer["status"]["expirationTimestamp"].as_str().and_then(|text| text.parse().ok());
    let token = answer["status"]["token"].as_str().unwrap_or_default().to_owned();
    let parts: Vec<&str> = token.split('.').collect();
    if let (Some(expires), [header, payload, signature]) = (expires, parts.as_slice())
        && let Ok(payload) = BASE64URL_NOPAD.decode(payload.as_bytes())
        && let Ok(mut claims) = serde_json::from_slice::<Value>(&payload)
    {
        claims["exp"] = json!(Timestamp::as_second(expires));
        let payload = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
        answer["status"]["token"] = json!(format!("{header}.{payload}.{signature}"));
    }
}

impl Row {
    async fn happens(&self, scene: &Scene, role: &str) -> Result<()> {
        let fault = scene.proxy.fault(self.target, self.fault.clone());
        let error = scene.refused_issue(role).await?;
        drop(fault);
        self.check_told(&error)?;
        self.check_recorded(scene, &error)?;
        scene.nothing_is_left().await?;
        scene.works_again(role).await
    }

    /// What the caller sees: code, reason, remedy, when to come back.
    fn check_told(&self, error: &ClientError) -> Result<()> {
        let refusal = error.refusal().with_context(|| format!("not refused but {error:?}"))?;
        ensure!(refusal.reason == Some(self.reason), "refused otherwise: {refusal:?}");
        ensure!(refusal.code == code_of(self.reason), "with another code: {refusal:?}");
        ensure!(refusal.message.contains(self.says), "it does not say {:?}: {refusal:?}", self.says);
        let passes = matches!(refusal.code, Code::Unavailable | Code::ResourceExhausted);
        ensure!(refusal.retry_after.is_some() == passes, "when to come back: {refusal:?}");
        if let Some(seconds) = self.retry_after {
            let told = refusal.retry_after.map(|told| told.as_secs());
            ensure!(told == Some(seconds), "when to come back: {refusal:?}");
        }
        Ok(())
    }

    /// The lease began, and was given up before the caller was told; the refusal has the reason.
    fn check_recorded(&self, scene: &Scene, error: &ClientError) -> Result<()> {
        let lease = error.refusal().and_then(|refusal| refusal.metadata.get("lease_id"));
        let lease = lease.context("no lease is named")?;
        let events = scene.audit_of(lease)?;
        let names: Vec<&str> = events.iter().map(|(event, _)| event.as_str()).collect();
        ensure!(names.starts_with(&["lease.pending", "lease.ending"]), "{names:?}");
        ensure!(!names.contains(&"token.minted"), "a token is on record: {names:?}");
        scene.ensure_ending(lease, "never became active")?;
        let line = scene.line_of(error)?;
        ensure!(line["reason"] == shorepass_rpc::status::reason_name(self.reason), "{line}");
        Ok(())
    }
}

async fn all_happen(purpose: &str, rows: Vec<Row>) -> Result<()> {
    let scene = Scene::set(purpose).await?;
    for row in rows {
        for role in row.roles {
            row.happens(&scene, role).await.with_context(|| format!("{} ({role})", row.what))?;
        }
    }
    const ROOM: u64 = 16 * 1024 * 1024; // what is under way in buffers of both sides, several times over
    ensure!(scene.proxy.flooded() < ROOM, "{} bytes of endless answers were read", scene.proxy.flooded());
    Ok(())
}

#[tokio::test]
async fn connections_that_fail_are_told_and_leave_nothing() -> Result<()> {
    all_happen("connections", connections()).await
}

#[tokio::test]
async fn refusals_and_failures_are_told_apart_and_leave_nothing() -> Result<()> {
    all_happen("refusals", refusals()).await
}

#[tokio::test]
async fn answers_that_are_wrong_are_told_and_leave_nothing() -> Result<()> {
    let mut rows = lies();
    let scene = Scene::set("lies").await?;
    let others = scene.site.place.token_of(super::REPLACED.service_account).await?;
    rows.push(row(
        "the token is another ServiceAccount's",
        (Target::TokensToHandOut, Fault::change(move |answer| answer["status"]["token"] = json!(others))),
        BOTH,
        (Reason::ClusterAnswerRejected, "it is a token of"),
    ));
    for row in rows {
        for role in row.roles {
            row.happens(&scene, role).await.with_context(|| format!("{} ({role})", row.what))?;
        }
    }
    Ok(())
}

/// Slow is not broken, and a shorter life is the cluster's right: the caller is told the life that was granted.
#[tokio::test]
async fn a_slow_answer_and_a_shorter_life_are_taken_as_they_are() -> Result<()> {
    let scene = Scene::set("slow").await?;
    for role in BOTH {
        let fault = scene.proxy.fault(Target::Tokens, Fault::Delay(std::time::Duration::from_secs(2)));
        scene.issue(role).await.with_context(|| format!("slow ({role})"))?;
        drop(fault);
        let shorter = Fault::change(|answer| relive(answer, 300));
        let _fault = scene.proxy.fault(Target::TokensToHandOut, shorter);
        let issued = scene.issue(role).await.with_context(|| format!("shorter ({role})"))?;
        let told = issued.credential.valid_for.map_or(0, |life| life.seconds);
        ensure!((200..=300).contains(&told), "the caller is told {told} s ({role})");
    }
    Ok(())
}
