//! The services over connections in memory, with an issuer that does what the test says.

#![allow(clippy::unwrap_used)]

mod bench;
mod calls;
mod client;
mod connections;
mod conversions;
mod fake;
mod jobs;
mod refusals;
mod revocation;
mod secrets;
mod watching;
