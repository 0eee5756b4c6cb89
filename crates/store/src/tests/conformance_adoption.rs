//! The part of the suite for both engines that is about leases whose records were lost, and were made again from their anchors.

use serde_json::Value;
use shorepass_core::enrolment::Enrolment;
use shorepass_core::lease::{EndCause, Lease};
use shorepass_core::ledger::{Change, LeaseFilter};

use super::conformance::{Subject, on_both};
use crate::testing::*;

on_both!(
    an_adopted_lease_is_found_though_its_owner_has_no_name,
    an_adopted_lease_is_its_owners_once_that_came_for_a_token,
    no_lease_that_is_on_record_is_adopted,
    enrolments_come_newest_first_and_in_pages,
);

fn found(subject: &Subject, filter: LeaseFilter) -> Vec<Lease> {
    subject.ledger.leases(&filter, None, 10).unwrap()
}

fn of_its_caller() -> LeaseFilter {
    LeaseFilter { caller: Some(owner().spiffe_id), ..LeaseFilter::default() }
}

fn with_ended(filter: LeaseFilter) -> LeaseFilter {
    LeaseFilter { include_ended: true, ..filter }
}

fn line(subject: &Subject, event: &str) -> Value {
    let lines = (subject.audit_lines)();
    let mut lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.find(|line| line["event"] == event).unwrap()
}

async fn an_adopted_lease_is_found_though_its_owner_has_no_name(subject: Subject) {
    let lease = adopted(1);
    subject.committed(vec![Change::LeaseAdopted { lease: lease.clone() }]).await;
    assert_eq!(subject.ledger.lease(lease.id).unwrap(), Some(lease.clone()));
    assert_eq!(found(&subject, LeaseFilter::default()), std::slice::from_ref(&lease));
    for not_known in [
        of_its_caller(),
        LeaseFilter { job: Some(job(1).id), ..LeaseFilter::default() },
        LeaseFilter { role: Some(name("web-deployer")), ..LeaseFilter::default() },
    ] {
        assert_eq!(found(&subject, not_known.clone()), []);
        assert_eq!(found(&subject, with_ended(not_known)), []);
    }
    let line = line(&subject, "lease.adopted");
    assert_eq!(line["ownerDigest"], lease.owner.digest().to_string());
    assert_eq!(line["roleDigest"], lease.role_digest.to_string());
    for absent in ["caller", "enrolment", "job", "role", "serviceAccount"] {
        assert_eq!(line.get(absent), None, "{absent}");
    }
    let ending = lease.begin_end(EndCause::Deadline, second(8)).unwrap();
    subject.committed(vec![Change::LeaseEnding { lease: ending.clone() }]).await;
    let ended = ending.finish_end(second(9)).unwrap();
    subject.committed(vec![Change::LeaseEnded { lease: ended.clone() }]).await;
    assert_eq!(found(&subject, LeaseFilter::default()), []);
    assert_eq!(found(&subject, with_ended(LeaseFilter::default())), [ended]);
}

async fn an_adopted_lease_is_its_owners_once_that_came_for_a_token(subject: Subject) {
    let lease = adopted(1);
    subject.committed(vec![Change::LeaseAdopted { lease: lease.clone() }]).await;
    let known = lease.recognise(owner(), pins()).unwrap();
    let recognised = Change::LeaseRecognised { lease: known.clone(), at: second(20) };
    subject.committed(vec![recognised.clone(), token_minted(1, 0)]).await;
    assert_eq!(found(&subject, of_its_caller()), std::slice::from_ref(&known));
    assert_eq!(found(&subject, with_ended(of_its_caller())), std::slice::from_ref(&known));
    assert_eq!(subject.ledger.tokens(known.id, 10).unwrap(), [token(1, 0)]);
    subject.conflicts(vec![recognised]).await;
    let line = line(&subject, "lease.recognised");
    assert_eq!(
        (&line["caller"], &line["time"]),
        (&owner().spiffe_id.to_string().into(), &second(20).to_string().into())
    );
}

async fn no_lease_that_is_on_record_is_adopted(subject: Subject) {
    subject.committed(vec![lease_pending(1)]).await;
    subject.conflicts(vec![Change::LeaseAdopted { lease: adopted(1) }]).await;
    subject.committed(vec![Change::LeaseAdopted { lease: adopted(2) }]).await;
    subject.conflicts(vec![Change::LeaseAdopted { lease: adopted(2) }]).await;
}

async fn enrolments_come_newest_first_and_in_pages(subject: Subject) {
    assert_eq!(subject.ledger.enrolments(None, 10).unwrap(), []);
    subject.committed(vec![enrolled(1)]).await;
    let replaced = enrolment(1).replace(second(5));
    subject.committed(vec![Change::EnrolmentReplaced { enrolment: replaced.clone() }, enrolled(2)]).await;
    let ids = |page: Vec<Enrolment>| page.into_iter().map(|enrolment| enrolment.id).collect::<Vec<_>>();
    let all = subject.ledger.enrolments(None, 10).unwrap();
    assert_eq!(all, [enrolment(2), replaced]);
    assert_eq!(ids(subject.ledger.enrolments(None, 1).unwrap()), [enrolment(2).id]);
    assert_eq!(ids(subject.ledger.enrolments(Some(enrolment(2).id), 10).unwrap()), [enrolment(1).id]);
}
