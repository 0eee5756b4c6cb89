//! What every daemon of shorepass has: telemetry, signals and tasks, clocks, the accept loop, the admin port.
//!
//! Nothing here knows TLS, gRPC or what a daemon is for. The accept loop yields a plain stream and a permit; who may
//! talk on it is decided by others.

pub mod admin;
pub mod clock;
pub mod hardening;
pub mod listen;
pub mod shutdown;
pub mod telemetry;
