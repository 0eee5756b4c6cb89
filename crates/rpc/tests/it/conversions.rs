//! Whole messages, there and back.

use prost_types::{Duration, Timestamp};
use shorepass_core::ban::BanKey;
use shorepass_core::caller::Kind;
use shorepass_core::id::LeaseId;
use shorepass_core::ledger::LeaseFilter;
use shorepass_proto::v1;

use crate::bench::{self, Bench};
use crate::fake::{self, ID, JOIN_TOKEN, START, TOKEN};

fn at(offset: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: START + offset, nanos: 0 })
}

fn wire_job() -> v1::Job {
    v1::Job {
        id: ID.to_owned(),
        asserted: Some(v1::AssertedJob {
            system: "jenkins".to_owned(),
            id: "build-7".to_owned(),
            url: "https://ci.example.org/7".to_owned(),
        }),
        verified: None,
        start_time: at(-5),
        latest_end_time: at(7_200),
    }
}

fn wire_lease() -> v1::Lease {
    v1::Lease {
        id: ID.to_owned(),
        job_id: ID.to_owned(),
        role: "web-deployer".to_owned(),
        cluster: "staging".to_owned(),
        namespace: "web".to_owned(),
        service_account: "deployer".to_owned(),
        mode: v1::LeaseMode::Bound.into(),
        state: v1::LeaseState::Active.into(),
        create_time: at(-1),
        deadline: at(600),
        remaining: Some(Duration { seconds: 600, nanos: 0 }),
        end: None,
        bindings: Vec::new(),
        tokens_until: None,
        adopted: false,
        audiences: vec!["registry".to_owned(), "vault".to_owned()],
    }
}

fn wire_cluster() -> v1::Cluster {
    v1::Cluster {
        name: "staging".to_owned(),
        server: "https://10.0.0.1:6443".to_owned(),
        ca_bundle_pem: b"CA".to_vec(),
        tls_server_name: "kubernetes".to_owned(),
        namespace: "web".to_owned(),
    }
}

fn wire_credential() -> v1::Credential {
    v1::Credential {
        token: TOKEN.to_owned(),
        token_id: "token-1".to_owned(),
        valid_for: Some(Duration { seconds: 589, nanos: 500_000_000 }),
        expires_at: at(589),
        cluster: Some(wire_cluster()),
        valid_while_heard: bench::seconds(1_790),
        silence_limit: bench::seconds(900),
    }
}

fn wire_token() -> v1::TokenRecord {
    v1::TokenRecord {
        token_id: "token-1".to_owned(),
        fingerprint: fake::minted().fingerprint.to_string(),
        issue_time: at(0),
        expires_at: at(600),
    }
}

fn wire_block() -> v1::Block {
    v1::Block {
        id: ID.to_owned(),
        caller: "spiffe://ci.example.org/runner/one".to_owned(),
        role: "web-deployer".to_owned(),
        create_time: at(2),
        until: at(600),
        by: "spiffe://ci.example.org/operator/one".to_owned(),
        reason: "leaked".to_owned(),
        lease_id: ID.to_owned(),
        lift_time: None,
        lifted_by: String::new(),
        job_id: String::new(),
    }
}

fn wire_record() -> v1::LeaseRecord {
    v1::LeaseRecord {
        lease: Some(wire_lease()),
        caller: "spiffe://ci.example.org/runner/one".to_owned(),
        job: Some(wire_job()),
        anchor: fake::lease().anchor.as_str().to_owned(),
        tokens: vec![wire_token()],
        block: Some(wire_block()),
        transitions: steps(&[(v1::LeaseState::Pending, -1), (v1::LeaseState::Active, 0)]),
        receipt: None,
        not_removed: None,
        policy_digest: String::new(),
        policy_version: 0,
        silence_limit: bench::seconds(900),
        escape_rights: Some(v1::EscapeRights {
            rights: vec!["create pods".to_owned()],
            review_time: at(0),
            unknown: String::new(),
        }),
        pins: Some(v1::LeasePins {
            anchor_uid: "anchor".to_owned(),
            service_account_uid: "account".to_owned(),
        }),
    }
}

fn steps(steps: &[(v1::LeaseState, i64)]) -> Vec<v1::LeaseTransition> {
    let ends = |state| matches!(state, v1::LeaseState::Ending | v1::LeaseState::Ended);
    let cause = |state| if ends(state) { v1::EndCause::Revoked } else { v1::EndCause::Unspecified };
    let step = |&(state, time): &(v1::LeaseState, i64)| v1::LeaseTransition {
        state: state.into(),
        time: at(time),
        cause: cause(state).into(),
    };
    steps.iter().map(step).collect()
}

#[tokio::test]
async fn a_receipt_and_all_steps_of_a_life_reach_who_waits() {
    let bench = Bench::api();
    let request = v1::RevokeLeasesRequest { wait: true, ..bench::revoke() };
    let mut stream = bench.client(Some(Kind::Operator)).revoke_leases(request).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().receipt(), v1::RevokeReceipt::Unspecified);
    let arrived = stream.next().await.unwrap().unwrap();
    assert_eq!(arrived.receipt(), v1::RevokeReceipt::Arrived);
    assert!(bench.fake.revocations.lock().unwrap()[0].wait);
    let record = arrived.lease.unwrap();
    let receipt = v1::Receipt {
        verdict: v1::ReceiptVerdict::Proved.into(),
        refuse_time: at(4),
        observe_time: at(5),
        dead_by_time: at(15),
        reason: String::new(),
        endpoints: vec!["10.0.0.1:6443".to_owned()],
        canaries: vec!["canary".to_owned()],
        create_time: at(6),
    };
    assert_eq!((record.receipt, record.pins), (Some(receipt), wire_record().pins));
    use v1::LeaseState::{Active, Ended, Ending, Pending};
    assert_eq!(record.transitions, steps(&[(Pending, -1), (Active, 0), (Ending, 2), (Ended, 3)]));
}

#[tokio::test]
async fn credentials_reach_their_owner_whole() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    let job = client.start_job(bench::start_job()).await.unwrap();
    assert_eq!(job, v1::StartJobResponse { job: Some(wire_job()) });
    let verified = client.start_job(bench::start_job_with("a.b.c")).await.unwrap().job.unwrap();
    let claim = |name: &str, value: &str| v1::Claim { name: name.to_owned(), value: value.to_owned() };
    let expected = v1::VerifiedJob {
        issuer: "gitlab".to_owned(),
        system: "gitlab".to_owned(),
        id: "302".to_owned(),
        claims: vec![claim("ref", "main"), claim("runner_id", "7")],
    };
    assert_eq!((verified.verified, verified.asserted), (Some(expected), None));
    let issued = client.issue(bench::issue()).await.unwrap();
    let expected = v1::IssueResponse { lease: Some(wire_lease()), credential: Some(wire_credential()) };
    assert_eq!(issued, expected);
    let refresh = v1::RefreshRequest { lease_id: ID.to_owned(), token_lifetime: bench::seconds(600) };
    let refreshed = client.refresh(refresh).await.unwrap();
    let expected = v1::RefreshResponse { lease: Some(wire_lease()), credential: Some(wire_credential()) };
    assert_eq!(refreshed, expected);
    let released = client.release(v1::ReleaseRequest { lease_id: ID.to_owned() }).await.unwrap();
    assert_eq!(released, v1::ReleaseResponse { lease: Some(wire_lease()) });
    let ended = client.end_job(v1::EndJobRequest { job_id: ID.to_owned() }).await.unwrap();
    assert_eq!(ended, v1::EndJobResponse { leases: vec![wire_lease()] });
}

#[tokio::test]
async fn what_a_job_asks_for_reaches_the_domain() {
    let bench = Bench::api();
    bench.client(Some(Kind::Runner)).issue(bench::issue()).await.unwrap();
    let ask = bench.fake.asks.lock().unwrap()[0].clone();
    assert_eq!(ask.role.as_str(), "web-deployer");
    assert_eq!(ask.lease_lifetime, Some(std::time::Duration::from_secs(3_600)));
    assert_eq!(ask.token_lifetime, Some(std::time::Duration::from_secs(600)));
}

#[tokio::test]
async fn roles_are_listed_by_page() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Platform));
    let page = |page_token| client.list_roles(v1::ListRolesRequest { page_size: 1, page_token });
    let first = page(String::new()).await.unwrap();
    let role = v1::Role {
        name: "web-deployer".to_owned(),
        cluster: Some(wire_cluster()),
        service_account: "deployer".to_owned(),
        mode: v1::LeaseMode::Bound.into(),
        audiences: vec!["registry".to_owned(), "vault".to_owned()],
    };
    assert_eq!(first.roles, [role]);
    assert_ne!(first.next_page_token, "");
    assert_eq!(page(first.next_page_token).await.unwrap().next_page_token, "");
}

#[tokio::test]
async fn operators_see_leases_whole() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Operator));
    let selector = v1::LeaseSelector {
        lease_id: ID.to_owned(),
        caller: "spiffe://ci.example.org/runner/one".to_owned(),
        job_id: ID.to_owned(),
        role: "web-deployer".to_owned(),
        cluster: "staging".to_owned(),
        include_ended: true,
        namespace: "web".to_owned(),
        service_account: "deployer.v2".to_owned(),
        all: false,
    };
    let list = |page_token| {
        let request = v1::ListLeasesRequest { selector: Some(selector.clone()), page_size: 7, page_token };
        client.list_leases(request)
    };
    let first = list(String::new()).await.unwrap();
    assert_eq!(first.leases, [wire_record()]);
    assert_eq!(list(first.next_page_token).await.unwrap().next_page_token, "");
    let filter = LeaseFilter {
        lease: Some(fake::lease().id),
        caller: fake::lease().owner.spiffe_id().cloned(),
        job: Some(fake::job().id),
        role: Some(fake::name("web-deployer")),
        cluster: Some(fake::name("staging")),
        namespace: Some(fake::name("web")),
        service_account: Some("deployer.v2".to_owned()),
        include_ended: true,
    };
    let asked = bench.fake.filters.lock().unwrap().clone();
    assert_eq!(asked, [(filter.clone(), None, 7), (filter, Some(LeaseId::parse(ID).unwrap()), 7)]);

    let shown = client.get_lease(v1::GetLeaseRequest { lease_id: ID.to_owned() }).await.unwrap();
    assert_eq!(shown, v1::GetLeaseResponse { lease: Some(wire_record()) });
    let found = client.find_token(v1::FindTokenRequest { token_id: "token-1".to_owned() }).await.unwrap();
    let expected = v1::FindTokenResponse { token: Some(wire_token()), lease: Some(wire_record()) };
    assert_eq!(found, expected);
    let lifted = client.unblock(v1::UnblockRequest { block_id: ID.to_owned() }).await.unwrap();
    assert_eq!(lifted, v1::UnblockResponse { block: Some(wire_block()) });
    let (caller, role) = ("spiffe://ci.example.org/runner/one".to_owned(), "web-deployer".to_owned());
    let blocks =
        v1::ListBlocksRequest { caller, role, include_ended: true, page_size: 9, ..Default::default() };
    let first = client.list_blocks(blocks.clone()).await.unwrap();
    assert_eq!(first.blocks, [wire_block()]);
    let next = v1::ListBlocksRequest { page_token: first.next_page_token, ..blocks };
    assert_eq!(client.list_blocks(next).await.unwrap().next_page_token, "");
    let asked = bench.fake.blocks_asked.lock().unwrap().clone();
    assert_eq!((asked[0].caller.clone(), asked[0].limit), (fake::lease().owner.spiffe_id().cloned(), 9));
    assert_eq!((asked[1].before, asked[1].include_ended), (Some(fake::block().id), true));
}

#[tokio::test]
async fn operators_ban_and_see_bans_whole() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Operator));
    let by = "spiffe://ci.example.org/operator/one".to_owned();
    let ban = v1::Ban {
        spiffe_id: "spiffe://ci.example.org/runner/one".to_owned(),
        enrolment_id: ID.to_owned(),
        create_time: at(3),
        by: by.clone(),
        reason: "stolen".to_owned(),
        lift_time: None,
        lifted_by: String::new(),
    };
    let set = client.ban(bench::ban()).await.unwrap();
    let expected = v1::BanResponse {
        ban: Some(ban.clone()),
        lease_count: 3,
        connection_count: 2,
        unbound_lease_count: 1,
        outliving_lease_count: 4,
        tokens_until: at(7),
    };
    assert_eq!(set, expected);
    let key = BanKey::Name(fake::lease().owner.spiffe_id().cloned().unwrap());
    assert_eq!(*bench.fake.banned.lock().unwrap(), [(key, "stolen".to_owned())]);
    let lifted = client.unban(v1::UnbanRequest { subject: ID.to_owned() }).await.unwrap();
    let expected = v1::Ban { lift_time: at(9), lifted_by: by, ..ban.clone() };
    assert_eq!(lifted, v1::UnbanResponse { ban: Some(expected) });
    let list = v1::ListBansRequest { include_lifted: true, ..Default::default() };
    let first = client.list_bans(list.clone()).await.unwrap();
    assert_eq!(first.bans, [ban]);
    let next = v1::ListBansRequest { page_token: first.next_page_token, ..list };
    assert_eq!(client.list_bans(next).await.unwrap().next_page_token, "");
}

#[tokio::test]
async fn runners_are_listed_with_what_is_known_of_them() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Operator));
    let list = v1::ListRunnersRequest { include_ended: true, ..Default::default() };
    let first = client.list_runners(list.clone()).await.unwrap();
    let [live, replaced, cloned] = first.runners.as_slice() else { panic!("{first:?}") };
    let states = [live, replaced, cloned].map(|runner| (runner.state(), runner.end_time));
    let expected =
        [(v1::RunnerState::Live, None), (v1::RunnerState::Replaced, at(7)), (v1::RunnerState::Cloned, at(7))];
    assert_eq!(states, expected);
    assert_eq!(live.labels, [bench::label("env", "prod"), bench::label("pool", "a")]);
    assert_eq!((live.generation, live.enrol_time, live.clone_cause.as_str()), (1, at(0), ""));
    assert!(cloned.clone_cause.contains("renewed after another one had taken its place"), "{cloned:?}");
    let next = v1::ListRunnersRequest { page_token: first.next_page_token, ..list };
    assert_eq!(client.list_runners(next).await.unwrap().next_page_token, "");
    assert!(client.list_runners(v1::ListRunnersRequest::default()).await.unwrap().runners.is_empty());
}

#[tokio::test]
async fn a_join_token_is_shown_with_its_end_and_labels() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Operator));
    let (env, pool) = (bench::label("env", "prod"), bench::label("example.org/pool", "a"));
    let request =
        v1::CreateJoinTokenRequest { labels: vec![pool.clone(), env.clone()], ..bench::create_join_token() };
    let created = client.create_join_token(request).await.unwrap();
    let expected = v1::CreateJoinTokenResponse {
        join_token: JOIN_TOKEN.to_owned(),
        expires_at: at(3_600),
        labels: vec![env, pool],
    };
    assert_eq!(created, expected);
}

#[tokio::test]
async fn a_request_is_named_by_its_id_and_known_by_its_content() {
    let bench = Bench::api();
    let client = bench.client(Some(Kind::Runner));
    let other_id = ID.replace("0198", "0199");
    let requests = [
        bench::issue(),
        bench::issue(),
        v1::IssueRequest { request_id: other_id.clone(), ..bench::issue() },
        v1::IssueRequest { token_lifetime: None, ..bench::issue() },
    ];
    for request in requests {
        client.issue(request).await.unwrap();
    }
    let keys = bench.fake.requests.lock().unwrap().clone();
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[2].id.to_string(), other_id);
    assert_eq!(keys[2].content, keys[0].content);
    assert_ne!(keys[3].content, keys[0].content);
}
