//! The sidecar daemon: owns the runner's identity, keeps its tokens fresh, and serves them to local jobs.
//!
//! It links neither a Kubernetes client nor a store: an agent that could mint is a bug. Tokens are in memory only. One
//! task owns all refresh state ([`refresher`]); one keeps the identity; one answers the socket. None waits for another
//! while a valid token is held.

mod entry;
pub mod follow;
mod identity;
pub mod issuer;
mod leave;
mod place;
mod private;
pub mod refresher;
mod remote;
mod roles;
mod seats;
pub mod serve;
mod session;
mod socket;
mod suspend;

#[cfg(test)]
mod fake;

use shorepass_core::time::Entropy;

/// A number in 0..1.
fn jitter(entropy: &dyn Entropy) -> f64 {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
