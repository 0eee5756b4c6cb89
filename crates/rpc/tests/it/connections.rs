//! The lives of connections: silence, age, shutdown.

use std::num::NonZeroU32;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use shorepass_core::caller::Kind;
use shorepass_rpc::client::ClientError;
use shorepass_rpc::limits::Limits;
use shorepass_rpc::refused::Reason;
use shorepass_rpc::server::{ListenerKind, ServeError};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep};

use crate::bench::{Bench, call};
use crate::fake::{Mood, caller};

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_call_is_closed() {
    let bench = Bench::new(ListenerKind::Enroll, Limits::enroll());
    let mut silent = bench.connect(None);
    let started = Instant::now();
    let mut settings = Vec::new();
    let _ = silent.read_to_end(&mut settings).await;
    assert!(started.elapsed() >= Limits::enroll().first_call);
    assert!(started.elapsed() < Limits::enroll().first_call + Duration::from_secs(1));
    assert_eq!(bench.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_does_not_keep_a_connection() {
    let limits = Limits { calls_burst: NonZeroU32::new(2).unwrap(), ..Limits::enroll() };
    let bench = Bench::new(ListenerKind::Enroll, limits.clone());
    let clients = [bench.client(None), bench.client(None), bench.client(None)];
    call(&clients[0], "Enroll").await.unwrap();
    let refused = call(&clients[1], "ListRoles").await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::CallerKind));
    let refused = call(&clients[2], "Enroll").await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::RateLimited));
    assert_eq!(bench.open(), 3);
    sleep(limits.first_call + Duration::from_secs(1)).await;
    assert_eq!(bench.open(), 1, "the admitted one");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_method_does_not_keep_a_connection() {
    let bench = Bench::new(ListenerKind::Enroll, Limits::enroll());
    let executor = TokioExecutor::new();
    let io = TokioIo::new(bench.connect(None));
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://issuer/shorepass.v1.EnrollmentService/Nothing");
    sender.send_request(request.body(tonic::body::Body::empty()).unwrap()).await.unwrap();
    assert_eq!(bench.open(), 1);
    sleep(Limits::enroll().first_call + Duration::from_secs(1)).await;
    assert_eq!(bench.open(), 0);
}

#[tokio::test]
async fn a_caller_has_so_many_connections_and_one_more_is_closed() {
    let limits = Limits { connections_per_caller: 2, ..Limits::api() };
    let bench = Bench::new(ListenerKind::Api, limits);
    let runner = || bench.connect(Some(caller(Kind::Runner)));
    let (mut first, mut second) = (runner(), runner());
    let mut greeting = [0; 9];
    first.read_exact(&mut greeting).await.unwrap();
    second.read_exact(&mut greeting).await.unwrap();
    let mut told = Vec::new();
    runner().read_to_end(&mut told).await.unwrap(); // it is closed
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    assert_eq!(
        told,
        [[0_u8, 0, 0, 4, 0, 0, 0, 0, 0].as_slice(), &goaway].concat(),
        "SETTINGS, ENHANCE_YOUR_CALM"
    );
    while bench.open() > 2 {
        tokio::task::yield_now().await;
    }
    call(&bench.client(Some(Kind::Platform)), "ListRoles").await.unwrap();
    drop(first);
    while bench.open() > 2 {
        tokio::task::yield_now().await;
    }
    runner().read_exact(&mut greeting).await.unwrap();
}

#[tokio::test]
async fn who_is_shut_out_loses_its_connections_with_the_calls_on_them_and_nobody_else_does() {
    let bench = Bench::api();
    let (runner, platform) = (bench.client(Some(Kind::Runner)), bench.client(Some(Kind::Platform)));
    call(&platform, "ListRoles").await.unwrap();
    bench.fake.set(Mood::Hang);
    let hanging = tokio::spawn(async move { call(&runner, "Issue").await });
    while bench.fake.begun() < 2 {
        tokio::task::yield_now().await;
    }
    let banned = caller(Kind::Runner).owner();
    assert_eq!(bench.connections.close(|owner| *owner == banned), 1);
    assert!(matches!(hanging.await.unwrap(), Err(ClientError::Broken(_))));
    while bench.open() > 1 {
        tokio::task::yield_now().await;
    }
    bench.fake.go_on.notify_one();
    while bench.fake.finished() < 2 {
        tokio::task::yield_now().await; // what was begun goes on to its end
    }
    bench.fake.set(Mood::Answer);
    call(&platform, "ListRoles").await.unwrap();
    assert_eq!(bench.connects(), 2, "the other caller's connection was kept");
}

#[tokio::test]
async fn peers_without_a_certificate_are_not_one_caller() {
    let limits = Limits { connections_per_caller: 1, ..Limits::enroll() };
    let bench = Bench::new(ListenerKind::Enroll, limits);
    let mut connections = [bench.connect(None), bench.connect(None)];
    for connection in &mut connections {
        connection.read_exact(&mut [0; 9]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_at_its_age_and_no_call_fails() {
    let limits = Limits { connection_grace: Duration::from_secs(100_000), ..Limits::api() };
    let bench = Bench::new(ListenerKind::Api, limits.clone());
    let client = bench.client(Some(Kind::Runner));
    call(&client, "ListRoles").await.unwrap();
    sleep(limits.connection_age_most + Duration::from_secs(1)).await;
    assert_eq!(bench.open(), 0, "the permit is given back");
    call(&client, "ListRoles").await.unwrap();
    assert_eq!(bench.connects(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_outlast_the_grace_of_its_connection() {
    let limits = Limits { call_timeout: Duration::from_secs(100_000), ..Limits::api() };
    let bench = Bench::new(ListenerKind::Api, limits.clone());
    bench.fake.set(Mood::Hang);
    let client = bench.client(Some(Kind::Runner)).with_deadline(Duration::from_secs(200_000));
    let started = Instant::now();
    assert!(matches!(call(&client, "Issue").await, Err(ClientError::Broken(_))));
    let age = started.elapsed();
    assert!(age >= limits.connection_age_least + limits.connection_grace, "{age:?}");
    assert!(age <= limits.connection_age_most + limits.connection_grace + Duration::from_secs(1), "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_refuses_new_calls_and_finishes_those_in_work() {
    let bench = Bench::api();
    bench.fake.set(Mood::Hang);
    let client = bench.client(Some(Kind::Runner));
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "Issue").await }
    });
    while bench.fake.begun() < 1 {
        tokio::task::yield_now().await;
    }
    bench.shutdown.cancel();
    let error = call(&client, "ListRoles").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ShuttingDown), "{error}");
    assert!(error.retry_after().is_some());
    bench.fake.go_on.notify_one();
    hanging.await.unwrap().unwrap();
    bench.serving.await.unwrap().unwrap();
    assert_eq!(bench.fake.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_hanging_calls_no_longer_than_the_drain() {
    let bench = Bench::api();
    bench.fake.set(Mood::Hang);
    let client = bench.client(Some(Kind::Runner));
    let hanging = tokio::spawn(async move { call(&client, "Issue").await });
    while bench.fake.begun() < 1 {
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    bench.shutdown.cancel();
    bench.serving.await.unwrap().unwrap();
    assert!(started.elapsed() <= Limits::api().drain + Duration::from_secs(1));
    assert!(hanging.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_closes_idle_connections_at_once() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    call(&client, "ListRoles").await.unwrap();
    let started = Instant::now();
    bench.shutdown.cancel();
    bench.serving.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn an_accept_loop_that_ends_is_an_error() {
    let Bench { serving, shutdown, .. } = Bench::api();
    assert!(matches!(serving.await.unwrap(), Err(ServeError::AcceptEnded)));
    assert!(!shutdown.is_cancelled());
}

#[tokio::test]
async fn what_is_not_http2_is_hung_up_on() {
    use tokio::io::AsyncWriteExt as _;
    let bench = Bench::api();
    let mut io = bench.connect(Some(caller(Kind::Runner)));
    io.write_all(b"GET / HTTP/1.1\r\nhost: issuer\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    assert_eq!(bench.fake.begun(), 0);
    while bench.open() > 0 {
        tokio::task::yield_now().await;
    }
}
