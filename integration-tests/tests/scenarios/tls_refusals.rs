//! Refused before HTTP: every reason shows its alert (RFC 8446, section 6), and the issuer's log says why.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::issuer::{IssuerUnderTest, Knobs, TRUST_DOMAIN};
use integration_tests::raw::{self, RawClient};
use integration_tests::site::Site;
use integration_tests::wait::{self, Seen};
use shorepass_core::caller::SpiffeId;
use shorepass_core::id::EnrolmentId;
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_testing::certificates::{Fault, Pair, Subject, TestCa};

const BAD_CERTIFICATE: u8 = 42;
const UNSUPPORTED_CERTIFICATE: u8 = 43;
const CERTIFICATE_EXPIRED: u8 = 45;
const CERTIFICATE_UNKNOWN: u8 = 46;
const UNKNOWN_CA: u8 = 48;
const ACCESS_DENIED: u8 = 49;
const PROTOCOL_VERSION: u8 = 70;
const CERTIFICATE_REQUIRED: u8 = 116;
const NO_APPLICATION_PROTOCOL: u8 = 120;

struct Scene {
    issuer: IssuerUnderTest,
    authority: TestCa,
    _site: Site,
}

async fn scene() -> Result<Scene> {
    let site = Site::new("tls").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let read = |name: &str| std::fs::read_to_string(issuer.state().join(name));
    let authority = TestCa::from_pem(&read("ca.pem")?, &read("ca.key")?);
    Ok(Scene { issuer, authority, _site: site })
}

impl Scene {
    fn showing(&self, pair: Option<Pair>) -> RawClient {
        RawClient::new(self.authority.certificate_pem(), pair)
    }

    fn subject(&self) -> Result<Subject> {
        let now = SystemClock.now();
        Ok(Subject {
            spiffe_id: SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/platform/test-portal"))?,
            enrolment: EnrolmentId::generate(now, &SystemEntropy),
            now,
        })
    }

    /// Waits until that many refusals are in the log; the newest.
    async fn refusal_in_the_log(&self, number: usize) -> Result<String> {
        wait::until("the refusal in the log", Duration::from_secs(10), async || {
            let log = self.issuer.log();
            let lines =
                log.lines().filter(|line| line.contains("\"handshake refused\"") && line.ends_with('}'));
            let lines: Vec<&str> = lines.collect();
            Ok(match lines.last() {
                Some(newest) if lines.len() == number => Seen::Ready((*newest).to_owned()),
                _ => Seen::NotYet(format!("{} refusals", lines.len())),
            })
        })
        .await
    }
}

/// The alert that a client certificate with this fault is refused with.
fn expected(fault: Fault) -> u8 {
    match fault {
        Fault::Expired | Fault::NotYetValid => CERTIFICATE_EXPIRED,
        Fault::OtherAuthority | Fault::SelfSigned => UNKNOWN_CA,
        Fault::Authority => CERTIFICATE_UNKNOWN,
        Fault::ServerUsage | Fault::BothUsages | Fault::NoUsage => UNSUPPORTED_CERTIFICATE,
        Fault::TwoIds
        | Fault::NoId
        | Fault::WildcardId
        | Fault::DnsName
        | Fault::WildcardDnsName
        | Fault::NoEnrolment => BAD_CERTIFICATE,
        Fault::OtherTrustDomain | Fault::IssuerKind => ACCESS_DENIED,
    }
}

#[tokio::test]
async fn every_bad_client_certificate_shows_its_alert_and_the_log_says_why() -> Result<()> {
    let scene = scene().await?;
    let api = scene.issuer.addresses().api;
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        let client = scene.showing(Some(scene.authority.faulty(fault, &scene.subject()?)));
        let alert = client.alert(api).await.with_context(|| format!("{fault:?}"))?;
        assert_eq!(alert, expected(fault), "{fault:?}");
        let line = scene.refusal_in_the_log(number + 1).await?;
        ensure!(line.contains("the client was refused: "), "{fault:?}: the log does not say why: {line}");
    }
    let good = scene.showing(Some(scene.authority.client(&scene.subject()?)));
    let answer = good.call(api, "/shorepass.v1.CredentialService/ListRoles", &[]).await?;
    assert_eq!(answer.code, 0, "the good certificate is refused: {answer:?}");
    Ok(())
}

#[tokio::test]
async fn without_a_certificate_only_the_enroll_listener_opens() -> Result<()> {
    let scene = scene().await?;
    let addresses = scene.issuer.addresses();
    let client = scene.showing(None);
    assert_eq!(client.alert(addresses.api).await?, CERTIFICATE_REQUIRED);
    let answer = client.call(addresses.enroll, "/shorepass.v1.EnrollmentService/Enroll", &[]).await?;
    assert_eq!(answer.reason.as_deref(), Some("FIELD_INVALID"));
    Ok(())
}

#[tokio::test]
async fn older_versions_and_other_protocols_show_their_alerts_on_both_listeners() -> Result<()> {
    let scene = scene().await?;
    let addresses = scene.issuer.addresses();
    let good = scene.showing(Some(scene.authority.client(&scene.subject()?)));
    for address in [addresses.api, addresses.enroll] {
        assert_eq!(raw::alert_for_tls12(address).await?, PROTOCOL_VERSION);
        for protocols in [vec![], vec!["http/1.1"]] {
            let client = RawClient { protocols, ..good.clone() };
            assert_eq!(client.alert(address).await?, NO_APPLICATION_PROTOCOL, "{:?}", client.protocols);
        }
    }
    let log = scene.issuer.log();
    ensure!(log.contains("the client does not offer HTTP/2 (ALPN h2)"), "the log does not say why: {log}");
    Ok(())
}
