//! The state machine, what stays known after an end, and how long tokens outlive an unbound lease.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Activate,
    BeginEnd,
    FinishEnd,
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn lease() -> Lease {
    let name = |text| Name::parse(text).unwrap();
    let owner = Owner {
        spiffe_id: SpiffeId::parse("spiffe://d/runner/r").unwrap(),
        enrolment: crate::id::EnrolmentId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap(),
    };
    Lease {
        id: LeaseId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap(),
        job: Some(JobId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap()),
        owner: owner.into(),
        role: Some(name("role")),
        role_digest: Digest::of_bytes(b"role"),
        target: Target { cluster: name("c"), namespace: name("web"), service_account: "sa".to_owned() },
        audiences: None,
        anchor: AnchorName::from_random([7; 16]),
        mode: Mode::Bound,
        created: second(0),
        deadline: second(600),
        state: State::Pending,
        receipt: None,
        policy: None,
        not_removed: None,
        revision: Revision::FIRST,
    }
}

fn apply(lease: Lease, step: &Act, now: Timestamp) -> Result<Lease, TransitionError> {
    let pins = Pins { anchor_uid: "a".to_owned(), service_account_uid: "s".to_owned() };
    match step {
        Act::Activate => lease.activate(pins, now),
        Act::BeginEnd => lease.begin_end(EndCause::Released, now),
        Act::FinishEnd => lease.finish_end(now),
    }
}

fn rank(lease: &Lease) -> u8 {
    match lease.state {
        State::Pending => 0,
        State::Active { .. } => 1,
        State::Ending { .. } => 2,
        State::Ended { .. } => 3,
    }
}

proptest! {
    #[test]
    fn a_lease_only_moves_forward_and_counts_each_step(
        steps in prop::collection::vec(
            prop_oneof![Just(Act::Activate), Just(Act::BeginEnd), Just(Act::FinishEnd)], 0..12)
    ) {
        let mut current = lease();
        for (time, step) in steps.iter().enumerate() {
            match apply(current.clone(), step, second(time as i64)) {
                Ok(next) => {
                    prop_assert!(rank(&next) > rank(&current));
                    prop_assert_eq!(next.revision, current.revision.next());
                    prop_assert_eq!(&next.anchor, &current.anchor);
                    // What was known stays known: a step is only ever added.
                    let before = current.transitions();
                    prop_assert_eq!(&next.transitions()[..before.len()], &before[..]);
                    prop_assert_eq!(next.transitions().len(), before.len() + 1);
                    current = next;
                }
                Err(refused) => prop_assert_eq!(refused.from, current.state_name()),
            }
        }
    }
}

#[test]
fn an_end_keeps_its_first_cause() {
    let ending = lease().begin_end(EndCause::Deadline, second(1)).unwrap();
    assert!(ending.clone().begin_end(EndCause::Released, second(2)).is_err());
    let ended = ending.finish_end(second(3)).unwrap();
    assert_eq!(ended.end_cause(), Some((&EndCause::Deadline, second(1))));
    assert_eq!(ended.remaining(second(3)), Duration::ZERO);
}

fn token(recorded: i64, expires: i64) -> MintedToken {
    MintedToken {
        jti: "j".to_owned(),
        lease: lease().id,
        fingerprint: Digest::of_bytes(b"token"),
        issued: second(recorded),
        expires: second(expires),
        recorded: second(recorded),
    }
}

proptest! {
    #[test]
    fn no_token_outlives_what_is_told(lives in prop::collection::vec((0i64..100_000, 0i64..86_400), 1..40), looked_at in 1usize..50) {
        let mut tokens: Vec<_> = lives.iter().map(|(at, life)| token(*at, at + life)).collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.recorded));
        let last = tokens.iter().map(|token| token.expires).max().unwrap();
        let seen = &tokens[..looked_at.min(tokens.len())];
        let told = tokens_until(seen, seen.len() < tokens.len()).unwrap();
        prop_assert!(told >= after(last, ACCEPTED_AFTER_EXPIRY));
        if seen.len() == tokens.len() {
            prop_assert_eq!(told, after(last, ACCEPTED_AFTER_EXPIRY));
        }
    }
}

#[test]
fn a_lease_without_tokens_is_outlived_by_none() {
    assert_eq!(tokens_until(&[], false), None);
}

#[test]
fn only_an_unbound_lease_is_outlived() {
    let unbound = Lease { mode: Mode::Unbound { tokens_until: None }, ..lease() };
    assert!(!unbound.has_anchor());
    let known = unbound.outlived(Some(second(9)));
    assert_eq!(known.mode, Mode::Unbound { tokens_until: Some(second(9)) });
    assert_eq!(lease().outlived(Some(second(9))), lease());
}

#[test]
fn the_end_forgets_neither_pins_nor_times() {
    let pins = Pins { anchor_uid: "a".to_owned(), service_account_uid: "s".to_owned() };
    let active = lease().activate(pins.clone(), second(2)).unwrap();
    let ended = active.begin_end(EndCause::Deadline, second(5)).unwrap().finish_end(second(6)).unwrap();
    assert_eq!(ended.activation(), Some((&pins, second(2))));
    assert_eq!(ended.pins(), None, "an ended lease yields no tokens");
    let told: Vec<_> = ended.transitions().iter().map(|step| (step.to, step.at.as_second())).collect();
    use super::Step::{Active, Ended, Ending, Pending};
    assert_eq!(told, [(Pending, 0), (Active, 2), (Ending, 5), (Ended, 6)]);
    assert_eq!(ended.transitions()[2].cause, Some(&EndCause::Deadline));
}

#[test]
fn only_a_lease_that_ends_has_a_receipt() {
    let receipt = || crate::receipt::tests::unproved(second(3));
    assert!(lease().receive(receipt()).is_err());
    let ending = lease().begin_end(EndCause::Deadline, second(1)).unwrap();
    let receipted = ending.clone().receive(receipt()).unwrap();
    assert_eq!((receipted.revision, &receipted.state), (ending.revision.next(), &ending.state));
    assert_eq!(receipted.finish_end(second(4)).unwrap().receipt, Some(Box::new(receipt())));
}

#[test]
fn anchor_names_are_read_back() {
    let name = AnchorName::from_random([0xa5; 16]);
    assert_eq!(AnchorName::parse(name.as_str()), Some(name));
    for bad in ["shorepass-", "other-aaaaaaaaaaaaaaaaaaaaaaaaaa", "shorepass-aaaaaaaaaaaaaaaaaaaaaaaaa1"] {
        assert_eq!(AnchorName::parse(bad), None, "{bad}");
    }
}
