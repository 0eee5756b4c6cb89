//! Says what is being waited for, once it takes longer than two seconds.

use std::pin::pin;
use std::time::Duration;

/// How long a wait needs no explanation.
const FIRST: Duration = Duration::from_secs(2);
/// How often it is explained after that.
const AGAIN: Duration = Duration::from_secs(10);

/// Waits for the work; says `waiting for <what>` on stderr while that takes long.
pub(crate) async fn during<T>(what: &str, work: impl Future<Output = T>) -> T {
    during_with(what, work, |line| eprintln!("{line}")).await
}

async fn during_with<T>(what: &str, work: impl Future<Output = T>, mut tell: impl FnMut(&str)) -> T {
    let mut work = pin!(work);
    let mut waited = Duration::ZERO;
    let mut patience = FIRST;
    loop {
        match tokio::time::timeout(patience, &mut work).await {
            Ok(done) => return done,
            Err(_) => {
                waited += patience;
                patience = AGAIN;
                tell(&format!("shorepass: waiting for {what} ({} s)", waited.as_secs()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_in(life: Duration) -> Vec<String> {
        let mut lines = Vec::new();
        during_with("the issuer", tokio::time::sleep(life), |line| lines.push(line.to_owned())).await;
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
}
