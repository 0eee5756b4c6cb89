//! The feed of ends, and how the streams on it are woken.

use std::collections::HashMap;
use std::sync::Arc;

use shorepass_core::caller::Owner;
use shorepass_core::feed::{Feed, Next, Opened, StreamId};
use shorepass_core::lease::Lease;
use tokio::sync::Notify;

pub(super) struct Streams {
    feed: Feed<Lease>,
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

    pub(super) fn take(&mut self, stream: StreamId) -> Next<Lease> {
        self.feed.take(stream)
    }

    pub(super) fn publish(&mut self, lease: &Lease) {
        // Whoever is not known by name finds the end with its next call.
        let Some(owner) = lease.owner.known() else { return };
        for stream in self.feed.publish(owner, lease.clone()) {
            if let Some(wake) = self.wake.get(&stream) {
                wake.notify_one();
            }
        }
    }
}
