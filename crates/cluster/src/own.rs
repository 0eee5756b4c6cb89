//! The issuer's own token, where the issuer renews it itself: nothing that lives long is stored anywhere.
//!
//! It is a token of the issuer's ServiceAccount, bound to one Secret that an administrator made. The issuer cannot look at
//! that Secret, and needs not: the token at hand names its UID, and the next one is bound to the same. So a Secret that was
//! deleted and made again ends the line, as it should. What is shown here is the token in the file and not what the client
//! remembers: the file may have been replaced a moment ago by whoever mends this.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use http::header::HeaderValue;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use kube::config::Kubeconfig;
use shorepass_core::mint::{Claims, EXPIRY_TOLERANCE, expiry_drift};
use shorepass_core::name::Name;
use shorepass_core::time::{Timestamp, after, for_people, until};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::answer::{self, Granted};
use crate::api_server::{self, ApiError, Call, Refusal};
use crate::connection::{ConnectError, Connection};
use crate::kube_cluster::{KubeCluster, MINT_DEADLINE, USER_AGENT, no_answer_within};

/// How long a token of the issuer's own is to live; the admission policy allows no more.
pub const OWN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// No token of a ServiceAccount is longer.
const TOKEN_LIMIT: u64 = 64 * 1024;

/// Who the issuer is in a cluster, and what its token hangs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAccount {
    /// The namespace of its ServiceAccount and of the Secret.
    pub namespace: Name,
    /// Its ServiceAccount.
    pub service_account: Name,
    /// The Secret that its tokens are bound to: deleting it ends them all.
    pub secret: Name,
}

/// The issuer's own token in its file.
#[derive(Debug)]
pub struct OwnCredential {
    account: OwnAccount,
    file: PathBuf,
}

/// Why a kubeconfig has no token to renew.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// It cannot be read.
    #[error(transparent)]
    Kubeconfig(#[from] ConnectError),
    /// Its user has something else.
    #[error(
        "connect.renew needs a kubeconfig whose user has a tokenFile and nothing else; the user of context {context:?} in {} \
         has not: `shorepass-issuer cluster bootstrap` writes such a one",
        file.display()
    )]
    NoTokenFile {
        /// The kubeconfig.
        file: PathBuf,
        /// The context.
        context: String,
    },
}

/// A token that was renewed and is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// How long it lives in all.
    pub life: Duration,
    /// When it ends.
    pub expires: Timestamp,
}

/// Why the issuer's own token was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The file cannot be read or replaced.
    #[error("cannot {act} {}; the issuer must own it, and may make files beside it", file.display())]
    File {
        /// Read, or replace.
        act: &'static str,
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is in the file is not what the configuration says.
    #[error(
        "{} has {problem}: connect.renew and the file are not of one bootstrap; run `shorepass-issuer cluster bootstrap` again",
        file.display()
    )]
    NotOurs {
        /// The file.
        file: PathBuf,
        /// What it is instead.
        problem: String,
    },
    /// The token was good for longer, and the cluster takes it no more.
    #[error(
        "the kill switch was pulled: Secret {namespace}/{secret}, which the issuer's own token is bound to, is gone, or its \
         ServiceAccount is ({words}). The issuer can do nothing in this cluster any more. If that is not to stay so, find out who \
         did it and why, then run `shorepass-issuer cluster bootstrap` again"
    )]
    Gone {
        /// The namespace of both.
        namespace: Name,
        /// The Secret.
        secret: Name,
        /// How the cluster said so.
        words: String,
    },
    /// It was not renewed in time.
    #[error(
        "the issuer's own token ended at {}, before it was renewed: run `shorepass-issuer cluster bootstrap` again",
        for_people(*.0)
    )]
    Ended(Timestamp),
    /// The cluster does not let the issuer do it.
    #[error("the cluster forbids it: apply what `shorepass-issuer rbac --renew-secret` prints ({0})")]
    Forbidden(String),
    /// No answer, or none that helps.
    #[error("{0}")]
    Unreachable(String),
    /// An answer that is not used.
    #[error("the API server's answer was rejected: {0}")]
    Answer(String),
}

impl OwnCredential {
    /// The token file of the connection's kubeconfig.
    pub fn new(connection: &Connection, account: OwnAccount) -> Result<Self, OwnError> {
        let kubeconfig = connection.read()?;
        let file = token_file(&kubeconfig, &connection.context);
        let (kubeconfig, context) = (connection.kubeconfig.clone(), connection.context.clone());
        let file = file.ok_or(OwnError::NoTokenFile { file: kubeconfig, context })?;
        Ok(Self { account, file: file.into() })
    }

    /// When the token in the file ends.
    pub fn ends(&self) -> Result<Timestamp, RenewError> {
        self.held().map(|(_, claims)| claims.expires)
    }

    /// The token in the file, and what it says of itself.
    fn held(&self) -> Result<(Zeroizing<String>, Claims), RenewError> {
        let refused = |source| RenewError::File { act: "read", file: self.file.clone(), source };
        let length = std::fs::metadata(&self.file).map_err(refused)?.len();
        if length > TOKEN_LIMIT {
            return Err(self.not_ours("more than a token".to_owned()));
        }
        let text = Zeroizing::new(std::fs::read_to_string(&self.file).map_err(refused)?);
        let text = Zeroizing::new(text.trim().to_owned());
        let claims = answer::claims(&text)
            .map_err(|problem| self.not_ours(format!("no token of a ServiceAccount ({problem})")))?;
        self.account.owns(&claims).map_err(|problem| self.not_ours(problem))?;
        Ok((text, claims))
    }

    fn not_ours(&self, problem: String) -> RenewError {
        RenewError::NotOurs { file: self.file.clone(), problem }
    }

    /// What a refusal says, of a token that was to last until then.
    fn refused(&self, error: ApiError, ends: Timestamp, now: Timestamp) -> RenewError {
        let said = error.to_string();
        let ApiError::Refused(refusal) = error else { return RenewError::Unreachable(said) };
        let Refusal { code, message, .. } = *refusal;
        match code {
            401 if ends <= now => RenewError::Ended(ends),
            // Authenticated before the delete, or after it; or the Secret was made again.
            401 | 404 | 409 => RenewError::Gone {
                namespace: self.account.namespace.clone(),
                secret: self.account.secret.clone(),
                words: format!("{code}: {message}"),
            },
            403 | 422 => RenewError::Forbidden(message),
            _ => RenewError::Unreachable(said),
        }
    }
}

impl OwnAccount {
    /// The request for a token that hangs on the Secret with this UID.
    pub(crate) fn request(&self, secret_uid: &str, life: Duration) -> TokenRequest {
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(self.secret.to_string()),
            uid: Some(secret_uid.to_owned()),
        };
        TokenRequest {
            spec: TokenRequestSpec {
                bound_object_ref: Some(bound),
                expiration_seconds: Some(i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        }
    }

    pub(crate) fn token_path(&self) -> String {
        format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", self.namespace, self.service_account)
    }

    /// Whether the token is this account's and hangs on its Secret; else what it is.
    fn owns(&self, claims: &Claims) -> Result<(), String> {
        let Claims { namespace, service_account, secret, .. } = claims;
        if namespace != self.namespace.as_str() || service_account != self.service_account.as_str() {
            return Err(format!("a token of ServiceAccount {namespace}/{service_account}"));
        }
        match secret.as_str() {
            same if same == self.secret.as_str() => Ok(()),
            "" => Err("a token that is not bound to a Secret".to_owned()),
            other => Err(format!("a token that is bound to Secret {other}")),
        }
    }

    /// Whether what was granted is what was asked for.
    pub(crate) fn check(
        &self,
        granted: &Granted,
        secret_uid: &str,
        life: Duration,
        now: Timestamp,
    ) -> Result<(), String> {
        let claims = &granted.claims;
        self.owns(claims).map_err(|other| format!("it is {other}"))?;
        if claims.secret_uid != secret_uid {
            return Err("it is bound to another Secret of the name".to_owned());
        }
        if claims.audiences.is_empty() || claims.audiences != granted.audiences {
            return Err(format!("its audiences are {:?}", claims.audiences));
        }
        let drift = EXPIRY_TOLERANCE + expiry_drift(MINT_DEADLINE);
        let latest = after(granted.created, life.saturating_add(drift));
        if claims.expires <= now || claims.expires > latest {
            return Err(format!("it ends at {}", for_people(claims.expires)));
        }
        Ok(())
    }
}

impl KubeCluster {
    /// Mints the next token of the issuer's own, checks it, and puts it in place of the one in the file.
    pub async fn renew_own(&self, own: &OwnCredential) -> Result<Renewed, RenewError> {
        timeout(MINT_DEADLINE, self.renew_own_now(own))
            .await
            .unwrap_or_else(|_| Err(RenewError::Unreachable(no_answer_within(MINT_DEADLINE))))
    }

    /// Waits until the API server refuses the issuer's own credential.
    pub async fn own_refused(&self) {
        self.api.credential_refused().await;
    }

    async fn renew_own_now(&self, own: &OwnCredential) -> Result<Renewed, RenewError> {
        let replacing = |source| RenewError::File { act: "replace", file: own.file.clone(), source };
        let (held, claims) = own.held()?;
        shorepass_files::probe_room(&own.file).map_err(replacing)?; // before there is a token that cannot be kept
        let account = &own.account;
        let call = Call {
            method: Method::POST,
            path: account.token_path(),
            user_agent: &format!("{USER_AGENT} own-token"),
            body: &account.request(&claims.secret_uid, OWN_LIFE),
        };
        let answer = self.api.call_showing(bearer(&held)?, call).await;
        let now = self.clock.now();
        let body = answer.map_err(|error| own.refused(error, claims.expires, now))?;
        let granted = answer::granted(&body).map_err(RenewError::Answer)?;
        account.check(&granted, &claims.secret_uid, OWN_LIFE, now).map_err(RenewError::Answer)?;
        shorepass_files::replace(&own.file, granted.token.expose().as_bytes()).map_err(replacing)?;
        let expires = granted.claims.expires;
        Ok(Renewed { life: until(granted.created, expires), expires })
    }
}

fn bearer(token: &str) -> Result<HeaderValue, RenewError> {
    api_server::bearer(token)
        .ok_or_else(|| RenewError::Answer("the token cannot stand in a header".to_owned()))
}

/// The token file of the context's user, if that is all it has.
fn token_file(kubeconfig: &Kubeconfig, context: &str) -> Option<String> {
    let context = kubeconfig.contexts.iter().find(|named| named.name == context)?.context.as_ref()?;
    let user = context.user.as_ref()?;
    let user = kubeconfig.auth_infos.iter().find(|named| named.name == *user)?.auth_info.as_ref()?;
    let alone = user.token.is_none() && user.exec.is_none() && user.client_certificate.is_none();
    user.token_file.clone().filter(|_| alone && user.client_certificate_data.is_none())
}

#[cfg(test)]
mod tests;
