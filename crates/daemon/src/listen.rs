//! The accept loop: a stream and the permits that bound how many there are.
//!
//! A permit is taken before a connection is accepted, so what is over the limit waits in the kernel's queue and costs
//! nothing here. An accept that fails is followed by a pause: libraries that try again at once burn a core when
//! descriptors run out.
//!
//! One address gets a part of the connections only, and one more from there is closed as soon as it is accepted: it
//! must not wait in the queue, where it would be in everybody's way.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
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

/// The shortest pause between two log lines about the same trouble.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// How much one listener takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once; less where the process may not open that many files.
    pub connections: usize,
    /// Connections open at once from one address; of IPv6 its first 64 bits, because a peer owns the rest.
    pub per_address: usize,
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
    origins: Origins,
    last_failure: Option<Instant>,
    last_refusal: Option<Instant>,
}

/// Where the open connections come from: each holds a clone of its origin's mark.
#[derive(Debug)]
struct Origins {
    marks: HashMap<IpAddr, Arc<()>>,
    per_address: usize,
    forget_at: usize,
}

impl Origins {
    /// For so many connections, and so many of one address.
    fn new(connections: usize, per_address: usize) -> Self {
        Self {
            marks: HashMap::new(),
            per_address: per_address.max(1),
            forget_at: connections.saturating_mul(2),
        }
    }

    /// A place for one more connection from there, until what is returned is dropped; none if it has enough.
    fn admit(&mut self, address: IpAddr) -> Option<Arc<()>> {
        if self.marks.len() >= self.forget_at {
            self.marks.retain(|_, mark| Arc::strong_count(mark) > 1);
        }
        let mark = self.marks.entry(network(address)).or_default();
        (Arc::strong_count(mark) <= self.per_address).then(|| mark.clone())
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// The right to one open connection; given back on drop.
#[derive(Debug)]
pub struct Permit {
    _connection: OwnedSemaphorePermit,
    _origin: Arc<()>,
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
    /// Ask when the whole ClientHello has arrived and under the handshake's own deadline: a peer that is silent or
    /// sends byte by byte must hold none.
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
        metrics::describe_counter!(
            "shorepass_connections_refused_total",
            "Connections closed at once, because their address or their caller has too many."
        );
        refusals(name).increment(0);
        Ok(Self {
            name,
            inner,
            address,
            connections: Arc::new(Semaphore::new(connections)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes.max(1))),
            origins: Origins::new(connections, limits.per_address),
            last_failure: None,
            last_refusal: None,
        })
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, as soon as there is a permit for it and unless its address has too many. Never fails and
    /// never spins.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr, Permit) {
        let connection = acquire(&self.connections).await;
        loop {
            match self.inner.accept().await {
                Ok((stream, peer)) => {
                    let Some(origin) = self.origins.admit(peer.ip()) else {
                        drop(stream);
                        self.refuse(peer);
                        continue;
                    };
                    if let Err(error) = stream.set_nodelay(true) {
                        debug!(listener = self.name, %peer, %error, "cannot set TCP_NODELAY");
                    }
                    let handshakes = self.handshakes.clone();
                    return (stream, peer, Permit { _connection: connection, _origin: origin, handshakes });
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
        if is_due(&mut self.last_failure) {
            warn!(listener = self.name, %error, "cannot accept connections; trying again");
        }
    }

    fn refuse(&mut self, peer: SocketAddr) {
        refusals(self.name).increment(1);
        if is_due(&mut self.last_refusal) {
            let most = self.origins.per_address;
            warn!(listener = self.name, %peer, most, "closed: too many connections from this address");
        }
    }
}

fn refusals(listener: &'static str) -> metrics::Counter {
    metrics::counter!("shorepass_connections_refused_total", "listener" => listener, "limit" => "address")
}

/// Whether there may be one more line like the last one.
fn is_due(last: &mut Option<Instant>) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= LOG_PAUSE);
    if due {
        *last = Some(Instant::now());
    }
    due
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

    const ONE: Limits = Limits { connections: 1, per_address: 1, handshakes: 1 };

    async fn listener(connections: usize, handshakes: usize) -> Listener {
        let limits = Limits { connections, per_address: connections, handshakes };
        Listener::bind("test", ANY, limits).await.unwrap()
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let taken = listener(1, 1).await.address();
        let holder = TcpListener::bind(taken).await.unwrap();
        let error = Listener::bind("api", taken, ONE).await.unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }));
        let text = error.to_string();
        assert!(text.contains(&taken.to_string()) && text.contains("choose another port"), "{text}");
        drop(holder);
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused() {
        let foreign = "192.0.2.1:0".parse().unwrap();
        let error = Listener::bind("api", foreign, ONE).await.unwrap_err();
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
    async fn one_address_has_so_many_connections_and_one_more_is_closed() {
        use tokio::io::AsyncReadExt as _;
        let limits = Limits { connections: 8, per_address: 2, handshakes: 1 };
        let mut listener = Listener::bind("test", ANY, limits).await.unwrap();
        let connect = || TcpStream::connect(listener.address);
        let (_first, _second, mut third) =
            (connect().await.unwrap(), connect().await.unwrap(), connect().await.unwrap());
        let (_, _, first) = listener.accept().await;
        let (_, _, _second) = listener.accept().await;
        tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.unwrap_err();
        assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)), "it is closed");
        drop(first);
        let _fourth = TcpStream::connect(listener.address()).await.unwrap();
        listener.accept().await;
    }

    #[test]
    fn origins_are_counted_apart_and_forgotten() {
        let mut origins = Origins::new(4, 1);
        let mut admit = |address: &str| origins.admit(address.parse().unwrap());
        let held = [admit("192.0.2.1"), admit("192.0.2.2"), admit("2001:db8::1"), admit("2001:db8:0:1::1")];
        assert!(held.iter().all(Option::is_some));
        for again in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::2"] {
            assert!(admit(again).is_none(), "{again}");
        }
        drop(held);
        assert!(admit("192.0.2.1").is_some());
        for number in 0..1000_u32 {
            assert!(origins.admit(IpAddr::V4((0x0a00_0000 + number).into())).is_some());
            assert!(origins.marks.len() <= 8, "{}", origins.marks.len());
        }
    }

    #[tokio::test]
    async fn connections_stay_below_the_descriptor_limit() {
        assert!(listener(usize::MAX, 1).await.connections.available_permits() <= descriptor_share());
    }
}
