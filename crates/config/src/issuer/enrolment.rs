//! How runners are let in, and back in.

use std::time::Duration;

use crate::cursor::Cursor;

/// How long after the end of its certificate a runner may come back with it, where nothing is said; and at most, because
/// enrolments that are over are forgotten then.
const REJOIN_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How runners are let in, and back in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentConfig {
    /// How long after the end of its certificate a runner may come back with it; 0: not at all.
    pub rejoin_window: Duration,
}

impl Default for EnrolmentConfig {
    fn default() -> Self {
        Self { rejoin_window: REJOIN_WINDOW }
    }
}

pub(super) fn enrolment(cursor: &Cursor<'_>) -> Option<EnrolmentConfig> {
    let fields = cursor.fields(&["rejoinWindow"])?;
    let rejoin_window = fields.optional("rejoinWindow", |window| match window.duration()? {
        Duration::ZERO => Some(Duration::ZERO),
        _ => window.duration_within(Duration::from_secs(1)..=REJOIN_WINDOW),
    });
    Some(EnrolmentConfig { rejoin_window: rejoin_window.unwrap_or(REJOIN_WINDOW) })
}
