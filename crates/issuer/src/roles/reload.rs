//! Reads the role documents again when they have changed, or at SIGHUP, and exchanges the policy as a whole.
//!
//! Documents that do not load, or do not go together, change nothing: the last good policy stays in force, and log, metrics
//! and `/readyz` say so until they do. Changes are looked for by reading: watches of file systems miss what a ConfigMap
//! volume does, and role documents are small.

use std::sync::Arc;
use std::time::Duration;

use shorepass_conditions::CelConditions;
use shorepass_config::role::{Roles, fingerprint};
use shorepass_config::{ConfigError, ConfigErrors, Fault, IssuerConfig};
use shorepass_core::digest::Digest;
use shorepass_core::gives::Gives;
use shorepass_core::policy::{Policy, PolicyError};
use shorepass_daemon::admin::Condition;
use shorepass_daemon::shutdown::Hangups;
use tokio_util::sync::CancellationToken;

use super::changed::Changed;
use crate::outside::Outside;
use crate::revoke::Ends;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// How often files are read that change while they are read.
const ATTEMPTS: u32 = 3;

/// Why documents do not become the policy in force.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    /// A document does not load.
    #[error("{}", first(.0))]
    Documents(ConfigErrors),
    /// Documents do not go together.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// They changed while they were read, again and again.
    #[error("the files change while they are read")]
    Unsteady,
}

/// The task.
pub(crate) struct Reloading {
    config: IssuerConfig,
    ends: Ends,
    outside: Arc<Outside>,
    condition: Condition,
    /// What the files were when they were read last, whether they loaded or not.
    seen: Option<Digest>,
}

impl Reloading {
    /// Over the policy in force; says how it stands by the condition.
    pub(crate) fn new(config: IssuerConfig, ends: Ends, condition: Condition) -> Self {
        let outside = ends.outside.clone();
        condition.holds();
        show(&outside.policy.current(), false);
        Self { config, ends, outside, condition, seen: None }
    }

    /// Looks every few seconds and at each SIGHUP, until told to stop.
    pub(crate) async fn run(mut self, mut hangups: Hangups, stop: CancellationToken) {
        self.catch_up().await;
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = hangups.next() => {
                    tracing::info!("reading the roles again at SIGHUP");
                    self.seen = None;
                }
                _ = tick.tick() => {}
            }
            self.look().await;
        }
    }

    /// Follows what changed in the documents while the issuer was away.
    pub(crate) async fn catch_up(&self) {
        let current = self.outside.policy.current();
        Changed { old: current.clone(), new: current, ends: &self.ends }.catch_up().await;
    }

    /// Reads the files if they are not as they were.
    pub(crate) async fn look(&mut self) {
        let now = fingerprint(&self.config.role_directory);
        if self.seen == Some(now) {
            return;
        }
        match self.read(now).and_then(|(roles, seen)| Ok((self.policy(roles)?, seen))) {
            Ok((policy, seen)) => {
                self.seen = Some(seen);
                self.take(policy).await;
            }
            Err(cause) => {
                // What changes while it is read is read again at the next look.
                self.seen = Some(now).filter(|_| !matches!(cause, ReloadError::Unsteady));
                self.refuse(&cause);
            }
        }
    }

    /// The roles and what the files were while they were read.
    fn read(&self, mut before: Digest) -> Result<(Roles, Digest), ReloadError> {
        for _ in 0..ATTEMPTS {
            let read = self.config.load_roles(&CelConditions);
            let after = fingerprint(&self.config.role_directory);
            if before == after {
                return Ok((read.map_err(ReloadError::Documents)?, after));
            }
            before = after;
        }
        Err(ReloadError::Unsteady)
    }

    fn policy(&self, roles: Roles) -> Result<Policy, ReloadError> {
        for Fault { file, line, column, path, problem, .. } in roles.warnings {
            let place = format!("{}:{line}:{column}", file.display());
            tracing::warn!(place, path, problem, "a role document does not do what it seems to");
        }
        let version = self.outside.policy.current().edition().version + 1;
        Ok(Policy::new(roles.roles)?.numbered(version))
    }

    async fn take(&self, policy: Policy) {
        self.condition.holds();
        let current = self.outside.policy.current();
        if policy.edition().digest == current.edition().digest {
            return show(&current, false);
        }
        let (old, new) = {
            let _alone = self.outside.gate.write().await; // whatever was decided before is durable, and found below
            self.outside.policy.exchange(policy)
        };
        let edition = new.edition();
        tracing::info!(digest = %edition.digest, version = edition.version, roles = new.roles().count(), "the roles were exchanged");
        show(&new, false);
        metrics::counter!("shorepass_role_reloads_total", "outcome" => "taken").increment(1);
        warn_of_unbound(&new);
        Changed { old, new, ends: &self.ends }.follow().await;
    }

    fn refuse(&self, cause: &ReloadError) {
        let current = self.outside.policy.current();
        let version = current.edition().version;
        self.condition.holds_but(format!("the role documents do not load, version {version} stays: {cause}"));
        show(&current, true);
        metrics::counter!("shorepass_role_reloads_total", "outcome" => "refused").increment(1);
        match cause {
            ReloadError::Documents(errors) => errors.iter().for_each(log),
            ReloadError::Policy(_) | ReloadError::Unsteady => {
                tracing::error!(error = %cause, "the role documents do not go together: the last good ones stay in force");
            }
        }
    }
}

/// Says which roles have tokens that nothing ends.
pub(crate) fn warn_of_unbound(policy: &Policy) {
    for role in policy.roles().filter(|role| matches!(role.gives(), Gives::Unbound(_))) {
        tracing::warn!(role = %role.name(), "the role says dangerouslyUnbound: nothing ends its tokens before they expire");
    }
}

fn show(policy: &Policy, stale: bool) {
    metrics::gauge!("shorepass_policy_version").set(policy.edition().version as f64);
    metrics::gauge!("shorepass_roles_stale").set(if stale { 1.0 } else { 0.0 });
}

fn log(error: &ConfigError) {
    const MESSAGE: &str = "a role document does not load: the last good ones stay in force";
    match error {
        ConfigError::Fault(fault) => {
            let place = format!("{}:{}:{}", fault.file.display(), fault.line, fault.column);
            tracing::error!(place, path = fault.path, problem = fault.problem, "{MESSAGE}");
        }
        ConfigError::Unreadable { .. } | ConfigError::Unfit { .. } => {
            tracing::error!(error = %shorepass_daemon::telemetry::Chain(error), "{MESSAGE}");
        }
    }
}

/// In one line.
fn first(errors: &ConfigErrors) -> String {
    let told = errors.first().map(ToString::to_string).unwrap_or_default();
    let line = told.lines().next().unwrap_or_default().to_owned();
    match errors.len() {
        0 | 1 => line,
        more => format!("{line} (and {} more)", more - 1),
    }
}
