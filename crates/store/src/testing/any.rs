//! Anything at all that can be recorded, for properties. No row knows of another.

use proptest::option;
use proptest::prelude::*;
use shorepass_core::audience::Audiences;
use shorepass_core::ban::{Ban, Banned};
use shorepass_core::block::{Block, Lifted};
use shorepass_core::caller::{LeaseOwner, Owner, SpiffeId};
use shorepass_core::claims::{Claim, Claims};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{CloneCause, Cloned, Enrolment, JoinToken, Origin, Taken};
use shorepass_core::gives::{RbacName, RoleRef};
use shorepass_core::id::{BlockId, EnrolmentId, JobId, LeaseId, RequestId};
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::job::{AssertedJob, Evidence, Job, SpentBy, SpentToken, VerifiedJob};
use shorepass_core::job_issuer::System;
use shorepass_core::labels::Labels;
use shorepass_core::lease::{Activation, AnchorName, Binding, EndCause, Lease, Mode, Pins, State};
use shorepass_core::ledger::{Change, MintedToken, Revision};
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::not_removed::NotRemoved;
use shorepass_core::pod::Pod;
use shorepass_core::policy::edition::Edition;
use shorepass_core::receipt::{Control, Death, Receipt, Unproved, Verdict, Why};
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_core::role::Target;
use shorepass_core::time::Timestamp;

use super::{Seed, name, refused, second};

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
    let asserted = ("[a-z]{1,10}", "[!-~]{1,40}", "|https://[!-~]{1,40}")
        .prop_map(|(system, id, url)| Evidence::Asserted(AssertedJob::new(system, id, url).unwrap()));
    let evidence = prop_oneof![asserted, any_verified_job().prop_map(Evidence::Verified)];
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

fn any_verified_job() -> impl Strategy<Value = VerifiedJob> {
    let claim = prop_oneof![
        ".{0,20}".prop_map(Claim::Text),
        any::<i64>().prop_map(Claim::Number),
        any::<bool>().prop_map(Claim::Flag),
        proptest::collection::vec("[a-z]{0,5}", 0..3).prop_map(Claim::Texts),
    ];
    let claims = proptest::collection::btree_map("[a-z_]{1,10}", claim, 0..5).prop_map(|all| {
        let mut claims = Claims::default();
        for (name, claim) in all {
            let _ = claims.insert(&name, claim); // what cannot be shown is no claim
        }
        claims
    });
    let system = (0..System::ALL.len()).prop_map(|index| System::ALL[index]);
    (any_name(), system, ".{1,20}", claims, any_digest(), (any_time(), any_time())).prop_map(
        |(issuer, system, id, claims, replay, (issued, spent_until))| VerifiedJob {
            issuer,
            system,
            id,
            claims,
            replay,
            issued,
            spent_until,
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
        Just(EndCause::EnrolmentCloned),
        Just(EndCause::Silence),
        Just(EndCause::RoleChanged),
        (any_spiffe_id(), any::<String>()).prop_map(|(by, reason)| EndCause::OwnerBanned { by, reason }),
    ]
}

fn any_activation() -> impl Strategy<Value = Activation> {
    (any::<String>(), any::<String>(), any_time()).prop_map(|(anchor_uid, service_account_uid, since)| {
        Activation { pins: Pins { anchor_uid, service_account_uid }, since }
    })
}

fn any_state() -> impl Strategy<Value = State> {
    let before = || option::of(any_activation());
    prop_oneof![
        Just(State::Pending),
        any_activation().prop_map(|Activation { pins, since }| State::Active { pins, since }),
        (before(), any_cause(), any_time()).prop_map(|(activation, cause, since)| State::Ending {
            activation,
            cause,
            since
        }),
        (before(), any_cause(), any_time(), any_time())
            .prop_map(|(activation, cause, since, gone)| State::Ended { activation, cause, since, gone }),
    ]
}

fn any_receipt() -> impl Strategy<Value = Receipt> {
    let death = || {
        (any_time(), any_time(), any_time()).prop_map(|(refused, observed_at, dead_by)| Death {
            refused,
            observed_at,
            dead_by,
        })
    };
    let unproved = (proptest::sample::select(&Why::ALL[..]), any::<String>());
    let verdict = prop_oneof![
        death().prop_map(Verdict::Proved),
        death().prop_map(Verdict::Assumed),
        unproved.prop_map(|(why, detail)| Verdict::Unproved(Unproved { why, detail })),
    ];
    let texts = || proptest::collection::vec(any::<String>(), 0..3);
    (verdict, texts(), texts(), any_time()).prop_map(|(verdict, endpoints, canaries, made)| Receipt {
        verdict,
        endpoints,
        canaries,
        made,
    })
}

fn any_control() -> impl Strategy<Value = Control> {
    (any::<[u8; 16]>(), any_name(), any_name(), any::<bool>(), any_time()).prop_map(
        |(anchor, cluster, namespace, with_account, created)| Control {
            anchor: AnchorName::from_random(anchor),
            cluster,
            namespace,
            with_account,
            created,
        },
    )
}

fn any_mode() -> impl Strategy<Value = Mode> {
    let role = ("[a-zA-Z0-9:]{1,20}", any::<bool>()).prop_map(|(text, of_cluster)| {
        let name = RbacName::parse(&text).unwrap();
        if of_cluster { RoleRef::ClusterRole(name) } else { RoleRef::Role(name) }
    });
    let binding = (any_name(), any::<String>(), option::of(role))
        .prop_map(|(namespace, name, role)| Binding { namespace, name, role });
    prop_oneof![
        Just(Mode::Bound),
        prop::collection::vec(binding, 0..4).prop_map(|bindings| Mode::Strict { bindings }),
        option::of(any_time()).prop_map(|tokens_until| Mode::Unbound { tokens_until }),
    ]
}

/// Whose a lease is and where it comes from: all of that is known of one that was granted.
fn any_origin() -> impl Strategy<Value = (Option<JobId>, LeaseOwner, Option<Name>)> {
    let owner = || any_owner().prop_map(LeaseOwner::Known);
    let granted = (any_id!(JobId).prop_map(Some), owner(), any_name().prop_map(Some));
    let unknown = prop_oneof![owner(), any_digest().prop_map(LeaseOwner::Digest)];
    prop_oneof![granted, (Just(None), unknown, option::of(any_name()))]
}

fn any_not_removed() -> impl Strategy<Value = Option<NotRemoved>> {
    (prop::collection::vec(any::<String>(), 0..4), any::<u32>())
        .prop_map(|(named, others)| NotRemoved::recorded(named, others))
}

fn any_audiences() -> impl Strategy<Value = Option<Audiences>> {
    let named = proptest::collection::btree_set("[-A-Za-z0-9._~:/?#@!&()*+,;=%]{1,40}", 1..=4);
    option::of(named)
        .prop_map(|named| named.and_then(|named| Audiences::new(named.into_iter().collect()).ok()))
}

fn any_lease() -> impl Strategy<Value = Lease> {
    let target = (any_name(), any_name(), any::<String>())
        .prop_map(|(cluster, namespace, service_account)| Target { cluster, namespace, service_account });
    let ids = (any_id!(LeaseId), any_origin(), any::<[u8; 16]>(), any_mode());
    let edition = option::of((any_digest(), any::<u64>()));
    let policy = edition.prop_map(|edition| edition.map(|(digest, version)| Edition { digest, version }));
    let role = (any_digest(), policy, target, any_audiences());
    let ends = (option::of(any_receipt()), any_not_removed());
    let life = (any_time(), any_time(), any_state(), ends, any_revision());
    (ids, role, life).prop_map(
        |(
            (id, (job, owner, role), anchor, mode),
            (role_digest, policy, target, audiences),
            (created, deadline, state, (receipt, not_removed), revision),
        )| {
            Lease {
                id,
                job,
                owner,
                role,
                role_digest,
                policy,
                target,
                audiences,
                anchor: AnchorName::from_random(anchor),
                mode,
                created,
                deadline,
                state,
                receipt: receipt.map(Box::new),
                not_removed: not_removed.map(Box::new),
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
    let what = (any_id!(BlockId), any_spiffe_id(), any_name(), any_id!(LeaseId), option::of(any_id!(JobId)));
    let why = (any_time(), any_time(), any_spiffe_id(), any::<String>());
    (what, why, option::of(lifted), any_revision()).prop_map(
        |((id, caller, role, lease, job), (set, until, by, reason), lifted, revision)| Block {
            job,
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

fn any_labels() -> impl Strategy<Value = Labels> {
    let pair = ("[a-z]{1,9}([./][a-z]{1,9})?", "[a-zA-Z0-9]([a-zA-Z0-9._-]{0,9}[a-zA-Z0-9])?");
    prop::collection::btree_map(pair.0, pair.1, 0..4).prop_map(|pairs| Labels::new(pairs).unwrap())
}

fn any_join_token() -> impl Strategy<Value = JoinToken> {
    let taken = (any_time(), any_id!(EnrolmentId), any_digest()).prop_map(|(at, enrolment, key)| Taken {
        at,
        enrolment,
        key,
    });
    let runners = ("[a-z]{3,10}[*]?".prop_map(|text| NamePattern::parse(&text).unwrap()), any_labels());
    let when = (any_time(), any_time(), any_spiffe_id());
    (any_digest(), runners, any::<bool>(), when, option::of(taken), any_revision()).prop_map(
        |(digest, (runners, labels), replace, (created, expires, by), taken, revision)| JoinToken {
            digest,
            runners,
            labels,
            replace,
            created,
            expires,
            by,
            taken,
            revision,
        },
    )
}

fn any_cloned() -> impl Strategy<Value = Cloned> {
    let cause = prop_oneof![Just(CloneCause::Used), Just(CloneCause::Renewed)];
    (any_time(), cause, any_digest()).prop_map(|(at, cause, certificate)| Cloned { at, cause, certificate })
}

fn any_spent() -> impl Strategy<Value = SpentToken> {
    (any_digest(), any_id!(EnrolmentId), any_time()).prop_map(|(replay, enrolment, until)| SpentToken {
        replay,
        by: SpentBy::Enrolment(enrolment),
        until,
    })
}

fn any_enrolment_origin() -> impl Strategy<Value = Origin> {
    let pod = (any_name(), any_name(), any::<String>(), any::<String>());
    let pod =
        pod.prop_map(|(cluster, namespace, name, uid)| Origin::Pod(Pod { cluster, namespace, name, uid }));
    let token = (any_name(), any::<String>()).prop_map(|(issuer, subject)| Origin::Token { issuer, subject });
    prop_oneof![pod, token]
}

fn any_enrolment() -> impl Strategy<Value = Enrolment> {
    let times = (any_time(), any_time(), option::of(any_time()));
    let lineage = (any::<u64>(), option::of(any_digest()), option::of(any_time()), option::of(any_cloned()));
    let what = (
        any_id!(EnrolmentId),
        any_spiffe_id(),
        any_digest(),
        any_labels(),
        option::of(any_enrolment_origin()),
    );
    (what, lineage, times, any_revision()).prop_map(
        |(
            (id, spiffe_id, key, labels, origin),
            (generation, next, followed, cloned),
            (created, certificate_expires, replaced),
            revision,
        )| Enrolment {
            id,
            spiffe_id,
            key,
            labels,
            created,
            certificate_expires,
            replaced,
            generation,
            next,
            followed,
            cloned,
            origin,
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

/// Any change, with any rows.
pub(crate) fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any_job(), any_request()).prop_map(|(job, request)| Change::JobStarted { job, request }),
        any_job().prop_map(|job| Change::JobEnded { job }),
        (any_lease(), any_request()).prop_map(|(lease, request)| Change::LeasePending { lease, request }),
        any_lease().prop_map(|lease| Change::LeaseActive { lease }),
        any_lease().prop_map(|lease| Change::LeaseAdopted { lease }),
        (any_lease(), any_time()).prop_map(|(lease, at)| Change::LeaseRecognised { lease, at }),
        (any_token(), any_owner()).prop_map(|(token, owner)| Change::TokenMinted { token, owner }),
        any_lease().prop_map(|lease| Change::LeaseEnding { lease }),
        any_lease().prop_map(|lease| Change::LeaseEnded { lease }),
        any_lease().prop_map(|lease| Change::LeaseReceipt { lease }),
        any_control().prop_map(|control| Change::ControlPlanned { control }),
        (any_control(), any_time()).prop_map(|(control, at)| Change::ControlGone { control, at }),
        any_block().prop_map(|block| Change::BlockSet { block }),
        any_block().prop_map(|block| Change::BlockLifted { block }),
        (any_join_token(), any_request())
            .prop_map(|(join_token, request)| Change::JoinTokenCreated { join_token, request }),
        any_join_token().prop_map(|join_token| Change::JoinTokenTaken { join_token }),
        (any_spent(), any_time()).prop_map(|(spent, at)| Change::EnrolmentTokenTaken { spent, at }),
        any_enrolment().prop_map(|enrolment| Change::Enrolled { enrolment }),
        (any_enrolment(), any_time()).prop_map(|(enrolment, at)| Change::Renewed { enrolment, at }),
        any_enrolment().prop_map(|enrolment| Change::EnrolmentReplaced { enrolment }),
        (any_enrolment(), any_time()).prop_map(|(enrolment, at)| Change::RenewalUsed { enrolment, at }),
        (any_enrolment(), any_time()).prop_map(|(enrolment, at)| Change::Rejoined { enrolment, at }),
        any_enrolment().prop_map(|enrolment| Change::EnrolmentCloned { enrolment }),
        any_identity().prop_map(|identity| Change::IdentityCreated { identity }),
        any_ban().prop_map(|ban| Change::BanSet { ban }),
        any_ban().prop_map(|ban| Change::BanLifted { ban }),
        Just(()).prop_map(|()| refused()),
    ]
}
