//! What is checked of an answer, and what a caller is told of a token's life.

use proptest::prelude::*;

use super::*;
use crate::caller::LeaseOwner;
use crate::lease::EndCause;
use crate::receipt::{Receipt, Verdict, Why};

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn order() -> Order {
    let like = crate::lease::tests::lease();
    let lease = Lease {
        target: Target { service_account: "deployer".to_owned(), ..like.target },
        anchor: AnchorName::from_random([1; 16]),
        created: second(1_000),
        deadline: second(4_600),
        ..like
    };
    let owner = lease.owner.known().unwrap().clone();
    Order { lease, owner, token_lifetime: Duration::from_secs(600), needs: vec![] }
}

fn minted() -> Minted {
    let claims = Claims {
        jti: "j".to_owned(),
        namespace: "web".to_owned(),
        service_account: "deployer".to_owned(),
        service_account_uid: "sa-uid".to_owned(),
        secret: AnchorName::from_random([1; 16]).as_str().to_owned(),
        secret_uid: "anchor-uid".to_owned(),
        audiences: vec!["api".to_owned()],
        expires: second(1_600),
    };
    Minted {
        token: Token::new("t".to_owned()),
        claims,
        anchor_uid: "anchor-uid".to_owned(),
        service_account_uid: None,
        not_removed: None,
        audiences: vec!["api".to_owned()],
        created: second(1_000),
        expires: second(1_600),
        spent: Duration::from_secs(1),
    }
}

fn verdict(change: impl FnOnce(&mut Minted)) -> Result<Verified, Lie> {
    let mut answer = minted();
    change(&mut answer);
    order().verify(answer, second(1_001)).map_err(|rejected| rejected.lie)
}

#[test]
fn a_token_is_for_exactly_those_that_were_ordered() {
    let verdict = |granted: &[&str], claimed: &[&str]| {
        let (mut order, mut answer) = (order(), minted());
        let texts = |texts: &[&str]| texts.iter().copied().map(str::to_owned).collect::<Vec<_>>();
        order.lease.audiences = crate::audience::tests::audiences(&["vault", "registry"]).ok();
        (answer.audiences, answer.claims.audiences) = (texts(granted), texts(claimed));
        order.verify(answer, second(1_001)).map(|_| ()).map_err(|rejected| rejected.lie)
    };
    for same in [["registry", "vault"], ["vault", "registry"]] {
        assert_eq!(verdict(&same, &same), Ok(()));
    }
    for others in [
        &["api"][..],
        &["vault"],
        &["vault", "vault"],
        &["registry", "vault", "api"],
        &["registry", "vault", "vault"],
    ] {
        assert!(matches!(verdict(others, others), Err(Lie::Audience(_))), "{others:?}");
    }
    assert!(matches!(verdict(&["registry", "vault"], &["api"]), Err(Lie::Audience(_))));
}

#[test]
fn an_honest_answer_activates_the_lease() {
    let verified = verdict(|_| {}).unwrap();
    assert_eq!(verified.lease().state_name(), "active");
    assert_eq!(verified.changes().len(), 2);
}

#[test]
fn each_lie_is_named() {
    type Case = (fn(&mut Minted), fn(&Lie) -> bool);
    let cases: [Case; 16] = [
        (|a| a.claims.namespace = "other".to_owned(), |l| matches!(l, Lie::ServiceAccount(_))),
        (|a| a.claims.service_account = "other".to_owned(), |l| matches!(l, Lie::ServiceAccount(_))),
        (|a| a.claims.service_account_uid.clear(), |l| matches!(l, Lie::ServiceAccountUid)),
        (|a| a.claims.secret.clear(), |l| matches!(l, Lie::Anchor)),
        (|a| a.claims.secret_uid = "other".to_owned(), |l| matches!(l, Lie::Anchor)),
        (|a| a.anchor_uid.clear(), |l| matches!(l, Lie::Anchor)),
        (|a| a.claims.audiences.clear(), |l| matches!(l, Lie::Audience(_))),
        (|a| a.claims.audiences.push("more".to_owned()), |l| matches!(l, Lie::Audience(_))),
        (|a| a.claims.jti.clear(), |l| matches!(l, Lie::Jti)),
        (|a| a.claims.expires = second(99_999), |l| matches!(l, Lie::Expiry)),
        (|a| a.claims.expires = second(1_603), |l| matches!(l, Lie::Expiry)),
        (|a| a.claims.expires = second(1_599), |l| matches!(l, Lie::Expiry)),
        (|a| a.expires = second(1_000), |l| matches!(l, Lie::Expiry)),
        (|a| a.created = second(1_062), |l| matches!(l, Lie::ClockSkew(61))),
        (|a| a.created = second(939), |l| matches!(l, Lie::ClockSkew(-61))),
        (|a| a.created = second(-9_000), |l| matches!(l, Lie::ClockSkew(_))),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        let lie = verdict(change).unwrap_err();
        assert!(expected(&lie), "case {index}: {lie}");
    }
}

fn verdict_in(mode: Mode, change: impl FnOnce(&mut Minted)) -> Result<Verified, Lie> {
    let (mut order, mut answer) = (order(), minted());
    order.lease.mode = mode;
    change(&mut answer);
    order.verify(answer, second(1_001)).map_err(|rejected| rejected.lie)
}

#[test]
fn a_strict_answer_is_of_the_service_account_that_was_made() {
    let strict = |made: Option<&str>| {
        verdict_in(Mode::Strict { bindings: vec![] }, |answer| {
            answer.service_account_uid = made.map(str::to_owned);
        })
    };
    assert!(strict(Some("sa-uid")).is_ok());
    assert_eq!(strict(Some("other")).unwrap_err(), Lie::Generated);
    assert_eq!(strict(None).unwrap_err(), Lie::Generated);
}

#[test]
fn what_its_end_leaves_is_recorded_and_audited_when_a_lease_begins_and_with_its_receipt() {
    let right = "get pods in namespace web".to_owned();
    let verified = verdict_in(Mode::Strict { bindings: vec![] }, |answer| {
        answer.service_account_uid = Some("sa-uid".to_owned());
        answer.not_removed = NotRemoved::of(vec![right.clone(); 17]);
    });
    let verified = verified.unwrap();
    let audited = [right.as_str(); 16].into_iter().chain(["and 1 more"]).collect::<Vec<_>>();
    assert_eq!(crate::audit::line(&verified.changes()[0]).not_removed, audited);
    let ending = verified.lease().clone().begin_end(EndCause::Released, second(1_002)).unwrap();
    let unproved = Verdict::Unproved(Why::NoCanary.because(""));
    let receipt = Receipt { verdict: unproved, endpoints: vec![], canaries: vec![], made: second(1_003) };
    let lease = ending.receive(receipt).unwrap();
    assert_eq!(crate::audit::line(&Change::LeaseReceipt { lease }).not_removed, audited);
}

#[test]
fn an_unbound_answer_is_bound_to_nothing() {
    let unbound = |change: fn(&mut Minted)| verdict_in(Mode::Unbound { tokens_until: None }, change);
    let free: fn(&mut Minted) = |answer| {
        answer.anchor_uid.clear();
        answer.claims.secret.clear();
        answer.claims.secret_uid.clear();
    };
    let verified = unbound(free).unwrap();
    assert_eq!(verified.lease().pins().unwrap().anchor_uid, "");
    assert_eq!(unbound(|_| {}).unwrap_err(), Lie::Bound);
    assert_eq!(unbound(|answer| answer.anchor_uid.clear()).unwrap_err(), Lie::Bound);
}

#[test]
fn a_second_that_ends_between_answer_and_token_is_not_a_lie() {
    assert!(verdict(|answer| answer.claims.expires = second(1_601)).is_ok());
}

#[test]
fn a_token_may_expire_later_than_the_answer_says_by_as_long_as_the_answer_took() {
    let verdict = |spent_millis, later: i64| {
        verdict(|answer| {
            answer.spent = Duration::from_millis(spent_millis);
            answer.claims.expires = second(1_600 + later);
        })
    };
    for (spent_millis, latest) in
        [(0, 2), (1_000, 2), (1_999, 2), (2_000, 3), (4_200, 5), (8_000, 9), (100_000, 9)]
    {
        for fits in [0, 1, latest] {
            assert!(verdict(spent_millis, fits).is_ok(), "{fits} s in {spent_millis} ms");
        }
        for lie in [-1, latest + 1, 3_600] {
            assert_eq!(verdict(spent_millis, lie).unwrap_err(), Lie::Expiry, "{lie} s in {spent_millis} ms");
        }
    }
}

#[test]
fn the_record_has_the_later_expiry_and_the_owner_is_told_of_the_earlier() {
    let verified = verdict(|answer| {
        answer.spent = Duration::from_secs(5);
        answer.claims.expires = second(1_605);
    });
    let issued = verified.unwrap().release(&Recorded::durable(), second(99_999), None, second(1_005));
    assert_eq!(issued.record.expires, second(1_605));
    assert_eq!(issued.told.valid_for, Duration::from_secs(585));
}

proptest! {
    /// An API server whose clock is right, read twice, with a stall in between.
    #[test]
    fn a_slow_and_honest_answer_is_taken_and_nobody_is_told_more_than_it_lives(
        start in 0i64..1_000, stall in 0i64..8_000, way in 0i64..1_000, life in 300i64..=600,
    ) {
        let sent = 1_000_000;
        let moment = |millis: i64| Timestamp::from_millisecond(millis).unwrap();
        let whole = |millis: i64| second(millis.div_euclid(1_000));
        let read = sent + start;
        let read_again = read + stall;
        let now = read_again + way;
        let mut answer = minted();
        answer.created = whole(read);
        answer.expires = whole(read + life * 1_000);
        answer.claims.expires = whole(read_again + life * 1_000);
        answer.spent = Duration::from_millis((now - sent).try_into().unwrap());
        let dies = answer.claims.expires;
        let verified = order().verify(answer, moment(now));
        prop_assert!(verified.is_ok(), "{:?}", verified.err());
        let issued = verified.unwrap().release(&Recorded::durable(), second(99_999), None, moment(now));
        prop_assert_eq!(issued.record.expires, dies);
        prop_assert!(issued.told.expires_at < dies, "{:?} and {dies}", issued.told);
    }

    /// Whatever it says of how long that took, and wherever it puts the excess.
    #[test]
    fn a_token_that_lives_much_longer_than_asked_is_refused(
        granted in 1i64..100_000, later in 0i64..100_000, spent in 0u64..100_000,
    ) {
        let verdict = verdict(|answer| {
            answer.created = second(1_001);
            answer.expires = second(1_001 + granted);
            answer.claims.expires = second(1_001 + granted + later);
            answer.spent = Duration::from_secs(spent);
        });
        // Ordered were 600 s: 2 of rounding, 8 of a mint and 1 of rounding once more.
        let limit = 600 + 2 + 8 + 1;
        prop_assert!(verdict.is_err() || granted + later <= limit, "{granted} s and {later} s");
    }
}

#[test]
fn a_longer_life_than_ordered_is_a_lie_and_a_shorter_one_is_not() {
    let living_until = |end| {
        verdict(|answer| {
            answer.expires = second(end);
            answer.claims.expires = second(end);
        })
    };
    // 600 s were ordered.
    assert!(living_until(1_300).is_ok() && living_until(1_602).is_ok());
    assert_eq!(living_until(1_603).unwrap_err(), Lie::Expiry);
    assert_eq!(living_until(1_000 + 31_536_000).unwrap_err(), Lie::Expiry);
}

#[test]
fn a_slow_answer_is_not_a_wrong_clock() {
    assert!(
        verdict(|answer| {
            answer.created = second(901);
            answer.expires = second(1_501);
            answer.claims.expires = second(1_501);
            answer.spent = Duration::from_secs(100);
        })
        .is_ok()
    );
}

#[test]
fn a_refresh_pins_both_uids() {
    let pins = Pins { anchor_uid: "anchor-uid".to_owned(), service_account_uid: "sa-uid".to_owned() };
    let refresh = |pins: Pins| {
        let mut order = order();
        order.lease = order.lease.activate(pins, second(1_000)).unwrap();
        order.verify(minted(), second(1_001))
    };
    assert_eq!(refresh(pins.clone()).unwrap().changes().len(), 1);
    let replaced = Pins { service_account_uid: "older".to_owned(), ..pins.clone() };
    assert!(matches!(refresh(replaced).unwrap_err().lie, Lie::ServiceAccountUid));
    let lost = Pins { anchor_uid: "older".to_owned(), ..pins };
    assert!(matches!(refresh(lost).unwrap_err().lie, Lie::Anchor));
}

#[test]
fn the_first_token_of_an_adopted_lease_tells_the_rest_of_it() {
    let adopted = |account: &str| {
        let mut order = order();
        let pins = Pins { anchor_uid: "anchor-uid".to_owned(), service_account_uid: account.to_owned() };
        let owner = LeaseOwner::Digest(order.owner.digest());
        order.lease = Lease { job: None, owner, ..order.lease.activate(pins, second(1_000)).unwrap() };
        order
    };
    let verified = adopted("").verify(minted(), second(1_001)).unwrap();
    assert_eq!(verified.lease().owner.known(), Some(&order().owner));
    assert_eq!(verified.lease().pins().unwrap().service_account_uid, "sa-uid");
    let changes = verified.changes();
    let [Change::LeaseRecognised { lease, .. }, Change::TokenMinted { owner, .. }] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!((lease, owner), (verified.lease(), &order().owner));
    assert!(!verified.is_first());
    let mut whole = adopted("sa-uid");
    whole.lease.owner = whole.owner.clone().into();
    assert_eq!(whole.verify(minted(), second(1_001)).unwrap().changes().len(), 1);
    let mut elsewhere = minted();
    elsewhere.claims.secret_uid = "other".to_owned();
    assert_eq!(adopted("").verify(elsewhere, second(1_001)).unwrap_err().lie, Lie::Anchor);
}

#[test]
fn the_owner_is_told_the_granted_life() {
    let verified = verdict(|_| {}).unwrap();
    let issued = verified.release(&Recorded::durable(), second(99_999), None, second(1_001));
    // 600 s granted, 1 s spent, 10 s margin.
    assert_eq!(issued.told.valid_for, Duration::from_secs(589));
}
