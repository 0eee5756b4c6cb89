//! Which jobs get a role: `subjects[].jobs`.

use shorepass_core::claims::{Claim, ClaimKind};
use shorepass_core::job_issuer::{JobIssuer, KnownClaim};
use shorepass_core::job_requirement::JobRequirement;

use super::Known;
use crate::cursor::{Cursor, closest};

/// Reads a requirement. Where nothing is known of job issuers, one that nobody meets.
pub(super) fn jobs(cursor: &Cursor<'_>, known: Option<&Known<'_>>) -> Option<JobRequirement> {
    let fields = cursor.fields(&["issuer", "claims", "condition"])?;
    let name = fields.required("issuer", Cursor::name);
    let Some(known) = known else {
        fields.required("claims", |claims| claims.pairs("claims and their values").map(drop))?;
        return name.map(JobRequirement::that_nobody_meets);
    };
    let issuer = fields.required("issuer", |issuer| find(issuer, known));
    let claims = fields.required("claims", |claims| values(claims, issuer?));
    let condition = fields.optional("condition", |condition| {
        let text = condition.text()?;
        Some(known.conditions.compile(text, issuer?).map_err(|problem| condition.fault::<()>(problem)).ok())
    });
    let condition = condition.map_or(Some(None), |compiled| compiled.map(Some))?;
    match JobRequirement::new(issuer?, claims?, condition) {
        Ok(requirement) => Some(requirement),
        Err(unfit) => match unfit.claim {
            Some(claim) => cursor.fault_below(&format!("claims.{claim}"), unfit.problem),
            None => cursor.fault_below("claims", unfit.problem), // of the condition, too: its claims go with these
        },
    }
}

/// The issuer that is named.
pub(super) fn find<'k>(cursor: &Cursor<'_>, known: &'k Known<'_>) -> Option<&'k JobIssuer> {
    let name = cursor.name()?;
    let found = known.job_issuers.iter().find(|issuer| *issuer.name() == name);
    if found.is_some() {
        return found;
    }
    let names: Vec<&str> = known.job_issuers.iter().map(|issuer| issuer.name().as_str()).collect();
    let meant =
        closest(name.as_str(), &names).map(|name| format!(", did you mean {name}?")).unwrap_or_default();
    match names.is_empty() {
        true => {
            cursor.fault(format!("the issuer's config has no job issuers: add {name} to spec.jobIssuers"))
        }
        false => cursor.fault(format!(
            "the issuer's config has no job issuer {name}{meant} (configured: {})",
            names.join(", ")
        )),
    }
}

/// Each claim with the values that it may have: one, or a list of them.
pub(crate) fn values(cursor: &Cursor<'_>, issuer: &JobIssuer) -> Option<Vec<(String, Vec<Claim>)>> {
    let pairs = cursor.pairs("claims and their values")?;
    let read = pairs.iter().map(|(name, value)| {
        let known = known_claim(value, issuer, name)?;
        let one = |value: &Cursor<'_>| claim(value, known.kind);
        let values = if value.is_list() { value.some("value", one)? } else { vec![one(value)?] };
        Some(((*name).to_owned(), values))
    });
    let read: Vec<Option<(String, Vec<Claim>)>> = read.collect();
    read.into_iter().collect()
}

/// The claim of that name.
pub(super) fn known_claim<'k>(
    cursor: &Cursor<'_>,
    issuer: &'k JobIssuer,
    name: &str,
) -> Option<&'k KnownClaim> {
    let found = issuer.claim(name);
    if found.is_some() {
        return found;
    }
    let all: Vec<&str> = issuer.known().map(|known| known.name.as_str()).collect();
    let meant = closest(name, &all).map(|name| format!(", did you mean {name}?")).unwrap_or_default();
    cursor.fault(format!(
        "tokens of {} have no claim {name:?} that is known{meant} (known: {})",
        issuer.name(),
        all.join(", ")
    ))
}

/// One value, of the claim's kind.
pub(super) fn claim(cursor: &Cursor<'_>, kind: ClaimKind) -> Option<Claim> {
    let text = cursor.text()?;
    let looks_like_more =
        text.parse::<f64>().is_ok() || matches!(text, "true" | "false" | "yes" | "no" | "on" | "off");
    match kind {
        ClaimKind::Text if looks_like_more && !cursor.is_quoted() => {
            cursor.fault(format!("this claim is text: write {text:?}, in quotes"))
        }
        ClaimKind::Text => Some(Claim::Text(text.to_owned())),
        ClaimKind::Number => match text.parse() {
            Ok(number) if !cursor.is_quoted() => Some(Claim::Number(number)),
            Ok(_) | Err(_) => cursor.fault("this claim is a whole number: write it without quotes"),
        },
        ClaimKind::Flag => match text {
            "true" if !cursor.is_quoted() => Some(Claim::Flag(true)),
            "false" if !cursor.is_quoted() => Some(Claim::Flag(false)),
            _ => cursor.fault("this claim is true or false, without quotes"),
        },
        ClaimKind::Texts => {
            cursor.fault("this claim is a list: ask for it in a condition, such as `\"x\" in claims.NAME`")
        }
    }
}
