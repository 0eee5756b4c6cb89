//! `revoke`: the leases of one caller revoked by an operator, against the same number of anchors deleted directly.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use integration_tests::site::DEPLOY;
use shorepass_proto::v1;

use crate::cluster::Bench;
use crate::measure::{Cpu, Goal, Measured, per_second};

/// How many leases.
const LEASES: usize = 1_000;
/// How many are made at once before the clock runs.
const AT_ONCE: usize = 16;

/// Revokes.
pub(crate) async fn revoke(rounds: usize) -> Result<Vec<Measured>> {
    let bench = Bench::start("bench-revoke").await?;
    let operator = bench.issuer.operator()?;
    let (mut pairs, mut used, mut used_directly) = (Vec::new(), Cpu::default(), Cpu::default());
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        // Another platform each time: the roles of the last one are blocked.
        let platform = bench.issuer.platform(&format!("test-{round}"))?;
        let job = platform.start_job().await?;
        let issue = {
            let platform = platform.clone();
            move |_| {
                let (platform, job) = (platform.clone(), job.clone());
                async move { Ok(platform.issue(&job, DEPLOY.name).await.map(drop)?) }
            }
        };
        make(issue).await?;
        let selector = v1::LeaseSelector { caller: platform.spiffe_id.to_string(), ..Default::default() };
        let (before, started) = (bench.cpu()?, Instant::now());
        let steps = operator.revoke(selector).await?;
        let ours = per_second(LEASES, started.elapsed());
        used = used.and(bench.cpu()?.since(before));
        let last = steps.last().context("nothing was revoked")?;
        ensure!(last.total as usize == LEASES, "{last:?}");

        let anchors = Arc::new(tokio::sync::Mutex::new(Vec::new()));
        let (direct, list) = (bench.direct.clone(), anchors.clone());
        make(move |_| {
            let (direct, list) = (direct.clone(), list.clone());
            async move {
                let anchor = direct.anchor().await?;
                list.lock().await.push(anchor);
                Ok(())
            }
        })
        .await?;
        let anchors = std::mem::take(&mut *anchors.lock().await);
        let (before, started) = (bench.cpu()?, Instant::now());
        let cuts: Vec<_> = anchors
            .into_iter()
            .map(|anchor| {
                let direct = bench.direct.clone();
                tokio::spawn(async move { direct.cut(&anchor).await })
            })
            .collect();
        for cut in cuts {
            cut.await??;
        }
        pairs.push((ours, per_second(LEASES, started.elapsed())));
        used_directly = used_directly.and(bench.cpu()?.since(before));
    }
    let leases = (rounds * LEASES) as f64;
    let (used, used_directly) = (used.per_call(leases), used_directly.per_call(leases));
    Ok(vec![Measured {
        name: format!("revoke throughput, {LEASES} leases of one caller"),
        unit: "leases/s",
        goal: Goal::AtLeast(0.9),
        rounds: pairs,
        besides: vec![
            ("CPU ms per lease: issuer", used.issuer),
            ("CPU ms per lease: whole machine, until the last is revoked", used.machine),
            ("CPU ms per lease: whole machine, of the yardstick", used_directly.machine),
        ],
    }])
}

/// Makes as many as are needed.
async fn make<F>(one: impl Fn(usize) -> F + Clone + Send + Sync + 'static) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|worker| {
            let one = one.clone();
            tokio::spawn(async move {
                for number in (worker..LEASES).step_by(AT_ONCE) {
                    one(number).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}
