//! Things to record, for the tests of this crate: plain ones by number; any at all are in [`any`].

mod any;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use shorepass_core::ban::{Ban, Banned};
use shorepass_core::block::Block;
use shorepass_core::caller::{LeaseOwner, Owner, SpiffeId};
use shorepass_core::claims::{Claim, Claims};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{Enrolment, JoinToken, Life, Taken};
use shorepass_core::gives::{RbacName, RoleRef};
use shorepass_core::id::{BlockId, DecisionId, EnrolmentId, JobId, LeaseId, RequestId};
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::job::{AssertedJob, Evidence, Job, VerifiedJob};
use shorepass_core::job_issuer::System;
use shorepass_core::labels::Labels;
use shorepass_core::lease::{AnchorName, Binding, Lease, Mode, Pins, State};
use shorepass_core::ledger::{Change, MintedToken, Refusal, Revision};
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::policy::edition::Edition;
use shorepass_core::receipt::Control;
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_core::role::Target;
use shorepass_core::time::{Clock, Entropy, Timestamp};

use crate::{OnFailure, OpenError, Options, Store};

pub(crate) use self::any::any_change;

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
        job: Some(job(number).id),
        owner: owner().into(),
        role: Some(name("web-deployer")),
        role_digest: Digest::of_bytes(b"role"),
        target: Target {
            cluster: name("staging"),
            namespace: name("web"),
            service_account: "deployer".to_owned(),
        },
        audiences: None,
        anchor: AnchorName::from_random([number; 16]),
        mode: Mode::Bound,
        created: second(number.into()),
        deadline: second(i64::from(number) + 3600),
        state: State::Pending,
        receipt: None,
        policy: None,
        not_removed: None,
        revision: Revision::FIRST,
    }
}

/// The same, adopted from its anchor; neither owner nor role are known.
pub(crate) fn adopted(number: u8) -> Lease {
    let pins = Pins { anchor_uid: "anchor-uid".to_owned(), service_account_uid: String::new() };
    let lease = lease(number);
    Lease {
        job: None,
        owner: LeaseOwner::Digest(lease.owner.digest()),
        role: None,
        target: Target { service_account: String::new(), ..lease.target },
        state: State::Active { pins, since: second(7) },
        ..lease
    }
}

pub(crate) fn control(number: u8) -> Control {
    Control {
        anchor: AnchorName::from_random([number; 16]),
        cluster: name("staging"),
        namespace: name("web"),
        with_account: number.is_multiple_of(2),
        created: second(number.into()),
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

/// The same session, opened by a token; tokens of one number are the same token.
pub(crate) fn job_by_token(number: u8, token: u8) -> Job {
    let mut claims = Claims::default();
    claims.insert("project_id", Claim::Text("4711".to_owned())).unwrap();
    let verified = VerifiedJob {
        issuer: name("gitlab"),
        system: System::Gitlab,
        id: format!("{number}"),
        claims,
        replay: Digest::of_bytes(&[token, 77]),
        issued: second(number.into()),
        spent_until: second(i64::from(number) + 300),
    };
    Job { evidence: Evidence::Verified(verified), ..job(number) }
}

pub(crate) fn job_started_by_token(number: u8, token: u8) -> Change {
    let job = job_by_token(number, token);
    Change::JobStarted { request: request(number, Method::StartJob, Outcome::Job(job.id)), job }
}

pub(crate) fn lease_pending(number: u8) -> Change {
    lease_pending_in(number, Mode::Bound)
}

/// The same in another mode.
pub(crate) fn lease_pending_in(number: u8, mode: Mode) -> Change {
    let lease = Lease { mode, ..lease(number) };
    Change::LeasePending { request: request(number, Method::Issue, Outcome::Lease(lease.id)), lease }
}

/// Bound to a Role and a ClusterRole.
pub(crate) fn strict() -> Mode {
    let named = |text| RbacName::parse(text).unwrap();
    let roles = [RoleRef::Role(named("deployer")), RoleRef::ClusterRole(named("view"))];
    let binding =
        |(index, role)| Binding { namespace: name("web"), name: format!("b-{index}"), role: Some(role) };
    Mode::Strict { bindings: roles.into_iter().enumerate().map(binding).collect() }
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
        job: None,
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
        labels: Labels::parse(["env=prod"]).unwrap(),
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
    let id = EnrolmentId::generate(second(number.into()), &Seed::new(number));
    let life = Life { from: second(number.into()), until: second(i64::from(number) + 3600) };
    let labels = Labels::parse(["env=prod"]).unwrap();
    Enrolment::first(id, owner().spiffe_id, labels, Digest::of_bytes(&[number]), life)
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
        policy: Edition { digest: Digest::of_bytes(b"roles"), version: 3 },
        job: None,
        dry_run: None,
    };
    Change::Refused { refusal }
}
