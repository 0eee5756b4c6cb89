//! A second cluster of an issuer under test, with the documents of the first made out for it.

use crate::site::CLUSTER;

/// What it is called.
pub const SECOND_CLUSTER: &str = "other";

/// Documents of the first cluster, made out for the second.
pub(crate) fn documents_of(first: &str) -> String {
    first
        .replace(&format!("cluster: {CLUSTER}\n"), &format!("cluster: {SECOND_CLUSTER}\n"))
        .replace(&format!("- name: {CLUSTER}\n"), &format!("- name: {SECOND_CLUSTER}\n"))
        .replace("metadata: {name: ", "metadata: {name: other-")
}
