//! Messages for the tests of what is printed.

use shorepass_proto::v1;

pub(crate) const ACTIVE: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
pub(crate) const REVOKED: &str = "0198c5a2-8f7e-7cc0-b1d2-000000000002";
const JOB: &str = "0198c5a2-0000-7cc0-b1d2-000000000003";
const BLOCK: &str = "0198c5a2-0000-7cc0-b1d2-000000000004";
const START: i64 = 1_790_000_000;

pub(crate) fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: START + seconds, nanos: 250_000_000 })
}

pub(crate) fn token() -> v1::TokenRecord {
    v1::TokenRecord {
        token_id: "7ee52be0-9045-4653-aa5e-0da57b8dccdc".to_owned(),
        fingerprint: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned(),
        issue_time: at(1),
        expires_at: at(1_801),
    }
}

pub(crate) fn block() -> v1::Block {
    v1::Block {
        id: BLOCK.to_owned(),
        caller: "spiffe://ci.example.org/runner/prod-1".to_owned(),
        role: "web-deployer".to_owned(),
        create_time: at(60),
        until: at(3_600),
        by: "spiffe://ci.example.org/operator/alice".to_owned(),
        reason: "laptop stolen".to_owned(),
        lease_id: REVOKED.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn active() -> v1::LeaseRecord {
    let asserted = v1::AssertedJob {
        system: "jenkins".to_owned(),
        id: "deploy#42".to_owned(),
        url: "https://jenkins.example.org/job/deploy/42/".to_owned(),
    };
    v1::LeaseRecord {
        lease: Some(v1::Lease {
            id: ACTIVE.to_owned(),
            job_id: JOB.to_owned(),
            role: "web-deployer".to_owned(),
            cluster: "staging".to_owned(),
            namespace: "web".to_owned(),
            service_account: "deployer".to_owned(),
            mode: v1::LeaseMode::Bound.into(),
            state: v1::LeaseState::Active.into(),
            create_time: at(0),
            deadline: at(3_600),
            remaining: Some(prost_types::Duration { seconds: 3_540, nanos: 900_000_000 }),
            end: None,
            bindings: Vec::new(),
            tokens_until: None,
            adopted: false,
            audiences: Vec::new(),
        }),
        caller: "spiffe://ci.example.org/runner/prod-1".to_owned(),
        job: Some(v1::Job {
            id: JOB.to_owned(),
            asserted: Some(asserted),
            verified: None,
            start_time: at(-1),
            latest_end_time: None,
        }),
        anchor: "shorepass-aaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned(),
        tokens: vec![token()],
        block: None,
        transitions: steps(&[(v1::LeaseState::Pending, 0), (v1::LeaseState::Active, 1)]),
        receipt: None,
        not_removed: None,
        policy_digest: String::new(),
        policy_version: 0,
        silence_limit: Some(prost_types::Duration { seconds: 900, nanos: 0 }),
        escape_rights: None,
        pins: Some(v1::LeasePins {
            anchor_uid: "0b7d4d4c-6c52-4f0f-8f0d-2f5f8a1f7a11".to_owned(),
            service_account_uid: "4a4bb5a1-37a5-4a7e-9d52-2f1c9c3f8d22".to_owned(),
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

pub(crate) fn proved() -> v1::Receipt {
    v1::Receipt {
        verdict: v1::ReceiptVerdict::Proved.into(),
        refuse_time: at(61),
        observe_time: at(61),
        dead_by_time: at(71),
        reason: String::new(),
        endpoints: vec!["10.0.0.1:6443".to_owned(), "10.0.0.2:6443".to_owned()],
        canaries: vec!["11111111-9045-4653-aa5e-0da57b8dccdc".to_owned()],
        create_time: at(62),
    }
}

pub(crate) fn unproved() -> v1::Receipt {
    v1::Receipt {
        verdict: v1::ReceiptVerdict::Unproved.into(),
        reason: "the delete did not wait for the canaries: 10.0.0.1:6443".to_owned(),
        endpoints: vec!["10.0.0.1:6443".to_owned()],
        create_time: at(62),
        ..v1::Receipt::default()
    }
}

pub(crate) fn revoked() -> v1::LeaseRecord {
    let end = v1::LeaseEnd {
        cause: v1::EndCause::Revoked.into(),
        time: at(60),
        by: block().by,
        reason: block().reason,
    };
    let mut record = active();
    record.lease = record.lease.map(|lease| v1::Lease {
        id: REVOKED.to_owned(),
        state: v1::LeaseState::Ended.into(),
        remaining: None,
        end: Some(end),
        ..lease
    });
    record.silence_limit = None;
    record.block = Some(block());
    record.transitions.extend(steps(&[(v1::LeaseState::Ending, 60), (v1::LeaseState::Ended, 61)]));
    record.receipt = Some(proved());
    record
}

/// A lease that was adopted, of which neither owner nor role are known.
pub(crate) fn adopted() -> v1::LeaseRecord {
    let mut record = active();
    record.lease = record.lease.map(|lease| v1::Lease {
        job_id: String::new(),
        role: String::new(),
        service_account: String::new(),
        adopted: true,
        ..lease
    });
    record.tokens.clear();
    v1::LeaseRecord { caller: String::new(), job: None, ..record }
}

/// A strict lease.
pub(crate) fn strict() -> v1::LeaseRecord {
    let mut record = active();
    let binding = v1::LeaseBinding {
        namespace: "web".to_owned(),
        name: format!("{}-0", record.anchor),
        role_kind: "Role".to_owned(),
        role_name: "deployer".to_owned(),
    };
    record.lease = record.lease.map(|lease| v1::Lease {
        mode: v1::LeaseMode::Strict.into(),
        namespace: "shorepass-strict".to_owned(),
        service_account: record.anchor.clone(),
        bindings: vec![binding],
        ..lease
    });
    record
}

/// An unbound lease that was revoked while its token lives.
pub(crate) fn unbound() -> v1::LeaseRecord {
    let mut record = revoked();
    record.anchor = String::new();
    (record.receipt, record.pins) = (None, None);
    record.lease = record.lease.map(|lease| v1::Lease {
        id: "0198c5a2-8f7e-7cc0-b1d2-000000000009".to_owned(),
        mode: v1::LeaseMode::Unbound.into(),
        tokens_until: at(1_871),
        ..lease
    });
    record
}
