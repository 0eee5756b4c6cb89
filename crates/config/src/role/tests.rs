//! Role documents, good and bad.

mod audiences;
mod target;

use proptest::prelude::*;

use super::*;

const ROLE: &str = include_str!("../../../../deploy/examples/role.yaml");
const TARGET: &str = "target: {namespace: web, serviceAccount: deployer}";

fn read_with_warnings(text: &str) -> Result<Roles, ConfigErrors> {
    Reader { known: None, seen: BTreeMap::new() }.text(Path::new("web.yaml"), text)
}

fn read(text: &str) -> Result<Vec<Role>, ConfigErrors> {
    read_with_warnings(text).map(|read| read.roles)
}

/// Exchanges a part of the example and expects all fragments in one error.
fn check(part: &str, exchange: &str, fragments: &[&str]) {
    assert!(ROLE.contains(part), "{part:?} is not in the example");
    let errors = read(&ROLE.replacen(part, exchange, 1)).unwrap_err();
    let found = errors.iter().any(|error| fragments.iter().all(|part| error.to_string().contains(part)));
    assert!(found, "{fragments:?} are not in one of:\n{errors}");
}

fn trust_domains() -> Vec<TrustDomain> {
    ["ci.example.org", "partner.example.org"].map(|domain| TrustDomain::parse(domain).unwrap()).to_vec()
}

#[test]
fn the_example_loads_as_it_is_written() {
    let role = &read(ROLE).unwrap()[0];
    assert_eq!(role.name().as_str(), "web-deployer");
    assert_eq!(role.gives().existing().unwrap().service_account, "deployer");
    assert!(matches!(role.gives(), Gives::Bound(_)));
    assert_eq!((role.token(), role.lease()), (TOKEN_LIFETIME, LEASE_LIFETIME));
    assert!(role.subjects()[0].accept_asserted_jobs);
    assert_eq!(role.digest(), Digest::of_bytes(ROLE.as_bytes()));
}

#[test]
fn all_that_is_wrong_with_lifetimes_and_subjects_is_told_at_once_and_nothing_besides() {
    let text = ROLE.replacen("default: 30m", "default: 9m", 1).replacen("max: 6h", "max: 3000h", 1);
    let errors = read(&text.replacen("prod-*", "\"*\"", 1)).unwrap_err();
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    for part in ["lifetimes.token: under 600 s", "lifetimes.lease: max is over", "runners[0]"] {
        assert!(told.iter().any(|error| error.contains(part)), "{part}: {told:?}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let table: &[(&str, &str, &[&str])] = &[
        ("kind: Role", "kind: AgentConfig", &["web.yaml:", "kind: expected Role", "AgentConfig", "^^^"]),
        ("kind: Role", "", &["kind: this key is missing"]),
        ("shorepass.dev/v1", "v1", &["apiVersion: expected shorepass.dev/v1, found \"v1\""]),
        (
            "serviceAccount:",
            "serviceaccount:",
            &["spec.target.serviceaccount: unknown key", "`serviceAccount`"],
        ),
        (
            "serviceAccount:",
            "strict: {}, serviceAccount:",
            &["spec.target.strict: unknown key", "known here"],
        ),
        (TARGET, "", &["spec.target: this key is missing", "strict"]),
        (TARGET, "dangerouslyUnbound: true", &["spec.target: this key is missing"]),
        (
            "subjects:",
            "dangerouslyUnbound: false\n  subjects:",
            &["spec.dangerouslyUnbound", "leave the key out"],
        ),
        (
            "subjects:",
            "strict: {bindings: [{namespace: web, role: r}]}\n  subjects:",
            &["spec.strict: stands beside target", "take the other out", "strict: {bindings"],
        ),
        ("subjects:", "claims: []\n  subjects:", &["spec.claims: unknown key", "cluster, target"]),
        ("runners:", "runner:", &["spec.subjects[0].runner: unknown key, did you mean `runners`?"]),
        ("prod-*", "\"*\"", &["spec.subjects[0].runners[0]", "three characters"]),
        ("prod-*", "p*d", &["spec.subjects[0].runners[0]", "three characters"]),
        ("asserted", "verified", &["spec.subjects[0].acceptJobs", "write asserted"]),
        ("default: 30m", "default: 30", &["spec.lifetimes.token.default", "\"30\"", "30m"]),
        ("default: 30m", "default: 5m", &["spec.lifetimes.token:", "600 s", "    token: {"]),
        ("max: 1h", "max: 25h", &["spec.lifetimes.token:", "over 24 h"]),
        ("default: 1h", "default: 29s", &["spec.lifetimes.lease:", "under 30 s", "30s"]),
        ("subjects:", "silence: 59s\n  subjects:", &["spec.silence: 59s is out of bounds", "1m"]),
        ("subjects:", "silence: never\n  subjects:", &["spec.silence", "\"never\"", "30m"]),
        ("cluster: staging", "cluster: Staging", &["spec.cluster", "is not a name"]),
        ("cluster: staging", "cluster:", &["spec.cluster: expected text, found nothing"]),
        (
            "cluster: staging",
            "cluster: staging\n  cluster: x",
            &["spec.cluster: the key stands here twice", "line"],
        ),
        ("namespace: web", "namespace: [web]", &["spec.target.namespace: expected text, found a list"]),
        ("deployer}", "De_ployer}", &["spec.target.serviceAccount", "DNS subdomain"]),
        ("name: web-deployer", "name: web.deployer", &["metadata.name", "is not a name"]),
        ("kind: Role", "kind: Role\nstatus: {}", &["status: unknown key", "metadata"]),
        ("kind: Role", "kind: &k Role", &["an anchor is not accepted"]),
        ("prod-*]", "prod-*", &["not valid YAML"]),
    ];
    for (part, exchange, fragments) in table {
        check(part, exchange, fragments);
    }
}

#[test]
fn unbound_must_be_asked_for_by_its_dangerous_name() {
    let role = ROLE.replacen("  subjects:", "  dangerouslyUnbound: true\n  subjects:", 1);
    let gives = read(&role).unwrap()[0].gives().clone();
    assert!(matches!(gives, Gives::Unbound(target) if target.service_account == "deployer"));
    let example = include_str!("../../../../deploy/examples/role-unbound.yaml");
    assert!(matches!(read(example).unwrap()[0].gives(), Gives::Unbound(_)));
    let errors = read(&role.replacen("default: 1h", "default: 9m", 1)).unwrap_err().to_string();
    assert!(errors.contains("spec.lifetimes.lease: under 10 min"), "{errors}");
}

#[test]
fn what_becomes_of_leases_and_dry_runs_are_said_in_their_words() {
    let role = |line: &str| read(&ROLE.replacen("  subjects:", &format!("  {line}\n  subjects:"), 1));
    let said = |line: &str| role(line).unwrap().remove(0);
    assert_eq!(said("onChange: end").on_change(), OnChange::End);
    assert_eq!(said("onChange: keep").on_change(), OnChange::Keep);
    assert!(said("dryRun: true").is_dry_run());
    let default = said("silence: off");
    assert!(!default.is_dry_run() && default.on_change() == OnChange::Keep);
    for (line, fragment) in [("onChange: stop", "write keep or end"), ("dryRun: false", "leave the key out")]
    {
        assert!(role(line).unwrap_err().to_string().contains(fragment), "{line}");
    }
}

#[test]
fn a_fingerprint_changes_with_names_and_texts_of_what_is_read_and_with_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("a.yaml", ROLE);
    let first = fingerprint(folder.path());
    write("notes.txt", "x");
    write(".hidden.yaml", "x");
    assert_eq!(fingerprint(folder.path()), first);
    write("b.yml", "");
    let second = fingerprint(folder.path());
    fs::rename(folder.path().join("b.yml"), folder.path().join("c.yml")).unwrap();
    let third = fingerprint(folder.path());
    write("a.yaml", "");
    let all = [first, second, third, fingerprint(folder.path()), fingerprint(Path::new("/nonexistent"))];
    assert_eq!(std::collections::BTreeSet::from(all).len(), 5);
}

#[test]
fn silence_is_off_or_a_limit_or_by_the_kind_of_its_owners() {
    let read = |line: &str| {
        let text = ROLE.replacen("  subjects:", &format!("{line}  subjects:"), 1);
        read(&text).unwrap()[0].silence()
    };
    assert_eq!(read(""), Silence::ByKind);
    assert_eq!(read("  silence: off\n"), Silence::Off);
    assert_eq!(read("  silence: 2m\n"), Silence::After(Duration::from_secs(120)));
}

#[test]
fn a_role_for_nobody_does_not_load() {
    let head = ROLE.split("  subjects:").next().unwrap();
    for (subjects, path) in [
        ("", "spec.subjects: this key is missing"),
        ("  subjects: []\n", "spec.subjects: a role without a subject"),
        ("  subjects: [{acceptJobs: asserted}]\n", "spec.subjects: an item without runners or platforms"),
        ("  subjects: [{}]\n", "spec.subjects: an item without runners or platforms"),
    ] {
        let errors = read(&format!("{head}{subjects}")).unwrap_err().to_string();
        assert!(errors.contains(path), "{errors}");
    }
}

#[test]
fn an_item_that_no_runner_can_match_yet_loads_with_a_warning_at_its_place() {
    let warnings = |part: &str, exchange: &str| {
        let read = read_with_warnings(&ROLE.replacen(part, exchange, 1)).unwrap();
        assert_eq!(read.roles.len(), 1);
        read.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(warnings("", ""), [""; 0]);
    assert_eq!(warnings("runners: [prod-*]\n      acceptJobs: asserted", "platforms: [prod-*]"), [""; 0]);
    let line = ROLE.lines().position(|line| line.contains("runners:")).unwrap() + 1;
    for exchange in ["", "platforms: [prod-*]"] {
        let told = warnings("acceptJobs: asserted", exchange).join("\n");
        let place = format!("web.yaml:{line}:7: spec.subjects[0].runners: ");
        for part in [&place, "no runner gets the role", "acceptJobs: asserted", "^^^^^^^"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}

#[test]
fn an_absent_lifetime_follows_the_one_that_is_written() {
    let lifetimes = |written: &str| {
        let role = ROLE.replacen("{default: 30m, max: 1h}", written, 1);
        let token = read(&role).unwrap()[0].token();
        (token.default.as_secs() / 60, token.max.as_secs() / 60)
    };
    assert_eq!(lifetimes("{}"), (30, 60));
    assert_eq!(lifetimes("{max: 20m}"), (20, 20));
    assert_eq!(lifetimes("{default: 2h}"), (120, 120));
}

#[test]
fn all_problems_of_all_files_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("b.yaml", &ROLE.replace("prod-*", "p*"));
    write(
        "a.yml",
        &format!("{}\n---\n{}", ROLE.replace("web-deployer", "w"), ROLE.replace("cluster:", "clster:")),
    );
    write(".hidden.yaml", "{");
    write("notes.txt", "{");
    fs::create_dir(directory.path().join("c.yaml")).unwrap();
    let errors = load_directory(directory.path()).unwrap_err();
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let order = ["a.yml", "a.yml", "b.yaml", "b.yaml", "c.yaml"];
    assert_eq!(shown.len(), order.len(), "{errors}");
    assert!(shown.iter().zip(order).all(|(error, file)| error.contains(file)), "{errors}");
    assert!(shown[0].contains("clster") || shown[1].contains("clster"), "{errors}");
    assert!(shown.iter().any(|error| error.contains("b.yaml") && error.contains("a.yml:")), "{errors}");
}

#[test]
fn several_documents_make_several_roles() {
    let text = format!("---\n{ROLE}---\n# nothing\n---\n{}", ROLE.replace("web-deployer", "other"));
    let roles = read(&text).unwrap();
    assert_eq!(roles.iter().map(|role| role.name().as_str()).collect::<Vec<_>>(), ["web-deployer", "other"]);
    assert_ne!(roles[0].digest(), roles[1].digest());
    assert!(read("# nothing yet\n").unwrap().is_empty());
}

#[test]
fn a_directory_that_is_not_there_says_so() {
    let errors = load_directory(Path::new("/nonexistent/roles.d")).unwrap_err().to_string();
    assert!(errors.contains("/nonexistent/roles.d cannot be read: "), "{errors}");
}

#[test]
fn a_pasted_token_is_not_repeated() {
    let token = format!("spjt1.{}.{}", "aB3_".repeat(11), "Zy9-".repeat(11));
    for part in ["web-deployer", "prod-*", "Role", "30m", "cluster", "metadata"] {
        let errors = read(&ROLE.replacen(part, &token, 1)).unwrap_err().to_string();
        assert!(!errors.contains("aB3_aB3_"), "{errors}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,80}", lines in "([ a-z:\\[\\]{}&*!|>'\"#,\n-]|spec|kind){0,60}") {
        let _ = (read(&text), read(&lines));
    }
}

mod jobs {
    use std::sync::Arc;

    use shorepass_core::claims::Claim;
    use shorepass_core::condition::Condition;
    use shorepass_core::job_issuer::{Declared, RunnerBinding, System};

    use super::*;

    const ROLE: &str = include_str!("../../../../deploy/examples/role-jobs.yaml");

    /// A language with one condition.
    struct Always;

    #[derive(Debug)]
    struct True;

    impl Condition for True {
        fn holds(&self, _: &shorepass_core::claims::Claims) -> Result<(), String> {
            Ok(())
        }

        fn names(&self, _: &str) -> bool {
            false
        }

        fn text(&self) -> &str {
            "always"
        }
    }

    impl Conditions for Always {
        fn compile(&self, text: &str, _: &JobIssuer) -> Result<Arc<dyn Condition>, String> {
            if text == "always" { Ok(Arc::new(True)) } else { Err(format!("{text:?} is no condition")) }
        }
    }

    fn gitlab() -> JobIssuer {
        let (url, audience) = ("https://gitlab.example.org".to_owned(), "shorepass".to_owned());
        let name = Name::parse("gitlab").unwrap();
        let declared = Declared::default();
        JobIssuer::new(name, System::Gitlab, url, audience, RunnerBinding::FirstUse, declared).unwrap()
    }

    pub(super) fn known() -> Known<'static> {
        Known {
            clusters: vec![Name::parse("staging").unwrap()],
            job_issuers: vec![gitlab()],
            trust_domains: trust_domains(),
            taken: Vec::new(),
            conditions: &Always,
        }
    }

    fn read(text: &str) -> Result<Role, String> {
        let known = known();
        let read = Reader { known: Some(&known), seen: BTreeMap::new() }.text(Path::new("web.yaml"), text);
        read.map(|mut read| read.roles.remove(0)).map_err(|errors| errors.to_string())
    }

    fn check(part: &str, exchange: &str, fragments: &[&str]) {
        assert!(ROLE.contains(part), "{part:?} is not in the example");
        let errors = read(&ROLE.replacen(part, exchange, 1)).unwrap_err();
        assert!(fragments.iter().all(|part| errors.contains(part)), "{fragments:?} are not in:\n{errors}");
    }

    #[test]
    fn an_item_names_callers_of_a_known_trust_domain() {
        let of = |domain: &str| {
            let item = format!("subjects:\n    - trustDomain: {domain}\n      platforms: [portal]\n    -");
            read(&ROLE.replacen("subjects:\n    -", &item, 1))
        };
        let role = of("partner.example.org").unwrap();
        let domains: Vec<_> = role.subjects().iter().map(|subject| subject.trust_domain.as_ref()).collect();
        assert_eq!((domains[0].map(TrustDomain::as_str), domains[1]), (Some("partner.example.org"), None));
        let told = of("partner.example.com").unwrap_err();
        for said in ["spec.subjects[0].trustDomain", "did you mean partner.example.org?"] {
            assert!(told.contains(said), "{told}");
        }
        assert!(of("Partner").unwrap_err().contains("is not a trust domain"));
    }

    #[test]
    fn the_example_of_jobs_loads() {
        let role = read(ROLE).unwrap();
        let subject = &role.subjects()[0];
        assert_eq!(subject.labels.get("pool"), Some("production"));
        assert_eq!(subject.jobs.as_ref().unwrap().issuer().as_str(), "gitlab");
        assert!(!subject.accept_asserted_jobs);
    }

    #[test]
    fn a_requirement_that_any_project_meets_does_not_load() {
        check(
            "          project_id: \"4711\" #",
            "          #",
            &["any project of gitlab gets the role", "project_id"],
        );
        check("ref_type: branch", "# ", &["spec.subjects[0].jobs.claims.ref", "say ref_type too"]);
    }

    #[test]
    fn values_are_of_the_claims_kind() {
        check("\"4711\"", "4711", &["jobs.claims.project_id", "in quotes"]);
        check("ref_protected: \"true\"", "ref_protected: true", &["in quotes"]);
        check("[staging, production]", "[]", &["at least one value"]);
    }

    #[test]
    fn names_that_are_not_known_are_told_with_what_was_meant() {
        check("issuer: gitlab", "issuer: gitlap", &["no job issuer gitlap", "did you mean gitlab?"]);
        check("environment:", "enviroment:", &["no claim \"enviroment\"", "did you mean environment?"]);
        check("project_id: \"4711\"", "Project_ID: \"4711\"", &["no claim \"Project_ID\""]);
    }

    #[test]
    fn a_condition_is_compiled_where_it_stands() {
        let condition = |text: &str| {
            ROLE.replacen("        claims:", &format!("        condition: {text}\n        claims:"), 1)
        };
        assert!(read(&condition("always")).is_ok());
        let errors = read(&condition("never")).unwrap_err();
        assert!(errors.contains("jobs.condition") && errors.contains("is no condition"), "{errors}");
    }

    #[test]
    fn jobs_and_an_asserted_job_are_two_items() {
        check("      jobs:", "      acceptJobs: asserted\n      jobs:", &["write two items"]);
        check(
            "    - runners: [prod-*]",
            "    - runners: [prod-*]\n      platforms: [portal]",
            &["platforms have no labels"],
        );
    }

    #[test]
    fn where_no_job_issuer_is_known_nobody_meets_the_requirement() {
        let role = &super::read(ROLE).unwrap()[0];
        let nobody = shorepass_core::job_requirement::JobRequirement::that_nobody_meets(
            Name::parse("gitlab").unwrap(),
        );
        assert_eq!(role.subjects()[0].jobs, Some(nobody));
    }

    fn cases(text: &str) -> Result<Vec<case::Case>, String> {
        let known = known();
        let read = Reader { known: Some(&known), seen: BTreeMap::new() }.text(Path::new("web.yaml"), text);
        read.map(|read| read.cases).map_err(|errors| errors.to_string())
    }

    #[test]
    fn tests_are_read_with_the_types_of_their_claims_and_their_places() {
        let all = cases(ROLE).unwrap();
        assert_eq!(all.len(), 5);
        let case::CaseJob::Verified { claims, .. } = &all[0].job else { panic!("{all:?}") };
        assert_eq!(claims.get("project_id"), Some(&Claim::Text("4711".to_owned())));
        assert_eq!((all[0].role.as_str(), all[0].labels.get("pool")), ("web-deployer", Some("production")));
        assert!(all[0].place.starts_with("web.yaml:") && all[0].expected == case::Expected::Allowed);
        assert_eq!(all[4].job, case::CaseJob::Asserted);
    }

    #[test]
    fn tests_that_say_nothing_sound_do_not_load() {
        let table = [
            ("ref: feature", "reff: feature", ["tests[1].job.claims.reff", "did you mean ref?"]),
            (
                "project_id: \"4711\", ref: f",
                "project_id: 4711, ref: f",
                ["tests[1].job.claims", "in quotes"],
            ),
            ("expect: allowed", "expect: maybe", ["tests[0].expect", "write allowed or denied"]),
            ("expect: allowed", "expect: allowed\n    because: x", ["tests[0].because", "leave the key out"]),
            ("    job: {asserted: true}", "    job: {}", ["tests[4].job.issuer", "missing"]),
            ("    job: {asserted: true}\n", "", ["tests[4].job", "missing"]),
            (
                "{asserted: true}",
                "{asserted: true, issuer: gitlab}",
                ["tests[4].job", "asserted job shows no claims"],
            ),
            ("runner: prod-2", "platform: prod-2", ["tests[3].labels", "platforms have no labels"]),
            ("runner: prod-2", "runner: prod-2\n    platform: a", ["tests[3]", "one of runner and platform"]),
        ];
        for (part, exchange, fragments) in table {
            assert!(ROLE.contains(part), "{part:?} is not in the example");
            let errors = cases(&ROLE.replacen(part, exchange, 1)).unwrap_err();
            assert!(
                fragments.iter().all(|part| errors.contains(part)),
                "{fragments:?} are not in:\n{errors}"
            );
        }
    }

    #[test]
    fn tests_are_no_part_of_what_a_role_gives() {
        let (with, without) = (read(ROLE).unwrap(), read(ROLE.split("tests:").next().unwrap()).unwrap());
        assert_eq!(with.subjects(), without.subjects());
    }
}
