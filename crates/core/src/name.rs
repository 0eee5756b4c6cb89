//! Names and patterns: the one grammar that roles, runners, clusters and join tokens share.
//!
//! A name is one SPIFFE path segment, in lower case, so that comparing bytes is comparing names. A pattern is a name,
//! or at least three literal characters and one final `*`; nothing else loads, because every other wildcard has been
//! somebody's incident.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is not a name, a pattern or a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not in the grammar of names.
    #[error("{0:?} is not a name: use 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends")]
    Name(String),
    /// Not in the grammar of patterns.
    #[error("{0:?} is not a pattern: use a name, or at least three characters of a name and one final '*'")]
    Pattern(String),
    /// Not in the grammar of trust domains.
    #[error(
        "{0:?} is not a trust domain: use 1 to 255 of a-z, 0-9, '.', '-' and '_', such as ci.example.org"
    )]
    TrustDomain(String),
}

impl Name {
    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let well_formed = match (bytes.first(), bytes.last()) {
            (Some(&first), Some(&last)) => {
                bytes.len() <= 63
                    && alphanumeric(first)
                    && alphanumeric(last)
                    && bytes.iter().all(|&byte| alphanumeric(byte) || byte == b'-')
            }
            _ => false,
        };
        if well_formed { Ok(Self(text.to_owned())) } else { Err(NameError::Name(text.to_owned())) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

/// Which names: one, or all that begin with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NamePattern {
    /// This name.
    Exact(Name),
    /// Names that begin so; at least three characters, and the whole name when there is nothing more.
    Prefix(String),
}

impl NamePattern {
    /// Parses `web-1` or `web-*`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Pattern(text.to_owned());
        let Some(prefix) = text.strip_suffix('*') else {
            return Name::parse(text).map(Self::Exact).map_err(|_| refused());
        };
        // A prefix is what a name can begin with: it may end in '-', so test it with a letter behind it.
        if prefix.len() < 3 || Name::parse(&format!("{prefix}a")).is_err() {
            return Err(refused());
        }
        Ok(Self::Prefix(prefix.to_owned()))
    }

    /// Whether the name is one of these.
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.as_str().starts_with(prefix.as_str()),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl TryFrom<String> for NamePattern {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> String {
        pattern.to_string()
    }
}

/// The authority of a SPIFFE ID (SPIFFE-ID, section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Parses a trust domain.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        };
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::TrustDomain(text.to_owned()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> String {
        domain.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_lower_case_segment() {
        for good in ["a", "0", "web-1", "a--b", &"a".repeat(63)] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a/b", "a.b", "a_b", "ä", "a b", "a\n", &"a".repeat(64)] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_have_three_literal_characters_and_one_final_star() {
        for good in ["web", "a", "web*", "web-*", "ab1*"] {
            assert!(NamePattern::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "*", "ab*", "-ab*", "a*b", "web**", "web-*/x", "web/*", "WEB*", "web*x", "w?b"] {
            assert!(NamePattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pattern_matches_its_whole_prefix_and_nothing_before_it() {
        let name = |text| Name::parse(text).unwrap();
        let pattern = NamePattern::parse("prod-*").unwrap();
        assert!(pattern.matches(&name("prod-1")));
        assert!(!pattern.matches(&name("prod")));
        assert!(!pattern.matches(&name("xprod-1")));
        let exact = NamePattern::parse("prod").unwrap();
        assert!(exact.matches(&name("prod")));
        assert!(!exact.matches(&name("prod-1")));
    }

    #[test]
    fn patterns_print_what_was_parsed() {
        for text in ["web", "web-*"] {
            assert_eq!(NamePattern::parse(text).unwrap().to_string(), text);
        }
    }
}
