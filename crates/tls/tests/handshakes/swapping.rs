//! Identities and bundles that change while connections live.

use rustls::AlertDescription;
use shorepass_core::digest::Digest;
use shorepass_testing::certificates::TestCa;
use shorepass_tls::{Connector, Serving};

use crate::support::*;

#[tokio::test]
async fn a_swapped_serving_identity_is_for_new_connections_only() {
    let ca = TestCa::new(&trust_domain());
    let serving = serving(&ca);
    let listening = api(&serving).await;
    let client = RawClient::presenting(ca.client(&subject("runner/prod-1")));
    let mut before = client.connect(&ca, listening.address).await.unwrap();
    let first = serving.identity().certificate();
    serving.swap_identity(serving_identity(&ca, &ca.server(&subject("issuer/main"))));
    let mut after = client.connect(&ca, listening.address).await.unwrap();
    let seen = |stream: &tokio_rustls::client::TlsStream<_>| {
        Digest::of_bytes(&stream.get_ref().1.peer_certificates().unwrap()[0])
    };
    assert_eq!(seen(&before), first);
    assert_eq!(seen(&after), serving.identity().certificate());
    assert_ne!(seen(&before), seen(&after));
    assert!(echoes(&mut before).await && echoes(&mut after).await);
}

#[tokio::test]
async fn a_swapped_bundle_is_for_new_connections_only() {
    let (ca, next) = (TestCa::new(&trust_domain()), TestCa::new(&trust_domain()));
    let trust = trust(&ca);
    let serving =
        Serving::new(serving_identity(&ca, &ca.server(&subject("issuer/main"))), trust.clone(), clock());
    let listening = api(&serving).await;
    let (old, new) = (ca.client(&subject("runner/prod-1")), next.client(&subject("runner/prod-1")));
    let (old, new) = (RawClient::presenting(old), RawClient::presenting(new));
    let mut live = old.connect(&ca, listening.address).await.unwrap();
    trust.swap_own(next.certificate_pem().as_bytes()).unwrap();
    assert_eq!(old.refused(&ca, listening.address).await, AlertDescription::UnknownCA);
    assert!(new.connect(&ca, listening.address).await.is_ok());
    assert!(echoes(&mut live).await);
    assert!(trust.swap_own(b"nothing").is_err());
    assert!(new.connect(&ca, listening.address).await.is_ok(), "a useless bundle changes nothing");
}

#[tokio::test]
async fn a_swapped_client_identity_is_for_new_connections_only() {
    let ca = TestCa::new(&trust_domain());
    let mut listening = api(&serving(&ca)).await;
    let (first, second) = (ca.client(&subject("runner/prod-1")), ca.client(&subject("runner/prod-1")));
    let current = current(&ca, &first);
    let connector = Connector::api(current.clone(), id("issuer/main"), clock());
    let mut live = connector.connect(&listening.address()).await.unwrap();
    let before = listening.outcome().await.unwrap().unwrap();
    current.swap(&identity(&ca, &second));
    connector.connect(&listening.address()).await.unwrap();
    let after = listening.outcome().await.unwrap().unwrap();
    assert_eq!(before.certificate(), identity(&ca, &first).certificate());
    assert_eq!(after.certificate(), identity(&ca, &second).certificate());
    let mut greeting = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut live, &mut greeting).await.unwrap();
    assert!(echoes(&mut live).await);
}
