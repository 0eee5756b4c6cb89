//! `tests` of a role document: what the role should say to whom.
//!
//! They are read with the document and change nothing about it: the issuer looks at their form alone, and
//! `shorepass role test` decides them. A claim is written under the name and with the type that roles have for it, not as
//! the CI system sends it.

use shorepass_core::caller::Kind;
use shorepass_core::claims::{Claim, ClaimKind, Claims};
use shorepass_core::job_issuer::JobIssuer;
use shorepass_core::labels::Labels;
use shorepass_core::name::{Name, TrustDomain};

use super::{Known, jobs};
use crate::cursor::{Cursor, Fields};

/// A test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// The role.
    pub role: Name,
    /// Of which trust domain it is; none means the issuer's own.
    pub trust_domain: Option<TrustDomain>,
    /// A runner or a platform.
    pub kind: Kind,
    /// Its name.
    pub caller: Name,
    /// The runner's labels.
    pub labels: Labels,
    /// What its job shows.
    pub job: CaseJob,
    /// What is expected.
    pub expected: Expected,
    /// File name and line.
    pub place: String,
}

/// What the job of a test shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseJob {
    /// Nothing.
    Asserted,
    /// A token with these claims.
    Verified {
        /// Whose token, by its name in the issuer's config.
        issuer: Name,
        /// What it says.
        claims: Claims,
    },
}

/// What is expected of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The role is given.
    Allowed,
    /// It is not.
    Denied {
        /// What the explanation says among other things.
        because: Option<String>,
    },
}

/// Reads the list. None where nothing is known of job issuers: a claim's type is theirs to say.
pub(super) fn cases(
    cursor: &Cursor<'_>,
    role: Option<&Name>,
    known: Option<&Known<'_>>,
) -> Option<Vec<Case>> {
    let Some(known) = known else { return Some(Vec::new()) };
    cursor.some("test", |item| case(item, role, known))
}

fn case(cursor: &Cursor<'_>, role: Option<&Name>, known: &Known<'_>) -> Option<Case> {
    let fields = cursor.fields(&[
        "name",
        "trustDomain",
        "runner",
        "labels",
        "platform",
        "job",
        "expect",
        "because",
    ])?;
    let name = fields.required("name", |name| name.text().map(str::to_owned));
    let caller = caller(cursor, &fields);
    let trust_domain = fields.optional("trustDomain", |domain| super::trust_domain(domain, Some(known)));
    let labels = fields.optional("labels", super::labels);
    if labels.is_some() && fields.has("platform") {
        return cursor.fault_below("labels", "platforms have no labels: leave the key out");
    }
    let job = fields.required("job", |job| self::job(job, known));
    let because = fields.optional("because", |because| because.text().map(str::to_owned));
    let expected = fields.required("expect", |expect| match expect.text()? {
        "denied" => Some(Expected::Denied { because: because.clone() }),
        "allowed" if because.is_none() => Some(Expected::Allowed),
        "allowed" => cursor.fault_below("because", "is for `expect: denied`: leave the key out"),
        other => expect.fault(format!("{other:?} is not known: write allowed or denied")),
    });
    let (kind, caller) = caller?;
    Some(Case {
        name: name?,
        role: role?.clone(),
        trust_domain,
        kind,
        caller,
        labels: labels.unwrap_or_default(),
        job: job?,
        expected: expected?,
        place: cursor.place(),
    })
}

fn caller(cursor: &Cursor<'_>, fields: &Fields<'_>) -> Option<(Kind, Name)> {
    let named = (fields.has("runner"), fields.has("platform"));
    let runner = fields.optional("runner", Cursor::name).map(|name| (Kind::Runner, name));
    let platform = fields.optional("platform", Cursor::name).map(|name| (Kind::Platform, name));
    match named {
        (true, false) | (false, true) => runner.or(platform),
        (true, true) | (false, false) => cursor.fault("name one of runner and platform: who asks"),
    }
}

fn job(cursor: &Cursor<'_>, known: &Known<'_>) -> Option<CaseJob> {
    let fields = cursor.fields(&["asserted", "issuer", "claims"])?;
    if !fields.has("asserted") {
        let issuer = fields.required("issuer", |issuer| jobs::find(issuer, known));
        let claims = fields.required("claims", |claims| self::claims(claims, issuer?));
        return Some(CaseJob::Verified { issuer: issuer?.name().clone(), claims: claims? });
    }
    if fields.has("issuer") || fields.has("claims") {
        return cursor.fault("an asserted job shows no claims: keep asserted, or issuer and claims");
    }
    fields.required("asserted", |asserted| match asserted.text()? {
        "true" => Some(CaseJob::Asserted),
        other => asserted.fault(format!("{other:?} is not known: write true, or issuer and claims instead")),
    })
}

fn claims(cursor: &Cursor<'_>, issuer: &JobIssuer) -> Option<Claims> {
    let mut claims = Claims::default();
    let mut read = Some(());
    for (name, value) in cursor.pairs("claims and their values")? {
        let claim = jobs::known_claim(&value, issuer, name).and_then(|known| one(&value, known.kind));
        let inserted = claim.and_then(|claim| match claims.get(name) {
            Some(_) => value.fault("the claim stands here twice"),
            None => claims.insert(name, claim).map_or_else(|unfit| value.fault(unfit), Some),
        });
        read = read.and(inserted);
    }
    read.map(|()| claims)
}

fn one(value: &Cursor<'_>, kind: ClaimKind) -> Option<Claim> {
    match kind {
        ClaimKind::Texts => value.list(|text| text.text().map(str::to_owned)).map(Claim::Texts),
        ClaimKind::Text if value.is_empty_text() => Some(Claim::Text(String::new())),
        ClaimKind::Text | ClaimKind::Number | ClaimKind::Flag => jobs::claim(value, kind),
    }
}
