//! SIGKILL at every boundary of the flow, and at random: what a client was told holds afterwards.
//!
//! Some issuers, each with a cluster's namespace of its own, are killed again and again while a platform starts jobs,
//! issues, refreshes and releases. The issuer names its fail points itself, so that none is forgotten here. What is random
//! comes from a seed that is printed; `SHOREPASS_TEST_SEED` repeats it, `SHOREPASS_TEST_KILLS` sets how often is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::client::{self, Client};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::site::{DEPLOY, Site};
use integration_tests::use_of_tokens::is_refused_for_good;
use integration_tests::wait::{self, Seen};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::SystemClock;
use shorepass_proto::v1::{self, ErrorReason, LeaseState};
use shorepass_rpc::client::{ApiClient, ClientError};

/// How often issuers are killed in a normal run.
const KILLS: u32 = 200;

/// After so many calls without its point the issuer is killed from outside.
const CALLS: u32 = 24;

/// Each so manieth kill comes from outside, in the middle of whatever it does.
const OUTSIDE: u32 = 5;

/// For a lease that was left pending to be given up (60 s), and its anchor to be deleted.
const GIVEN_UP: Duration = Duration::from_secs(100);

/// How many tokens of ended leases are tried at the API server for each issuer.
const TRIED: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_boundary_the_issuer_keeps_what_it_said() -> Result<()> {
    let kills = number("SHOREPASS_TEST_KILLS")?.unwrap_or(KILLS.into());
    let seed = number("SHOREPASS_TEST_SEED")?.unwrap_or(SystemClock.now().as_second().unsigned_abs());
    println!("crashes: SHOREPASS_TEST_SEED={seed} SHOREPASS_TEST_KILLS={kills}");
    let each = u32::try_from(kills).unwrap_or(u32::MAX).div_ceil(4);
    let lane = |number| run_lane(number, seed, each);
    let lanes = tokio::try_join!(lane(0), lane(1), lane(2), lane(3))?;
    let mut died = BTreeMap::<String, u32>::new();
    for (point, times) in <[_; 4]>::from(lanes).into_iter().flatten() {
        *died.entry(point).or_default() += times;
    }
    let points: BTreeSet<&str> =
        died.keys().map(String::as_str).filter(|point| *point != "outside").collect();
    println!("crashes: {died:?}");
    ensure!(u64::from(died.values().sum::<u32>()) >= kills, "{died:?}");
    ensure!(points.len() >= 9, "some points were never reached: {died:?}");
    Ok(())
}

fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable} is no number: {text}"))
}

/// How often it died where.
async fn run_lane(lane: u32, seed: u64, kills: u32) -> Result<BTreeMap<String, u32>> {
    let site = Site::new(&format!("crashes-{lane}")).await?;
    let issuer =
        IssuerUnderTest::start(&site, Knobs { log: "warn,shorepass_issuer=info", ..Knobs::default() })
            .await?;
    let points = issuer.fail_points()?;
    let (platform, operator) = (issuer.platform("test-portal")?, issuer.operator()?);
    let rng = StdRng::seed_from_u64(seed.wrapping_add(u64::from(lane)));
    let mut lane = Lane { rng, platform, operator, told: Told::default(), issuer, site };
    lane.issuer.kill()?;
    let mut died = BTreeMap::<String, u32>::new();
    for round in 0..kills {
        let from_outside = round % OUTSIDE == OUTSIDE - 1;
        let point = points[(round as usize) % points.len()].clone();
        let count = lane.rng.random_range(1..=3);
        lane.issuer.dies_at((!from_outside).then_some((point.as_str(), count)));
        let context = || format!("round {round}, {point}:{count}; {}", lane_hint(seed));
        let by_itself = lane.live_and_die(from_outside).await.with_context(context)?;
        *died.entry(if by_itself { point } else { "outside".to_owned() }).or_default() += 1;
    }
    lane.issuer.dies_at(None);
    lane.settle().await.with_context(|| lane_hint(seed))?;
    Ok(died)
}

fn lane_hint(seed: u64) -> String {
    format!("repeat with SHOREPASS_TEST_SEED={seed}")
}

/// One issuer, its client, and what the client was told. The issuer is dropped before its cluster's side.
struct Lane {
    rng: StdRng,
    platform: Client,
    operator: Client,
    told: Told,
    issuer: IssuerUnderTest,
    site: Site,
}

/// What the client was told, and what it asked without being told.
#[derive(Default)]
struct Told {
    jobs: Vec<String>,
    leases: BTreeMap<String, Standing>,
    /// By `jti`: the lease and the token.
    tokens: BTreeMap<String, (String, String)>,
    /// Asked and not answered; asked again after the crash, as an agent does.
    start: Option<v1::StartJobRequest>,
    issue: Option<v1::IssueRequest>,
}

/// What the client knows of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It was issued, and its end was not asked for.
    Live,
    /// Its end was asked for, and nobody answered.
    Unknown,
    /// Its end was acknowledged.
    Over,
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

impl Lane {
    /// Starts the issuer, checks, works until it dies; whether it died at its point.
    async fn live_and_die(&mut self, from_outside: bool) -> Result<bool> {
        self.platform.reset();
        self.operator.reset();
        if let Err(error) = self.issuer.run().await {
            // The sweeper may come by the point before anybody else does.
            self.issuer_is_gone().await.with_context(|| format!("{error:#}"))?;
            return Ok(true);
        }
        let patience = match from_outside {
            true => Duration::from_millis(self.rng.random_range(1..400)),
            false => Duration::from_secs(60),
        };
        match tokio::time::timeout(patience, self.work()).await {
            Err(_elapsed) if from_outside => {}
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

    async fn work(&mut self) -> Result<(), Failure> {
        self.check().await?;
        for _ in 0..CALLS {
            match self.rng.random_range(0..10) {
                0 => self.start_job().await?,
                1..=4 => self.issue().await?,
                5..=6 => self.refresh().await?,
                _ => self.release().await?,
            }
        }
        Ok(())
    }

    async fn start_job(&mut self) -> Result<(), Failure> {
        let request = self.told.start.get_or_insert_with(|| client::start_job("1")).clone();
        let answer = self.platform.call(ApiClient::start_job, request).await?;
        self.told.start = None;
        self.told.jobs.push(answer.job.unwrap_or_default().id);
        Ok(())
    }

    async fn issue(&mut self) -> Result<(), Failure> {
        let Some(job) = self.told.jobs.choose(&mut self.rng).cloned() else { return self.start_job().await };
        let request = self.told.issue.get_or_insert_with(|| client::issue(&job, DEPLOY.name)).clone();
        loop {
            match self.platform.call(ApiClient::issue, request.clone()).await {
                Ok(answer) => {
                    self.told.issue = None;
                    let lease = answer.lease.unwrap_or_default().id;
                    self.told.leases.insert(lease.clone(), Standing::Live);
                    self.hold(&lease, answer.credential);
                    return Ok(());
                }
                // The sweeper was faster than the client.
                Err(error) if error.reason() == Some(ErrorReason::LeaseEnded) => {
                    self.told.issue = None;
                    return Ok(());
                }
                Err(error) if error.reason() == Some(ErrorReason::ClusterBusy) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn hold(&mut self, lease: &str, credential: Option<v1::Credential>) {
        let credential = credential.unwrap_or_default();
        self.told.tokens.insert(credential.token_id.clone(), (lease.to_owned(), credential.token.clone()));
    }

    fn one_that_is(&mut self, fits: impl Fn(Standing) -> bool) -> Option<String> {
        let fitting: Vec<&String> =
            self.told.leases.iter().filter(|(_, standing)| fits(**standing)).map(|(id, _)| id).collect();
        fitting.choose(&mut self.rng).map(|id| (*id).clone())
    }

    async fn refresh(&mut self) -> Result<(), Failure> {
        let Some(lease) = self.one_that_is(|standing| standing == Standing::Live) else {
            return self.issue().await;
        };
        let issued = self.platform.refresh(&lease).await?;
        self.hold(&lease, Some(issued.credential));
        Ok(())
    }

    async fn release(&mut self) -> Result<(), Failure> {
        let Some(lease) = self.one_that_is(|standing| standing != Standing::Over) else {
            return self.issue().await;
        };
        self.told.leases.insert(lease.clone(), Standing::Unknown);
        self.platform.release(&lease).await?;
        self.told.leases.insert(lease, Standing::Over);
        Ok(())
    }

    /// What was acknowledged is there, and what is there has its anchor.
    async fn check(&self) -> Result<(), Failure> {
        let records = self.records().await?;
        let secrets =
            self.site.place.secrets().list(&Default::default()).await.context("cannot list anchors")?;
        let anchors: BTreeSet<String> = secrets.items.into_iter().filter_map(|it| it.metadata.name).collect();
        for (id, standing) in &self.told.leases {
            let record = records.get(id).with_context(|| format!("lease {id} is lost"))?;
            let (state, live) = (state_of(record), is_live(record));
            if (*standing == Standing::Live && state != LeaseState::Active)
                || (*standing == Standing::Over && live)
            {
                return Err(
                    anyhow::anyhow!("lease {id} is {standing:?} for its owner and {state:?} here").into()
                );
            }
            if state == LeaseState::Active && !anchors.contains(&record.anchor) {
                return Err(anyhow::anyhow!("lease {id} is active and its anchor is gone").into());
            }
        }
        self.audited().map_err(Failure::Wrong)
    }

    async fn records(&self) -> Result<BTreeMap<String, v1::LeaseRecord>, ClientError> {
        let id = |record: &v1::LeaseRecord| record.lease.clone().unwrap_or_default().id;
        Ok(self.operator.leases().await?.into_iter().map(|record| (id(&record), record)).collect())
    }

    /// Each token that the client was given is in the audit file once.
    fn audited(&self) -> Result<()> {
        let mut rows = BTreeMap::<String, u32>::new();
        for line in self.issuer.audit()?.iter().filter(|line| line["event"] == "token.minted") {
            *rows.entry(line["jti"].as_str().context("a token without jti")?.to_owned()).or_default() += 1;
        }
        let twice: Vec<_> = rows.iter().filter(|(_, times)| **times > 1).collect();
        ensure!(twice.is_empty(), "audited more than once: {twice:?}");
        let missing: Vec<_> = self.told.tokens.keys().filter(|jti| !rows.contains_key(*jti)).collect();
        ensure!(missing.is_empty(), "handed out and on no record: {missing:?}");
        Ok(())
    }

    /// The last start: everything ends, no anchor is left, and tokens of what ended are dead.
    async fn settle(&mut self) -> Result<()> {
        self.platform.reset();
        self.operator.reset();
        self.issuer.run().await?;
        let gone = |failure| match failure {
            Failure::Wrong(error) => error,
            Failure::Gone => anyhow::anyhow!("the issuer is gone"),
        };
        self.check().await.map_err(gone)?;
        while self.told.issue.is_some() {
            self.issue().await.map_err(gone)?;
        }
        while self.one_that_is(|standing| standing != Standing::Over).is_some() {
            self.release().await.map_err(gone)?;
        }
        wait::until("the end of everything", GIVEN_UP, async || {
            let anchors = self.site.place.secrets().list(&Default::default()).await?.items.len();
            let records = self.records().await?;
            let live = records.values().filter(|record| is_live(record)).count();
            Ok(match (anchors, live) {
                (0, 0) => Seen::Ready(()),
                _ => Seen::NotYet(format!("{anchors} anchors, {live} live leases")),
            })
        })
        .await?;
        self.audited()?;
        for (lease, token) in self.told.tokens.values().take(TRIED) {
            let holder = self.site.admin.client_with(token).await?;
            is_refused_for_good(&holder).await.with_context(|| format!("a token of lease {lease}"))?;
        }
        Ok(())
    }
}

fn state_of(record: &v1::LeaseRecord) -> LeaseState {
    record.lease.as_ref().map_or(LeaseState::Unspecified, v1::Lease::state)
}

fn is_live(record: &v1::LeaseRecord) -> bool {
    matches!(state_of(record), LeaseState::Pending | LeaseState::Active)
}
