//! The one test binary: scenarios on a real Kubernetes. Run them with `cargo xtask test`.

mod scenarios {
    mod certificates;
    mod descriptors;
    mod issuing;
    mod kubectl;
    mod mint_and_cut;
    mod refresh;
    mod refused_mints;
    mod restart;
    mod revocation;
    mod stolen_issuer;
}
