//! What a ServiceAccount token says of itself, to explain why an API server does not take it.
//!
//! Nothing is verified, and nothing is decided by it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use shorepass_core::lease::AnchorName;
use shorepass_core::time::Timestamp;

/// The payload, as far as it can be read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct TokenClaims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    aud: Vec<String>,
    #[serde(default)]
    exp: i64,
    #[serde(default)]
    jti: String,
    #[serde(default)]
    sub: String,
}

/// As whom a token works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// An existing ServiceAccount: namespace and name.
    Existing(String),
    /// One that was made for the lease.
    Generated,
    /// The token does not tell.
    Unknown,
}

/// Why an API server does not take a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WhyNot {
    /// It has expired.
    Expired,
    /// The API server takes the tokens of another issuer.
    IssuerUnknown {
        /// Whose the token is.
        ours: String,
        /// Whose it takes.
        server: String,
    },
    /// It is for others.
    Audience {
        /// For whom it is.
        ours: String,
        /// What the API server calls itself, unless it is told otherwise.
        server: String,
    },
    /// What it was bound to is gone.
    Revoked {
        /// Its `jti`.
        jti: String,
    },
    /// One of these: the API server does not tell whose tokens it takes.
    Unknown {
        /// Its `jti`.
        jti: String,
        /// Whose it is.
        issuer: String,
        /// For whom.
        audience: String,
    },
}

/// The payload of a JWT, if it can be read as that.
pub(crate) fn payload<T: DeserializeOwned>(jwt: &str) -> Option<T> {
    let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

impl TokenClaims {
    /// Those of a token; none if it is not understood.
    pub(crate) fn of(token: &str) -> Self {
        payload(token).unwrap_or_default()
    }

    /// As whom it works.
    pub(crate) fn account(&self) -> Account {
        let account = self.sub.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        match account {
            Some((_, name)) if AnchorName::parse(name).is_some() => Account::Generated,
            Some((namespace, name)) => Account::Existing(format!("{namespace}/{name}")),
            None => Account::Unknown,
        }
    }

    /// Why an API server that takes this issuer's tokens does not take it now.
    pub(crate) fn why_not_let_in(&self, server: Option<&str>, now: Timestamp) -> WhyNot {
        let (jti, audience) = (self.jti.clone(), self.aud.join(", "));
        match server {
            _ if self.exp != 0 && self.exp <= now.as_second() => WhyNot::Expired,
            None => WhyNot::Unknown { jti, issuer: self.iss.clone(), audience },
            Some(server) if server != self.iss => {
                WhyNot::IssuerUnknown { ours: self.iss.clone(), server: server.to_owned() }
            }
            Some(server) if !self.aud.iter().any(|audience| audience == server) => {
                WhyNot::Audience { ours: audience, server: server.to_owned() }
            }
            Some(_) => WhyNot::Revoked { jti },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISS: &str = "https://kubernetes.default.svc";

    fn claims(changes: serde_json::Value) -> TokenClaims {
        let mut payload = serde_json::json!({
            "iss": ISS, "aud": [ISS], "exp": 1_000, "jti": "j-1", "sub": "system:serviceaccount:web:deployer",
        });
        for (name, value) in changes.as_object().unwrap() {
            payload[name] = value.clone();
        }
        TokenClaims::of(&format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload.to_string())))
    }

    fn why(changes: serde_json::Value, server: Option<&str>, now: i64) -> WhyNot {
        claims(changes).why_not_let_in(server, Timestamp::from_second(now).unwrap())
    }

    #[test]
    fn a_refusal_is_explained_by_what_can_be_known() {
        let none = serde_json::json!({});
        let (text, jti) = (str::to_owned, "j-1".to_owned());
        assert_eq!(why(none.clone(), Some(ISS), 1_000), WhyNot::Expired);
        assert_eq!(why(none.clone(), Some(ISS), 999), WhyNot::Revoked { jti: jti.clone() });
        let other = "https://other.example.org";
        let unknown = WhyNot::IssuerUnknown { ours: text(ISS), server: text(other) };
        assert_eq!(why(none.clone(), Some(other), 999), unknown);
        let elsewhere = serde_json::json!({"aud": ["vault"]});
        let audience = WhyNot::Audience { ours: text("vault"), server: text(ISS) };
        assert_eq!(why(elsewhere, Some(ISS), 999), audience);
        assert_eq!(why(none, None, 999), WhyNot::Unknown { jti, issuer: text(ISS), audience: text(ISS) });
    }

    #[test]
    fn the_account_is_told_and_a_generated_one_is_known() {
        let account = |sub: &str| claims(serde_json::json!({"sub": sub})).account();
        assert_eq!(
            account("system:serviceaccount:web:deployer"),
            Account::Existing("web/deployer".to_owned())
        );
        let generated = format!("system:serviceaccount:shorepass-strict:shorepass-{}", "a".repeat(26));
        assert_eq!(account(&generated), Account::Generated);
        assert_eq!(account("somebody"), Account::Unknown);
        assert_eq!(TokenClaims::of("no token").account(), Account::Unknown);
    }
}
