//! The feed of ends and of roles that changed, and how the streams on it are woken.

use std::collections::HashMap;
use std::sync::Arc;

use shorepass_core::caller::Owner;
use shorepass_core::feed::{Feed, Next, Opened, StreamId};
use shorepass_core::id::LeaseId;
use shorepass_core::lease::Lease;
use tokio::sync::Notify;

/// What owners are told.
#[derive(Clone)]
pub(super) enum Event {
    /// A lease ended.
    Ended(Box<Lease>),
    /// The role of a lease that lives is another one.
    RoleChanged(LeaseId),
}

pub(super) struct Streams {
    feed: Feed<Event>,
    wake: HashMap<StreamId, Arc<Notify>>,
}

impl Streams {
    pub(super) fn new(start: u64) -> Self {
        Self { feed: Feed::new(start), wake: HashMap::new() }
    }

    pub(super) fn newest(&self, owner: &Owner) -> u64 {
        self.feed.newest(owner)
    }

    pub(super) fn open(&mut self, owner: &Owner, seen: u64) -> (Opened, Arc<Notify>) {
        let (opened, wake) = (self.feed.open(owner, seen), Arc::new(Notify::new()));
        self.wake.insert(opened.stream, wake.clone());
        (opened, wake)
    }

    pub(super) fn close(&mut self, stream: StreamId) {
        self.feed.close(stream);
        self.wake.remove(&stream);
    }

    pub(super) fn take(&mut self, stream: StreamId) -> Next<Event> {
        self.feed.take(stream)
    }

    pub(super) fn publish(&mut self, lease: &Lease, event: Event) {
        // Whoever is not known by name finds the end with its next call.
        let Some(owner) = lease.owner.known() else { return };
        for stream in self.feed.publish(owner, event) {
            if let Some(wake) = self.wake.get(&stream) {
                wake.notify_one();
            }
        }
    }
}
