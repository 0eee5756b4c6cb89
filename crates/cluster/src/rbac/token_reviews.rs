//! What the issuer needs to ask whose the tokens of runner pods are, where its config has `enrolment.pods`.
//!
//! It is printed only for who asks for it: without such pods the issuer needs no right in the whole cluster.

use serde_json::json;
use shorepass_core::name::Name;

use super::{IssuerIdentity, fill};
use crate::names;

const TOKEN_REVIEWS: &str = include_str!("../../../../deploy/kubernetes/token-reviews.yaml");

/// Prints the right of the issuer called `issuer` to create TokenReviews.
pub fn render_token_reviews(identity: &IssuerIdentity, issuer: &Name) -> String {
    let rights = json!(format!("{}-token-reviews", names::policy_name(issuer))).to_string();
    fill(TOKEN_REVIEWS, &[("RIGHTS", &rights), ("SUBJECT", &identity.subject())])
}
