//! What lets this machine in: a join token, the token of the pod that it is, or a token of an OIDC issuer.
//!
//! It is shown to the issuer whose CA it is for, and to nobody else.

use std::path::{Path, PathBuf};

use shorepass_config::AgentConfig;
use shorepass_config::agent::{OidcTokenConfig, PodTokenConfig};
use shorepass_core::digest::Digest;
use shorepass_core::name::Name;
use shorepass_tls::{JoinTokenText, authority_digest};
use zeroize::Zeroizing;

use super::EnrolError;
use crate::private::{self, Most};

/// More than any token that an API server makes, and any CA certificate.
const MOST: Most = Most { bytes: 64 * 1024, told: "a file of at most 64 KiB" };

/// Where it is found.
#[derive(Clone, Debug)]
pub(crate) enum TicketSource {
    /// The config names nothing.
    None,
    /// A file with a join token.
    JoinToken(PathBuf),
    /// A projected ServiceAccount token.
    Pod(PodTokenConfig),
    /// A token of an OIDC issuer.
    Oidc(OidcTokenConfig),
}

/// What is shown. It has no `Debug`.
pub(crate) enum Ticket {
    /// A join token.
    JoinToken(JoinTokenText),
    /// A pod's token.
    Pod {
        /// SHA-256 of the public key of the issuer's CA.
        ca: Digest,
        /// The cluster that the pod runs in.
        cluster: Name,
        /// The token.
        token: Zeroizing<String>,
    },
    /// A token of an OIDC issuer.
    Oidc {
        /// SHA-256 of the public key of the issuer's CA.
        ca: Digest,
        /// The token.
        token: Zeroizing<String>,
    },
}

impl TicketSource {
    /// What the config names; it names one at the most.
    pub(crate) fn of(config: &AgentConfig) -> Self {
        let join_token = config.join_token_file.clone().map(Self::JoinToken);
        let pod = || config.pod.clone().map(Self::Pod);
        let oidc = || config.oidc.clone().map(Self::Oidc);
        join_token.or_else(pod).or_else(oidc).unwrap_or(Self::None)
    }

    /// Reads it.
    pub(crate) fn read(&self) -> Result<Ticket, EnrolError> {
        match self {
            Self::None => Err(EnrolError::NoTicket),
            Self::JoinToken(path) => {
                let text = private::read_secret(path).map_err(EnrolError::File)?;
                let parsed = JoinTokenText::parse(&text);
                let parsed = parsed.map_err(|source| EnrolError::Text { path: path.clone(), source })?;
                Ok(Ticket::JoinToken(parsed))
            }
            Self::Pod(pod) => {
                let (ca, token) = (authority(&pod.ca_file)?, token(&pod.file)?);
                Ok(Ticket::Pod { ca, cluster: pod.cluster.clone(), token })
            }
            Self::Oidc(oidc) => Ok(Ticket::Oidc { ca: authority(&oidc.ca_file)?, token: token(&oidc.file)? }),
        }
    }
}

impl Ticket {
    /// SHA-256 of the public key of the CA whose issuer it may be shown to.
    pub(crate) fn ca(&self) -> Digest {
        match self {
            Self::JoinToken(text) => text.ca(),
            Self::Pod { ca, .. } | Self::Oidc { ca, .. } => *ca,
        }
    }
}

fn authority(path: &Path) -> Result<Digest, EnrolError> {
    let found = authority_digest(read(path)?.as_bytes());
    found.ok_or_else(|| EnrolError::Authority { path: path.to_owned() })
}

fn token(path: &Path) -> Result<Zeroizing<String>, EnrolError> {
    let text = Zeroizing::new(read(path)?.trim().to_owned());
    if text.is_empty() {
        return Err(EnrolError::NoToken { path: path.to_owned() });
    }
    Ok(text)
}

/// Its mode is not looked at: whoever mounts such files makes them readable for a group, or for all in the pod.
fn read(path: &Path) -> Result<Zeroizing<String>, EnrolError> {
    let remedy = "check that it is mounted there and that this user may read it";
    private::read(path, MOST, remedy, |_| Ok(())).map_err(EnrolError::File)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private::PrivateError;

    #[test]
    fn a_token_file_that_is_none_is_refused_and_neither_waited_for_nor_cut_short() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        let is_refused = || matches!(read(&path), Err(EnrolError::File(PrivateError::Shape { .. })));
        assert!(is_refused(), "a FIFO");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![b'a'; MOST.bytes as usize]).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, MOST.bytes, "of a group, or of all");
        std::fs::write(&path, vec![b'a'; MOST.bytes as usize + 1]).unwrap();
        assert!(is_refused(), "too long");
    }
}
