//! Things to record, for the tests of this crate: plain ones by number, and any at all for properties.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use proptest::option;
use proptest::prelude::*;
use shorepass_core::ban::{Ban, Banned};
use shorepass_core::block::{Block, Lifted};
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{Enrolment, JoinToken, Taken};
use shorepass_core::id::{BlockId, DecisionId, EnrolmentId, JobId, LeaseId, RequestId};
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::job::{AssertedJob, Evidence, Job};
use shorepass_core::lease::{AnchorName, EndCause, Lease, Pins, State};
use shorepass_core::ledger::{Change, MintedToken, Refusal, Revision};
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_core::role::Target;
use shorepass_core::time::{Clock, Entropy, Timestamp};

use crate::{OnFailure, OpenError, Options, Store};

/// Entropy that gives the same bytes for the same seed.
pub(crate) struct Seed(AtomicU8);

impl Seed {
    pub(crate) fn new(seed: u8) -> Self {
        Self(AtomicU8::new(seed))
    }
}

impl Entropy for Seed {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed));
    }
}

/// A clock that stands still.
pub(crate) struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        second(0)
    }

    fn since_boot(&self) -> Duration {
        Duration::ZERO
    }
}

/// The ledger in that directory, which stays closed when its records are lost.
pub(crate) fn open(directory: &Path) -> Result<Store, OpenError> {
    open_with(directory, Options { on_failure: OnFailure::Stop, retention: None })
}

/// The same, kept otherwise.
pub(crate) fn open_with(directory: &Path, options: Options) -> Result<Store, OpenError> {
    Store::open(directory, options, Arc::new(Still), Arc::new(Seed::new(1)))
}

pub(crate) fn second(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn owner() -> Owner {
    Owner {
        spiffe_id: SpiffeId::parse("spiffe://ci.example.org/runner/prod-1").unwrap(),
        enrolment: EnrolmentId::generate(second(0), &Seed::new(0)),
    }
}

pub(crate) fn job(number: u8) -> Job {
    let asserted = AssertedJob::new("jenkins".to_owned(), format!("build/{number}"), String::new());
    Job {
        id: JobId::generate(second(number.into()), &Seed::new(number.wrapping_add(100))),
        owner: owner(),
        evidence: Evidence::Asserted(asserted.unwrap()),
        started: second(number.into()),
        latest_end: None,
        ended: None,
        revision: Revision::FIRST,
    }
}

pub(crate) fn lease(number: u8) -> Lease {
    Lease {
        id: LeaseId::generate(second(number.into()), &Seed::new(number)),
        job: job(number).id,
        owner: owner(),
        role: name("web-deployer"),
        role_digest: Digest::of_bytes(b"role"),
        target: Target {
            cluster: name("staging"),
            namespace: name("web"),
            service_account: "deployer".to_owned(),
        },
        anchor: AnchorName::from_random([number; 16]),
        created: second(number.into()),
        deadline: second(i64::from(number) + 3600),
        state: State::Pending,
        revision: Revision::FIRST,
    }
}

pub(crate) fn request(number: u8, method: Method, outcome: Outcome) -> Request {
    let id = RequestId::generate(second(number.into()), &Seed::new(number));
    let job = (method == Method::Issue).then(|| job(number).id);
    Request { owner: owner(), job, method, id, content: Digest::of_bytes(&[number]), outcome }
}

pub(crate) fn job_started(number: u8) -> Change {
    let job = job(number);
    Change::JobStarted { request: request(number, Method::StartJob, Outcome::Job(job.id)), job }
}

pub(crate) fn lease_pending(number: u8) -> Change {
    let lease = lease(number);
    Change::LeasePending { request: request(number, Method::Issue, Outcome::Lease(lease.id)), lease }
}

pub(crate) fn pins() -> Pins {
    Pins { anchor_uid: "anchor-uid".to_owned(), service_account_uid: "account-uid".to_owned() }
}

/// The `index`th token of the lease with that number.
pub(crate) fn token(number: u8, index: u8) -> MintedToken {
    MintedToken {
        jti: format!("jti-{number}-{index}"),
        lease: lease(number).id,
        fingerprint: Digest::of_bytes(&[number, index]),
        issued: second(index.into()),
        expires: second(i64::from(index) + 600),
        recorded: second(index.into()),
    }
}

pub(crate) fn token_minted(number: u8, index: u8) -> Change {
    Change::TokenMinted { token: token(number, index), owner: owner() }
}

pub(crate) fn operator() -> SpiffeId {
    SpiffeId::parse("spiffe://ci.example.org/operator/alice").unwrap()
}

/// Set at second 0, until the lease's deadline.
pub(crate) fn block(number: u8) -> Block {
    Block {
        id: BlockId::generate(second(number.into()), &Seed::new(number)),
        caller: owner().spiffe_id,
        role: name("web-deployer"),
        set: second(0),
        until: lease(number).deadline,
        by: operator(),
        reason: "leaked".to_owned(),
        lease: lease(number).id,
        lifted: None,
        revision: Revision::FIRST,
    }
}

/// Set at second 5.
pub(crate) fn ban(banned: Banned) -> Ban {
    let reason = "stolen".to_owned();
    Ban { banned, set: second(5), by: operator(), reason, lifted: None, revision: Revision::FIRST }
}

pub(crate) fn join_token(number: u8) -> JoinToken {
    JoinToken {
        digest: Digest::of_bytes(&[number]),
        runners: NamePattern::parse("prod-*").unwrap(),
        replace: false,
        created: second(0),
        expires: second(3600),
        by: operator(),
        taken: None,
        revision: Revision::FIRST,
    }
}

pub(crate) fn join_token_created(number: u8) -> Change {
    let join_token = join_token(number);
    let outcome = Outcome::JoinToken(join_token.digest);
    Change::JoinTokenCreated { request: request(number, Method::CreateJoinToken, outcome), join_token }
}

pub(crate) fn join_token_taken(number: u8, by: u8) -> Change {
    let taken = Taken { at: second(1), enrolment: enrolment(by).id, key: Digest::of_bytes(&[by]) };
    Change::JoinTokenTaken { join_token: join_token(number).take(taken) }
}

/// Of the same runner, whatever the number; its certificate ends an hour later.
pub(crate) fn enrolment(number: u8) -> Enrolment {
    Enrolment {
        id: EnrolmentId::generate(second(number.into()), &Seed::new(number)),
        spiffe_id: owner().spiffe_id,
        key: Digest::of_bytes(&[number]),
        created: second(number.into()),
        certificate_expires: second(i64::from(number) + 3600),
        replaced: None,
        revision: Revision::FIRST,
    }
}

pub(crate) fn enrolled(number: u8) -> Change {
    Change::Enrolled { enrolment: enrolment(number) }
}

pub(crate) fn identity(number: u8) -> CreatedIdentity {
    CreatedIdentity {
        certificate: Digest::of_bytes(&[number]),
        owner: Owner { spiffe_id: operator(), ..owner() },
        created: second(number.into()),
        expires: second(i64::from(number) + 3600),
        uid: 1000,
        line_end: 300 * u64::from(number),
    }
}

pub(crate) fn identity_created(number: u8) -> Change {
    Change::IdentityCreated { identity: identity(number) }
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(|time| Timestamp::from_nanosecond(time.into()).unwrap())
}

macro_rules! any_id {
    ($type:ident) => {
        (any::<u8>(), 0_i64..1_000_000).prop_map(|(seed, at)| $type::generate(second(at), &Seed::new(seed)))
    };
}

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn any_name() -> impl Strategy<Value = Name> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|text| name(&text))
}

fn any_spiffe_id() -> impl Strategy<Value = SpiffeId> {
    "spiffe://[a-z0-9._-]{1,20}/(runner|platform|operator)/[a-z0-9]{1,20}"
        .prop_map(|text| SpiffeId::parse(&text).unwrap())
}

fn any_owner() -> impl Strategy<Value = Owner> {
    (any_spiffe_id(), any_id!(EnrolmentId)).prop_map(|(spiffe_id, enrolment)| Owner { spiffe_id, enrolment })
}

fn any_revision() -> impl Strategy<Value = Revision> {
    (1..u64::MAX).prop_map(Revision::from_number)
}

fn any_job() -> impl Strategy<Value = Job> {
    let evidence = ("[a-z]{1,10}", "[!-~]{1,40}", "|https://[!-~]{1,40}")
        .prop_map(|(system, id, url)| Evidence::Asserted(AssertedJob::new(system, id, url).unwrap()));
    let times = (any_time(), option::of(any_time()), option::of(any_time()));
    (any_id!(JobId), any_owner(), evidence, times, any_revision()).prop_map(
        |(id, owner, evidence, (started, latest_end, ended), revision)| Job {
            id,
            owner,
            evidence,
            started,
            latest_end,
            ended,
            revision,
        },
    )
}

fn any_cause() -> impl Strategy<Value = EndCause> {
    prop_oneof![
        Just(EndCause::Released),
        Just(EndCause::JobEnded),
        (any_spiffe_id(), any::<String>()).prop_map(|(by, reason)| EndCause::Revoked { by, reason }),
        Just(EndCause::Deadline),
        Just(EndCause::Abandoned),
        Just(EndCause::AnchorLost),
        Just(EndCause::ServiceAccountReplaced),
        Just(EndCause::EnrolmentReplaced),
        Just(EndCause::Silence),
        (any_spiffe_id(), any::<String>()).prop_map(|(by, reason)| EndCause::OwnerBanned { by, reason }),
    ]
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Pending),
        (any::<String>(), any::<String>(), any_time()).prop_map(
            |(anchor_uid, service_account_uid, since)| {
                State::Active { pins: Pins { anchor_uid, service_account_uid }, since }
            }
        ),
        (any_cause(), any_time()).prop_map(|(cause, since)| State::Ending { cause, since }),
        (any_cause(), any_time(), any_time()).prop_map(|(cause, since, gone)| State::Ended {
            cause,
            since,
            gone
        }),
    ]
}

fn any_lease() -> impl Strategy<Value = Lease> {
    let target = (any_name(), any_name(), any::<String>())
        .prop_map(|(cluster, namespace, service_account)| Target { cluster, namespace, service_account });
    let ids = (any_id!(LeaseId), any_id!(JobId), any_owner(), any::<[u8; 16]>());
    let role = (any_name(), any_digest(), target);
    let life = (any_time(), any_time(), any_state(), any_revision());
    (ids, role, life).prop_map(
        |((id, job, owner, anchor), (role, role_digest, target), (created, deadline, state, revision))| {
            Lease {
                id,
                job,
                owner,
                role,
                role_digest,
                target,
                anchor: AnchorName::from_random(anchor),
                created,
                deadline,
                state,
                revision,
            }
        },
    )
}

fn any_request() -> impl Strategy<Value = Request> {
    let method = prop_oneof![Just(Method::StartJob), Just(Method::Issue), Just(Method::CreateJoinToken)];
    let outcome = prop_oneof![
        any_id!(JobId).prop_map(Outcome::Job),
        any_id!(LeaseId).prop_map(Outcome::Lease),
        any_digest().prop_map(Outcome::JoinToken),
    ];
    (any_owner(), option::of(any_id!(JobId)), method, any_id!(RequestId), any_digest(), outcome).prop_map(
        |(owner, job, method, id, content, outcome)| Request { owner, job, method, id, content, outcome },
    )
}

fn any_token() -> impl Strategy<Value = MintedToken> {
    let times = (any_time(), any_time(), any_time());
    (any::<String>(), any_id!(LeaseId), any_digest(), times).prop_map(
        |(jti, lease, fingerprint, (issued, expires, recorded))| MintedToken {
            jti,
            lease,
            fingerprint,
            issued,
            expires,
            recorded,
        },
    )
}

fn any_block() -> impl Strategy<Value = Block> {
    let lifted = (any_time(), any_spiffe_id()).prop_map(|(at, by)| Lifted { at, by });
    let what = (any_id!(BlockId), any_spiffe_id(), any_name(), any_id!(LeaseId));
    let why = (any_time(), any_time(), any_spiffe_id(), any::<String>());
    (what, why, option::of(lifted), any_revision()).prop_map(
        |((id, caller, role, lease), (set, until, by, reason), lifted, revision)| Block {
            id,
            caller,
            role,
            set,
            until,
            by,
            reason,
            lease,
            lifted,
            revision,
        },
    )
}

fn any_ban() -> impl Strategy<Value = Ban> {
    let lifted = (any_time(), any_spiffe_id()).prop_map(|(at, by)| Lifted { at, by });
    let banned = prop_oneof![any_spiffe_id().prop_map(Banned::Name), any_owner().prop_map(Banned::Enrolment)];
    (banned, any_time(), any_spiffe_id(), any::<String>(), option::of(lifted), any_revision()).prop_map(
        |(banned, set, by, reason, lifted, revision)| Ban { banned, set, by, reason, lifted, revision },
    )
}

fn any_join_token() -> impl Strategy<Value = JoinToken> {
    let taken = (any_time(), any_id!(EnrolmentId), any_digest()).prop_map(|(at, enrolment, key)| Taken {
        at,
        enrolment,
        key,
    });
    let runners = "[a-z]{3,10}[*]?".prop_map(|text| NamePattern::parse(&text).unwrap());
    let when = (any_time(), any_time(), any_spiffe_id());
    (any_digest(), runners, any::<bool>(), when, option::of(taken), any_revision()).prop_map(
        |(digest, runners, replace, (created, expires, by), taken, revision)| JoinToken {
            digest,
            runners,
            replace,
            created,
            expires,
            by,
            taken,
            revision,
        },
    )
}

fn any_enrolment() -> impl Strategy<Value = Enrolment> {
    let times = (any_time(), any_time(), option::of(any_time()));
    (any_id!(EnrolmentId), any_spiffe_id(), any_digest(), times, any_revision()).prop_map(
        |(id, spiffe_id, key, (created, certificate_expires, replaced), revision)| Enrolment {
            id,
            spiffe_id,
            key,
            created,
            certificate_expires,
            replaced,
            revision,
        },
    )
}

fn any_identity() -> impl Strategy<Value = CreatedIdentity> {
    let times = (any_time(), any_time());
    (any_digest(), any_owner(), times, any::<u32>(), any::<u64>()).prop_map(
        |(certificate, owner, (created, expires), uid, line_end)| CreatedIdentity {
            certificate,
            owner,
            created,
            expires,
            uid,
            line_end,
        },
    )
}

/// A refused request.
pub(crate) fn refused() -> Change {
    let decision = DecisionId::generate(second(0), &Seed::new(0));
    let refusal = Refusal {
        decision,
        at: second(0),
        caller: Some(owner().spiffe_id),
        method: "Issue",
        reason: "ROLE_NOT_AVAILABLE",
        subject: "web-deployer".to_owned(),
        explanation: "there is no role web-deployer".to_owned(),
    };
    Change::Refused { refusal }
}

/// Any change, with any rows.
pub(crate) fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any_job(), any_request()).prop_map(|(job, request)| Change::JobStarted { job, request }),
        any_job().prop_map(|job| Change::JobEnded { job }),
        (any_lease(), any_request()).prop_map(|(lease, request)| Change::LeasePending { lease, request }),
        any_lease().prop_map(|lease| Change::LeaseActive { lease }),
        (any_token(), any_owner()).prop_map(|(token, owner)| Change::TokenMinted { token, owner }),
        any_lease().prop_map(|lease| Change::LeaseEnding { lease }),
        any_lease().prop_map(|lease| Change::LeaseEnded { lease }),
        any_block().prop_map(|block| Change::BlockSet { block }),
        any_block().prop_map(|block| Change::BlockLifted { block }),
        (any_join_token(), any_request())
            .prop_map(|(join_token, request)| Change::JoinTokenCreated { join_token, request }),
        any_join_token().prop_map(|join_token| Change::JoinTokenTaken { join_token }),
        any_enrolment().prop_map(|enrolment| Change::Enrolled { enrolment }),
        (any_enrolment(), any_time()).prop_map(|(enrolment, at)| Change::Renewed { enrolment, at }),
        any_enrolment().prop_map(|enrolment| Change::EnrolmentReplaced { enrolment }),
        any_identity().prop_map(|identity| Change::IdentityCreated { identity }),
        any_ban().prop_map(|ban| Change::BanSet { ban }),
        any_ban().prop_map(|ban| Change::BanLifted { ban }),
        Just(()).prop_map(|()| refused()),
    ]
}
