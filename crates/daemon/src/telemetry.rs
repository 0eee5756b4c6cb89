//! Log lines: for people on a terminal, JSON otherwise, always to stderr.
//!
//! The level comes from `SHOREPASS_LOG` in the syntax of tracing's env filter, such as `info` or
//! `shorepass_agent=debug`. No secret reaches a line: the types that hold one do not print it, so there is no filter
//! here that could be forgotten.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// The environment variable that sets the level.
pub const LEVEL_VARIABLE: &str = "SHOREPASS_LOG";

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level does not parse.
    #[error("{LEVEL_VARIABLE}={value:?} is not a log filter: write a level such as info, or target=level")]
    Filter {
        /// What the variable holds.
        value: String,
        /// Where it stops making sense.
        source: ParseError,
    },
    /// It was set up before.
    #[error("telemetry can be set up only once in a process")]
    Twice(#[source] TryInitError),
}

/// Sends log lines to stderr from now on; `default_filter` holds where `SHOREPASS_LOG` is unset or empty.
pub fn init(default_filter: &str) -> Result<(), TelemetryError> {
    let wanted = std::env::var(LEVEL_VARIABLE).ok().filter(|value| !value.is_empty());
    let value = wanted.unwrap_or_else(|| default_filter.to_owned());
    let filter = EnvFilter::builder()
        .parse(&value)
        .map_err(|source| TelemetryError::Filter { value: value.clone(), source })?;
    // Where stderr takes nothing (a full disk), telling that on stderr would panic.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let outcome = if std::io::stderr().is_terminal() {
        lines.finish().try_init()
    } else {
        lines.json().flatten_event(true).with_span_list(false).finish().try_init()
    };
    outcome.map_err(TelemetryError::Twice)
}

/// An error and its causes on one line, each said once: a layer that repeats the next one's text is not repeated.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !last.contains(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn chain(texts: &[&'static str]) -> String {
        let layers = texts
            .iter()
            .rev()
            .fold(None, |source, text| Some(Box::new(Layer { text, source })))
            .expect("the tests name at least one layer");
        Chain(&*layers).to_string()
    }

    #[test]
    fn a_chain_says_every_layer_in_order() {
        assert_eq!(
            chain(&["refresh failed", "no answer", "timed out"]),
            "refresh failed: no answer: timed out"
        );
    }

    #[test]
    fn a_layer_that_was_said_is_not_repeated() {
        assert_eq!(
            chain(&["cannot open: denied", "denied", "os error 13"]),
            "cannot open: denied: os error 13"
        );
    }
}
