//! The gRPC services and clients over the domain: the only room that knows tonic.
//!
//! A request passes [`middleware`](server) (request id, method table, rate limit, certificate, enrolment), is converted
//! to the domain, handed to one of the traits in [`api`], and its answer is converted back. No rule about who may have
//! what stands here, and no TLS: [`server::serve`] takes connections whose peer was verified already, and
//! [`client::ApiClient`] takes a way to connect.
//!
//! Questionable: connections are served with hyper directly and not with tonic's `Server`, which can neither close an
//! old connection in two steps nor be drained by a deadline.

pub mod api;
pub mod client;
pub mod connections;
mod convert;
pub mod follow;
pub mod limits;
pub mod methods;
mod middleware;
pub mod rate;
pub mod refused;
mod revocation;
pub mod server;
mod services;
pub mod status;
mod watching;

/// The generated services.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/shorepass.v1.rs"));
}
