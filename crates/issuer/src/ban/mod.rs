//! Bans: an operator shuts somebody out, by name or by enrolment.
//!
//! In this order: the ban is durable; every call of the banned is refused; their connections are closed; the ends of their
//! leases are durable; the anchors are cut. A crash after the first step leaves the rest to the sweeper, and to the next
//! start, which reads who is banned before it serves anybody. Blocks are not touched, neither by a ban nor by its end.

pub mod list;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::ban::{Ban, BanError, BanKey, Banned};
use shorepass_core::caller::{Caller, Owner};
use shorepass_core::id::{EnrolmentId, LeaseId};
use shorepass_core::lease::{Lease, Mode};
use shorepass_core::ledger::{Change, LeaseFilter};
use shorepass_core::time::Timestamp;
use shorepass_rpc::api::{Page, Shutout};
use shorepass_rpc::refused::{Reason, Refused};

use crate::fail_points::{self, Point};
use crate::outside::{Outside, ledger_refused};
use crate::revoke::{Ends, LEASES_IN_A_COMMIT};

/// How many bans are read at once.
const PAGE: usize = 200;

/// Bans and unbans for operators.
#[derive(Clone)]
pub struct Banning {
    outside: Arc<Outside>,
    ends: Ends,
}

/// How long its streams have to hear of the ban before their connections are closed. Nothing is answered to it meanwhile.
const TOLD: Duration = Duration::from_millis(100);

impl Banning {
    /// Of callers of all trust domains that are trusted.
    pub fn new(outside: Arc<Outside>, ends: Ends) -> Self {
        Self { outside, ends }
    }

    /// Shuts somebody out. Who is banned already stays so as it was; what is left of it is ended all the same.
    pub async fn ban(&self, caller: &Caller, whom: BanKey, reason: String) -> Result<Shutout, Refused> {
        let banned = self.find(whom)?;
        let alone = self.outside.gate.write().await; // no lease begins between the ban and the list of those to end
        let ban = self.ends.again_on_conflict(|| self.plan(caller, &banned, &reason)).await?;
        fail_points::reached(Point::BanRecorded);
        self.outside.bans.put(ban.clone());
        let ending = self.end_leases(&ban).await?;
        drop(alone);
        tokio::time::sleep(TOLD).await;
        let connections = self.outside.connections.close(|owner| ban.banned.covers(owner));
        let leases = ending.len();
        let unbound: Vec<_> = ending.iter().filter(|lease| !lease.has_anchor()).cloned().collect();
        ending.into_iter().for_each(|lease| self.ends.cut_in_background(lease));
        let outliving = self.outliving(&ban, &unbound)?;
        let tokens_until = self.tokens_until(unbound.iter().chain(&outliving))?;
        let (unbound, outliving) = (unbound.len(), outliving.len());
        tracing::info!(banned = %ban.banned, by = %ban.by, leases, unbound, outliving, connections, "banned");
        Ok(Shutout { ban, leases, unbound, outliving, tokens_until, connections })
    }

    /// Lets somebody in again. What has ended stays ended.
    pub async fn unban(&self, caller: &Caller, whom: BanKey) -> Result<Ban, Refused> {
        let plan = || {
            let found = self.outside.ledger.ban(&whom).map_err(|cause| ledger_refused(&cause))?;
            let ban = found.filter(Ban::in_force).ok_or_else(|| {
                let message = format!("{whom} is not banned; see `shorepass ban list`");
                Refused::new(Reason::RecordNotFound, message)
            })?;
            let lifted = ban.lift(self.outside.clock.now(), caller.spiffe_id().clone());
            Ok((vec![Change::BanLifted { ban: lifted.clone() }], lifted))
        };
        let _alone = self.outside.gate.write().await; // a ban of the same one has its turn before or after
        let ban = self.ends.again_on_conflict(plan).await?;
        fail_points::reached(Point::BanLifted);
        self.outside.bans.put(ban.clone());
        tracing::info!(banned = %ban.banned, by = %caller.spiffe_id(), "ban lifted");
        Ok(ban)
    }

    /// One page, in the order of the ledger.
    pub fn page(
        &self,
        include_lifted: bool,
        after: Option<BanKey>,
        limit: usize,
    ) -> Result<Page<Ban, BanKey>, Refused> {
        let (mut items, mut after) = (Vec::new(), after);
        loop {
            let page =
                self.outside.ledger.bans(after.as_ref(), PAGE).map_err(|cause| ledger_refused(&cause))?;
            let last = page.len() < PAGE;
            for ban in page {
                after = Some(ban.banned.key());
                if include_lifted || ban.in_force() {
                    items.push(ban);
                }
                if items.len() == limit {
                    return Ok(Page { items, next: after });
                }
            }
            if last {
                return Ok(Page { items, next: None });
            }
        }
    }

    /// Who is meant. A name need not be known here: it may be banned before it comes.
    fn find(&self, whom: BanKey) -> Result<Banned, Refused> {
        match whom {
            BanKey::Name(name) => {
                let known: Vec<_> = self.outside.trust.trust_domains().collect();
                if known.contains(&&name.trust_domain) {
                    return Ok(Banned::Name(name));
                }
                let domains: Vec<String> = known.into_iter().map(ToString::to_string).collect();
                let problem = format!("is of another trust domain than {}", domains.join(" and "));
                Err(Refused::field("subject", problem))
            }
            BanKey::Enrolment(enrolment) => Ok(Banned::Enrolment(self.owner_of(enrolment)?)),
        }
    }

    fn owner_of(&self, enrolment: EnrolmentId) -> Result<Owner, Refused> {
        let found = self.outside.ledger.enrolment(enrolment).map_err(|cause| ledger_refused(&cause))?;
        if let Some(found) = found {
            return Ok(found.owner());
        }
        let made = self.outside.identities.caller_of(enrolment).map_err(|cause| {
            tracing::error!(error = format!("{cause:#}"), "the identities that were made cannot be read");
            let message = "the issuer cannot read which identities were made; ban the SPIFFE ID instead";
            Refused::new(Reason::StoreUnavailable, message)
        })?;
        let spiffe_id = made.ok_or_else(|| {
            let message = format!(
                "no enrolment {enrolment} was made here; it stands as `enrolment` in the audit file and in identities.jsonl"
            );
            Refused::new(Reason::RecordNotFound, message)
        })?;
        Ok(Owner { spiffe_id, enrolment })
    }

    fn plan(&self, caller: &Caller, banned: &Banned, reason: &str) -> Result<(Vec<Change>, Ban), Refused> {
        let before = self.outside.ledger.ban(&banned.key()).map_err(|cause| ledger_refused(&cause))?;
        let now = self.outside.clock.now();
        let ban = Ban::set(banned.clone(), before.as_ref(), caller, reason.to_owned(), now);
        let ban = ban.map_err(|refusal: BanError| Refused::field("subject", refusal))?;
        match before.filter(Ban::in_force) {
            Some(standing) => Ok((Vec::new(), standing)),
            None => Ok((vec![Change::BanSet { ban: ban.clone() }], ban)),
        }
    }

    /// The unbound leases whose end was recorded before the ban, and whose tokens work all the same: whoever gives a lease
    /// back keeps its tokens.
    fn outliving(&self, ban: &Ban, ended_now: &[Lease]) -> Result<Vec<Lease>, Refused> {
        let filter = leases_of(ban);
        let find = || {
            let mut found = self.ends.unfinished(&filter)?;
            found.extend(self.ends.outliving(&filter)?); // in this order: one may end in between
            Ok(found)
        };
        let ended_now: HashSet<LeaseId> = ended_now.iter().map(|lease| lease.id).collect();
        let mut found = find().map_err(|cause| ledger_refused(&cause))?;
        found.retain(|lease| {
            let now = ended_now.contains(&lease.id);
            !lease.has_anchor() && !lease.is_live() && !now && covers(ban, lease)
        });
        found.sort_by_key(|lease| lease.id);
        found.dedup_by_key(|lease| lease.id);
        Ok(found)
    }

    /// When the last token of unbound leases is refused.
    fn tokens_until<'a>(
        &self,
        unbound: impl Iterator<Item = &'a Lease>,
    ) -> Result<Option<Timestamp>, Refused> {
        let mut last = None;
        for lease in unbound {
            last = last.max(match lease.mode {
                Mode::Unbound { tokens_until: Some(until) } => Some(until),
                Mode::Bound | Mode::Strict { .. } | Mode::Unbound { tokens_until: None } => {
                    self.ends.last_token(lease)?
                }
            });
        }
        Ok(last)
    }

    /// In commits of a bounded size.
    async fn end_leases(&self, ban: &Ban) -> Result<Vec<Lease>, Refused> {
        let mut live = self.ends.live(&leases_of(ban)).map_err(|cause| ledger_refused(&cause))?;
        live.retain(|lease| covers(ban, lease));
        let mut ending = Vec::with_capacity(live.len());
        for some in live.chunks(LEASES_IN_A_COMMIT) {
            ending.extend(self.ends.record_ends(some, &ban.cause()).await?.begun);
        }
        Ok(ending)
    }
}

/// Those that may be of whom it is about.
fn leases_of(ban: &Ban) -> LeaseFilter {
    LeaseFilter { caller: Some(ban.banned.spiffe_id().clone()), ..LeaseFilter::default() }
}

fn covers(ban: &Ban, lease: &Lease) -> bool {
    lease.owner.known().is_some_and(|owner| ban.banned.covers(owner))
}
