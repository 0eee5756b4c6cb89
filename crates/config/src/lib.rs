//! YAML documents: issuer, agent, client, roles.
//!
//! A document is read whole and either becomes a typed value or a list of everything that is wrong with it, each with
//! file, line, column and path. Nothing here opens a socket, asks the environment, or follows a path that a document
//! names, except the role directory.
//!
//! Why no serde: it stops at the first problem and knows no paths. So `yaml` composes the parser's events into a tree
//! that knows its places, and the documents are read from that ([`error`], `cursor`, `envelope`).

pub mod agent;
pub mod client;
mod cursor;
mod envelope;
pub mod error;
pub mod issuer;
pub mod role;
pub mod scalar;
mod yaml;

pub use agent::AgentConfig;
pub use client::ClientConfig;
pub use error::{ConfigError, ConfigErrors, Fault};
pub use issuer::IssuerConfig;
pub use scalar::{Host, HostPort};
