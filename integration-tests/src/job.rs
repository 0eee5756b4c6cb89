//! A job that goes on while something happens to the daemons: the same command again and again, with what came of each.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::Done;
use crate::wait::{self, Seen};

/// How long a few runs may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until it is ended or dropped.
pub struct Job {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<Vec<Run>>>>,
}

/// One run of the command.
#[derive(Clone, Debug)]
pub struct Run {
    /// Since the job began.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// What came of it.
    pub done: Done,
}

impl Job {
    /// Runs `command` now and again after each pause.
    pub fn start(command: &Command, pause: Duration) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, counted, mut command) = (stop.clone(), count.clone(), copy_of(command));
        let thread = std::thread::spawn(move || {
            let mut runs = Vec::new();
            let began = Instant::now();
            while !told.load(Ordering::SeqCst) {
                let (at, started) = (began.elapsed(), Instant::now());
                let done = Done::of(&mut command)?;
                runs.push(Run { at, took: started.elapsed(), done });
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(pause);
            }
            Ok(runs)
        });
        Self { stop, count, thread: Some(thread) }
    }

    /// Waits until it has run so many times more.
    pub async fn goes_on(&self, runs: usize) -> Result<()> {
        let wanted = self.count.load(Ordering::SeqCst) + runs;
        wait::until("more runs of the job", PATIENCE, async || {
            let count = self.count.load(Ordering::SeqCst);
            Ok(if count >= wanted { Seen::Ready(()) } else { Seen::NotYet(format!("{count} of {wanted}")) })
        })
        .await
    }

    /// Ends it; all runs.
    pub fn end(mut self) -> Result<Vec<Run>> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().context("the job has ended")?;
        thread.join().map_err(|_| anyhow::anyhow!("the job panicked"))?
    }

    /// Ends it; how many runs there were, none of which failed.
    pub fn end_well(self) -> Result<usize> {
        let runs = self.end()?;
        for Run { at, took, done } in &runs {
            ensure!(done.code == Some(0), "the run at {at:?} failed after {took:?}: {done:?}");
        }
        Ok(runs.len())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // What came of it was not asked for.
            let _ = thread.join();
        }
    }
}

/// The same command once more.
pub fn copy_of(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    copy
}
