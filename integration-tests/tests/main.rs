//! The one test binary: scenarios on a real Kubernetes. Run them with `cargo xtask test`.

mod scenarios {
    mod adoption;
    mod at_once;
    mod bans;
    mod certificates;
    mod clones;
    mod crashes;
    mod descriptors;
    mod disk;
    mod enrolment_guide;
    mod errors;
    mod following;
    mod identities;
    mod in_cluster;
    mod issuing;
    mod jobs;
    mod kubectl;
    mod listing;
    mod machines;
    mod method_table;
    mod mint_and_cut;
    mod misbehaving_cluster;
    mod own_credential;
    mod pods;
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
    mod two_clusters;
    mod undeletable;
}
