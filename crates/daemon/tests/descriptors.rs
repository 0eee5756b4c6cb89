//! Accepting without a free file descriptor. Alone in its process, because it uses all of them up.

use std::fs::File;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shorepass_daemon::admin::Metrics;
use shorepass_daemon::listen::{ACCEPT_PAUSE, Limits, Listener};
use tokio::net::TcpSocket;

#[tokio::test]
async fn accepting_without_descriptors_neither_spins_nor_gives_up() {
    let metrics = Metrics::install().unwrap();
    let limits = Limits { connections: 8, per_address: 8, handshakes: 1 };
    let mut listener = Listener::bind("test", "127.0.0.1:0".parse().unwrap(), limits).await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();

    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }
    let _client = socket.connect(listener.address()).await.unwrap();

    let tried = ACCEPT_PAUSE * 10;
    tokio::time::timeout(tried, listener.accept()).await.expect_err("there is no descriptor for it");
    let errors = accept_errors(&metrics);
    // One second of slack: on a busy machine the time is up later than asked. Without the pause it is 100,000.
    assert!((1..=20).contains(&errors), "{errors} failed accepts in {tried:?}");

    held.clear();
    let patience = ACCEPT_PAUSE + Duration::from_secs(2);
    tokio::time::timeout(patience, listener.accept()).await.expect("descriptors are free again");
}

fn accept_errors(metrics: &Metrics) -> u32 {
    let shown = metrics.render();
    let line = shown.lines().find(|line| line.starts_with("shorepass_accept_errors_total{"));
    let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    count.expect("the counter is registered by bind")
}
