//! Handshakes over loopback: who is let in, who is refused, and what the refused one sees.
#![allow(clippy::unwrap_used, reason = "tests and their helpers only")]

mod clients;
mod issuers;
mod outside;
mod rotation;
mod support;
mod swapping;
mod turns;
