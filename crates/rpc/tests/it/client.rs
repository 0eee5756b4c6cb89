//! The client where there is no answer.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shorepass_core::caller::Kind;
use shorepass_rpc::client::{ApiClient, ClientError};
use tokio::io::DuplexStream;

use crate::bench::{Bench, Counting, call};

#[derive(Debug, thiserror::Error)]
#[error("the TLS handshake failed")]
struct Handshake(#[source] io::Error);

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[tokio::test]
async fn what_the_connector_said_comes_through() {
    let bench = Bench::api();
    let connect = || async {
        let alert = io::Error::other("received fatal alert: CertificateExpired");
        Err::<DuplexStream, _>(Handshake(alert))
    };
    let client = ApiClient::new(connect, bench.clock.clone(), Arc::new(Counting::default()));
    for _ in 0..2 {
        let error = call(&client, "Issue").await.unwrap_err();
        assert!(matches!(error, ClientError::Connect(_)), "{error:?}");
        let expected = "cannot connect to the issuer: the TLS handshake failed: \
                        received fatal alert: CertificateExpired";
        assert_eq!(chain(&error), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_hangs_does_not_hold_the_next_call() {
    let bench = Bench::api();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let connect = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<io::Result<DuplexStream>>()
    };
    let client = ApiClient::new(connect, bench.clock.clone(), Arc::new(Counting::default()));
    let client = client.with_deadline(Duration::from_secs(5));
    for attempt in 1..=3 {
        let error = call(&client, "Issue").await.unwrap_err();
        assert!(matches!(error, ClientError::Deadline(_)), "{error:?}");
        assert_eq!(attempts.load(Ordering::SeqCst), attempt);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_not_a_refusal() {
    let bench = Bench::api();
    let connect = || async {
        let (near, far) = tokio::io::duplex(1024);
        drop(far);
        io::Result::Ok(near)
    };
    let client = ApiClient::new(connect, bench.clock.clone(), Arc::new(Counting::default()));
    let error = call(&client, "Issue").await.unwrap_err();
    assert!(matches!(error, ClientError::Broken(_) | ClientError::Connect(_)), "{error:?}");
    assert!(error.source().is_some());
}

#[tokio::test]
async fn one_connection_serves_all_calls_until_a_reset() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    for _ in 0..3 {
        call(&client.clone(), "Issue").await.unwrap();
    }
    assert_eq!(bench.connects(), 1);
    client.reset();
    call(&client, "Issue").await.unwrap();
    assert_eq!(bench.connects(), 2);
}

#[tokio::test]
async fn a_client_that_is_dropped_closes_its_connection() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    call(&client, "Issue").await.unwrap();
    assert_eq!(bench.open(), 1);
    drop(client);
    let closed = async {
        while bench.open() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.expect("the connection stays open");
}
