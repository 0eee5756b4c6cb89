//! What the disk below the state directory can do, and that each has the outcome that docs/operating.md says.
//!
//! What is damaged in the records, the audit file and the second copy, and where, is walked through in `crates/store`; here
//! is what the whole program does, and what it says.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::client::refused;
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::{Done, Process};
use integration_tests::site::{DEPLOY, Site};
use integration_tests::use_of_tokens::who_am_i;
use integration_tests::wait::{self, Seen};
use shorepass_proto::v1::{ErrorReason, LeaseState};

#[tokio::test]
async fn a_start_on_a_full_disk_refuses_everything_and_goes_on_by_itself_when_there_is_room() -> Result<()> {
    let site = Site::new("full").await?;
    let mut issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let (platform, banned) = (issuer.platform("test-portal")?, issuer.platform("test-stolen")?);
    let operator = issuer.operator()?;
    let job = platform.start_job().await?;
    let issued = platform.issue(&job, DEPLOY.name).await?;
    operator.ban(&banned.spiffe_id.to_string()).await?;
    issuer.identities_are_audited().await?;
    issuer.kill()?;
    let audit = fs::read(issuer.audit_file())?;

    issuer.run_without_room(1).await?;
    for client in [&platform, &banned, &operator] {
        client.reset();
    }
    wait::until("what is missing", Duration::from_secs(10), async || {
        let answer = issuer.get("/readyz").await?;
        let told = answer.starts_with("HTTP/1.1 503")
            && answer.contains("ledger: the ledger is not available: there is no room to write")
            && answer.contains("free space on its disk; nothing is lost")
            && answer.contains("serving: waiting for the records");
        Ok(if told { Seen::Ready(()) } else { Seen::NotYet(answer) })
    })
    .await?;
    ensure!(issuer.log().contains("the ledger stays closed until there is room"), "{}", issuer.log());
    for error in [
        refused(platform.issue(&job, DEPLOY.name).await)?,
        refused(platform.refresh(&issued.lease.id).await)?,
        refused(platform.release(&issued.lease.id).await)?,
        // Nobody knows yet that it is banned: it is let in no more than anybody.
        refused(banned.start_job().await)?,
        refused(operator.leases().await)?,
    ] {
        ensure!(error.reason() == Some(ErrorReason::StoreUnavailable), "{error}");
    }
    ensure!(fs::read(issuer.audit_file())? == audit, "the audit file has changed");
    let holder = site.admin.client_with(&issued.credential.token).await?;
    who_am_i(&holder).await?.context("a token that was handed out does not work")?;

    issuer.process()?.limit_files(None)?;
    issuer.is_ready().await?;
    let error = refused(banned.start_job().await)?;
    ensure!(error.reason() == Some(ErrorReason::Banned), "{error}");
    let refreshed = platform.refresh(&issued.lease.id).await?;
    ensure!(refreshed.lease.id == issued.lease.id, "another lease");
    let released = platform.release(&issued.lease.id).await?;
    ensure!(released.state() == LeaseState::Ended, "{released:?}");
    ensure!(site.place.secrets().list(&Default::default()).await?.items.is_empty(), "an anchor is left");
    Ok(())
}

/// Starts the issuer by another program and waits for its end.
fn start_by(issuer: &IssuerUnderTest, program: &str, arguments: &[&str]) -> Result<Done> {
    let serve = issuer.command(&["serve", "--config"]);
    let (itself, config) = (serve.get_program().display().to_string(), issuer.config().display().to_string());
    let log = issuer.folder().join("start.log");
    let _ = fs::remove_file(&log);
    let arguments = [arguments, &[&itself, "serve", "--config", &config]].concat();
    Process::start(Path::new(program), &arguments, &[], &log)?.end()
}

#[tokio::test]
async fn a_first_start_on_a_full_disk_says_so_and_leaves_nothing_in_the_way() -> Result<()> {
    let site = Site::new("first").await?;
    let mut issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
    start_by(&issuer, "prlimit", &["--fsize=1:unlimited"])?.failed(1, &["File too large", "ca.key"])?;
    issuer.run().await.context("with room it starts")
}

#[tokio::test]
async fn a_state_directory_that_is_read_only_is_named_with_the_remedy() -> Result<()> {
    let site = Site::new("readonly").await?;
    let mut issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    issuer.stop()?;
    let state = issuer.state().display().to_string();
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let done = start_by(&issuer, "unshare", &["--map-root-user", "--mount", "sh", "-c", script, &state])?;
    done.failed(1, &["Read-only file system", &state, "must be on a disk that takes files"])?;
    issuer.run().await.context("on a disk that takes files it starts")
}

#[tokio::test]
async fn records_that_were_cut_short_stop_the_issuer_or_are_made_anew_as_configured() -> Result<()> {
    let site = Site::new("cut").await?;
    let mut issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    let issued = platform.issue(&job, DEPLOY.name).await?;
    issuer.stop()?;
    File::options().write(true).open(issuer.state().join("ledger/db"))?.set_len(0)?;

    let continuing = fs::read_to_string(issuer.config())?;
    let stopping = continuing.replace("{directory: state}", "{directory: state, onStoreFailure: stop}");
    ensure!(stopping != continuing, "the config has another form");
    fs::write(issuer.config(), stopping)?;
    let state = issuer.state().display().to_string();
    start_by(&issuer, "env", &[])?.failed(1, &[&state, "shorepass-issuer store rebuild"])?;
    let verify = Done::of(issuer.command(&["store", "verify", "--config"]).arg(issuer.config()))?;
    ensure!(verify.code == Some(1), "{verify:?}");

    fs::write(issuer.config(), continuing)?;
    issuer.run().await?;
    let answer = issuer.get("/readyz").await?;
    ensure!(answer.contains("all of them came back from the audit file"), "{answer}");
    platform.reset();
    platform.refresh(&issued.lease.id).await.context("the lease did not come back")?;
    platform.release(&issued.lease.id).await?;
    Ok(())
}
