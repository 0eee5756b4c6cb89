//! For whom tokens are (`aud`), where that is not the API server of their cluster.
//!
//! A set and no list: the order says nothing, and two documents that name the same ones give out the same. Whoever verifies such
//! a token by the cluster's keys alone does not see that its lease was revoked: see [`crate::receipt::Why::ForOthers`].

use std::collections::BTreeSet;
use std::fmt;

/// What API servers call themselves unless they are told otherwise: a token for them is a credential.
pub const OF_API_SERVERS: [&str; 3] =
    ["https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local", "kubernetes"];
/// How many a token may be for.
pub const AUDIENCES_LIMIT: usize = 4;
/// How long each may be.
pub const AUDIENCE_LIMIT: usize = 200;

/// For whom else than the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audiences(BTreeSet<String>);

/// Why some texts are not those for whom tokens may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    /// It is none.
    #[error(
        "{0:?} is not an audience: a word or a URI of at most {AUDIENCE_LIMIT} characters, without spaces and quotes, such as \
         https://vault.example.org"
    )]
    Audience(String),
    /// The API server takes such tokens.
    #[error(
        "{0} is what API servers call themselves: leave spec.audiences out of a role for the API server, and write a role of its \
         own for others, who could use the token there"
    )]
    ApiServer(String),
    /// None or too many.
    #[error("name 1 to {AUDIENCES_LIMIT} different audiences, or leave the key out for the API server")]
    Count,
}

impl Audiences {
    /// All of them, each once.
    pub fn new(named: Vec<String>) -> Result<Self, AudienceError> {
        if let Some(odd) = named.iter().find(|audience| !is_audience(audience)) {
            return Err(AudienceError::Audience(odd.clone()));
        }
        if let Some(own) = named.iter().find(|audience| OF_API_SERVERS.contains(&audience.as_str())) {
            return Err(AudienceError::ApiServer(own.clone()));
        }
        let count = named.len();
        let distinct: BTreeSet<String> = named.into_iter().collect();
        if distinct.len() != count || !(1..=AUDIENCES_LIMIT).contains(&count) {
            return Err(AudienceError::Count);
        }
        Ok(Self(distinct))
    }

    /// In the order of their characters, in which they are asked for.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The same, as texts of their own.
    pub fn to_vec(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }

    /// Whether a token for exactly these was given, in whatever order.
    pub(crate) fn are(&self, found: &[String]) -> bool {
        found.len() == self.0.len() && self.iter().all(|audience| found.iter().any(|other| other == audience))
    }
}

impl fmt::Display for Audiences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_vec().join(", "))
    }
}

/// A word or a URI, and nothing that means something else in CEL, YAML or a template.
pub fn is_audience(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!&()*+,;=%".contains(c);
    (1..=AUDIENCE_LIMIT).contains(&text.len()) && text.chars().all(allowed)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn audiences(named: &[&str]) -> Result<Audiences, AudienceError> {
        Audiences::new(named.iter().copied().map(str::to_owned).collect())
    }

    #[test]
    fn one_to_four_different_words_or_uris_that_no_api_server_has() {
        for good in [&["vault"][..], &["https://vault.example.org/v1?x=(1)", "b", "c", "d"]] {
            assert!(audiences(good).is_ok(), "{good:?}");
        }
        for count in [&[][..], &["a", "a"], &["a", "b", "c", "d", "e"]] {
            assert_eq!(audiences(count), Err(AudienceError::Count), "{count:?}");
        }
        let long = "a".repeat(AUDIENCE_LIMIT + 1);
        for odd in ["", "a b", "a\"", "a'", "a\\", "${X}", "ä", "a\n", &long] {
            assert_eq!(audiences(&["vault", odd]), Err(AudienceError::Audience(odd.to_owned())));
        }
        for own in OF_API_SERVERS {
            assert_eq!(audiences(&["vault", own]), Err(AudienceError::ApiServer(own.to_owned())));
        }
    }

    #[test]
    fn they_are_compared_whole_and_their_order_says_nothing() {
        let two = audiences(&["vault", "registry"]).unwrap();
        assert_eq!(two, audiences(&["registry", "vault"]).unwrap());
        assert_eq!(two.iter().collect::<Vec<_>>(), ["registry", "vault"]);
        let are = |found: &[&str]| two.are(&found.iter().copied().map(str::to_owned).collect::<Vec<_>>());
        assert!(are(&["vault", "registry"]));
        for others in
            [&["vault"][..], &["vault", "vault"], &["vault", "registry", "more"], &["vault", "other"]]
        {
            assert!(!are(others), "{others:?}");
        }
    }
}
