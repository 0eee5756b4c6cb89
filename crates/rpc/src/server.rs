//! Serves connections whose peer was verified already.
//!
//! TLS, the accept loop and the number of all connections are elsewhere: here comes a stream of [`Peered`]. Each
//! connection is a task that this function owns. It ends when the peer hangs up, when no call of it is admitted, at a
//! drawn age (first GOAWAY, then after a grace for good), at once when its caller is shut out, or when the listener is shut
//! down and drained. A connection of a caller that has enough of them is told so and closed: who calls is known here first.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use shorepass_core::caller::Caller;
use shorepass_core::time::{Clock, Entropy};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::api::{Administration, Credentials, Enrolments};
use crate::connections::{Connections, Place};
use crate::follow::Following;
use crate::limits::Limits;
use crate::middleware::{Connection, Listener, describe_metrics};
use crate::rate::Rate;
use crate::services::{Routes, Work};

/// The frames that a connection too many gets: empty SETTINGS, as every server begins, and a GOAWAY before any stream with
/// ENHANCE_YOUR_CALM (RFC 9113).
const TOO_MANY: [u8; 26] =
    [0, 0, 0, 4, 0, 0, 0, 0, 0, /* GOAWAY */ 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
/// How long telling that may take.
const TELLING: Duration = Duration::from_secs(1);

/// Which of the two listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// Every peer has shown a certificate.
    Api,
    /// No peer was asked for one; only EnrollmentService is mounted.
    Enroll,
}

/// What the services are made of.
#[derive(Clone)]
pub struct Services {
    /// For runners and platforms.
    pub credentials: Arc<dyn Credentials>,
    /// For runners, and for checking every caller.
    pub enrolments: Arc<dyn Enrolments>,
    /// For runners and platforms that want to stay heard and be told.
    pub following: Arc<dyn Following>,
    /// For operators.
    pub administration: Arc<dyn Administration>,
    /// Who is connected; also for whoever shuts callers out.
    pub connections: Connections,
}

/// A connection and who is at its other end.
#[derive(Debug)]
pub struct Peered<IO, P> {
    /// The decrypted stream.
    pub io: IO,
    /// Who the certificate says it is; none only on the enroll listener.
    pub caller: Option<Caller>,
    /// The address it came from.
    pub peer: SocketAddr,
    /// Its place among the connections; given back when it is closed.
    pub permit: P,
}

/// Why a listener ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nobody accepts connections any more.
    #[error("the accept loop ended")]
    AcceptEnded,
}

/// Serves until `shutdown` and until what was in work then is done, for at most [`Limits::drain`].
pub async fn serve<IO, P>(
    incoming: impl Stream<Item = Peered<IO, P>> + Send,
    services: Services,
    listener: ListenerKind,
    limits: Limits,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    shutdown: CancellationToken,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    P: Send + 'static,
{
    describe_metrics();
    if listener == ListenerKind::Api {
        refused_connections().increment(0);
    }
    let work = Work { clock: clock.clone(), tasks: TaskTracker::new() };
    let tasks = work.tasks.clone();
    let places = services.connections.clone();
    let listener = Arc::new(Listener {
        kind: listener,
        enrolments: services.enrolments.clone(),
        routes: Routes::new(services, listener, &limits, work),
        rate: Rate::new(&limits, clock.clone()),
        limits,
        clock,
        entropy,
        shutdown,
    });
    let mut connections = JoinSet::new();
    let ended = accept(incoming, &listener, &places, &mut connections).await;
    let drained = timeout(listener.limits.drain, async {
        while connections.join_next().await.is_some() {}
        tasks.close();
        tasks.wait().await;
    });
    if drained.await.is_err() {
        warn!(connections = connections.len(), tasks = tasks.len(), "not drained in time; closing");
        connections.shutdown().await;
    }
    ended
}

async fn accept<IO, P>(
    incoming: impl Stream<Item = Peered<IO, P>> + Send,
    listener: &Arc<Listener>,
    places: &Connections,
    connections: &mut JoinSet<()>,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    P: Send + 'static,
{
    let mut incoming = pin!(incoming);
    let most = listener.limits.connections_per_caller;
    loop {
        tokio::select! {
            () = listener.shutdown.cancelled() => return Ok(()),
            _ = connections.join_next(), if !connections.is_empty() => {}
            next = incoming.next() => match next {
                Some(peered) => match places.admit(peered.caller.as_ref(), most) {
                    Some(place) => {
                        connections.spawn(converse(peered, place, listener.clone()));
                    }
                    None => {
                        connections.spawn(refuse(peered));
                    }
                },
                None => return Err(ServeError::AcceptEnded),
            },
        }
    }
}

/// Tells a peer that has enough connections why this one is closed. One that does not read is not waited for.
async fn refuse<IO, P>(peered: Peered<IO, P>)
where
    IO: AsyncWrite + Unpin,
{
    let Peered { mut io, caller, peer, permit: _permit } = peered;
    let caller = caller.as_ref().map(|caller| tracing::field::display(caller.spiffe_id()));
    info!(caller, %peer, "closed: too many connections of this caller");
    refused_connections().increment(1);
    let telling = async {
        io.write_all(&TOO_MANY).await?;
        io.shutdown().await
    };
    if !matches!(timeout(TELLING, telling).await, Ok(Ok(()))) {
        debug!(%peer, "it was not told why");
    }
}

fn refused_connections() -> metrics::Counter {
    metrics::counter!("shorepass_connections_refused_total", "listener" => "api", "limit" => "caller")
}

/// One connection from its first byte to its last.
async fn converse<IO, P>(peered: Peered<IO, P>, place: Place, listener: Arc<Listener>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    P: Send + 'static,
{
    let Peered { io, caller, peer, permit: _permit } = peered;
    let limits = listener.limits.clone();
    let age = drawn_age(&limits, &*listener.entropy);
    let service = Connection::new(listener, caller, peer);
    let mut http = pin!(http2(&limits).serve_connection(TokioIo::new(io), service.clone()));
    let mut drained = pin!(service.drained());
    let mut first_call = pin!(sleep(limits.first_call));
    let mut retire = pin!(sleep(age));
    let mut grace = pin!(sleep(age + limits.connection_grace));
    let (mut waited, mut retired) = (false, false);
    loop {
        tokio::select! {
            result = &mut http => {
                if let Err(error) = result {
                    debug!(%peer, %error, "connection broke");
                }
                return;
            }
            () = place.closed() => {
                info!(%peer, "its caller was shut out; closing");
                return;
            }
            () = &mut first_call, if !waited => {
                waited = true;
                if !service.is_used() {
                    debug!(%peer, "no admitted call on this connection; closing");
                    return;
                }
            }
            () = &mut drained, if !retired => {
                retired = true;
                http.as_mut().graceful_shutdown();
            }
            () = &mut retire, if !retired => {
                retired = true;
                service.retire();
                http.as_mut().graceful_shutdown();
                grace.as_mut().reset(Instant::now() + limits.connection_grace);
            }
            () = &mut grace => {
                debug!(%peer, "calls outlasted their connection; closing");
                return;
            }
        }
    }
}

fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.concurrent_streams)
        .max_header_list_size(limits.header_list_bytes)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_pending_accept_reset_streams(limits.pending_reset_streams)
        .max_local_error_reset_streams(limits.local_error_reset_streams)
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(limits.keep_alive_timeout);
    builder
}

/// Drawn, so that connections made together do not end together.
fn drawn_age(limits: &Limits, entropy: &dyn Entropy) -> Duration {
    let mut random = [0; 4];
    entropy.fill(&mut random);
    let share = f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX);
    let spread = limits.connection_age_most.saturating_sub(limits.connection_age_least);
    limits.connection_age_least + spread.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Filled(u8);

    impl Entropy for Filled {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0);
        }
    }

    #[test]
    fn ages_are_drawn_between_the_limits() {
        let limits = Limits::api();
        assert_eq!(drawn_age(&limits, &Filled(0)), limits.connection_age_least);
        assert_eq!(drawn_age(&limits, &Filled(0xff)), limits.connection_age_most);
        let middle = drawn_age(&limits, &Filled(0x80));
        assert!(middle > limits.connection_age_least && middle < limits.connection_age_most);
    }
}
