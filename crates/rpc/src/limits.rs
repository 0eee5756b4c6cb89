//! Every limit of a listener, in one place, with its default.
//!
//! Handshakes and the number of all connections are limited before a connection comes here. A test fails if a default
//! changes.

use std::num::NonZeroU32;
use std::time::Duration;

/// What one listener allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once of one caller (api only); one more is closed.
    pub connections_per_caller: usize,
    /// HTTP/2 streams open at once on one connection.
    pub concurrent_streams: u32,
    /// Calls in work at once on one connection; more are refused with RATE_LIMITED.
    pub concurrent_calls: usize,
    /// Bytes in one request message.
    pub request_bytes: usize,
    /// Bytes in one response message.
    pub response_bytes: usize,
    /// Bytes in the headers of one request (RFC 9113, SETTINGS_MAX_HEADER_LIST_SIZE).
    pub header_list_bytes: u32,
    /// Bytes of one stream that a peer may send ahead.
    pub stream_window_bytes: u32,
    /// Bytes of all streams of one connection that a peer may send ahead.
    pub connection_window_bytes: u32,
    /// Streams that the peer opened and reset before we looked; more closes the connection (CVE-2023-44487).
    pub pending_reset_streams: usize,
    /// Streams that we reset because of the peer's errors; more closes the connection (RUSTSEC-2024-0003).
    pub local_error_reset_streams: usize,
    /// From the first byte of a call to its answer.
    pub call_timeout: Duration,
    /// Between two messages of a streamed answer, and for the peer to take one.
    pub stream_idle: Duration,
    /// Streams of Watch open at once of one caller; one more is refused with RATE_LIMITED. They have no time limit.
    pub watches_per_caller: usize,
    /// How often the caller of such a stream is checked again, besides before each message.
    pub watch_check: Duration,
    /// After this a stream without a message says that it is there.
    pub watch_alive: Duration,
    /// Silence before a ping.
    pub keep_alive_interval: Duration,
    /// Silence after a ping before the connection is closed.
    pub keep_alive_timeout: Duration,
    /// From the start of a connection to its first call.
    pub first_call: Duration,
    /// Age from which a connection is closed after its calls; the moment is drawn between this and the next.
    pub connection_age_least: Duration,
    /// Age at which a connection is closed after its calls at the latest.
    pub connection_age_most: Duration,
    /// For the calls of a connection that has reached its age.
    pub connection_grace: Duration,
    /// For all calls in work when the listener is shut down.
    pub drain: Duration,
    /// Calls a second of one caller (api) or one address (enroll).
    pub calls_per_second: NonZeroU32,
    /// Calls of one caller or address at once, after a pause.
    pub calls_burst: NonZeroU32,
    /// Callers or addresses that are counted at once.
    pub counted_callers: usize,
}

impl Limits {
    /// Of the listener for peers with a certificate.
    pub fn api() -> Self {
        Self {
            connections_per_caller: 16,
            concurrent_streams: 64,
            concurrent_calls: 32,
            request_bytes: 64 * 1024,
            response_bytes: 256 * 1024,
            header_list_bytes: 8 * 1024,
            stream_window_bytes: 128 * 1024,
            connection_window_bytes: 1024 * 1024,
            pending_reset_streams: 20,
            local_error_reset_streams: 1024,
            call_timeout: Duration::from_secs(10),
            stream_idle: Duration::from_secs(30),
            watches_per_caller: 4,
            watch_check: Duration::from_secs(5),
            watch_alive: Duration::from_secs(20),
            keep_alive_interval: Duration::from_secs(60),
            keep_alive_timeout: Duration::from_secs(20),
            first_call: Duration::from_secs(10),
            connection_age_least: Duration::from_secs(30 * 60),
            connection_age_most: Duration::from_secs(60 * 60),
            connection_grace: Duration::from_secs(15),
            drain: Duration::from_secs(10),
            calls_per_second: nonzero(50),
            calls_burst: nonzero(200),
            counted_callers: 100_000,
        }
    }

    /// Of the listener for peers without one: nobody needs it for longer than a call.
    pub fn enroll() -> Self {
        Self {
            connection_age_least: Duration::from_secs(30),
            connection_age_most: Duration::from_secs(60),
            calls_per_second: nonzero(10),
            calls_burst: nonzero(100),
            ..Self::api()
        }
    }
}

const fn nonzero(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_do_not_change_unnoticed() {
        let api = "Limits { connections_per_caller: 16, concurrent_streams: 64, concurrent_calls: 32, request_bytes: 65536, \
                   response_bytes: 262144, header_list_bytes: 8192, stream_window_bytes: 131072, \
                   connection_window_bytes: 1048576, pending_reset_streams: 20, local_error_reset_streams: 1024, \
                   call_timeout: 10s, stream_idle: 30s, watches_per_caller: 4, \
                   watch_check: 5s, watch_alive: 20s, keep_alive_interval: 60s, keep_alive_timeout: 20s, \
                   first_call: 10s, connection_age_least: 1800s, connection_age_most: 3600s, \
                   connection_grace: 15s, drain: 10s, calls_per_second: 50, calls_burst: 200, \
                   counted_callers: 100000 }";
        assert_eq!(format!("{:?}", Limits::api()), api);
        let enroll = Limits {
            connection_age_least: Duration::from_secs(30),
            connection_age_most: Duration::from_secs(60),
            calls_per_second: nonzero(10),
            calls_burst: nonzero(100),
            ..Limits::api()
        };
        assert_eq!(Limits::enroll(), enroll);
    }
}
