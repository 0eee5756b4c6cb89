//! Whether a condition decides anything: it must be true of some claims and false of others.
//!
//! `claims.ref != "a" || claims.ref != "b"` is always true, and reads as if it were not. For each claim the values are tried
//! that its tests can tell apart: those that it is compared with, their neighbours, others that nothing names, and none
//! where the condition asks for presence. No other value makes a difference, so trying all combinations decides.

use std::collections::{BTreeSet, HashSet};

use shorepass_core::claims::{CLAIM_LIMIT, Claim, ClaimKind, TEXTS_LIMIT};

use crate::test::{Term, Test, Used};

/// How many combinations of values are tried.
const TRIES_LIMIT: usize = 1 << 16;
/// How many texts a list may be asked for.
const SOUGHT_LIMIT: usize = 8;

/// Refuses a condition that is always the same, and one of which that cannot be told.
pub(crate) fn check(test: &Test, used: &[Used]) -> Result<(), String> {
    let domains = Domains::of(test, used)?;
    let mut seen = [false; 2];
    let mut turns = vec![0; domains.0.len()];
    for _ in 0..TRIES_LIMIT {
        let values: Vec<Option<&Claim>> =
            domains.0.iter().zip(&turns).map(|(domain, turn)| domain[*turn].as_ref()).collect();
        seen[usize::from(test.holds(&values))] = true;
        if seen == [true, true] {
            return Ok(());
        }
        if !next(&mut turns, &domains) {
            return Err(match seen {
                [true, _] => "the condition is never true: no job would meet it; look for a claim that must be two values at once",
                [false, _] => "the condition is always true: it refuses nobody; look for `!=` with `||`, where `&&` or `!(... in [...])` is meant",
            }
            .to_owned());
        }
    }
    Err("the condition asks for too much at once to tell whether it decides anything: write several items"
        .to_owned())
}

/// The next combination; false after the last one.
fn next(turns: &mut [usize], domains: &Domains) -> bool {
    for (turn, domain) in turns.iter_mut().zip(&domains.0) {
        *turn += 1;
        if *turn < domain.len() {
            return true;
        }
        *turn = 0;
    }
    false
}

/// For each claim that is used, the values to try.
struct Domains(Vec<Vec<Option<Claim>>>);

/// What a claim, and all that it is compared with, is compared with.
#[derive(Clone, Default)]
struct Compared {
    texts: BTreeSet<String>,
    numbers: BTreeSet<i64>,
    sizes: BTreeSet<i64>,
}

impl Domains {
    fn of(test: &Test, used: &[Used]) -> Result<Self, String> {
        let leaves = test.leaves();
        let groups = groups(&leaves, used.len());
        let mut domains = Vec::with_capacity(used.len());
        for (index, claim) in used.iter().enumerate() {
            let linked = groups.iter().filter(|group| **group == groups[index]).count();
            let mut compared = Compared::default();
            for leaf in &leaves {
                if leaf.claims().iter().any(|claim| groups[*claim] == groups[index]) {
                    compared.take(leaf);
                }
            }
            let mut domain: Vec<Option<Claim>> =
                compared.values(claim.kind, linked)?.into_iter().map(Some).collect();
            if !claim.needed {
                domain.push(None);
            }
            if linked == 1 {
                told_apart(&mut domain, &leaves, index, used.len());
            }
            domains.push(domain);
        }
        Ok(Self(domains))
    }
}

/// For each claim a number that it shares with those that it is compared with, directly or not.
fn groups(leaves: &[&Test], claims: usize) -> Vec<usize> {
    let mut groups: Vec<usize> = (0..claims).collect();
    for leaf in leaves {
        if let [one, other] = leaf.claims().as_slice() {
            let (into, from) = (groups[*one], groups[*other]);
            groups.iter_mut().filter(|group| **group == from).for_each(|group| *group = into);
        }
    }
    groups
}

/// Keeps one of the values that the tests of this claim alone do not tell apart.
fn told_apart(domain: &mut Vec<Option<Claim>>, leaves: &[&Test], index: usize, claims: usize) {
    let own: Vec<&&Test> = leaves.iter().filter(|leaf| leaf.claims() == [index]).collect();
    let mut seen = HashSet::new();
    domain.retain(|value| {
        let mut values = vec![None; claims];
        values[index] = value.as_ref();
        seen.insert(own.iter().map(|leaf| leaf.holds(&values)).collect::<Vec<bool>>())
    });
}

impl Compared {
    fn take(&mut self, leaf: &Test) {
        match leaf {
            Test::Equal(one, other) | Test::Order(_, one, other) => {
                let sized = matches!(one, Term::Size(_)) || matches!(other, Term::Size(_));
                for term in [one, other] {
                    match term {
                        Term::Literal(Claim::Number(size)) if sized => self.sizes.extend([*size]),
                        Term::Literal(value) => self.literal(value),
                        Term::Claim(_) | Term::Size(_) => {}
                    }
                }
            }
            Test::OneOf(Term::Size(_), among) => {
                self.sizes.extend(among.iter().filter_map(|value| match value {
                    Claim::Number(size) => Some(*size),
                    Claim::Text(_) | Claim::Flag(_) | Claim::Texts(_) => None,
                }));
            }
            Test::OneOf(_, among) => among.iter().for_each(|value| self.literal(value)),
            Test::Among(Term::Literal(value), _) => self.literal(value),
            Test::Among(..) | Test::Has(_) | Test::All(_) | Test::Any(_) | Test::Not(_) => {}
        }
    }

    fn literal(&mut self, value: &Claim) {
        match value {
            Claim::Text(text) => {
                self.texts.insert(text.clone());
            }
            Claim::Number(number) => {
                self.numbers.insert(*number);
            }
            Claim::Flag(_) | Claim::Texts(_) => {}
        }
    }

    /// The values that tests of these literals can tell apart. `linked` claims are compared with each other, so that as many
    /// values are needed that nothing names.
    fn values(&self, kind: ClaimKind, linked: usize) -> Result<Vec<Claim>, String> {
        Ok(match kind {
            ClaimKind::Flag => vec![Claim::Flag(true), Claim::Flag(false)],
            ClaimKind::Number => self.numbers(linked),
            ClaimKind::Text => self.all_texts(linked).into_iter().map(Claim::Text).collect(),
            ClaimKind::Texts => self.lists(linked)?,
        })
    }

    fn numbers(&self, linked: usize) -> Vec<Claim> {
        let far = i64::try_from(linked).unwrap_or(i64::MAX);
        let named = self.numbers.iter().copied().chain([0]);
        let near = named.flat_map(|number| (-far..=far).map(move |step| number.saturating_add(step)));
        near.collect::<BTreeSet<i64>>().into_iter().map(Claim::Number).collect()
    }

    fn all_texts(&self, linked: usize) -> BTreeSet<String> {
        let mut texts = self.texts.clone();
        for size in near(&self.sizes, CLAIM_LIMIT / 4) {
            texts.extend((0..linked).map(|which| unnamed(which, size)));
        }
        texts.extend((0..linked).map(|which| unnamed(which, 1)));
        texts
    }

    fn lists(&self, linked: usize) -> Result<Vec<Claim>, String> {
        let sought: Vec<String> = match linked {
            1 => self.texts.iter().cloned().collect(),
            _ => self.all_texts(linked).into_iter().collect(),
        };
        if sought.len() > SOUGHT_LIMIT {
            return Err(format!(
                "the condition asks a list for more than {SOUGHT_LIMIT} texts: write several items"
            ));
        }
        let sizes = near(&self.sizes, TEXTS_LIMIT);
        let mut lists = Vec::new();
        for chosen in 0_usize..1 << sought.len() {
            let texts = sought.iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1);
            let list: Vec<String> = texts.map(|(_, text)| text.clone()).collect();
            for size in sizes.iter().filter(|size| **size > list.len()) {
                let filled = list.iter().cloned().chain((list.len()..*size).map(|which| unnamed(which, 2)));
                lists.push(Claim::Texts(filled.collect()));
            }
            lists.push(Claim::Texts(list));
        }
        Ok(lists)
    }
}

/// The sizes and their neighbours, as far as a claim may have them.
fn near(sizes: &BTreeSet<i64>, most: usize) -> BTreeSet<usize> {
    let near = sizes.iter().flat_map(|size| [size.saturating_sub(1), *size, size.saturating_add(1)]);
    near.filter_map(|size| usize::try_from(size).ok()).filter(|size| *size <= most).collect()
}

/// A text that no document names: of characters for private use.
fn unnamed(which: usize, size: usize) -> String {
    let which = u32::try_from(which).unwrap_or(0) % 0x1000;
    char::from_u32(0xE000 + which).into_iter().cycle().take(size).collect()
}
