//! Rows: which table and key each thing has, and the reads of the ledger over any [`View`].
//!
//! A row that was found under a key that is not its own is damaged: the checksum of a value does not cover its key.

use shorepass_core::ban::{Ban, BanKey};
use shorepass_core::block::Block;
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{Enrolment, JoinToken};
use shorepass_core::id::{BlockId, EnrolmentId, JobId, LeaseId, RequestId};
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::job::{Job, SpentToken};
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{BlockFilter, LeaseFilter, MintedToken, Revision};
use shorepass_core::name::Name;
use shorepass_core::receipt::Control;
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_proto::store::v1::{LatestIdentity, LedgerIdentity, Progress};

use crate::convert::Stored;
use crate::record::{Damage, unframe};
use crate::tables::{
    LATEST_IDENTITY, LEDGER_IDENTITY, PROGRESS, ReadError, Table, View, ban_key, blocks_of_caller_prefix,
    blocks_prefix, id_of, jti_of, leases_prefix, request_key,
};

/// Something that is one row.
pub(crate) trait Row: Stored {
    /// Where it is.
    const TABLE: Table;

    /// Its key there.
    fn key(&self) -> Vec<u8>;

    /// Its name in a sentence.
    fn name(&self) -> String;

    /// How often it changed; none for what never does.
    fn revision(&self) -> Option<Revision>;
}

macro_rules! row {
    ($type:ty, $table:ident, $what:literal, key: $key:expr, name: $name:expr, revision: $revision:expr) => {
        impl Row for $type {
            const TABLE: Table = Table::$table;

            fn key(&self) -> Vec<u8> {
                let key: fn(&Self) -> Vec<u8> = $key;
                key(self)
            }

            fn name(&self) -> String {
                let name: fn(&Self) -> String = $name;
                format!("{} {}", $what, name(self))
            }

            fn revision(&self) -> Option<Revision> {
                let revision: fn(&Self) -> Option<Revision> = $revision;
                revision(self)
            }
        }
    };
}

row!(Job, Job, "job",
    key: |job| job.id.as_bytes().to_vec(), name: |job| job.id.to_string(), revision: |job| Some(job.revision));
row!(Lease, Lease, "lease",
    key: |lease| lease.id.as_bytes().to_vec(), name: |lease| lease.id.to_string(),
    revision: |lease| Some(lease.revision));
row!(Block, Block, "block",
    key: |block| block.id.as_bytes().to_vec(), name: |block| block.id.to_string(),
    revision: |block| Some(block.revision));
row!(Ban, Ban, "the ban of",
    key: |ban| ban_key(&ban.banned.key()), name: |ban| ban.banned.to_string(), revision: |ban| Some(ban.revision));
row!(Enrolment, Enrolment, "enrolment",
    key: |enrolment| enrolment.id.as_bytes().to_vec(), name: |enrolment| enrolment.id.to_string(),
    revision: |enrolment| Some(enrolment.revision));
row!(JoinToken, JoinToken, "join token",
    key: |join_token| join_token.digest.as_bytes().to_vec(), name: |join_token| join_token.digest.to_string(),
    revision: |join_token| Some(join_token.revision));
row!(MintedToken, Token, "token",
    key: |token| token.jti.as_bytes().to_vec(), name: |token| token.jti.clone(), revision: |_| None);
row!(Control, Control, "control",
    key: |control| control.anchor.as_str().as_bytes().to_vec(),
    name: |control| control.anchor.as_str().to_owned(), revision: |_| None);
row!(SpentToken, SpentToken, "used token",
    key: |spent| spent.replay.as_bytes().to_vec(), name: |spent| spent.replay.to_string(), revision: |_| None);
row!(Request, Request, "request",
    key: |request| request_key(&request.owner, request.job, request.method, request.id), name: |request| request.id.to_string(),
    revision: |_| None);
row!(CreatedIdentity, Identity, "identity",
    key: |identity| identity.certificate.as_bytes().to_vec(), name: |identity| identity.certificate.to_string(),
    revision: |_| None);

/// A token that was used.
pub(crate) fn spent_token(view: &dyn View, replay: Digest) -> Result<Option<SpentToken>, ReadError> {
    fetch(view, replay.as_bytes())
}

/// A row by its key.
pub(crate) fn fetch<R: Row>(view: &dyn View, key: &[u8]) -> Result<Option<R>, ReadError> {
    let Some(value) = view.get(R::TABLE, key)? else { return Ok(None) };
    read(key, &value).map(Some)
}

/// The last line of the audit file that is in the records; 0 before the first.
pub(crate) fn progress(view: &dyn View) -> Result<u64, ReadError> {
    let Some(value) = view.get(Table::Meta, PROGRESS)? else { return Ok(0) };
    let progress: Progress =
        unframe(&value).map_err(|damage| ReadError::Damaged { table: Table::Meta, damage })?;
    Ok(progress.sequence)
}

/// Which ledger the records are; none in records that are new, or from before there was a manifest.
pub(crate) fn ledger_identity(view: &dyn View) -> Result<Option<LedgerIdentity>, ReadError> {
    let Some(value) = view.get(Table::Meta, LEDGER_IDENTITY)? else { return Ok(None) };
    unframe(&value).map(Some).map_err(|damage| ReadError::Damaged { table: Table::Meta, damage })
}

/// Whether an entry of the whole space can be read.
pub(crate) fn check(whole_key: &[u8], value: &[u8]) -> Result<(), ReadError> {
    let Some((table, key)) = Table::split(whole_key) else {
        return Err(ReadError::Engine(format!(
            "a key begins with {:?}, which is no table",
            whole_key.first()
        )));
    };
    let damaged = |damage| ReadError::Damaged { table, damage };
    match table {
        Table::Meta if key == LATEST_IDENTITY => {
            unframe::<LatestIdentity>(value).map(|_| ()).map_err(damaged)
        }
        Table::Meta if key == LEDGER_IDENTITY => {
            unframe::<LedgerIdentity>(value).map(|_| ()).map_err(damaged)
        }
        Table::Meta => unframe::<Progress>(value).map(|_| ()).map_err(damaged),
        Table::Job => read::<Job>(key, value).map(|_| ()),
        Table::Lease => read::<Lease>(key, value).map(|_| ()),
        Table::Token => read::<MintedToken>(key, value).map(|_| ()),
        Table::TokensOfLease => jti_of(key).map(|_| ()).map_err(damaged),
        Table::Block => read::<Block>(key, value).map(|_| ()),
        Table::BlocksOfCaller
        | Table::BlocksOfJob
        | Table::UnfinishedLeases
        | Table::LeasesOfJob
        | Table::LeasesOfCaller => id_of(key).map(|_| ()).map_err(damaged),
        Table::JoinToken => read::<JoinToken>(key, value).map(|_| ()),
        Table::Enrolment => read::<Enrolment>(key, value).map(|_| ()),
        Table::LatestEnrolment => latest(value).map(|_| ()),
        Table::Request => read::<Request>(key, value).map(|_| ()),
        Table::Control => read::<Control>(key, value).map(|_| ()),
        Table::Identity => read::<CreatedIdentity>(key, value).map(|_| ()),
        Table::Ban => read::<Ban>(key, value).map(|_| ()),
        Table::SpentToken => read::<SpentToken>(key, value).map(|_| ()),
        Table::Due => key.get(9..).map(|_| ()).ok_or(damaged(Damage::Short)),
    }
}

/// Whether an entry of an index names a row that is there.
pub(crate) fn check_index(view: &dyn View, index: Table, key: &[u8]) -> Result<(), ReadError> {
    let damaged = |damage| ReadError::Damaged { table: index, damage };
    let named = match index {
        Table::TokensOfLease => (Table::Token, jti_of(key).map_err(damaged)?),
        Table::BlocksOfCaller | Table::BlocksOfJob => (Table::Block, id_of(key).map_err(damaged)?),
        Table::UnfinishedLeases | Table::LeasesOfJob | Table::LeasesOfCaller => {
            (Table::Lease, id_of(key).map_err(damaged)?)
        }
        Table::Meta
        | Table::Job
        | Table::Lease
        | Table::Token
        | Table::Block
        | Table::JoinToken
        | Table::Enrolment
        | Table::LatestEnrolment
        | Table::Request
        | Table::Control
        | Table::Identity
        | Table::Ban
        | Table::SpentToken
        // What it names may be gone before its time: a job with its last lease.
        | Table::Due => return Ok(()),
    };
    match view.get(named.0, named.1)? {
        Some(_) => Ok(()),
        None => Err(damaged(Damage::Content("it names a row that is not there".to_owned()))),
    }
}

/// The row in a value.
pub(crate) fn read<R: Row>(key: &[u8], value: &[u8]) -> Result<R, ReadError> {
    let damaged = |damage| ReadError::Damaged { table: R::TABLE, damage };
    let record = unframe::<R::Record>(value).map_err(damaged)?;
    let row = R::from_record(record).map_err(|malformed| damaged(Damage::Content(malformed.to_string())))?;
    if row.key() != key {
        return Err(damaged(Damage::Content(format!("it is {}, under another key", row.name()))));
    }
    Ok(row)
}

fn latest(value: &[u8]) -> Result<Owner, ReadError> {
    let damaged = |damage| ReadError::Damaged { table: Table::LatestEnrolment, damage };
    let record = unframe(value).map_err(damaged)?;
    Owner::from_record(record).map_err(|malformed| damaged(Damage::Content(malformed.to_string())))
}

/// The row that an index names.
fn indexed<R: Row>(view: &dyn View, index: Table, key: Result<&[u8], Damage>) -> Result<R, ReadError> {
    let damaged = |damage| ReadError::Damaged { table: index, damage };
    let row = fetch(view, key.map_err(damaged)?)?;
    row.ok_or_else(|| damaged(Damage::Content("it names a row that is not there".to_owned())))
}

/// A job session.
pub(crate) fn job(view: &dyn View, id: JobId) -> Result<Option<Job>, ReadError> {
    fetch(view, id.as_bytes())
}

/// A lease.
pub(crate) fn lease(view: &dyn View, id: LeaseId) -> Result<Option<Lease>, ReadError> {
    fetch(view, id.as_bytes())
}

/// Up to `limit` leases that match, newest first, older than `before`.
pub(crate) fn leases(
    view: &dyn View,
    filter: &LeaseFilter,
    before: Option<LeaseId>,
    limit: usize,
) -> Result<Vec<Lease>, ReadError> {
    candidates(view, filter, before)
        .filter(|lease| lease.as_ref().map_or(true, |lease| filter.matches(lease)))
        .take(limit)
        .collect()
}

/// The leases among which those of a filter are, by the shortest way there is.
fn candidates<'a>(view: &'a dyn View, filter: &LeaseFilter, before: Option<LeaseId>) -> Leases<'a> {
    if let Some(id) = filter.lease {
        whole_table(view, id.as_bytes(), before)
    } else if !filter.include_ended {
        by_index(view, Table::UnfinishedLeases, &[], before)
    } else if let Some(job) = filter.job {
        by_index(view, Table::LeasesOfJob, job.as_bytes(), before)
    } else if let Some(caller) = &filter.caller {
        by_index(view, Table::LeasesOfCaller, &leases_prefix(caller), before)
    } else {
        whole_table(view, &[], before)
    }
}

/// The leases that have not ended, newest first.
pub(crate) fn unfinished(view: &dyn View) -> Leases<'_> {
    by_index(view, Table::UnfinishedLeases, &[], None)
}

/// Leases as they are found.
pub(crate) type Leases<'a> = Box<dyn Iterator<Item = Result<Lease, ReadError>> + 'a>;

/// The leases whose ids begin so.
fn whole_table<'a>(view: &'a dyn View, prefix: &[u8], before: Option<LeaseId>) -> Leases<'a> {
    let before = before.map(|id| *id.as_bytes());
    let entries = view.newest_first(Table::Lease, prefix, before.as_ref().map(<[u8; 16]>::as_slice));
    Box::new(entries.map(|entry| entry.and_then(|(key, value)| read(&key, &value))))
}

/// The leases that an index has under a prefix, after which there is the lease's id alone.
fn by_index<'a>(view: &'a dyn View, index: Table, prefix: &[u8], before: Option<LeaseId>) -> Leases<'a> {
    let before = before.map(|id| [prefix, id.as_bytes()].concat());
    let entries = view.newest_first(index, prefix, before.as_deref());
    Box::new(entries.map(move |entry| indexed(view, index, id_of(&entry?.0))))
}

/// The tokens of a lease, newest first, at most `limit`.
pub(crate) fn tokens(view: &dyn View, lease: LeaseId, limit: usize) -> Result<Vec<MintedToken>, ReadError> {
    let entries = view.newest_first(Table::TokensOfLease, lease.as_bytes(), None);
    entries.take(limit).map(|entry| indexed(view, Table::TokensOfLease, jti_of(&entry?.0))).collect()
}

/// A token by its `jti`.
pub(crate) fn token(view: &dyn View, jti: &str) -> Result<Option<MintedToken>, ReadError> {
    fetch(view, jti.as_bytes())
}

/// What came of an earlier request.
pub(crate) fn request(
    view: &dyn View,
    owner: &Owner,
    job: Option<JobId>,
    method: Method,
    id: RequestId,
) -> Result<Option<Request>, ReadError> {
    let found: Option<Request> = fetch(view, &request_key(owner, job, method, id))?;
    if found.is_some() || job.is_none() {
        return Ok(found);
    }
    // Recorded before the session was part of the key: what came of it says which session it was for.
    let older: Option<Request> = fetch(view, &request_key(owner, None, method, id))?;
    let Some((older, Outcome::Lease(made))) = older.map(|older| (older.clone(), older.outcome)) else {
        return Ok(None);
    };
    Ok(lease(view, made)?.filter(|made| made.job == job).map(|_| older))
}

/// A block.
pub(crate) fn block(view: &dyn View, id: BlockId) -> Result<Option<Block>, ReadError> {
    fetch(view, id.as_bytes())
}

/// The blocks of a caller and role, newest first.
pub(crate) fn blocks(view: &dyn View, caller: &SpiffeId, role: &Name) -> Result<Vec<Block>, ReadError> {
    let entries = view.newest_first(Table::BlocksOfCaller, &blocks_prefix(caller, role), None);
    entries.map(|entry| indexed(view, Table::BlocksOfCaller, id_of(&entry?.0))).collect()
}

/// All blocks of a caller.
pub(crate) fn blocks_of_caller(view: &dyn View, caller: &SpiffeId) -> Result<Vec<Block>, ReadError> {
    let entries = view.newest_first(Table::BlocksOfCaller, &blocks_of_caller_prefix(caller), None);
    entries.map(|entry| indexed(view, Table::BlocksOfCaller, id_of(&entry?.0))).collect()
}

/// The blocks of a job session, newest first.
pub(crate) fn blocks_of_job(view: &dyn View, job: JobId) -> Result<Vec<Block>, ReadError> {
    let entries = view.newest_first(Table::BlocksOfJob, job.as_bytes(), None);
    entries.map(|entry| indexed(view, Table::BlocksOfJob, id_of(&entry?.0))).collect()
}

/// The controls of a cluster that are not known to be gone. There are few, and mostly none.
pub(crate) fn controls(view: &dyn View, cluster: &Name) -> Result<Vec<Control>, ReadError> {
    let all = view.newest_first(Table::Control, &[], None);
    let read = all.map(|entry| entry.and_then(|(key, value)| read::<Control>(&key, &value)));
    read.filter(|control| control.as_ref().map_or(true, |control| control.cluster == *cluster)).collect()
}

/// Up to `limit` blocks that match, newest first, older than `before`. Reads all of them, for people who ask.
pub(crate) fn find_blocks(
    view: &dyn View,
    filter: &BlockFilter,
    before: Option<BlockId>,
    limit: usize,
) -> Result<Vec<Block>, ReadError> {
    let before = before.map(|id| *id.as_bytes());
    let entries = view.newest_first(Table::Block, &[], before.as_ref().map(<[u8; 16]>::as_slice));
    entries
        .map(|entry| entry.and_then(|(key, value)| read::<Block>(&key, &value)))
        .filter(|block| block.as_ref().map_or(true, |block| filter.matches(block)))
        .take(limit)
        .collect()
}

/// The ban that is found by this.
pub(crate) fn ban(view: &dyn View, key: &BanKey) -> Result<Option<Ban>, ReadError> {
    fetch(view, &ban_key(key))
}

/// Up to `limit` bans, last key first, before the key of `after`.
pub(crate) fn bans(view: &dyn View, after: Option<&BanKey>, limit: usize) -> Result<Vec<Ban>, ReadError> {
    let after = after.map(ban_key);
    let entries = view.newest_first(Table::Ban, &[], after.as_deref());
    entries.take(limit).map(|entry| entry.and_then(|(key, value)| read(&key, &value))).collect()
}

/// The ban in force that holds for this owner.
pub(crate) fn ban_on(view: &dyn View, owner: &Owner) -> Result<Option<Ban>, ReadError> {
    for key in [BanKey::Name(owner.spiffe_id.clone()), BanKey::Enrolment(owner.enrolment)] {
        if let Some(ban) = ban(view, &key)?.filter(Ban::in_force) {
            return Ok(Some(ban));
        }
    }
    Ok(None)
}

/// A join token by the digest of its secret.
pub(crate) fn join_token(view: &dyn View, digest: Digest) -> Result<Option<JoinToken>, ReadError> {
    fetch(view, digest.as_bytes())
}

/// An enrolment.
pub(crate) fn enrolment(view: &dyn View, id: EnrolmentId) -> Result<Option<Enrolment>, ReadError> {
    fetch(view, id.as_bytes())
}

/// The enrolment that was made last for a SPIFFE ID.
pub(crate) fn latest_enrolment(
    view: &dyn View,
    spiffe_id: &SpiffeId,
) -> Result<Option<Enrolment>, ReadError> {
    let Some(value) = view.get(Table::LatestEnrolment, spiffe_id.to_string().as_bytes())? else {
        return Ok(None);
    };
    let owner = latest(&value)?;
    indexed(view, Table::LatestEnrolment, Ok(owner.enrolment.as_bytes())).map(Some)
}

/// Up to `limit` enrolments, newest first, older than `before`.
pub(crate) fn enrolments(
    view: &dyn View,
    before: Option<EnrolmentId>,
    limit: usize,
) -> Result<Vec<Enrolment>, ReadError> {
    let before = before.map(|id| *id.as_bytes());
    let entries = view.newest_first(Table::Enrolment, &[], before.as_ref().map(<[u8; 16]>::as_slice));
    entries.take(limit).map(|entry| entry.and_then(|(key, value)| read(&key, &value))).collect()
}

/// An identity by the digest of its certificate.
pub(crate) fn identity(view: &dyn View, certificate: Digest) -> Result<Option<CreatedIdentity>, ReadError> {
    fetch(view, certificate.as_bytes())
}

/// The identity that was recorded last.
pub(crate) fn latest_identity(view: &dyn View) -> Result<Option<CreatedIdentity>, ReadError> {
    let Some(value) = view.get(Table::Meta, LATEST_IDENTITY)? else { return Ok(None) };
    let latest: LatestIdentity =
        unframe(&value).map_err(|damage| ReadError::Damaged { table: Table::Meta, damage })?;
    indexed(view, Table::Meta, Ok(&latest.certificate_digest)).map(Some)
}
