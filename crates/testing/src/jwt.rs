//! Tokens that are signed by hand: what a CI system, or somebody who pretends to be one, could send (RFC 7515, 7518).

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

/// A key that signs tokens.
pub struct SigningKey {
    kid: String,
    pair: Pairs,
}

enum Pairs {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl SigningKey {
    /// A new P-256 key with this `kid`.
    pub fn generate(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key");
        Self { kid: kid.to_owned(), pair: Pairs::P256(pair) }
    }

    /// An Ed25519 key.
    pub fn ed25519(kid: &str) -> Self {
        Self {
            kid: kid.to_owned(),
            pair: Pairs::Ed25519(Ed25519KeyPair::generate().expect("an Ed25519 key")),
        }
    }

    /// An RSA key of 2048 bits. It takes a while.
    pub fn rsa(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
        Self { kid: kid.to_owned(), pair: Pairs::Rsa(pair) }
    }

    /// What it is called.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The algorithm that it signs with.
    pub fn alg(&self) -> &'static str {
        match &self.pair {
            Pairs::P256(_) => "ES256",
            Pairs::Ed25519(_) => "EdDSA",
            Pairs::Rsa(_) => "RS256",
        }
    }

    /// Its public half: a point, or the DER of an RSA key.
    pub fn public_bytes(&self) -> &[u8] {
        match &self.pair {
            Pairs::P256(pair) => pair.public_key().as_ref(),
            Pairs::Ed25519(pair) => pair.public_key().as_ref(),
            Pairs::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    /// Its public half, as a key set has it.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pairs::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
            }
            Pairs::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key().as_ref())})
            }
            Pairs::Rsa(pair) => {
                let public: RsaPublicKeyComponents<Vec<u8>> = pair.public_key().into();
                json!({"kty": "RSA", "n": encoded(&public.n), "e": encoded(&public.e)})
            }
        };
        jwk["alg"] = json!(self.alg());
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A token with these claims and the usual header.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": self.alg(), "kid": self.kid, "typ": "JWT"}), &claims.to_string())
    }

    /// A token with this header and this payload, whatever it is.
    pub fn sign_as(&self, header: &Value, payload: &str) -> String {
        self.sign_spelt(&header.to_string(), payload)
    }

    /// The same with a header that is spelt so, as no JSON library would.
    pub fn sign_spelt(&self, header: &str, payload: &str) -> String {
        self.sign_bytes(header.as_bytes(), payload.as_bytes())
    }

    /// The same of what may be no text.
    pub fn sign_bytes(&self, header: &[u8], payload: &[u8]) -> String {
        let signed = format!("{}.{}", encoded(header), encoded(payload));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", encoded(&signature))
    }

    fn signature(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pairs::P256(pair) => pair.sign(&random, signed).expect("a signature").as_ref().to_vec(),
            Pairs::Ed25519(pair) => pair.sign(signed).as_ref().to_vec(),
            Pairs::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed, &mut signature).expect("a signature");
                signature
            }
        }
    }
}

/// A token of this header and payload, authenticated with a secret: what a forger makes who uses a public key as one.
pub fn sign_with_secret(secret: &[u8], header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", encoded(header.as_bytes()), encoded(payload.as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = encoded(hmac::sign(&key, signed.as_bytes()).as_ref());
    format!("{signed}.{signature}")
}

/// base64url without padding, as tokens have it.
pub fn encoded(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}
