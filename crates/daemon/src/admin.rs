//! The admin port: `/livez`, `/readyz`, `/metrics`. Plain HTTP; it tells nothing secret and changes nothing.
//!
//! `/livez` is 200 as long as the process answers. `/readyz` is 503 with one line for each condition that does not
//! hold, `name: reason`, so that a probe's message already says what is wrong. Where all hold, and somebody should look at
//! something all the same, it is 200 with `ok` and such lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::listen::{Listener, Permit};

/// Durations are counted in these buckets, in seconds: from a local answer to a request's last deadline.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How often the recorder tidies its histograms.
const UPKEEP: Duration = Duration::from_secs(5);

/// The named conditions of a daemon, each set by its owner.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, Holding>>>);

#[derive(Clone, Debug)]
enum Holding {
    Yes,
    /// What somebody should look at.
    YesBut(String),
    /// Why not.
    No(String),
}

/// One condition, in the hands of whoever knows whether it holds.
#[derive(Clone, Debug)]
pub struct Condition {
    name: String,
    all: Readiness,
}

impl Readiness {
    /// Ready, as nothing is asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition that does not hold before its owner says so.
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        let condition = Condition { name: name.into(), all: self.clone() };
        condition.fails("starting");
        condition
    }

    /// What does not hold, with the reason; empty when ready.
    pub fn problems(&self) -> Vec<(String, String)> {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = |holding: &Holding| match holding {
            Holding::No(reason) => Some(reason.clone()),
            Holding::Yes | Holding::YesBut(_) => None,
        };
        conditions.iter().filter_map(|(name, holding)| Some((name.clone(), problem(holding)?))).collect()
    }

    /// What somebody should look at although its condition holds.
    pub fn remarks(&self) -> Vec<(String, String)> {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let remark = |holding: &Holding| match holding {
            Holding::YesBut(remark) => Some(remark.clone()),
            Holding::Yes | Holding::No(_) => None,
        };
        conditions.iter().filter_map(|(name, holding)| Some((name.clone(), remark(holding)?))).collect()
    }

    fn set(&self, name: &str, holding: Holding) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), holding);
    }
}

impl Condition {
    /// It holds.
    pub fn holds(&self) {
        self.all.set(&self.name, Holding::Yes);
    }

    /// It holds, and somebody should look at this: one line.
    pub fn holds_but(&self, remark: impl Into<String>) {
        self.all.set(&self.name, Holding::YesBut(remark.into()));
    }

    /// It does not, for this reason: one line.
    pub fn fails(&self, reason: impl Into<String>) {
        self.all.set(&self.name, Holding::No(reason.into()));
    }
}

/// What `/metrics` shows.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Collects this process's metrics from now on; once in a process, before anything counts.
    pub fn install() -> Result<Self, MetricsError> {
        let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS).map_err(MetricsError)?;
        recorder.install_recorder().map(Self).map_err(MetricsError)
    }

    /// All of them, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// Why metrics are not collected.
#[derive(Debug, thiserror::Error)]
#[error("cannot install the metrics recorder; it can be installed only once in a process")]
pub struct MetricsError(#[source] BuildError);

#[derive(Clone)]
struct Shown {
    readiness: Readiness,
    metrics: Metrics,
}

/// Serves the admin port until `stop`.
pub async fn serve(listener: Listener, readiness: Readiness, metrics: Metrics, stop: CancellationToken) {
    let upkeep = metrics.clone();
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(async |State(shown): State<Shown>| shown.metrics.render()))
        .with_state(Shown { readiness, metrics });
    let serving = axum::serve(Accepting(listener), routes);
    tokio::select! {
        // The accept loop has no error to end with; a connection that is cut by the stop only loses a probe.
        _ = serving => {}
        () = tidy(&upkeep) => {}
        () = stop.cancelled() => {}
    }
}

async fn readyz(State(shown): State<Shown>) -> (StatusCode, String) {
    let problems = shown.readiness.problems();
    if problems.is_empty() {
        return (StatusCode::OK, format!("ok\n{}", lines(shown.readiness.remarks())));
    }
    (StatusCode::SERVICE_UNAVAILABLE, lines(problems))
}

fn lines(told: Vec<(String, String)>) -> String {
    let mut text = String::new();
    for (name, reason) in told {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name}: {reason}");
    }
    text
}

async fn tidy(metrics: &Metrics) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.0.run_upkeep();
    }
}

/// Our accept loop, as axum takes it.
struct Accepting(Listener);

/// A stream that gives its permit back when it is closed.
struct Permitted {
    stream: TcpStream,
    _permit: Permit,
}

impl axum::serve::Listener for Accepting {
    type Io = Permitted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Permitted, SocketAddr) {
        let (stream, peer, permit) = self.0.accept().await;
        (Permitted { stream, _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.address())
    }
}

impl AsyncRead for Permitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Permitted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::listen::Limits;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_admin_port_tells_health_reasons_and_metrics() {
        let limits = Limits { connections: 4, per_address: 4, handshakes: 1 };
        let metrics = Metrics::install().unwrap();
        let listener = Listener::bind("admin", "127.0.0.1:0".parse().unwrap(), limits).await.unwrap();
        let address = listener.address();
        let readiness = Readiness::new();
        let issuer = readiness.condition("issuer");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, readiness, metrics, stop.clone()));

        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let starting = get(address, "/readyz").await;
        assert!(
            starting.starts_with("HTTP/1.1 503") && starting.ends_with("issuer: starting\n"),
            "{starting}"
        );
        issuer.holds();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        issuer.holds_but("look at this");
        let remark = get(address, "/readyz").await;
        assert!(
            remark.starts_with("HTTP/1.1 200") && remark.ends_with("ok\nissuer: look at this\n"),
            "{remark}"
        );
        issuer.fails("not reachable");
        assert!(get(address, "/readyz").await.ends_with("issuer: not reachable\n"));
        let shown = get(address, "/metrics").await;
        assert!(shown.contains("shorepass_accept_errors_total{listener=\"admin\"} 0"), "{shown}");
        stop.cancel();
        server.await.unwrap();
    }
}
