//! What is said about each failure, and its exit code.

use std::collections::BTreeMap;
use std::time::Duration;

use shorepass_proto::local::v1::ErrorClass;
use shorepass_rpc::status::{code_of, reason_named};

use super::*;

fn refusal(reason: &str) -> Refusal {
    let reason = reason_named(reason).unwrap();
    Refusal {
        code: code_of(reason),
        reason: Some(reason),
        message: "what happened".to_owned(),
        metadata: BTreeMap::new(),
        retry_after: None,
        request_id: Some("req-1".to_owned()),
    }
}

fn refused(refusal: Refusal) -> Failure {
    Failure::Call(ClientError::Refused(Box::new(refusal)))
}

#[test]
fn every_refusal_of_the_issuer_has_its_exit_code() {
    for (code, reasons) in [
        (FAILURE, "RECORD_NOT_FOUND SERVICE_ACCOUNT_MISSING ISSUER_FORBIDDEN CLUSTER_ANSWER_REJECTED"),
        (USAGE, "FIELD_INVALID REQUEST_ID_REUSED"),
        (DENIED, "CALLER_KIND CERTIFICATE_EXPIRED ENROLMENT_ENDED LEASE_NOT_AVAILABLE BLOCKED BANNED"),
        (UNREACHABLE, "STORE_UNAVAILABLE AUDIT_UNAVAILABLE SHUTTING_DOWN RATE_LIMITED CLUSTER_BUSY"),
        (LEASE_ENDED, "LEASE_ENDED JOB_ENDED"),
    ] {
        for reason in reasons.split(' ') {
            assert_eq!(refused(refusal(reason)).exit_code(), code, "{reason}");
        }
    }
}

#[test]
fn every_other_failure_has_its_exit_code() {
    let agent = |class| {
        let (message, remedy, request_id) = (String::new(), String::new(), String::new());
        let rules = String::new();
        Failure::Agent(AskError::Refused { class, message, remedy, request_id, rules })
    };
    let table = [
        (Failure::Pasted(Pasted::JoinToken), 2),
        (Failure::NoConfig, 2),
        (Failure::NoIdentity(PathBuf::new()), 1),
        (Failure::Call(ClientError::Deadline(Duration::from_secs(10))), 4),
        (Failure::Incomplete(Incomplete("x")), 1),
        (Failure::Degraded(String::new()), 6),
        (Failure::StillEnding(1), 1),
        (Failure::Unproved(1), 1),
        (agent(ErrorClass::Denied), 3),
        (agent(ErrorClass::LeaseEnded), 5),
        (Failure::Agent(AskError::Silent { socket: PathBuf::new(), patience: Duration::ZERO }), 4),
    ];
    for (failure, code) in table {
        assert_eq!(failure.exit_code(), code, "{failure:?}");
    }
}

#[test]
fn a_refusal_names_its_reason_and_where_to_find_more() {
    let shown = refused(refusal("RECORD_NOT_FOUND")).report();
    assert_eq!(shown, "shorepass: what happened (RECORD_NOT_FOUND)\n  request: req-1\n");
    let mut denied = refusal("LEASE_NOT_AVAILABLE");
    denied.metadata.insert("decision_id".to_owned(), "d-1".to_owned());
    let shown = refused(denied).report();
    assert_eq!(shown, "shorepass: what happened (LEASE_NOT_AVAILABLE)\n  decision: d-1\n");
}

#[test]
fn a_refusal_that_passes_says_when_to_come_back() {
    let mut busy = refusal("RATE_LIMITED");
    busy.retry_after = Some(Duration::from_millis(1_200));
    assert!(refused(busy).report().ends_with("  try: again in 2 s\n"));
}

#[test]
fn what_an_issuer_says_stays_in_its_line() {
    let mut forged = refusal("RECORD_NOT_FOUND");
    forged.message = "x\n  try: \u{1b}]0;evil".to_owned();
    forged.request_id = None;
    let shown = refused(forged).report();
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(!shown.contains('\u{1b}'));
}

#[test]
fn an_operator_whose_certificate_expired_is_told_how_to_get_another() {
    for reason in ["CERTIFICATE_EXPIRED", "CALLER_KIND"] {
        assert!(refused(refusal(reason)).report().contains("shorepass-issuer identity create"), "{reason}");
    }
}

#[test]
fn a_reader_that_has_gone_is_not_worth_a_word() {
    assert_eq!(Failure::Output(io::ErrorKind::BrokenPipe.into()).report(), "");
    assert!(Failure::Output(io::ErrorKind::StorageFull.into()).report().contains("because: "));
}

#[test]
fn a_pasted_token_is_answered_with_its_jti_and_what_to_do() {
    let shown = Failure::Pasted(Pasted::Jwt(Some("7ee5".to_owned()))).report();
    assert!(shown.contains("sent nowhere") && shown.contains("shorepass whois 7ee5"), "{shown}");
    assert!(shown.contains("lease revoke"), "{shown}");
}
