//! Silence: a lease whose owner is not heard of for too long ends.
//!
//! What counts as hearing is decided where calls come in. Here is how long a role allows, and who is due: a state machine
//! over time since boot, because a wall clock that was set must not end leases. It lives in memory: an issuer that starts,
//! or goes on after it stood still, has heard everybody at that moment, so that its own outage costs nobody a lease.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::caller::Kind;
use crate::id::LeaseId;

/// What a role may allow at least: four heartbeats of an agent.
pub const SILENCE_FLOOR: Duration = Duration::from_secs(60);
/// What a role may allow at most; longer is `off`.
pub const SILENCE_CEILING: Duration = Duration::from_secs(7 * 24 * 3600);
/// What runners are allowed where the role does not say.
pub const SILENCE_OF_RUNNERS: Duration = Duration::from_secs(15 * 60);
/// After this who is due is told again: the end may not have been recorded.
const AGAIN: Duration = Duration::from_secs(5);

/// What a role says about silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Silence {
    /// Nothing: runners have [`SILENCE_OF_RUNNERS`], platforms no limit.
    #[default]
    ByKind,
    /// There is no limit.
    Off,
    /// Everybody has this limit.
    After(Duration),
}

impl Silence {
    /// The limit for an owner of this kind; none where there is none.
    pub fn limit(self, kind: Kind) -> Option<Duration> {
        match (self, kind) {
            (Self::After(limit), _) => Some(limit),
            (Self::ByKind, Kind::Runner) => Some(SILENCE_OF_RUNNERS),
            (Self::ByKind, Kind::Platform | Kind::Operator | Kind::Issuer) | (Self::Off, _) => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Duration,
    limit: Duration,
    /// Where it stands in the order of what is due.
    due: Duration,
}

/// When each lease was heard of last.
#[derive(Debug, Default)]
pub struct Hearing {
    leases: HashMap<LeaseId, Heard>,
    due: BTreeSet<(Duration, LeaseId)>,
}

impl Hearing {
    /// A lease with a limit, heard of now.
    pub fn begin(&mut self, lease: LeaseId, limit: Duration, now: Duration) {
        self.forget(lease);
        let due = now.saturating_add(limit);
        self.leases.insert(lease, Heard { at: now, limit, due });
        self.due.insert((due, lease));
    }

    /// Another limit holds for it, counted from when it was heard of; from now if it had none.
    pub fn limit(&mut self, lease: LeaseId, limit: Option<Duration>, now: Duration) {
        let at = self.leases.get(&lease).map_or(now, |heard| heard.at);
        match limit {
            Some(limit) => self.begin(lease, limit, at),
            None => self.forget(lease),
        }
    }

    /// It was heard of. One without a limit is not known here.
    pub fn hear(&mut self, lease: LeaseId, now: Duration) {
        if let Some(heard) = self.leases.get_mut(&lease) {
            heard.at = heard.at.max(now);
        }
    }

    /// Nobody was listening until now: everybody counts as heard of.
    pub fn hear_all(&mut self, now: Duration) {
        self.leases.values_mut().for_each(|heard| heard.at = heard.at.max(now));
    }

    /// It has ended.
    pub fn forget(&mut self, lease: LeaseId) {
        if let Some(heard) = self.leases.remove(&lease) {
            self.due.remove(&(heard.due, lease));
        }
    }

    /// The leases that were silent for longer than they may. Each is told again some seconds later, until it is heard of or
    /// forgotten.
    pub fn silent(&mut self, now: Duration) -> Vec<LeaseId> {
        let mut silent = Vec::new();
        while let Some((due, lease)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, lease));
            let Some(heard) = self.leases.get_mut(&lease) else { continue };
            let end = heard.at.saturating_add(heard.limit);
            if end <= now {
                silent.push(lease);
                heard.due = now.saturating_add(AGAIN);
            } else {
                heard.due = end;
            }
            self.due.insert((heard.due, lease));
        }
        silent
    }

    /// When to look next.
    pub fn next(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lease(number: u8) -> LeaseId {
        LeaseId::parse(&format!("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c{number:02x}")).unwrap()
    }

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn runners_have_a_quarter_of_an_hour_and_platforms_no_limit_unless_the_role_says() {
        assert_eq!(Silence::ByKind.limit(Kind::Runner), Some(second(900)));
        assert_eq!(Silence::ByKind.limit(Kind::Platform), None);
        assert_eq!(Silence::Off.limit(Kind::Runner), None);
        assert_eq!(Silence::After(second(60)).limit(Kind::Platform), Some(second(60)));
    }

    #[test]
    fn another_limit_counts_from_when_the_lease_was_heard_of() {
        let mut hearing = Hearing::default();
        hearing.begin(lease(1), second(100), second(0));
        hearing.begin(lease(2), second(100), second(0));
        hearing.limit(lease(1), Some(second(30)), second(20));
        hearing.limit(lease(2), None, second(20));
        hearing.limit(lease(3), Some(second(30)), second(20));
        assert_eq!(hearing.silent(second(29)), []);
        assert_eq!(hearing.silent(second(30)), [lease(1)]);
        hearing.forget(lease(1));
        assert_eq!(hearing.silent(second(50)), [lease(3)]);
        assert_eq!(hearing.silent(second(1000)), [lease(3)], "the second has no limit any more");
    }

    #[test]
    fn who_is_silent_is_told_again_until_its_end_is_known() {
        let mut hearing = Hearing::default();
        hearing.begin(lease(1), second(60), second(0));
        assert!(hearing.silent(second(59)).is_empty());
        assert_eq!(hearing.silent(second(60)), [lease(1)]);
        assert!(hearing.silent(second(61)).is_empty());
        assert_eq!(hearing.silent(second(65)), [lease(1)]);
        hearing.forget(lease(1));
        assert!(hearing.silent(second(999)).is_empty());
        assert_eq!(hearing.next(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(u8, u64),
        Hear(u8),
        HearAll,
        Forget(u8),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..4, 60u64..90).prop_map(|(lease, limit)| Step::Begin(lease, limit)),
            (0u8..4).prop_map(Step::Hear),
            Just(Step::HearAll),
            (0u8..4).prop_map(Step::Forget),
            (1u64..40).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Against a plain table of who was heard when, ends being recorded at once.
        #[test]
        fn a_lease_is_silent_when_its_limit_has_passed_since_it_was_heard_and_not_before(
            steps in prop::collection::vec(step(), 0..60)
        ) {
            let (mut hearing, mut table, mut now) = (Hearing::default(), HashMap::new(), 0);
            for step in steps {
                match step {
                    Step::Begin(number, limit) => {
                        hearing.begin(lease(number), second(limit), second(now));
                        table.insert(number, (now, limit));
                    }
                    Step::Hear(number) => {
                        hearing.hear(lease(number), second(now));
                        table.entry(number).and_modify(|heard| heard.0 = now);
                    }
                    Step::HearAll => {
                        hearing.hear_all(second(now));
                        table.values_mut().for_each(|heard| heard.0 = now);
                    }
                    Step::Forget(number) => {
                        hearing.forget(lease(number));
                        table.remove(&number);
                    }
                    Step::Pass(seconds) => now += seconds,
                }
                let mut expected: Vec<_> =
                    table.iter().filter(|(_, (at, limit))| at + limit <= now).map(|(number, _)| *number).collect();
                expected.sort_unstable();
                let mut silent = hearing.silent(second(now));
                silent.sort_unstable();
                prop_assert_eq!(&silent, &expected.iter().map(|number| lease(*number)).collect::<Vec<_>>());
                for number in expected {
                    hearing.forget(lease(number));
                    table.remove(&number);
                }
                prop_assert!(hearing.next().is_none_or(|next| next > second(now)));
                prop_assert_eq!(hearing.next().is_some(), !table.is_empty());
            }
        }
    }
}
