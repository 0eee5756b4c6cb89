//! Who is connected: how many connections each caller has, and a way to close all of somebody's.
//!
//! A connection has its place here before its first call is served and until it is closed. So who records that a caller is
//! shut out, and closes after that, leaves it no connection on which a call was ever admitted: one that comes later has all
//! of its calls refused, and is not kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shorepass_core::caller::{Caller, Owner, SpiffeId};
use tokio_util::sync::CancellationToken;

/// All open connections of verified callers. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    last: u64,
    of: HashMap<SpiffeId, HashMap<u64, Seat>>,
}

#[derive(Debug)]
struct Seat {
    caller: Caller,
    end: CancellationToken,
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Connections,
    /// None for a peer without a certificate.
    seat: Option<(SpiffeId, u64)>,
    end: CancellationToken,
}

impl Connections {
    /// Closes the connections of all callers for whom `whose` holds; how many that were.
    pub fn close(&self, whose: impl Fn(&Owner) -> bool) -> usize {
        self.close_callers(|caller| whose(&caller.owner()))
    }

    /// As [`Self::close`], by what is known of each connection's caller.
    pub fn close_callers(&self, which: impl Fn(&Caller) -> bool) -> usize {
        let open = self.open();
        let hit = open.of.values().flat_map(HashMap::values).filter(|seat| which(&seat.caller));
        hit.map(|seat| seat.end.cancel()).count()
    }

    /// A place for one more connection; none if the caller has `most` already.
    pub(crate) fn admit(&self, caller: Option<&Caller>, most: usize) -> Option<Place> {
        let end = CancellationToken::new();
        let Some(caller) = caller else {
            return Some(Place { connections: self.clone(), seat: None, end });
        };
        let mut open = self.open();
        open.last += 1;
        let number = open.last;
        let name = caller.spiffe_id().clone();
        let seats = open.of.entry(name.clone()).or_default();
        if seats.len() >= most {
            return None;
        }
        seats.insert(number, Seat { caller: caller.clone(), end: end.clone() });
        drop(open);
        Some(Place { connections: self.clone(), seat: Some((name, number)), end })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing in here is half changed by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// When its caller is shut out.
    pub(crate) async fn closed(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((name, number)) = &self.seat else { return };
        let mut open = self.connections.open();
        let Some(seats) = open.of.get_mut(name) else { return };
        seats.remove(number);
        if seats.is_empty() {
            open.of.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use shorepass_core::caller::VerifiedPeer;
    use shorepass_core::digest::Digest;
    use shorepass_core::id::EnrolmentId;
    use shorepass_core::time::Timestamp;

    use super::*;

    fn caller(name: &str, enrolment: &str) -> Caller {
        Caller::from_verified_peer(VerifiedPeer {
            spiffe_id: SpiffeId::parse(&format!("spiffe://d/runner/{name}")).unwrap(),
            enrolment: EnrolmentId::parse(&format!("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8{enrolment}"))
                .unwrap(),
            issued: Timestamp::UNIX_EPOCH,
            expires: Timestamp::MAX,
            authority: Digest::of_bytes(b"authority"),
            certificate: Digest::of_bytes(b"certificate"),
            key: Digest::of_bytes(b"key"),
        })
    }

    #[test]
    fn only_the_connections_of_who_is_meant_are_closed() {
        let connections = Connections::default();
        let [one, again, other] = [caller("a", "1"), caller("a", "2"), caller("b", "1")];
        let places = [&one, &again, &other].map(|caller| connections.admit(Some(caller), 9).unwrap());
        let nobody = connections.admit(None, 0).unwrap();
        assert_eq!(connections.close(|owner| *owner == one.owner()), 1);
        assert_eq!(places.each_ref().map(|place| place.end.is_cancelled()), [true, false, false]);
        assert_eq!(connections.close(|owner| owner.spiffe_id == *again.spiffe_id()), 2);
        assert_eq!(places.each_ref().map(|place| place.end.is_cancelled()), [true, true, false]);
        assert!(!nobody.end.is_cancelled());
    }

    #[test]
    fn places_are_given_back_and_nothing_is_kept_of_who_has_gone() {
        let connections = Connections::default();
        let one = caller("a", "1");
        let first = connections.admit(Some(&one), 2).unwrap();
        let second = connections.admit(Some(&one), 2).unwrap();
        assert!(connections.admit(Some(&one), 2).is_none());
        drop(first);
        let third = connections.admit(Some(&one), 2);
        assert!(third.is_some());
        drop((second, third));
        assert!(connections.open().of.is_empty());
        assert_eq!(connections.close(|_| true), 0);
    }
}
