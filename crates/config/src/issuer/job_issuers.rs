//! Whose job tokens are taken: `spec.jobIssuers`.

use std::path::PathBuf;
use std::time::Duration;

use shorepass_core::audience::OF_API_SERVERS;
use shorepass_core::claims::ClaimKind;
use shorepass_core::job_issuer::{Declared, JobIssuer, KnownClaim, RunnerBinding, System};

use crate::cursor::{Cursor, Fields};
use crate::scalar::HostPort;

const LONGEST_FLOOR: Duration = Duration::from_secs(60);
const LONGEST_CEILING: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// An audience is compared whole; this is longer than any URL that people choose for one.
const AUDIENCE_LIMIT: usize = 200;

/// An issuer of job tokens, and how its keys are had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobIssuerConfig {
    /// What is known of its tokens.
    pub issuer: JobIssuer,
    /// Where its keys are had.
    pub documents: DocumentsConfig,
}

/// Where an issuer of tokens has its discovery document and keys, and who vouches for that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentsConfig {
    /// A PEM file with the certificate authorities to trust for its discovery document and keys; the system's without.
    pub ca_file: Option<PathBuf>,
    /// Where its discovery document is, if not below its URL.
    pub discovery_url: Option<String>,
    /// At which host its keys may be, besides that of its discovery document.
    pub keys_host: Option<HostPort>,
    /// Where its keys are, whatever its discovery document says.
    pub keys_url: Option<String>,
}

pub(super) fn job_issuers(cursor: &Cursor<'_>) -> Option<Vec<JobIssuerConfig>> {
    cursor.some_apart(
        "job issuer",
        job_issuer,
        |one, other| one.clashes(other),
        "an issuer of this name or URL stands here already: tokens are told apart by their `iss`",
    )
}

impl JobIssuerConfig {
    /// Whether tokens of both could be taken for each other's.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        self.issuer.name() == other.issuer.name() || self.issuer.url() == other.issuer.url()
    }
}

fn job_issuer(cursor: &Cursor<'_>) -> Option<JobIssuerConfig> {
    let fields = cursor.fields(&[
        "name",
        "system",
        "url",
        "audience",
        "runner",
        "runnerLabel",
        "caFile",
        "discoveryUrl",
        "keysHost",
        "keysUrl",
        "jobClaim",
        "claims",
        "longestJob",
    ])?;
    let name = fields.required("name", Cursor::name);
    let system = fields.required("system", system);
    let url = fields.required("url", |url| url.parsed(issuer_url));
    let audience = fields.required("audience", |audience| audience.parsed(parse_job_audience));
    let label = fields.optional("runnerLabel", |label| label.text().map(str::to_owned));
    let runner = fields.required("runner", |runner| binding(runner, label));
    let documents = documents(cursor, &fields);
    let job = fields.optional("jobClaim", |claim| claim.text().map(str::to_owned));
    let claims = fields.optional("claims", |claims| claims.list(claim)).unwrap_or_default();
    let longest =
        fields.optional("longestJob", |longest| longest.duration_within(LONGEST_FLOOR..=LONGEST_CEILING));
    let declared = Declared { claims, job };
    match JobIssuer::new(name?, system?, url?, audience?, runner?, declared) {
        Ok(issuer) => {
            let issuer = longest.map_or(issuer.clone(), |longest| issuer.with_longest_job(longest));
            Some(JobIssuerConfig { issuer, documents: documents? })
        }
        Err(unfit) => cursor.fault_below(unfit.field, unfit.problem),
    }
}

/// Reads what is about documents and keys among the fields of an issuer.
pub(super) fn documents(cursor: &Cursor<'_>, fields: &Fields<'_>) -> Option<DocumentsConfig> {
    let documents = DocumentsConfig {
        ca_file: fields.optional("caFile", Cursor::file_path),
        discovery_url: fields.optional("discoveryUrl", |url| url.parsed(document_url)),
        keys_host: fields.optional("keysHost", |host| host.parsed(HostPort::parse)),
        keys_url: fields.optional("keysUrl", |url| url.parsed(document_url)),
    };
    if documents.keys_host.is_some() && documents.keys_url.is_some() {
        return cursor.fault_below(
            "keysHost",
            "keysUrl stands here too: where that says where the keys are, no host is looked for",
        );
    }
    Some(documents)
}

fn system(cursor: &Cursor<'_>) -> Option<System> {
    let text = cursor.text()?;
    let known = System::ALL.map(System::as_str).join(", ");
    System::parse(text).or_else(|| cursor.fault(format!("{text:?} is not known here (known: {known})")))
}

/// How a token is bound to the runner that may use it. There is no default: what a borrowed token can do depends on it.
fn binding(cursor: &Cursor<'_>, label: Option<String>) -> Option<RunnerBinding> {
    match (cursor.text()?, label) {
        ("firstUse", None) => Some(RunnerBinding::FirstUse),
        ("audience", None) => Some(RunnerBinding::Audience),
        ("label", Some(label)) => Some(RunnerBinding::Label { label }),
        ("label", None) => cursor.fault("write runnerLabel too: the label of an enrolment that holds the runner's id"),
        ("firstUse" | "audience", Some(_)) => cursor.fault("runnerLabel goes with `runner: label` only"),
        (other, _) => cursor.fault(format!(
            "{other:?} is not known: write audience (the runner's name ends the audience of its tokens), label (the token \
             names the runner, and a label of its enrolment is the same), or firstUse (whoever uses a token first)"
        )),
    }
}

fn claim(cursor: &Cursor<'_>) -> Option<KnownClaim> {
    let fields = cursor.fields(&["name", "type", "path", "project"])?;
    let name = fields.required("name", |name| name.parsed(claim_name));
    let kind = fields.optional("type", claim_kind);
    let path =
        fields.optional("path", |path| path.some("name of a claim", |part| part.text().map(str::to_owned)));
    let project = fields.optional("project", |project| match project.text()? {
        "true" => Some(true),
        "false" => Some(false),
        other => project.fault(format!("{other:?} is neither true nor false")),
    });
    let name = name?;
    Some(KnownClaim {
        path: path.unwrap_or_else(|| vec![name.clone()]),
        name,
        kind: kind.unwrap_or(ClaimKind::Text),
        project: project.unwrap_or(false),
    })
}

pub(super) fn claim_kind(cursor: &Cursor<'_>) -> Option<ClaimKind> {
    match cursor.text()? {
        "text" => Some(ClaimKind::Text),
        "number" => Some(ClaimKind::Number),
        "flag" => Some(ClaimKind::Flag),
        "texts" => Some(ClaimKind::Texts),
        other => cursor.fault(format!("{other:?} is not known: write text, number, flag or texts")),
    }
}

pub(super) fn claim_name(text: &str) -> Result<String, String> {
    let well_formed = (1..=64).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if well_formed {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a name for a claim: use 1 to 64 of a-z, 0-9 and '_', and say with `path` where it is in the token"
    ))
}

/// The `iss` of tokens, whole: it is compared byte by byte (OpenID Connect Core, 2).
pub(super) fn issuer_url(text: &str) -> Result<String, String> {
    crate::scalar::parse_server_url(text).map_err(|_| {
        format!("{text:?} is not the URL of a token issuer, such as https://gitlab.example.org")
    })?;
    Ok(text.to_owned())
}

/// Where one document of an issuer is, whole: a folder below which it might be is none.
fn document_url(text: &str) -> Result<String, String> {
    let well_formed = crate::scalar::parse_server_url(text).is_ok()
        && text
            .strip_prefix("https://")
            .and_then(|rest| rest.split_once('/'))
            .is_some_and(|(_, path)| !path.is_empty());
    if well_formed {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not the whole URL of a document, such as https://kubernetes.example.org:6443/.well-known/openid-configuration"
    ))
}

/// One that is not an API server's: each pod's own token would be a job's.
fn parse_job_audience(text: &str) -> Result<String, String> {
    let audience = parse_audience(text)?;
    match OF_API_SERVERS.contains(&audience.as_str()) {
        true => Err(format!(
            "{audience} is the audience of API servers: a token for one must not be good for the other, so choose another, such as \
             https://shorepass.example.org/jobs"
        )),
        false => Ok(audience),
    }
}

/// An audience of tokens.
pub(super) fn parse_audience(text: &str) -> Result<String, String> {
    let well_formed = text.len() <= AUDIENCE_LIMIT
        && !text.ends_with('/')
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'*' | b',' | b'"' | b'\\'));
    if well_formed {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not an audience: use up to {AUDIENCE_LIMIT} characters without spaces, '*', ',' and quotes, and no '/' at \
         the end, such as https://shorepass.example.org/jobs"
    ))
}

#[cfg(test)]
mod tests;
