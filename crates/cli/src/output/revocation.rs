//! A revocation as it happens, and what came of it.
//!
//! A lease that is still *ending* makes the command fail: it is blocked and gets no new token, but the tokens it gave out
//! work until its anchor is gone, and a script must not take that for done.

use serde::Serialize;
use shorepass_proto::v1;

use super::lease::LeaseView;
use super::{Incomplete, document, printable, to_the_second};

/// The steps so far, each lease once: what a later one says of it replaces what an earlier one said.
#[derive(Debug)]
pub(crate) struct Revocation {
    dry_run: bool,
    waits: bool,
    steps: Vec<Step>,
}

/// How many of each.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    would_revoke: usize,
    revoked: usize,
    ending: usize,
    already_ended: usize,
    tokens_remain: usize,
    blocks_set: usize,
    without_block: usize,
}

/// What became of one lease.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    outcome: Outcome,
    #[serde(skip_serializing_if = "String::is_empty")]
    obstacle: String,
    /// Whether this revocation set the lease's block.
    block_set: bool,
    /// Why there can be no block.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_block: Option<String>,
    #[serde(skip)]
    total: u32,
    lease: LeaseView,
    #[serde(skip)]
    receipt: v1::RevokeReceipt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    WouldRevoke,
    Revoked,
    Ending,
    AlreadyEnded,
    TokensRemain,
}

impl Outcome {
    const ALL: [Self; 5] =
        [Self::WouldRevoke, Self::Revoked, Self::Ending, Self::AlreadyEnded, Self::TokensRemain];

    fn of(wire: v1::RevokeOutcome) -> Result<Self, Incomplete> {
        match wire {
            v1::RevokeOutcome::Unspecified => Err(Incomplete("an outcome that this version knows")),
            v1::RevokeOutcome::WouldRevoke => Ok(Self::WouldRevoke),
            v1::RevokeOutcome::Revoked => Ok(Self::Revoked),
            v1::RevokeOutcome::Ending => Ok(Self::Ending),
            v1::RevokeOutcome::AlreadyEnded => Ok(Self::AlreadyEnded),
            v1::RevokeOutcome::TokensRemain => Ok(Self::TokensRemain),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::WouldRevoke => "would be revoked",
            Self::Revoked => "revoked",
            Self::Ending => "still ending",
            Self::AlreadyEnded => "ended before",
            Self::TokensRemain => "tokens remain",
        }
    }
}

impl Step {
    /// From the wire.
    pub(crate) fn of(wire: v1::RevokeLeasesResponse) -> Result<Self, Incomplete> {
        let (outcome, receipt) = (Outcome::of(wire.outcome())?, wire.receipt());
        let lease = LeaseView::of(wire.lease.ok_or(Incomplete("a lease"))?)?;
        Ok(Self {
            outcome,
            obstacle: wire.obstacle,
            block_set: wire.block_set,
            no_block: lease.unblockable().filter(|_| outcome != Outcome::AlreadyEnded),
            total: wire.total,
            lease,
            receipt,
        })
    }

    /// For people, when it has happened.
    pub(crate) fn lines(&self) -> String {
        let lease = &self.lease;
        match (self.receipt, &lease.receipt) {
            (v1::RevokeReceipt::Arrived, Some(receipt)) => {
                return format!("{}  {}\n", printable(&lease.id), receipt.sentence());
            }
            (v1::RevokeReceipt::Arrived | v1::RevokeReceipt::Missing, _) => {
                return format!("{}  no receipt was made\n", printable(&lease.id));
            }
            (v1::RevokeReceipt::Unspecified | v1::RevokeReceipt::Follows, _) => {}
        }
        let mut lines = format!(
            "{:<16}  {}  {}  {}  {}\n",
            self.outcome.words(),
            printable(&lease.id),
            printable(&lease.runner()),
            printable(&lease.role()),
            printable(&lease.account()),
        );
        if !self.obstacle.is_empty() {
            lines
                .push_str(&format!("  its anchor could not be deleted yet: {}\n", printable(&self.obstacle)));
        }
        if let Some(until) = lease.tokens_until {
            lines.push_str(&format!(
                "  it is UNBOUND: nothing ends its tokens, which work until {} (their expiry and 70 s)\n",
                to_the_second(Some(until))
            ));
        } else if lease.is_unbound() {
            lines.push_str("  it is UNBOUND: revoking it does not end its tokens, which work to their expiry and 70 s longer\n");
        }
        if let Some(why) = &self.no_block {
            lines.push_str(&format!("  no block: {}\n", printable(why)));
        }
        if let Some(block) = &lease.block {
            lines.push_str(&format!(
                "  no new lease until {}, unless you run: shorepass unblock {}\n",
                to_the_second(block.until),
                printable(&block.id)
            ));
        }
        lines
    }
}

impl Revocation {
    /// Nothing has happened; `waits` is whether receipts are waited for.
    pub(crate) fn new(dry_run: bool, waits: bool) -> Self {
        Self { dry_run, waits, steps: Vec::new() }
    }

    /// One more step.
    pub(crate) fn push(&mut self, step: Step) {
        match self.steps.iter_mut().find(|earlier| earlier.lease.id == step.lease.id) {
            Some(earlier) => *earlier = step,
            None => self.steps.push(step),
        }
    }

    /// How many are not proved to be dead, though that was waited for: also by the receipt of one that had ended before.
    pub(crate) fn unproved(&self) -> usize {
        let dead = |step: &&Step| match step.outcome {
            Outcome::Revoked | Outcome::Ending | Outcome::AlreadyEnded => true,
            Outcome::WouldRevoke | Outcome::TokensRemain => false,
        };
        let proved = |step: &Step| {
            let now = step.receipt == v1::RevokeReceipt::Arrived;
            now && step.lease.receipt.as_ref().is_some_and(|receipt| receipt.verdict() == "proved")
        };
        if self.waits { self.steps.iter().filter(dead).filter(|step| !proved(step)).count() } else { 0 }
    }

    /// How many are still ending.
    pub(crate) fn ending(&self) -> usize {
        self.count(Outcome::Ending)
    }

    /// How many have tokens that nothing can end.
    pub(crate) fn tokens_remain(&self) -> usize {
        self.count(Outcome::TokensRemain)
    }

    /// For people, at the end.
    pub(crate) fn summary(&self) -> String {
        let some = |outcome: Outcome| match self.count(outcome) {
            0 => None,
            count => Some(format!("{count} {}", outcome.words())),
        };
        let parts: Vec<String> = Outcome::ALL.into_iter().filter_map(some).collect();
        let parts = parts.join(", ");
        let without = match self.without_block() {
            0 => String::new(),
            count => format!("; {count} without a block: see above"),
        };
        let told = match (parts.is_empty(), self.dry_run, self.blocks_set()) {
            (true, _, _) => return "no live lease matches\n".to_owned(),
            (false, true, _) => return format!("{parts}{without}\n"),
            (false, false, 0) => format!("{parts}; no new block{without}\n"),
            (false, false, 1) => format!("{parts}; 1 block set{without}\n"),
            (false, false, blocks) => format!("{parts}; {blocks} blocks set{without}\n"),
        };
        if self.waits { told + &self.receipts() } else { told }
    }

    /// For people who wait: how far it is.
    pub(crate) fn so_far(&self) -> String {
        let Some(step) = self.steps.last() else { return "the first lease".to_owned() };
        let (done, total) = (self.steps.len(), step.total as usize);
        let with = |wanted: &[v1::RevokeReceipt]| {
            self.steps.iter().filter(|step| wanted.contains(&step.receipt)).count()
        };
        let there = with(&[v1::RevokeReceipt::Arrived, v1::RevokeReceipt::Missing]);
        match there + with(&[v1::RevokeReceipt::Follows]) {
            receipts if receipts > 0 && done >= total => {
                format!("receipts, {there} of {receipts} are there")
            }
            _ => format!("the revocation: {done} of {total} leases done"),
        }
    }

    fn receipts(&self) -> String {
        let mut counts = std::collections::BTreeMap::<&str, usize>::new();
        for step in &self.steps {
            let verdict = match (step.receipt, &step.lease.receipt) {
                (v1::RevokeReceipt::Arrived, Some(receipt)) => receipt.verdict(),
                _ => "without one",
            };
            *counts.entry(verdict).or_default() += 1;
        }
        let parts: Vec<String> = counts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
        format!("receipts: {}\n", parts.join(", "))
    }

    /// For programs. `complete` is false when the answer broke off.
    pub(crate) fn document(&self, complete: bool) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            dry_run: bool,
            complete: bool,
            summary: Summary,
            items: &'a [Step],
        }
        let summary = Summary {
            would_revoke: self.count(Outcome::WouldRevoke),
            revoked: self.count(Outcome::Revoked),
            ending: self.ending(),
            already_ended: self.count(Outcome::AlreadyEnded),
            tokens_remain: self.tokens_remain(),
            blocks_set: self.blocks_set(),
            without_block: self.without_block(),
        };
        document("RevokeResult", Body { dry_run: self.dry_run, complete, summary, items: &self.steps })
    }

    fn blocks_set(&self) -> usize {
        self.steps.iter().filter(|step| step.block_set).count()
    }

    fn without_block(&self) -> usize {
        self.steps.iter().filter(|step| step.no_block.is_some()).count()
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.steps.iter().filter(|step| step.outcome == outcome).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples::{active, adopted, proved, revoked, unbound, unproved};

    fn step(lease: v1::LeaseRecord, outcome: v1::RevokeOutcome, obstacle: &str) -> Step {
        let wire = v1::RevokeLeasesResponse {
            lease: Some(lease),
            outcome: outcome.into(),
            obstacle: obstacle.to_owned(),
            total: 3,
            block_set: outcome == v1::RevokeOutcome::Revoked,
            ..v1::RevokeLeasesResponse::default()
        };
        Step::of(wire).unwrap()
    }

    /// A receipt that was waited for.
    fn receipt(lease: &v1::LeaseRecord, receipt: v1::Receipt) -> Step {
        let wire = v1::RevokeLeasesResponse {
            lease: Some(v1::LeaseRecord { receipt: Some(receipt), ..lease.clone() }),
            outcome: v1::RevokeOutcome::Revoked.into(),
            obstacle: String::new(),
            receipt: v1::RevokeReceipt::Arrived.into(),
            total: 2,
            block_set: true,
        };
        Step::of(wire).unwrap()
    }

    fn revocation() -> Revocation {
        let mut revocation = Revocation::new(false, false);
        revocation.push(step(revoked(), v1::RevokeOutcome::Revoked, ""));
        revocation.push(step(active(), v1::RevokeOutcome::Ending, "the cluster does not answer"));
        revocation
    }

    #[test]
    fn each_step_is_told_with_its_block_and_its_obstacle() {
        let revocation = revocation();
        let told: String = revocation.steps.iter().map(Step::lines).collect();
        assert_eq!(told + &revocation.summary(), include_str!("golden/lease-revoke.txt"));
    }

    #[test]
    fn a_lease_whose_owner_or_role_is_lost_is_told_to_have_no_block_and_what_does_instead() {
        let mut revocation = Revocation::new(false, false);
        let nobody = adopted();
        let role_lost = v1::LeaseRecord { caller: active().caller, ..adopted() };
        for (lease, says) in [
            (
                nobody,
                "  no block: its owner is not known by name, and may ask for a new lease; to shut a runner out: shorepass ban SPIFFE_ID\n",
            ),
            (role_lost, "shorepass ban spiffe://ci.example.org/runner/prod-1\n"),
        ] {
            let told = Step { block_set: false, ..step(lease, v1::RevokeOutcome::Revoked, "") };
            assert!(told.lines().contains(says), "{}", told.lines());
            revocation.steps.push(told);
        }
        revocation.steps.push(step(revoked(), v1::RevokeOutcome::Revoked, ""));
        assert_eq!(revocation.summary(), "3 revoked; 1 block set; 2 without a block: see above\n");
        let document: serde_json::Value = serde_json::from_str(&revocation.document(true)).unwrap();
        assert_eq!(document["summary"]["withoutBlock"], 2);
        assert!(document["items"][0]["noBlock"].is_string() && document["items"][2].get("noBlock").is_none());
    }

    #[test]
    fn what_cannot_be_ended_is_said() {
        let told = step(unbound(), v1::RevokeOutcome::TokensRemain, "").lines();
        assert!(told.starts_with("tokens remain"), "{told}");
        assert!(told.contains("UNBOUND") && told.contains("2026-09-21T14:44:31Z"), "{told}");
        let living = v1::LeaseRecord {
            lease: unbound().lease.map(|lease| v1::Lease { tokens_until: None, ..lease }),
            ..unbound()
        };
        let told = step(living, v1::RevokeOutcome::WouldRevoke, "").lines();
        assert!(told.contains("does not end its tokens"), "{told}");
        let told = step(active(), v1::RevokeOutcome::Revoked, "").lines();
        assert!(!told.contains("UNBOUND"), "{told}");
    }

    #[test]
    fn programs_get_all_steps_at_the_end() {
        let document: serde_json::Value = serde_json::from_str(&revocation().document(true)).unwrap();
        assert_eq!(document["apiVersion"], "shorepass.dev/v1");
        assert_eq!(document["kind"], "RevokeResult");
        assert_eq!(document["complete"], true);
        assert_eq!(document["items"][0]["outcome"], "revoked");
        assert_eq!(document["items"][0]["lease"]["state"], "ended");
        assert_eq!(document["items"][1]["obstacle"], "the cluster does not answer");
        let summary = serde_json::json!(
            {"wouldRevoke": 0, "revoked": 1, "ending": 1, "alreadyEnded": 0, "tokensRemain": 0, "blocksSet": 1, "withoutBlock": 0});
        assert_eq!(document["summary"], summary);
    }

    #[test]
    fn who_waits_is_told_how_far_it_is() {
        assert_eq!(Revocation::new(false, false).so_far(), "the first lease");
        assert_eq!(revocation().so_far(), "the revocation: 2 of 3 leases done");
    }

    #[test]
    fn receipts_are_told_as_they_come_and_counted_at_the_end() {
        let mut revocation = Revocation::new(false, true);
        for (lease, so_far) in
            [(revoked(), "the first lease"), (active(), "the revocation: 1 of 2 leases done")]
        {
            assert_eq!(revocation.so_far(), so_far);
            let wire = v1::RevokeLeasesResponse {
                lease: Some(v1::LeaseRecord { receipt: None, ..lease }),
                outcome: v1::RevokeOutcome::Revoked.into(),
                receipt: v1::RevokeReceipt::Follows.into(),
                total: 2,
                block_set: true,
                ..v1::RevokeLeasesResponse::default()
            };
            revocation.push(Step::of(wire).unwrap());
        }
        assert_eq!((revocation.unproved(), revocation.so_far().as_str()), (2, "receipts, 0 of 2 are there"));
        let arrived = receipt(&revoked(), proved());
        assert_eq!(
            arrived.lines(),
            "0198c5a2-8f7e-7cc0-b1d2-000000000002  proved: dead by 2026-09-21T14:14:32Z, as 10.0.0.1:6443 and \
             10.0.0.2:6443 said\n"
        );
        revocation.push(arrived);
        assert_eq!((revocation.unproved(), revocation.so_far().as_str()), (1, "receipts, 1 of 2 are there"));
        let arrived = receipt(&active(), unproved());
        assert!(arrived.lines().contains("unproved: the delete did not wait"), "{}", arrived.lines());
        revocation.push(arrived);
        assert_eq!(revocation.unproved(), 1);
        assert_eq!(revocation.summary(), "2 revoked; 2 blocks set\nreceipts: 1 proved, 1 unproved\n");
    }

    #[test]
    fn nothing_to_revoke_is_said() {
        assert_eq!(Revocation::new(false, false).summary(), "no live lease matches\n");
    }

    #[test]
    fn an_outcome_of_a_later_version_is_not_guessed() {
        let wire = v1::RevokeLeasesResponse { lease: Some(active()), outcome: 99, ..Default::default() };
        assert!(Step::of(wire).is_err());
    }
}
