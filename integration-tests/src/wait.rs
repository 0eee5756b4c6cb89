//! Waiting for a state, never for a duration.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What was seen when one looked.
pub enum Seen<T> {
    /// What was waited for.
    Ready(T),
    /// Something else, for the error message.
    NotYet(String),
}

/// Looks ten times a second until it is there; the error says what was seen last.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Result<Seen<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match look().await? {
            Seen::Ready(found) => return Ok(found),
            Seen::NotYet(seen) if start.elapsed() >= patience => {
                bail!("waited {patience:?} in vain for {what}; last seen: {seen}")
            }
            Seen::NotYet(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
