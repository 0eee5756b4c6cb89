//! No secret in any line, at any level, of any crate below.

use std::io;
use std::sync::{Arc, Mutex};

use shorepass_core::caller::Kind;
use shorepass_rpc::limits::Limits;
use shorepass_rpc::methods::METHODS;
use shorepass_rpc::server::ListenerKind;
use tracing_subscriber::fmt::MakeWriter;

use crate::bench::{self, Bench, call};
use crate::fake::{JOIN_TOKEN, Mood, TOKEN};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_line_holds_a_secret() {
    // Other tests run at the same time without a subscriber; one of them that meets a line first would switch it off
    // for all, if there were not one for everybody that wants each.
    let everybody =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::sink);
    let _ = tracing::subscriber::set_global_default(everybody.finish());
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(lines.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let (api, enroll) = (Bench::api(), Bench::new(ListenerKind::Enroll, Limits::enroll()));
    let clients = [Some(Kind::Runner), Some(Kind::Operator)].map(|kind| api.client(kind));
    for client in clients.iter().chain([&enroll.client(None)]) {
        for method in &METHODS {
            let _ = call(client, method.name).await;
        }
    }
    let client = &clients[0];
    tracing::info!(request = ?bench::enroll(), answer = ?client.issue(bench::issue()).await, "printed");
    api.fake.set(Mood::Panic);
    let _ = call(client, "Issue").await;

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for expected in ["web-deployer", "a handler panicked", "reason=\"CALLER_KIND\"", "runner/one"] {
        assert!(text.contains(expected), "lines were captured: {expected}");
    }
    for secret in [TOKEN, JOIN_TOKEN].iter().flat_map(|secret| secret.split('.').chain([*secret])) {
        if secret.len() > 16 {
            assert!(!text.contains(secret), "{secret}");
        }
    }
}
