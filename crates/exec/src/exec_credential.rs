//! The protocol with the client: KUBERNETES_EXEC_INFO in, one ExecCredential out (client.authentication.k8s.io/v1).
//!
//! The expiry told is earlier than the true one, because client-go has no margin of its own; and never in the past,
//! because clients would then run the plugin for every request. The JSON is put together by hand around the token, so
//! that its only copy is in a buffer that is wiped.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use shorepass_exec::Credential;
use zeroize::Zeroizing;

const API_VERSION: &str = "client.authentication.k8s.io/v1";

/// Taken off the life that the agent tells.
const MARGIN: Duration = Duration::from_secs(5);

/// What is told at least; the issuer's own margin covers it.
const SHORTEST: Duration = Duration::from_secs(2);

/// The client speaks another protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("KUBERNETES_EXEC_INFO asks for {0:?}, and this plugin speaks {API_VERSION} only")]
    Version(String),
    #[error("KUBERNETES_EXEC_INFO is not an ExecCredential")]
    NotExecCredential,
}

impl ProtocolError {
    /// What to do.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Version(_) => {
                "write apiVersion: client.authentication.k8s.io/v1 in the exec section of the kubeconfig"
            }
            Self::NotExecCredential => "unset KUBERNETES_EXEC_INFO unless a Kubernetes client sets it",
        }
    }
}

/// Checks that the client understands what this plugin answers. Clients that set nothing are trusted to.
pub(crate) fn check_request(exec_info: Option<&str>) -> Result<(), ProtocolError> {
    let Some(text) = exec_info.filter(|text| !text.is_empty()) else { return Ok(()) };
    let info: Value = serde_json::from_str(text).map_err(|_| ProtocolError::NotExecCredential)?;
    if info["kind"].as_str() != Some("ExecCredential") {
        return Err(ProtocolError::NotExecCredential);
    }
    match info["apiVersion"].as_str() {
        Some(API_VERSION) => Ok(()),
        Some(other) => Err(ProtocolError::Version(other.to_owned())),
        None => Err(ProtocolError::NotExecCredential),
    }
}

/// The answer, one line of JSON.
pub(crate) fn render(credential: &Credential, now: SystemTime) -> Zeroizing<Vec<u8>> {
    let told = credential.valid_for.saturating_sub(MARGIN).max(SHORTEST);
    let expires = now.duration_since(UNIX_EPOCH).unwrap_or_default() + told;
    let head = format!(r#"{{"apiVersion":"{API_VERSION}","kind":"ExecCredential","status":{{"token":"#);
    let tail = format!(r#","expirationTimestamp":"{}"}}}}"#, rfc3339(expires.as_secs()));
    let token = escaped(&credential.token);
    // Never grows: a grown buffer leaves a copy behind.
    let mut output = Zeroizing::new(Vec::with_capacity(head.len() + token.len() + tail.len() + 1));
    output.extend_from_slice(head.as_bytes());
    output.extend_from_slice(&token);
    output.extend_from_slice(tail.as_bytes());
    output.push(b'\n');
    output
}

/// As a JSON string. No character takes more than six bytes (`\u001f`).
fn escaped(text: &str) -> Zeroizing<Vec<u8>> {
    let mut output = Zeroizing::new(Vec::with_capacity(text.len() * 6 + 2));
    serde_json::to_writer(&mut *output, text).expect("a string is written to memory, which does not fail");
    output
}

/// Seconds since 1970 as RFC 3339 in UTC, by the proleptic Gregorian calendar in eras of 400 years from 0000-03-01.
fn rfc3339(seconds: u64) -> String {
    const DAYS_OF_ERA: u64 = 146_097;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / (DAYS_OF_ERA - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiry(valid_for: u64) -> String {
        let token = Zeroizing::new("a.\"b\".c".to_owned());
        let credential = Credential { token, valid_for: Duration::from_secs(valid_for) };
        let now = UNIX_EPOCH + Duration::from_millis(1_790_000_000_900);
        let output: Value = serde_json::from_slice(&render(&credential, now)).unwrap();
        assert_eq!(output["apiVersion"], API_VERSION);
        assert_eq!(output["kind"], "ExecCredential");
        assert_eq!(output["status"]["token"], "a.\"b\".c");
        output["status"]["expirationTimestamp"].as_str().unwrap().to_owned()
    }

    #[test]
    fn the_expiry_told_is_earlier_than_the_true_one_and_never_in_the_past() {
        assert_eq!(expiry(600), rfc3339(1_790_000_595));
        assert_eq!(expiry(0), rfc3339(1_790_000_002));
    }

    #[test]
    fn moments_are_written_as_the_calendar_has_them() {
        // From `date --utc --date=@N`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_790_000_000, "2026-09-21T14:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn other_versions_of_the_protocol_are_refused_and_none_is_fine() {
        let info =
            |version: &str| format!(r#"{{"kind":"ExecCredential","apiVersion":"{version}","spec":{{}}}}"#);
        assert_eq!(check_request(None), Ok(()));
        assert_eq!(check_request(Some("")), Ok(()));
        assert_eq!(check_request(Some(&info(API_VERSION))), Ok(()));
        let beta = "client.authentication.k8s.io/v1beta1";
        assert_eq!(check_request(Some(&info(beta))), Err(ProtocolError::Version(beta.to_owned())));
        for other in ["{}", "[]", "hello", r#"{"kind":"ExecCredential"}"#] {
            assert_eq!(check_request(Some(other)), Err(ProtocolError::NotExecCredential), "{other}");
        }
    }
}
