//! What the tests are told by `cargo xtask test` and `cargo xtask control-plane env`.
//!
//! Without it they fail: a test that skips itself is a test that nobody misses.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Where things are.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The folder with the daemons and tools under test.
    pub bin_dir: PathBuf,
    /// A kubeconfig with the rights of `system:masters`.
    pub kubeconfig: PathBuf,
    /// The audit log of the API server.
    pub audit_log: PathBuf,
    /// kubectl of the API server's version.
    pub kubectl: PathBuf,
    /// The command line of the API server: the program, and then each flag on a line of its own.
    pub api_server: PathBuf,
    /// The API server's version, such as `1.36.3`.
    pub kubernetes: String,
}

impl Environment {
    /// Reads the variables.
    pub fn read() -> Result<Self> {
        let kubernetes = variable("SHOREPASS_TEST_KUBERNETES")?;
        Ok(Self {
            bin_dir: variable("SHOREPASS_TEST_BIN_DIR")?.into(),
            kubeconfig: variable("SHOREPASS_TEST_KUBECONFIG")?.into(),
            audit_log: variable("SHOREPASS_TEST_AUDIT_LOG")?.into(),
            kubectl: variable("SHOREPASS_TEST_KUBECTL")?.into(),
            api_server: variable("SHOREPASS_TEST_API_SERVER")?.into(),
            kubernetes: kubernetes.into_string().ok().context("SHOREPASS_TEST_KUBERNETES is not UTF-8")?,
        })
    }

    /// Whether the API server is at least `1.<minor>`.
    pub fn is_at_least(&self, minor: u32) -> bool {
        self.kubernetes
            .split('.')
            .nth(1)
            .and_then(|minor| minor.parse().ok())
            .is_some_and(|ours: u32| ours >= minor)
    }
}

fn variable(name: &str) -> Result<OsString> {
    std::env::var_os(name).with_context(|| {
        format!("{name} is not set. Run the integration tests with `cargo xtask test`, or start a control plane with \
                 `cargo xtask control-plane up` and `eval \"$(cargo xtask control-plane env)\"`")
    })
}
