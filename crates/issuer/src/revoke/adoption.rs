//! Adopts leases whose records were lost, from the anchors that were found.
//!
//! What the lease is, is decided in [`shorepass_core::adoption`]. Here is what is known besides: whose digest is whose, and
//! which leases were revoked. Security state outlives the records, so that a lease is not given back to who lost it by a
//! revocation: it is adopted, and ends at once. Bans and enrolments that gave way are the sweeper's.

use std::collections::{HashMap, HashSet};

use anyhow::Context;
use shorepass_core::adoption::adopt as lease_of;
use shorepass_core::anchors::{FoundAnchor, Sealed};
use shorepass_core::block::Block;
use shorepass_core::caller::Owner;
use shorepass_core::digest::Digest;
use shorepass_core::id::LeaseId;
use shorepass_core::lease::{EndCause, Lease};
use shorepass_core::ledger::{BlockFilter, Change, LedgerError};
use shorepass_core::name::Name;

use super::{LEASES_IN_A_COMMIT, PAGE};
use crate::outside::Outside;

/// Records the leases of these anchors, none of which has a record; gives how many. Two anchors do not name one lease.
pub(super) async fn adopt(
    outside: &Outside,
    cluster: &Name,
    lost: &[(&FoundAnchor, Sealed)],
) -> anyhow::Result<usize> {
    let owners = owners(outside).context("it cannot be found out whose lost leases are")?;
    let revoked = revoked(outside)?;
    let mut known = HashSet::new();
    let new = |(_, sealed): &&(&FoundAnchor, Sealed)| known.insert(sealed.lease);
    let lost: Vec<_> = lost.iter().filter(new).collect();
    for some in lost.chunks(LEASES_IN_A_COMMIT) {
        let _together = outside.gate.read().await; // as any other lease that begins
        let (policy, now) = (outside.policy.current(), outside.clock.now());
        let adopted = some.iter().map(|(found, sealed)| {
            let owner = owners.get(&sealed.owner).cloned();
            lease_of(found, sealed, cluster, &policy, owner, now)
        });
        let adopted: Vec<Lease> = adopted.collect();
        let changes = adopted.iter().flat_map(|lease| {
            let begins = Change::LeaseAdopted { lease: lease.clone() };
            let cause = revoked.get(&lease.id).cloned();
            let ending = cause.and_then(|cause| lease.clone().begin_end(cause, now).ok());
            [begins].into_iter().chain(ending.map(|lease| Change::LeaseEnding { lease }))
        });
        outside.ledger.commit(changes.collect()).await?;
        adopted.iter().for_each(tell);
    }
    metrics::counter!("shorepass_leases_adopted_total", "cluster" => cluster.to_string())
        .increment(lost.len() as u64);
    Ok(lost.len())
}

fn tell(lease: &Lease) {
    let owner = lease.owner.spiffe_id().map(tracing::field::display);
    tracing::info!(lease = %lease.id, anchor = lease.anchor.as_str(), owner, role = lease.role_name(), deadline = %lease.deadline, "lease adopted");
}

/// All owners that are known by name, by what stands for them in annotations.
fn owners(outside: &Outside) -> anyhow::Result<HashMap<Digest, Owner>> {
    let mut owners = outside.identities.owners()?;
    let mut before = None;
    loop {
        let page = outside.ledger.enrolments(before, PAGE)?;
        before = page.last().map(|enrolment| enrolment.id);
        owners.extend(page.iter().map(|enrolment| enrolment.owner()));
        if page.len() < PAGE {
            return Ok(owners.into_iter().map(|owner| (owner.digest(), owner)).collect());
        }
    }
}

/// The leases whose revocation set a block, whether that is in force or not, and how they ended.
fn revoked(outside: &Outside) -> Result<HashMap<LeaseId, EndCause>, LedgerError> {
    let mut revoked = HashMap::new();
    let mut before = None;
    loop {
        let page = outside.ledger.find_blocks(&BlockFilter::default(), before, PAGE)?;
        before = page.last().map(|block| block.id);
        let full = page.len() == PAGE;
        let cause = |Block { lease, by, reason, .. }: Block| (lease, EndCause::Revoked { by, reason });
        revoked.extend(page.into_iter().map(cause));
        if !full {
            return Ok(revoked);
        }
    }
}
