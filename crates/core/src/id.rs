//! Identifiers: UUIDv7 (RFC 9562) in canonical lower case, one type for each thing.
//!
//! An identifier is never authority: every act on one checks the caller against the owner.
//!
//! [`CallId`] stands apart: what calls it is chosen by whoever calls, so any harmless text is one. It is what people know
//! as the request id; [`RequestId`] is the id that makes a repeated request the same request.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::{Uuid, Version};

use crate::caller::SpiffeId;
use crate::digest::Digest;
use crate::name::Name;
use crate::time::{Entropy, Timestamp};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUIDv7 in canonical lower case, such as 0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d")]
pub struct IdError(String);

fn parse(text: &str, versions: &[Version]) -> Result<Uuid, IdError> {
    let refused = || IdError(text.to_owned());
    let uuid = Uuid::try_parse(text).map_err(|_| refused())?;
    let known = uuid.get_version().is_some_and(|version| versions.contains(&version));
    let canonical = known && uuid.as_hyphenated().to_string() == text;
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
        id!($(#[$doc])* $name, [Version::SortRand]);
    };
    ($(#[$doc:meta])* $name:ident, $versions:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// Parses the canonical form and no other.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                parse(text, &$versions).map(Self)
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
    /// Names one enrolment of a runner; it stays the same when the certificate is renewed. Whoever comes with a certificate
    /// of a trust bundle was never enrolled here: in its place stands what [`Self::of_bundle`] makes, a UUIDv8.
    EnrolmentId,
    [Version::SortRand, Version::Custom]
);

impl EnrolmentId {
    /// Stands for the enrolment that callers of a trust bundle do not have: always the same for one bundle and SPIFFE ID, and
    /// never that of an enrolment.
    pub fn of_bundle(bundle: &Name, spiffe_id: &SpiffeId) -> Self {
        let digest = Digest::of_parts([bundle.as_str().as_bytes(), spiffe_id.to_string().as_bytes()]);
        let bytes = digest.as_bytes().first_chunk().expect("a SHA-256 has more than 16 bytes");
        Self(uuid::Builder::from_custom_bytes(*bytes).into_uuid())
    }

    /// Whether there is no such enrolment, because the certificate is of a trust bundle.
    pub fn is_of_bundle(&self) -> bool {
        self.0.get_version() == Some(Version::Custom)
    }
}

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
    fn who_was_never_enrolled_has_an_id_of_its_bundle_and_name_that_no_enrolment_has() {
        let name = |text| Name::parse(text).unwrap();
        let portal = SpiffeId::parse("spiffe://partner/platform/portal").unwrap();
        let other = SpiffeId::parse("spiffe://partner/platform/portal-2").unwrap();
        let id = EnrolmentId::of_bundle(&name("spire"), &portal);
        assert_eq!(id, EnrolmentId::of_bundle(&name("spire"), &portal));
        assert_ne!(id, EnrolmentId::of_bundle(&name("spire-2"), &portal));
        assert_ne!(id, EnrolmentId::of_bundle(&name("spire"), &other));
        assert_eq!(EnrolmentId::parse(&id.to_string()), Ok(id));
        assert!(LeaseId::parse(&id.to_string()).is_err(), "it names nothing else");
        let enrolled = EnrolmentId::generate(Timestamp::from_second(1_790_000_000).unwrap(), &Counting);
        assert!(id.is_of_bundle() && !enrolled.is_of_bundle());
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
