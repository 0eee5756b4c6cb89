//! What happens around a call: rates, sizes, time, panics.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use shorepass_core::caller::Kind;
use shorepass_core::id::CallId;
use shorepass_proto::v1;
use shorepass_rpc::client::ClientError;
use shorepass_rpc::limits::Limits;
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_rpc::server::ListenerKind;
use shorepass_rpc::status::{Code, REQUEST_ID};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::bench::{self, Bench, call};
use crate::fake::{Mood, TOKEN, caller};

fn code(error: &ClientError) -> Code {
    error.refusal().map_or(Code::Unknown, |refusal| refusal.code)
}

/// A client that sends any message to any path.
async fn raw<Q: prost::Message + 'static>(
    bench: &Bench,
    path: &'static str,
    request: Request<Q>,
) -> Result<Response<()>, Status> {
    let connections = Arc::new(std::sync::Mutex::new(Some(bench.connect(Some(caller(Kind::Runner))))));
    let connect = tower::service_fn(move |_| {
        let io = connections.lock().unwrap().take();
        std::future::ready(io.map(TokioIo::new).ok_or(std::io::Error::other("one connection only")))
    });
    let channel: Channel = Endpoint::from_static("http://issuer").connect_with_connector_lazy(connect);
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Q, ()>::default();
    client.unary(request, http::uri::PathAndQuery::from_static(path), codec).await
}

const ISSUE: &str = "/shorepass.v1.CredentialService/Issue";

#[tokio::test]
async fn a_refusal_arrives_with_its_facts() {
    let bench = Bench::api();
    let refused = Refused::new(Reason::IssuerForbidden, "the cluster forbids it")
        .with("rule", "create secrets")
        .retry(Duration::from_secs(30));
    bench.fake.set(Mood::Refuse(refused));
    let client = bench.client(Some(Kind::Runner)).with_request_id(CallId::parse("job-7").unwrap());
    let error = client.issue(bench::issue()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::IssuerForbidden));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert_eq!(refusal.message, "the cluster forbids it");
    assert_eq!(refusal.metadata["rule"], "create secrets");
    assert_eq!(refusal.request_id.as_deref(), Some("job-7"));
}

#[tokio::test]
async fn a_successful_answer_names_its_request_too() {
    let bench = Bench::api();
    let mut request = Request::new(bench::issue());
    request.metadata_mut().insert(REQUEST_ID, "from-the-agent".parse().unwrap());
    let answer = raw(&bench, ISSUE, request).await.unwrap();
    assert_eq!(answer.metadata().get(REQUEST_ID).unwrap(), "from-the-agent");
    let mut request = Request::new(bench::issue());
    request.metadata_mut().insert(REQUEST_ID, "a b".parse().unwrap());
    let answer = raw(&bench, ISSUE, request).await.unwrap();
    assert_ne!(answer.metadata().get(REQUEST_ID).unwrap(), "a b");
}

#[tokio::test]
async fn the_id_of_a_call_reaches_what_mints() {
    let bench = Bench::api();
    let ids = ["job-7", "job-8"].map(|id| CallId::parse(id).unwrap());
    let [issuing, refreshing] = ids.clone().map(|id| bench.client(Some(Kind::Runner)).with_request_id(id));
    call(&issuing, "Issue").await.unwrap();
    call(&refreshing, "Refresh").await.unwrap();
    assert_eq!(*bench.fake.calls.lock().unwrap(), ids);
}

#[tokio::test]
async fn one_caller_over_its_rate_does_not_slow_another() {
    let limits = Limits { calls_burst: NonZeroU32::new(3).unwrap(), ..Limits::api() };
    let bench = Bench::new(ListenerKind::Api, limits);
    let client = bench.client(Some(Kind::Runner));
    for _ in 0..3 {
        call(&client, "Issue").await.unwrap();
    }
    let second_connection = bench.client(Some(Kind::Runner));
    for client in [client, second_connection] {
        let error = call(&client, "Issue").await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::RateLimited));
        assert!(error.retry_after().is_some());
    }
    assert_eq!(bench.fake.begun(), 3);
    call(&bench.client(Some(Kind::Platform)), "Issue").await.unwrap();
}

#[tokio::test]
async fn without_a_certificate_the_address_is_counted() {
    let limits = Limits { calls_burst: NonZeroU32::new(1).unwrap(), ..Limits::enroll() };
    let bench = Bench::new(ListenerKind::Enroll, limits);
    call(&bench.client(None), "Enroll").await.unwrap();
    let error = call(&bench.client(None), "Enroll").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::RateLimited));
}

#[tokio::test]
async fn a_message_over_the_limit_is_not_read() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    let request = v1::IssueRequest { role: "x".repeat(64 * 1024), ..bench::issue() };
    let error = client.issue(request).await.unwrap_err();
    assert_eq!(code(&error), Code::ResourceExhausted, "{error}");
    assert_eq!(bench.fake.begun(), 0);
    call(&client, "Issue").await.unwrap();
}

#[tokio::test]
async fn headers_over_the_limit_are_not_read() {
    let bench = Bench::api();
    let mut request = Request::new(bench::issue());
    request.metadata_mut().insert("x-large", "x".repeat(9 * 1024).parse().unwrap());
    assert!(raw(&bench, ISSUE, request).await.is_err());
    assert_eq!(bench.fake.begun(), 0);
}

#[tokio::test]
async fn what_is_not_a_message_is_an_invalid_argument() {
    let bench = Bench::api();
    // Field 1 is a number here and a string there.
    let status = raw(&bench, ISSUE, Request::new(prost_types::Duration { seconds: 5, nanos: 0 })).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(bench.fake.begun(), 0);
}

#[tokio::test]
async fn an_unlisted_method_does_not_exist() {
    let bench = Bench::api();
    for path in ["/shorepass.v1.CredentialService/Steal", "/", "/shorepass.v1.CredentialService/Issue/"] {
        let status = raw(&bench, path, Request::new(bench::issue())).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
    assert_eq!(bench.fake.begun(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_given_up_and_its_work_goes_on() {
    let bench = Bench::api();
    bench.fake.set(Mood::Hang);
    let client = bench.client(Some(Kind::Runner));
    let error = call(&client, "Issue").await.unwrap_err();
    assert_eq!(code(&error), Code::DeadlineExceeded, "{error}");
    assert_eq!((bench.fake.begun(), bench.fake.finished()), (1, 0));
    bench.fake.go_on.notify_one();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.fake.finished(), 1);
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_when_its_caller_hangs_up() {
    let bench = Bench::api();
    bench.fake.set(Mood::Hang);
    let client = bench.client(Some(Kind::Runner)).with_deadline(Duration::from_secs(1));
    assert!(matches!(call(&client, "Issue").await, Err(ClientError::Deadline(_))));
    bench.fake.go_on.notify_one();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.fake.finished(), 1);
}

#[tokio::test]
async fn a_panic_fails_one_call_and_tells_nothing() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    bench.fake.set(Mood::Panic);
    let error = call(&client, "Issue").await.unwrap_err();
    assert_eq!(code(&error), Code::Internal);
    assert!(!format!("{error:?}").contains(TOKEN));
    bench.fake.set(Mood::Answer);
    call(&client, "Issue").await.unwrap();
    assert_eq!(bench.connects(), 1);
}

#[tokio::test]
async fn more_calls_at_once_than_allowed_are_shed() {
    let bench = Bench::new(ListenerKind::Api, Limits { concurrent_calls: 2, ..Limits::api() });
    bench.fake.set(Mood::Hang);
    let client = bench.client(Some(Kind::Runner));
    let hanging = [0, 1].map(|_| {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "Issue").await })
    });
    while bench.fake.begun() < 2 {
        tokio::task::yield_now().await;
    }
    let error = call(&client, "Issue").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::RateLimited));
    bench.fake.go_on.notify_waiters();
    for call in hanging {
        call.await.unwrap().unwrap();
    }
}
