//! The part of the suite for both engines that is about tokens that let a runner in.

use shorepass_core::job::{SpentBy, SpentToken};
use shorepass_core::ledger::Change;

use super::conformance::{Subject, on_both};
use crate::testing::*;

on_both!(a_token_lets_in_once_and_is_good_for_nothing_else);

async fn a_token_lets_in_once_and_is_good_for_nothing_else(subject: Subject) {
    let spent = |number| {
        let by = SpentBy::Enrolment(enrolment(number).id);
        let replay = job_by_token(number, number).spent_token().unwrap().replay;
        SpentToken { replay, by, until: second(300) }
    };
    let lets_in = |number| Change::EnrolmentTokenTaken { spent: spent(number), at: second(1) };
    let read = |number| subject.ledger.spent_token(spent(number).replay).unwrap();
    assert_eq!(read(1), None);
    subject.committed(vec![lets_in(1), Change::Enrolled { enrolment: enrolment(1) }]).await;
    assert_eq!(read(1), Some(spent(1)));
    subject.conflicts(vec![lets_in(1)]).await;
    subject.conflicts(vec![job_started_by_token(1, 1)]).await;
    let line = (subject.audit_lines)().remove(0);
    for part in ["enrolment-token.taken", &enrolment(1).id.to_string(), &spent(1).replay.to_string()] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // A token that opened a session lets nobody in.
    subject.committed(vec![job_started_by_token(2, 2)]).await;
    subject.conflicts(vec![lets_in(2)]).await;
    assert_eq!(read(2).unwrap().by, SpentBy::Job(job(2).id));
}
