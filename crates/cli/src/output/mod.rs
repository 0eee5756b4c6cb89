//! What the commands print: documents for programs and tables for people, both made from the same views.
//!
//! Ids are never cut, also on a narrow terminal: half an id is good for nothing. Texts that came over the wire cannot
//! drive the terminal.

mod adopted;
pub(crate) mod agent;
pub(crate) mod ban;
pub(crate) mod block;
pub(crate) mod can_i;
pub(crate) mod cause;
mod escapes;
mod job;
pub(crate) mod join_token;
pub(crate) mod lease;
mod not_removed;
mod outliving;
pub(crate) mod receipt;
pub(crate) mod revocation;
pub(crate) mod role;
pub(crate) mod runner;
#[cfg(test)]
pub(crate) mod samples;
mod table;

use std::time::Duration;

use serde::Serialize;
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::time::Timestamp;

pub(crate) use table::{fields, table};

/// The `apiVersion` of every document.
const API_VERSION: &str = "shorepass.dev/v1";

/// An answer that lacks what this version needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer lacks {0}")]
pub(crate) struct Incomplete(pub(crate) &'static str);

/// A body under its kind, as indented JSON with a final line break.
pub(crate) fn document(kind: &'static str, body: impl Serialize) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<T> {
        api_version: &'static str,
        kind: &'static str,
        #[serde(flatten)]
        body: T,
    }
    let document = Document { api_version: API_VERSION, kind, body };
    let mut text = serde_json::to_string_pretty(&document)
        .expect("views are structs of texts, numbers and lists, whose serialization cannot fail");
    text.push('\n');
    text
}

/// The text with nothing that moves the cursor or turns the direction of a terminal's text.
pub(crate) fn printable(text: &str) -> String {
    let visible = |c: char| match c {
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
            '\u{fffd}'
        }
        control if control.is_control() => '\u{fffd}',
        other => other,
    };
    text.chars().map(visible).collect()
}

/// The runner's name, or the kind and name of another caller.
pub(crate) fn short_caller(spiffe_id: &str) -> String {
    match SpiffeId::parse(spiffe_id) {
        Ok(SpiffeId { kind: Kind::Runner, name, .. }) => name.to_string(),
        Ok(SpiffeId { kind, name, .. }) => format!("{kind}/{name}"),
        Err(_) => spiffe_id.to_owned(),
    }
}

/// A time from the wire.
pub(crate) fn time(wire: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let wire = wire?;
    Timestamp::new(wire.seconds, wire.nanos).ok()
}

/// A duration from the wire, in whole seconds; none counts as zero.
pub(crate) fn seconds(wire: Option<prost_types::Duration>) -> u64 {
    wire.map_or(0, |wire| u64::try_from(wire.seconds).unwrap_or(0))
}

/// A time for people, to the second.
pub(crate) fn to_the_second(time: Option<Timestamp>) -> String {
    let whole = time.and_then(|time| Timestamp::from_second(time.as_second()).ok());
    whole.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

/// A time for people by which something is over: the second that has begun by then is not.
pub(crate) fn by_the_second(time: Timestamp) -> String {
    let begun = time.as_second() + i64::from(time.subsec_nanosecond() > 0);
    to_the_second(Timestamp::from_second(begun).ok())
}

/// A duration for people: its two largest units.
pub(crate) fn spoken(life: Duration) -> String {
    let seconds = life.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        let spoken = |seconds| spoken(Duration::from_secs(seconds));
        assert_eq!(spoken(0), "0s");
        assert_eq!(spoken(59), "59s");
        assert_eq!(spoken(61), "1m01s");
        assert_eq!(spoken(3_725), "1h02m");
        assert_eq!(spoken(90_000), "1d01h");
    }

    #[test]
    fn times_outside_the_calendar_are_no_times() {
        assert_eq!(time(Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 })), None);
        assert_eq!(time(Some(prost_types::Timestamp { seconds: 0, nanos: i32::MIN })), None);
        assert_eq!(to_the_second(None), "-");
    }

    #[test]
    fn what_is_over_by_a_second_is_not_over_before_it() {
        let time = |nanos| Timestamp::new(1_790_000_000, nanos).unwrap();
        assert_eq!(by_the_second(time(0)), to_the_second(Some(time(999_999_999))));
        assert_eq!(by_the_second(time(1)), "2026-09-21T14:13:21Z");
        assert_eq!(by_the_second(time(999_999_999)), "2026-09-21T14:13:21Z");
    }

    #[test]
    fn a_negative_duration_is_none() {
        assert_eq!(seconds(Some(prost_types::Duration { seconds: -5, nanos: 0 })), 0);
    }
}
