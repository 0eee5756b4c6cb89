//! Signals and the tasks that live as long as the daemon.
//!
//! A [`Tasks`] owns every long task by name. One that ends although nobody asked it to, by return or by panic, is
//! logged and takes the daemon down with a failure: a daemon without its accept loop or its sweeper looks alive and is
//! not. Short tasks (a connection) are only counted, and waited for at the end.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, error, info, info_span, warn};

/// Cancelled by the first SIGTERM or SIGINT.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "stopping");
        cancelled.cancel();
    });
    Ok(stop)
}

/// From now on a write beyond the limit of a file's size is an error (EFBIG), and no signal that ends the process (setrlimit(2)).
pub fn survive_file_size_limit() -> std::io::Result<()> {
    // The handler stays when this is dropped.
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
}

/// Each SIGHUP from now on; before this a SIGHUP ends the process.
pub fn on_hangups() -> std::io::Result<Hangups> {
    Ok(Hangups(signal(SignalKind::hangup())?))
}

/// The SIGHUPs of this process.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Waits for the next one. Several that came since the last count as one.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await // no more can come
        }
    }
}

/// A task ended that should not have.
#[derive(Debug, thiserror::Error)]
#[error("task {name} ended although nothing asked it to; the log says why")]
pub struct UnexpectedEnd {
    /// Which task.
    pub name: &'static str,
}

/// The long tasks of a daemon.
pub struct Tasks {
    stop: CancellationToken,
    long: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    short: TaskTracker,
}

impl Tasks {
    /// None yet. `stop` tells all of them to end.
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, long: JoinSet::new(), names: HashMap::new(), short: TaskTracker::new() }
    }

    /// What tells a task to end; to be watched by each.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs a task that ends only after `stop`.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.long.spawn(task.instrument(info_span!("task", task = name)));
        self.names.insert(handle.id(), name);
    }

    /// Where tasks are spawned that may end at any time, such as one for each connection.
    pub fn short(&self) -> TaskTracker {
        self.short.clone()
    }

    /// Waits until the daemon is told to stop or a task ends by itself, then gives all tasks `grace` to end.
    pub async fn run(mut self, grace: Duration) -> Result<(), UnexpectedEnd> {
        let failed = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            Some(ended) = self.long.join_next_with_id() => Some(self.name_of(&ended)),
        };
        if let Some(name) = failed {
            error!(task = name, "a task ended although nothing asked it to: stopping");
            self.stop.cancel();
        }
        self.short.close();
        if tokio::time::timeout(grace, self.drain()).await.is_err() {
            let left: Vec<_> = self.names.values().copied().collect();
            warn!(tasks = ?left, short = self.short.len(), "tasks did not end in time and were aborted");
        }
        match failed {
            Some(name) => Err(UnexpectedEnd { name }),
            None => Ok(()),
        }
    }

    async fn drain(&mut self) {
        while let Some(ended) = self.long.join_next_with_id().await {
            self.name_of(&ended);
        }
        self.short.wait().await;
    }

    /// Forgets the task and logs a panic.
    fn name_of(&mut self, ended: &Result<(Id, ()), JoinError>) -> &'static str {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(failure) => failure.id(),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        if ended.as_ref().is_err_and(JoinError::is_panic) {
            error!(task = name, "a task panicked");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn tasks_that_end_when_told_are_a_success() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(stop.clone());
        let told = tasks.stop();
        tasks.spawn("patient", async move { told.cancelled().await });
        stop.cancel();
        assert!(tasks.run(GRACE).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_by_itself_stops_the_others_and_fails() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let told = tasks.stop();
        tasks.spawn("patient", async move { told.cancelled().await });
        tasks.spawn("quitter", async {});
        assert_eq!(tasks.run(GRACE).await.unwrap_err().name, "quitter");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_an_unexpected_end() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("clumsy", async { panic!("on purpose") });
        assert_eq!(tasks.run(GRACE).await.unwrap_err().name, "clumsy");
    }

    #[tokio::test(start_paused = true)]
    async fn short_tasks_may_end_and_are_waited_for_until_the_grace_is_over() {
        let stop = CancellationToken::new();
        let tasks = Tasks::new(stop.clone());
        tasks.short().spawn(async {});
        tasks.short().spawn(std::future::pending::<()>());
        stop.cancel();
        let started = tokio::time::Instant::now();
        assert!(tasks.run(GRACE).await.is_ok());
        assert_eq!(started.elapsed(), GRACE);
    }
}
