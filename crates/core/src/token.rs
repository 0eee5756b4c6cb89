//! The ServiceAccount token in our hands.
//!
//! It has no `Display`, `Clone`, serde or equality; `Debug` prints the fingerprint; the buffer is wiped on drop. Buffers
//! inside libraries (HTTP bodies, TLS records) are not wiped: that is a limit we state rather than hide.

use std::fmt;

use zeroize::Zeroizing;

use crate::digest::Digest;

/// One ServiceAccount JWT.
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes the token over from the buffer it arrived in.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// SHA-256 of the token: what is recorded and logged instead of it.
    pub fn fingerprint(&self) -> Digest {
        Digest::of_bytes(self.0.as_bytes())
    }

    /// The token itself. The callers of this function are listed by `cargo xtask tidy`.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(sha256:{})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_fingerprint_only() {
        let token = Token::new("header.payload.signature".to_owned());
        let shown = format!("{token:?}");
        assert!(shown.contains(&token.fingerprint().to_string()));
        assert!(!shown.contains("payload"));
    }
}
