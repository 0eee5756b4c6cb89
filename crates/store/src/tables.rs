//! The key space: one ordered map, whatever the engine.
//!
//! Each key begins with its table's byte; one map and not one per table, because a batch is atomic on one map only.
//! Rows are values in the frame of `record`; the indices have empty values, all that they say is in the key. A lease that
//! has ended leaves [`Table::UnfinishedLeases`] and is history: what is asked every few seconds, and what is read at start,
//! costs what is going on and not what ever happened. `trim` removes history when it is old.
//!
//! | table | key |
//! | --- | --- |
//! | Meta | `progress`, `identity` |
//! | Job, Lease, Block, Enrolment | id, 16 bytes: UUIDv7, so that keys sort by time |
//! | Token | `jti` |
//! | TokensOfLease (index) | lease id, time recorded, `jti` |
//! | BlocksOfCaller (index) | SPIFFE ID, 0, role, 0, block id |
//! | BlocksOfJob (index) | job id, block id |
//! | JoinToken | digest, 32 bytes |
//! | LatestEnrolment | SPIFFE ID |
//! | Request | SPIFFE ID, 0, enrolment id, method, request id, and the job id where there is one |
//! | UnfinishedLeases (index) | lease id |
//! | LeasesOfJob (index) | job id, lease id |
//! | LeasesOfCaller (index) | SPIFFE ID, 0, lease id |
//! | Control | the anchor's name |
//! | Identity | digest of its certificate, 32 bytes |
//! | SpentToken | its replay digest, 32 bytes |
//! | Ban | `n` and the SPIFFE ID, or `e` and the enrolment's id |
//! | Due (index) | kind, time, key of the row |

use std::collections::BTreeMap;
use std::ops::Bound;

use shorepass_core::ban::BanKey;
use shorepass_core::block::Block;
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::id::{BlockId, JobId, RequestId};
use shorepass_core::lease::Lease;
use shorepass_core::ledger::MintedToken;
use shorepass_core::name::Name;
use shorepass_core::request::Method;

use crate::convert::nanoseconds;
use crate::record::Damage;

/// A table, with the byte that its keys begin with. Bytes are for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Table {
    /// How far the audit file, and the file that hands identities over, are in the records, and which ledger they are.
    Meta = 0,
    /// Job sessions.
    Job = 1,
    /// Leases.
    Lease = 2,
    /// Minted tokens.
    Token = 3,
    /// Which tokens a lease has.
    TokensOfLease = 4,
    /// Blocks.
    Block = 5,
    /// Which blocks a caller and role have.
    BlocksOfCaller = 6,
    /// Join tokens.
    JoinToken = 7,
    /// Enrolments.
    Enrolment = 8,
    /// The enrolment that was made last for a SPIFFE ID.
    LatestEnrolment = 9,
    /// Answered requests.
    Request = 10,
    /// Which leases have not ended.
    UnfinishedLeases = 11,
    /// Which leases a job has, ended ones too.
    LeasesOfJob = 12,
    /// Which leases a caller has, ended ones too.
    LeasesOfCaller = 13,
    /// Anchors of nobody's lease that are not known to be gone.
    Control = 23,
    /// Identities of operators and platforms.
    Identity = 14,
    /// Bans.
    Ban = 25,
    /// Which blocks a job session has.
    BlocksOfJob = 27,
    /// Tokens that were used: that have opened a session, or let a runner in.
    SpentToken = 26,
    /// What is removed when.
    Due = 30,
}

impl Table {
    /// All tables.
    pub(crate) const ALL: [Self; 20] = [
        Self::Meta,
        Self::Job,
        Self::Lease,
        Self::Token,
        Self::TokensOfLease,
        Self::Block,
        Self::BlocksOfCaller,
        Self::JoinToken,
        Self::Enrolment,
        Self::LatestEnrolment,
        Self::Request,
        Self::UnfinishedLeases,
        Self::LeasesOfJob,
        Self::LeasesOfCaller,
        Self::Control,
        Self::Identity,
        Self::Ban,
        Self::BlocksOfJob,
        Self::SpentToken,
        Self::Due,
    ];

    /// Whether its rows are security state: what refuses somebody. Losing one would let somebody in, so that there is a
    /// second copy of them.
    pub(crate) fn is_security(self) -> bool {
        match self {
            Self::Block
            | Self::BlocksOfCaller
            | Self::Ban
            | Self::BlocksOfJob
            | Self::SpentToken
            | Self::JoinToken
            | Self::Enrolment
            | Self::LatestEnrolment => true,
            Self::Meta
            | Self::Job
            | Self::Lease
            | Self::Token
            | Self::TokensOfLease
            | Self::Request
            | Self::UnfinishedLeases
            | Self::LeasesOfJob
            | Self::LeasesOfCaller
            | Self::Control
            | Self::Identity
            | Self::Due => false,
        }
    }

    /// A key of this table in the whole space.
    pub(crate) fn key(self, key: &[u8]) -> Vec<u8> {
        [&[self as u8], key].concat()
    }

    /// The table and the key in it.
    pub(crate) fn split(key: &[u8]) -> Option<(Self, &[u8])> {
        let (&byte, key) = key.split_first()?;
        Some((Self::ALL.into_iter().find(|table| *table as u8 == byte)?, key))
    }
}

/// The key in [`Table::Meta`] of how far the audit file is in the records.
pub(crate) const PROGRESS: &[u8] = b"progress";
/// The key in [`Table::Meta`] of which ledger the records are.
pub(crate) const LEDGER_IDENTITY: &[u8] = b"ledger";

/// The key of [`Table::Meta`] that names the identity that was recorded last.
pub(crate) const LATEST_IDENTITY: &[u8] = b"identity";

/// Where a request is found: scoped to its owner, job session and method.
pub(crate) fn request_key(owner: &Owner, job: Option<JobId>, method: Method, id: RequestId) -> Vec<u8> {
    let method = match method {
        Method::StartJob => 1,
        Method::Issue => 2,
        Method::CreateJoinToken => 3,
    };
    let spiffe_id = owner.spiffe_id.to_string();
    let job = job.as_ref().map_or(&[] as &[u8], |job| job.as_bytes());
    [spiffe_id.as_bytes(), &[0], owner.enrolment.as_bytes(), &[method], id.as_bytes(), job].concat()
}

/// Where a token stands among those of its lease.
pub(crate) fn token_of_lease_key(token: &MintedToken) -> Vec<u8> {
    // With the sign bit flipped, big-endian bytes sort like the numbers.
    let recorded = (nanoseconds(token.recorded) as u64) ^ (1 << 63);
    [token.lease.as_bytes().as_slice(), &recorded.to_be_bytes(), token.jti.as_bytes()].concat()
}

/// The `jti` in a key of [`Table::TokensOfLease`].
pub(crate) fn jti_of(key: &[u8]) -> Result<&[u8], Damage> {
    key.get(24..).ok_or(Damage::Short)
}

/// What the keys of a caller's and role's blocks begin with.
pub(crate) fn blocks_prefix(caller: &SpiffeId, role: &Name) -> Vec<u8> {
    [blocks_of_caller_prefix(caller).as_slice(), role.as_str().as_bytes(), &[0]].concat()
}

/// Where all blocks of a caller are.
pub(crate) fn blocks_of_caller_prefix(caller: &SpiffeId) -> Vec<u8> {
    [caller.to_string().as_bytes(), &[0]].concat()
}

/// Where a block stands among those of its caller and role.
pub(crate) fn block_of_caller_key(caller: &SpiffeId, role: &Name, id: BlockId) -> Vec<u8> {
    [blocks_prefix(caller, role).as_slice(), id.as_bytes()].concat()
}

/// Where a block stands among those of its job session, if it is of one.
pub(crate) fn block_of_job_key(block: &Block) -> Option<Vec<u8>> {
    block.job.map(|job| [job.as_bytes().as_slice(), block.id.as_bytes()].concat())
}

/// Where a ban is.
pub(crate) fn ban_key(key: &BanKey) -> Vec<u8> {
    match key {
        BanKey::Name(name) => [b"n", name.to_string().as_bytes()].concat(),
        BanKey::Enrolment(enrolment) => [b"e", enrolment.as_bytes().as_slice()].concat(),
    }
}

/// Where a lease stands among those of its job, if that is known.
fn lease_of_job_key(lease: &Lease) -> Option<Vec<u8>> {
    lease.job.map(|job| [job.as_bytes().as_slice(), lease.id.as_bytes()].concat())
}

/// What the keys of a caller's leases begin with.
pub(crate) fn leases_prefix(caller: &SpiffeId) -> Vec<u8> {
    [caller.to_string().as_bytes(), &[0]].concat()
}

/// Where a lease stands among those of its caller, if that is known.
fn lease_of_caller_key(lease: &Lease) -> Option<Vec<u8>> {
    lease.owner.spiffe_id().map(|caller| [leases_prefix(caller).as_slice(), lease.id.as_bytes()].concat())
}

/// Where history finds a lease.
pub(crate) fn index_of_lease(lease: &Lease) -> impl Iterator<Item = (Table, Vec<u8>)> {
    let of_job = lease_of_job_key(lease).map(|key| (Table::LeasesOfJob, key));
    of_job.into_iter().chain(lease_of_caller_key(lease).map(|key| (Table::LeasesOfCaller, key)))
}

/// The id at the end of a key of an index.
pub(crate) fn id_of(key: &[u8]) -> Result<&[u8], Damage> {
    key.last_chunk::<16>().map(<[u8; 16]>::as_slice).ok_or(Damage::Short)
}

/// Why a row could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is there and damaged.
    #[error("a record in table {table:?} is damaged: {damage}")]
    Damaged {
        /// Where.
        table: Table,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The engine failed.
    #[error("{0}")]
    Engine(String),
}

/// A key, without its table's byte, and its value.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

/// The entries of a scan.
pub(crate) type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, ReadError>> + 'a>;

/// An ordered key space that can be read.
pub(crate) trait View {
    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError>;

    /// The entries whose keys begin with `prefix` and come before `before`, last key first: keys sort by time.
    fn newest_first(&self, table: Table, prefix: &[u8], before: Option<&[u8]>) -> Entries<'_>;

    /// The same entries the other way round, for whoever takes the first few of many.
    fn oldest_first(&self, table: Table, prefix: &[u8], before: &[u8]) -> Entries<'_> {
        let entries: Vec<_> = self.newest_first(table, prefix, Some(before)).collect();
        Box::new(entries.into_iter().rev())
    }
}

/// The range of whole keys of [`View::newest_first`], its end excluded.
pub(crate) fn range(table: Table, prefix: &[u8], before: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let start = table.key(prefix);
    let end = match before {
        Some(before) => table.key(before).max(start.clone()),
        None => after_prefix(start.clone()),
    };
    (start, end)
}

/// The first key after all that begin so.
fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            break;
        }
    }
    prefix
}

/// A key space in memory, by whole keys.
#[derive(Debug, Default)]
pub(crate) struct Space(BTreeMap<Vec<u8>, Vec<u8>>);

impl Space {
    /// Does what was to be done.
    pub(crate) fn apply(&mut self, writes: Writes) {
        for (key, value) in writes.into_rows() {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }
}

impl View for Space {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.0.get(&table.key(key)).cloned())
    }

    fn newest_first(&self, table: Table, prefix: &[u8], before: Option<&[u8]>) -> Entries<'_> {
        let (start, end) = range(table, prefix, before);
        let rows = self.0.range::<Vec<u8>, _>((Bound::Included(start), Bound::Excluded(end)));
        // Every key in the range begins with the table's byte.
        Box::new(rows.rev().map(|(key, value)| Ok((key[1..].to_vec(), value.clone()))))
    }
}

/// What is to be written to a key space and what removed from it, by whole keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Writes {
    /// Writes a value.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.0.insert(key, Some(value));
    }

    /// Removes a value.
    pub(crate) fn remove(&mut self, key: Vec<u8>) {
        self.0.insert(key, None);
    }

    /// Does all of another's after its own.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to become of a whole key; none if nothing is.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.0.get(key).map(Option::as_deref)
    }

    /// The whole keys and values; none for what is to be removed.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// Those of a range of whole keys, without their table's byte, which every key in it begins with.
    pub(crate) fn within(
        &self,
        (start, end): (Vec<u8>, Vec<u8>),
    ) -> impl DoubleEndedIterator<Item = (&[u8], Option<&[u8]>)> {
        let rows = self.0.range::<Vec<u8>, _>((Bound::Included(start), Bound::Excluded(end)));
        rows.map(|(key, value)| (&key[1..], value.as_deref()))
    }

    /// The same, given away.
    pub(crate) fn into_rows(self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(space: &dyn View, prefix: &[u8], before: Option<&[u8]>) -> Vec<Vec<u8>> {
        space.newest_first(Table::Job, prefix, before).map(|entry| entry.unwrap().0).collect()
    }

    fn space() -> Space {
        let mut writes = Writes::default();
        for key in [b"a".as_slice(), b"ab", b"b", &[0xff], &[0xff, 0xff]] {
            writes.put(Table::Job.key(key), vec![]);
        }
        writes.put(Table::Meta.key(b"z"), vec![]);
        writes.put(Table::Lease.key(b""), vec![]);
        let mut space = Space::default();
        space.apply(writes);
        space
    }

    #[test]
    fn a_scan_stays_in_its_table_and_prefix_and_goes_backwards() {
        let all = [&[0xff_u8, 0xff] as &[u8], &[0xff], b"b", b"ab", b"a"];
        assert_eq!(keys(&space(), b"", None), all);
        assert_eq!(keys(&space(), b"a", None), [b"ab".as_slice(), b"a"]);
        assert_eq!(keys(&space(), &[0xff], None), [&[0xff_u8, 0xff] as &[u8], &[0xff]]);
    }

    #[test]
    fn a_scan_begins_before_its_bound() {
        assert_eq!(keys(&space(), b"", Some(b"b")), [b"ab".as_slice(), b"a"]);
        assert_eq!(keys(&space(), b"b", Some(b"a")), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn every_table_has_its_own_byte_and_is_found_by_it() {
        for table in Table::ALL {
            assert_eq!(Table::split(&table.key(b"k")), Some((table, b"k".as_slice())));
        }
        assert_eq!(Table::split(&[200, 1]), None);
        assert_eq!(Table::split(&[]), None);
    }
}
