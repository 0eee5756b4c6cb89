//! Which certificates of other PKIs are taken: `spec.trustBundles`.
//!
//! Whether the files exist is found out by whoever reads them, again and again.

use std::path::PathBuf;

use shorepass_core::caller::Kind;
use shorepass_core::name::TrustDomain;
use shorepass_core::trust_bundle::{PathPrefix, TrustBundle};

use crate::cursor::Cursor;

/// A trust bundle, and where its certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundleConfig {
    /// Whom it lets in.
    pub bundle: TrustBundle,
    /// A PEM file with the CAs that it trusts.
    pub file: PathBuf,
}

pub(super) fn trust_bundles(
    cursor: &Cursor<'_>,
    own: Option<&TrustDomain>,
) -> Option<Vec<TrustBundleConfig>> {
    let read = |item: &Cursor<'_>| {
        let read = trust_bundle(item)?;
        if own == Some(read.bundle.trust_domain()) {
            return item.fault_below(
                "trustDomain",
                "is the issuer's own, whose certificates its own CA signs: a trust bundle is for another one",
            );
        }
        Some(read)
    };
    cursor.some_apart(
        "trust bundle",
        read,
        |one, other| {
            let (one, other) = (&one.bundle, &other.bundle);
            one.name() == other.name() || one.trust_domain() == other.trust_domain()
        },
        "a trust bundle of this name or trust domain stands here already: a trust domain has one bundle, with all \
         of its CAs in one file",
    )
}

fn trust_bundle(cursor: &Cursor<'_>) -> Option<TrustBundleConfig> {
    let fields = cursor.fields(&["name", "trustDomain", "file", "kinds", "pathPrefixes"])?;
    let name = fields.required("name", Cursor::name);
    let trust_domain = fields.required("trustDomain", |domain| domain.parsed(TrustDomain::parse));
    let file = fields.required("file", Cursor::file_path);
    let kinds = fields.required("kinds", |kinds| kinds.some("kind", kind));
    let path_prefixes = fields.required("pathPrefixes", |prefixes| {
        prefixes.some("path prefix", |prefix| prefix.parsed(PathPrefix::parse))
    });
    let file = file?;
    match TrustBundle::new(name?, trust_domain?, kinds?, path_prefixes?) {
        Ok(bundle) => Some(TrustBundleConfig { bundle, file }),
        Err(unfit) => cursor.fault_below(unfit.field, unfit.problem),
    }
}

fn kind(cursor: &Cursor<'_>) -> Option<Kind> {
    let text = cursor.text()?;
    let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
    known.or_else(|| cursor.fault(format!("{text:?} is not known: write runner, platform or operator")))
}

#[cfg(test)]
mod tests;
