//! Counts tests by the `test result:` lines that test programs print.

use std::fmt;
use std::ops::{Add, AddAssign};

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Ran well.
    pub(super) passed: u64,
    /// Ran and failed.
    pub(super) failed: u64,
    /// Marked `#[ignore]`.
    pub(super) ignored: u64,
    /// Left out by a filter.
    pub(super) filtered_out: u64,
}

impl Tally {
    /// A test program that died before it could count.
    pub(super) const CRASHED: Self = Self { passed: 0, failed: 1, ignored: 0, filtered_out: 0 };

    /// The sum of all such lines; none if there is none.
    pub(super) fn parse(output: &str) -> Option<Self> {
        let lines = output.lines().filter_map(|line| line.strip_prefix("test result: "));
        lines.map(Self::parse_line).reduce(Self::add)
    }

    /// `ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s`
    fn parse_line(line: &str) -> Self {
        let words: Vec<&str> = line.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
        let count = |what: &str| {
            let before = words.windows(2).find(|pair| pair[1] == what).map(|pair| pair[0]);
            before.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Self {
            passed: count("passed"),
            failed: count("failed"),
            ignored: count("ignored"),
            filtered_out: count("filtered"),
        }
    }

    /// How many ran.
    pub(super) fn ran(self) -> u64 {
        self.passed + self.failed
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
            filtered_out: self.filtered_out + other.filtered_out,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let output = "\
running 3 tests
test a ... ok
test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s

test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s
";
        let expected = Tally { passed: 16, failed: 2, ignored: 1, filtered_out: 3 };
        assert_eq!(Tally::parse(output), Some(expected));
    }

    #[test]
    fn a_program_without_a_result_is_told_from_one_without_tests() {
        assert_eq!(Tally::parse("running 3 tests\ntest a ... "), None);
        let empty =
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(Tally::parse(empty), Some(Tally::default()));
    }
}
