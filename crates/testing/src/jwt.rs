//! Tokens that are signed by hand: what a CI system, or somebody who pretends to be one, could send (RFC 7515, 7518).

use data_encoding::BASE64URL_NOPAD;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};

/// A P-256 key that signs as ES256.
pub struct SigningKey {
    id: String,
    pair: KeyPair,
}

impl SigningKey {
    /// A new key with this `kid`.
    pub fn generate(id: &str) -> Self {
        Self { id: id.to_owned(), pair: KeyPair::generate().expect("a P-256 key can be made") }
    }

    /// Its public half (RFC 7517).
    pub fn jwk(&self) -> Value {
        let point = self.pair.der_bytes();
        let (x, y) = point[1..].split_at(32); // uncompressed: 4, x, y
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id,
            "x": BASE64URL_NOPAD.encode(x), "y": BASE64URL_NOPAD.encode(y),
        })
    }

    /// A token with these claims and the usual header.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": "ES256", "typ": "JWT", "kid": self.id}), &claims.to_string())
    }

    /// A token with this header and this payload, whatever it is.
    pub fn sign_as(&self, header: &Value, payload: &str) -> String {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let signed = format!("{}.{}", part(&header.to_string()), part(payload));
        let signature = self.pair.sign(signed.as_bytes()).expect("a P-256 key signs");
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&fixed(&signature)))
    }
}

/// The two numbers of an ECDSA signature, 32 bytes each, out of its DER (RFC 3279, 2.2.3).
fn fixed(der: &[u8]) -> Vec<u8> {
    let mut fixed = Vec::with_capacity(64);
    let mut rest = &der[2..];
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        fixed.extend(std::iter::repeat_n(0, 32 - number.len()));
        fixed.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    fixed
}
