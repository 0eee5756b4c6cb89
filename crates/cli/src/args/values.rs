//! What stands behind options: values that are parsed before a command begins.

use std::time::Duration;

use shorepass_core::caller::{SpiffeId, SpiffeIdError};
use shorepass_core::name::{Name, NameError};

/// Whose leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Runner {
    /// A runner of the trust domain that the config names.
    Named(Name),
    /// A caller of any kind.
    Caller(SpiffeId),
}

/// Why a text is no runner.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunnerError {
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a SPIFFE ID.
    #[error(transparent)]
    SpiffeId(#[from] SpiffeIdError),
}

impl Runner {
    pub(super) fn parse(text: &str) -> Result<Self, RunnerError> {
        if text.starts_with("spiffe:") {
            Ok(Self::Caller(SpiffeId::parse(text)?))
        } else {
            Ok(Self::Named(Name::parse(text)?))
        }
    }
}

/// A ServiceAccount, by all that it takes to name one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub(crate) cluster: Name,
    pub(crate) namespace: Name,
    pub(crate) name: String,
}

/// Why a text is no ServiceAccount.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceAccountError {
    /// Not of three parts.
    #[error("a ServiceAccount is named CLUSTER/NAMESPACE/NAME")]
    Form,
    /// A part is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl ServiceAccount {
    /// The last part is the issuer's to judge: Kubernetes allows more there than our names do.
    pub(super) fn parse(text: &str) -> Result<Self, ServiceAccountError> {
        let mut parts = text.splitn(3, '/');
        let (Some(cluster), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ServiceAccountError::Form);
        };
        if name.is_empty() {
            return Err(ServiceAccountError::Form);
        }
        let (cluster, namespace) = (Name::parse(cluster)?, Name::parse(namespace)?);
        Ok(Self { cluster, namespace, name: name.to_owned() })
    }
}

/// The `jti` of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Jti(pub(crate) String);

impl Jti {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let jti = text.strip_prefix("JTI=").unwrap_or(text);
        let fits = (1..=128).contains(&jti.len()) && jti.bytes().all(|byte| byte.is_ascii_graphic());
        if fits {
            Ok(Self(jti.to_owned()))
        } else {
            Err("a jti is 1 to 128 printable characters without spaces")
        }
    }
}

pub(super) fn context_name(text: &str) -> Result<String, &'static str> {
    let fits = !text.is_empty() && text.len() <= 253 && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("a context's name is 1 to 253 printable characters") }
}

/// `90s`, `30m`, `1h`, `7d`. Its bounds are the issuer's.
pub(super) fn lifetime(text: &str) -> Result<Duration, &'static str> {
    const FORM: &str = "a duration is a whole number and one of s, m, h and d, such as 30m";
    let unit = text.chars().next_back().ok_or(FORM)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(FORM),
    };
    let number = &text[..text.len() - unit.len_utf8()];
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.then(|| number.parse().ok()).flatten().ok_or(FORM)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or(FORM)
}
