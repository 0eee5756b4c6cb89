//! What is refused before the domain is asked, and how.

use std::num::NonZeroU32;

use shorepass_core::caller::Kind;
use shorepass_proto::v1;
use shorepass_rpc::client::{ApiClient, ClientError};
use shorepass_rpc::limits::Limits;
use shorepass_rpc::methods::{Callers, METHODS};
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_rpc::server::ListenerKind;
use shorepass_rpc::status::Code;

use crate::bench::{self, Bench, call, seconds};
use crate::fake::{ID, JOIN_TOKEN, POD_TOKEN, second};

fn refused_field<T>(answer: Result<T, ClientError>) -> String {
    match answer {
        Ok(_) => "(accepted)".to_owned(),
        Err(error) => {
            assert_eq!(error.reason(), Some(Reason::FieldInvalid), "{error}");
            let refusal = error.refusal().unwrap();
            assert!(refusal.message.len() < 600, "{}", refusal.message);
            refusal.metadata["field"].clone()
        }
    }
}

async fn check_issue(client: &ApiClient, field: &str, change: impl Fn(&mut v1::IssueRequest)) {
    let mut request = bench::issue();
    change(&mut request);
    assert_eq!(refused_field(client.issue(request).await), field);
}

#[tokio::test]
async fn ids_have_one_spelling() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    let v4 = "0b8e8a5e-7c1f-4d7b-9a43-2f6f1f0a7c11".to_owned();
    let spellings =
        [String::new(), v4, ID.to_uppercase(), ID.replace('-', ""), format!("{{{ID}}}"), "x".repeat(60_000)];
    for bad in spellings {
        check_issue(&client, "request_id", |request| request.request_id = bad.clone()).await;
        check_issue(&client, "job_id", |request| request.job_id = bad.clone()).await;
        let refresh = v1::RefreshRequest { lease_id: bad.clone(), token_lifetime: None };
        assert_eq!(refused_field(client.refresh(refresh).await), "lease_id");
    }
    assert_eq!(bench.fake.begun(), 0);
}

#[tokio::test]
async fn names_and_lifetimes_are_checked() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    for bad in ["", "Web", "a/b", "web*", "\u{202e}web", "a\nb", "a\0"] {
        check_issue(&client, "role", |request| request.role = bad.to_owned()).await;
    }
    let bad = [(599, 999_999_999), (0, 0), (-1, 0), (600, -1), (600, 1_000_000_000), (i64::MIN, 0)];
    for (seconds, nanos) in bad {
        let wire = Some(prost_types::Duration { seconds, nanos });
        check_issue(&client, "token_lifetime", |request| request.token_lifetime = wire).await;
        let wire = wire.map(|wire| prost_types::Duration { seconds: seconds.min(29), ..wire });
        check_issue(&client, "lease_lifetime", |request| request.lease_lifetime = wire).await;
    }
    assert_eq!(bench.fake.begun(), 0);
    let shortest = v1::IssueRequest { lease_lifetime: seconds(30), ..bench::issue() };
    assert!(client.issue(shortest).await.is_ok(), "a lease may be shorter than its token");
    let longest = v1::IssueRequest { lease_lifetime: seconds(i64::MAX), ..bench::issue() };
    assert!(client.issue(longest).await.is_ok(), "the role's maximum is not the wire's business");
}

#[tokio::test]
async fn a_job_needs_evidence() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    let asserted = |system: &str, id: &str, url: &str| {
        let asserted = v1::AssertedJob { system: system.to_owned(), id: id.to_owned(), url: url.to_owned() };
        let evidence = Some(v1::start_job_request::Evidence::Asserted(asserted));
        v1::StartJobRequest { evidence, ..bench::start_job() }
    };
    let cases = [
        (v1::StartJobRequest { evidence: None, ..bench::start_job() }, "evidence"),
        (v1::StartJobRequest { expected: seconds(0), ..bench::start_job() }, "expected"),
        (v1::StartJobRequest { expected: seconds(-1), ..bench::start_job() }, "expected"),
        (asserted("", "1", ""), "asserted.system"),
        (asserted("jenkins", "", ""), "asserted.id"),
        (asserted("jenkins", "1", "javascript:alert(1)"), "asserted.url"),
        (bench::start_job_with(""), "oidc.token"),
    ];
    for (request, field) in cases {
        assert_eq!(refused_field(client.start_job(request).await), field);
    }
    assert_eq!(bench.fake.begun(), 0);
}

#[tokio::test]
async fn operators_requests_are_checked() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Operator));
    let list = |page_size, token: &str, selector| {
        let page_token = token.to_owned();
        client.list_leases(v1::ListLeasesRequest { selector, page_size, page_token })
    };
    assert_eq!(refused_field(list(201, "", None).await), "page_size");
    assert_eq!(refused_field(list(-1, "", None).await), "page_size");
    assert_eq!(refused_field(list(0, "garbage", None).await), "page_token");
    let selectors = [
        (v1::LeaseSelector { lease_id: "x".to_owned(), ..Default::default() }, "selector.lease_id"),
        (v1::LeaseSelector { caller: "one".to_owned(), ..Default::default() }, "selector.caller"),
        (v1::LeaseSelector { job_id: "x".to_owned(), ..Default::default() }, "selector.job_id"),
        (v1::LeaseSelector { role: "X".to_owned(), ..Default::default() }, "selector.role"),
        (v1::LeaseSelector { cluster: "X".to_owned(), ..Default::default() }, "selector.cluster"),
        (v1::LeaseSelector { namespace: "web".to_owned(), ..Default::default() }, "selector.namespace"),
        (v1::LeaseSelector { namespace: "X".to_owned(), ..Default::default() }, "selector.namespace"),
        (
            v1::LeaseSelector {
                cluster: "c".to_owned(),
                service_account: "deployer".to_owned(),
                ..Default::default()
            },
            "selector.service_account",
        ),
        (
            v1::LeaseSelector { service_account: "a/b".to_owned(), ..Default::default() },
            "selector.service_account",
        ),
        (v1::LeaseSelector { role: "web".to_owned(), all: true, ..Default::default() }, "selector.all"),
    ];
    for (selector, field) in selectors {
        assert_eq!(refused_field(list(0, "", Some(selector)).await), field);
    }
    let get = |id: &str| client.get_lease(v1::GetLeaseRequest { lease_id: id.to_owned() });
    assert_eq!(refused_field(get("").await), "lease_id");
    let unblock = |id: &str| client.unblock(v1::UnblockRequest { block_id: id.to_owned() });
    assert_eq!(refused_field(unblock("x").await), "block_id");
    for (subject, reason, field) in [
        ("", "stolen", "subject"),
        ("prod-1", "stolen", "subject"),
        (ID, "", "reason"),
        (ID, "a\nb", "reason"),
    ] {
        let request = v1::BanRequest { subject: subject.to_owned(), reason: reason.to_owned() };
        assert_eq!(refused_field(client.ban(request).await), field, "{subject} {reason}");
    }
    let unban = v1::UnbanRequest { subject: "list".to_owned() };
    assert_eq!(refused_field(client.unban(unban).await), "subject");
    let blocks = |caller: &str, role: &str| {
        let (caller, role) = (caller.to_owned(), role.to_owned());
        client.list_blocks(v1::ListBlocksRequest { caller, role, ..Default::default() })
    };
    assert_eq!(refused_field(blocks("one", "").await), "caller");
    assert_eq!(refused_field(blocks("", "X").await), "role");
    for bad in ["", "a b", &"x".repeat(201)] {
        let request = v1::FindTokenRequest { token_id: bad.to_owned() };
        assert_eq!(refused_field(client.find_token(request).await), "token_id");
    }
    assert_eq!(bench.fake.begun(), 0);
}

#[tokio::test]
async fn nobody_revokes_everything_by_an_oversight_or_anything_without_a_reason() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Operator));
    let everything = v1::LeaseSelector { include_ended: true, ..Default::default() };
    for selector in [None, Some(Default::default()), Some(everything)] {
        let request = v1::RevokeLeasesRequest { selector, ..bench::revoke() };
        assert_eq!(refused_field(client.revoke_leases(request).await), "selector");
    }
    for bad in ["", "  ", "a\nb", "a\u{202e}b", "a\u{200b}b", &"ä".repeat(201)] {
        let request = v1::RevokeLeasesRequest { reason: bad.to_owned(), ..bench::revoke() };
        assert_eq!(refused_field(client.revoke_leases(request).await), "reason");
    }
    assert!(bench.fake.revocations.lock().unwrap().is_empty());
    let all = Some(v1::LeaseSelector { all: true, ..Default::default() });
    let request = v1::RevokeLeasesRequest { selector: all, ..bench::revoke() };
    assert!(client.revoke_leases(request).await.is_ok());
    let request = v1::RevokeLeasesRequest { reason: "ä".repeat(200), ..bench::revoke() };
    assert!(client.revoke_leases(request).await.is_ok());
}

#[tokio::test]
async fn join_tokens_are_created_within_bounds() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Operator));
    for bad in ["", "*", "ab*", "a*b"] {
        let request = v1::CreateJoinTokenRequest { runners: bad.to_owned(), ..bench::create_join_token() };
        assert_eq!(refused_field(client.create_join_token(request).await), "runners");
    }
    for bad in [-1, 0, 59, 7 * 24 * 3600 + 1] {
        let request = v1::CreateJoinTokenRequest { lifetime: seconds(bad), ..bench::create_join_token() };
        assert_eq!(refused_field(client.create_join_token(request).await), "lifetime");
    }
    let many = (0..17).map(|index| bench::label(&format!("a{index}"), "x")).collect();
    let twice = vec![bench::label("env", "a"), bench::label("env", "b")];
    let (name, value) = (vec![bench::label("ENV", "a")], vec![bench::label("env", "*")]);
    for bad in [many, twice, name, value] {
        let request = v1::CreateJoinTokenRequest { labels: bad, ..bench::create_join_token() };
        assert_eq!(refused_field(client.create_join_token(request).await), "labels");
    }
    assert_eq!(bench.fake.begun(), 0);
}

#[tokio::test]
async fn enrolments_are_checked_and_never_repeat_the_join_token() {
    let bench = Bench::new(ListenerKind::Enroll, Limits::enroll());
    let client = bench.client(None);
    let cases = [
        (v1::EnrollRequest { join_token: String::new(), ..bench::enroll() }, "join_token"),
        (v1::EnrollRequest { join_token: JOIN_TOKEN.repeat(10), ..bench::enroll() }, "join_token"),
        (v1::EnrollRequest { name: JOIN_TOKEN.to_owned(), ..bench::enroll() }, "name"),
        (
            v1::EnrollRequest { certificate_request_pem: Vec::new(), ..bench::enroll() },
            "certificate_request_pem",
        ),
        (
            v1::EnrollRequest { certificate_request_pem: vec![b'x'; 16 * 1024 + 1], ..bench::enroll() },
            "certificate_request_pem",
        ),
    ];
    let of_pods = [
        (v1::EnrollRequest { cluster: String::new(), ..bench::enroll_pod() }, "cluster"),
        (v1::EnrollRequest { cluster: POD_TOKEN.to_owned(), ..bench::enroll_pod() }, "cluster"),
        (v1::EnrollRequest { cluster: "staging".to_owned(), ..bench::enroll() }, "cluster"),
        (
            v1::EnrollRequest { service_account_token: "x".repeat(16 * 1024 + 1), ..bench::enroll_pod() },
            "service_account_token",
        ),
        (
            v1::EnrollRequest { join_token: JOIN_TOKEN.to_owned(), ..bench::enroll_pod() },
            "service_account_token",
        ),
        (v1::EnrollRequest { join_token: JOIN_TOKEN.to_owned(), ..bench::enroll_oidc() }, "oidc_token"),
        (v1::EnrollRequest { oidc_token: POD_TOKEN.to_owned(), ..bench::enroll_pod() }, "oidc_token"),
    ];
    for (request, field) in cases.into_iter().chain(of_pods) {
        let answer = client.enroll(request).await;
        let shown = format!("{answer:?}");
        assert!(!shown.contains(JOIN_TOKEN) && !shown.contains(POD_TOKEN), "{shown}");
        assert_eq!(refused_field(answer), field);
    }
    assert_eq!(bench.fake.begun(), 0);
}

#[tokio::test]
async fn only_listed_kinds_reach_a_method() {
    let bench = Bench::api();
    let mut admitted = 0;
    for kind in Kind::ALL {
        let client = bench.client(Some(kind));
        for method in &METHODS {
            let may = matches!(method.callers, Callers::Kinds(kinds) if kinds.contains(&kind));
            admitted += usize::from(may);
            let answer = call(&client, method.name).await;
            if may {
                answer.unwrap();
            } else {
                assert_eq!(answer.unwrap_err().reason(), Some(Reason::CallerKind), "{kind} {}", method.name);
            }
            assert_eq!(bench.fake.begun(), admitted, "{kind} {}", method.name);
        }
    }
}

#[tokio::test]
async fn without_a_certificate_there_is_only_enrolment() {
    let bench = Bench::new(ListenerKind::Enroll, Limits::enroll());
    for kind in [None, Some(Kind::Runner)] {
        let client = bench.client(kind);
        for method in METHODS.iter().filter(|method| method.callers != Callers::Anonymous) {
            let reason = call(&client, method.name).await.unwrap_err().reason();
            assert_eq!(reason, Some(Reason::CallerKind), "{}", method.name);
        }
    }
    assert_eq!(bench.fake.begun(), 0);
    call(&bench.client(None), "Enroll").await.unwrap();
    assert_eq!(bench.fake.begun(), 1);
}

#[tokio::test]
async fn what_is_refused_for_the_caller_is_recorded_and_its_decision_named() {
    async fn check(bench: &Bench, kind: Option<Kind>, method: &'static str, reason: Reason) {
        let error = call(&bench.client(kind), method).await.unwrap_err();
        assert_eq!(error.reason(), Some(reason));
        assert_eq!(error.refusal().unwrap().metadata["decision_id"], ID, "{method}");
        let recorded = std::mem::take(&mut *bench.fake.refusals.lock().unwrap());
        assert_eq!(recorded, [(kind, method, reason)]);
    }
    let enroll = Bench::new(ListenerKind::Enroll, Limits::enroll());
    check(&enroll, None, "CreateJoinToken", Reason::CallerKind).await;
    let bench = Bench::api();
    check(&bench, Some(Kind::Runner), "RevokeLeases", Reason::CallerKind).await;
    *bench.fake.standing.lock().unwrap() = Err(Refused::new(Reason::EnrolmentEnded, "replaced"));
    check(&bench, Some(Kind::Runner), "Issue", Reason::EnrolmentEnded).await;
    *bench.fake.standing.lock().unwrap() = Err(Refused::new(Reason::Banned, "banned"));
    check(&bench, Some(Kind::Operator), "ListBans", Reason::Banned).await;
    bench.clock.set(second(3_600));
    check(&bench, Some(Kind::Operator), "GetLease", Reason::CertificateExpired).await;
}

#[tokio::test]
async fn failures_rates_and_shutdown_are_not_recorded() {
    let limits = Limits { calls_burst: NonZeroU32::new(2).unwrap(), ..Limits::api() };
    let bench = Bench::new(ListenerKind::Api, limits);
    let client = bench.client(Some(Kind::Runner));
    *bench.fake.standing.lock().unwrap() = Err(Refused::new(Reason::StoreUnavailable, "the disk is full"));
    assert_eq!(call(&client, "Issue").await.unwrap_err().reason(), Some(Reason::StoreUnavailable));
    assert!(bench.fake.refusals.lock().unwrap().is_empty());
    call(&client, "RevokeLeases").await.unwrap_err();
    for _ in 0..10 {
        let refused = call(&client, "RevokeLeases").await.unwrap_err();
        assert_eq!(refused.reason(), Some(Reason::RateLimited));
    }
    assert_eq!(bench.fake.refusals.lock().unwrap().len(), 1, "the rate comes first");
    bench.shutdown.cancel();
    let _ = call(&client, "RevokeLeases").await.unwrap_err();
    assert_eq!(bench.fake.refusals.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_unverified_peer_on_the_api_listener_gets_nothing() {
    let bench = Bench::api();
    let client = bench.client(None);
    for method in &METHODS {
        let reason = call(&client, method.name).await.unwrap_err().reason();
        assert_eq!(reason, Some(Reason::CallerKind), "{}", method.name);
    }
    assert_eq!(bench.fake.begun(), 0);
}

#[tokio::test]
async fn a_certificate_that_expires_on_an_open_connection_is_refused_everywhere() {
    let bench = Bench::api();
    let kinds = [Kind::Runner, Kind::Platform, Kind::Operator];
    let clients = kinds.map(|kind| bench.client(Some(kind)));
    for client in &clients {
        let _ = call(client, "ListRoles").await;
    }
    let before = bench.fake.begun();
    bench.clock.set(second(3_600));
    for client in &clients {
        for method in &METHODS {
            let error = call(client, method.name).await.unwrap_err();
            assert_eq!(error.reason(), Some(Reason::CertificateExpired), "{}", method.name);
            assert_eq!(error.refusal().unwrap().code, Code::Unauthenticated);
        }
    }
    assert_eq!(bench.fake.begun(), before);
    assert_eq!(bench.connects(), clients.len(), "all on the connections that were open");
    bench.clock.set(second(3_599));
    call(&clients[0], "ListRoles").await.unwrap();
}

#[tokio::test]
async fn a_replaced_enrolment_is_refused_everywhere() {
    let bench = Bench::api();
    *bench.fake.standing.lock().unwrap() = Err(Refused::new(Reason::EnrolmentEnded, "replaced"));
    for method in &METHODS {
        let Callers::Kinds(kinds) = method.callers else { continue };
        let client = bench.client(Some(kinds[0]));
        let reason = call(&client, method.name).await.unwrap_err().reason();
        assert_eq!(reason, Some(Reason::EnrolmentEnded), "{}", method.name);
    }
    assert_eq!(bench.fake.begun(), 0);
}
