//! The domain of shorepass, pure: no sockets, no files, no clocks, no randomness of its own.
//!
//! What the other crates do to the world they do behind the traits that stand here ([`ledger::Ledger`],
//! [`cluster::Cluster`], [`time::Clock`], [`time::Entropy`]). The order of events is in the types: a
//! [`caller::Caller`] comes only from a verified certificate, a [`policy::Grant`] only from a decision, an
//! [`mint::Order`] only from a grant, and a token leaves only against a [`ledger::Recorded`].

pub mod adoption;
pub mod anchors;
pub mod audience;
pub mod audit;
pub mod ban;
pub mod block;
pub mod breaker;
pub mod caller;
pub mod claims;
pub mod cluster;
pub mod condition;
pub mod digest;
pub mod enrolment;
pub mod escape;
pub mod feed;
pub mod gives;
pub mod id;
pub mod identity;
pub mod job;
pub mod job_issuer;
pub mod job_requirement;
pub mod job_token;
pub mod labels;
pub mod lease;
pub mod ledger;
pub mod machine_token;
pub mod mint;
pub mod name;
pub mod needs;
pub mod not_removed;
pub mod pod;
pub mod policy;
pub mod receipt;
pub mod refresh;
pub mod request;
pub mod role;
pub mod security;
pub mod silence;
pub mod time;
pub mod token;
pub mod trust_bundle;
pub mod window;
