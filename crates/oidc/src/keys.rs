//! The keys of an issuer (RFC 7517): which of them may verify which token.
//!
//! The key says which algorithms fit it, never the token. A key that is not fit stays in the set with the reason, so that a
//! token that names it is told why.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};

use crate::error::shown;
use crate::json::{Json, Object};
use crate::jwt;

/// The most keys that a set may have.
const KEYS_LIMIT: usize = 100;
/// RSA keys of fewer or more bits are not taken: the one kind is weak, the other costs.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The keys of an issuer.
#[derive(Debug)]
pub(crate) struct KeySet(Vec<Key>);

/// One of them.
struct Key {
    kid: Option<String>,
    /// What it verifies, or why nothing.
    usable: Result<(DecodingKey, Vec<Algorithm>), String>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Why no key of the set verifies a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// There is none of that name: there may be tomorrow.
    Unknown(String),
    /// There is, or no name is given, and it will not do.
    Key(String),
}

impl KeySet {
    /// Reads a key set.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, String> {
        let document = Object::parse(document)?;
        let Some(Json::List(keys)) = document.get("keys") else {
            return Err("it has no list `keys`".to_owned());
        };
        if keys.len() > KEYS_LIMIT {
            return Err(format!("it has more than {KEYS_LIMIT} keys"));
        }
        let keys = keys.iter().map(|key| match key {
            Json::Object(key) => Ok(Key::read(key)),
            other => Err(format!("one of its keys is {}", other.kind())),
        });
        keys.collect::<Result<Vec<Key>, String>>().map(Self)
    }

    /// The key for a token that names this one and was signed in this way.
    pub(crate) fn select(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&DecodingKey, Unfit> {
        let named: Vec<&Key> = match kid {
            Some(kid) => self.0.iter().filter(|key| key.kid.as_deref() == Some(kid)).collect(),
            None => self.0.iter().collect(),
        };
        let key = match (named.as_slice(), kid) {
            ([key], _) => key,
            ([], Some(kid)) => return Err(Unfit::Unknown(format!("its issuer has no key {}", shown(kid)))),
            ([], None) => return Err(Unfit::Unknown("its issuer has no keys".to_owned())),
            (keys, Some(kid)) => {
                return Err(Unfit::Key(format!("its issuer has {} keys {}", keys.len(), shown(kid))));
            }
            (keys, None) => {
                return Err(Unfit::Key(format!("it names no key, and its issuer has {}", keys.len())));
            }
        };
        match &key.usable {
            Ok((material, algorithms)) if algorithms.contains(&algorithm) => Ok(material),
            Ok((_, algorithms)) => {
                Err(Unfit::Key(format!("its alg is {algorithm:?}, and its key is for {algorithms:?}")))
            }
            Err(why) => Err(Unfit::Key(format!("its key is not taken: {why}"))),
        }
    }
}

impl Key {
    fn read(key: &Object) -> Self {
        Self { kid: key.get("kid").and_then(Json::text).map(str::to_owned), usable: usable(key) }
    }
}

fn usable(key: &Object) -> Result<(DecodingKey, Vec<Algorithm>), String> {
    match key.get("use").map(Json::text) {
        None | Some(Some("sig")) => {}
        Some(_) => return Err("it is not for signatures".to_owned()),
    }
    if let Some(operations) = key.get("key_ops") {
        let verifies =
            matches!(operations, Json::List(list) if list.iter().any(|one| one.text() == Some("verify")));
        if !verifies {
            return Err("it is not for verifying".to_owned());
        }
    }
    let (material, mut algorithms) = match key.get("kty").and_then(Json::text) {
        Some("RSA") => rsa(key)?,
        Some("EC") => elliptic(key)?,
        Some("OKP") => edwards(key)?,
        Some(other) => return Err(format!("keys of type {} are not taken", shown(other))),
        None => return Err("it has no type".to_owned()),
    };
    if let Some(alg) = key.get("alg") {
        let own = alg.text().and_then(jwt::algorithm);
        algorithms.retain(|algorithm| own == Some(*algorithm));
        if algorithms.is_empty() {
            return Err("its alg does not fit its type".to_owned());
        }
    }
    Ok((material, algorithms))
}

fn rsa(key: &Object) -> Result<(DecodingKey, Vec<Algorithm>), String> {
    let (modulus, exponent) = (number(key, "n")?, number(key, "e")?);
    let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(format!("it has {bits} bits, and {} to {} are taken", RSA_BITS.start(), RSA_BITS.end()));
    }
    if exponent.len() > 4 || exponent == [1] || exponent.last().is_none_or(|last| last % 2 == 0) {
        return Err("its exponent is not one of an RSA key".to_owned());
    }
    let algorithms = vec![
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ];
    Ok((DecodingKey::from_rsa_raw_components(&modulus, &exponent), algorithms))
}

fn elliptic(key: &Object) -> Result<(DecodingKey, Vec<Algorithm>), String> {
    let (length, algorithm) = match key.get("crv").and_then(Json::text) {
        Some("P-256") => (32, Algorithm::ES256),
        Some("P-384") => (48, Algorithm::ES384),
        Some(_) | None => return Err("only the curves P-256 and P-384 are taken".to_owned()),
    };
    let mut point = vec![4];
    for name in ["x", "y"] {
        let coordinate = bytes(key, name)?;
        if coordinate.len() != length {
            return Err(format!("its {name} has not the length of its curve"));
        }
        point.extend(coordinate);
    }
    Ok((DecodingKey::from_ec_der(&point), vec![algorithm]))
}

fn edwards(key: &Object) -> Result<(DecodingKey, Vec<Algorithm>), String> {
    let public = bytes(key, "x")?;
    match key.get("crv").and_then(Json::text) {
        Some("Ed25519") if public.len() == 32 => {
            Ok((DecodingKey::from_ed_der(&public), vec![Algorithm::EdDSA]))
        }
        Some(_) | None => Err("only Ed25519 is taken".to_owned()),
    }
}

/// A number without zeros in front.
fn number(key: &Object, name: &str) -> Result<Vec<u8>, String> {
    let bytes = bytes(key, name)?;
    Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

fn bytes(key: &Object, name: &str) -> Result<Vec<u8>, String> {
    let text = key.get(name).and_then(Json::text).ok_or_else(|| format!("it has no {name}"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("its {name} is not base64url"))
}
