//! Certificates of other PKIs, made by openssl: whom a trust bundle lets in, and what leads nowhere.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{AlertDescription, RootCertStore};
use shorepass_core::caller::{Caller, Kind, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::time::Entropy;
use shorepass_core::trust_bundle::{PathPrefix, TrustBundle};
use shorepass_testing::certificates::{Pair, Subject, TestCa};
use shorepass_testing::openssl::{Leaf, OpensslCa};
use shorepass_tls::{Authority, Connector, CurrentIdentity, HandshakeError, Serving, Trust};

use crate::support::*;

const PORTAL: &str = "URI:spiffe://spire.example.org/platform/portal";

fn bundle(name: &str, kinds: &[Kind], prefixes: &[&str]) -> TrustBundle {
    let prefixes = prefixes.iter().map(|text| PathPrefix::parse(text).unwrap()).collect();
    let domain = TrustDomain::parse(&format!("{name}.example.org")).unwrap();
    TrustBundle::new(named(name), domain, kinds.to_vec(), prefixes).unwrap()
}

fn named(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// An issuer that trusts its own CA and two others.
struct Stage {
    own: TestCa,
    spire: OpensslCa,
    partner: OpensslCa,
    trust: Arc<Trust>,
    listening: Listening,
}

impl Stage {
    async fn new() -> Self {
        let own = TestCa::new(&trust_domain());
        let bundles = vec![
            bundle("spire", &[Kind::Platform, Kind::Runner], &["/platform/", "/runner/prod-"]),
            bundle("partner", &[Kind::Operator], &["/operator/alice"]),
        ];
        let trust = Trust::new(trust_domain(), own.certificate_pem().as_bytes(), bundles).unwrap();
        let identity = serving_identity(&own, &own.server(&subject("issuer/main")));
        let listening = api(&Serving::new(identity, trust.clone(), clock())).await;
        let (spire, partner) = (OpensslCa::root("spire", now()), OpensslCa::root("partner", now()));
        let stage = Self { own, spire, partner, trust, listening };
        stage.read("spire", stage.spire.certificate_pem());
        stage.read("partner", stage.partner.certificate_pem());
        stage
    }

    fn read(&self, bundle: &str, authorities: &str) {
        self.trust.swap_bundle(&named(bundle), authorities.as_bytes(), now()).unwrap();
    }

    async fn let_in(&mut self, pair: &Pair) -> Caller {
        let client = RawClient::presenting(pair.clone());
        client.connect(&self.own, self.listening.address).await.unwrap();
        self.listening.outcome().await.unwrap().unwrap()
    }

    async fn refuses(&mut self, what: &str, pair: Pair, alert: AlertDescription) {
        let client = RawClient::presenting(pair);
        assert_eq!(client.refused(&self.own, self.listening.address).await, alert, "{what}");
        assert!(matches!(self.listening.outcome().await, Err(HandshakeError::Client(_))), "{what}");
    }
}

/// SHA-256 of the public key in a certificate.
fn key_of(certificate_pem: &str) -> Digest {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
    let mut store = RootCertStore::empty();
    store.add(der).unwrap();
    // What is kept of it is what is inside its outermost SEQUENCE (RFC 5280, section 4.1).
    let inside = store.roots[0].subject_public_key_info.as_ref();
    Digest::of_bytes(&[&[0x30, u8::try_from(inside.len()).unwrap()], inside].concat())
}

fn leaf<'a>(names: &'a [&'a str]) -> Leaf<'a> {
    Leaf { names, ..Leaf::default() }
}

#[tokio::test]
async fn whoever_a_trust_bundle_is_for_is_a_caller_without_an_enrolment() {
    let mut stage = Stage::new().await;
    let intermediate = stage.spire.intermediate("spire intermediate", "");
    let root = key_of(stage.spire.certificate_pem());
    for (path, pair) in [
        ("platform/portal", stage.spire.leaf(&leaf(&[PORTAL]))),
        ("platform/portal", intermediate.leaf(&leaf(&[PORTAL]))),
        ("platform/portal", intermediate.leaf(&leaf(&["DNS:portal.example.org", PORTAL]))),
        ("runner/prod-1", intermediate.leaf(&leaf(&["URI:spiffe://spire.example.org/runner/prod-1"]))),
        ("platform/portal", stage.spire.leaf(&Leaf { usages: "clientAuth", ..leaf(&[PORTAL]) })),
    ] {
        let caller = stage.let_in(&pair).await;
        let id = SpiffeId::parse(&format!("spiffe://spire.example.org/{path}")).unwrap();
        assert_eq!(caller.spiffe_id(), &id);
        assert!(!caller.is_own() && caller.authority() == root);
        let expected = bundle("spire", &[Kind::Platform], &["/platform/"]).enrolment_of(&id);
        assert_eq!(caller.enrolment(), expected, "the same as ever for one bundle and name");
        assert_eq!(caller.expires(), now() + Duration::from_secs(3600));
        assert_eq!(caller.issued(), now() - Duration::from_secs(3600));
    }
    let alice = stage.partner.leaf(&leaf(&["URI:spiffe://partner.example.org/operator/alice"]));
    assert_eq!(stage.let_in(&alice).await.kind(), Kind::Operator);
    // An intermediate may be what is trusted.
    stage.read("spire", intermediate.certificate_pem());
    let caller = stage.let_in(&intermediate.leaf(&leaf(&[PORTAL]))).await;
    assert_eq!(caller.authority(), key_of(intermediate.certificate_pem()));
    let runner = stage.own.client(&subject("runner/prod-1"));
    assert!(stage.let_in(&runner).await.is_own(), "the issuer's own go on as before");
}

#[tokio::test]
async fn what_a_trust_bundle_is_not_for_is_refused_with_its_alert() {
    let mut stage = Stage::new().await;
    let intermediate = stage.spire.intermediate("spire intermediate", "");
    let mut alone = intermediate.leaf(&leaf(&[PORTAL]));
    alone.certificate_pem.truncate(alone.certificate_pem.find("-----END").unwrap() + 26);
    let below = intermediate.intermediate("one too deep", "").leaf(&leaf(&[PORTAL]));
    let stranger = OpensslCa::root("spire", now());
    let ours = Subject { spiffe_id: SpiffeId::parse(&PORTAL[4..]).unwrap(), ..subject("platform/portal") };
    let of_spire = |names: &[&str]| stage.spire.leaf(&leaf(names));
    let cases = [
        ("the issuer's own trust domain", of_spire(&["URI:spiffe://ci.example.org/platform/portal"]), 48),
        ("a trust domain without a bundle", of_spire(&["URI:spiffe://elsewhere/platform/portal"]), 48),
        ("another bundle's trust domain", of_spire(&["URI:spiffe://partner.example.org/operator/alice"]), 48),
        ("a bundle's trust domain, signed by the issuer's own CA", stage.own.client(&ours), 48),
        ("another CA of the same name", stranger.leaf(&leaf(&[PORTAL])), 48),
        ("no name at all", of_spire(&[]), 48),
        ("a chain without its intermediate", alone, 48),
        ("a path outside the prefixes", of_spire(&["URI:spiffe://spire.example.org/runner/test-1"]), 49),
        ("a kind that is not named", of_spire(&["URI:spiffe://spire.example.org/operator/alice"]), 49),
        ("an issuer", of_spire(&["URI:spiffe://spire.example.org/issuer/main"]), 49),
        ("two SPIFFE IDs", of_spire(&[PORTAL, "URI:spiffe://spire.example.org/platform/other"]), 42),
        ("an ID of each trust domain", of_spire(&["URI:spiffe://ci.example.org/operator/alice", PORTAL]), 42),
        ("a path that is none of ours", of_spire(&["URI:spiffe://spire.example.org/ns/web/sa/portal"]), 42),
        ("expired", stage.spire.leaf(&Leaf { expired: true, ..leaf(&[PORTAL]) }), 45),
        ("a CA", stage.spire.leaf(&Leaf { authority: true, ..leaf(&[PORTAL]) }), 46),
        ("deeper than its CA may go", below, 46),
        ("for servers", stage.spire.leaf(&Leaf { usages: "serverAuth", ..leaf(&[PORTAL]) }), 43),
        ("for nothing", stage.spire.leaf(&Leaf { usages: "", ..leaf(&[PORTAL]) }), 43),
    ];
    for (what, pair, alert) in cases {
        stage.refuses(what, pair, AlertDescription::from(alert)).await;
    }
}

#[tokio::test]
async fn a_bundle_that_was_not_read_lets_nobody_in_and_a_useless_one_changes_nothing() {
    let mut stage = Stage::new().await;
    let portal = stage.spire.leaf(&leaf(&[PORTAL]));
    stage.let_in(&portal).await;
    let long_ago = OpensslCa::root("spire", now() - Duration::from_secs(10 * 366 * 24 * 3600));
    for useless in [
        "",
        "nothing",
        long_ago.certificate_pem(),
        &portal.certificate_pem,
        &format!("{}{}", stage.spire.certificate_pem(), portal.certificate_pem),
    ] {
        assert!(stage.trust.swap_bundle(&named("spire"), useless.as_bytes(), now()).is_err(), "{useless}");
        stage.let_in(&portal).await;
    }
    let bundles = vec![bundle("spire", &[Kind::Platform], &["/platform/"])];
    let trust = Trust::new(trust_domain(), stage.own.certificate_pem().as_bytes(), bundles).unwrap();
    let identity = serving_identity(&stage.own, &stage.own.server(&subject("issuer/main")));
    stage.listening = api(&Serving::new(identity, trust, clock())).await;
    stage.refuses("not read", portal, AlertDescription::UnknownCA).await;
}

#[tokio::test]
async fn who_came_by_a_ca_that_is_taken_out_is_trusted_no_more_and_all_others_are() {
    let mut stage = Stage::new().await;
    let next = OpensslCa::root("spire", now());
    let both = format!("{}{}", next.certificate_pem(), stage.spire.certificate_pem());
    stage.read("spire", &both);
    let (old, new) = (stage.spire.leaf(&leaf(&[PORTAL])), next.leaf(&leaf(&[PORTAL])));
    let (old_caller, new_caller) = (stage.let_in(&old).await, stage.let_in(&new).await);
    assert_eq!(old_caller.enrolment(), new_caller.enrolment(), "a bundle's new CA makes no other owner");
    let alice = stage.partner.leaf(&leaf(&["URI:spiffe://partner.example.org/operator/alice"]));
    let runner = stage.own.client(&subject("runner/prod-1"));
    let others = [stage.let_in(&alice).await, stage.let_in(&runner).await];
    assert!(stage.trust.trusts(&old_caller) && stage.trust.trusts(&new_caller));
    stage.read("spire", next.certificate_pem());
    assert!(!stage.trust.trusts(&old_caller) && stage.trust.trusts(&new_caller));
    assert!(others.iter().all(|caller| stage.trust.trusts(caller)));
    stage.refuses("its CA was taken out", old, AlertDescription::UnknownCA).await;
    stage.let_in(&new).await;
}

#[tokio::test]
async fn an_issuer_whose_ca_another_one_has_signed_is_known_by_that_ca_and_by_its_root() {
    let root = OpensslCa::root("corporate root", now());
    let intermediate = root.intermediate("shorepass CA", "");
    let directory = tempfile::tempdir().unwrap();
    let chain = format!("{}{}", intermediate.certificate_pem(), root.certificate_pem());
    for (name, text) in [("ca.key", intermediate.key_pem()), ("ca.pem", chain)] {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    }
    let authority =
        Authority::open_or_create(directory.path(), &trust_domain(), now(), Arc::new(Sevens)).unwrap();
    let hour = Duration::from_secs(3600);
    let identity =
        authority.serving(&id("issuer/main"), &["localhost".to_owned()], &[], hour, now()).unwrap();
    let trust = Trust::new(trust_domain(), &authority.bundle_pem(), Vec::new()).unwrap();
    let serving = Serving::new(identity, trust, clock());
    let mut listening = api(&serving).await;
    let alice = subject("operator/alice");
    let made = authority.create_identity(&alice.spiffe_id, alice.enrolment, hour, now()).unwrap();
    let connector = Connector::api(CurrentIdentity::new(&made), id("issuer/main"), clock());
    connector.connect(&listening.address()).await.unwrap();
    assert_eq!(listening.outcome().await.unwrap().unwrap().authority(), authority.key_digest());
    let enrolling = Connector::enroll(key_of(intermediate.certificate_pem()), id("issuer/main"), clock());
    enrolling.connect(&enroll(&serving).await.address()).await.unwrap();
    // Others trust the root, and the issuer serves the way to it.
    let others = RawClient { version: &rustls::version::TLS13, protocols: vec![b"h2".to_vec()], pair: None };
    let open = enroll(&serving).await;
    greeted(others.config_trusting(root.certificate_pem()), open.address).await.unwrap();
    // What else the root has signed is nobody here.
    let names = ["URI:spiffe://ci.example.org/operator/alice"];
    let stranger = RawClient::presenting(root.leaf(&Leaf { usages: "clientAuth", ..leaf(&names) }));
    let refused = greeted(stranger.config_trusting(root.certificate_pem()), listening.address).await;
    assert_eq!(alert(&refused.unwrap_err()), AlertDescription::UnknownCA);
}

struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}
