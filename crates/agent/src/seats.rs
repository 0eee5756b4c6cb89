//! How many connections are served at once, and whose.
//!
//! A uid that gets tokens has at most half of the seats, so that it cannot keep another one waiting. A uid that gets
//! nothing has a few of its own and takes none from anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that are served at once.
const SEATS: usize = 64;

/// The same, of one uid.
const SEATS_OF_ONE: usize = 32;

/// The same, of all uids that get nothing.
const SEATS_OF_STRANGERS: usize = 4;

/// Connections of one uid that are open: served, or waiting for a seat.
const OPEN_OF_ONE: usize = 96;

/// All seats.
pub(crate) struct Seats {
    all: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    known: BTreeMap<u32, OfOne>,
}

struct OfOne {
    seats: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

/// What a new connection gets.
pub(crate) enum Admission {
    /// A place in the queue of its uid.
    Queued(Queued),
    /// A seat of those for strangers.
    Stranger(OwnedSemaphorePermit),
}

/// Why it gets nothing.
pub(crate) enum Full {
    /// The uid has too many open connections.
    OfThisUid,
    /// The seats for strangers are taken, and this is one.
    OfStrangers,
}

/// A place in the queue of a uid.
pub(crate) struct Queued {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
    _open: OwnedSemaphorePermit,
}

impl Seats {
    /// Seats for these uids; all others are strangers.
    pub(crate) fn new(known: impl IntoIterator<Item = u32>) -> Self {
        let semaphore = |seats| Arc::new(Semaphore::new(seats));
        let of_one = |uid| (uid, OfOne { seats: semaphore(SEATS_OF_ONE), open: semaphore(OPEN_OF_ONE) });
        Self {
            all: semaphore(SEATS),
            strangers: semaphore(SEATS_OF_STRANGERS),
            known: known.into_iter().map(of_one).collect(),
        }
    }

    /// Never waits.
    pub(crate) fn admit(&self, uid: u32) -> Result<Admission, Full> {
        match self.known.get(&uid) {
            Some(OfOne { seats, open }) => {
                let open = open.clone().try_acquire_owned().map_err(|_| Full::OfThisUid)?;
                let (own, all) = (seats.clone(), self.all.clone());
                Ok(Admission::Queued(Queued { own, all, _open: open }))
            }
            None => {
                let seat = self.strangers.clone().try_acquire_owned().map_err(|_| Full::OfStrangers)?;
                Ok(Admission::Stranger(seat))
            }
        }
    }
}

impl Queued {
    /// Waits for a seat.
    pub(crate) async fn seat(&self) -> (OwnedSemaphorePermit, OwnedSemaphorePermit) {
        let open = "these semaphores are never closed";
        let own = self.own.clone().acquire_owned().await.expect(open);
        (own, self.all.clone().acquire_owned().await.expect(open))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn queued(seats: &Seats, uid: u32) -> Queued {
        match seats.admit(uid) {
            Ok(Admission::Queued(queued)) => queued,
            Ok(Admission::Stranger(_)) | Err(_) => panic!("uid {uid} should have been queued"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_uid_has_at_most_half_of_the_seats_and_gets_them_back() {
        let seats = Seats::new([1001, 1002]);
        let mut held = Vec::new();
        for _ in 0..SEATS_OF_ONE {
            held.push(queued(&seats, 1001).seat().await);
        }
        let waiting = queued(&seats, 1001);
        assert!(timeout(Duration::from_secs(1), waiting.seat()).await.is_err());
        for _ in 0..SEATS_OF_ONE {
            held.push(timeout(Duration::from_secs(1), queued(&seats, 1002).seat()).await.unwrap());
        }
        drop(held.remove(0));
        drop(timeout(Duration::from_secs(1), waiting.seat()).await.unwrap());
    }

    #[test]
    fn strangers_have_a_few_seats_and_never_those_of_others() {
        let seats = Seats::new([1001]);
        let held: Vec<_> = (2_000..2_100).map(|uid| seats.admit(uid)).collect();
        let seated = held.iter().filter(|admission| matches!(admission, Ok(Admission::Stranger(_)))).count();
        assert_eq!(seated, SEATS_OF_STRANGERS);
        assert_eq!(seats.all.available_permits(), SEATS);
        queued(&seats, 1001);
    }

    #[test]
    fn open_connections_of_one_uid_are_limited() {
        let seats = Seats::new([1001]);
        let held: Vec<_> = (0..OPEN_OF_ONE).map(|_| queued(&seats, 1001)).collect();
        assert!(matches!(seats.admit(1001), Err(Full::OfThisUid)));
        drop(held);
        queued(&seats, 1001);
    }
}
