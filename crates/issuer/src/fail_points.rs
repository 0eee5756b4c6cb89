//! Named points at which the issuer of a test build dies: the feature `fail-points`, never in a release.
//!
//! `SHOREPASS_FAIL_POINT=<name>:<n>` ends the process with SIGKILL when it comes by that point for the n-th time. Each
//! point lies right behind one effect, so that the next one has not begun. Without the feature nothing of it is left in
//! the program.

#[cfg(all(feature = "fail-points", not(debug_assertions)))]
compile_error!("fail points are for tests: build without the feature `fail-points`, or without --release");

/// Behind which effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A job session is durable.
    JobRecorded,
    /// It was decided that a lease begins; nothing is recorded.
    Decided,
    /// *pending* is durable; the cluster knows nothing.
    PendingRecorded,
    /// The cluster made anchor and token; no record says so.
    Minted,
    /// Token and audit line are durable; the token has not left.
    TokenRecorded,
    /// A RoleBinding of a strict lease is made.
    BindingMade,
    /// The ServiceAccount of a strict lease is made; it has no anchor.
    AccountMade,
    /// The anchor is made; it has no token.
    AnchorMade,
    /// It was decided that leases end, or that their owner is shut out; nothing is recorded.
    EndDecided,
    /// *ending*, or what leads to it, is durable; the anchor stands.
    EndingRecorded,
    /// The blocks of a revocation are durable; where an operator waits for receipts its leases live on for now.
    BlocksRecorded,
    /// A ban is durable; nobody is refused for it, and the leases of the banned live.
    BanRecorded,
    /// The end of a ban is durable; nobody was told.
    BanLifted,
    /// A RoleBinding of a strict lease is deleted; it has others, its anchor and its ServiceAccount.
    BindingDeleted,
    /// The anchor of a strict lease is deleted; its ServiceAccount stands.
    StrictAnchorDeleted,
    /// The anchor is deleted; no record says so.
    AnchorCut,
    /// *ended* is durable; nobody was told.
    EndedRecorded,
    /// It is durable that a control is to be made for a proof; the cluster knows nothing.
    ControlRecorded,
    /// The control is made; nothing stands on it yet.
    ControlMade,
    /// The control is deleted; no record says so.
    ControlDeleted,
}

/// Says that the point is reached.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn reached(_: Point) {}

#[cfg(feature = "fail-points")]
pub use armed::{check, reached};

#[cfg(feature = "fail-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::{Context as _, Result};
    use rustix::process::{Signal, getpid, kill_process};
    use shorepass_cluster::effects::{Effect, tell};

    use super::Point;

    const VARIABLE: &str = "SHOREPASS_FAIL_POINT";

    const NAMES: [(&str, Point); 20] = [
        ("job-recorded", Point::JobRecorded),
        ("decided", Point::Decided),
        ("pending-recorded", Point::PendingRecorded),
        ("minted", Point::Minted),
        ("token-recorded", Point::TokenRecorded),
        ("binding-made", Point::BindingMade),
        ("account-made", Point::AccountMade),
        ("anchor-made", Point::AnchorMade),
        ("end-decided", Point::EndDecided),
        ("ending-recorded", Point::EndingRecorded),
        ("blocks-recorded", Point::BlocksRecorded),
        ("ban-recorded", Point::BanRecorded),
        ("ban-lifted", Point::BanLifted),
        ("binding-deleted", Point::BindingDeleted),
        ("strict-anchor-deleted", Point::StrictAnchorDeleted),
        ("anchor-cut", Point::AnchorCut),
        ("ended-recorded", Point::EndedRecorded),
        ("control-recorded", Point::ControlRecorded),
        ("control-made", Point::ControlMade),
        ("control-deleted", Point::ControlDeleted),
    ];

    /// Where to die, and how many times that point is passed before.
    struct Armed {
        point: Point,
        left: AtomicU32,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    /// Reads the variable; an error names all points if it names none of them.
    pub fn check() -> Result<()> {
        let Ok(text) = std::env::var(VARIABLE) else { return Ok(()) };
        let armed = read(&text).with_context(|| {
            let names = NAMES.map(|(name, _)| name).join(" ");
            format!("{VARIABLE} is not <name>:<n> with one of these names: {names}")
        })?;
        let _ = ARMED.set(Some(armed));
        tell(|effect| {
            reached(match effect {
                Effect::BindingMade => Point::BindingMade,
                Effect::AccountMade => Point::AccountMade,
                Effect::AnchorMade => Point::AnchorMade,
                Effect::BindingDeleted => Point::BindingDeleted,
                Effect::StrictAnchorDeleted => Point::StrictAnchorDeleted,
            });
        });
        Ok(())
    }

    fn read(text: &str) -> Option<Armed> {
        let (name, count) = text.split_once(':')?;
        let (_, point) = NAMES.into_iter().find(|(known, _)| *known == name)?;
        let count: u32 = count.parse().ok().filter(|count| *count > 0)?;
        Some(Armed { point, left: AtomicU32::new(count) })
    }

    /// Says that the point is reached; does not return if it is the one to die at.
    pub fn reached(point: Point) {
        let Some(armed) = ARMED.get().and_then(Option::as_ref) else { return };
        if armed.point == point && armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let _ = kill_process(getpid(), Signal::KILL);
            std::process::abort(); // never reached: the signal is not held back
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_point_has_a_name_and_a_count() {
            for (name, point) in NAMES {
                let armed = read(&format!("{name}:3")).expect("a point");
                assert_eq!((armed.point, armed.left.into_inner()), (point, 3));
            }
            for wrong in ["", "minted", "minted:", "minted:0", "nowhere:1"] {
                assert!(read(wrong).is_none(), "{wrong}");
            }
        }
    }
}
