//! The compact form of a signed token (RFC 7515, RFC 7519): taken apart once, and only the parts are used afterwards.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use shorepass_core::job_token::JOB_TOKEN_LIMIT;

use crate::error::{Fault, TokenError, shown};
use crate::json::{Json, Object};

/// The algorithms that are taken; all with a key pair, so that who verifies cannot sign.
const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The algorithm of that name, if it is taken.
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// A token whose signature nobody has looked at.
pub(crate) struct Jwt<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: Option<String>,
    pub(crate) payload: Object,
    /// What the signature is of.
    pub(crate) signed: &'a str,
    pub(crate) signature: &'a str,
    /// Header and payload as they were before they were encoded.
    pub(crate) decoded: [Vec<u8>; 2],
}

impl<'a> Jwt<'a> {
    /// Takes a token apart.
    pub(crate) fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > JOB_TOKEN_LIMIT {
            return Err(Fault::Form.because(format!("it is longer than {JOB_TOKEN_LIMIT} bytes")));
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else {
            return Err(
                Fault::Form.because(format!("it has {} parts where a signed token has 3", parts.len()))
            );
        };
        let signed = &token[..header.len() + 1 + payload.len()];
        let decoded = [decode("header", header)?, decode("payload", payload)?];
        let [header, payload] = [object("header", &decoded[0])?, object("payload", &decoded[1])?];
        let (algorithm, kid) = check_header(&header)?;
        Ok(Self { algorithm, kid, payload, signed, signature, decoded })
    }
}

fn decode(part: &str, text: &str) -> Result<Vec<u8>, TokenError> {
    let decoded = URL_SAFE_NO_PAD.decode(text);
    decoded.map_err(|_| Fault::Form.because(format!("its {part} is not base64url without padding")))
}

fn object(part: &str, decoded: &[u8]) -> Result<Object, TokenError> {
    Object::parse(decoded).map_err(|what| Fault::Form.because(format!("its {part} cannot be read: {what}")))
}

fn check_header(header: &Object) -> Result<(Algorithm, Option<String>), TokenError> {
    for known in ["alg", "kid", "typ", "crit", "b64"] {
        if let Some(variant) = header.variant_of(known) {
            return Err(Fault::Unsound.because(format!("its header has {} for {known}", shown(variant))));
        }
    }
    for extension in ["crit", "b64"] {
        if header.has(extension) {
            return Err(
                Fault::Unsound.because(format!("its header has {extension}: no extension is known here"))
            );
        }
    }
    match header.get("typ") {
        None => {}
        Some(Json::Text(typ)) if typ.eq_ignore_ascii_case("JWT") => {}
        Some(_) => return Err(Fault::Unsound.because("its header's typ is not JWT")),
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Json::Text(kid)) => Some(kid.clone()),
        Some(other) => return Err(Fault::Unsound.because(format!("its header's kid is {}", other.kind()))),
    };
    let Some(alg) = header.get("alg").and_then(Json::text) else {
        return Err(Fault::Unsound.because("its header has no alg"));
    };
    match algorithm(alg) {
        Some(algorithm) => Ok((algorithm, kid)),
        None => {
            Err(Fault::Signature.because(format!("its header's alg is {}, which is not taken", shown(alg))))
        }
    }
}
