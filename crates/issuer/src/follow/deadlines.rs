//! The deadlines of living leases, in their order.

use std::collections::BTreeSet;

use shorepass_core::id::LeaseId;
use shorepass_core::time::Timestamp;

#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(Timestamp, LeaseId)>);

impl Deadlines {
    pub(super) fn note(&mut self, deadline: Timestamp, lease: LeaseId) {
        self.0.insert((deadline, lease));
    }

    pub(super) fn forget(&mut self, deadline: Timestamp, lease: LeaseId) {
        self.0.remove(&(deadline, lease));
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|(deadline, _)| *deadline)
    }

    /// Those that have passed. They are forgotten.
    pub(super) fn take(&mut self, now: Timestamp) -> Vec<LeaseId> {
        let mut passed = Vec::new();
        while let Some((deadline, lease)) = self.0.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.0.remove(&(deadline, lease));
            passed.push(lease);
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deadline_is_taken_once_when_it_has_passed_and_never_when_it_was_forgotten() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let lease = |last| LeaseId::parse(&format!("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8{last}")).unwrap();
        let mut deadlines = Deadlines::default();
        for (at, id) in [(30, 1), (10, 2), (20, 3), (20, 4)] {
            deadlines.note(second(at), lease(id));
        }
        deadlines.forget(second(20), lease(3));
        assert_eq!(deadlines.next(), Some(second(10)));
        assert!(deadlines.take(second(9)).is_empty());
        assert_eq!(deadlines.take(second(20)), [lease(2), lease(4)]);
        assert!(deadlines.take(second(20)).is_empty());
        assert_eq!(deadlines.take(second(99)), [lease(1)]);
        assert_eq!(deadlines.next(), None);
    }
}
