//! The one test binary: scenarios on a real Kubernetes. Run them with `cargo xtask test`.

mod scenarios {
    mod adoption;
    mod at_once;
    mod bans;
    mod ca_rotation;
    mod can_i;
    mod certificates;
    mod clones;
    mod cluster_as_issuer;
    mod crashes;
    mod descriptors;
    mod disk;
    mod errors;
    mod following;
    mod identities;
    mod in_cluster;
    mod issuing;
    mod jobs;
    mod kubectl;
    mod listing;
    mod method_table;
    mod mint_and_cut;
    mod misbehaving_cluster;
    mod outside_pki;
    mod own_credential;
    mod preflight;
    mod receipts;
    mod refresh;
    mod refused_mints;
    mod refused_starts;
    mod request_ids;
    mod restart;
    mod revocation;
    mod roles;
    mod second_issuer;
    mod secret_search;
    mod selectors;
    mod stolen_issuer;
    mod strict;
    mod tls_refusals;
    mod token_secrets;
    mod two_clusters;
    mod undeletable;
}
