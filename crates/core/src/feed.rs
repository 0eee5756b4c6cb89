//! What owners are told of ends, as a state machine: numbered events, a bounded queue for each stream, catching up.
//!
//! A stream opens before the records are read for what its owner missed, so that an end is in the records by then or in the
//! queue after, or in both: who listens must not mind to hear of one end twice. Every event of an owner raises the owner's
//! newest number; who has seen that number has missed nothing, and need not be told anything again. A queue that overflows is
//! given up, and the owner starts over. Numbers are worth something to one feed only: each begins at a number of its own.

use std::collections::{HashMap, VecDeque};

use crate::caller::Owner;

/// Events that wait for one stream.
pub const QUEUE: usize = 256;
/// Owners whose newest number is remembered.
pub const OWNERS: usize = 100_000;

/// One open stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u64);

/// What an owner finds that opens a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The stream.
    pub stream: StreamId,
    /// The number that it begins after.
    pub sequence: u64,
    /// Whether the owner has seen everything: nothing need be told again.
    pub up_to_date: bool,
}

/// What comes next on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// This happened.
    Event {
        /// Its number.
        sequence: u64,
        /// What.
        event: T,
    },
    /// Nothing has happened.
    Nothing,
    /// Events were lost: the stream is to be opened anew.
    StartOver,
}

#[derive(Debug)]
struct Stream<T> {
    owner: Owner,
    queue: VecDeque<(u64, T)>,
    overflown: bool,
}

/// All streams.
#[derive(Debug)]
pub struct Feed<T> {
    first: u64,
    last: u64,
    newest: HashMap<Owner, u64>,
    opened: u64,
    streams: HashMap<StreamId, Stream<T>>,
    of: HashMap<Owner, Vec<StreamId>>,
}

impl<T: Clone> Feed<T> {
    /// Numbers begin after `start`, which no other feed should have: 64 random bits.
    pub fn new(start: u64) -> Self {
        // Room to count, and never 0, which says "none seen".
        let first = (start >> 1).max(1);
        Self {
            first,
            last: first,
            newest: HashMap::new(),
            opened: 0,
            streams: HashMap::new(),
            of: HashMap::new(),
        }
    }

    /// Opens a stream for an owner that has seen the event of this number.
    pub fn open(&mut self, owner: &Owner, seen: u64) -> Opened {
        self.opened += 1;
        let stream = StreamId(self.opened);
        self.streams
            .insert(stream, Stream { owner: owner.clone(), queue: VecDeque::new(), overflown: false });
        self.of.entry(owner.clone()).or_default().push(stream);
        let sequence = self.newest(owner);
        Opened { stream, sequence, up_to_date: seen == sequence }
    }

    /// The stream is gone.
    pub fn close(&mut self, stream: StreamId) {
        let Some(closed) = self.streams.remove(&stream) else { return };
        if let Some(streams) = self.of.get_mut(&closed.owner) {
            streams.retain(|open| *open != stream);
            if streams.is_empty() {
                self.of.remove(&closed.owner);
            }
        }
    }

    /// The number of the owner's newest event.
    pub fn newest(&self, owner: &Owner) -> u64 {
        self.newest.get(owner).copied().unwrap_or(self.first)
    }

    /// Something happened; the streams that have something to take now.
    pub fn publish(&mut self, owner: &Owner, event: T) -> Vec<StreamId> {
        self.last += 1;
        if self.newest.len() >= OWNERS && !self.newest.contains_key(owner) {
            // Who is not remembered has seen no number that counts any more.
            self.newest.clear();
            self.first = self.last;
            self.last += 1;
        }
        self.newest.insert(owner.clone(), self.last);
        let reached = self.of.get(owner).cloned().unwrap_or_default();
        for id in &reached {
            let Some(stream) = self.streams.get_mut(id) else { continue };
            if stream.queue.len() >= QUEUE {
                stream.overflown = true;
            }
            if stream.overflown {
                stream.queue.clear();
            } else {
                stream.queue.push_back((self.last, event.clone()));
            }
        }
        reached
    }

    /// What comes next on the stream.
    pub fn take(&mut self, stream: StreamId) -> Next<T> {
        match self.streams.get_mut(&stream) {
            None => Next::StartOver,
            Some(stream) if stream.overflown => Next::StartOver,
            Some(stream) => match stream.queue.pop_front() {
                Some((sequence, event)) => Next::Event { sequence, event },
                None => Next::Nothing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::caller::SpiffeId;
    use crate::id::EnrolmentId;

    fn owner(name: &str) -> Owner {
        Owner {
            spiffe_id: SpiffeId::parse(&format!("spiffe://d/runner/{name}")).unwrap(),
            enrolment: EnrolmentId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap(),
        }
    }

    #[test]
    fn a_queue_that_overflows_starts_over_and_disturbs_nobody_else() {
        let mut feed = Feed::new(9);
        let (slow, quick) = (feed.open(&owner("a"), 0).stream, feed.open(&owner("a"), 0).stream);
        for event in 0..=QUEUE {
            assert_eq!(feed.publish(&owner("a"), event).len(), 2);
            assert!(matches!(feed.take(quick), Next::Event { event: told, .. } if told == event));
        }
        assert_eq!(feed.take(slow), Next::StartOver);
        assert_eq!(feed.take(quick), Next::Nothing);
        let other = feed.open(&owner("b"), 0).stream;
        feed.publish(&owner("a"), 7);
        assert_eq!(feed.take(other), Next::Nothing);
        [slow, quick, other].into_iter().for_each(|stream| feed.close(stream));
        assert!(feed.of.is_empty() && feed.streams.is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn the_numbers_of_another_feed_are_not_taken_for_its_own() {
        let mut before = Feed::new(1_000);
        before.publish(&owner("a"), ());
        let seen = before.newest(&owner("a"));
        let mut after = Feed::<()>::new(77_000);
        assert!(!after.open(&owner("a"), seen).up_to_date);
        assert!(!after.open(&owner("a"), 0).up_to_date);
    }

    #[derive(Clone, Debug)]
    enum Step {
        End,
        Many(usize),
        Open,
        Break,
        Hear(usize),
        Restart(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::End),
            1 => (1usize..2 * QUEUE).prop_map(Step::Many),
            3 => Just(Step::Open),
            2 => Just(Step::Break),
            4 => (1usize..8).prop_map(Step::Hear),
            1 => (10_000u64..).prop_map(Step::Restart),
        ]
    }

    /// An owner that opens streams, and the records behind the feed.
    struct World {
        feed: Feed<usize>,
        records: BTreeSet<usize>,
        known: BTreeSet<usize>,
        seen: u64,
        stream: Option<StreamId>,
    }

    impl World {
        fn end(&mut self) {
            let lease = self.records.len();
            self.records.insert(lease);
            self.feed.publish(&owner("a"), lease);
        }

        fn open(&mut self) {
            if let Some(stream) = self.stream.take() {
                self.feed.close(stream);
            }
            let opened = self.feed.open(&owner("a"), self.seen);
            if !opened.up_to_date {
                self.known = self.records.clone();
            }
            self.seen = opened.sequence;
            self.stream = Some(opened.stream);
        }

        fn hear(&mut self) -> bool {
            let Some(stream) = self.stream else { return false };
            match self.feed.take(stream) {
                Next::Event { sequence, event } => {
                    self.known.insert(event);
                    self.seen = sequence;
                    true
                }
                Next::Nothing => false,
                Next::StartOver => {
                    self.open();
                    true
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_lost_on_the_way_who_has_caught_up_has_missed_nothing(
            steps in prop::collection::vec(step(), 0..60)
        ) {
            let mut world = World {
                feed: Feed::new(1), records: BTreeSet::new(), known: BTreeSet::new(), seen: 0, stream: None,
            };
            for step in steps {
                match step {
                    Step::End => world.end(),
                    Step::Many(ends) => (0..ends).for_each(|_| world.end()),
                    Step::Open => world.open(),
                    Step::Break => {
                        if let Some(stream) = world.stream.take() {
                            world.feed.close(stream);
                        }
                    }
                    Step::Hear(times) => (0..times).for_each(|_| { world.hear(); }),
                    Step::Restart(start) => {
                        world.feed = Feed::new(start << 8);
                        world.stream = None;
                    }
                }
            }
            if world.stream.is_none() {
                world.open();
            }
            while world.hear() {}
            prop_assert_eq!(&world.known, &world.records);
            prop_assert_eq!(world.seen, world.feed.newest(&owner("a")));
        }
    }
}
