//! Tokens of real clusters: minting on anchors, cutting anchors, the policy probe, RBAC and policy output; and what an API server says to
//! a job's own token ([`AsJob`]), for whoever has that and nothing else.
//!
//! The only user of the Kubernetes client. It reads no Secret, watches nothing and lists nothing (but the metadata of anchors,
//! with another credential, where somebody gives it one): what it may do is what [`rbac::render`] prints (it looks at the Roles that it may bind to, by name), and to read one EndpointSlice where
//! somebody lets it. Requests go through the client's transport only; bodies are read and parsed here,
//! because the client's own request functions log a body that they cannot parse, and a body can hold a token.

mod answer;
mod api_server;
mod as_job;
mod bootstrap;
mod canary;
mod connection;
mod coordination;
mod deletion;
pub mod effects;
pub mod in_cluster;
mod kube_cluster;
mod listing;
pub mod names;
mod objects;
mod own;
mod probe;
pub mod rbac;
mod refusal;
mod reviews;
mod rules;
mod strict;
mod token_review;
mod witness;

pub use as_job::{AsJob, Verdict};
pub use bootstrap::{Bootstrap, BootstrapError, Bootstrapped};
pub use connection::{Advertise, ConnectError, Connection};
pub use coordination::{
    CLAIM_DEADLINE, CLAIM_EVERY, CLAIM_LASTS, CLAIM_WATCHED, Claim, ClaimError, Standing,
};
pub use kube_cluster::{CUT_DEADLINE, CUTS_IN_FLIGHT, KubeCluster, MINT_DEADLINE};
pub use listing::KubeListing;
pub use objects::CANARY_LIFE;
pub use own::{OWN_LIFE, OwnAccount, OwnCredential, OwnError, RenewError, Renewed};
pub use probe::{CONFIRMED_FOR, MISSING_FOR, Places, WARM_UP};
pub use strict::RIGHTS_PATIENCE;
pub use witness::ASK_DEADLINE;
