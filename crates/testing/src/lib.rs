//! Fakes and builders for tests; a dev-dependency only.
//!
//! What is here is shared by the tests of several crates; what one crate needs stays with it.

pub mod certificates;
pub mod job_tokens;
pub mod jwt;
pub mod machines;
pub mod oidc;
pub mod openssl;
pub mod outside;
pub mod pods;
pub mod seeds;
