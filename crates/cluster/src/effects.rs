//! Tells whoever wants to know what was done in a cluster, right after it was: for the issuer's fail points, in a build with
//! the feature `fail-points`, never in a release. Without it nothing is told, and nothing of it is left in the program.

#[cfg(all(feature = "fail-points", not(debug_assertions)))]
compile_error!("fail points are for tests: build without the feature `fail-points`, or without --release");

/// What an API server has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A RoleBinding of a strict lease is made.
    BindingMade,
    /// The ServiceAccount of a strict lease is made.
    AccountMade,
    /// The anchor of a lease is made; it has no token.
    AnchorMade,
    /// A RoleBinding of a strict lease is deleted.
    BindingDeleted,
    /// The anchor of a strict lease is deleted; its ServiceAccount stands.
    StrictAnchorDeleted,
}

/// Says that it was done, if it was.
pub(crate) fn done_if<T, E>(outcome: &Result<T, E>, effect: Effect) {
    if outcome.is_ok() {
        done(effect);
    }
}

/// Says that it was done.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub(crate) fn done(_: Effect) {}

#[cfg(feature = "fail-points")]
pub(crate) use told::done;
#[cfg(feature = "fail-points")]
pub use told::tell;

#[cfg(feature = "fail-points")]
mod told {
    use std::sync::OnceLock;

    use super::Effect;

    static LISTENER: OnceLock<fn(Effect)> = OnceLock::new();

    /// Tells it to this function from now on; the first one counts.
    pub fn tell(listener: fn(Effect)) {
        let _ = LISTENER.set(listener);
    }

    /// Says that it was done.
    pub(crate) fn done(effect: Effect) {
        if let Some(listener) = LISTENER.get() {
            listener(effect);
        }
    }
}
