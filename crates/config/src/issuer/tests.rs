//! What an issuer's config may say, and what is said where it may not.

use std::sync::Arc;

use proptest::prelude::*;
use shorepass_core::condition::Condition;
use shorepass_core::job_issuer::JobIssuer;

use super::*;

const ISSUER: &str = include_str!("../../../../deploy/examples/issuer.yaml");

/// A language that has no conditions.
struct NoConditions;

impl Conditions for NoConditions {
    fn compile(&self, _: &str, _: &JobIssuer) -> Result<Arc<dyn Condition>, String> {
        Err("there are no conditions".to_owned())
    }
}

fn read(text: &str) -> Result<IssuerConfig, ConfigErrors> {
    envelope::parse(Path::new("/etc/shorepass/issuer.yaml"), text, KIND, issuer_config)
}

fn check(part: &str, exchange: &str, fragments: &[&str]) {
    assert!(ISSUER.contains(part), "{part:?} is not in the example");
    let errors = read(&ISSUER.replacen(part, exchange, 1)).unwrap_err();
    let found = errors.iter().any(|error| fragments.iter().all(|part| error.to_string().contains(part)));
    assert!(found, "{fragments:?} are not in one of:\n{errors}");
}

#[test]
fn the_example_loads_and_shows_the_defaults() {
    let config = read(ISSUER).unwrap();
    assert_eq!(config.dns_names.len(), 2);
    assert_eq!(config.listen.enroll.port(), 8444);
    let Connect::Kubeconfig { context, renew, .. } = &config.clusters[0].connect else {
        panic!("no kubeconfig")
    };
    assert_eq!((context.as_str(), renew), ("shorepass-issuer", &None));
    assert_eq!(config.clusters[0].advertise.tls_server_name, None);
    assert_eq!(config.clusters[0].endpoints.len(), 2);
    assert_eq!(config.clusters[0].coordination_namespace.as_str(), "shorepass");
    let listing = config.clusters[0].listing.clone().unwrap();
    assert_eq!((listing.context.as_str(), listing.grace), ("shorepass-issuer-listing", GRACE));
    let unlisted = ISSUER.replace("      listing: {", "      # {");
    assert_eq!(read(&unlisted).unwrap().clusters[0].listing, None);
    let unsaid = ISSUER.replace("      coordination: {namespace: shorepass}", "      #");
    assert_eq!(read(&unsaid).unwrap(), config);
    let alone = ISSUER.replace("      endpoints: [10.0.0.1:6443, 10.0.0.2:6443]", "");
    assert!(read(&alone).unwrap().clusters[0].endpoints.is_empty());
    assert_eq!(config.history_retention, Some(Duration::from_secs(90 * 86_400)));
    let gitlab = &config.job_issuers[0].issuer;
    assert_eq!((gitlab.name().as_str(), gitlab.audience()), ("gitlab", "https://issuer.example.org/jobs"));
    let shorter = ISSUER
        .replace("    historyRetention: 2160h", "    #")
        .replace("    onStoreFailure: continue", "    #");
    assert_eq!(read(&shorter).unwrap(), config);
    let for_ever = read(&ISSUER.replace("2160h", "0s")).unwrap();
    assert_eq!(for_ever.history_retention, None);
    let stops = read(&ISSUER.replace("onStoreFailure: continue", "onStoreFailure: stop")).unwrap();
    assert_eq!(stops.on_store_failure, OnStoreFailure::Stop);
    let tunables = ISSUER.find("  certificates:").unwrap();
    assert_eq!(read(&ISSUER[..tunables]).unwrap(), config);
}

#[test]
fn the_defaults_are_these() {
    let limits = Limits::default();
    assert_eq!(
        [limits.calls_per_second, limits.burst, limits.mints_in_flight].map(NonZeroU32::get),
        [20, 40, 16]
    );
    assert_eq!(CERTIFICATE_CEILING, Duration::from_secs(86_400));
    assert_eq!((RECEIPTS_ONE_IN.get(), LAG_BOUND), (100, Duration::from_secs(30)));
}

#[test]
fn relative_paths_begin_at_the_document() {
    let config = read(&ISSUER.replace("/etc/shorepass/roles.d", "roles.d")).unwrap();
    assert_eq!(config.role_directory, Path::new("/etc/shorepass/roles.d"));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let table: &[(&str, &str, &[&str])] = &[
        (
            "trustDomain: ci",
            "trust_domain: ci",
            &["issuer.yaml:5:3: spec.trust_domain: unknown key", "`trustDomain`"],
        ),
        ("trustDomain: ci", "trust_domain: ci", &["issuer.yaml:4:1: spec.trustDomain: this key is missing"]),
        ("ci.example.org", "CI.example.org", &["spec.trustDomain", "is not a trust domain"]),
        ("192.0.2.10", "192.0.2.310", &["spec.issuer.dnsNames[1]", "neither a DNS name", "^^^^^^^^^^^"]),
        ("[issuer.example.org, 192.0.2.10]", "[]", &["spec.issuer.dnsNames: name at least one"]),
        ("0.0.0.0:8443", "localhost:8443", &["spec.listen.api", "such as 0.0.0.0:8443"]),
        ("0.0.0.0:8444", "0.0.0.0:8443", &["spec.listen.enroll", "address of api already"]),
        ("127.0.0.1:9443", "", &["spec.listen.admin: expected text, found nothing"]),
        ("  state:", "  states:", &["spec.states: unknown key, did you mean `state`?"]),
        (
            "lib/shorepass-issuer",
            "lib/x\n    onStorFailure: stop",
            &["spec.state.onStorFailure: unknown key, did you mean `onStoreFailure`?"],
        ),
        (
            "onStoreFailure: continue",
            "onStoreFailure: ignore",
            &["spec.state.onStoreFailure: \"ignore\" is neither continue nor stop"],
        ),
        (
            "historyRetention: 2160h",
            "historyRetention: 167h",
            &["spec.state.historyRetention: 167h is out of bounds: write 168h to 87600h"],
        ),
        ("context: shorepass-issuer", "user: x", &["kubeconfig.user: unknown key", "path, context"]),
        (
            "context: shorepass-issuer",
            "user: x",
            &["spec.clusters[0].connect.kubeconfig.context: this key is missing"],
        ),
        ("server: https", "server: http", &["spec.clusters[0].advertise.server", "such as https://"]),
        ("caFile:", "ca:", &["spec.clusters[0].advertise.ca: unknown key"]),
        ("caFile:", "tlsServerName:", &["spec.clusters[0].advertise.tlsServerName", "neither a DNS name"]),
        (
            "lifetime: 24h",
            "lifetime: 25h",
            &["spec.certificates.lifetime: 25h is out of bounds: write 20s to 24h"],
        ),
        ("lifetime: 24h", "lifetime: 19s", &["spec.certificates.lifetime: 19s is out of bounds"]),
        ("callsPerSecond: 20", "callsPerSecond: 0", &["spec.limits.callsPerSecond", "from 1 to 10000"]),
        ("oneIn: 100", "oneIn: 0", &["spec.receipts.oneIn", "from 1 to 1000000"]),
        ("lagBound: 30s", "lagBound: 11m", &["clusters[0].lagBound: 11m is out of bounds: write 1s to 10m"]),
        (
            "[10.0.0.1:6443, 10.0.0.2:6443]",
            "[https://10.0.0.1:6443]",
            &["spec.clusters[0].endpoints[0]", "host:port"],
        ),
        ("{namespace: shorepass}", "{namespace: No}", &["clusters[0].coordination.namespace", "\"No\""]),
        ("grace: 10m", "grace: 9s", &["clusters[0].listing.grace: 9s is out of bounds: write 10s to 24h"]),
        ("listing: {kubeconfig", "listing: {kubeconfg", &["clusters[0].listing.kubeconfg: unknown key"]),
        ("burst: 40", "burst: 4e1", &["spec.limits.burst", "\"4e1\" is not a whole number"]),
        (
            "mintsInFlight: 16",
            "mintsInFlight: 99999999999999999999",
            &["spec.limits.mintsInFlight", "from 1 to 1000"],
        ),
        (
            "kind: IssuerConfig",
            "kind: Role",
            &["issuer.yaml:3:7: kind: expected IssuerConfig, found \"Role\""],
        ),
        (
            "kind: IssuerConfig",
            "kind: IssuerConfig\nkind: Role",
            &["kind: the key stands here twice, first in line 3"],
        ),
        ("spec:", "spec: {}\n---\nspec:", &["a second document"]),
        ("  clusters:", "  clusters: []\n  clutters:", &["spec.clusters: name at least one cluster"]),
        ("    name: main", "\tname: main", &["issuer.yaml:", "not valid YAML"]),
    ];
    for (part, exchange, fragments) in table {
        check(part, exchange, fragments);
    }
}

#[test]
fn two_clusters_of_one_name_are_refused() {
    let from = ISSUER.find("    - name: staging").unwrap();
    let to = ISSUER.find("  jobIssuers:").unwrap();
    let text = format!("{}{}", &ISSUER[..to], &ISSUER[from..]);
    let errors = read(&text).unwrap_err().to_string();
    assert!(
        errors.contains("spec.clusters[1].name: a cluster named staging stands in issuer.yaml:18"),
        "{errors}"
    );
}

#[test]
fn several_problems_are_told_in_the_order_of_the_text() {
    let text = ISSUER
        .replace("name: main", "name: Main")
        .replace("burst: 40", "burst: x")
        .replace("0.0.0.0:8443", "x");
    let errors = read(&text).unwrap_err();
    let lines: Vec<usize> = errors
        .iter()
        .filter_map(|error| match error {
            crate::ConfigError::Fault(fault) => Some(fault.line),
            crate::ConfigError::Unreadable { .. } | crate::ConfigError::Unfit { .. } => None,
        })
        .collect();
    assert!(lines.len() == 3 && lines.is_sorted(), "{errors}");
}

#[test]
fn a_role_of_an_unknown_cluster_is_refused_where_it_stands() {
    let directory = tempfile::tempdir().unwrap();
    let role = include_str!("../../../../deploy/examples/role.yaml");
    std::fs::write(directory.path().join("web.yaml"), role).unwrap();
    let mut config = IssuerConfig { role_directory: directory.path().to_owned(), ..read(ISSUER).unwrap() };
    assert_eq!(config.load_roles(&NoConditions).unwrap().roles.len(), 1);
    config.clusters[0].name = Name::parse("stagin").unwrap();
    let errors = config.load_roles(&NoConditions).unwrap_err().to_string();
    for fragment in ["web.yaml:8:12: spec.cluster", "no cluster staging", "did you mean stagin?"] {
        assert!(errors.contains(fragment), "{fragment}\n{errors}");
    }
}

#[test]
fn a_roles_token_is_not_good_to_be_let_in_by_the_issuer() {
    let directory = tempfile::tempdir().unwrap();
    let role = include_str!("../../../../deploy/examples/role.yaml");
    let pods = "pods: [{cluster: staging, audience: 'https://issuer.example.org/pods', serviceAccounts: [{namespace: ci, \
                name: runner}], runners: [prod-*]}]";
    let config = read(&ISSUER.replacen("rejoinWindow: 168h", pods, 1)).unwrap();
    let config = IssuerConfig { role_directory: directory.path().to_owned(), ..config };
    let load = |audience: &str| {
        let text = role.replacen("  subjects:", &format!("  audiences: [vault, {audience}]\n  subjects:"), 1);
        std::fs::write(directory.path().join("web.yaml"), text).unwrap();
        config.load_roles(&NoConditions).map(drop).map_err(|errors| errors.to_string())
    };
    assert_eq!(load("https://issuer.example.org/jobsite"), Ok(()));
    for (audience, whose) in [
        ("https://issuer.example.org/jobs", "the job tokens of gitlab"),
        ("https://issuer.example.org/jobs/prod-1", "the job tokens of gitlab"),
        ("https://issuer.example.org/pods", "enrolment.pods of cluster staging"),
    ] {
        let errors = load(audience).unwrap_err();
        assert!(errors.contains("spec.audiences[1]") && errors.contains(whose), "{errors}");
    }
}

#[test]
fn files_that_are_no_documents_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("issuer.yaml");
    let errors = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        IssuerConfig::load(&file).unwrap_err().to_string()
    };
    assert!(errors(&vec![b'#'; 256 * 1024 + 1]).contains("larger than 256 KiB"));
    assert!(errors(b"a: 1\nb: \xff\n").contains("line 2 is not UTF-8"));
    assert!(errors(b"").contains("the file is empty: expected kind IssuerConfig"));
    assert!(errors(b"- a\n").contains("expected the keys apiVersion, kind, found a list"));
    assert!(IssuerConfig::load(directory.path()).unwrap_err().to_string().contains("not a regular file"));
    let absent = IssuerConfig::load(&directory.path().join("absent")).unwrap_err().to_string();
    assert!(absent.contains("absent cannot be read: "), "{absent}");
}

#[test]
fn the_number_of_told_problems_is_bounded() {
    let keys: String = (0..20_000).map(|index| format!("  key{index}: 1\n")).collect();
    let errors =
        read(&format!("apiVersion: shorepass.dev/v1\nkind: IssuerConfig\nspec:\n{keys}")).unwrap_err();
    assert_eq!(errors.len(), 50);
}

proptest! {
    #[test]
    fn no_damage_to_a_document_makes_the_reader_panic(at in 0..ISSUER.len(), cut in 0..40_usize, put in "\\PC{0,5}") {
        let start = ISSUER.floor_char_boundary(at);
        let end = ISSUER.floor_char_boundary(start + cut);
        if let Err(errors) = read(&format!("{}{put}{}", &ISSUER[..start], &ISSUER[end..])) {
            prop_assert!(!errors.is_empty());
        }
    }
}

#[test]
fn how_long_a_runner_may_come_back_is_bounded_and_may_be_nothing() {
    const PART: &str = "rejoinWindow: 168h";
    let window = |text| read(&ISSUER.replacen(PART, text, 1)).map(|config| config.enrolment.rejoin_window);
    let week = Duration::from_secs(7 * 24 * 3600);
    assert_eq!(read(ISSUER).unwrap().enrolment, EnrolmentConfig::default());
    assert_eq!(EnrolmentConfig::default().rejoin_window, week);
    for (text, expected) in [("rejoinWindow: 0s", 0), ("rejoinWindow: 1h", 3600)] {
        assert_eq!(window(text).unwrap(), Duration::from_secs(expected));
    }
    check(PART, "rejoinWindow: 169h", &["enrolment.rejoinWindow"]);
}

mod pods {
    use super::*;

    const PART: &str = "rejoinWindow: 168h";
    const POD: &str = "pods: [{cluster: staging, audience: 'https://issuer.example.org/pods', serviceAccounts: \
                       [{namespace: ci, name: runner}], runners: [prod-*], labels: {pool: pods}}]";

    fn with(exchange: &[(&str, &str)]) -> String {
        let mut text = POD.to_owned();
        for (part, other) in exchange {
            assert!(text.contains(part), "{part}");
            text = text.replacen(part, other, 1);
        }
        text
    }

    #[test]
    fn pods_are_let_in_by_account_with_names_and_labels() {
        let config = read(&ISSUER.replacen(PART, POD, 1)).unwrap();
        let pods = &config.enrolment.pods[0];
        assert_eq!(
            (pods.cluster.as_str(), pods.audience.as_str()),
            ("staging", "https://issuer.example.org/pods")
        );
        assert_eq!(pods.service_accounts, [(Name::parse("ci").unwrap(), "runner".to_owned())]);
        assert_eq!(pods.runners[0].to_string(), "prod-*");
        assert_eq!(pods.labels.get("pool"), Some("pods"));
        assert_eq!(config.enrolment.rejoin_window, EnrolmentConfig::default().rejoin_window);
    }

    #[test]
    fn what_is_wrong_with_them_is_named_with_its_place() {
        const AUDIENCE: &str = "https://issuer.example.org/pods";
        let table: &[(&str, &str, &[&str])] = &[
            ("cluster: staging", "cluster: stagign", &["pods[0].cluster", "did you mean staging?"]),
            ("[prod-*]", "['*']", &["pods[0].runners[0]"]),
            ("[prod-*]", "[]", &["pods[0].runners"]),
            ("[{namespace: ci, name: runner}]", "[]", &["pods[0].serviceAccounts"]),
            ("namespace: ci, ", "", &["pods[0].serviceAccounts[0].namespace", "is missing"]),
            ("labels:", "label:", &["pods[0].label", "`labels`"]),
            (AUDIENCE, "a b", &["pods[0].audience", "is not an audience"]),
            (
                AUDIENCE,
                "https://issuer.example.org/jobs",
                &["pods[0].audience", "job tokens of gitlab", "choose another"],
            ),
            (
                AUDIENCE,
                "https://issuer.example.org/jobs/prod-1",
                &["pods[0].audience", "job tokens of gitlab"],
            ),
            (
                AUDIENCE,
                "https://kubernetes.default.svc",
                &["pods[0].audience", "API servers", "choose another"],
            ),
        ];
        for (part, exchange, fragments) in table {
            check(PART, &with(&[(part, exchange)]), fragments);
        }
        let beside = "https://issuer.example.org/jobs-and-pods";
        assert!(
            read(&ISSUER.replacen(PART, &with(&[(AUDIENCE, beside)]), 1)).is_ok(),
            "it only begins like theirs"
        );
    }
}

mod oidc {
    use shorepass_core::claims::{Claim, Claims};

    use super::*;

    const PART: &str = "rejoinWindow: 168h";
    const AUDIENCE: &str = "https://issuer.example.org/machines";
    const OIDC: &str = "oidc: [{name: cloud, url: 'https://id.example.org', audience: \
                        'https://issuer.example.org/machines', claims: [{name: zone, path: [cloud, zone]}, {name: \
                        number, type: number}], admit: [{claims: {sub: vm-1, zone: [a, b], number: 7}, runners: \
                        [prod-*], labels: {pool: vms}}]}]";

    fn with(part: &str, other: &str) -> String {
        assert!(OIDC.contains(part), "{part}");
        OIDC.replacen(part, other, 1)
    }

    #[test]
    fn machines_are_let_in_by_exact_claims_with_names_and_labels() {
        let config = read(&ISSUER.replacen(PART, OIDC, 1)).unwrap();
        let cloud = &config.enrolment.oidc[0];
        assert_eq!(
            (cloud.issuer.issuer.name().as_str(), cloud.issuer.issuer.audience()),
            ("cloud", AUDIENCE)
        );
        let rule = &cloud.admit[0];
        assert_eq!((rule.runners[0].to_string().as_str(), rule.labels.get("pool")), ("prod-*", Some("vms")));
        let mut claims = Claims::default();
        for (claim, value) in [
            ("sub", Claim::Text("vm-1".to_owned())),
            ("zone", Claim::Text("b".to_owned())),
            ("number", Claim::Number(7)),
        ] {
            assert!(rule.unmet(&claims).is_some());
            claims.insert(claim, value).unwrap();
        }
        assert_eq!(rule.unmet(&claims), None);
    }

    #[test]
    fn what_is_wrong_with_them_is_named_with_its_place() {
        let table: &[(&str, &str, &[&str])] = &[
            ("{sub: vm-1, zone: [a, b], number: 7}", "{}", &["oidc[0].admit[0].claims"]),
            ("sub: vm-1", "subject: vm-1", &["oidc[0].admit[0].claims", "subject"]),
            ("number: 7", "number: '7'", &["oidc[0].admit[0].claims.number", "whole number"]),
            ("[prod-*]", "['*']", &["oidc[0].admit[0].runners[0]"]),
            ("runners: [prod-*], ", "", &["oidc[0].admit[0].runners", "is missing"]),
            ("name: number, type: number", "name: sub", &["oidc[0].claims", "sub is known already"]),
            ("name: number, type: number", "name: number, project: true", &["oidc[0].claims[1].project"]),
            ("'https://id.example.org'", "id", &["oidc[0].url", "not the URL of a token issuer"]),
            (
                AUDIENCE,
                "https://issuer.example.org/jobs",
                &["oidc[0].audience", "job tokens of gitlab", "choose another"],
            ),
            (
                AUDIENCE,
                "https://issuer.example.org/jobs/prod-1",
                &["oidc[0].audience", "job tokens of gitlab"],
            ),
            (AUDIENCE, "kubernetes", &["oidc[0].audience", "API servers", "choose another"]),
        ];
        for (part, exchange, fragments) in table {
            check(PART, &with(part, exchange), fragments);
        }
    }

    #[test]
    fn no_two_of_the_three_audiences_are_equal() {
        let pods = format!(
            "pods: [{{cluster: staging, audience: '{AUDIENCE}', serviceAccounts: [{{namespace: ci, name: r}}], runners: [prod-*]}}]"
        );
        let both = format!("{pods}\n    {OIDC}");
        check(PART, &both, &["oidc[0].audience", "enrolment.pods of cluster staging", "choose another"]);
        let apart = both.replacen(AUDIENCE, "https://issuer.example.org/pods", 1);
        assert!(read(&ISSUER.replacen(PART, &apart, 1)).is_ok());
        let twice = OIDC.replacen("oidc: [", "oidc: [{name: cloud, url: 'https://two.example.org', audience: b, admit: [{claims: {sub: a}, runners: [prod-*]}]}, ", 1);
        check(PART, &twice, &["oidc[1]", "stands here already"]);
    }
}
