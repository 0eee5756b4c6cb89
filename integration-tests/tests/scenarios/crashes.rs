//! SIGKILL at every boundary of the flow, and at random: what a client was told holds afterwards.
//!
//! Some issuers, each with a cluster's namespace of its own, are killed again and again while a platform starts jobs,
//! issues, refreshes and releases, bound and strict, and an operator revokes, unblocks, bans and unbans another platform. The
//! issuer names its fail points itself, so that none is forgotten here. What is random comes from a seed that is printed;
//! `SHOREPASS_TEST_SEED` repeats it, `SHOREPASS_TEST_KILLS` sets how often is killed.

mod caller;
mod checks;
mod shutting_out;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::client::Client;
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::site::{DEPLOY, RELEASE, Site};
use integration_tests::wait::{self, Seen};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::SystemClock;
use shorepass_rpc::client::ClientError;

use self::caller::Caller;

/// How often issuers are killed in a normal run.
const KILLS: u32 = 200;

/// After so many calls without its point the issuer is killed from outside.
const CALLS: u32 = 24;

/// Each so manieth kill comes from outside, in the middle of whatever it does.
const OUTSIDE: u32 = 5;

/// What both platforms ask for.
const ROLES: &[&str] = &[DEPLOY.name, RELEASE.name];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_boundary_the_issuer_keeps_what_it_said() -> Result<()> {
    let kills = number("SHOREPASS_TEST_KILLS")?.unwrap_or(KILLS.into());
    let seed = number("SHOREPASS_TEST_SEED")?.unwrap_or(SystemClock.now().as_second().unsigned_abs());
    println!("crashes: SHOREPASS_TEST_SEED={seed} SHOREPASS_TEST_KILLS={kills}");
    let each = u32::try_from(kills).unwrap_or(u32::MAX).div_ceil(4);
    let lane = |number| run_lane(number, seed, each);
    let lanes = tokio::try_join!(lane(0), lane(1), lane(2), lane(3))?;
    let mut died = BTreeMap::<String, u32>::new();
    let mut missed = BTreeSet::<String>::new();
    for (points, lane) in <[_; 4]>::from(lanes) {
        missed.extend(points);
        for (point, times) in lane {
            *died.entry(point).or_default() += times;
        }
    }
    missed.retain(|point| !died.contains_key(point));
    println!("crashes: {died:?}");
    ensure!(u64::from(died.values().sum::<u32>()) >= kills, "{died:?}");
    ensure!(missed.is_empty(), "never died at {missed:?}: {died:?}");
    Ok(())
}

fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable} is no number: {text}"))
}

/// All points, and how often it died where.
async fn run_lane(number: u32, seed: u64, kills: u32) -> Result<(Vec<String>, BTreeMap<String, u32>)> {
    let (mut lane, points) = Lane::begin(number, seed).await?;
    let start = Instant::now();
    let mut died = BTreeMap::<String, u32>::new();
    // Each lane begins elsewhere, so that few kills come by all points too.
    let mut turns = points.iter().cycle().skip(number as usize * points.len() / 4);
    for round in 0..kills {
        let outside = round % OUTSIDE == OUTSIDE - 1;
        let point = if outside { None } else { turns.next() };
        // Proofs share a control while it lives: a second one may be long in coming.
        let most = if point.is_some_and(|point| point.starts_with("control-")) { 1 } else { 2 };
        let count = lane.rng.random_range(1..=most);
        lane.issuer.dies_at(point.map(|point| (point.as_str(), count)));
        let context = || format!("round {round}, {point:?}:{count}; {}", lane_hint(seed));
        let by_itself = lane.live_and_die(point.map(String::as_str)).await.with_context(context)?;
        let place = point.filter(|_| by_itself).map_or("outside", String::as_str);
        *died.entry(place.to_owned()).or_default() += 1;
    }
    let killed = start.elapsed();
    lane.issuer.dies_at(None);
    lane.settle().await.with_context(|| lane_hint(seed))?;
    println!("crashes: lane {number} was killed for {killed:.0?}, and settled by {:.0?}", start.elapsed());
    Ok((points, died))
}

fn lane_hint(seed: u64) -> String {
    format!("repeat with SHOREPASS_TEST_SEED={seed}")
}

/// One issuer, its clients, and what they were told. The issuer is dropped before its cluster's side.
struct Lane {
    rng: StdRng,
    platform: Caller,
    /// Whose leases the operator revokes, and whom it bans.
    victim: Caller,
    operator: Client,
    told: shutting_out::Told,
    issuer: IssuerUnderTest,
    site: Site,
}

/// A call that did not come through.
enum Failure {
    /// The issuer is gone, or going.
    Gone,
    /// It must not happen.
    Wrong(anyhow::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(refusal) => Self::Wrong(anyhow::anyhow!("refused: {refusal}")),
            ClientError::Connect(_) | ClientError::Broken(_) | ClientError::Deadline(_) => Self::Gone,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Wrong(error)
    }
}

/// One thing that somebody asks for.
#[derive(Clone, Copy, Debug)]
enum Call {
    StartJob,
    Issue(Option<&'static str>),
    Refresh,
    Release(Option<&'static str>),
    Revoke { waits: bool },
    Ban,
}

impl Lane {
    /// With an issuer that has run and was killed; and its points.
    async fn begin(number: u32, seed: u64) -> Result<(Self, Vec<String>)> {
        let site = Site::with_modes(&format!("crashes-{number}")).await?;
        let server = site.server()?.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let log = "warn,shorepass_issuer=info";
        let knobs = Knobs { log, endpoints: vec![server], lag_bound: "1s", ..Knobs::default() };
        let issuer = IssuerUnderTest::start(&site, knobs).await?;
        let points = issuer.fail_points()?;
        let mut lane = Self {
            rng: StdRng::seed_from_u64(seed.wrapping_add(u64::from(number))),
            platform: Caller::new(issuer.platform("test-portal")?, ROLES),
            victim: Caller::new(issuer.platform("test-victim")?, ROLES),
            operator: issuer.operator()?,
            told: shutting_out::Told::new(),
            issuer,
            site,
        };
        lane.issuer.kill()?;
        Ok((lane, points))
    }

    fn reset(&self) {
        for client in [&self.platform.client, &self.victim.client, &self.operator] {
            client.reset();
        }
    }

    /// Starts the issuer, checks, works until it dies at its point, or else is killed; whether it died by itself.
    async fn live_and_die(&mut self, point: Option<&str>) -> Result<bool> {
        self.reset();
        if let Err(error) = self.issuer.run().await {
            // The sweeper may come by the point before anybody else does.
            self.issuer_is_gone().await.with_context(|| format!("{error:#}"))?;
            return Ok(true);
        }
        let patience = match point {
            None => Duration::from_millis(self.rng.random_range(1..400)),
            Some(_) => Duration::from_secs(90),
        };
        match tokio::time::timeout(patience, self.work(point)).await {
            Err(_elapsed) if point.is_none() => {}
            Err(_elapsed) => anyhow::bail!("the calls take for ever"),
            Ok(Ok(())) => {}
            Ok(Err(Failure::Wrong(error))) => return Err(error),
            Ok(Err(Failure::Gone)) => {
                self.issuer_is_gone().await?;
                return Ok(true);
            }
        }
        let by_itself = self.issuer.is_killed()?;
        self.issuer.kill()?;
        Ok(by_itself)
    }

    /// A process is over when its last thread is, somewhat later than it looks.
    async fn issuer_is_gone(&mut self) -> Result<()> {
        wait::until("the issuer's end", Duration::from_secs(10), async || {
            let killed = self.issuer.is_killed()?;
            Ok(if killed { Seen::Ready(()) } else { Seen::NotYet("it runs".to_owned()) })
        })
        .await
    }

    async fn work(&mut self, point: Option<&str>) -> Result<(), Failure> {
        self.check().await?;
        for _ in 0..CALLS {
            let call = match point.and_then(fitting).filter(|_| self.rng.random_ratio(2, 3)) {
                Some(call) => call,
                None => self.any_call(),
            };
            self.make(call).await?;
        }
        Ok(())
    }

    fn any_call(&mut self) -> Call {
        match self.rng.random_range(0..12) {
            0 => Call::StartJob,
            1..=4 => Call::Issue(None),
            5..=6 => Call::Refresh,
            7..=9 => Call::Release(None),
            10 => Call::Revoke { waits: self.waits() },
            _ => Call::Ban,
        }
    }

    async fn make(&mut self, call: Call) -> Result<(), Failure> {
        let (platform, rng) = (&mut self.platform, &mut self.rng);
        match call {
            Call::StartJob => platform.start_job().await?.done(),
            Call::Issue(role) => platform.issue(rng, role).await?.done(),
            Call::Refresh => platform.refresh(rng).await?.done(),
            Call::Release(role) => platform.release(rng, role).await?.done(),
            Call::Revoke { waits } => self.revoke(waits).await,
            Call::Ban => self.ban().await,
        }
    }
}

/// What comes by a point that few calls come by.
fn fitting(point: &str) -> Option<Call> {
    match point {
        "binding-made" | "account-made" => Some(Call::Issue(Some(RELEASE.name))),
        "binding-deleted" | "strict-anchor-deleted" => Some(Call::Release(Some(RELEASE.name))),
        // By the last three the platform comes in most of its other calls.
        "blocks-recorded" | "ending-recorded" | "anchor-cut" | "ended-recorded" => {
            Some(Call::Revoke { waits: false })
        }
        // Who waits for a receipt gets one also on a slow machine.
        "control-recorded" | "control-made" | "control-deleted" => Some(Call::Revoke { waits: true }),
        "ban-recorded" | "ban-lifted" => Some(Call::Ban),
        _ => None,
    }
}
