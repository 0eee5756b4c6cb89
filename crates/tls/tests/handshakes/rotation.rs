//! A CA that follows another one: who finds the way to whom, with what they know.

use std::sync::Arc;
use std::time::Duration;

use rustls::AlertDescription;
use shorepass_testing::certificates::TestCa;
use shorepass_tls::{
    Authority, ConnectError, Connector, CurrentIdentity, Identity, Phase, RotationPlan, Serving, Trust,
};

use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);

/// An issuer whose CA is rotated while it serves. Its clock stands still; its CA is told the time.
struct Stage {
    authority: Authority,
    trust: Arc<Trust>,
    serving: Arc<Serving>,
    api: Listening,
    enroll: Listening,
    directory: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(directory.path(), &trust_domain(), now(), Arc::new(Counted::default()))
                .unwrap();
        let trust = Trust::new(trust_domain(), &authority.bundle_pem(), Vec::new()).unwrap();
        let identity =
            authority.serving(&id("issuer/main"), &["localhost".to_owned()], &[], HOUR, now()).unwrap();
        let serving = Serving::new(identity, trust.clone(), clock());
        let (api, enroll) = (api(&serving).await, enroll(&serving).await);
        Self { authority, trust, serving, api, enroll, directory }
    }

    /// What the issuer does when its CA is not as it was.
    fn take(&self) {
        self.trust.swap_own(&self.authority.bundle_pem()).unwrap();
        let identity =
            self.authority.serving(&id("issuer/main"), &["localhost".to_owned()], &[], HOUR, now()).unwrap();
        self.serving.swap_identity(identity);
    }

    /// The CA that is in the files.
    fn ca(&self) -> TestCa {
        let [certificate, key] = ["ca.pem", "ca.key"]
            .map(|name| std::fs::read_to_string(self.directory.path().join(name)).unwrap());
        TestCa::from_pem(&certificate, &key)
    }

    fn identity(&self) -> Identity {
        let subject = subject("platform/portal");
        self.authority.create_identity(&subject.spiffe_id, subject.enrolment, HOUR, now()).unwrap()
    }

    async fn connects(&mut self, identity: &Identity) -> Result<(), ConnectError> {
        let connector = Connector::api(CurrentIdentity::new(identity), id("issuer/main"), clock());
        let connected = connector.connect(&self.api.address()).await.map(drop);
        let seen = self.api.outcome().await;
        assert_eq!(connected.is_ok(), seen.is_ok(), "{connected:?} {seen:?}");
        connected
    }
}

/// Different bytes at each call.
#[derive(Default)]
struct Counted(std::sync::atomic::AtomicU8);

impl shorepass_core::time::Entropy for Counted {
    fn fill(&self, buffer: &mut [u8]) {
        let next = || self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed).wrapping_add(1);
        buffer.fill_with(next);
    }
}

#[tokio::test]
async fn who_knows_one_of_the_two_cas_finds_the_way_and_is_let_in_until_the_end() {
    let mut stage = Stage::new().await;
    let before = stage.identity();
    let former = stage.authority.key_digest();
    let ca = stage.ca();
    let alice = RawClient::presenting(ca.client(&subject("operator/alice")));
    let mut open = alice.connect(&ca, stage.api.address).await.unwrap();
    stage.api.outcome().await.unwrap();
    let plan = RotationPlan { announce: HOUR, overlap: HOUR };
    assert!(matches!(stage.authority.rotate(plan, now()), Ok(Phase::Announced { .. })));
    stage.take();
    let announced = stage.identity();
    stage.connects(&before).await.unwrap();
    stage.connects(&announced).await.unwrap();

    stage.authority.refresh(now() + HOUR).unwrap();
    stage.take();
    let after = stage.identity();
    for identity in [&before, &announced, &after] {
        stage.connects(identity).await.unwrap();
    }
    let next = stage.authority.key_digest();
    assert_ne!(next, former);
    for pinned in [former, next] {
        let connector = Connector::enroll(pinned, id("issuer/main"), clock());
        connector.connect(&stage.enroll.address()).await.unwrap();
    }
    Connector::rejoin(&before, id("issuer/main"), clock()).connect(&stage.enroll.address()).await.unwrap();

    stage.authority.refresh(now() + 2 * HOUR).unwrap();
    stage.take();
    assert!(echoes(&mut open).await, "connections that are open are not dropped by any of this");
    for identity in [&announced, &after] {
        let connected = stage.connects(identity).await;
        match connected {
            Ok(()) => assert_eq!(identity.certificate(), after.certificate()),
            Err(ConnectError::Refused { alert, .. }) => assert_eq!(alert.code(), 48),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(matches!(stage.connects(&before).await, Err(ConnectError::NotTheIssuer { .. })));
    let old = Connector::enroll(former, id("issuer/main"), clock());
    let refused = old.connect(&stage.enroll.address()).await;
    assert!(matches!(refused, Err(ConnectError::OtherAuthority { .. })));
    assert_eq!(alice.refused(&stage.ca(), stage.api.address).await, AlertDescription::UnknownCA);
}
