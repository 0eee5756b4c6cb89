//! What the ServiceAccounts of roles may do, as far as the issuer cares: what jobs need, and what outlives a lease.
//!
//! Needs are asked for before a lease begins, and an answer is believed for a while. Escape rights are asked for at the start
//! and then every hour; they decide nothing and are told with each lease of the role. Of a strict role neither is asked
//! here: its ServiceAccounts do not exist yet, and what they may do stands in its rules, which are read, and in the Roles that it
//! names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shorepass_core::cluster::{Cluster, MintError};
use shorepass_core::escape::{self, Escapes};
use shorepass_core::gives::Gives;
use shorepass_core::name::Name;
use shorepass_core::needs::{Missing, Need, Right};
use shorepass_core::policy::Policy;
use shorepass_core::role::{Role, Target};
use shorepass_core::time::Clock;
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use crate::outside::Outside;

/// How long it is believed that a ServiceAccount is allowed what a role needs.
const MET_FOR: Duration = Duration::from_secs(60);
/// How long it is believed that it is not.
const MISSING_FOR: Duration = Duration::from_secs(3);
/// How often it is asked what outlives leases.
const EVERY: Duration = Duration::from_secs(3600);
/// When ServiceAccounts that could not be asked about are asked about again.
const AGAIN: Duration = Duration::from_secs(60);

/// What was found about the needs of one role, and when.
type Verdict = Arc<AsyncMutex<Option<(Option<Missing>, Duration)>>>;

/// What was asked and answered.
pub struct Reviews {
    clock: Arc<dyn Clock>,
    /// One lock for each role, held while it is asked: many issues wait for one answer.
    needs: Mutex<HashMap<Name, Verdict>>,
    escapes: Mutex<HashMap<Name, Escapes>>,
}

impl Reviews {
    /// Nothing was asked yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, needs: Mutex::default(), escapes: Mutex::default() }
    }

    /// Fails where the role's ServiceAccount is not allowed what the role needs, or that cannot be found out.
    pub async fn check_needs(&self, role: &Role, cluster: &dyn Cluster) -> Result<(), MintError> {
        let Some(account) = role.gives().existing().filter(|_| !role.needs().is_empty()) else {
            return Ok(());
        };
        let verdict = locked(&self.needs).entry(role.name().clone()).or_default().clone();
        let mut verdict = verdict.lock().await;
        let known = verdict.take().filter(|(missing, at)| {
            let term = if missing.is_none() { MET_FOR } else { MISSING_FOR };
            self.clock.since_boot().saturating_sub(*at) < term
        });
        let (missing, at) = match known {
            Some(known) => known,
            None => (missing_of(role, account, cluster).await?, self.clock.since_boot()),
        };
        *verdict = Some((missing.clone(), at));
        let who = format!("ServiceAccount {}/{}", account.namespace, account.service_account);
        missing.map_or(Ok(()), |missing| {
            Err(MintError::NeedsMissing { who, adds: "an administrator of the cluster adds", missing })
        })
    }

    /// Asks about the ServiceAccounts of all roles of a cluster; whether all could be asked.
    pub async fn look(&self, policy: &Policy, cluster: &dyn Cluster) -> bool {
        let name = &cluster.endpoint().name;
        let mut found = BTreeMap::<&Target, Escapes>::new();
        for role in policy.roles().filter(|role| role.cluster() == name) {
            let account = match role.gives() {
                Gives::Bound(account) | Gives::Unbound(account) => account,
                Gives::Strict(strict) => {
                    let escapes = escape::of_strict(strict, self.clock.now());
                    let before = locked(&self.escapes).insert(role.name().clone(), escapes.clone());
                    if let Escapes::Found { .. } = escapes {
                        tell(role, &escapes, before);
                    }
                    continue;
                }
            };
            if !found.contains_key(account) {
                found.insert(account, escape::ask(account, cluster, self.clock.now()).await);
            }
            let escapes = found[account].clone();
            tell(role, &escapes, locked(&self.escapes).insert(role.name().clone(), escapes.clone()));
        }
        found.values().all(|escapes| matches!(escapes, Escapes::Found { .. }))
    }

    /// By what the role's jobs can leave something behind; none before it was asked.
    pub fn escapes_of(&self, role: &Name) -> Option<Escapes> {
        locked(&self.escapes).get(role).cloned()
    }
}

/// What the role needs and its ServiceAccount is not allowed.
pub async fn missing_of(
    role: &Role,
    account: &Target,
    cluster: &dyn Cluster,
) -> Result<Option<Missing>, MintError> {
    let rights: Vec<Right> = role.needs().iter().flat_map(Need::rights).collect();
    Ok(Missing::of(cluster.lacking(account, &rights).await?))
}

/// Asks what the ServiceAccounts of a cluster's roles may do that outlives a lease: at start, then hourly, when
/// roles change, and sooner where they could not be asked about.
pub(crate) async fn keep(cluster: Arc<dyn Cluster>, outside: Arc<Outside>, stop: CancellationToken) {
    let (cluster, reviews) = (&cluster, &outside.reviews);
    let look = |policy: Arc<Policy>| async move {
        let known = reviews.look(&policy, cluster.as_ref()).await;
        if known { EVERY } else { AGAIN }
    };
    outside.policy.follow(outside.clock.as_ref(), &stop, look).await;
}

/// What is new, for whoever reads the log.
fn tell(role: &Role, escapes: &Escapes, before: Option<Escapes>) {
    let role = role.name();
    match (escapes, before) {
        (Escapes::Found { rights, .. }, Some(Escapes::Found { rights: before, .. })) if *rights == before => {
        }
        (Escapes::Found { rights, .. }, _) if !rights.is_empty() => {
            tracing::warn!(%role, rights = rights.join("; "), "jobs of this role can leave something behind that outlives their leases");
        }
        (Escapes::Unknown(cause), before) if before != Some(escapes.clone()) => {
            tracing::warn!(%role, cause, "it is not known whether jobs of this role can leave something behind");
        }
        (Escapes::Found { .. } | Escapes::Unknown(_), _) => {}
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
