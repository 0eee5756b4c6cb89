//! Claims: what a verified job token says, as far as its issuer's claims are known.
//!
//! A claim is text, a number, a flag or a list of texts; whatever else a token holds is not read. Claims are compared
//! byte by byte and never spliced into a name or a pattern.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// What a claim can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimKind {
    /// A string.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// A list of strings.
    Texts,
}

impl ClaimKind {
    /// As documents say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "number",
            Self::Flag => "flag",
            Self::Texts => "texts",
        }
    }
}

impl fmt::Display for ClaimKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A string.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
    /// A list of strings.
    Texts(Vec<String>),
}

impl Claim {
    /// What it is.
    pub fn kind(&self) -> ClaimKind {
        match self {
            Self::Text(_) => ClaimKind::Text,
            Self::Number(_) => ClaimKind::Number,
            Self::Flag(_) => ClaimKind::Flag,
            Self::Texts(_) => ClaimKind::Texts,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::Flag(_) | Self::Texts(_) => None,
        }
    }

    /// As a claim of another issuer, or a label, may say the same: text without quotes.
    pub fn plain(&self) -> Cow<'_, str> {
        self.as_text().map_or_else(|| Cow::Owned(self.to_string()), Cow::Borrowed)
    }
}

impl fmt::Display for Claim {
    /// As a role document says it: text in quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Texts(texts) => write!(f, "{texts:?}"),
        }
    }
}

/// Why a value is no claim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Longer than [`CLAIM_LIMIT`].
    #[error("claim {0} is longer than {CLAIM_LIMIT} bytes")]
    TooLong(String),
    /// Something that a person does not see, or sees as something else.
    #[error("claim {0} holds a control character, or one that changes how text is shown")]
    Invisible(String),
    /// The list is longer than [`TEXTS_LIMIT`].
    #[error("claim {0} is a list of more than {TEXTS_LIMIT} texts")]
    TooMany(String),
}

/// The longest text of a claim, in bytes.
pub const CLAIM_LIMIT: usize = 1024;
/// The longest list: GitLab names up to 200 groups of a person.
pub const TEXTS_LIMIT: usize = 256;

/// The claims of one token, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<String, Claim>);

impl Claims {
    /// Adds a claim; what cannot be shown to a person as it is, is refused.
    pub fn insert(&mut self, name: &str, claim: Claim) -> Result<(), ClaimError> {
        let texts: &[String] = match &claim {
            Claim::Text(text) => std::slice::from_ref(text),
            Claim::Texts(texts) if texts.len() > TEXTS_LIMIT => {
                return Err(ClaimError::TooMany(name.to_owned()));
            }
            Claim::Texts(texts) => texts,
            Claim::Number(_) | Claim::Flag(_) => &[],
        };
        if texts.iter().any(|text| text.len() > CLAIM_LIMIT) {
            return Err(ClaimError::TooLong(name.to_owned()));
        }
        if texts.iter().any(|text| text.chars().any(is_invisible)) {
            return Err(ClaimError::Invisible(name.to_owned()));
        }
        self.0.insert(name.to_owned(), claim);
        Ok(())
    }

    /// The claim of that name.
    pub fn get(&self, name: &str) -> Option<&Claim> {
        self.0.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Claim)> {
        self.0.iter().map(|(name, claim)| (name.as_str(), claim))
    }
}

/// Control characters, and the format characters that hide or turn text around (Unicode, general category Cf; UTS 39).
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(claim: Claim) -> Result<(), ClaimError> {
        Claims::default().insert("ref", claim)
    }

    #[test]
    fn takes_what_a_person_can_read() {
        for text in ["main", "refs/heads/größer", "group/app", ""] {
            assert_eq!(insert(Claim::Text(text.to_owned())), Ok(()), "{text}");
        }
    }

    #[test]
    fn refuses_what_hides_or_turns_text_around() {
        for text in ["a\0", "a\nb", "\u{202e}niam", "ma\u{200b}in", "\u{feff}main"] {
            let refused = Err(ClaimError::Invisible("ref".to_owned()));
            assert_eq!(insert(Claim::Text(text.to_owned())), refused, "{text:?}");
            assert_eq!(insert(Claim::Texts(vec![text.to_owned()])), refused, "{text:?}");
        }
    }

    #[test]
    fn refuses_what_is_too_long() {
        assert!(insert(Claim::Text("a".repeat(CLAIM_LIMIT))).is_ok());
        assert!(insert(Claim::Text("a".repeat(CLAIM_LIMIT + 1))).is_err());
        assert!(insert(Claim::Texts(vec![String::new(); TEXTS_LIMIT + 1])).is_err());
    }
}
