//! Follows the leases while they live: when each is to end by itself, when its owner was heard of, and who wants to be told
//! of its end.
//!
//! What is known here is in memory and comes from the records: at start, and then with every commit ([`announce`]), whoever
//! made it. What is due is done by the [`timer`]; what calls say is in [`watch`]. Nothing here is authority for anything: who
//! acts on it asks the records again, the sweeper finds deadlines by itself, and who opens a stream is told from the records.
//!
//! A lease is heard of when it is issued or refreshed, when a heartbeat names it, and when a stream of Watch is opened for it.
//! A stream that is open does not count: the connection of an agent that hangs lives on in the kernels of both sides.

pub mod announce;
mod deadlines;
mod roles;
mod streams;
pub mod timer;
pub mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shorepass_core::caller::Owner;
use shorepass_core::feed::{Next, Opened};
use shorepass_core::id::LeaseId;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{LeaseFilter, Ledger, LedgerError};
use shorepass_core::name::Name;
use shorepass_core::policy::Policy;
use shorepass_core::silence::Hearing;
use shorepass_core::time::{Clock, Entropy, Timestamp};
use tokio::sync::Notify;

use self::deadlines::Deadlines;
use self::roles::Roles;
use self::streams::{Event, Streams};
use crate::revoke::PAGE;

/// What the issuer knows of living leases.
pub struct Follow {
    clock: Arc<dyn Clock>,
    roles: Mutex<Roles>,
    deadlines: Mutex<Deadlines>,
    hearing: Mutex<Hearing>,
    streams: Mutex<Streams>,
    /// Those that live, by role.
    living: Mutex<HashMap<Name, HashSet<LeaseId>>>,
    /// Something is due earlier than before.
    sooner: Notify,
}

impl Follow {
    /// Knows no lease yet.
    pub fn new(policy: &Policy, clock: Arc<dyn Clock>, entropy: &dyn Entropy) -> Self {
        let mut start = [0; 8];
        entropy.fill(&mut start);
        Self {
            clock,
            roles: Mutex::new(Roles::of(policy)),
            deadlines: Mutex::default(),
            hearing: Mutex::default(),
            streams: Mutex::new(Streams::new(u64::from_be_bytes(start))),
            living: Mutex::default(),
            sooner: Notify::new(),
        }
    }

    /// Takes up all leases that have not ended, before anybody is served. All of them were heard of now.
    pub fn load(&self, ledger: &dyn Ledger) -> Result<(), LedgerError> {
        let mut before = None;
        loop {
            let page = ledger.leases(&LeaseFilter::default(), before, PAGE)?;
            before = page.last().map(|lease| lease.id);
            page.iter().filter(|lease| lease.is_live()).for_each(|lease| self.begins(lease));
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// How long the owner of the lease may be silent.
    pub(crate) fn silence_of(&self, lease: &Lease) -> Option<Duration> {
        locked(&self.roles).silence_of(lease)
    }

    /// Other roles are in force from now on.
    pub(crate) fn exchange_roles(&self, policy: &Policy) {
        *locked(&self.roles) = Roles::of(policy);
    }

    /// What follows for a living lease: how long its owner may be silent, and that its role is another one, if so.
    pub(crate) fn roles_exchanged(&self, lease: &Lease, changed: bool) {
        let limit = self.silence_of(lease);
        locked(&self.hearing).limit(lease.id, limit, self.clock.since_boot());
        self.sooner.notify_one();
        if changed && self.role_changed(lease) {
            locked(&self.streams).publish(lease, Event::RoleChanged(lease.id));
        }
    }

    /// Whether its role is another one than it was granted by, or gone.
    fn role_changed(&self, lease: &Lease) -> bool {
        locked(&self.roles).changed(lease)
    }

    /// How many leases of the role live.
    pub(crate) fn living(&self, role: &Name) -> usize {
        locked(&self.living).get(role).map_or(0, HashSet::len)
    }

    /// Its owner has called about it.
    pub(crate) fn hear(&self, lease: LeaseId) {
        locked(&self.hearing).hear(lease, self.clock.since_boot());
    }

    /// The issuer could hear nobody until now.
    fn hear_all(&self) {
        locked(&self.hearing).hear_all(self.clock.since_boot());
    }

    /// A lease is recorded.
    fn begins(&self, lease: &Lease) {
        locked(&self.deadlines).note(lease.deadline, lease.id);
        if let Some(role) = &lease.role {
            locked(&self.living).entry(role.clone()).or_default().insert(lease.id);
        }
        if let Some(limit) = self.silence_of(lease) {
            locked(&self.hearing).begin(lease.id, limit, self.clock.since_boot());
        }
        self.sooner.notify_one();
    }

    /// A lease's end is recorded.
    fn ends(&self, lease: &Lease) {
        locked(&self.deadlines).forget(lease.deadline, lease.id);
        locked(&self.hearing).forget(lease.id);
        if let Some(role) = &lease.role {
            let mut living = locked(&self.living);
            if let Some(leases) = living.get_mut(role) {
                leases.remove(&lease.id);
                if leases.is_empty() {
                    living.remove(role);
                }
            }
        }
        locked(&self.streams).publish(lease, Event::Ended(Box::new(lease.clone())));
    }

    /// The leases whose deadline has passed; each once.
    fn past_deadline(&self, now: Timestamp) -> Vec<LeaseId> {
        locked(&self.deadlines).take(now)
    }

    /// The leases that were silent for too long; again until their ends are recorded.
    fn silent(&self) -> Vec<LeaseId> {
        locked(&self.hearing).silent(self.clock.since_boot())
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        locked(&self.deadlines).next()
    }

    fn next_silence(&self) -> Option<Duration> {
        locked(&self.hearing).next()
    }

    /// The number of the owner's newest event.
    fn newest(&self, owner: &Owner) -> u64 {
        locked(&self.streams).newest(owner)
    }

    fn open(&self, owner: &Owner, seen: u64) -> (Opened, Arc<Notify>) {
        locked(&self.streams).open(owner, seen)
    }

    fn close(&self, opened: Opened) {
        locked(&self.streams).close(opened.stream);
    }

    fn take(&self, opened: Opened) -> Next<Event> {
        locked(&self.streams).take(opened.stream)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here is half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
