//! Reads the files of trust bundles again when they have changed, or at SIGHUP, and exchanges the CAs that are trusted.
//!
//! A file that cannot be read, is empty, or has no CA whose time is not over, changes nothing: the CAs that were read last stay, and log, metrics and `/readyz`
//! say so until it is mended. One that is bad from the start lets nobody of its bundle in, and keeps nobody else waiting.
//! Whose CA is taken out is refused from the next call on, and its connections are closed; those of all others stay. Changes
//! are looked for by reading, as with roles. What is taken was the same twice: files that are written in place are seen in
//! halves.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shorepass_config::IssuerConfig;
use shorepass_config::issuer::TrustBundleConfig;
use shorepass_core::digest::Digest;
use shorepass_daemon::admin::{Condition, Readiness};
use shorepass_daemon::shutdown::{Hangups, Tasks, on_hangups};
use tokio_util::sync::CancellationToken;

use crate::outside::Outside;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// How long a file has to stay as it is before it is taken.
const SETTLED: Duration = Duration::from_millis(200);
/// A bundle of the web's PKI has a quarter of that.
const SIZE_LIMIT: u64 = 1024 * 1024;

/// The task.
pub(crate) struct TrustBundles {
    bundles: Vec<Watched>,
    outside: Arc<Outside>,
    condition: Condition,
}

struct Watched {
    configured: TrustBundleConfig,
    /// What the file was when it was read last; none before that.
    seen: Option<Digest>,
    /// What is wrong with it.
    problem: Option<String>,
}

/// Reads the trust bundles before anybody is let in, and then again and again.
pub(crate) async fn keep(
    config: &IssuerConfig,
    outside: &Arc<Outside>,
    readiness: &Readiness,
    tasks: &mut Tasks,
) -> Result<()> {
    if config.trust_bundles.is_empty() {
        return Ok(());
    }
    let hangups = on_hangups().context("cannot watch for SIGHUP")?;
    let condition = readiness.condition("trust-bundles");
    let mut bundles = TrustBundles::new(&config.trust_bundles, outside.clone(), condition);
    bundles.look().await;
    tasks.spawn("trust-bundles", bundles.run(hangups, tasks.stop()));
    Ok(())
}

impl TrustBundles {
    /// Of these; says how they stand by the condition.
    pub(crate) fn new(configured: &[TrustBundleConfig], outside: Arc<Outside>, condition: Condition) -> Self {
        let watched = |configured: &TrustBundleConfig| Watched {
            configured: configured.clone(),
            seen: None,
            problem: None,
        };
        Self { bundles: configured.iter().map(watched).collect(), outside, condition }
    }

    /// Looks every few seconds and at each SIGHUP, until told to stop.
    pub(crate) async fn run(mut self, mut hangups: Hangups, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = hangups.next() => self.bundles.iter_mut().for_each(|bundle| bundle.seen = None),
                _ = tick.tick() => {}
            }
            self.look().await;
        }
    }

    /// Reads what is not as it was.
    pub(crate) async fn look(&mut self) {
        for bundle in &mut self.bundles {
            bundle.look(&self.outside).await;
        }
        let problems: Vec<&str> =
            self.bundles.iter().filter_map(|bundle| bundle.problem.as_deref()).collect();
        match problems.is_empty() {
            true => self.condition.holds(),
            false => self.condition.holds_but(problems.join("; ")),
        }
    }
}

impl Watched {
    async fn look(&mut self, outside: &Outside) {
        let (first, seen) = read(&self.configured.file);
        if self.seen == Some(seen) {
            return;
        }
        tokio::time::sleep(SETTLED).await;
        if read(&self.configured.file).1 != seen {
            return; // the next look finds it settled
        }
        self.seen = Some(seen);
        let name = self.configured.bundle.name();
        match first.and_then(|text| Ok(outside.trust.swap_bundle(name, &text, outside.clock.now())?)) {
            Ok(authorities) => self.take(authorities, outside),
            Err(cause) => self.refuse(&cause, outside),
        }
    }

    fn take(&mut self, authorities: usize, outside: &Outside) {
        self.problem = None;
        let closed = outside.connections.close_callers(|caller| !outside.trust.trusts(caller));
        let name = self.configured.bundle.name();
        tracing::info!(bundle = %name, authorities, closed, "the trust bundle was read");
        self.show("taken");
    }

    fn refuse(&mut self, cause: &anyhow::Error, outside: &Outside) {
        let bundle = &self.configured.bundle;
        let kept = match outside.trust.has_authorities_of(bundle.trust_domain()) {
            true => "the CAs that were read last stay",
            false => "nobody of it is let in",
        };
        let file = self.configured.file.display();
        self.problem = Some(format!("trust bundle {} does not load, {kept}: {cause:#}", bundle.name()));
        tracing::error!(bundle = %bundle.name(), %file, error = format!("{cause:#}"), "a trust bundle does not load: {kept}");
        self.show("refused");
    }

    fn show(&self, outcome: &'static str) {
        let bundle = self.configured.bundle.name().to_string();
        let stale = if self.problem.is_some() { 1.0 } else { 0.0 };
        metrics::gauge!("shorepass_trust_bundle_stale", "bundle" => bundle.clone()).set(stale);
        metrics::counter!("shorepass_trust_bundle_reloads_total", "bundle" => bundle, "outcome" => outcome)
            .increment(1);
    }
}

/// What is in the file, and what stands for it, or for why it cannot be read.
fn read(path: &Path) -> (Result<Vec<u8>>, Digest) {
    let read = contents(path);
    let seen = match &read {
        Ok(text) => Digest::of_parts([b"text".as_slice(), text]),
        Err(cause) => Digest::of_parts([b"cause".as_slice(), format!("{cause:#}").as_bytes()]),
    };
    (read, seen)
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    let unread = || format!("cannot read {}", path.display());
    ensure!(std::fs::metadata(path).with_context(unread)?.is_file(), "{} is not a file", path.display());
    let file = std::fs::File::open(path).with_context(unread)?;
    let mode = file.metadata().with_context(unread)?.permissions().mode() & 0o777;
    ensure!(
        mode & 0o022 == 0,
        "{} can be written by others (mode {mode:o}), who could let in whom they like: run chmod go-w on it",
        path.display()
    );
    let mut text = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut text).with_context(unread)?;
    ensure!(text.len() as u64 <= SIZE_LIMIT, "{} is larger than 1 MiB", path.display());
    Ok(text)
}
