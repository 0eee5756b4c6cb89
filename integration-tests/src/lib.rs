//! The harness of the integration tests: a real Kubernetes, and what scenarios do to it again and again.
//!
//! Nothing about tokens is tested against a fake. The control plane comes from outside, by environment variables
//! ([`environment`]); all scenarios share it at the same time, so each makes namespaces and an issuer of its own
//! ([`admin`], [`issuer_identity`]) whose guards remove everything again. The scenarios are modules of one test binary,
//! `tests/main.rs`: one more costs no linking.

pub mod admin;
pub mod audit_log;
pub mod decisions;
pub mod environment;
pub mod issuer_identity;
pub mod use_of_tokens;
pub mod wait;
