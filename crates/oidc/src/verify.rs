//! What a verified token says: the rules that every token keeps, whatever it is for.

use std::time::Duration;

use jsonwebtoken::DecodingKey;
use shorepass_core::claims::{Claim, Claims};
use shorepass_core::digest::Digest;
use shorepass_core::job_issuer::{JobIssuer, KnownClaim};
use shorepass_core::time::{Timestamp, after};

use crate::error::{Fault, TokenError, shown};
use crate::json::{Json, Object};
use crate::jwt::Jwt;

/// How far the clocks of issuers may be off.
pub(crate) const LEEWAY: Duration = Duration::from_secs(60);
/// The longest life of a token: one that lives longer is no token for one job.
const LONGEST_LIFE: i64 = 24 * 60 * 60;
/// The claims that every token has, and the one that makes it known again.
const REGISTERED: [&str; 7] = ["iss", "aud", "exp", "iat", "sub", "nbf", "jti"];
/// The longest text of `jti` and `sub`, in bytes.
const ID_LIMIT: usize = 1024;

/// A token that is what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<'a> {
    /// Who made it.
    pub issuer: &'a JobIssuer,
    /// Its claims, as far as the issuer's are known.
    pub claims: Claims,
    /// What it is known by when it comes again.
    pub replay: Digest,
    /// When it was made, by its issuer's clock.
    pub issued: Timestamp,
    /// When it expires, by its issuer's clock.
    pub expires: Timestamp,
}

/// The claims of a token whose signature nobody has looked at.
pub(crate) struct Unverified<'a> {
    jwt: Jwt<'a>,
    issued: Timestamp,
    expires: Timestamp,
}

/// Who says that he made a token.
pub(crate) fn issuer_of<'a>(jwt: &'a Jwt<'_>) -> Result<&'a str, TokenError> {
    for known in REGISTERED {
        if let Some(variant) = jwt.payload.variant_of(known) {
            return Err(Fault::Unsound.because(format!("it has {} for {known}", shown(variant))));
        }
    }
    text(&jwt.payload, "iss")
}

impl<'a> Unverified<'a> {
    /// Checks for whom and for when it is.
    pub(crate) fn new(jwt: Jwt<'a>, audience: &str, now: Timestamp) -> Result<Self, TokenError> {
        check_audience(&jwt.payload, audience)?;
        let subject = text(&jwt.payload, "sub")?;
        if subject.is_empty() || subject.len() > ID_LIMIT {
            return Err(Fault::Unsound.because("its sub is empty or very long"));
        }
        let (issued, expires) = times(&jwt.payload, now)?;
        Ok(Self { jwt, issued, expires })
    }

    /// Which key it names, and how it was signed.
    pub(crate) fn jwt(&self) -> &Jwt<'a> {
        &self.jwt
    }

    /// Checks the signature, and only then reads what the issuer's tokens hold.
    pub(crate) fn verify<'i>(
        self,
        key: &DecodingKey,
        issuer: &'i JobIssuer,
    ) -> Result<Verified<'i>, TokenError> {
        let Jwt { algorithm, signed, signature, payload, .. } = &self.jwt;
        match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), key, *algorithm) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(Fault::Signature.because("its signature is wrong")),
        }
        Ok(Verified {
            issuer,
            claims: known_claims(payload, issuer)?,
            replay: self.replay(issuer)?,
            issued: self.issued,
            expires: self.expires,
        })
    }

    /// What the token is known by. Its spelling is not: a signature can be spelt in several ways.
    fn replay(&self, issuer: &JobIssuer) -> Result<Digest, TokenError> {
        let [header, payload] = &self.jwt.decoded;
        match self.jwt.payload.get("jti") {
            None => Ok(Digest::of_parts([b"token".as_slice(), header, payload])),
            Some(Json::Text(jti)) if (1..=ID_LIMIT).contains(&jti.len()) => {
                Ok(Digest::of_parts([b"jti".as_slice(), issuer.url().as_bytes(), jti.as_bytes()]))
            }
            Some(_) => Err(Fault::Unsound.because("its jti is no text, empty or very long")),
        }
    }
}

fn text<'a>(payload: &'a Object, name: &str) -> Result<&'a str, TokenError> {
    match payload.get(name) {
        Some(Json::Text(text)) => Ok(text),
        Some(other) => Err(Fault::Unsound.because(format!("its {name} is {}, not text", other.kind()))),
        None => Err(Fault::Unsound.because(format!("it has no {name}"))),
    }
}

/// A token for several audiences can be used by each of them at the others.
fn check_audience(payload: &Object, wanted: &str) -> Result<(), TokenError> {
    let refused = |why: String| Err(Fault::Audience.because(format!("{why}, not {}", shown(wanted))));
    match payload.get("aud") {
        None => refused("it has no aud".to_owned()),
        Some(Json::Text(one)) if one == wanted => Ok(()),
        Some(Json::Text(other)) => refused(format!("its aud is {}", shown(other))),
        Some(Json::List(list)) => match list.as_slice() {
            [Json::Text(one)] if one == wanted => Ok(()),
            [Json::Text(other)] => refused(format!("its aud is {}", shown(other))),
            [other] => refused(format!("its aud is a list with {}", other.kind())),
            list => refused(format!("its aud is a list of {}", list.len())),
        },
        Some(other) => refused(format!("its aud is {}", other.kind())),
    }
}

/// When it was made and when it expires.
fn times(payload: &Object, now: Timestamp) -> Result<(Timestamp, Timestamp), TokenError> {
    let time =
        |name: &str| match payload.get(name) {
            None => Ok(None),
            Some(Json::Whole(second)) => match Timestamp::from_second(*second) {
                Ok(time) => Ok(Some(time)),
                Err(_) => Err(Fault::Times.because(format!("its {name} is no time"))),
            },
            Some(other) => Err(Fault::Unsound
                .because(format!("its {name} is {}, not a whole number of seconds", other.kind()))),
        };
    let required =
        |name: &str| time(name)?.ok_or_else(|| Fault::Unsound.because(format!("it has no {name}")));
    let (issued, expires) = (required("iat")?, required("exp")?);
    let latest = after(now, LEEWAY);
    if issued > latest {
        return Err(Fault::Times.because(format!("it was made at {issued}, which is in the future")));
    }
    if let Some(start) = time("nbf")?.filter(|start| *start > latest) {
        return Err(Fault::Times.because(format!("it is not valid before {start}")));
    }
    let life = expires.as_second().saturating_sub(issued.as_second());
    if life <= 0 || life > LONGEST_LIFE {
        return Err(Fault::Times.because(format!("it lives {life} s, and 1 to {LONGEST_LIFE} are taken")));
    }
    if after(expires, LEEWAY) <= now {
        return Err(TokenError::Expired(expires));
    }
    Ok((issued, expires))
}

/// The claims that the issuer's tokens are known to hold, each of its kind.
fn known_claims(payload: &Object, issuer: &JobIssuer) -> Result<Claims, TokenError> {
    let mut claims = Claims::default();
    for known in issuer.known() {
        if let Some(variant) = known.path.first().and_then(|outer| payload.variant_of(outer)) {
            return Err(Fault::Unsound.because(format!(
                "it has {} for {}",
                shown(variant),
                known.path.join(".")
            )));
        }
        let Some(value) = payload.at(&known.path) else { continue };
        let claim = claim(value).and_then(|claim| issuer.read(known, claim));
        let claim = claim.ok_or_else(|| wrong_kind(known, value))?;
        claims.insert(&known.name, claim).map_err(|error| Fault::Claim.because(error.to_string()))?;
    }
    Ok(claims)
}

fn wrong_kind(known: &KnownClaim, value: &Json) -> TokenError {
    Fault::Claim.because(format!(
        "its claim {} is {}, and must be {}",
        known.path.join("."),
        value.kind(),
        known.kind
    ))
}

fn claim(value: &Json) -> Option<Claim> {
    match value {
        Json::Text(text) => Some(Claim::Text(text.clone())),
        Json::Whole(number) => Some(Claim::Number(*number)),
        Json::Flag(flag) => Some(Claim::Flag(*flag)),
        Json::List(list) => {
            let texts = list.iter().map(|item| item.text().map(str::to_owned));
            texts.collect::<Option<Vec<String>>>().map(Claim::Texts)
        }
        Json::Null | Json::OtherNumber | Json::Object(_) => None,
    }
}
