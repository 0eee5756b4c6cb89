//! Trust bundles: whose certificates are taken that another PKI has signed, and what such a certificate may say.
//!
//! A bundle belongs to one trust domain that is not the issuer's, and to the kinds and path prefixes that are named: what
//! the other PKI signs beyond these is nobody here. Which CAs are in it is not known here; that changes while the issuer
//! runs, and this does not.

use std::fmt;

use crate::caller::{Kind, SpiffeId};
use crate::id::EnrolmentId;
use crate::name::{Name, TrustDomain};

/// A trust bundle, without its certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    name: Name,
    trust_domain: TrustDomain,
    kinds: Vec<Kind>,
    path_prefixes: Vec<PathPrefix>,
}

/// What the path of a SPIFFE ID begins with: `/<kind>/`, and perhaps what names begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefix {
    kind: Kind,
    name: String,
}

/// Why a text is no path prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a path prefix: write /<kind>/ for all callers of a kind, or /<kind>/ and what their names begin with, \
     such as /platform/portal-"
)]
pub struct PathPrefixError(String);

/// Why there is no such bundle. `field` is the key that says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct TrustBundleError {
    /// `kinds` or `pathPrefixes`.
    pub field: &'static str,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl PathPrefix {
    /// Parses `/runner/` or `/runner/prod-`.
    pub fn parse(text: &str) -> Result<Self, PathPrefixError> {
        let refused = || PathPrefixError(text.to_owned());
        let (kind, name) =
            text.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(refused)?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or_else(refused)?;
        // What a name can begin with may end in '-': tested with a letter behind it.
        let begins_a_name = name.is_empty() || Name::parse(&format!("{name}a")).is_ok();
        if begins_a_name { Ok(Self { kind, name: name.to_owned() }) } else { Err(refused()) }
    }

    fn admits(&self, id: &SpiffeId) -> bool {
        id.kind == self.kind && id.name.as_str().starts_with(&self.name)
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}", self.kind, self.name)
    }
}

impl TrustBundle {
    /// Checks that it names somebody by each of its words.
    pub fn new(
        name: Name,
        trust_domain: TrustDomain,
        kinds: Vec<Kind>,
        path_prefixes: Vec<PathPrefix>,
    ) -> Result<Self, TrustBundleError> {
        let unfit = |field, problem: String| Err(TrustBundleError { field, problem });
        if kinds.contains(&Kind::Issuer) {
            return unfit("kinds", "an issuer's certificate is its own CA's: take `issuer` out".to_owned());
        }
        if let Some(prefix) = path_prefixes.iter().find(|prefix| !kinds.contains(&prefix.kind)) {
            return unfit(
                "pathPrefixes",
                format!(
                    "{prefix} names nobody, because kinds has no {}: add it there, or take this out",
                    prefix.kind
                ),
            );
        }
        let nobody = |kind: &&Kind| !path_prefixes.iter().any(|prefix| prefix.kind == **kind);
        if let Some(kind) = kinds.iter().find(nobody) {
            return unfit("pathPrefixes", format!("no {kind} is let in: name a prefix such as /{kind}/"));
        }
        if kinds.is_empty() {
            return unfit("kinds", "name at least one kind: runner, platform or operator".to_owned());
        }
        Ok(Self { name, trust_domain, kinds, path_prefixes })
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The trust domain that it belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether a certificate that leads to it may be for this SPIFFE ID.
    pub fn admits(&self, id: &SpiffeId) -> bool {
        id.trust_domain == self.trust_domain
            && self.kinds.contains(&id.kind)
            && self.path_prefixes.iter().any(|prefix| prefix.admits(id))
    }

    /// What stands for an enrolment in the owner of what such a caller creates.
    pub fn enrolment_of(&self, id: &SpiffeId) -> EnrolmentId {
        EnrolmentId::of_bundle(&self.name, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(kinds: &[Kind], prefixes: &[&str]) -> Result<TrustBundle, TrustBundleError> {
        let prefixes = prefixes.iter().map(|text| PathPrefix::parse(text).unwrap()).collect();
        let domain = TrustDomain::parse("partner.example.org").unwrap();
        TrustBundle::new(Name::parse("partner").unwrap(), domain, kinds.to_vec(), prefixes)
    }

    #[test]
    fn only_what_is_named_three_times_over_is_let_in() {
        let bundle = bundle(&[Kind::Platform, Kind::Runner], &["/platform/", "/runner/prod-"]).unwrap();
        for (id, admitted) in [
            ("spiffe://partner.example.org/platform/portal", true),
            ("spiffe://partner.example.org/runner/prod-1", true),
            ("spiffe://partner.example.org/runner/test-1", false),
            ("spiffe://partner.example.org/runner/prod", false),
            ("spiffe://partner.example.org/operator/alice", false),
            ("spiffe://partner.example.org/issuer/main", false),
            ("spiffe://ci.example.org/platform/portal", false),
        ] {
            assert_eq!(bundle.admits(&SpiffeId::parse(id).unwrap()), admitted, "{id}");
        }
    }

    #[test]
    fn prefixes_begin_with_a_whole_kind() {
        for good in ["/runner/", "/platform/p", "/operator/alice", "/runner/prod-"] {
            assert_eq!(PathPrefix::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "/",
            "/run",
            "/runner",
            "runner/",
            "/runner/*",
            "/runner/-",
            "/runner/a/",
            "/Runner/",
            "//",
            "/admin/",
        ] {
            assert!(PathPrefix::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_that_name_nobody_are_refused_by_field() {
        let field = |kinds: &[Kind], prefixes: &[&str]| bundle(kinds, prefixes).unwrap_err().field;
        assert_eq!(field(&[], &[]), "kinds");
        assert_eq!(field(&[Kind::Issuer], &["/issuer/"]), "kinds");
        assert_eq!(field(&[Kind::Runner], &[]), "pathPrefixes");
        assert_eq!(field(&[Kind::Runner], &["/runner/", "/platform/"]), "pathPrefixes");
        assert_eq!(field(&[Kind::Runner, Kind::Operator], &["/runner/"]), "pathPrefixes");
    }
}
