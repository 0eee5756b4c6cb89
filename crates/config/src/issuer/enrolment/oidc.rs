//! Whose tokens let machines in: `spec.enrolment.oidc`.

use shorepass_core::claims::ClaimKind;
use shorepass_core::job_issuer::{JobIssuer, KnownClaim};
use shorepass_core::labels::Labels;
use shorepass_core::machine_token::MachineRule;

use super::Beside;
use super::pods::pattern;
use crate::cursor::Cursor;
use crate::issuer::JobIssuerConfig;
use crate::issuer::job_issuers::{claim_kind, claim_name, documents, issuer_url, parse_audience};
use crate::role;

/// An issuer whose tokens let machines in, and which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineIssuerConfig {
    /// What is known of its tokens, and how its keys are had.
    pub issuer: JobIssuerConfig,
    /// Which tokens let in whom, at least one.
    pub admit: Vec<MachineRule>,
}

pub(super) fn machine_issuers(cursor: &Cursor<'_>, beside: &Beside<'_>) -> Option<Vec<MachineIssuerConfig>> {
    cursor.some_apart(
        "issuer",
        |item| machine_issuer(item, beside),
        |one, other| one.issuer.clashes(&other.issuer),
        "an issuer of this name or URL stands here already: write all that it lets in under one `admit`",
    )
}

fn machine_issuer(cursor: &Cursor<'_>, beside: &Beside<'_>) -> Option<MachineIssuerConfig> {
    let fields = cursor.fields(&[
        "name",
        "url",
        "audience",
        "caFile",
        "discoveryUrl",
        "keysHost",
        "keysUrl",
        "claims",
        "admit",
    ])?;
    let name = fields.required("name", Cursor::name);
    let url = fields.required("url", |url| url.parsed(issuer_url));
    let audience = fields.required("audience", |audience| {
        let text = audience.parsed(parse_audience)?;
        beside.not_taken(audience, text)
    });
    let documents = documents(cursor, &fields);
    let claims = fields.optional("claims", |claims| claims.list(claim)).unwrap_or_default();
    let issuer = match JobIssuer::of_machines(name?, url?, audience?, claims) {
        Ok(issuer) => issuer,
        Err(unfit) => return cursor.fault_below(unfit.field, unfit.problem),
    };
    let admit = fields.required("admit", |rules| rules.some("rule", |item| rule(item, &issuer)));
    Some(MachineIssuerConfig { issuer: JobIssuerConfig { issuer, documents: documents? }, admit: admit? })
}

fn claim(cursor: &Cursor<'_>) -> Option<KnownClaim> {
    let fields = cursor.fields(&["name", "type", "path"])?;
    let name = fields.required("name", |name| name.parsed(claim_name));
    let kind = fields.optional("type", claim_kind);
    let path =
        fields.optional("path", |path| path.some("name of a claim", |part| part.text().map(str::to_owned)));
    let name = name?;
    Some(KnownClaim {
        path: path.unwrap_or_else(|| vec![name.clone()]),
        name,
        kind: kind.unwrap_or(ClaimKind::Text),
        project: false,
    })
}

fn rule(cursor: &Cursor<'_>, issuer: &JobIssuer) -> Option<MachineRule> {
    let fields = cursor.fields(&["claims", "runners", "labels"])?;
    let claims = fields.required("claims", |claims| role::jobs::values(claims, issuer));
    let runners = fields.required("runners", |list| list.some("name or pattern", pattern));
    let labels: Option<Labels> = fields.optional("labels", role::labels);
    match MachineRule::new(issuer, claims?, runners?, labels.unwrap_or_default()) {
        Ok(rule) => Some(rule),
        Err(unfit) => match unfit.claim {
            Some(claim) => cursor.fault_below(&format!("claims.{claim}"), unfit.problem),
            None => cursor.fault_below("claims", unfit.problem),
        },
    }
}
