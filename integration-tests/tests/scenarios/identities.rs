//! Identities of operators and platforms are made beside the issuer, and are in its audit file all the same: each once.

use std::time::Duration;

use anyhow::{Context, Result};
use integration_tests::issuer::{IssuerUnderTest, Knobs, TRUST_DOMAIN};
use integration_tests::site::Site;
use serde_json::Value;

/// The audit line of each identity that was made.
fn lines(issuer: &IssuerUnderTest) -> Result<Vec<Value>> {
    let mut lines = issuer.audit()?;
    lines.retain(|line| line["event"] == "identity.created");
    Ok(lines)
}

/// That there is one line for each of these names, in any order, with what is in its certificate.
fn check(issuer: &IssuerUnderTest, names: &[String]) -> Result<()> {
    let lines = lines(issuer)?;
    assert_eq!(lines.len(), names.len(), "{lines:#?}");
    for name in names {
        let identity = issuer.identity("platform", name)?;
        let certificate = identity.certificate().to_string();
        let line = lines.iter().find(|line| line["certificate"] == certificate.as_str());
        let line = line.with_context(|| format!("{name} has no line: {lines:#?}"))?;
        assert_eq!(line["caller"], format!("spiffe://{TRUST_DOMAIN}/platform/{name}"));
        assert_eq!(line["enrolment"], identity.enrolment().context("no enrolment")?.to_string());
        assert_eq!(line["uid"], rustix::process::getuid().as_raw());
        let ends = line["until"].as_str().context("no end")?.parse::<shorepass_core::time::Timestamp>()?;
        assert_eq!(ends.as_second(), identity.expires().as_second());
    }
    Ok(())
}

#[tokio::test]
async fn an_identity_is_audited_beside_a_running_issuer_and_at_the_start_of_one_that_was_stopped()
-> Result<()> {
    let site = Site::new("identities").await?;
    let mut issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let mut names = Vec::new();
    for name in ["running", "stopped"] {
        if name == "stopped" {
            issuer.stop()?;
        }
        issuer.identity("platform", name)?;
        names.push(name.to_owned());
        if name == "stopped" {
            assert_eq!(lines(&issuer)?.len(), 1, "the audit file belongs to the daemon");
            issuer.run().await?;
        }
        issuer.identities_are_audited().await?;
        check(&issuer, &names)?;
    }
    Ok(())
}

#[tokio::test]
async fn an_identity_is_audited_once_when_the_issuer_is_killed_around_it() -> Result<()> {
    let site = Site::new("killed").await?;
    let mut issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let mut names = Vec::new();
    for round in 0..6 {
        let name = format!("round-{round}");
        issuer.identity("platform", &name)?;
        names.push(name);
        if round % 2 == 1 {
            // As soon as the line is in the audit file: the records may have it or not.
            let audited = async {
                while lines(&issuer).map_or(0, |lines| lines.len()) < names.len() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(15), audited).await.context("no audit line")?;
        }
        issuer.kill()?;
        issuer.run().await?;
        issuer.identities_are_audited().await?;
    }
    issuer.stop()?;
    issuer.run().await?;
    issuer.identities_are_audited().await?;
    check(&issuer, &names)
}
