//! Identifiers: UUIDv7 (RFC 9562) in canonical lower case, one type for each thing.
//!
//! An identifier is never authority: every act on one checks the caller against the owner.

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
}
