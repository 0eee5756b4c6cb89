//! How far something is that takes longer than people like to wait without a word.

use std::time::{Duration, Instant};

use crate::measure::per_second;

/// How often it is told.
const EVERY: Duration = Duration::from_secs(2);

/// Tells on stderr how many of how many are done.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    started: Instant,
    told: Option<Instant>,
}

impl Progress {
    /// Of so many.
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        Self { what, total, started: Instant::now(), told: None }
    }

    /// Whether it is time for a word.
    pub(crate) fn is_due(&self) -> bool {
        self.told.unwrap_or(self.started).elapsed() >= EVERY
    }

    /// Says it if it is time, with something else that is known.
    pub(crate) fn tell(&mut self, done: usize, besides: &str) {
        if self.is_due() {
            let (what, total) = (self.what, self.total);
            let rate = per_second(done, self.started.elapsed());
            eprintln!("{done} of {total} {what}, {rate:.0}/s{besides}");
            self.told = Some(Instant::now());
        }
    }
}
