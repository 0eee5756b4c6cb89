//! A proxy between one kube-apiserver and etcd: what the server watches comes late, and its reads fail.
//!
//! It speaks HTTP/2 without TLS and knows gRPC by paths alone: no message is looked into, nothing is repeated. Only the
//! server behind it sees the faults; etcd, and who else talks to etcd, do not.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep_until};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const READ: &str = "/etcdserverpb.KV/Range";
/// The code of a read that failed: `INTERNAL`. etcd's client repeats what is `UNAVAILABLE` for seconds before it says so.
const FAILED: HeaderValue = HeaderValue::from_static("13");
/// An API server keeps hundreds of watches open at the same time.
const STREAMS: u32 = 10_000;
/// How much of an answer may be under way: a list of many objects.
const WINDOW: u32 = 4 << 20;

/// A running proxy; it ends when this is dropped.
pub struct EtcdProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    etcd: Authority,
    lag_millis: AtomicU64,
    reads_fail: AtomicBool,
    failed_reads: AtomicU64,
}

impl EtcdProxy {
    /// In front of the etcd at this URL.
    pub async fn start(etcd: &str) -> anyhow::Result<Self> {
        let url: Uri = etcd.parse().context("etcd's URL is none")?;
        anyhow::ensure!(url.scheme() == Some(&Scheme::HTTP), "etcd has TLS: {etcd}");
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            etcd: url.authority().context("etcd's URL has no address")?.clone(),
            lag_millis: AtomicU64::new(0),
            reads_fail: AtomicBool::new(false),
            failed_reads: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on what the server watches comes so much later.
    pub fn lag(&self, lag: Duration) {
        let millis = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
        self.shared.lag_millis.store(millis, Ordering::SeqCst);
    }

    /// Whether the server's reads fail. What it watches goes on.
    pub fn fail_reads(&self, fail: bool) {
        self.shared.reads_fail.store(fail, Ordering::SeqCst);
    }

    /// How many reads have failed.
    pub fn failed_reads(&self) -> u64 {
        self.shared.failed_reads.load(Ordering::SeqCst)
    }
}

impl Drop for EtcdProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new(); // they end with the proxy
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(converse(stream, shared.clone()));
            }
            Err(error) => return eprintln!("the proxy of etcd ends: {error}"),
        }
    }
}

/// One connection of the server, and one to etcd for it. They end together; the server then makes another one.
async fn converse(server: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    let etcd = TcpStream::connect(shared.etcd.as_str()).await?;
    let (sender, to_etcd) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(TokioIo::new(etcd))
        .await?;
    let service = service_fn(move |request| {
        let (shared, sender) = (shared.clone(), sender.clone());
        async move { shared.answer(request, sender).await }
    });
    let from_server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .serve_connection(TokioIo::new(server), service);
    tokio::select! {
        ended = from_server => ended.context("the server's side"),
        ended = to_etcd => ended.context("etcd's side"),
    }
}

impl Shared {
    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        mut etcd: SendRequest<Incoming>,
    ) -> anyhow::Result<Response<Relayed>> {
        if request.uri().path() == READ && self.reads_fail.load(Ordering::SeqCst) {
            self.failed_reads.fetch_add(1, Ordering::SeqCst);
            return Ok(failed());
        }
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.authority = Some(self.etcd.clone());
        *request.uri_mut() = Uri::from_parts(uri)?;
        let is_watch = request.uri().path() == WATCH;
        let answer = etcd.send_request(request).await?;
        Ok(answer.map(|body| if is_watch { self.late(body) } else { Relayed::Prompt(body) }))
    }

    /// Everything comes as much later as the lag is when it comes from etcd, in order.
    fn late(self: Arc<Self>, body: Incoming) -> Relayed {
        let (sender, frames) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let lag = || Duration::from_millis(self.lag_millis.load(Ordering::SeqCst));
            hold_back(body, lag, sender).await;
        });
        Relayed::Late { frames, next: None }
    }
}

/// Until the body ends, or fails: hyper gives the error of a stream that was reset at each poll.
async fn hold_back<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    lag: impl Fn() -> Duration,
    to: mpsc::UnboundedSender<(Instant, Arrived<B::Error>)>,
) {
    while let Some(frame) = body.frame().await {
        let is_last = frame.is_err();
        if to.send((Instant::now() + lag(), frame)).is_err() || is_last {
            return;
        }
    }
}

/// What gRPC says instead of an answer.
fn failed() -> Response<Relayed> {
    let mut response = Response::new(Relayed::Nothing);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", FAILED);
    headers.insert("grpc-message", HeaderValue::from_static("reads fail on purpose"));
    response
}

type Arrived<E = hyper::Error> = Result<Frame<Bytes>, E>;

/// What the server gets.
enum Relayed {
    Nothing,
    Prompt(Incoming),
    Late { frames: mpsc::UnboundedReceiver<(Instant, Arrived)>, next: Option<(Pin<Box<Sleep>>, Arrived)> },
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Arrived>> {
        match self.get_mut() {
            Self::Nothing => Poll::Ready(None),
            Self::Prompt(body) => Pin::new(body).poll_frame(context),
            Self::Late { frames, next } => loop {
                if let Some((due, _)) = next {
                    ready!(due.as_mut().poll(context));
                    return Poll::Ready(next.take().map(|(_, frame)| frame));
                }
                let Some((due, frame)) = ready!(frames.poll_recv(context)) else { return Poll::Ready(None) };
                *next = Some((Box::pin(sleep_until(due)), frame));
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Prompt(body) => body.is_end_stream(),
            Self::Late { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Prompt(body) => body.size_hint(),
            Self::Late { .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails at each poll; gives up in the end, so that who goes on asking is found.
    struct Reset(u32);

    impl Body for Reset {
        type Data = Bytes;
        type Error = u32;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, u32>>> {
            self.0 += 1;
            Poll::Ready((self.0 < 100).then_some(Err(self.0)))
        }
    }

    #[tokio::test]
    async fn a_watch_that_was_reset_ends() {
        let (sender, mut frames) = mpsc::unbounded_channel();
        hold_back(Reset(0), Duration::default, sender).await;
        assert_eq!(frames.recv().await.and_then(|(_, frame)| frame.err()), Some(1));
        assert!(frames.recv().await.is_none(), "it goes on");
    }
}
