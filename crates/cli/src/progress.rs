//! Says what is being waited for, once it takes longer than two seconds.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

/// How long a wait needs no explanation.
const FIRST: Duration = Duration::from_secs(2);
/// How often it is explained after that.
const AGAIN: Duration = Duration::from_secs(10);

/// Many waits one after the other: what counts is how long all of them have taken.
pub(crate) struct Progress {
    started: Instant,
    next: Duration,
}

impl Progress {
    /// Nothing was waited for yet.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), next: FIRST }
    }

    /// Waits for the work; says `waiting for <what>` on stderr, first after two seconds of all of the waits together.
    pub(crate) async fn during<T>(&mut self, what: &str, work: impl Future<Output = T>) -> T {
        self.during_with(what, work, |line| eprintln!("{line}")).await
    }

    async fn during_with<T>(
        &mut self,
        what: &str,
        work: impl Future<Output = T>,
        mut tell: impl FnMut(&str),
    ) -> T {
        let mut work = pin!(work);
        loop {
            match tokio::time::timeout_at(self.started + self.next, &mut work).await {
                Ok(done) => return done,
                Err(_) => {
                    self.next += AGAIN;
                    let waited = self.started.elapsed().as_secs();
                    tell(&format!("shorepass: waiting for {what} ({waited} s)"));
                }
            }
        }
    }
}

/// Waits for the work; says `waiting for <what>` on stderr while that takes long.
pub(crate) async fn during<T>(what: &str, work: impl Future<Output = T>) -> T {
    Progress::new().during(what, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_in(life: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        let work = tokio::time::sleep(life);
        Progress::new().during_with("the issuer", work, |line| lines.push(line.to_owned())).await;
        lines
    }

    #[tokio::test(start_paused = true)]
    async fn short_work_is_silent() {
        assert!(lines_in(Duration::from_millis(1_900)).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn long_work_says_what_it_waits_for() {
        let lines = lines_in(Duration::from_secs(15)).await;
        assert_eq!(
            lines,
            ["shorepass: waiting for the issuer (2 s)", "shorepass: waiting for the issuer (12 s)"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn many_short_waits_are_one_long_one() {
        let mut progress = Progress::new();
        let mut lines = Vec::new();
        for step in 0..5 {
            let work = tokio::time::sleep(Duration::from_millis(900));
            progress.during_with(&step.to_string(), work, |line| lines.push(line.to_owned())).await;
        }
        assert_eq!(lines, ["shorepass: waiting for 2 (2 s)"]);
    }
}
