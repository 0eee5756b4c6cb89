//! The one test binary: scenarios on a real Kubernetes. Run them with `cargo xtask test`.

mod scenarios {
    mod issuing;
    mod mint_and_cut;
    mod refused_mints;
    mod stolen_issuer;
}
