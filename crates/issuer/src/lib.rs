//! The central daemon: holds cluster access, decides by policy, mints, records, revokes.
//!
//! One folder for each use case; [`compose`] joins the rooms and holds no rules. The path of a credential begins and
//! ends in [`issue`]. A use case speaks the language of core: it knows no gRPC, YAML, kube or sled.

pub mod admin;
pub mod ban;
mod bucket;
mod certificate_authority;
mod clusters;
pub mod commands;
mod compose;
mod coordination;
pub mod enrol;
pub mod fail_points;
pub mod follow;
mod identities;
pub mod issue;
mod job_issuers;
pub mod jobs;
pub mod mutants;
pub mod outside;
mod own_credential;
pub mod prove;
mod records;
pub mod reviews;
pub mod revoke;
pub mod roles;
pub mod services;
mod serving_certificate;
mod state;
mod trust_bundles;

#[cfg(test)]
mod tests;
