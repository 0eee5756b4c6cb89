//! `store`: commits, alone and grouped, against the sync of a file; how long a start takes; whether space stays flat.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use integration_tests::decisions::{self, Decisions};
use shorepass_core::caller::Owner;
use shorepass_core::digest::Digest;
use shorepass_core::id::{LeaseId, RequestId};
use shorepass_core::lease::{AnchorName, EndCause, Lease, Pins};
use shorepass_core::ledger::{Change, Ledger as _, MintedToken};
use shorepass_core::name::Name;
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_core::time::{Clock, Entropy as _, after};
use shorepass_daemon::clock::SystemEntropy;
use shorepass_store::{OnFailure, Options, Store};
use shorepass_testing::outside::ManualClock;
use tokio::task::JoinSet;

use crate::measure::{Goal, Measured, load, per_second, syncs};
use crate::progress::Progress;

/// How long each side commits in a round.
const TIME: Duration = Duration::from_secs(5);
/// How many commit at once where commits are grouped.
const AT_ONCE: usize = 64;
/// Live leases of which a start must know.
const LIVE: usize = 100_000;
/// A start with so many may take this long.
const READY: Duration = Duration::from_secs(2);
/// How many leases one commit moves on.
const GROUP: usize = 200;
/// How many groups are on their way at once: more than that, and history is not removed as fast as it grows.
const IN_FLIGHT: usize = 4;
/// How often space is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// From one group of leases to the next.
const PACE: Duration = Duration::from_secs(60);
/// How long ended leases are kept: of so many groups.
const RETENTION: Duration = Duration::from_secs(60 * 250);

/// Commits, start and space.
pub(crate) async fn store(rounds: usize, cycles: usize) -> Result<Vec<Measured>> {
    let mut measured = commits(rounds).await?;
    measured.extend(start(rounds).await?);
    measured.push(space(cycles).await?);
    Ok(measured)
}

/// Makes leases that differ.
struct Leases {
    like: Lease,
    clock: Arc<ManualClock>,
}

impl Leases {
    fn new(clock: Arc<ManualClock>) -> Result<Self> {
        let (cluster, namespace) = (Name::parse("bench")?, Name::parse("bench")?);
        let role = decisions::role("bench", &cluster, &namespace, "bench", Duration::from_secs(600))?;
        let like = Decisions::new(vec![role])?.order("bench", None)?.lease().clone();
        Ok(Self { like, clock })
    }

    fn lease(&self) -> Lease {
        let mut random = [0; 16];
        SystemEntropy.fill(&mut random);
        let now = self.clock.now();
        let deadline = after(now, Duration::from_secs(3_600));
        let id = LeaseId::generate(now, &SystemEntropy);
        Lease { id, anchor: AnchorName::from_random(random), created: now, deadline, ..self.like.clone() }
    }

    fn pending(&self, lease: &Lease) -> Change {
        let request = Request {
            owner: owner_of(lease),
            job: lease.job,
            method: Method::Issue,
            id: RequestId::generate(self.clock.now(), &SystemEntropy),
            content: Digest::of_bytes(lease.anchor.as_str().as_bytes()),
            outcome: Outcome::Lease(lease.id),
        };
        Change::LeasePending { lease: lease.clone(), request }
    }

    fn active(&self, lease: Lease) -> Result<(Lease, [Change; 2])> {
        let now = self.clock.now();
        let uid = lease.id.to_string();
        let token = MintedToken {
            jti: RequestId::generate(now, &SystemEntropy).to_string(),
            lease: lease.id,
            fingerprint: Digest::of_bytes(uid.as_bytes()),
            issued: now,
            expires: after(now, Duration::from_secs(600)),
            recorded: now,
        };
        let pins = Pins { anchor_uid: uid.clone(), service_account_uid: uid };
        let lease = lease.activate(pins, now)?;
        let minted = Change::TokenMinted { token, owner: owner_of(&lease) };
        Ok((lease.clone(), [Change::LeaseActive { lease }, minted]))
    }
}

fn owner_of(lease: &Lease) -> Owner {
    lease.owner.known().expect("nobody adopts leases here").clone()
}

fn open(folder: &Path, clock: Arc<ManualClock>, retention: Option<Duration>) -> Result<Store> {
    let options = Options { on_failure: OnFailure::Continue, retention };
    Ok(Store::open(folder, options, clock, Arc::new(SystemEntropy))?)
}

async fn commits(rounds: usize) -> Result<Vec<Measured>> {
    let folder = tempfile::tempdir()?;
    let clock = ManualClock::new();
    let (leases, store) =
        (Arc::new(Leases::new(clock.clone())?), Arc::new(open(folder.path(), clock, None)?));
    let (mut alone, mut grouped) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (callers, pairs) in [(1, &mut alone), (AT_ONCE, &mut grouped)] {
            eprintln!("commits, round {} of {rounds}, {callers} at once", round + 1);
            let (leases, store) = (leases.clone(), store.clone());
            let ours = load(callers, TIME, move |_| {
                let (leases, store) = (leases.clone(), store.clone());
                async move { Ok(store.commit(vec![leases.pending(&leases.lease())]).await.map(drop)?) }
            })
            .await?;
            eprintln!("{:.0} commits/s; now the syncs", ours.throughput());
            pairs.push((ours.throughput(), syncs(folder.path(), TIME)?));
        }
    }
    let measured = |name: String, rounds| Measured {
        name,
        unit: "commits/s, syncs/s",
        goal: Goal::None,
        rounds,
        besides: Vec::new(),
    };
    Ok(vec![
        measured("store commits, one after the other".to_owned(), alone),
        measured(format!("store commits, {AT_ONCE} at once"), grouped),
    ])
}

async fn start(rounds: usize) -> Result<Vec<Measured>> {
    let mut progress = Progress::new("live leases", LIVE);
    let folder = tempfile::tempdir()?;
    let clock = ManualClock::new();
    let leases = Leases::new(clock.clone())?;
    let store = open(folder.path(), clock.clone(), None)?;
    for group in 0..LIVE / GROUP {
        begin(&store, &leases).await?;
        progress.tell((group + 1) * GROUP, "");
    }
    drop(store);
    let (mut times, mut memory) = (Vec::new(), 0.0);
    for round in 0..rounds {
        eprintln!("start, round {} of {rounds}", round + 1);
        let (before, started) = (resident()?, Instant::now());
        let store = open(folder.path(), clock.clone(), None)?;
        times.push((started.elapsed().as_secs_f64(), READY.as_secs_f64()));
        memory = f64::max(memory, resident()? - before);
        drop(store);
    }
    Ok(vec![Measured {
        name: format!("start with {LIVE} live leases"),
        unit: "s, of which it may take",
        goal: Goal::AtMost(1.0),
        rounds: times,
        besides: vec![
            ("memory that the first start took, MiB", memory),
            ("ledger on disk, MiB", mib(&folder.path().join("ledger"))?),
        ],
    }])
}

/// A group of leases that live.
async fn begin(store: &Store, leases: &Leases) -> Result<Vec<Lease>> {
    let pending: Vec<Lease> = (0..GROUP).map(|_| leases.lease()).collect();
    store.commit(pending.iter().map(|lease| leases.pending(lease)).collect()).await?;
    let (mut live, mut changes) = (Vec::new(), Vec::new());
    for lease in pending {
        let (lease, two) = leases.active(lease)?;
        live.push(lease);
        changes.extend(two);
    }
    store.commit(changes).await?;
    Ok(live)
}

/// The ledger after all cycles, against itself after a quarter of them. Groups of leases go their way side by side, and what
/// they record at once is one batch of the ledger, as it is with many callers.
async fn space(cycles: usize) -> Result<Measured> {
    let folder = tempfile::tempdir()?;
    let clock = ManualClock::new();
    let leases = Arc::new(Leases::new(clock.clone())?);
    let store = Arc::new(open(folder.path(), clock.clone(), Some(RETENTION))?);
    let ledger = folder.path().join("ledger");
    let (groups, next, done) = (cycles.div_ceil(GROUP), Arc::default(), Arc::new(AtomicUsize::new(0)));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (store, leases, clock) = (store.clone(), leases.clone(), clock.clone());
        let (next, done): (Arc<AtomicUsize>, _) = (Arc::clone(&next), done.clone());
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < groups {
                cycle(&store, &leases).await?;
                clock.advance(PACE);
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    let (mut quarter, mut most, mut progress) = (None, 0.0, Progress::new("lease cycles", groups * GROUP));
    let mut look = tokio::time::interval(LOOK);
    while !tasks.is_empty() {
        tokio::select! {
            Some(task) = tasks.join_next() => task.context("a group of leases panicked")??,
            _ = look.tick() => {
                let (groups_done, size) = (done.load(Ordering::Relaxed), mib(&ledger)?);
                most = f64::max(most, size);
                if groups_done >= groups / 4 {
                    quarter.get_or_insert(size);
                }
                progress.tell(groups_done * GROUP, &format!(", ledger {size:.0} MiB"));
            }
        }
    }
    let took = started.elapsed();
    let size = mib(&ledger)?;
    Ok(Measured {
        name: format!("ledger after {} lease cycles", groups * GROUP),
        unit: "MiB, of a quarter of them",
        goal: Goal::AtMost(1.25),
        rounds: vec![(size, quarter.unwrap_or(size))],
        besides: vec![
            ("largest, MiB", f64::max(most, size)),
            ("audit file, MiB", mib(folder.path())? - size),
            ("lease cycles per second", per_second(groups * GROUP, took)),
        ],
    })
}

/// A group of leases that come and go.
async fn cycle(store: &Store, leases: &Leases) -> Result<()> {
    let now = leases.clock.now();
    let mut ending = Vec::new();
    for lease in begin(store, leases).await? {
        ending.push(lease.begin_end(EndCause::Released, now)?);
    }
    let changes = |all: &[Lease], change: fn(Lease) -> Change| all.iter().cloned().map(change).collect();
    store.commit(changes(&ending, |lease| Change::LeaseEnding { lease })).await?;
    let ended = ending.into_iter().map(|lease| lease.finish_end(now)).collect::<Result<Vec<_>, _>>()?;
    store.commit(changes(&ended, |lease| Change::LeaseEnded { lease })).await?;
    Ok(())
}

fn mib(folder: &Path) -> Result<f64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => (mib(&entry.path())? * 1024.0 * 1024.0) as u64,
            // A file that sled has just removed takes no space.
            false => entry.metadata().map(|it| it.len()).unwrap_or(0),
        };
    }
    Ok(bytes as f64 / 1024.0 / 1024.0)
}

/// Resident memory of this process, in MiB.
fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
