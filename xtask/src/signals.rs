//! Ctrl-C, SIGTERM and SIGHUP set a flag; whoever waits asks for it.
//!
//! Nothing is cleaned up in a handler: an interrupted wait returns an error, and the owners of processes and
//! directories clean up as they are dropped. A second signal ends xtask at once, for when that hangs; the
//! children die with it (see `process`), only files stay behind and are swept by the next start.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::{error, fmt, thread, time::Duration};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static RAISED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Somebody asked us to stop.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl error::Error for Interrupted {}

/// From here on a signal no longer ends the process but raises the flag. May be called again.
pub(crate) fn watch() -> Result<()> {
    let flag = Arc::new(AtomicBool::new(false));
    if RAISED.set(Arc::clone(&flag)).is_err() {
        return Ok(());
    }
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order matters: the first signal finds the flag down and raises it, the second finds it up.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .context("cannot watch for signals")?;
    }
    Ok(())
}

/// An error once a signal came in.
pub(crate) fn check() -> Result<()> {
    match RAISED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Interrupted.into()),
        _ => Ok(()),
    }
}

/// Sleeps for a moment; an error once a signal came in.
pub(crate) fn pause(moment: Duration) -> Result<()> {
    check()?;
    thread::sleep(moment);
    check()
}
