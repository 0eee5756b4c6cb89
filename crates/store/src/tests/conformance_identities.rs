//! The part of the suite for both engines that is about identities that were made and about bans.

use serde_json::Value;
use shorepass_core::ban::{Ban, Banned};
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::lease::EndCause;
use shorepass_core::ledger::{Change, Revision};
use shorepass_core::request::Request;

use super::conformance::{Subject, on_both};
use crate::testing::*;

on_both!(
    an_identity_is_recorded_once_and_found_by_its_certificate,
    the_latest_identity_is_the_one_recorded_last,
    a_ban_is_read_back_set_lifted_and_set_again,
    bans_are_paged,
    the_banned_get_nothing_and_others_go_on,
    a_banned_enrolment_leaves_its_name_to_another,
);

async fn an_identity_is_recorded_once_and_found_by_its_certificate(subject: Subject) {
    let read = |number| subject.ledger.identity(identity(number).certificate).unwrap();
    assert_eq!(read(1), None);
    subject.committed(vec![identity_created(1), identity_created(2)]).await;
    assert_eq!((read(1), read(2)), (Some(identity(1)), Some(identity(2))));
    subject.conflicts(vec![identity_created(3), identity_created(1)]).await;
    subject.conflicts(vec![identity_created(3), identity_created(3)]).await;
    assert_eq!(read(3), None);
    let lines: Vec<Value> =
        (subject.audit_lines)().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (lines[1]["event"].as_str(), lines[1]["uid"].as_u64()),
        (Some("identity.created"), Some(1000))
    );
    assert_eq!(lines[1]["certificate"], identity(2).certificate.to_string());
}

async fn the_latest_identity_is_the_one_recorded_last(subject: Subject) {
    let latest = || subject.ledger.latest_identity().unwrap();
    assert_eq!(latest(), None);
    subject.committed(vec![identity_created(1), identity_created(3)]).await;
    assert_eq!(latest(), Some(identity(3)));
    // What counts is the order of the commits, and not that of the lines: the file may have been replaced.
    subject.committed(vec![identity_created(2)]).await;
    assert_eq!(latest(), Some(identity(2)));
    subject.conflicts(vec![identity_created(3)]).await;
    assert_eq!(latest(), Some(identity(2)));
}

async fn a_ban_is_read_back_set_lifted_and_set_again(subject: Subject) {
    for banned in [Banned::Name(owner().spiffe_id), Banned::Enrolment(owner())] {
        let read = || subject.ledger.ban(&banned.key()).unwrap();
        assert_eq!(read(), None);
        let set = ban(banned.clone());
        subject.committed(vec![Change::BanSet { ban: set.clone() }]).await;
        assert_eq!(read(), Some(set.clone()));
        subject.conflicts(vec![Change::BanSet { ban: set.clone() }]).await;
        let lifted = set.clone().lift(second(9), operator());
        subject.committed(vec![Change::BanLifted { ban: lifted.clone() }]).await;
        assert_eq!(read(), Some(lifted.clone()));
        let again = Ban { revision: lifted.revision.next(), ..set };
        subject.committed(vec![Change::BanSet { ban: again.clone() }]).await;
        assert_eq!(read(), Some(again));
    }
}

async fn bans_are_paged(subject: Subject) {
    let name = |number| {
        let text = format!("spiffe://ci.example.org/runner/r{number}");
        Banned::Name(SpiffeId::parse(&text).unwrap())
    };
    let all = [name(1), name(2), name(3), Banned::Enrolment(owner())];
    subject.committed(all.iter().map(|banned| Change::BanSet { ban: ban(banned.clone()) }).collect()).await;
    let page = |after: Option<&Banned>, limit| {
        let bans = subject.ledger.bans(after.map(Banned::key).as_ref(), limit).unwrap();
        bans.into_iter().map(|ban| ban.banned).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2), [name(3), name(2)]);
    assert_eq!(page(Some(&name(2)), 2), [name(1), Banned::Enrolment(owner())]);
    assert_eq!(page(Some(&Banned::Enrolment(owner())), 2), []);
}

async fn the_banned_get_nothing_and_others_go_on(subject: Subject) {
    let enrolment = shorepass_core::enrolment::Enrolment { id: owner().enrolment, ..enrolment(1) };
    let renewed = enrolment.clone().again(second(9000));
    let enrolled = Change::Enrolled { enrolment };
    let active = Change::LeaseActive { lease: lease(1).activate(pins(), second(2)).unwrap() };
    subject.committed(vec![enrolled, job_started(1), lease_pending(1), active, token_minted(1, 0)]).await;
    for banned in [Banned::Name(owner().spiffe_id), Banned::Enrolment(owner())] {
        subject.committed(vec![Change::BanSet { ban: ban(banned.clone()) }]).await;
        subject.conflicts(vec![job_started(2)]).await;
        subject.conflicts(vec![lease_pending(2)]).await;
        subject.conflicts(vec![token_minted(1, 1)]).await;
        subject.conflicts(vec![Change::Renewed { enrolment: renewed.clone(), at: second(6) }]).await;
        let other = Owner { spiffe_id: operator(), enrolment: enrolment_of_nobody() };
        let somebodys = shorepass_core::job::Job { owner: other.clone(), ..job(9) };
        let Change::JobStarted { request, .. } = job_started(9) else { panic!("it starts a job") };
        let request = Request { owner: other, ..request };
        if subject.ledger.job(somebodys.id).unwrap().is_none() {
            subject.committed(vec![Change::JobStarted { job: somebodys, request }]).await;
        }
        let lifted = ban(banned).lift(second(9), operator());
        subject.committed(vec![Change::BanLifted { ban: lifted }]).await;
    }
    subject.committed(vec![job_started(2), lease_pending(2), token_minted(1, 1)]).await;
    // An end is never refused.
    subject
        .committed(vec![Change::BanSet {
            ban: Ban { revision: Revision::from_number(3), ..ban(Banned::Enrolment(owner())) },
        }])
        .await;
    let ending = lease(2).begin_end(EndCause::Released, second(7)).unwrap();
    subject.committed(vec![Change::LeaseEnding { lease: ending }]).await;
}

fn enrolment_of_nobody() -> shorepass_core::id::EnrolmentId {
    enrolment(77).id
}

async fn a_banned_enrolment_leaves_its_name_to_another(subject: Subject) {
    subject.committed(vec![enrolled(1)]).await;
    subject.conflicts(vec![enrolled(2)]).await;
    subject.committed(vec![Change::BanSet { ban: ban(Banned::Enrolment(enrolment(1).owner())) }]).await;
    subject.committed(vec![enrolled(2)]).await;
    subject.committed(vec![Change::BanSet { ban: ban(Banned::Name(owner().spiffe_id)) }]).await;
    subject
        .conflicts(vec![
            Change::EnrolmentReplaced { enrolment: enrolment(2).replace(second(9)) },
            enrolled(3),
        ])
        .await;
}
