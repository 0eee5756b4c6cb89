//! When a cluster that fails is left alone, and when it is tried again: a circuit breaker, without a clock or a wire.
//!
//! Only what is minted asks here. What is deleted is never held back: an end does not wait for a cluster to feel better.
//! Refusals are answers: a cluster that says no works. One that says "too many requests" is left alone as long as it
//! wants, by everybody and not only by whoever was told.

use std::time::Duration;

/// So many failures one after the other, and the cluster is left alone.
pub const FAILURES: u32 = 5;
/// For how long at first; twice as long after each try that failed.
pub const PAUSE: Duration = Duration::from_secs(1);
/// For how long at most.
pub const PAUSE_LIMIT: Duration = Duration::from_secs(30);
/// When those come back who come while somebody tries.
pub const TRYING: Duration = Duration::from_secs(2);

/// The state of one cluster. Times are those of a clock that does not stand still in suspend and is never set.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    busy_until: Duration,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { pause: Duration, until: Duration, cause: String },
    Trying { pause: Duration, cause: String },
}

/// Leave to ask the cluster for a token; what came of it is told with [`Breaker::tell`].
#[derive(Debug)]
#[must_use]
pub struct Pass {
    trial: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer, whatever it says.
    Answered,
    /// None, or that the API server does not work, for this reason.
    Failed(String),
    /// That it wants to be left alone for so long.
    Busy(Duration),
    /// Nobody knows: who asked went away.
    Unknown,
}

/// Why nobody may ask now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// It has failed again and again.
    Failing {
        /// The last reason.
        cause: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// It said that it has too much to do.
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 }, busy_until: Duration::ZERO }
    }
}

impl Breaker {
    /// Why nobody may ask now, if so.
    pub fn withheld(&self, now: Duration) -> Option<Withheld> {
        if now < self.busy_until {
            return Some(Withheld::Busy { retry_after: self.busy_until - now });
        }
        match &self.state {
            State::Open { until, cause, .. } if now < *until => {
                Some(Withheld::Failing { cause: cause.clone(), retry_after: *until - now })
            }
            State::Trying { cause, .. } => {
                Some(Withheld::Failing { cause: cause.clone(), retry_after: TRYING })
            }
            State::Closed { .. } | State::Open { .. } => None,
        }
    }

    /// Asks for leave. After a pause one may try for all.
    pub fn ask(&mut self, now: Duration) -> Result<Pass, Withheld> {
        if let Some(withheld) = self.withheld(now) {
            return Err(withheld);
        }
        let State::Open { pause, cause, .. } = &mut self.state else { return Ok(Pass { trial: false }) };
        self.state = State::Trying { pause: *pause, cause: std::mem::take(cause) };
        Ok(Pass { trial: true })
    }

    /// Tells what came of a pass. While the cluster is left alone, only the one who tries changes that.
    pub fn tell(&mut self, pass: Pass, outcome: Outcome, now: Duration) {
        if let Outcome::Busy(wait) = &outcome {
            self.busy_until = self.busy_until.max(now.saturating_add(*wait));
        }
        match (&mut self.state, outcome) {
            (State::Closed { failures }, Outcome::Failed(cause)) => {
                *failures += 1;
                if *failures >= FAILURES {
                    self.state = State::Open { pause: PAUSE, until: now + PAUSE, cause };
                }
            }
            (State::Closed { failures }, Outcome::Answered | Outcome::Busy(_)) => *failures = 0,
            (State::Closed { .. }, Outcome::Unknown) | (State::Open { .. }, _) => {}
            (State::Trying { .. }, _) if !pass.trial => {}
            (State::Trying { .. }, Outcome::Answered | Outcome::Busy(_)) => {
                self.state = State::Closed { failures: 0 };
            }
            (State::Trying { pause, .. }, Outcome::Failed(cause)) => {
                let pause = (*pause * 2).min(PAUSE_LIMIT);
                self.state = State::Open { pause, until: now + pause, cause };
            }
            (State::Trying { pause, cause }, Outcome::Unknown) => {
                self.state = State::Open { pause: *pause, until: now, cause: std::mem::take(cause) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::from_secs(1_000);

    fn failed() -> Outcome {
        Outcome::Failed("reset".to_owned())
    }

    /// Each outcome is that of a pass of its own, one after the other.
    fn after(outcomes: &[Outcome]) -> Breaker {
        let mut breaker = Breaker::default();
        for outcome in outcomes {
            let pass = breaker.ask(START).unwrap();
            breaker.tell(pass, outcome.clone(), START);
        }
        breaker
    }

    fn open() -> Breaker {
        after(&vec![failed(); FAILURES as usize])
    }

    #[test]
    fn failures_one_after_the_other_leave_the_cluster_alone() {
        assert_eq!(after(&vec![failed(); FAILURES as usize - 1]).withheld(START), None);
        let withheld = Withheld::Failing { cause: "reset".to_owned(), retry_after: PAUSE };
        assert_eq!(open().withheld(START), Some(withheld));
        assert_eq!(open().withheld(START + PAUSE), None);
    }

    #[test]
    fn an_answer_in_between_starts_the_count_anew() {
        let mut outcomes = vec![failed(); FAILURES as usize - 1];
        outcomes.push(Outcome::Answered);
        outcomes.extend(vec![failed(); FAILURES as usize - 1]);
        assert_eq!(after(&outcomes).withheld(START), None);
    }

    #[test]
    fn one_tries_for_all_and_an_answer_lets_all_in() {
        let (mut breaker, now) = (open(), START + PAUSE);
        let pass = breaker.ask(now).unwrap();
        assert!(matches!(breaker.ask(now), Err(Withheld::Failing { retry_after: TRYING, .. })));
        breaker.tell(pass, Outcome::Answered, now);
        assert_eq!(breaker.withheld(now), None);
    }

    #[test]
    fn a_try_that_fails_doubles_the_pause_up_to_a_limit() {
        let (mut breaker, mut now, mut pauses) = (open(), START, Vec::new());
        for _ in 0..7 {
            let Some(Withheld::Failing { retry_after, .. }) = breaker.withheld(now) else { panic!("open") };
            pauses.push(retry_after.as_secs());
            now += retry_after;
            let pass = breaker.ask(now).unwrap();
            breaker.tell(pass, failed(), now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_try_that_nobody_saw_the_end_of_lets_the_next_one_try() {
        let (mut breaker, now) = (open(), START + PAUSE);
        let pass = breaker.ask(now).unwrap();
        breaker.tell(pass, Outcome::Unknown, now);
        assert!(breaker.ask(now).unwrap().trial);
    }

    #[test]
    fn what_began_before_ends_no_pause() {
        let mut breaker = Breaker::default();
        let mut early: Vec<Pass> = (0..3).map(|_| breaker.ask(START).unwrap()).collect();
        for _ in 0..FAILURES {
            let pass = breaker.ask(START).unwrap();
            breaker.tell(pass, failed(), START);
        }
        let latest = early.pop().unwrap();
        for (pass, outcome) in early.into_iter().zip([Outcome::Answered, failed()]) {
            breaker.tell(pass, outcome, START);
            assert!(matches!(breaker.withheld(START), Some(Withheld::Failing { retry_after: PAUSE, .. })));
        }
        let trial = breaker.ask(START + PAUSE).unwrap();
        breaker.tell(latest, Outcome::Answered, START + PAUSE);
        assert!(matches!(
            breaker.withheld(START + PAUSE),
            Some(Withheld::Failing { retry_after: TRYING, .. })
        ));
        breaker.tell(trial, Outcome::Answered, START + PAUSE);
        assert_eq!(breaker.withheld(START + PAUSE), None);
    }

    #[test]
    fn a_busy_cluster_is_left_alone_as_long_as_it_wants() {
        let breaker = after(&[Outcome::Busy(Duration::from_secs(7))]);
        let retry_after = Duration::from_secs(3);
        assert_eq!(breaker.withheld(START + Duration::from_secs(4)), Some(Withheld::Busy { retry_after }));
        assert_eq!(breaker.withheld(START + Duration::from_secs(7)), None);
    }

    proptest! {
        /// Whatever happens: one tries at a time, nobody is kept out for longer than the longest pause, and no pass is
        /// given out while the cluster wants to be left alone.
        #[test]
        fn bounds_hold(steps in proptest::collection::vec((0u8..6, 0u64..4_000), 1..200)) {
            let (mut breaker, mut now) = (Breaker::default(), START);
            let (mut out, mut busy_until) = (Vec::<Pass>::new(), Duration::ZERO);
            for (step, millis) in steps {
                now += Duration::from_millis(millis);
                let outcome = match step {
                    0 | 1 => {
                        match breaker.ask(now) {
                            Ok(pass) => {
                                prop_assert!(now >= busy_until);
                                out.push(pass);
                            }
                            Err(Withheld::Failing { retry_after, .. }) => prop_assert!(retry_after <= PAUSE_LIMIT),
                            Err(Withheld::Busy { retry_after }) => prop_assert_eq!(now + retry_after, busy_until),
                        }
                        prop_assert!(out.iter().filter(|pass| pass.trial).count() <= 1);
                        continue;
                    }
                    2 => Outcome::Answered,
                    3 => failed(),
                    4 => Outcome::Busy(Duration::from_millis(millis)),
                    _ => Outcome::Unknown,
                };
                if let Some(pass) = out.pop() {
                    if let Outcome::Busy(wait) = &outcome {
                        busy_until = busy_until.max(now + *wait);
                    }
                    breaker.tell(pass, outcome, now);
                }
            }
        }
    }
}
