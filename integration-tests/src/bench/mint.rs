//! `mint`: Issue against anchor and TokenRequest sent straight to the API server. `refresh`: Refresh against a TokenRequest.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use integration_tests::client::Client;
use integration_tests::site::DEPLOY;
use shorepass_proto::v1::{ErrorReason, HeartbeatRequest};
use shorepass_rpc::client::{ApiClient, ClientError};

use crate::cluster::{Anchor, Bench};
use crate::measure::{Cpu, Goal, Load, Measured, load, median, syncs};

/// How long each side runs in a round.
const TIME: Duration = Duration::from_secs(5);
/// How long calls that do nothing run, and syncs: longer would meet the limit of an identity's calls.
const LEAST_TIME: Duration = Duration::from_millis(500);
/// How long each side runs before the first round.
const WARM_UP: Duration = Duration::from_secs(2);
/// How many callers there are at once.
const CALLERS: [usize; 3] = [1, 16, 64];
/// The callers of one identity: more would meet its limit of calls at once.
const CALLERS_OF_ONE: usize = 16;

/// Rounds of ours and the yardstick in turn.
struct Pairs {
    ours: Vec<Load>,
    yardstick: Vec<Load>,
    /// Of one call: ours, and the yardstick's.
    cpu: [Cpu; 2],
    least: Least,
}

/// What it costs to stand between a caller and an API server and to do nothing there.
struct Least {
    /// Of one call: CPU, and milliseconds.
    cpu: Cpu,
    p50: f64,
    /// One sync of an audit line: milliseconds.
    sync: f64,
}

/// Issue.
pub(crate) async fn mint(rounds: usize) -> Result<Vec<Measured>> {
    let bench = Bench::start("bench-mint").await?;
    let platforms = platforms(&bench)?;
    let mut measured = Vec::new();
    for callers in CALLERS {
        let jobs = Arc::new(jobs(&platforms, callers).await?);
        let ours = async |time| {
            let jobs = jobs.clone();
            load(callers, time, move |caller| {
                let jobs = jobs.clone();
                async move {
                    let (client, job) = &jobs[caller];
                    while let Err(error) = client.issue(job, DEPLOY.name).await {
                        waited_for_room(error).await?;
                    }
                    Ok(())
                }
            })
            .await
        };
        let yardstick = async |time| {
            let direct = bench.direct.clone();
            load(callers, time, move |_| {
                let direct = direct.clone();
                async move { direct.mint().await }
            })
            .await
        };
        let nothing = nothing(jobs.iter().map(|(client, _)| client.clone()).collect());
        let pairs = pairs(&bench, rounds, callers, ours, yardstick, nothing, true).await?;
        measured.extend(told("mint", "leases/s", callers, 2.0, &pairs));
    }
    Ok(measured)
}

/// Refresh.
pub(crate) async fn refresh(rounds: usize) -> Result<Vec<Measured>> {
    let bench = Bench::start("bench-refresh").await?;
    let platforms = platforms(&bench)?;
    let mut measured = Vec::new();
    for callers in CALLERS {
        let mut leases = Vec::new();
        for (client, job) in jobs(&platforms, callers).await? {
            let lease = client.issue(&job, DEPLOY.name).await?.lease.id;
            leases.push((client, lease, bench.direct.anchor().await?));
        }
        let leases: Arc<Vec<(Client, String, Anchor)>> = Arc::new(leases);
        let ours = async |time| {
            let leases = leases.clone();
            load(callers, time, move |caller| {
                let leases = leases.clone();
                async move {
                    let (client, lease, _) = &leases[caller];
                    while let Err(error) = client.refresh(lease).await {
                        waited_for_room(error).await?;
                    }
                    Ok(())
                }
            })
            .await
        };
        let yardstick = async |time| {
            let (leases, direct) = (leases.clone(), bench.direct.clone());
            load(callers, time, move |caller| {
                let (leases, direct) = (leases.clone(), direct.clone());
                async move { direct.token(&leases[caller].2).await }
            })
            .await
        };
        let nothing = nothing(leases.iter().map(|(client, ..)| client.clone()).collect());
        let pairs = pairs(&bench, rounds, callers, ours, yardstick, nothing, false).await?;
        measured.extend(told("refresh", "tokens/s", callers, 1.0, &pairs));
    }
    Ok(measured)
}

/// A caller who is told that the cluster is busy comes again, and has waited.
async fn waited_for_room(error: ClientError) -> Result<()> {
    if error.reason() != Some(ErrorReason::ClusterBusy) {
        return Err(error.into());
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

fn platforms(bench: &Bench) -> Result<Vec<Client>> {
    let count = CALLERS[CALLERS.len() - 1].div_ceil(CALLERS_OF_ONE);
    (0..count).map(|number| bench.issuer.platform(&format!("test-{number}"))).collect()
}

async fn jobs(platforms: &[Client], callers: usize) -> Result<Vec<(Client, String)>> {
    let mut jobs = Vec::new();
    for caller in 0..callers {
        let client = platforms[caller / CALLERS_OF_ONE].clone();
        let job = client.start_job().await?;
        jobs.push((client, job));
    }
    Ok(jobs)
}

/// A call to the issuer for which it does nothing: what stands between a caller and any program that stands there.
fn nothing(clients: Vec<Client>) -> impl AsyncFn(Duration) -> Result<Load> {
    let clients = Arc::new(clients);
    async move |time| {
        let clients = clients.clone();
        load(clients.len(), time, move |caller| {
            let clients = clients.clone();
            async move {
                let request = HeartbeatRequest::default();
                Ok(clients[caller].call(ApiClient::heartbeat, request).await.map(drop)?)
            }
        })
        .await
    }
}

async fn pairs(
    bench: &Bench,
    rounds: usize,
    callers: usize,
    ours: impl AsyncFn(Duration) -> Result<Load>,
    yardstick: impl AsyncFn(Duration) -> Result<Load>,
    nothing: impl AsyncFn(Duration) -> Result<Load>,
    clear: bool,
) -> Result<Pairs> {
    ours(WARM_UP).await?;
    yardstick(WARM_UP).await?;
    let mut pairs = Pairs {
        ours: Vec::new(),
        yardstick: Vec::new(),
        cpu: [Cpu::default(); 2],
        least: least(bench, nothing).await?,
    };
    let [mut ours_used, mut yardstick_used] = [Cpu::default(); 2];
    for round in 0..rounds {
        eprintln!("{callers} callers, round {} of {rounds}", round + 1);
        let before = bench.cpu()?;
        pairs.ours.push(ours(TIME).await?);
        ours_used = ours_used.and(bench.cpu()?.since(before));
        if clear {
            bench.clear().await?;
        }
        let before = bench.cpu()?;
        pairs.yardstick.push(yardstick(TIME).await?);
        yardstick_used = yardstick_used.and(bench.cpu()?.since(before));
        if clear {
            bench.clear().await?;
        }
    }
    let count = |loads: &[Load]| loads.iter().map(Load::count).sum();
    pairs.cpu = [ours_used.per_call(count(&pairs.ours)), yardstick_used.per_call(count(&pairs.yardstick))];
    Ok(pairs)
}

async fn least(bench: &Bench, nothing: impl AsyncFn(Duration) -> Result<Load>) -> Result<Least> {
    let before = bench.cpu()?;
    let load = nothing(LEAST_TIME).await?;
    let cpu = bench.cpu()?.since(before).per_call(load.count());
    let folder = tempfile::tempdir()?;
    Ok(Least { cpu, p50: load.p50(), sync: 1_000.0 / syncs(folder.path(), LEAST_TIME)? })
}

/// One call waits for so many syncs.
fn told(what: &str, unit: &'static str, callers: usize, waited_for: f64, pairs: &Pairs) -> Vec<Measured> {
    let Pairs { ours, yardstick, cpu: [our_cpu, yardstick_cpu], least } = pairs;
    // One caller waits for each step; many keep all CPUs busy.
    let at_best = match callers {
        1 => {
            let direct = median(yardstick.iter().map(Load::p50));
            direct / (direct + least.p50 + waited_for * least.sync)
        }
        _ => yardstick_cpu.machine / (yardstick_cpu.machine + least.cpu.machine),
    };
    let both = |pick: fn(&Load) -> f64| ours.iter().map(pick).zip(yardstick.iter().map(pick)).collect();
    let besides = vec![
        ("CPU ms per call: issuer", our_cpu.issuer),
        ("CPU ms per call: loader", our_cpu.loader),
        ("CPU ms per call: loader of the yardstick", yardstick_cpu.loader),
        ("CPU ms per call: whole machine", our_cpu.machine),
        ("CPU ms per call: whole machine, of the yardstick", yardstick_cpu.machine),
        ("CPU ms per call to the issuer that does nothing: whole machine", least.cpu.machine),
        ("ms per call to the issuer that does nothing", least.p50),
        ("ms per sync of an audit line", least.sync),
        ("ratio of an issuer that did nothing but pass on, and for one caller sync", at_best),
    ];
    let name = |which: &str| match callers {
        1 => format!("{what} {which}, 1 caller"),
        many => format!("{what} {which}, {many} callers"),
    };
    vec![
        Measured {
            name: name("throughput"),
            unit,
            goal: Goal::AtLeast(0.9),
            rounds: both(Load::throughput),
            besides,
        },
        Measured {
            name: name("p50"),
            unit: "ms",
            goal: if callers == 1 { Goal::AtMost(1.25) } else { Goal::None },
            rounds: both(Load::p50),
            besides: Vec::new(),
        },
    ]
}
