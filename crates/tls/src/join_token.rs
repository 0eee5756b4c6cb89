//! The text of a join token: `spjt1.<secret>.<SHA-256 of the CA's public key>.<checksum>`, base64url without padding.
//!
//! The checksum tells a mistyped token apart from a used or foreign one before anything is sent; it protects nothing.
//! The CA's digest lets a runner know the issuer before it sends the secret. The issuer looks the secret up by its
//! digest, so no secret is ever compared.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use shorepass_core::digest::Digest;
use shorepass_core::time::Entropy;
use zeroize::Zeroizing;

const PREFIX: &str = "spjt1";
/// 256 bits make 43 characters.
const PART_CHARACTERS: usize = 43;
const CHECKSUM_BYTES: usize = 4;
const CHECKSUM_CHARACTERS: usize = 6;

/// A join token as it is handed out. `Debug` shows the CA only.
pub struct JoinTokenText {
    secret: Zeroizing<[u8; 32]>,
    ca: Digest,
}

/// Why a text is not a join token. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// It does not even begin like one.
    #[error("this is not a join token: those begin with 'spjt1.'; ask an operator for one")]
    Form,
    /// It begins like one, but a part is missing or altered.
    #[error("this join token is mistyped or cut off; copy the whole line again")]
    Mistyped,
}

impl JoinTokenText {
    /// A new one for the runners of this CA.
    pub fn generate(ca: Digest, entropy: &dyn Entropy) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill(secret.as_mut_slice());
        Self { secret, ca }
    }

    /// Parses one; white space around it is ignored, as it comes with every file.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim_ascii();
        let rest =
            text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.')).ok_or(JoinTokenError::Form)?;
        let mut parts = rest.split('.');
        let (Some(secret), Some(ca), Some(sum), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JoinTokenError::Mistyped);
        };
        let summed = text.len().saturating_sub(sum.len() + 1);
        if checksum(&text[..summed]) != sum {
            return Err(JoinTokenError::Mistyped);
        }
        let mut token = Self { secret: Zeroizing::new([0; 32]), ca: Digest::from_bytes(decode(ca)?) };
        *token.secret = decode(secret)?;
        Ok(token)
    }

    /// SHA-256 of the secret: the ledger's key.
    pub fn secret_digest(&self) -> Digest {
        Digest::of_bytes(self.secret.as_slice())
    }

    /// SHA-256 of the public key of the CA that the issuer must have.
    pub fn ca(&self) -> Digest {
        self.ca
    }

    /// The text to hand out.
    pub fn expose(&self) -> Zeroizing<String> {
        // Room for all of it at once: a growing buffer would leave copies behind.
        let room = PREFIX.len() + 2 * PART_CHARACTERS + CHECKSUM_CHARACTERS + 3;
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str(PREFIX);
        for part in [self.secret.as_slice(), self.ca.as_bytes()] {
            text.push('.');
            BASE64URL_NOPAD.encode_append(part, &mut text);
        }
        let sum = checksum(&text);
        text.push('.');
        text.push_str(&sum);
        text
    }
}

impl fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinTokenText(ca sha256:{})", self.ca)
    }
}

fn checksum(summed: &str) -> String {
    let digest = Digest::of_bytes(summed.as_bytes());
    BASE64URL_NOPAD.encode(&digest.as_bytes()[..CHECKSUM_BYTES])
}

fn decode(part: &str) -> Result<[u8; 32], JoinTokenError> {
    let mut bytes = Zeroizing::new([0; 33]);
    match BASE64URL_NOPAD.decode_len(part.len()) {
        Ok(32) => {}
        Ok(_) | Err(_) => return Err(JoinTokenError::Mistyped),
    }
    match BASE64URL_NOPAD.decode_mut(part.as_bytes(), &mut bytes[..32]) {
        Ok(32) => {}
        Ok(_) | Err(_) => return Err(JoinTokenError::Mistyped),
    }
    let mut decoded = [0; 32];
    decoded.copy_from_slice(&bytes[..32]);
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::TestEntropy;

    fn token() -> JoinTokenText {
        JoinTokenText::generate(Digest::of_bytes(b"ca"), &TestEntropy::default())
    }

    #[test]
    fn what_is_handed_out_parses_back() {
        let token = token();
        let text = token.expose();
        assert_eq!(text.len(), 5 + 1 + 43 + 1 + 43 + 1 + 6);
        for text in [text.to_string(), format!("{}\n", *text), format!("  {} ", *text)] {
            let parsed = JoinTokenText::parse(&text).unwrap();
            assert_eq!(parsed.secret_digest(), token.secret_digest());
            assert_eq!(parsed.ca(), token.ca());
        }
    }

    #[test]
    fn the_ledgers_key_is_the_digest_of_the_secret_alone() {
        let token = token();
        let text = token.expose();
        let secret = BASE64URL_NOPAD.decode(text.split('.').nth(1).unwrap().as_bytes()).unwrap();
        assert_eq!(token.secret_digest(), Digest::of_bytes(&secret));
    }

    #[test]
    fn every_single_mistyped_character_is_noticed() {
        let text = token().expose();
        for at in "spjt1.".len()..text.len() {
            for other in ['A', 'b', '7', '-', '_', '.', '=', ' ', 'ä'] {
                if text[at..].starts_with(other) {
                    continue;
                }
                let mistyped = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                let error = JoinTokenText::parse(&mistyped).unwrap_err();
                assert_eq!(error, JoinTokenError::Mistyped, "{at} {other}");
            }
        }
    }

    #[test]
    fn a_cut_off_token_is_told_apart_from_what_is_no_token() {
        let text = token().expose();
        for cut in "spjt1.".len()..text.len() {
            assert_eq!(JoinTokenText::parse(&text[..cut]).unwrap_err(), JoinTokenError::Mistyped);
        }
        for other in ["", "spjt1", "spjt2.a.b.c", "hello", "SPJT1.a.b.c", "eyJhbGciOi.eyJ.sig"] {
            assert_eq!(JoinTokenText::parse(other).unwrap_err(), JoinTokenError::Form, "{other}");
        }
    }

    #[test]
    fn parts_of_another_length_are_refused_even_with_a_right_checksum() {
        let digest = Digest::of_bytes(b"ca");
        let part = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        for (secret, ca) in [(part(&[1; 31]), part(digest.as_bytes())), (part(&[1; 32]), part(&[1; 33]))] {
            let summed = format!("spjt1.{secret}.{ca}");
            let text = format!("{summed}.{}", checksum(&summed));
            assert_eq!(JoinTokenText::parse(&text).unwrap_err(), JoinTokenError::Mistyped);
        }
    }

    #[test]
    fn debug_and_errors_show_nothing_of_the_secret() {
        let token = token();
        let text = token.expose();
        let secret = text.split('.').nth(1).unwrap();
        assert!(!format!("{token:?}").contains(secret));
        let error = JoinTokenText::parse(&text[..text.len() - 1]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret));
    }
}
