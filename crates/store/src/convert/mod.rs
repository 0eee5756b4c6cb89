//! Domain to stored messages and back.
//!
//! Writing is total. Reading checks everything again, with the parsers of the domain: a stored message that does not
//! parse is a damaged record, never a panic and never a default. Times outside of the years 1677 to 2262 (what fits into
//! 64 bits of nanoseconds) are stored as the nearest that fits: they stand for "never" anyway.

mod ban;
mod change;
mod enrolment;
mod job;
mod lease;
mod receipt;

use std::fmt::Display;

use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::id::EnrolmentId;
use shorepass_core::ledger::Revision;
use shorepass_core::time::Timestamp;
use shorepass_proto::store::v1 as stored;

pub(crate) use change::{change, stored_change};

/// A field of a stored message that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {problem}")]
pub(crate) struct Malformed {
    field: &'static str,
    problem: String,
}

/// What has a stored message.
pub(crate) trait Stored: Sized {
    /// That message.
    type Record: prost::Message + Default;

    /// As it is stored.
    fn to_record(&self) -> Self::Record;

    /// As it was stored.
    fn from_record(record: Self::Record) -> Result<Self, Malformed>;
}

impl Stored for Owner {
    type Record = stored::Owner;

    fn to_record(&self) -> stored::Owner {
        stored::Owner { spiffe_id: self.spiffe_id.to_string(), enrolment: self.enrolment.to_string() }
    }

    fn from_record(record: stored::Owner) -> Result<Self, Malformed> {
        Ok(Self {
            spiffe_id: parse("spiffe_id", SpiffeId::parse(&record.spiffe_id))?,
            enrolment: parse("enrolment", EnrolmentId::parse(&record.enrolment))?,
        })
    }
}

fn malformed(field: &'static str, problem: impl Display) -> Malformed {
    Malformed { field, problem: problem.to_string() }
}

fn parse<T, E: Display>(field: &'static str, parsed: Result<T, E>) -> Result<T, Malformed> {
    parsed.map_err(|error| malformed(field, error))
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Malformed> {
    value.ok_or_else(|| malformed(field, "is missing"))
}

fn inner<S: Stored>(field: &'static str, record: Option<S::Record>) -> Result<S, Malformed> {
    S::from_record(required(field, record)?)
}

fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, Malformed> {
    let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| malformed(field, "is not 32 bytes"))?;
    Ok(Digest::from_bytes(bytes))
}

fn revision(number: u64) -> Result<Revision, Malformed> {
    if number == 0 { Err(malformed("revision", "is 0")) } else { Ok(Revision::from_number(number)) }
}

/// Nanoseconds since the epoch, or the nearest that fits.
pub(crate) fn nanoseconds(time: Timestamp) -> i64 {
    let nearest = if time < Timestamp::UNIX_EPOCH { i64::MIN } else { i64::MAX };
    i64::try_from(time.as_nanosecond()).unwrap_or(nearest)
}

/// The time in nanoseconds since the epoch.
pub(crate) fn time_of(nanoseconds: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}

fn time(field: &'static str, nanoseconds: i64) -> Result<Timestamp, Malformed> {
    parse(field, Timestamp::from_nanosecond(i128::from(nanoseconds)))
}

/// A time that may be absent.
pub(crate) fn optional_time(
    field: &'static str,
    nanoseconds: Option<i64>,
) -> Result<Option<Timestamp>, Malformed> {
    nanoseconds.map(|nanoseconds| time(field, nanoseconds)).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use shorepass_core::ledger::Change;

    use super::*;
    use crate::testing;

    proptest! {
        #[test]
        fn every_change_is_read_back_as_it_was(original in testing::any_change()) {
            match stored_change(&original) {
                Some(record) => {
                    let bytes = record.encode_to_vec();
                    let record = stored::Change::decode(bytes.as_slice()).unwrap();
                    prop_assert_eq!(change(record), Ok(original));
                }
                None => prop_assert!(matches!(original, Change::Refused { refusal: _ }), "only a refusal has none"),
            }
        }

        #[test]
        fn no_message_makes_reading_panic(bytes: Vec<u8>) {
            if let Ok(record) = stored::Change::decode(bytes.as_slice()) {
                let _ = change(record);
            }
        }

        #[test]
        fn a_message_with_a_damaged_byte_is_whole_or_refused(
            original in testing::any_change(), position: prop::sample::Index, value: u8
        ) {
            if let Some(record) = stored_change(&original) {
                let mut bytes = record.encode_to_vec();
                let position = position.index(bytes.len());
                bytes[position] = value;
                if let Ok(record) = stored::Change::decode(bytes.as_slice())
                    && let Ok(read) = change(record.clone())
                {
                    prop_assert_eq!(stored_change(&read).map(change), Some(Ok(read)));
                }
            }
        }
    }

    #[test]
    fn times_out_of_range_become_the_nearest() {
        for (time, expected) in [(Timestamp::MAX, i64::MAX), (Timestamp::MIN, i64::MIN)] {
            assert_eq!(nanoseconds(time), expected);
        }
    }

    #[test]
    fn an_empty_message_is_refused() {
        assert!(change(stored::Change::default()).is_err());
        assert!(Owner::from_record(stored::Owner::default()).is_err());
    }
}
