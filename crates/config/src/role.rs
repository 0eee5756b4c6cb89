//! Role documents: a directory of them, each file with one or several.
//!
//! All problems of all files are told at once, and no role is given out while there is one: half a policy is another
//! policy. A role's digest is that of its document's text, comments included, so that `sha256sum` of a file with one
//! role is what the audit shows.

pub mod case;
pub(crate) mod jobs;
mod needs;
#[cfg(test)]
pub(crate) mod schema;
mod strict;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shorepass_core::audience::Audiences;
use shorepass_core::condition::Conditions;
use shorepass_core::digest::Digest;
use shorepass_core::gives::Gives;
use shorepass_core::job_issuer::JobIssuer;
use shorepass_core::labels::Labels;
use shorepass_core::name::{Name, NamePattern, TrustDomain};
use shorepass_core::needs::Need;
use shorepass_core::role::{Lifetime, Limits, OnChange, Role, Subject, Target};
use shorepass_core::silence::{SILENCE_CEILING, SILENCE_FLOOR, Silence};

use crate::cursor::{Cursor, Fields, Report, closest};
use crate::envelope;
use crate::error::{ConfigError, ConfigErrors, Fault};
use crate::role::case::Case;
use crate::yaml::Document;

/// The JSON Schema of role documents, for editors. The reader decides; the schema knows every key that it knows.
pub const SCHEMA: &str = include_str!("../../../deploy/role.schema.json");

const KIND: &str = "Role";
const NO_JOBS: &str = "no runner gets the role by this item: say with `jobs` which jobs get it, or write `acceptJobs: \
                       asserted` to take a runner's word for its job";
const TOKEN_LIFETIME: Lifetime =
    Lifetime { default: Duration::from_secs(30 * 60), max: Duration::from_secs(60 * 60) };
const LEASE_LIFETIME: Lifetime =
    Lifetime { default: Duration::from_secs(60 * 60), max: Duration::from_secs(6 * 60 * 60) };

/// Roles, and what is odd about their documents.
#[derive(Debug, Default)]
pub struct Roles {
    /// The roles.
    pub roles: Vec<Role>,
    /// What loads and does not do what it seems to, each with its place and what to write instead.
    pub warnings: Vec<Fault>,
    /// The tests in the documents, in their order. They are no part of what a role gives. None where nothing is known of
    /// job issuers.
    pub cases: Vec<Case>,
}

/// The roles of all `*.yaml` and `*.yml` files in a directory, files in the order of their names.
///
/// Hidden files and other names are passed over, folders are not entered. Whether the clusters exist is not asked: see
/// [`crate::IssuerConfig::load_roles`].
pub fn load_directory(directory: &Path) -> Result<Vec<Role>, ConfigErrors> {
    Ok(Reader { known: None, seen: BTreeMap::new() }.directory(directory)?.roles)
}

/// What an issuer's config knows, for the documents to refer to.
pub(crate) struct Known<'c> {
    pub(crate) clusters: Vec<Name>,
    pub(crate) job_issuers: Vec<JobIssuer>,
    /// The issuer's own, and those of its trust bundles.
    pub(crate) trust_domains: Vec<TrustDomain>,
    /// What lets in jobs and machines.
    pub(crate) taken: Vec<Taken>,
    pub(crate) conditions: &'c dyn Conditions,
}

/// An audience by which the issuer lets somebody in.
pub(crate) struct Taken {
    pub(crate) audience: String,
    /// Whose tokens have it.
    pub(crate) whose: String,
}

impl Taken {
    /// That of job tokens may be followed by a runner's name.
    fn holds(&self, audience: &str) -> bool {
        audience.strip_prefix(&self.audience).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// As [`load_directory`]; a role of something else than what is known is refused where it says so.
pub(crate) fn load_directory_for(directory: &Path, known: &Known<'_>) -> Result<Roles, ConfigErrors> {
    Reader { known: Some(known), seen: BTreeMap::new() }.directory(directory)
}

/// As [`load_directory_for`], of one file.
pub(crate) fn load_file_for(file: &Path, known: &Known<'_>) -> Result<Roles, ConfigErrors> {
    Reader { known: Some(known), seen: BTreeMap::new() }.file(file)
}

/// Stands for what is in the directory now: SHA-256 over the names and texts of the files that would be read. What cannot be
/// read counts by the reason.
pub fn fingerprint(directory: &Path) -> Digest {
    let files = role_files(directory).map_err(|cause| ConfigErrors::from(cause).to_string());
    let read = |file: &PathBuf| {
        let text = envelope::read_text(file).unwrap_or_else(|cause| ConfigErrors::from(cause).to_string());
        [file.as_os_str().as_encoded_bytes().to_vec(), text.into_bytes()]
    };
    let parts: Vec<Vec<u8>> = match &files {
        Ok(files) => files.iter().flat_map(read).collect(),
        Err(cause) => vec![cause.clone().into_bytes()],
    };
    Digest::of_parts(parts.iter().map(Vec::as_slice))
}

struct Reader<'c> {
    known: Option<&'c Known<'c>>,
    /// Where each name was given first.
    seen: BTreeMap<Name, String>,
}

impl Reader<'_> {
    fn directory(mut self, directory: &Path) -> Result<Roles, ConfigErrors> {
        let mut all = Roles::default();
        let mut errors: Vec<ConfigError> = Vec::new();
        for file in role_files(directory)? {
            match self.file(&file) {
                Ok(found) => {
                    all.roles.extend(found.roles);
                    all.warnings.extend(found.warnings);
                    all.cases.extend(found.cases);
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
        let mut cases = Vec::new();
        let roles =
            documents.iter().filter_map(|document| self.document(&report, document, &mut cases)).collect();
        let warnings = report.take_warnings();
        Ok(Roles { roles: report.finish(Some(roles))?, warnings, cases })
    }

    fn document(
        &mut self,
        report: &Report<'_>,
        document: &Document<'_>,
        cases: &mut Vec<Case>,
    ) -> Option<Role> {
        let root = Cursor::root(report, &document.root);
        let fields = envelope::fields(&root, KIND, &["apiVersion", "kind", "metadata", "spec", "tests"])?;
        let name = fields.required("metadata", |metadata| {
            metadata.fields(&["name"])?.required("name", |name| self.name(name))
        });
        let spec = fields.required("spec", |spec| self.spec(spec));
        let read = fields.optional("tests", |tests| case::cases(tests, name.as_ref(), self.known));
        cases.extend(read.unwrap_or_default());
        let (name, spec) = (name?, spec?);
        let digest = Digest::of_bytes(document.text.as_bytes());
        let role = Role::new(name, spec.gives, spec.token, spec.lease, spec.subjects, digest);
        let role = match spec.audiences {
            Some(audiences) => role.and_then(|role| role.with_audiences(audiences)),
            None => role,
        };
        match role {
            Ok(role) => Some(
                role.with_silence(spec.silence)
                    .with_limits(spec.limits)
                    .with_needs(spec.needs)
                    .with_on_change(spec.on_change)
                    .with_dry_run(spec.dry_run),
            ),
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
            "audiences",
            "lifetimes",
            "silence",
            "onChange",
            "dryRun",
            "limits",
            "needs",
            "subjects",
        ])?;
        let cluster = fields.required("cluster", |cluster| self.cluster(cluster));
        let gives = gives(cursor, &fields, cluster.as_ref());
        let audiences = fields.optional("audiences", |list| Some(self.audiences(list)));
        let lifetimes = fields.optional("lifetimes", lifetimes).unwrap_or((TOKEN_LIFETIME, LEASE_LIFETIME));
        let silence = fields.optional("silence", silence).unwrap_or_default();
        let on_change = fields.optional("onChange", on_change).unwrap_or_default();
        let dry_run = fields.optional("dryRun", only_true).is_some();
        let limits = fields.optional("limits", limits).unwrap_or_default();
        let needs =
            fields.optional("needs", |list| Some(needs::needs(list))).unwrap_or_else(|| Some(Vec::new()));
        let subjects =
            fields.required("subjects", |subjects| subjects.list(|item| subject(item, self.known)));
        cluster?;
        let ((token, lease), gives) = (lifetimes, gives?);
        let needs = needs?.into_iter().map(|need| need.within(gives.working_namespace())).collect();
        // A list with a fault in it is no absent one, which would be for the API server.
        let audiences = audiences.map_or(Some(None), |audiences| audiences.map(Some))?;
        Some(Spec {
            gives,
            audiences,
            token,
            lease,
            silence,
            on_change,
            dry_run,
            limits,
            needs,
            subjects: subjects?,
        })
    }

    /// For whom else than the API server tokens are.
    fn audiences(&self, cursor: &Cursor<'_>) -> Option<Audiences> {
        let named = cursor.list(|audience| {
            let text = audience.text()?.to_owned();
            let taken = self.known.and_then(|known| known.taken.iter().find(|taken| taken.holds(&text)));
            match taken {
                Some(taken) => audience.fault(format!(
                    "{text} is the audience of {}: a token for one must not be good for the other, so choose another",
                    taken.whose
                )),
                None => Some(text),
            }
        })?;
        match Audiences::new(named) {
            Ok(audiences) => Some(audiences),
            Err(problem) => cursor.fault(problem),
        }
    }

    fn cluster(&self, cursor: &Cursor<'_>) -> Option<Name> {
        let cluster = cursor.name()?;
        let clusters = self.known.map(|known| &known.clusters);
        let Some(clusters) = clusters.filter(|clusters| !clusters.contains(&cluster)) else {
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
    audiences: Option<Audiences>,
    token: Lifetime,
    lease: Lifetime,
    silence: Silence,
    on_change: OnChange,
    dry_run: bool,
    limits: Limits,
    needs: Vec<Need>,
    subjects: Vec<Subject>,
}

/// The mode follows from which key is there.
fn gives(cursor: &Cursor<'_>, fields: &Fields<'_>, cluster: Option<&Name>) -> Option<Gives> {
    let unbound = fields.optional("dangerouslyUnbound", only_true);
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

fn only_true(cursor: &Cursor<'_>) -> Option<()> {
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

fn on_change(cursor: &Cursor<'_>) -> Option<OnChange> {
    match cursor.text()? {
        "keep" => Some(OnChange::Keep),
        "end" => Some(OnChange::End),
        other => cursor.fault(format!("{other:?} is not known: write keep or end")),
    }
}

fn limits(cursor: &Cursor<'_>) -> Option<Limits> {
    let fields = cursor.fields(&["leases", "mintsPerMinute"])?;
    let leases = fields.optional("leases", |leases| leases.count(100_000));
    let mints_per_minute = fields.optional("mintsPerMinute", |mints| mints.count(100_000));
    Some(Limits { leases, mints_per_minute })
}

fn subject(cursor: &Cursor<'_>, known: Option<&Known<'_>>) -> Option<Subject> {
    let fields = cursor.fields(&["trustDomain", "runners", "labels", "platforms", "jobs", "acceptJobs"])?;
    let patterns = |cursor: &Cursor<'_>| cursor.list(|pattern| pattern.parsed(NamePattern::parse));
    let accept = |cursor: &Cursor<'_>| match cursor.text()? {
        "asserted" => Some(true),
        other => cursor.fault(format!("{other:?} is not known: write asserted, or leave the key out")),
    };
    // A list with a fault in it names somebody all the same: that is told once, where the fault is.
    let list = |key| fields.optional(key, |list| Some(patterns(list))).unwrap_or_else(|| Some(Vec::new()));
    let (runners, platforms) = (list("runners"), list("platforms"));
    // One with a fault in it is no absent one, which would name other callers.
    let trust_domain = fields.optional("trustDomain", |domain| Some(trust_domain(domain, known)));
    let accept_asserted_jobs = fields.optional("acceptJobs", accept).unwrap_or(false);
    let labels = fields.optional("labels", labels).unwrap_or_default();
    let jobs = fields.optional("jobs", |jobs| Some(jobs::jobs(jobs, known)));
    let subject = Subject {
        trust_domain: trust_domain.map_or(Some(None), |domain| domain.map(Some))?,
        runners: runners?,
        platforms: platforms?,
        labels,
        jobs: jobs.map_or(Some(None), |jobs| jobs.map(Some))?,
        accept_asserted_jobs,
    };
    if !subject.runners.is_empty() && !subject.accept_asserted_jobs && subject.jobs.is_none() {
        cursor.warn_below("runners", NO_JOBS);
    }
    Some(subject)
}

/// A trust domain whose callers there may be.
fn trust_domain(cursor: &Cursor<'_>, known: Option<&Known<'_>>) -> Option<TrustDomain> {
    let domain = cursor.parsed(TrustDomain::parse)?;
    let Some(known) = known.filter(|known| !known.trust_domains.contains(&domain)) else {
        return Some(domain);
    };
    let names: Vec<&str> = known.trust_domains.iter().map(TrustDomain::as_str).collect();
    let meant = closest(domain.as_str(), &names).map(|name| format!(", did you mean {name}?"));
    let (meant, names) = (meant.unwrap_or_default(), names.join(", "));
    cursor.fault(format!(
        "the issuer's config has no trust bundle of trust domain {domain}{meant} (known: {names})"
    ))
}

/// Labels that all have to be there, with these values.
pub(crate) fn labels(cursor: &Cursor<'_>) -> Option<Labels> {
    let pairs = cursor.pairs("labels and their values")?;
    let read: Vec<_> =
        pairs.iter().map(|(name, value)| Some(((*name).to_owned(), value.text()?.to_owned()))).collect();
    let read: Option<Vec<(String, String)>> = read.into_iter().collect();
    match Labels::new(read?) {
        Ok(labels) if labels.is_empty() => cursor.fault("name at least one label, or leave the key out"),
        Ok(labels) => Some(labels),
        Err(problem) => cursor.fault(problem),
    }
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
mod tests;
