//! Labels of a runner: what its enrolment says about it, for role documents to ask for.
//!
//! A runner never says them itself: they come from whoever let it in (a join token, a rule of the issuer's config). Names
//! and values are of a few plain characters, so that comparing bytes is comparing labels and nothing in one can be read
//! as a pattern, a separator or a second label.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::Name;

/// How many labels one runner may have.
pub const LABELS_LIMIT: usize = 16;

/// How long a label's name may be.
const NAME_LIMIT: usize = 127;

/// How long a label's value may be.
const VALUE_LIMIT: usize = 63;

/// Names with values, each name once, in the order of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(BTreeMap<String, String>);

/// Why texts are not labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Not of the form `name=value`.
    #[error("{0:?} is not a label: write NAME=VALUE, such as env=prod")]
    Form(String),
    /// Not in the grammar of label names.
    #[error(
        "{0:?} is not the name of a label: use names of a-z, 0-9 and '-', with '.' or '/' between them, 127 \
         characters at most"
    )]
    Name(String),
    /// Not in the grammar of label values.
    #[error(
        "{0:?} is not the value of a label: use 1 to 63 of A-Z, a-z, 0-9, '-', '_' and '.', with a letter or digit at \
         both ends"
    )]
    Value(String),
    /// The same name again.
    #[error("the label {0} is there twice")]
    Twice(String),
    /// Too many.
    #[error("these are {0} labels; {LABELS_LIMIT} at most are allowed")]
    TooMany(usize),
}

impl Labels {
    /// Checks names and values.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, LabelError> {
        let mut labels = BTreeMap::new();
        let mut count = 0_usize;
        for (name, value) in pairs {
            count += 1;
            check_name(&name)?;
            check_value(&value)?;
            if labels.insert(name.clone(), value).is_some() {
                return Err(LabelError::Twice(name));
            }
        }
        if count > LABELS_LIMIT { Err(LabelError::TooMany(count)) } else { Ok(Self(labels)) }
    }

    /// Parses `env=prod` and the like.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, LabelError> {
        let pairs = texts.into_iter().map(parse_pair).collect::<Result<Vec<_>, _>>()?;
        Self::new(pairs)
    }

    /// The value under a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether each of the others is here, with the same value.
    pub fn contains_all(&self, others: &Self) -> bool {
        others.iter().all(|(name, value)| self.get(name) == Some(value))
    }

    /// Names and values, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `env=prod,pool=a`; nothing for none.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}

/// Parses `env=prod`.
pub fn parse_pair(text: &str) -> Result<(String, String), LabelError> {
    let (name, value) = text.split_once('=').ok_or_else(|| LabelError::Form(text.to_owned()))?;
    check_name(name)?;
    check_value(value)?;
    Ok((name.to_owned(), value.to_owned()))
}

fn check_name(text: &str) -> Result<(), LabelError> {
    let well_formed =
        text.len() <= NAME_LIMIT && text.split(['.', '/']).all(|part| Name::parse(part).is_ok());
    if well_formed { Ok(()) } else { Err(LabelError::Name(text.to_owned())) }
}

fn check_value(text: &str) -> Result<(), LabelError> {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let well_formed = bytes.len() <= VALUE_LIMIT
        && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if well_formed { Ok(()) } else { Err(LabelError::Value(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels<const N: usize>(texts: [&str; N]) -> Labels {
        Labels::parse(texts).unwrap()
    }

    #[test]
    fn names_are_names_with_dots_and_slashes_between() {
        for good in ["env", "a", "shorepass.dev/pool", "a.b/c.d", "a.".repeat(63).trim_end_matches('.')] {
            assert!(parse_pair(&format!("{good}=x")).is_ok(), "{good}");
        }
        let long = format!("{}{}", "a.".repeat(63), "ab");
        for bad in ["", "Env", "a..b", ".a", "a/", "a b", "a_b", "ä", "-a", "a*", &"a".repeat(64), &long] {
            let refused = LabelError::Name(bad.to_owned());
            assert_eq!(parse_pair(&format!("{bad}=x")), Err(refused));
        }
    }

    #[test]
    fn values_have_no_metacharacters() {
        for good in ["prod", "A", "v1.2_rc-3", &"a".repeat(63)] {
            assert!(parse_pair(&format!("env={good}")).is_ok(), "{good}");
        }
        let bads =
            ["", "-a", "a.", "a b", "a*", "a/b", "a=b", "a,b", "a\n", "ä", "a\"b", "${a}", &"a".repeat(64)];
        for bad in bads {
            assert_eq!(parse_pair(&format!("env={bad}")), Err(LabelError::Value(bad.to_owned())));
        }
        assert_eq!(parse_pair("env"), Err(LabelError::Form("env".to_owned())));
    }

    #[test]
    fn a_name_stands_once_and_sixteen_are_enough() {
        assert_eq!(Labels::parse(["a=1", "b=1", "a=1"]), Err(LabelError::Twice("a".to_owned())));
        let many = |count: usize| (0..count).map(|index| (format!("a{index}"), "x".to_owned()));
        assert!(Labels::new(many(16)).is_ok());
        assert_eq!(Labels::new(many(17)), Err(LabelError::TooMany(17)));
    }

    #[test]
    fn all_of_the_others_must_be_there_with_the_same_value() {
        let runner = labels(["env=prod", "pool=a"]);
        for (others, expected) in [
            (labels([]), true),
            (labels(["pool=a"]), true),
            (labels(["env=prod", "pool=a"]), true),
            (labels(["pool=b"]), false),
            (labels(["pool=a", "zone=1"]), false),
        ] {
            assert_eq!(runner.contains_all(&others), expected, "{others}");
        }
        assert!(!Labels::default().contains_all(&runner));
    }

    #[test]
    fn labels_print_in_the_order_of_names() {
        assert_eq!(labels(["pool=a", "env=prod"]).to_string(), "env=prod,pool=a");
        assert_eq!(labels([]).to_string(), "");
        assert_eq!(labels(["pool=a"]).get("pool"), Some("a"));
    }
}
