//! One line on stderr that shows that something slow still moves.
//!
//! On a terminal it is one line that is drawn over; elsewhere (CI) a line every 15 seconds. No thread: whoever
//! waits calls [`Progress::tick`], so a line that moves proves that the wait loop runs.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const EVERY_ON_TERMINAL: Duration = Duration::from_millis(250);
const EVERY_ELSEWHERE: Duration = Duration::from_secs(15);

/// A slow step that is under way.
pub(crate) struct Progress {
    what: String,
    started: Instant,
    drawn: Instant,
    terminal: bool,
    finished: bool,
}

impl Progress {
    /// Announces `what` and how long it `usually` takes.
    pub(crate) fn start(what: &str, usually: &str) -> Self {
        let now = Instant::now();
        let terminal = io::stderr().is_terminal();
        let progress = Self {
            what: format!("{what} (usually {usually})"),
            started: now,
            drawn: now,
            terminal,
            finished: false,
        };
        progress.draw("");
        progress
    }

    /// Says how far it is, if it is time to say so. `detail` is only asked then.
    pub(crate) fn tick(&mut self, detail: impl FnOnce() -> String) {
        let every = if self.terminal { EVERY_ON_TERMINAL } else { EVERY_ELSEWHERE };
        if self.drawn.elapsed() < every {
            return;
        }
        self.drawn = Instant::now();
        self.draw(&format!(": {}, {}", elapsed(self.started), detail()));
    }

    /// Ends the line.
    pub(crate) fn done(mut self) {
        self.finished = true;
        self.draw(&format!(": done in {}", elapsed(self.started)));
        self.end_line();
    }

    /// Progress is a courtesy: a closed stderr is no reason to stop, so failures to write are ignored.
    fn draw(&self, rest: &str) {
        let mut stderr = io::stderr().lock();
        let _ = match self.terminal {
            true => write!(stderr, "\r\x1b[2K{}{rest}", self.what),
            false => writeln!(stderr, "{}{rest}", self.what),
        };
        let _ = stderr.flush();
    }

    fn end_line(&self) {
        if self.terminal {
            let _ = writeln!(io::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.finished {
            self.end_line();
        }
    }
}

fn elapsed(since: Instant) -> String {
    let elapsed = since.elapsed();
    match elapsed.as_secs() {
        seconds @ 0..60 => format!("{seconds}.{} s", elapsed.subsec_millis() / 100),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}
