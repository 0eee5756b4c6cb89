//! What the end of a lease does not take away: rights that its ServiceAccount has from elsewhere, such as by its groups.
//!
//! They are found when the lease begins and kept with it, in words and bounded, for people who read its receipt: nothing is
//! decided by them. An API server names rules; whether an authoriser that names none allows more is not known.

/// How many rights are kept in words; the others are counted.
pub const NAMED_LIMIT: usize = 16;
/// How long the words for one right may be.
pub const WORDS_LIMIT: usize = 200;

/// Rights that a lease's end leaves to its ServiceAccount; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRemoved {
    named: Vec<String>,
    others: u32,
}

impl NotRemoved {
    /// From words for each right, such as `get,list pods in namespace web`; none if there is none.
    pub fn of(rights: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut rights = rights.into_iter();
        let named: Vec<String> = rights.by_ref().take(NAMED_LIMIT).map(|words| printable(&words)).collect();
        let others = u32::try_from(rights.count()).unwrap_or(u32::MAX);
        (!named.is_empty()).then_some(Self { named, others })
    }

    /// As it was recorded; none if nothing was.
    pub fn recorded(named: Vec<String>, others: u32) -> Option<Self> {
        (!named.is_empty()).then_some(Self { named, others })
    }

    /// Those that are kept in words.
    pub fn named(&self) -> &[String] {
        &self.named
    }

    /// How many there are besides.
    pub fn others(&self) -> u32 {
        self.others
    }
}

/// Whoever may write rules in a cluster chooses these words.
fn printable(words: &str) -> String {
    let visible = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let mut text: String = words.chars().map(visible).take(WORDS_LIMIT + 1).collect();
    if text.len() > WORDS_LIMIT {
        text.truncate(WORDS_LIMIT - 3);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_printable() {
        let rights = (0..NAMED_LIMIT + 3).map(|index| format!("get \u{1b}[2Jpod{index} {}", "x".repeat(300)));
        let kept = NotRemoved::of(rights).expect("there are some");
        assert_eq!((kept.named().len(), kept.others()), (NAMED_LIMIT, 3));
        for words in kept.named() {
            assert!(words.starts_with("get ?[2Jpod") && words.ends_with("x..."), "{words}");
            assert_eq!(words.len(), WORDS_LIMIT);
        }
        assert_eq!(NotRemoved::of(["get pods".to_owned()]).unwrap().named(), ["get pods"]);
    }

    #[test]
    fn no_right_is_nothing() {
        assert_eq!(NotRemoved::of([]), None);
        assert_eq!(NotRemoved::recorded(vec![], 0), None);
    }
}
