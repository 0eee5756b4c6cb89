//! Callers of trust bundles: what they may do without an enrolment, whose leases are theirs, and a file that changes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use shorepass_config::issuer::TrustBundleConfig;
use shorepass_core::ban::BanKey;
use shorepass_core::caller::Kind;
use shorepass_core::job::VerifiedJob;
use shorepass_core::job_token::JobToken;
use shorepass_core::trust_bundle::{PathPrefix, TrustBundle};
use shorepass_daemon::admin::Readiness;
use shorepass_rpc::api::{Administration as _, Enrolments as _};
use shorepass_testing::job_tokens;
use shorepass_testing::openssl::OpensslCa;

use super::*;
use crate::trust_bundles::TrustBundles;

/// The trust bundles of all issuers here: nobody's CA is read before a test does it.
pub(super) fn bundles() -> Vec<TrustBundle> {
    let prefixes = ["/platform/", "/runner/", "/operator/"].map(|text| PathPrefix::parse(text).unwrap());
    let bundle = |bundle: &str| {
        let domain = TrustDomain::parse(&format!("{bundle}.example.org")).unwrap();
        let kinds = vec![Kind::Platform, Kind::Runner, Kind::Operator];
        TrustBundle::new(name(bundle), domain, kinds, prefixes.to_vec()).unwrap()
    };
    vec![bundle("spire"), bundle("partner")]
}

/// A bundle's file, and the task that reads it.
struct Watched {
    bench: Bench,
    task: TrustBundles,
    readiness: Readiness,
    file: PathBuf,
    ca: OpensslCa,
}

impl Watched {
    /// Read once.
    async fn new() -> Self {
        let bench = Bench::new();
        let file = bench.state.path().join("spire.pem");
        let ca = OpensslCa::root("spire", bench.clock.now());
        std::fs::write(&file, ca.certificate_pem()).unwrap();
        let configured = [TrustBundleConfig { bundle: bundles().remove(0), file: file.clone() }];
        let readiness = Readiness::new();
        let condition = readiness.condition("trust-bundles");
        let task = TrustBundles::new(&configured, bench.use_cases.outside.clone(), condition);
        let mut watched = Self { bench, task, readiness, file, ca };
        watched.task.look().await;
        watched
    }

    async fn write(&mut self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
        self.task.look().await;
    }

    /// Whoever has a certificate that this CA has signed.
    fn caller(&self, id: &str, ca: &OpensslCa) -> Caller {
        let spiffe_id = SpiffeId::parse(&format!("spiffe://spire.example.org/{id}")).unwrap();
        Caller::from_verified_peer(VerifiedPeer {
            enrolment: bundles()[0].enrolment_of(&spiffe_id),
            spiffe_id,
            authority: key_of(ca),
            issued: self.bench.clock.now(),
            expires: after(self.bench.clock.now(), Duration::from_secs(3600)),
            certificate: Digest::of_bytes(id.as_bytes()),
            key: Digest::of_bytes(b"key"),
        })
    }

    fn told(&self) -> String {
        self.readiness.remarks().into_iter().map(|(_, remark)| remark).collect::<Vec<_>>().join("\n")
    }
}

/// SHA-256 of the CA's public key (SubjectPublicKeyInfo, DER).
fn key_of(ca: &OpensslCa) -> Digest {
    shorepass_tls::PrivateKey::parse(ca.key_pem().as_bytes()).unwrap().digest()
}

#[tokio::test]
async fn a_runner_of_a_trust_bundle_is_admitted_without_an_enrolment_and_renews_elsewhere() {
    let watched = Watched::new().await;
    let use_cases = &watched.bench.use_cases;
    for id in ["runner/prod-1", "platform/portal", "operator/alice"] {
        let caller = watched.caller(id, &watched.ca);
        assert!(use_cases.admit(&caller).await.is_ok(), "{id}");
        assert!(use_cases.check_enrolment(&caller).is_ok(), "{id}");
    }
    let runner = watched.caller("runner/prod-1", &watched.ca);
    let refused = use_cases.renew(&runner, b"request".to_vec()).await.err().unwrap();
    assert_eq!(refused.reason, Reason::CallerKind);
    assert!(refused.message.contains("is renewed by the PKI that made it"), "{}", refused.message);
}

#[tokio::test]
async fn a_role_for_runners_of_ours_is_not_for_one_of_the_same_name_elsewhere() {
    let watched = Watched::new().await;
    let bench = &watched.bench;
    let runner = watched.caller("runner/prod-1", &watched.ca);
    let job = bench.job(&runner).await;
    assert_eq!(reason(bench.issue(&runner, &job, bench.request()).await), Reason::RoleNotAvailable);
}

#[tokio::test]
async fn a_token_whose_audience_names_a_runner_of_ours_is_not_for_another_of_that_name() {
    let watched = Watched::new().await;
    let bench = &watched.bench;
    for (caller, admitted) in [
        (watched.caller("runner/prod-1", &watched.ca), false),
        (bench.caller("platform/prod-1"), false),
        (bench.caller("runner/prod-1"), true),
    ] {
        let verified = job_tokens::verified(&jobs::by_audience(), "main", bench.clock.now(), &[]);
        bench.tokens.put("main", Ok(VerifiedJob { issuer: name("by-audience"), ..verified }));
        let shown = Presented::Token(JobToken::new("main".to_owned()));
        let opened = bench.use_cases.start_job(&caller, bench.request(), shown, None).await;
        match admitted {
            true => assert!(opened.is_ok()),
            false => assert_eq!(reason(opened), Reason::JobTokenRejected),
        }
    }
}

#[tokio::test]
async fn what_one_caller_of_a_bundle_has_is_nobody_elses() {
    let watched = Watched::new().await;
    let bench = &watched.bench;
    let runner = watched.caller("runner/prod-1", &watched.ca);
    let job = bench.job(&runner).await;
    let own = bench.caller("runner/prod-1");
    // The same name by another bundle, as after the configuration has changed.
    let renamed = Caller::from_verified_peer(VerifiedPeer {
        spiffe_id: runner.spiffe_id().clone(),
        enrolment: EnrolmentId::of_bundle(&name("other"), runner.spiffe_id()),
        authority: runner.authority(),
        issued: runner.issued(),
        expires: runner.expires(),
        certificate: runner.certificate(),
        key: runner.key(),
    });
    for other in [own, renamed] {
        let ended = bench.use_cases.end_job(&other, job.id).await;
        assert_eq!(reason(ended), Reason::JobNotAvailable, "{}", other.spiffe_id());
    }
    assert!(bench.use_cases.end_job(&runner, job.id).await.is_ok());
}

#[tokio::test]
async fn a_ban_of_its_spiffe_id_holds_for_whoever_another_pki_vouches_for() {
    let watched = Watched::new().await;
    let bench = &watched.bench;
    let portal = watched.caller("platform/portal", &watched.ca);
    let ban = |id: &str| {
        let whom = BanKey::Name(SpiffeId::parse(id).unwrap());
        let (use_cases, operator) = (bench.use_cases.clone(), bench.operator());
        async move { use_cases.ban(&operator, whom, "stolen".to_owned()).await }
    };
    let refused = ban("spiffe://nobody.example.org/platform/portal").await.err().unwrap();
    assert!(
        refused.message.contains("than ci.example.org and partner.example.org and spire.example.org"),
        "{}",
        refused.message
    );
    ban(&portal.spiffe_id().to_string()).await.unwrap();
    assert_eq!(reason(bench.use_cases.admit(&portal).await), Reason::Banned);
}

#[tokio::test]
async fn a_bad_or_empty_file_keeps_the_cas_that_were_read_last_and_says_so() {
    let mut watched = Watched::new().await;
    let portal = watched.caller("platform/portal", &watched.ca);
    let good = watched.ca.certificate_pem().to_owned();
    for bad in ["", "nothing", &good[..good.len() / 2], &"x".repeat(1024 * 1024 + 1)] {
        watched.write(bad).await;
        assert!(watched.bench.use_cases.check_enrolment(&portal).is_ok());
        let told = watched.told();
        assert!(
            told.contains("trust bundle spire does not load, the CAs that were read last stay"),
            "{told}"
        );
        watched.write(&good).await;
        assert!(!watched.told().contains("does not load"), "{}", watched.told());
    }
    std::fs::set_permissions(&watched.file, std::fs::Permissions::from_mode(0o666)).unwrap();
    watched.task.look().await;
    assert!(watched.told().contains("can be written by others (mode 666)"), "{}", watched.told());
    std::fs::remove_file(&watched.file).unwrap();
    watched.task.look().await;
    assert!(watched.told().contains("cannot read"), "{}", watched.told());
    assert!(watched.bench.use_cases.check_enrolment(&portal).is_ok());
}

#[tokio::test]
async fn a_ca_that_is_taken_out_ends_the_calls_of_its_callers_and_of_nobody_else() {
    let mut watched = Watched::new().await;
    let next = OpensslCa::root("spire", watched.bench.clock.now());
    watched.write(&format!("{}{}", watched.ca.certificate_pem(), next.certificate_pem())).await;
    let (old, new) =
        (watched.caller("platform/portal", &watched.ca), watched.caller("platform/portal", &next));
    let check = |watched: &Watched, caller: &Caller| watched.bench.use_cases.check_enrolment(caller);
    assert!(check(&watched, &old).is_ok() && check(&watched, &new).is_ok());
    watched.write(next.certificate_pem()).await;
    let refused = check(&watched, &old).err().unwrap();
    assert_eq!(refused.reason, Reason::CertificateExpired);
    assert!(refused.message.contains("is not trusted here any more"), "{}", refused.message);
    assert!(check(&watched, &new).is_ok());
    assert!(check(&watched, &watched.bench.operator()).is_ok());
}
