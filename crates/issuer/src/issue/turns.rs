//! Turns at the clusters: who may ask which cluster for a token now, and who comes back later.
//!
//! A turn is taken before anything is recorded, so that a mint that gets none leaves no trace in the ledger. Each cluster
//! has permits of its own, of which one caller may hold three quarters: one cluster that hangs holds up no other, and one
//! caller no other caller. A cluster that fails again and again, or says that it is busy, is left alone
//! ([`breaker`](shorepass_core::breaker)). Deletes take no turn: nothing holds up an end.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shorepass_core::breaker::{Breaker, Outcome, Pass, Withheld};
use shorepass_core::caller::SpiffeId;
use shorepass_core::cluster::MintError;
use shorepass_core::mint::Minted;
use shorepass_core::name::Name;
use shorepass_core::time::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a mint waits for its permits.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// When somebody comes back who got none.
const RETRY: Duration = Duration::from_secs(1);
/// The least that anybody is told to wait.
const RETRY_LEAST: Duration = Duration::from_millis(200);

/// The turns of all clusters.
#[derive(Debug)]
pub struct Turns(BTreeMap<Name, Arc<Desk>>);

/// One cluster's.
struct Desk {
    cluster: Name,
    clock: Arc<dyn Clock>,
    all: Arc<Semaphore>,
    /// How many of them one caller may hold.
    share: usize,
    /// Those who hold some or wait for some.
    callers: Mutex<HashMap<SpiffeId, Arc<Semaphore>>>,
    breaker: Mutex<Breaker>,
}

/// Leave to mint one token; back when dropped.
#[must_use]
pub struct Turn {
    seat: Seat,
    _permit: OwnedSemaphorePermit,
    pass: Option<Pass>,
}

/// A caller's part of a turn, or its place in the queue for one.
struct Seat {
    desk: Arc<Desk>,
    caller: SpiffeId,
    permit: Option<OwnedSemaphorePermit>,
}

/// Why there is no turn now.
#[derive(Debug, thiserror::Error)]
pub enum NoTurn {
    /// The cluster has failed again and again.
    #[error("the API server of cluster {cluster} cannot be reached: {cause}; it is tried again soon")]
    Failing {
        /// Which.
        cluster: Name,
        /// The last reason.
        cause: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The cluster said that it has too much to do.
    #[error("cluster {cluster} is busy and wants to be left alone for now: try again later")]
    Busy {
        /// Which.
        cluster: Name,
        /// When to come back.
        retry_after: Duration,
    },
    /// All permits are taken.
    #[error(
        "cluster {cluster} is busy, all mints that the issuer begins there at once are under way: try again later"
    )]
    Full {
        /// Which.
        cluster: Name,
    },
    /// The caller has its share of them.
    #[error(
        "cluster {cluster} is busy with mints of this caller, which may have {share} under way at once: try again later"
    )]
    Share {
        /// Which.
        cluster: Name,
        /// How many.
        share: usize,
    },
}

impl Turns {
    /// For these clusters, each with so many mints at once.
    pub fn new(clusters: impl IntoIterator<Item = Name>, at_once: usize, clock: &Arc<dyn Clock>) -> Self {
        let desk = |cluster: Name| {
            let desk = Desk {
                cluster: cluster.clone(),
                clock: clock.clone(),
                all: Arc::new(Semaphore::new(at_once)),
                share: (at_once * 3 / 4).max(1),
                callers: Mutex::default(),
                breaker: Mutex::default(),
            };
            (cluster, Arc::new(desk))
        };
        Self(clusters.into_iter().map(desk).collect())
    }

    /// A turn at the cluster; waits for [`PATIENCE`] at most. None if there is no such cluster.
    pub async fn take(&self, cluster: &Name, caller: &SpiffeId) -> Option<Result<Turn, NoTurn>> {
        let desk = self.0.get(cluster)?;
        let turn = desk.clone().take(caller).await;
        if let Err(cause) = &turn {
            metrics::counter!("shorepass_mints_withheld_total", "cluster" => cluster.to_string(), "cause" => cause.name())
                .increment(1);
        }
        Some(turn)
    }

    /// How each cluster does: why it is left alone, if it is.
    pub fn left_alone(&self) -> impl Iterator<Item = (&Name, Option<NoTurn>)> {
        self.0.iter().map(|(name, desk)| (name, desk.left_alone().err()))
    }
}

impl Desk {
    async fn take(self: Arc<Self>, caller: &SpiffeId) -> Result<Turn, NoTurn> {
        self.left_alone()?; // nobody waits for what is left alone
        let mut seat = Seat { desk: self.clone(), caller: caller.clone(), permit: None };
        let own = self.own(caller);
        let queue = async {
            seat.permit = own.acquire_owned().await.ok();
            self.all.clone().acquire_owned().await.ok()
        };
        let Ok(Some(permit)) = timeout(PATIENCE, queue).await else {
            let cluster = self.cluster.clone();
            let share = self.share;
            return Err(match &seat.permit {
                Some(_) => NoTurn::Full { cluster },
                None => NoTurn::Share { cluster, share },
            });
        };
        let pass = self.breaker().ask(self.clock.since_boot()).map_err(|withheld| self.no_turn(withheld))?;
        Ok(Turn { seat, _permit: permit, pass: Some(pass) })
    }

    fn left_alone(&self) -> Result<(), NoTurn> {
        let withheld = self.breaker().withheld(self.clock.since_boot());
        withheld.map_or(Ok(()), |withheld| Err(self.no_turn(withheld)))
    }

    fn no_turn(&self, withheld: Withheld) -> NoTurn {
        let cluster = self.cluster.clone();
        match withheld {
            Withheld::Failing { cause, retry_after } => {
                NoTurn::Failing { cluster, cause, retry_after: retry_after.max(RETRY_LEAST) }
            }
            Withheld::Busy { retry_after } => {
                NoTurn::Busy { cluster, retry_after: retry_after.max(RETRY_LEAST) }
            }
        }
    }

    fn own(&self, caller: &SpiffeId) -> Arc<Semaphore> {
        let share = || Arc::new(Semaphore::new(self.share));
        self.callers().entry(caller.clone()).or_insert_with(share).clone()
    }

    fn tell(&self, pass: Pass, outcome: Outcome) {
        let now = self.clock.since_boot();
        let mut breaker = self.breaker();
        let before = breaker.withheld(now).is_some();
        breaker.tell(pass, outcome, now);
        let after = breaker.withheld(now);
        drop(breaker);
        match after {
            Some(withheld) if !before => {
                let cause = self.no_turn(withheld);
                tracing::warn!(cluster = %self.cluster, %cause, "the cluster is left alone for now");
            }
            None if before => tracing::info!(cluster = %self.cluster, "the cluster works again"),
            Some(_) | None => {}
        }
    }

    // Nothing panics under these locks.
    fn callers(&self) -> MutexGuard<'_, HashMap<SpiffeId, Arc<Semaphore>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// It is over, with this result.
    pub fn over(mut self, result: &Result<Minted, MintError>) {
        if let Some(pass) = self.pass.take() {
            self.seat.desk.tell(pass, outcome(result));
        }
    }
}

/// What a mint says about the cluster. Refusals and answers that make no sense are answers.
fn outcome(result: &Result<Minted, MintError>) -> Outcome {
    match result {
        Err(MintError::Unreachable { cause, .. }) => Outcome::Failed(cause.clone()),
        Err(MintError::Busy { retry_after, .. }) => Outcome::Busy(*retry_after),
        Ok(_) | Err(_) => Outcome::Answered,
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.seat.desk.tell(pass, Outcome::Unknown);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.permit = None; // it counts as one who holds the semaphore
        let mut callers = self.desk.callers();
        if callers.get(&self.caller).is_some_and(|own| Arc::strong_count(own) == 1) {
            callers.remove(&self.caller);
        }
    }
}

impl NoTurn {
    /// When to come back.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Failing { retry_after, .. } | Self::Busy { retry_after, .. } => *retry_after,
            Self::Full { .. } | Self::Share { .. } => RETRY,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Failing { .. } => "failing",
            Self::Busy { .. } => "busy",
            Self::Full { .. } => "full",
            Self::Share { .. } => "share",
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk")
            .field("cluster", &self.cluster)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use shorepass_core::breaker::FAILURES;
    use shorepass_testing::outside::ManualClock;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn caller(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://ci.example.org/runner/{name}")).unwrap()
    }

    fn turns(at_once: usize) -> Turns {
        let clock: Arc<dyn Clock> = ManualClock::new();
        Turns::new([name("good"), name("bad")], at_once, &clock)
    }

    async fn take(turns: &Turns, cluster: &str, who: &str) -> Result<Turn, NoTurn> {
        turns.take(&name(cluster), &caller(who)).await.unwrap()
    }

    fn unreachable() -> Result<Minted, MintError> {
        Err(MintError::Unreachable { cluster: name("bad"), cause: "reset".to_owned() })
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_never_has_all_permits() {
        let turns = turns(4);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(take(&turns, "good", "greedy").await.unwrap());
        }
        assert!(matches!(take(&turns, "good", "greedy").await, Err(NoTurn::Share { share: 3, .. })));
        let modest = take(&turns, "good", "modest").await.unwrap();
        assert!(matches!(take(&turns, "good", "third").await, Err(NoTurn::Full { .. })));
        drop(modest);
        assert!(take(&turns, "good", "third").await.is_ok());
        drop(held);
        assert!(turns.0[&name("good")].callers().is_empty(), "callers are kept in mind for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_and_goes_away_is_forgotten() {
        let turns = turns(1);
        let held = take(&turns, "good", "one").await.unwrap();
        let waits = timeout(PATIENCE / 2, take(&turns, "good", "two")).await;
        assert!(waits.is_err());
        assert_eq!(turns.0[&name("good")].callers().len(), 1);
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cluster_holds_up_no_other() {
        let turns = turns(1);
        let _held = take(&turns, "bad", "one").await.unwrap();
        assert!(matches!(take(&turns, "bad", "two").await, Err(NoTurn::Full { .. })));
        assert!(take(&turns, "good", "two").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_fails_is_left_alone_and_the_others_are_not() {
        let turns = turns(16);
        for _ in 0..FAILURES {
            take(&turns, "bad", "one").await.unwrap().over(&unreachable());
        }
        let Err(NoTurn::Failing { cause, .. }) = take(&turns, "bad", "two").await else {
            panic!("it is asked")
        };
        assert_eq!(cause, "reset");
        assert!(take(&turns, "good", "two").await.is_ok());
        let alone: Vec<&str> =
            turns.left_alone().filter(|(_, why)| why.is_some()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(alone, ["bad"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_cluster_is_left_alone_by_all() {
        let turns = turns(16);
        let retry_after = Duration::from_secs(7);
        let busy = Err(MintError::Busy { cluster: name("bad"), retry_after });
        take(&turns, "bad", "one").await.unwrap().over(&busy);
        let refused = take(&turns, "bad", "two").await.err().unwrap();
        assert!(matches!(refused, NoTurn::Busy { .. }) && refused.retry_after() == retry_after);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_answers() {
        let turns = turns(16);
        for _ in 0..2 * FAILURES {
            let cluster = name("bad");
            take(&turns, "bad", "one").await.unwrap().over(&Err(MintError::WebhookFails { cluster }));
        }
        assert!(take(&turns, "bad", "one").await.is_ok());
    }
}
