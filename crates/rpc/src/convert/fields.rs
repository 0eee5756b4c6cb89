//! One field of the wire at a time.

use std::fmt::Display;
use std::time::Duration;

use prost::Message;
use shorepass_core::digest::Digest;
use shorepass_core::id::RequestId;
use shorepass_core::role::{LEASE_LIFETIME_FLOOR, TOKEN_LIFETIME_FLOOR};

use crate::api::RequestKey;
use crate::refused::Refused;

/// Longer than any of our ids, names, patterns and SPIFFE IDs: what is longer is not even parsed.
const IDENTIFIER_LIMIT: usize = 400;

/// A field that must be there.
pub(crate) fn required<T, E: Display>(
    field: &'static str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, Refused> {
    if text.is_empty() {
        return Err(Refused::field(field, "is missing"));
    }
    if text.len() > IDENTIFIER_LIMIT {
        return Err(Refused::field(field, "is too long"));
    }
    parse(text).map_err(|problem| Refused::field(field, problem))
}

/// A field that is unset when it is empty.
pub(crate) fn optional<T, E: Display>(
    field: &'static str,
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Refused> {
    if text.is_empty() { Ok(None) } else { required(field, text, parse).map(Some) }
}

/// The request's id and what else it says. Messages have no maps, so equal content has equal bytes.
pub(crate) fn request_key(id: &str, content_without_id: &impl Message) -> Result<RequestKey, Refused> {
    let id = required("request_id", id, RequestId::parse)?;
    Ok(RequestKey { id, content: Digest::of_bytes(&content_without_id.encode_to_vec()) })
}

/// A duration that is not negative (google/protobuf/duration.proto).
pub(crate) fn duration(field: &'static str, wire: prost_types::Duration) -> Result<Duration, Refused> {
    let prost_types::Duration { seconds, nanos } = wire;
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
        return Err(Refused::field(field, "must not be negative"));
    };
    if nanos >= 1_000_000_000 {
        return Err(Refused::field(field, "must have less than 1000000000 nanos"));
    }
    Ok(Duration::new(seconds, nanos))
}

/// How long a token may last: at least what Kubernetes gives; the most is the role's to say.
pub(crate) fn token_lifetime(wire: Option<prost_types::Duration>) -> Result<Option<Duration>, Refused> {
    lifetime("token_lifetime", wire, TOKEN_LIFETIME_FLOOR)
}

/// How long a lease may last; the most is the role's to say.
pub(crate) fn lease_lifetime(wire: Option<prost_types::Duration>) -> Result<Option<Duration>, Refused> {
    lifetime("lease_lifetime", wire, LEASE_LIFETIME_FLOOR)
}

fn lifetime(
    field: &'static str,
    wire: Option<prost_types::Duration>,
    floor: Duration,
) -> Result<Option<Duration>, Refused> {
    let Some(wire) = wire else { return Ok(None) };
    let lifetime = duration(field, wire)?;
    if lifetime < floor {
        return Err(Refused::field(field, format!("must be at least {} s", floor.as_secs())));
    }
    Ok(Some(lifetime))
}

/// A text for people: one line, nothing that hides or reorders.
pub(crate) fn reason_text(field: &'static str, text: String) -> Result<String, Refused> {
    const LIMIT: usize = 200;
    let length = text.chars().count();
    if !(1..=LIMIT).contains(&length) || text.trim().is_empty() || !text.chars().all(is_printable) {
        return Err(Refused::field(field, format!("must be 1 to {LIMIT} printable characters")));
    }
    Ok(text)
}

/// Neither a control character nor one that formats invisibly (zero width, line separators, direction).
fn is_printable(character: char) -> bool {
    let invisible = matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
    );
    !character.is_control() && !invisible
}

/// A `jti` as an API server writes it.
pub(crate) fn token_id(field: &'static str, text: String) -> Result<String, Refused> {
    if !(1..=200).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refused::field(field, "must be a token's jti: 1 to 200 printable ASCII characters"));
    }
    Ok(text)
}

/// The name of a ServiceAccount: a DNS subdomain (RFC 1123), as Kubernetes has it.
pub(crate) fn service_account(text: &str) -> Result<String, &'static str> {
    let letters =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if text.len() > 253 || !text.bytes().all(letters) {
        return Err("must be 1 to 253 of a-z, 0-9, '-' and '.'");
    }
    Ok(text.to_owned())
}

/// A certificate, unparsed.
pub(crate) fn certificate(field: &'static str, pem: Vec<u8>) -> Result<Vec<u8>, Refused> {
    const LIMIT: usize = 16 * 1024;
    if !(1..=LIMIT).contains(&pem.len()) {
        return Err(Refused::field(field, format!("must be a PEM certificate of at most {LIMIT} bytes")));
    }
    Ok(pem)
}

/// A PKCS #10 certificate request, unparsed.
pub(crate) fn certificate_request(field: &'static str, pem: Vec<u8>) -> Result<Vec<u8>, Refused> {
    const LIMIT: usize = 16 * 1024;
    if !(1..=LIMIT).contains(&pem.len()) {
        return Err(Refused::field(
            field,
            format!("must be a PEM certificate request of at most {LIMIT} bytes"),
        ));
    }
    Ok(pem)
}
