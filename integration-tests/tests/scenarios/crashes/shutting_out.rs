//! What an operator does to the lanes' second caller, the victim: revokes its leases, lifts its blocks, bans and unbans it.
//! And what must hold of that after each crash: what was acknowledged; and of what was not, one or the other and no half.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rand::Rng as _;
use shorepass_proto::v1::{self, EndCause, ErrorReason, LeaseSelector, RevokeOutcome};
use shorepass_rpc::client::ApiClient;

use super::caller::{Answer, Standing};
use super::checks::{Records, is_live};
use super::{Failure, Lane};

/// How long a caller goes on asking over connections that are closed because it is banned.
const TRIES: u32 = 20;

/// What the operator was told.
pub(super) struct Told {
    /// Roles that the victim is blocked from, by the leases whose revocation was acknowledged; forgotten when a lift is asked for.
    blocked: BTreeSet<(String, String)>,
    /// Leases whose revocation was acknowledged.
    revoked: BTreeSet<String>,
    ban: Ban,
}

/// What the operator knows of the ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ban {
    InForce,
    /// It, or its end, was asked for, and nobody answered.
    Unknown,
    None,
}

impl Told {
    pub(super) fn new() -> Self {
        Self { blocked: BTreeSet::new(), revoked: BTreeSet::new(), ban: Ban::None }
    }

    fn is_blocked_from(&self, role: &str) -> bool {
        self.blocked.iter().any(|(_, from)| from == role)
    }
}

fn wrong(what: String) -> Failure {
    Failure::Wrong(anyhow!(what))
}

impl Lane {
    /// The victim gets another lease. If it is shut out, that is told by the operator's records too, and lifted.
    pub(super) async fn victim_issues(&mut self, role: Option<&str>) -> Result<(), Failure> {
        if self.told.ban != Ban::None {
            return self.unban().await;
        }
        let leases: BTreeSet<String> = self.victim.told.leases.keys().cloned().collect();
        match self.victim.issue(&mut self.rng, role).await? {
            Answer::Done => {
                let mut new = self.victim.told.leases.iter().filter(|(id, _)| !leases.contains(*id));
                let wrongly = new.find(|(_, known)| self.told.is_blocked_from(&known.role));
                match wrongly {
                    Some((id, known)) => {
                        Err(wrong(format!("blocked from {}, it got lease {id}", known.role)))
                    }
                    None => Ok(()),
                }
            }
            Answer::ShutOut(ErrorReason::Blocked) => self.lift_blocks().await,
            Answer::ShutOut(reason) => Err(wrong(format!("nobody has banned it: {reason:?}"))),
        }
    }

    /// Revokes one lease of the victim, which is then blocked from its role.
    pub(super) async fn revoke(&mut self, wait: bool) -> Result<(), Failure> {
        let Some(lease) = self.victim.one_that_is(&mut self.rng, |known| known.standing == Standing::Live)
        else {
            return self.victim_issues(None).await;
        };
        let role = self.victim.told.leases.get(&lease).map(|known| known.role.clone()).unwrap_or_default();
        self.victim.stands(&lease, Standing::Unknown);
        let selector = Some(LeaseSelector { lease_id: lease.clone(), ..LeaseSelector::default() });
        let request = v1::RevokeLeasesRequest { selector, reason: "leaked".to_owned(), dry_run: false, wait };
        let steps = self.operator.revoke_with(request).await?;
        let first = steps.first().context("a revocation without steps")?;
        match first.outcome() {
            RevokeOutcome::Revoked | RevokeOutcome::Ending => {}
            other => return Err(wrong(format!("lease {lease} lived, and its revocation came to {other:?}"))),
        }
        self.victim.stands(&lease, Standing::Over);
        self.told.revoked.insert(lease.clone());
        self.told.blocked.insert((lease, role));
        Ok(())
    }

    /// Lifts all blocks of the victim.
    async fn lift_blocks(&mut self) -> Result<(), Failure> {
        self.told.blocked.clear();
        for block in self.blocks().await? {
            self.operator.call(ApiClient::unblock, v1::UnblockRequest { block_id: block.id }).await?;
        }
        Ok(())
    }

    /// Bans the victim and sees that it is; a later call unbans it.
    pub(super) async fn ban(&mut self) -> Result<(), Failure> {
        if self.told.ban != Ban::None {
            return self.unban().await;
        }
        self.told.ban = Ban::Unknown;
        self.victim.all_stand(Standing::Unknown);
        self.operator.ban(&self.victim.client.spiffe_id.to_string()).await?;
        self.told.ban = Ban::InForce;
        self.victim.all_stand(Standing::Over);
        self.victim_is_refused().await
    }

    /// Also if it is not known whether the victim is banned: that is settled then.
    pub(super) async fn unban(&mut self) -> Result<(), Failure> {
        let victim = self.victim.client.spiffe_id.to_string();
        if self.told.ban == Ban::Unknown {
            // Whatever a crash left of it is carried out; it is the same ban if there is one.
            self.operator.ban(&victim).await?;
            self.victim.all_stand(Standing::Over);
        }
        self.told.ban = Ban::Unknown;
        self.operator.unban(&victim).await?;
        self.told.ban = Ban::None;
        self.victim.client.reset();
        match self.victim.start_job().await? {
            Answer::Done => Ok(()),
            Answer::ShutOut(reason) => Err(wrong(format!("it was unbanned, and is refused: {reason:?}"))),
        }
    }

    /// Its connections may be closed before it is told.
    async fn victim_is_refused(&mut self) -> Result<(), Failure> {
        for _ in 0..TRIES {
            self.victim.client.reset();
            match self.victim.start_job().await {
                Ok(Answer::ShutOut(ErrorReason::Banned)) => return Ok(()),
                Ok(other) => return Err(wrong(format!("it is banned, and is told {other:?}"))),
                Err(Failure::Gone) if self.issuer.is_killed()? => return Err(Failure::Gone),
                Err(Failure::Gone) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(other) => return Err(other),
            }
        }
        Err(wrong("it is banned, and never told so".to_owned()))
    }

    /// The blocks of the victim that are in force.
    async fn blocks(&self) -> Result<Vec<v1::Block>, Failure> {
        self.all_blocks(false).await
    }

    async fn all_blocks(&self, include_ended: bool) -> Result<Vec<v1::Block>, Failure> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListBlocksRequest {
                caller: self.victim.client.spiffe_id.to_string(),
                include_ended,
                page_size: 200,
                page_token,
                ..v1::ListBlocksRequest::default()
            };
            let page = self.operator.call(ApiClient::list_blocks, request).await?;
            all.extend(page.blocks);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
    }

    /// After a crash: what the operator was told holds.
    pub(super) async fn check_shut_out(&mut self, records: &Records) -> Result<(), Failure> {
        let blocks = self.all_blocks(true).await?;
        let set_by = |lease: &str| blocks.iter().find(|block| block.lease_id == lease);
        for (id, record) in records {
            let cause = record.lease.as_ref().and_then(|lease| lease.end.as_ref()).map(v1::LeaseEnd::cause);
            let revoked = cause == Some(EndCause::Revoked);
            // They are durable together, or the block is first.
            if revoked && set_by(id).is_none() {
                return Err(wrong(format!("lease {id} was revoked, and nobody is blocked")));
            }
            if self.told.revoked.contains(id) && !revoked {
                return Err(wrong(format!(
                    "the revocation of lease {id} was acknowledged; its end is {cause:?}"
                )));
            }
        }
        for (lease, role) in &self.told.blocked {
            if set_by(lease).is_none_or(|block| block.lift_time.is_some() || block.role != *role) {
                return Err(wrong(format!(
                    "the block that lease {lease} has set is gone: {:?}",
                    set_by(lease)
                )));
            }
        }
        if self.told.ban == Ban::InForce {
            let victim = self.victim.client.spiffe_id.to_string();
            let living = records.iter().find(|(_, record)| record.caller == victim && is_live(record));
            if let Some((id, _)) = living {
                return Err(wrong(format!("its owner is banned, and lease {id} lives")));
            }
            self.victim_is_refused().await?;
        }
        Ok(())
    }

    /// Nobody is shut out any more.
    pub(super) async fn let_in(&mut self) -> Result<(), Failure> {
        if self.told.ban != Ban::None {
            self.unban().await?;
        }
        self.lift_blocks().await
    }

    /// Whether an operator waits for the receipt this time.
    pub(super) fn waits(&mut self) -> bool {
        self.rng.random_ratio(1, 3)
    }
}
