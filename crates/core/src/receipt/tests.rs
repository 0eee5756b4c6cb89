use proptest::prelude::*;

use super::*;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Some receipt that proves nothing.
pub(crate) fn unproved(made: Timestamp) -> Receipt {
    let verdict = Verdict::Unproved(Why::CanariesLate.because("127.0.0.1:6443"));
    Receipt { verdict, endpoints: vec!["127.0.0.1:6443".to_owned()], canaries: vec![], made }
}

fn seen(of: Whose, asked: i64, answer: Answer) -> Observation {
    Observation { of, jti: format!("jti-{asked}"), asked: second(asked), answered: second(asked), answer }
}

fn server(seen: Vec<Observation>) -> Witnessed {
    Witnessed { endpoint: "10.0.0.1:6443".to_owned(), seen, gap: None }
}

/// Active since 0, cut at 100.
fn evidence(servers: Vec<Witnessed>) -> Evidence {
    Evidence {
        anchored: Some(second(0)),
        for_others: false,
        cut_sent: second(100),
        cut: Ok(second(100)),
        lag_bound: LAG_BOUND,
        complete: true,
        servers,
    }
}

fn honest() -> Vec<Observation> {
    vec![
        seen(Whose::Sibling, 99, Answer::Accepted),
        seen(Whose::Sibling, 101, Answer::Accepted),
        seen(Whose::Sibling, 103, Answer::Refused),
        seen(Whose::Control, 104, Answer::Accepted),
    ]
}

fn verdict(evidence: &Evidence) -> Verdict {
    evidence.receipt(second(200)).verdict
}

fn why(evidence: &Evidence) -> Why {
    match verdict(evidence) {
        Verdict::Unproved(unproved) => unproved.why,
        other => panic!("{other:?}"),
    }
}

/// The honest observations without the one at this time.
fn without(asked: i64) -> Vec<Observation> {
    honest().into_iter().filter(|seen| seen.asked != second(asked)).collect()
}

#[test]
fn a_refusal_between_two_acceptances_is_a_proof() {
    let receipt = evidence(vec![server(honest())]).receipt(second(200));
    let death = Death { refused: second(103), observed_at: second(103), dead_by: second(113) };
    assert_eq!(receipt.verdict, Verdict::Proved(death));
    assert_eq!(receipt.canaries, ["jti-99", "jti-101", "jti-103", "jti-104"]);
    assert_eq!(receipt.endpoints, ["10.0.0.1:6443"]);
}

#[test]
fn of_tokens_for_others_nothing_is_proved_whatever_was_seen() {
    let others = |cut| Evidence { for_others: true, cut, ..evidence(vec![server(honest())]) };
    assert_eq!(why(&others(Ok(second(100)))), Why::ForOthers);
    let unreachable = CutError::Unreachable("no answer".to_owned());
    assert_eq!(why(&others(Err(unreachable))), Why::NotDeleted, "that can still become better");
    let lease = crate::lease::tests::lease();
    let pins = Pins { anchor_uid: "a".to_owned(), service_account_uid: "s".to_owned() };
    let active = lease.activate(pins, second(0)).unwrap();
    assert!(Bound::of(&active).is_some());
    let audiences = crate::audience::tests::audiences(&["vault"]).ok();
    assert_eq!(Bound::of(&Lease { audiences, ..active }), None, "a canary");
}

#[test]
fn a_refusal_alone_is_no_proof() {
    let alone = vec![seen(Whose::Sibling, 103, Answer::Refused)];
    assert_eq!(why(&evidence(vec![server(alone)])), Why::NotAcceptedBefore);
    assert_eq!(why(&evidence(vec![server(without(99))])), Why::NotAcceptedBefore);
    assert_eq!(why(&evidence(vec![server(without(103))])), Why::StillAccepted);
    assert_eq!(why(&evidence(vec![server(without(104))])), Why::NoControl);
    let mut everything = without(104);
    everything.push(seen(Whose::Control, 104, Answer::Refused));
    assert_eq!(why(&evidence(vec![server(everything)])), Why::ControlRefused);
}

#[test]
fn a_control_counts_right_after_the_refusal_only() {
    for asked in [102, 114] {
        let mut late = without(104);
        late.push(seen(Whose::Control, asked, Answer::Accepted));
        assert_eq!(why(&evidence(vec![server(late)])), Why::NoControl, "{asked}");
    }
}

#[test]
fn a_token_for_somebody_else_never_gets_a_proof() {
    // Who is asked for a foreign audience refuses always, and the control as well if it is for the same one.
    let mut foreign = honest();
    foreign[0].answer = Answer::Refused;
    assert_eq!(why(&evidence(vec![server(foreign)])), Why::NotAcceptedBefore);
}

#[test]
fn an_early_refusal_that_is_taken_back_does_not_count() {
    let mut lagging = vec![
        seen(Whose::Sibling, 99, Answer::Accepted),
        seen(Whose::Sibling, 101, Answer::Refused),
        seen(Whose::Control, 102, Answer::Accepted),
        seen(Whose::Sibling, 103, Answer::Accepted),
    ];
    assert_eq!(why(&evidence(vec![server(lagging.clone())])), Why::StillAccepted);
    lagging.push(seen(Whose::Sibling, 110, Answer::Refused));
    lagging.push(seen(Whose::Control, 111, Answer::Accepted));
    let death = *verdict(&evidence(vec![server(lagging)])).death().unwrap();
    assert_eq!(death.refused, second(110));
}

#[test]
fn a_young_anchor_is_observed_dead_only_after_the_lag_bound() {
    // Such a server asks the store and refuses before it has seen the creation; that comes at 84 + 30 at the latest,
    // the deletion at 100 + 30.
    let mut young = Evidence { anchored: Some(second(84)), ..evidence(vec![server(honest())]) };
    let death = *verdict(&young).death().unwrap();
    assert_eq!((death.refused, death.observed_at, death.dead_by), (second(103), second(130), second(140)));
    young.anchored = Some(second(73));
    assert_eq!(verdict(&young).death().unwrap().observed_at, second(103), "it saw the creation by then");
}

#[test]
fn a_refusal_is_as_old_as_its_question() {
    // Every server has seen the creation at 102; the question was under way by then.
    let mut slow = honest();
    slow[2].asked = second(101);
    let young = Evidence { anchored: Some(second(72)), ..evidence(vec![server(slow)]) };
    assert_eq!(verdict(&young).death().unwrap().observed_at, second(130));
}

#[test]
fn the_slowest_server_counts_and_one_that_is_silent_leaves_nothing_proved() {
    let slow = honest().into_iter().map(|seen| match seen.asked.as_second() {
        103 => Observation { asked: second(107), answered: second(107), ..seen },
        104 => Observation { asked: second(108), answered: second(108), ..seen },
        _ => seen,
    });
    let mut both = evidence(vec![server(honest()), server(slow.collect())]);
    assert_eq!(verdict(&both).death().unwrap().dead_by, second(117));
    both.servers[1].seen[2].answer = Answer::None("no answer within 3 s".to_owned());
    assert_eq!(why(&both), Why::NoAnswer);
}

#[test]
fn one_url_stands_for_itself_alone() {
    let one = Evidence { complete: false, ..evidence(vec![server(honest())]) };
    assert_eq!(verdict(&one).word(), "assumed");
}

#[test]
fn what_was_not_deleted_is_not_dead() {
    let with = |cut| Evidence { cut: Err(cut), ..evidence(vec![server(honest())]) };
    assert_eq!(why(&with(CutError::HeldByFinalizer("web/x".to_owned()))), Why::HeldByFinalizer);
    assert_eq!(why(&with(CutError::Unreachable("reset".to_owned()))), Why::NotDeleted);
    let never = Evidence { anchored: None, ..evidence(vec![server(honest())]) };
    assert_eq!(why(&never), Why::NeverActive);
    assert_eq!(why(&evidence(vec![])), Why::NoAnswer);
}

#[test]
fn the_bounds_are_these() {
    assert_eq!([LAG_BOUND, ACCEPTED_FOR, CONTROL_WITHIN].map(|bound| bound.as_secs()), [30, 10, 10]);
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![Just(Answer::Accepted), Just(Answer::Refused), Just(Answer::None("reset".to_owned()))]
}

fn any_seen() -> impl Strategy<Value = Vec<Observation>> {
    let one = (prop::bool::ANY, 95..125_i64, any_answer()).prop_map(|(sibling, asked, answer)| {
        seen(if sibling { Whose::Sibling } else { Whose::Control }, asked, answer)
    });
    prop::collection::vec(one, 0..9).prop_map(|mut all| {
        all.sort_by_key(|seen| seen.asked);
        all
    })
}

proptest! {
    #[test]
    fn a_proof_has_a_paired_acceptance_a_refusal_and_a_living_control_at_each_server(
        all in prop::collection::vec(any_seen(), 0..3), anchored in 0..100_i64, complete: bool
    ) {
        let servers: Vec<_> = all.into_iter().map(server).collect();
        let evidence = Evidence { anchored: Some(second(anchored)), complete, ..evidence(servers) };
        let receipt = evidence.receipt(second(200));
        let Some(death) = receipt.verdict.death() else { return Ok(()) };
        prop_assert_eq!(matches!(receipt.verdict, Verdict::Proved(_)), complete);
        prop_assert!(!evidence.servers.is_empty());
        for server in &evidence.servers {
            let at = |of, wanted: fn(&Answer) -> bool| {
                let fits = move |seen: &&Observation| seen.of == of && wanted(&seen.answer);
                server.seen.iter().filter(fits).map(|seen| seen.asked).collect::<Vec<_>>()
            };
            let accepted = at(Whose::Sibling, |answer| *answer == Answer::Accepted);
            prop_assert!(accepted.iter().any(|at| *at <= second(100)));
            let refused = at(Whose::Sibling, |answer| *answer == Answer::Refused);
            let counts = |at: &&Timestamp| **at >= second(100) && accepted.iter().all(|before| before <= *at);
            let refused = refused.iter().find(counts);
            prop_assert!(refused.is_some_and(|at| *at <= death.refused));
            let alive = at(Whose::Control, |answer| *answer == Answer::Accepted);
            prop_assert!(alive.iter().any(|at| refused.is_some_and(|refused| at >= refused)));
        }
        prop_assert!(death.observed_at >= death.refused);
        // By then each server has seen the creation, and a refusal after that is for good; or it has seen the deletion.
        prop_assert!(death.observed_at >= after(second(anchored), LAG_BOUND));
        let settled = death.refused >= after(second(anchored), LAG_BOUND);
        prop_assert!(settled || death.observed_at >= after(second(100), LAG_BOUND));
        prop_assert_eq!(death.dead_by, after(death.observed_at, ACCEPTED_FOR));
    }

    #[test]
    fn refusals_alone_are_never_a_proof(times in prop::collection::vec(95..125_i64, 1..6), control: bool) {
        let mut all: Vec<_> = times.iter().map(|at| seen(Whose::Sibling, *at, Answer::Refused)).collect();
        if control {
            all.push(seen(Whose::Control, 125, Answer::Accepted));
        }
        all.sort_by_key(|seen| seen.asked);
        prop_assert_eq!(why(&evidence(vec![server(all)])), Why::NotAcceptedBefore);
    }
}
