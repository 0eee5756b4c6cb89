//! Role documents that are edited while the issuer runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::client::{self, Client};
use integration_tests::issuer::{self, IssuerUnderTest};
use integration_tests::process::Done;
use integration_tests::site::Site;
use integration_tests::wait::{self, Seen};
use rustix::process::{Pid, Signal};
use shorepass_proto::v1::{EndCause, ErrorReason, LeaseState};

/// The issuer looks every 5 s.
const NOTICED: Duration = Duration::from_secs(15);

/// A role that ends its leases when it does not give them any more.
const ENDING: &str = "\
apiVersion: shorepass.dev/v1
kind: Role
metadata: {name: ending}
spec:
  cluster: test
  target: {namespace: @NAMESPACE@, serviceAccount: deployer}
  lifetimes: {token: {default: 10m, max: 1h}, lease: {default: 1h, max: 1h}}
  onChange: end
  subjects: [{runners: [test-*], acceptJobs: asserted}]
";

/// As a person who takes care: the file is there whole, or not at all.
fn write_roles(issuer: &IssuerUnderTest, text: &str) -> Result<()> {
    let (new, file) = (issuer.folder().join("roles/.new"), issuer.folder().join("roles/roles.yaml"));
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, file)?)
}

fn hang_up(issuer: &IssuerUnderTest) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(issuer.process()?.id())?).context("no process")?;
    Ok(rustix::process::kill_process(pid, Signal::HUP)?)
}

/// Asks until the role is given, or is not.
async fn until_given(runner: &Client, job: &str, role: &str, given: bool) -> Result<()> {
    wait::until(&format!("role {role} to be given: {given}"), NOTICED, async || {
        let answer = runner.issue(job, role).await;
        if let Err(error) = &answer {
            let reason = error.refusal().and_then(|refusal| refusal.reason);
            ensure!(reason == Some(ErrorReason::RoleNotAvailable), "refused otherwise: {error:?}");
        }
        let is_given = answer.is_ok();
        Ok(if is_given == given { Seen::Ready(()) } else { Seen::NotYet(format!("given: {is_given}")) })
    })
    .await
}

async fn until_shown(issuer: &IssuerUnderTest, path: &str, part: &str) -> Result<String> {
    wait::until(&format!("{path} to show {part}"), NOTICED, async || {
        let shown = issuer.get(path).await?;
        Ok(if shown.contains(part) { Seen::Ready(shown) } else { Seen::NotYet(shown) })
    })
    .await
}

#[tokio::test]
async fn an_edited_role_decides_the_next_request_and_a_broken_one_changes_nothing() -> Result<()> {
    let site = Site::new("roles").await?;
    let knobs = issuer::Knobs { roles: ENDING.to_owned(), ..issuer::Knobs::default() };
    let issuer = IssuerUnderTest::start(&site, knobs).await?;
    let operator = issuer.operator()?;
    let runner = issuer.runner("test-1").await?;
    let job = runner.start_job().await?;
    let kept = runner.issue(&job, "deploy").await?.lease.id;
    let ended = runner.issue(&job, "ending").await?.lease.id;
    let good = std::fs::read_to_string(issuer.folder().join("roles/roles.yaml"))?;

    // An edit is noticed by itself, and each role says what becomes of its leases.
    let stricter = good.replace("runners: [test-*]", "runners: [nobody-*]");
    write_roles(&issuer, &stricter)?;
    until_given(&runner, &job, "deploy", false).await?;
    let over = wait::until("the lease of the other role to end", NOTICED, async || {
        let leases = operator.leases().await?;
        let of =
            |id: &str| leases.iter().filter_map(|record| record.lease.as_ref()).find(|lease| lease.id == id);
        ensure!(
            of(&kept).context("no lease")?.state() == LeaseState::Active,
            "a role that keeps ended its lease"
        );
        let end = of(&ended).context("no lease")?.end.clone();
        Ok(end.map_or_else(|| Seen::NotYet("it lives".to_owned()), Seen::Ready))
    })
    .await?;
    ensure!(over.cause() == EndCause::RoleChanged, "{over:?}");
    let refused = client::refused(runner.refresh(&kept).await)?;
    ensure!(
        refused.refusal().and_then(|refusal| refusal.reason) == Some(ErrorReason::RoleNotAvailable),
        "{refused:?}"
    );

    // A document that does not load is told with its place, and the last good ones stay.
    write_roles(&issuer, &good.replace("onChange: end", "onChange: and"))?;
    let shown = until_shown(&issuer, "/readyz", "roles: ").await?;
    ensure!(shown.starts_with("HTTP/1.1 200") && shown.contains("version 2 stays"), "{shown}");
    ensure!(
        shown.contains("roles.yaml:") && shown.contains("spec.onChange: \"and\" is not known"),
        "{shown}"
    );
    until_shown(&issuer, "/metrics", "shorepass_roles_stale 1").await?;
    until_given(&runner, &job, "deploy", false).await?;

    // SIGHUP does not wait for the next look.
    write_roles(&issuer, &good)?;
    hang_up(&issuer)?;
    until_given(&runner, &job, "deploy", true).await?;
    ensure!(issuer.log().contains("reading the roles again at SIGHUP"), "{}", issuer.log());
    until_shown(&issuer, "/metrics", "shorepass_policy_version 3").await?;

    // Every decision says by which policy it was made.
    let audit = issuer.audit()?;
    let versions = |event: &str| -> Vec<u64> {
        audit
            .iter()
            .filter(|line| line["event"] == event)
            .filter_map(|line| line["policyVersion"].as_u64())
            .collect()
    };
    let granted = versions("lease.pending");
    ensure!(granted.first() == Some(&1) && granted.last() == Some(&3), "{granted:?}");
    ensure!(versions("request.refused").contains(&2), "{audit:?}");
    let show = integration_tests::agent::as_operator(&issuer, &["lease", "show", &kept])?;
    let Done { stdout, .. } = show;
    ensure!(stdout.contains("POLICY") && stdout.contains("version 1, "), "{stdout}");

    // What was decided can be decided again, by documents that are not in force.
    issuer.identities_are_audited().await?; // the file is at rest
    let mut check = issuer.command(&["config", "check", "--config"]);
    check.arg(issuer.config()).arg("--against").arg(issuer.audit_file());
    let told = Done::of(&mut check)?.succeeded()?;
    let caller = &runner.spiffe_id;
    ensure!(told.contains("role deploy: refused then, granted now: "), "{told}");
    ensure!(!told.contains("granted then, refused now"), "{told}");
    write_roles(&issuer, &stricter)?;
    let told = Done::of(&mut check)?.succeeded()?;
    ensure!(told.contains(&format!("role ending: granted then, refused now: 1 for {caller}, ")), "{told}");
    ensure!(told.contains(&format!("subjects[0]: it does not name {caller}")), "{told}");
    Ok(())
}
