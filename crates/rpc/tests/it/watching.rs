//! Heartbeat, and the streams of Watch: what they carry, and when they end.

use std::time::Duration;

use shorepass_core::caller::Kind;
use shorepass_core::id::LeaseId;
use shorepass_core::lease::EndCause;
use shorepass_proto::v1;
use shorepass_proto::v1::watch_response::Event;
use shorepass_rpc::client::WatchStream;
use shorepass_rpc::follow::{Notice, Pulse};
use shorepass_rpc::limits::Limits;
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_rpc::server::ListenerKind;
use tokio::time::{Instant, sleep};

use crate::bench::Bench;
use crate::fake::{ID, caller, lease, second};

fn ended() -> Box<shorepass_core::lease::Lease> {
    let cause =
        EndCause::Revoked { by: caller(Kind::Operator).spiffe_id().clone(), reason: "leaked".to_owned() };
    Box::new(lease().begin_end(cause, second(9)).unwrap())
}

fn request() -> v1::WatchRequest {
    v1::WatchRequest { lease_ids: vec![ID.to_owned()], sequence: 5 }
}

async fn told(stream: &mut WatchStream) -> (u64, Event) {
    let message = stream.next().await.unwrap().expect("the stream has ended");
    (message.sequence, message.event.unwrap())
}

#[tokio::test]
async fn a_heartbeat_says_what_is_kept_and_is_told_what_has_ended() {
    let bench = Bench::api();
    *bench.fake.pulse.lock().unwrap() = Pulse {
        silence: Some(Duration::from_secs(900)),
        ended: vec![*ended()],
        unavailable: vec![LeaseId::parse(ID).unwrap()],
        behind: true,
    };
    let client = bench.client(Some(Kind::Platform));
    let beat = v1::HeartbeatRequest { lease_ids: vec![ID.to_owned()], watch_sequence: 7 };
    let answer = client.heartbeat(beat.clone()).await.unwrap();
    assert_eq!(answer.silence_limit, crate::bench::seconds(900));
    let end = answer.ended[0].end.clone().unwrap();
    assert_eq!((answer.ended[0].lease_id.as_str(), end.cause()), (ID, v1::EndCause::Revoked));
    assert_eq!((end.by.as_str(), end.reason.as_str()), ("spiffe://ci.example.org/operator/one", "leaked"));
    assert_eq!((answer.unavailable_lease_ids, answer.watch_behind), (vec![ID.to_owned()], true));
    let heard = bench.fake.beats.lock().unwrap()[0].clone();
    assert_eq!((heard.leases, heard.sequence), (vec![LeaseId::parse(ID).unwrap()], 7));
    for lease_ids in [vec!["lease".to_owned()], vec![ID.to_owned(); 1_025]] {
        let refused = client.heartbeat(v1::HeartbeatRequest { lease_ids, ..beat.clone() }).await;
        assert_eq!(refused.unwrap_err().reason(), Some(Reason::FieldInvalid));
    }
}

#[tokio::test]
async fn each_notice_is_told_with_its_number() {
    let bench = Bench::api();
    let mut stream = bench.client(Some(Kind::Runner)).watch(request()).await.unwrap();
    assert_eq!(bench.fake.beats.lock().unwrap()[0].sequence, 5);
    bench.fake.news.tell(Notice::RoleChanged { sequence: 6, lease: LeaseId::parse(ID).unwrap() });
    bench.fake.news.tell(Notice::CaughtUp { sequence: 6 });
    bench.fake.news.tell(Notice::Ended { sequence: 7, lease: ended() });
    bench.fake.news.tell(Notice::StartOver);
    assert_eq!(told(&mut stream).await, (6, Event::RoleChanged(v1::RoleChanged { lease_id: ID.to_owned() })));
    assert_eq!(told(&mut stream).await, (6, Event::CaughtUp(v1::CaughtUp {})));
    let (sequence, Event::Ended(lease)) = told(&mut stream).await else { panic!("no end") };
    assert_eq!((sequence, lease.lease_id.as_str()), (7, ID));
    let (sequence, Event::ComeBack(_)) = told(&mut stream).await else { panic!("no word to come back") };
    assert_eq!(sequence, 0, "what was seen counts no more");
    assert_eq!(stream.next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_the_time_limits_of_calls_and_says_that_it_is_there() {
    let bench = Bench::api();
    let mut stream = bench.client(Some(Kind::Runner)).watch(request()).await.unwrap();
    let opened = Instant::now();
    while opened.elapsed() < Duration::from_secs(300) {
        assert_eq!(told(&mut stream).await.1, Event::StillHere(v1::StillHere {}));
    }
    bench.fake.news.tell(Notice::CaughtUp { sequence: 6 });
    assert_eq!(told(&mut stream).await.0, 6);
}

#[tokio::test(start_paused = true)]
async fn a_caller_has_four_streams_and_gets_another_when_one_is_closed() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(client.watch(request()).await.unwrap());
    }
    let refused = client.watch(request()).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::RateLimited));
    assert_eq!(refused.refusal().unwrap().retry_after, Some(Duration::from_secs(10)));
    assert!(
        bench.client(Some(Kind::Platform)).watch(request()).await.is_ok(),
        "others are not counted with it"
    );
    streams.pop();
    sleep(Duration::from_secs(1)).await;
    assert!(client.watch(request()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_not_what_it_was_loses_its_stream() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    let mut stream = client.watch(request()).await.unwrap();
    *bench.fake.standing.lock().unwrap() = Err(Refused::new(Reason::EnrolmentEnded, "replaced"));
    // It is told nothing more, not even what waits.
    bench.fake.news.tell(Notice::Ended { sequence: 7, lease: ended() });
    assert_eq!(stream.next().await.unwrap_err().reason(), Some(Reason::EnrolmentEnded));

    *bench.fake.standing.lock().unwrap() = Ok(());
    let mut stream = client.watch(request()).await.unwrap();
    bench.clock.set(second(3_600));
    let asked = Instant::now();
    assert_eq!(stream.next().await.unwrap_err().reason(), Some(Reason::CertificateExpired));
    assert!(asked.elapsed() <= Limits::api().watch_check, "without anything to tell");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_told_to_come_back_before_its_connection_is_closed() {
    let age = Duration::from_secs(40);
    let limits = Limits { connection_age_least: age, connection_age_most: age, ..Limits::api() };
    let bench = Bench::new(ListenerKind::Api, limits);
    let client = bench.client(Some(Kind::Runner));
    let mut stream = client.watch(request()).await.unwrap();
    let word = loop {
        match told(&mut stream).await.1 {
            Event::ComeBack(word) => break word,
            other => assert_eq!(other, Event::StillHere(v1::StillHere {})),
        }
    };
    assert_eq!(word.within, crate::bench::seconds(1));
    assert_eq!(stream.next().await.unwrap(), None);
    client.watch(request()).await.unwrap();
    assert_eq!(bench.connects(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_does_not_hold_up_a_shutdown() {
    let bench = Bench::api();
    let mut stream = bench.client(Some(Kind::Runner)).watch(request()).await.unwrap();
    let asked = Instant::now();
    bench.shutdown.cancel();
    let (_, Event::ComeBack(word)) = told(&mut stream).await else { panic!("no word to come back") };
    assert_eq!(word.within, crate::bench::seconds(5));
    bench.serving.await.unwrap().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_nothing_loses_its_stream_and_frees_its_place() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(client.watch(request()).await.unwrap());
    }
    // More than channels, buffers and windows (2 MiB for each stream) hold.
    let cause =
        EndCause::Revoked { by: caller(Kind::Operator).spiffe_id().clone(), reason: "x".repeat(2_000) };
    let long = Box::new(lease().begin_end(cause, second(9)).unwrap());
    for sequence in 0..8_000 {
        bench.fake.news.tell(Notice::Ended { sequence, lease: long.clone() });
    }
    sleep(Duration::from_secs(120)).await;
    client.watch(request()).await.unwrap();
    drop(stalled);
}
