//! Identifiers: UUIDv7 (RFC 9562) in canonical lower case, one type for each thing.
//!
//! An identifier is never authority: every act on one checks the caller against the owner.
//!
//! [`CallId`] stands apart: what calls it is chosen by whoever calls, so any harmless text is one. It is what people know
//! as the request id; [`RequestId`] is the id that makes a repeated request the same request.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::{Uuid, Version};

use crate::time::{Entropy, Timestamp};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUIDv7 in canonical lower case, such as 0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d")]
pub struct IdError(String);

fn parse(text: &str) -> Result<Uuid, IdError> {
    let refused = || IdError(text.to_owned());
    let uuid = Uuid::try_parse(text).map_err(|_| refused())?;
    let canonical = uuid.get_version() == Some(Version::SortRand) && uuid.as_hyphenated().to_string() == text;
    if canonical { Ok(uuid) } else { Err(refused()) }
}

fn generate(now: Timestamp, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// Parses the canonical form and no other.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                parse(text).map(Self)
            }

            /// Makes a new one.
            pub fn generate(now: Timestamp, entropy: &dyn Entropy) -> Self {
                Self(generate(now, entropy))
            }

            /// Its 16 bytes, which sort by time.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.as_hyphenated())
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

id!(
    /// Names a job session.
    JobId
);
id!(
    /// Names a lease.
    LeaseId
);
id!(
    /// Names a request that creates something; chosen by the caller.
    RequestId
);
id!(
    /// Names a decision, so that an operator can look up what the caller is not told.
    DecisionId
);
id!(
    /// Names a block.
    BlockId
);
id!(
    /// Names one enrolment of a runner; it stays the same when the certificate is renewed.
    EnrolmentId
);

/// Names a call through every hop: header, log lines, the cluster's audit log. Ours are UUIDv7.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallId(String);

/// Why a text does not name a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a call is 1 to 64 letters, digits, '-', '_' and '.'")]
pub struct CallIdError;

impl CallId {
    /// Takes what is harmless wherever it may be written, and nothing else.
    pub fn parse(text: &str) -> Result<Self, CallIdError> {
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(harmless);
        if fits { Ok(Self(text.to_owned())) } else { Err(CallIdError) }
    }

    /// Makes a new one.
    pub fn generate(now: Timestamp, entropy: &dyn Entropy) -> Self {
        Self(generate(now, entropy).as_hyphenated().to_string())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting;

    impl Entropy for Counting {
        fn fill(&self, buffer: &mut [u8]) {
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = index as u8;
            }
        }
    }

    #[test]
    fn generated_ids_parse_back() {
        let id = LeaseId::generate(Timestamp::from_second(1_790_000_000).unwrap(), &Counting);
        assert_eq!(LeaseId::parse(&id.to_string()), Ok(id));
    }

    #[test]
    fn other_spellings_and_versions_are_refused() {
        let id = LeaseId::generate(Timestamp::from_second(1_790_000_000).unwrap(), &Counting).to_string();
        let v4 = "0b8e8a5e-7c1f-4d7b-9a43-2f6f1f0a7c11";
        for bad in [id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}"), v4.to_owned(), String::new()]
        {
            assert!(LeaseId::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn any_harmless_text_names_a_call_and_ours_are_uuids() {
        assert_eq!(CallId::parse("agent-1_a.B").unwrap().as_str(), "agent-1_a.B");
        for bad in ["", "a b", "a\"b", "a=b", "a/b", "a\n", "ä", &"a".repeat(65)] {
            assert_eq!(CallId::parse(bad), Err(CallIdError), "{bad:?}");
        }
        let ours = CallId::generate(Timestamp::from_second(1_790_000_000).unwrap(), &Counting);
        assert_eq!(CallId::parse(ours.as_str()), Ok(ours.clone()));
        assert!(RequestId::parse(ours.as_str()).is_ok(), "{ours}");
    }
}
