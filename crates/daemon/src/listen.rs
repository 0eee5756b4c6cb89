//! The accept loop: a stream and the permits that bound how many there are.
//!
//! A permit is taken before a connection is accepted, so what is over the limit waits in the kernel's queue and costs
//! nothing here. An accept that fails is followed by a pause: libraries that try again at once burn a core when
//! descriptors run out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How long accepting pauses after a failure.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Descriptors that connections leave to files, other sockets and the runtime.
const RESERVED_DESCRIPTORS: u64 = 32;

/// One listener takes at most this part of the remaining descriptors: a daemon has up to three.
const DESCRIPTOR_SHARE: u64 = 3;

/// The shortest pause between two log lines about failing accepts.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// How much one listener takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once; less where the process may not open that many files.
    pub connections: usize,
    /// Handshakes in progress at once.
    pub handshakes: usize,
}

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address} ({name}): the port is in use; stop what uses it or choose another port"
    )]
    InUse {
        /// What would have listened.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The port is a privileged one.
    #[error(
        "cannot listen on {address} ({name}): not permitted; choose a port above 1023 or grant CAP_NET_BIND_SERVICE"
    )]
    NotPermitted {
        /// What would have listened.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Anything else, such as an address that this machine does not have.
    #[error("cannot listen on {address} ({name}); check that this machine has that address")]
    Other {
        /// What would have listened.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A bound address and its limits.
#[derive(Debug)]
pub struct Listener {
    name: &'static str,
    inner: TcpListener,
    address: SocketAddr,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    last_logged: Option<Instant>,
}

/// The right to one open connection; given back on drop.
#[derive(Debug)]
pub struct Permit {
    _connection: OwnedSemaphorePermit,
    handshakes: Arc<Semaphore>,
}

/// The right to one handshake in progress; given back on drop.
#[derive(Debug)]
pub struct HandshakePermit {
    _handshake: OwnedSemaphorePermit,
}

impl Permit {
    /// Waits for the right to work on this connection's handshake.
    ///
    /// Ask when the first byte has arrived and under the handshake's own deadline, so that silent peers hold none.
    pub async fn handshake(&self) -> HandshakePermit {
        HandshakePermit { _handshake: acquire(&self.handshakes).await }
    }
}

impl Listener {
    /// Listens on `address`; `name` is how logs and metrics call it. Port 0 lets the system choose.
    pub async fn bind(name: &'static str, address: SocketAddr, limits: Limits) -> Result<Self, BindError> {
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { name, address, source },
            io::ErrorKind::PermissionDenied => BindError::NotPermitted { name, address, source },
            _ => BindError::Other { name, address, source },
        };
        let inner = TcpListener::bind(address).await.map_err(refused)?;
        let address = inner.local_addr().map_err(refused)?;
        let connections = limits.connections.min(descriptor_share()).max(1);
        if connections < limits.connections {
            warn!(
                listener = name,
                wanted = limits.connections,
                connections,
                "fewer connections: raise nofile"
            );
        }
        info!(listener = name, %address, connections, "listening");
        metrics::describe_counter!(
            "shorepass_accept_errors_total",
            "Connections that could not be accepted."
        );
        metrics::counter!("shorepass_accept_errors_total", "listener" => name).increment(0);
        Ok(Self {
            name,
            inner,
            address,
            connections: Arc::new(Semaphore::new(connections)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes.max(1))),
            last_logged: None,
        })
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, as soon as there is a permit for it. Never fails and never spins.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr, Permit) {
        let connection = acquire(&self.connections).await;
        loop {
            match self.inner.accept().await {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        debug!(listener = self.name, %peer, %error, "cannot set TCP_NODELAY");
                    }
                    let handshakes = self.handshakes.clone();
                    return (stream, peer, Permit { _connection: connection, handshakes });
                }
                // The peer gave up while it waited: that took it off the queue, so going on at once is no spin.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.count(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn count(&mut self, error: &io::Error) {
        metrics::counter!("shorepass_accept_errors_total", "listener" => self.name).increment(1);
        if self.last_logged.is_none_or(|last| last.elapsed() >= LOG_PAUSE) {
            self.last_logged = Some(Instant::now());
            warn!(listener = self.name, %error, "cannot accept connections; trying again");
        }
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_owned().await.expect("the semaphores here are never closed")
}

fn descriptor_share() -> usize {
    // No limit is none to keep below.
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return usize::MAX };
    let share = descriptors.saturating_sub(RESERVED_DESCRIPTORS) / DESCRIPTOR_SHARE;
    usize::try_from(share).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    async fn listener(connections: usize, handshakes: usize) -> Listener {
        Listener::bind("test", ANY, Limits { connections, handshakes }).await.unwrap()
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let taken = listener(1, 1).await.address();
        let holder = TcpListener::bind(taken).await.unwrap();
        let error = Listener::bind("api", taken, Limits { connections: 1, handshakes: 1 }).await.unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }));
        let text = error.to_string();
        assert!(text.contains(&taken.to_string()) && text.contains("choose another port"), "{text}");
        drop(holder);
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused() {
        let foreign = "192.0.2.1:0".parse().unwrap();
        let error =
            Listener::bind("api", foreign, Limits { connections: 1, handshakes: 1 }).await.unwrap_err();
        assert!(matches!(error, BindError::Other { .. }));
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_waits_for_a_permit() {
        let mut listener = listener(1, 1).await;
        let _first = TcpStream::connect(listener.address()).await.unwrap();
        let _second = TcpStream::connect(listener.address()).await.unwrap();
        let (_stream, _peer, permit) = listener.accept().await;
        tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.unwrap_err();
        drop(permit);
        listener.accept().await;
    }

    #[tokio::test]
    async fn a_handshake_over_the_limit_waits_for_a_permit() {
        let mut listener = listener(2, 1).await;
        let _clients = [
            TcpStream::connect(listener.address()).await.unwrap(),
            TcpStream::connect(listener.address()).await.unwrap(),
        ];
        let (_, _, first) = listener.accept().await;
        let (_, _, second) = listener.accept().await;
        let working = first.handshake().await;
        tokio::time::timeout(Duration::from_millis(200), second.handshake()).await.unwrap_err();
        drop(working);
        second.handshake().await;
    }

    #[tokio::test]
    async fn connections_stay_below_the_descriptor_limit() {
        assert!(listener(usize::MAX, 1).await.connections.available_permits() <= descriptor_share());
    }
}
