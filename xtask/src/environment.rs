//! The names of the variables that carry the test set-up into the integration tests.
//!
//! They are the whole agreement between xtask and the tests: xtask sets them, the tests read them and refuse to run
//! without them. The tests cannot import these constants (xtask is no library, and they must not depend on it), so
//! a rename here is a rename there.

/// The folder with the daemons under test.
pub(crate) const BIN_DIR: &str = "SHOREPASS_TEST_BIN_DIR";

/// A kubeconfig file with the rights of `system:masters`.
pub(crate) const KUBECONFIG: &str = "SHOREPASS_TEST_KUBECONFIG";

/// The audit log of the API server: one JSON event per line, at level Metadata, without the stage RequestReceived.
pub(crate) const AUDIT_LOG: &str = "SHOREPASS_TEST_AUDIT_LOG";

/// The kubectl of the same version as the API server.
pub(crate) const KUBECTL: &str = "SHOREPASS_TEST_KUBECTL";

/// A file with the command line of the API server: the program, and then each flag on a line of its own.
pub(crate) const API_SERVER: &str = "SHOREPASS_TEST_API_SERVER";

/// The version of the API server without the `v`, such as `1.36.3`.
pub(crate) const KUBERNETES: &str = "SHOREPASS_TEST_KUBERNETES";

/// How many times the crash test kills issuers.
pub(crate) const KILLS: &str = "SHOREPASS_TEST_KILLS";

/// The seed of what is random in tests.
pub(crate) const SEED: &str = "SHOREPASS_TEST_SEED";

/// Of a benchmark: API server and etcd run on other CPUs than issuer and loader.
pub(crate) const APART: &str = "SHOREPASS_BENCH_APART";

/// The mistake that the issuer under test makes.
pub(crate) const MUTANT: &str = "SHOREPASS_MUTANT";

/// Marks everything that one run of the tests started. Its value names the run.
pub(crate) const RUN: &str = "SHOREPASS_TEST_RUN";
