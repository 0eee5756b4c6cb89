//! The audit log of the API server: one JSON event per line, written when a request is complete.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::environment::Environment;
use crate::wait::{self, Seen};

/// How long an event may take to reach the file: the API server writes it with the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the log.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

impl AuditLog {
    /// That of the control plane.
    pub fn open(environment: &Environment) -> Self {
        Self { path: environment.audit_log.clone() }
    }

    /// All events that are there and fit.
    pub fn events(&self, fits: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let text =
            std::fs::read(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        // The last line may be half written.
        let events = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        Ok(events.filter(|event| fits(event)).collect())
    }

    /// The first event that fits, as soon as it is there.
    pub async fn wait_for(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(what, PATIENCE, async || {
            let found = self.events(&fits)?.into_iter().next();
            Ok(found.map_or_else(|| Seen::NotYet("no such event".to_owned()), Seen::Ready))
        })
        .await
    }
}
