//! What must hold after each crash, and in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use integration_tests::use_of_tokens::{is_refused_for_good, who_am_i};
use integration_tests::wait::{self, Seen};
use rand::Rng as _;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1::{self, LeaseMode, LeaseState, ReceiptVerdict};
use shorepass_rpc::client::ClientError;
use tokio::task::{JoinSet, LocalSet};

use super::caller::{Known, Standing};
use super::{Failure, Lane};

/// For a lease that was left pending to be given up (60 s), and its anchor to be deleted.
const GIVEN_UP: Duration = Duration::from_secs(100);

/// How many tokens of ended leases are tried at the API server for each caller.
const TRIED: usize = 3;

/// What a strict lease of role `release` has: Secret, ServiceAccount, three RoleBindings.
const PARTS: usize = 5;

/// All leases, as the operator sees them.
pub(super) type Records = BTreeMap<String, v1::LeaseRecord>;

/// The names of all that exists of leases.
struct Existing {
    /// Secrets in the namespace of the roles: anchors of bound leases, and controls.
    secrets: BTreeSet<String>,
    /// Kind and name of what strict leases have, and their controls.
    strict: Vec<String>,
}

impl Existing {
    /// How many objects the lease has.
    fn of(&self, record: &v1::LeaseRecord) -> usize {
        match record.lease.as_ref().map(v1::Lease::mode) {
            Some(LeaseMode::Strict) => {
                self.strict.iter().filter(|name| name.contains(&record.anchor)).count()
            }
            _ => usize::from(self.secrets.contains(&record.anchor)),
        }
    }
}

impl Lane {
    /// What was acknowledged is there, what is there is whole, and nothing is left of what has ended.
    pub(super) async fn check(&mut self) -> Result<(), Failure> {
        let records = self.records().await?;
        let existing = self.existing().await?;
        self.check_whole(&existing).await?;
        for caller in [&self.platform, &self.victim] {
            for (id, known) in &caller.told.leases {
                let record = records.get(id).with_context(|| format!("lease {id} is lost"))?;
                check_lease(record, known, &existing).with_context(|| format!("lease {id}"))?;
            }
        }
        self.audited()?;
        self.check_shut_out(&records).await?;
        if self.rng.random_ratio(1, 3) { self.check_a_receipt(&records).await } else { Ok(()) }
    }

    async fn records(&self) -> Result<Records, ClientError> {
        let id = |record: &v1::LeaseRecord| record.lease.clone().unwrap_or_default().id;
        Ok(self.operator.leases().await?.into_iter().map(|record| (id(&record), record)).collect())
    }

    async fn existing(&self) -> Result<Existing> {
        let secrets =
            self.site.place.secrets().list(&Default::default()).await.context("cannot list anchors")?;
        let secrets = secrets.items.into_iter().filter_map(|it| it.metadata.name).collect();
        Ok(Existing { secrets, strict: self.site.left_of_strict_leases().await? })
    }

    /// No anchor is cut before its end is on record: what is active afterwards was whole.
    async fn check_whole(&self, existing: &Existing) -> Result<(), Failure> {
        for (id, record) in self.records().await? {
            let (parts, whole) = (existing.of(&record), parts_of(&record));
            if state_of(&record) == LeaseState::Active && parts != whole {
                return Err(anyhow!("lease {id} is active and has {parts} of its {whole} objects").into());
            }
        }
        Ok(())
    }

    /// Each token that a client was given is in the audit file once.
    fn audited(&self) -> Result<()> {
        let mut rows = BTreeMap::<String, u32>::new();
        for line in self.issuer.audit()?.iter().filter(|line| line["event"] == "token.minted") {
            *rows.entry(line["jti"].as_str().context("a token without jti")?.to_owned()).or_default() += 1;
        }
        let twice: Vec<_> = rows.iter().filter(|(_, times)| **times > 1).collect();
        ensure!(twice.is_empty(), "audited more than once: {twice:?}");
        let told = self.platform.told.tokens.keys().chain(self.victim.told.tokens.keys());
        let missing: Vec<_> = told.filter(|jti| !rows.contains_key(*jti)).collect();
        ensure!(missing.is_empty(), "handed out and on no record: {missing:?}");
        Ok(())
    }

    /// A token of a lease that is proved to be dead by now, if the victim has one: no crash makes a receipt wrong.
    async fn check_a_receipt(&self, records: &Records) -> Result<(), Failure> {
        let dead = |(_, (lease, _)): &(&String, &(String, String))| {
            records.get(lease).and_then(dead_by).is_some_and(|by| by < Timestamp::now())
        };
        // The newest: of older ones others were tried before.
        let Some((_, (lease, token))) = self.victim.told.tokens.iter().rev().find(dead) else {
            return Ok(());
        };
        let holder = self.site.admin.client_with(token).await?;
        match who_am_i(&holder).await? {
            None => Ok(()),
            Some(_) => Err(anyhow!("lease {lease} is proved to be dead, and its token works").into()),
        }
    }

    /// The last start: everything ends, nothing is left, and tokens of what ended are dead.
    pub(super) async fn settle(&mut self) -> Result<()> {
        self.reset();
        self.issuer.run().await?;
        self.end_all().await.map_err(|failure| match failure {
            Failure::Wrong(error) => error,
            Failure::Gone => anyhow!("the issuer is gone"),
        })?;
        wait::until("the end of everything", GIVEN_UP, async || {
            let existing = self.existing().await?;
            let records = self.records().await?;
            let live = records.values().filter(|record| is_live(record)).count();
            // What never became active may be ending for as long as its anchor might still come into being.
            let half =
                records.values().filter(|it| state_of(it) == LeaseState::Ending && it.pins.is_some()).count();
            Ok(match (existing.secrets.len(), existing.strict.as_slice(), live, half) {
                (0, [], 0, 0) => Seen::Ready(()),
                (anchors, strict, ..) => Seen::NotYet(format!(
                    "{anchors} anchors, {live} live leases, {half} that are ending, of strict ones {strict:?}"
                )),
            })
        })
        .await?;
        self.audited()?;
        LocalSet::new().run_until(self.tokens_are_dead()).await?;
        let receipts = self.records().await?.values().filter(|record| dead_by(record).is_some()).count();
        println!("crashes: {receipts} leases are proved to be dead");
        Ok(())
    }

    async fn end_all(&mut self) -> Result<(), Failure> {
        self.check().await?;
        self.let_in().await?;
        for caller in [&mut self.platform, &mut self.victim] {
            while caller.told.issue.is_some() {
                caller.issue(&mut self.rng, None).await?.done()?;
            }
            while caller.told.leases.values().any(|known| known.standing != Standing::Over) {
                caller.release(&mut self.rng, None).await?.done()?;
            }
        }
        Ok(())
    }

    async fn tokens_are_dead(&self) -> Result<()> {
        let mut tried = JoinSet::new();
        for caller in [&self.platform, &self.victim] {
            for (lease, token) in caller.told.tokens.values().take(TRIED) {
                let (holder, lease) = (self.site.admin.client_with(token).await?, lease.clone());
                tried.spawn_local(async move {
                    is_refused_for_good(&holder).await.with_context(|| format!("a token of lease {lease}"))
                });
            }
        }
        tried.join_all().await.into_iter().collect()
    }
}

fn check_lease(record: &v1::LeaseRecord, known: &Known, existing: &Existing) -> Result<()> {
    let (state, parts) = (state_of(record), existing.of(record));
    match known.standing {
        Standing::Live => {
            ensure!(state == LeaseState::Active, "it is live for its owner and {state:?} here");
        }
        Standing::Over => ensure!(!is_live(record), "it is over for its owner and {state:?} here"),
        Standing::Unknown => {}
    }
    ensure!(state != LeaseState::Ended || parts == 0, "it has ended, and {parts} of its objects are left");
    Ok(())
}

/// How many objects it has while it is active.
fn parts_of(record: &v1::LeaseRecord) -> usize {
    match record.lease.as_ref().map(v1::Lease::mode) {
        Some(LeaseMode::Strict) => PARTS,
        _ => 1,
    }
}

pub(super) fn state_of(record: &v1::LeaseRecord) -> LeaseState {
    record.lease.as_ref().map_or(LeaseState::Unspecified, v1::Lease::state)
}

pub(super) fn is_live(record: &v1::LeaseRecord) -> bool {
    matches!(state_of(record), LeaseState::Pending | LeaseState::Active)
}

/// From when on its receipt says that it is dead.
fn dead_by(record: &v1::LeaseRecord) -> Option<Timestamp> {
    let receipt = record.receipt.as_ref().filter(|it| it.verdict() != ReceiptVerdict::Unproved)?;
    receipt.dead_by_time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}
