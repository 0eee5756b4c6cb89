//! What a process that holds secrets does first: no core dumps, no group or world bits on new files.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};

/// Why core dumps could not be ruled out.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot rule out core dumps ({step}); secrets would reach the disk in a crash, so this does not start"
)]
pub struct HardeningError {
    step: &'static str,
    source: Errno,
}

/// Makes core dumps impossible and this process closed to debuggers of its own user.
///
/// Both limits are set: RLIMIT_CORE does not stop a dump that the kernel pipes to a program (core(5)), and a process
/// that is not dumpable still has a limit that a child would inherit.
pub fn no_core_dumps() -> Result<(), HardeningError> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|source| HardeningError { step: "RLIMIT_CORE", source })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|source| HardeningError { step: "PR_SET_DUMPABLE", source })
}

/// From now on new files are for their owner only, whatever mode they are created with.
pub fn private_files() {
    umask(Mode::RWXG | Mode::RWXO);
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn a_hardened_process_cannot_be_dumped() {
        no_core_dumps().unwrap();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
