//! `mint`: Issue against anchor and TokenRequest sent straight to the API server. `refresh`: Refresh against a TokenRequest.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use integration_tests::client::Client;
use integration_tests::site::DEPLOY;
use shorepass_proto::v1::ErrorReason;
use shorepass_rpc::client::ClientError;

use crate::cluster::{Anchor, Bench};
use crate::measure::{Goal, Load, Measured, load};

/// How long each side runs in a round.
const TIME: Duration = Duration::from_secs(5);
/// How long each side runs before the first round.
const WARM_UP: Duration = Duration::from_secs(2);
/// How many callers there are at once.
const CALLERS: [usize; 3] = [1, 16, 64];
/// The callers of one identity: more would meet its limit of calls at once.
const CALLERS_OF_ONE: usize = 16;

/// Rounds of ours and the yardstick in turn.
struct Pairs {
    callers: usize,
    ours: Vec<Load>,
    yardstick: Vec<Load>,
    /// CPU seconds per call: issuer and loader in ours, loader in the yardstick.
    cpu: [f64; 3],
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
        measured.extend(told(
            "mint",
            "leases/s",
            pairs(&bench, rounds, callers, ours, yardstick, true).await?,
        ));
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
        measured.extend(told(
            "refresh",
            "tokens/s",
            pairs(&bench, rounds, callers, ours, yardstick, false).await?,
        ));
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

async fn pairs(
    bench: &Bench,
    rounds: usize,
    callers: usize,
    ours: impl AsyncFn(Duration) -> Result<Load>,
    yardstick: impl AsyncFn(Duration) -> Result<Load>,
    clear: bool,
) -> Result<Pairs> {
    ours(WARM_UP).await?;
    yardstick(WARM_UP).await?;
    let mut pairs = Pairs { callers, ours: Vec::new(), yardstick: Vec::new(), cpu: [0.0; 3] };
    let (mut done, mut done_directly) = (0.0, 0.0);
    for round in 0..rounds {
        eprintln!("{callers} callers, round {} of {rounds}", round + 1);
        let before = bench.cpu()?;
        let load = ours(TIME).await?;
        let between = bench.cpu()?;
        done += load.throughput() * TIME.as_secs_f64();
        pairs.ours.push(load);
        if clear {
            bench.clear().await?;
        }
        let again = bench.cpu()?;
        let load = yardstick(TIME).await?;
        let after = bench.cpu()?;
        done_directly += load.throughput() * TIME.as_secs_f64();
        pairs.yardstick.push(load);
        if clear {
            bench.clear().await?;
        }
        pairs.cpu[0] += between.0 - before.0;
        pairs.cpu[1] += between.1 - before.1;
        pairs.cpu[2] += after.1 - again.1;
    }
    pairs.cpu = [pairs.cpu[0] / done, pairs.cpu[1] / done, pairs.cpu[2] / done_directly];
    Ok(pairs)
}

fn told(what: &str, unit: &'static str, pairs: Pairs) -> Vec<Measured> {
    let Pairs { callers, ours, yardstick, cpu } = pairs;
    let both = |pick: fn(&Load) -> f64| ours.iter().map(pick).zip(yardstick.iter().map(pick)).collect();
    let besides = vec![
        ("CPU ms per call, issuer", cpu[0] * 1_000.0),
        ("CPU ms per call, loader", cpu[1] * 1_000.0),
        ("CPU ms per call, loader of the yardstick", cpu[2] * 1_000.0),
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
