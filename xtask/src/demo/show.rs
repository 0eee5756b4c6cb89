//! What the demo prints: numbered steps with their times, and what each saw.

use std::time::{Duration, Instant};

use super::daemons::Daemons;

/// The screen.
pub(super) struct Show {
    started: Instant,
}

/// A step that is under way.
pub(super) struct Step {
    number: u8,
    name: &'static str,
    started: Instant,
}

impl Show {
    pub(super) fn new() -> Self {
        Self { started: Instant::now() }
    }

    pub(super) fn begin(&self, number: u8, name: &'static str) -> Step {
        eprintln!("... {number} {name}");
        Step { number, name, started: Instant::now() }
    }

    pub(super) fn done(&self, number: u8, name: &str, took: Duration, lines: &[String]) {
        println!("\n{number}  {name:<56} {:>8.1} s", took.as_secs_f64());
        for line in lines.iter().flat_map(|line| line.lines()) {
            println!("   {line}");
        }
    }

    /// The end of each daemon's log.
    pub(super) fn failure(&self, daemons: &Daemons) {
        for (name, lines) in daemons.last_lines() {
            eprintln!("\n{name}: {lines}");
        }
    }

    pub(super) fn keep(&self, lines: &[String]) {
        println!("\nEverything runs until Ctrl-C. Paste these into another shell:\n");
        lines.iter().for_each(|line| println!("  {line}"));
        println!();
    }

    pub(super) fn all_well(&self) {
        println!("\nEach step saw what it claims ({:.0} s).", self.started.elapsed().as_secs_f64());
    }
}

impl Step {
    pub(super) fn end(self, show: &mut Show, lines: &[String]) {
        show.done(self.number, self.name, self.started.elapsed(), lines);
    }
}
