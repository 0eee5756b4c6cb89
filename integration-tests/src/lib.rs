//! The harness of the integration tests: a real Kubernetes, and what scenarios do to it again and again.
//!
//! Nothing about tokens is tested against a fake. The control plane comes from outside, by environment variables
//! ([`environment`]); all scenarios share it at the same time, so each makes namespaces and an issuer of its own
//! ([`admin`], [`issuer_identity`]) whose guards remove everything again. Scenarios with daemons begin with a [`site`],
//! start an [`issuer`] and [`agent`]s as a user would, and talk to them as [`client`]s, or as [`raw`] peers that no client
//! of ours would be. A [`second_api_server`] sees the same cluster, and sees it late where a scenario says so. The scenarios are modules of one test binary, `tests/main.rs`: one more costs no linking.

pub mod admin;
pub mod agent;
pub mod audience_webhook;
pub mod audit_log;
pub mod ci_system;
pub mod client;
pub mod decisions;
pub mod environment;
pub mod etcd_proxy;
pub mod issuer;
pub mod issuer_identity;
pub mod job;
mod pod;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod reasons;
pub mod runner_pod;
pub mod scene;
pub mod second_api_server;
pub mod second_cluster;
pub mod secrets;
pub mod site;
pub mod use_of_tokens;
pub mod wait;
