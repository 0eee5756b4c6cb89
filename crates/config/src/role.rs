//! Role documents: a directory of them, each file with one or several.
//!
//! All problems of all files are told at once, and no role is given out while there is one: half a policy is another
//! policy. A role's digest is that of its document's text, comments included, so that `sha256sum` of a file with one
//! role is what the audit shows.

mod strict;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shorepass_core::digest::Digest;
use shorepass_core::gives::Gives;
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::role::{Lifetime, Role, Subject, Target};
use shorepass_core::silence::{SILENCE_CEILING, SILENCE_FLOOR, Silence};

use crate::cursor::{Cursor, Fields, Report, closest};
use crate::envelope;
use crate::error::{ConfigError, ConfigErrors, Fault};
use crate::yaml::Document;

const KIND: &str = "Role";
const NO_VERIFIED_JOBS: &str = "no runner gets the role by this item: it takes verified jobs only, and there is no way to \
                                verify one yet; write `acceptJobs: asserted` beside it to take a runner's word for its job";
const TOKEN_LIFETIME: Lifetime =
    Lifetime { default: Duration::from_secs(30 * 60), max: Duration::from_secs(60 * 60) };
const LEASE_LIFETIME: Lifetime =
    Lifetime { default: Duration::from_secs(60 * 60), max: Duration::from_secs(6 * 60 * 60) };

/// Roles, and what is odd about their documents.
#[derive(Debug)]
pub struct Roles {
    /// The roles.
    pub roles: Vec<Role>,
    /// What loads and does not do what it seems to, each with its place and what to write instead.
    pub warnings: Vec<Fault>,
}

/// The roles of all `*.yaml` and `*.yml` files in a directory, files in the order of their names.
///
/// Hidden files and other names are passed over, folders are not entered. Whether the clusters exist is not asked: see
/// [`crate::IssuerConfig::load_roles`].
pub fn load_directory(directory: &Path) -> Result<Vec<Role>, ConfigErrors> {
    Ok(Reader { clusters: None, seen: BTreeMap::new() }.directory(directory)?.roles)
}

/// As [`load_directory`]; a role of another cluster than these is refused where it says so.
pub(crate) fn load_directory_for(directory: &Path, clusters: &[Name]) -> Result<Roles, ConfigErrors> {
    Reader { clusters: Some(clusters), seen: BTreeMap::new() }.directory(directory)
}

struct Reader<'c> {
    clusters: Option<&'c [Name]>,
    /// Where each name was given first.
    seen: BTreeMap<Name, String>,
}

impl Reader<'_> {
    fn directory(mut self, directory: &Path) -> Result<Roles, ConfigErrors> {
        let mut all = Roles { roles: Vec::new(), warnings: Vec::new() };
        let mut errors: Vec<ConfigError> = Vec::new();
        for file in role_files(directory)? {
            match self.file(&file) {
                Ok(found) => {
                    all.roles.extend(found.roles);
                    all.warnings.extend(found.warnings);
                }
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() { Ok(all) } else { Err(ConfigErrors::new(errors)) }
    }

    fn file(&mut self, file: &Path) -> Result<Roles, ConfigErrors> {
        self.text(file, &envelope::read_text(file)?)
    }

    fn text(&mut self, file: &Path, text: &str) -> Result<Roles, ConfigErrors> {
        let report = Report::new(file, text);
        let documents = envelope::documents(&report, text);
        let roles = documents.iter().filter_map(|document| self.document(&report, document)).collect();
        let warnings = report.take_warnings();
        Ok(Roles { roles: report.finish(Some(roles))?, warnings })
    }

    fn document(&mut self, report: &Report<'_>, document: &Document<'_>) -> Option<Role> {
        let root = Cursor::root(report, &document.root);
        let fields = envelope::fields(&root, KIND, &["apiVersion", "kind", "metadata", "spec"])?;
        let name = fields.required("metadata", |metadata| {
            metadata.fields(&["name"])?.required("name", |name| self.name(name))
        });
        let spec = fields.required("spec", |spec| self.spec(spec));
        let (name, Spec { gives, token, lease, silence, subjects }) = (name?, spec?);
        let digest = Digest::of_bytes(document.text.as_bytes());
        match Role::new(name, gives, token, lease, subjects, digest) {
            Ok(role) => Some(role.with_silence(silence)),
            Err(unfit) => root.fault_below(unfit.field, unfit.problem),
        }
    }

    fn name(&mut self, cursor: &Cursor<'_>) -> Option<Name> {
        let name = cursor.name()?;
        if let Some(first) = self.seen.get(&name) {
            return cursor.fault(format!("a role named {name} stands in {first} already"));
        }
        self.seen.insert(name.clone(), cursor.place());
        Some(name)
    }

    fn spec(&self, cursor: &Cursor<'_>) -> Option<Spec> {
        let fields = cursor.fields(&[
            "cluster",
            "target",
            "strict",
            "dangerouslyUnbound",
            "lifetimes",
            "silence",
            "subjects",
        ])?;
        let cluster = fields.required("cluster", |cluster| self.cluster(cluster));
        let gives = gives(cursor, &fields, cluster.as_ref());
        let lifetimes = fields.optional("lifetimes", lifetimes).unwrap_or((TOKEN_LIFETIME, LEASE_LIFETIME));
        let silence = fields.optional("silence", silence).unwrap_or_default();
        let subjects = fields.required("subjects", |subjects| subjects.list(subject));
        cluster?;
        let (token, lease) = lifetimes;
        Some(Spec { gives: gives?, token, lease, silence, subjects: subjects? })
    }

    fn cluster(&self, cursor: &Cursor<'_>) -> Option<Name> {
        let cluster = cursor.name()?;
        let Some(clusters) = self.clusters.filter(|clusters| !clusters.contains(&cluster)) else {
            return Some(cluster);
        };
        let names: Vec<&str> = clusters.iter().map(Name::as_str).collect();
        let meant = closest(cluster.as_str(), &names).map(|name| format!(", did you mean {name}?"));
        let (meant, names) = (meant.unwrap_or_default(), names.join(", "));
        cursor.fault(format!("the issuer's config has no cluster {cluster}{meant} (configured: {names})"))
    }
}

struct Spec {
    gives: Gives,
    token: Lifetime,
    lease: Lifetime,
    silence: Silence,
    subjects: Vec<Subject>,
}

/// The mode follows from which key is there.
fn gives(cursor: &Cursor<'_>, fields: &Fields<'_>, cluster: Option<&Name>) -> Option<Gives> {
    let unbound = fields.optional("dangerouslyUnbound", unbound);
    let target = fields.optional("target", target);
    let strict = fields.optional("strict", strict::strict);
    match (fields.has("target"), fields.has("strict")) {
        (true, false) => {
            let (namespace, service_account) = target?;
            let target = Target { cluster: cluster?.clone(), namespace, service_account };
            Some(if unbound.is_some() { Gives::Unbound(target) } else { Gives::Bound(target) })
        }
        (false, true) if fields.has("dangerouslyUnbound") => cursor.fault_below(
            "dangerouslyUnbound",
            "is about a target: the leases of a strict role can be ended, so take it out",
        ),
        (false, true) => strict?.into_gives(cluster?),
        (true, true) => cursor.fault_below(
            "strict",
            "stands beside target: keep target for tokens of an existing ServiceAccount, or strict for a ServiceAccount \
             for each lease, and take the other out",
        ),
        (false, false) => cursor.fault_below(
            "target",
            "this key is missing: name a ServiceAccount with target, or rights for a ServiceAccount for each lease with \
             strict",
        ),
    }
}

fn unbound(cursor: &Cursor<'_>) -> Option<()> {
    match cursor.text()? {
        "true" => Some(()),
        other => cursor.fault(format!("{other:?} is not known: write true, or leave the key out")),
    }
}

fn target(cursor: &Cursor<'_>) -> Option<(Name, String)> {
    let fields = cursor.fields(&["namespace", "serviceAccount"])?;
    let namespace = fields.required("namespace", Cursor::name);
    let service_account = fields.required("serviceAccount", |account| account.text().map(str::to_owned));
    Some((namespace?, service_account?))
}

fn lifetimes(cursor: &Cursor<'_>) -> Option<(Lifetime, Lifetime)> {
    let fields = cursor.fields(&["token", "lease"])?;
    let token = |cursor: &Cursor<'_>| lifetime(cursor, TOKEN_LIFETIME, Lifetime::token_problem);
    let lease = |cursor: &Cursor<'_>| lifetime(cursor, LEASE_LIFETIME, Lifetime::lease_problem);
    let token = fields.optional("token", token).unwrap_or(TOKEN_LIFETIME);
    let lease = fields.optional("lease", lease).unwrap_or(LEASE_LIFETIME);
    Some((token, lease))
}

/// Where only one of the two is written, the other is as usual, but never in contradiction to it.
fn lifetime(
    cursor: &Cursor<'_>,
    usual: Lifetime,
    problem: impl Fn(Lifetime) -> Option<String>,
) -> Option<Lifetime> {
    let fields = cursor.fields(&["default", "max"])?;
    let default = fields.optional("default", Cursor::duration);
    let max = fields.optional("max", Cursor::duration);
    let max = max.unwrap_or(usual.max.max(default.unwrap_or(usual.default)));
    let lifetime = Lifetime { default: default.unwrap_or(usual.default.min(max)), max };
    match problem(lifetime) {
        None => Some(lifetime),
        Some(problem) => cursor.fault(problem),
    }
}

fn silence(cursor: &Cursor<'_>) -> Option<Silence> {
    match cursor.text()? {
        "off" => Some(Silence::Off),
        _ => cursor.duration_within(SILENCE_FLOOR..=SILENCE_CEILING).map(Silence::After),
    }
}

fn subject(cursor: &Cursor<'_>) -> Option<Subject> {
    let fields = cursor.fields(&["runners", "platforms", "acceptJobs"])?;
    let patterns = |cursor: &Cursor<'_>| cursor.list(|pattern| pattern.parsed(NamePattern::parse));
    let accept = |cursor: &Cursor<'_>| match cursor.text()? {
        "asserted" => Some(true),
        other => cursor.fault(format!("{other:?} is not known: write asserted, or leave the key out")),
    };
    // A list with a fault in it names somebody all the same: that is told once, where the fault is.
    let list = |key| fields.optional(key, |list| Some(patterns(list))).unwrap_or_else(|| Some(Vec::new()));
    let (runners, platforms) = (list("runners"), list("platforms"));
    let accept_asserted_jobs = fields.optional("acceptJobs", accept).unwrap_or(false);
    let subject = Subject { runners: runners?, platforms: platforms?, accept_asserted_jobs };
    if !subject.runners.is_empty() && !subject.accept_asserted_jobs {
        cursor.warn_below("runners", NO_VERIFIED_JOBS);
    }
    Some(subject)
}

fn role_files(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |cause| ConfigError::Unreadable { file: directory.to_owned(), cause };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = matches!(file.extension().and_then(OsStr::to_str), Some("yaml" | "yml"));
        if yaml && !hidden {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROLE: &str = include_str!("../../../deploy/examples/role.yaml");
    const TARGET: &str = "target: {namespace: web, serviceAccount: deployer}";

    fn read_with_warnings(text: &str) -> Result<Roles, ConfigErrors> {
        Reader { clusters: None, seen: BTreeMap::new() }.text(Path::new("web.yaml"), text)
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
            ("subjects:", "audiences: []\n  subjects:", &["spec.audiences: unknown key", "cluster, target"]),
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
        let example = include_str!("../../../deploy/examples/role-unbound.yaml");
        assert!(matches!(read(example).unwrap()[0].gives(), Gives::Unbound(_)));
        let errors = read(&role.replacen("default: 1h", "default: 9m", 1)).unwrap_err().to_string();
        assert!(errors.contains("spec.lifetimes.lease: under 10 min"), "{errors}");
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
        assert_eq!(
            roles.iter().map(|role| role.name().as_str()).collect::<Vec<_>>(),
            ["web-deployer", "other"]
        );
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

        #[test]
        fn no_damage_to_a_document_makes_the_reader_panic(at in 0..ROLE.len(), cut in 0..40_usize, put in "\\PC{0,5}") {
            let start = ROLE.floor_char_boundary(at);
            let end = ROLE.floor_char_boundary(start + cut);
            if let Err(errors) = read(&format!("{}{put}{}", &ROLE[..start], &ROLE[end..])) {
                prop_assert!(!errors.is_empty() && !errors.to_string().is_empty());
            }
        }
    }
}
