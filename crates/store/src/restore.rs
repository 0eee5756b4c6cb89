//! What the second copy of the security state has and the records lack.
//!
//! The copy is written before the records, so that it may be ahead of them by what a crash interrupted, and never behind.
//! Of two rows the one with the higher revision is the newer; but where security state was lost, revisions began again,
//! and a copy from before the loss has only what the records lack altogether.

use std::cmp::Ordering;

use shorepass_core::ban::Ban;
use shorepass_core::block::Block;
use shorepass_core::caller::Owner;
use shorepass_core::enrolment::{Enrolment, JoinToken};

use crate::convert::Stored as _;
use crate::copy::Rows;
use crate::layers::Overlay;
use crate::record::unframe;
use crate::rows::{self, Row};
use crate::tables::{ReadError, Table, View, Writes};
use crate::trim;

/// The rows that are missing in `view` or older there.
pub(crate) fn lacking(copy: &Rows, view: &dyn View) -> Result<Writes, ReadError> {
    let mut merged = Overlay::over(view);
    // The names of enrolments after the enrolments: which of two is right depends on those.
    let (names, others): (Vec<_>, Vec<_>) =
        copy.iter().partition(|(key, _)| key.first() == Some(&(Table::LatestEnrolment as u8)));
    for (whole_key, value) in others.into_iter().chain(names) {
        let Some((table, key)) = Table::split(whole_key) else { continue };
        let newer = match merged.get(table, key)? {
            None => true,
            Some(current) if current == *value => false,
            Some(current) => is_newer(table, key, value, &current, &merged)?,
        };
        if newer {
            merged.writes.put(whole_key.clone(), value.clone());
            trim::put_for(table, key, value, &mut merged.writes)?;
        }
    }
    Ok(merged.writes)
}

/// The rows that are missing in `view`.
pub(crate) fn absent(copy: &Rows, view: &dyn View) -> Result<Writes, ReadError> {
    let mut absent = Writes::default();
    for (whole_key, value) in copy {
        if let Some((table, key)) = Table::split(whole_key)
            && view.get(table, key)?.is_none()
        {
            absent.put(whole_key.clone(), value.clone());
            trim::put_for(table, key, value, &mut absent)?;
        }
    }
    Ok(absent)
}

fn is_newer(
    table: Table,
    key: &[u8],
    copied: &[u8],
    current: &[u8],
    view: &dyn View,
) -> Result<bool, ReadError> {
    match table {
        Table::Block => later::<Block>(key, copied, current),
        Table::Ban => later::<Ban>(key, copied, current),
        Table::JoinToken => later::<JoinToken>(key, copied, current),
        Table::Enrolment => later::<Enrolment>(key, copied, current),
        Table::LatestEnrolment => {
            let Ok(record) = unframe(current) else { return Ok(true) };
            let Ok(owner) = Owner::from_record(record) else { return Ok(true) };
            let named = rows::enrolment(view, owner.enrolment)?;
            Ok(named.is_none_or(|enrolment| enrolment.replaced.is_some()))
        }
        Table::Meta
        | Table::Job
        | Table::Lease
        | Table::Token
        | Table::TokensOfLease
        | Table::BlocksOfCaller
        | Table::BlocksOfJob
        | Table::SpentToken
        | Table::Request
        | Table::UnfinishedLeases
        | Table::LeasesOfJob
        | Table::LeasesOfCaller
        | Table::Control
        | Table::Identity
        | Table::Due => Ok(false),
    }
}

fn later<R: Row>(key: &[u8], copied: &[u8], current: &[u8]) -> Result<bool, ReadError> {
    let (copied, current): (R, R) = (rows::read(key, copied)?, rows::read(key, current)?);
    Ok(copied.revision().cmp(&current.revision()) == Ordering::Greater)
}
