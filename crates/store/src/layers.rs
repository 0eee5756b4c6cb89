//! A key space together with what is not written to it yet: of a commit that is planned, and of those that only the audit
//! file has.

use std::cmp::Ordering;

use crate::tables::{Entries, ReadError, Table, View, Writes, range};

/// A key space as it will be once something is written to it.
pub(crate) struct Overlay<'a> {
    base: &'a dyn View,
    /// What is to be written.
    pub(crate) writes: Writes,
}

impl<'a> Overlay<'a> {
    /// With nothing to be written yet.
    pub(crate) fn over(base: &'a dyn View) -> Self {
        Self { base, writes: Writes::default() }
    }

    fn layered(&self) -> Layered<'_> {
        Layered { base: self.base, writes: &self.writes }
    }

    /// The key space as it is now.
    pub(crate) fn base(&self) -> &'a dyn View {
        self.base
    }

    /// Whether any key of a table will begin so.
    pub(crate) fn any(&self, table: Table, prefix: &[u8]) -> Result<bool, ReadError> {
        let (start, end) = range(table, prefix, None);
        if self.writes.within((start, end)).any(|(_, value)| value.is_some()) {
            return Ok(true);
        }
        for entry in self.base.newest_first(table, prefix, None) {
            if self.writes.get(&table.key(&entry?.0)).is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl View for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.layered().get(table, key)
    }

    fn newest_first(&self, table: Table, prefix: &[u8], before: Option<&[u8]>) -> Entries<'_> {
        self.layered().newest(table, prefix, before)
    }

    fn oldest_first(&self, table: Table, prefix: &[u8], before: &[u8]) -> Entries<'_> {
        self.layered().oldest(table, prefix, before)
    }
}

/// A key space, and over it what is not written to it yet.
#[derive(Clone, Copy)]
pub(crate) struct Layered<'a> {
    /// The key space.
    pub(crate) base: &'a dyn View,
    /// What hides its entries.
    pub(crate) writes: &'a Writes,
}

impl<'a> Layered<'a> {
    fn newest(self, table: Table, prefix: &[u8], before: Option<&[u8]>) -> Entries<'a> {
        let written = self.writes.within(range(table, prefix, before)).rev();
        merged(self.base.newest_first(table, prefix, before), written, |one, other| other.cmp(one))
    }

    fn oldest(self, table: Table, prefix: &[u8], before: &[u8]) -> Entries<'a> {
        let written = self.writes.within(range(table, prefix, Some(before)));
        merged(self.base.oldest_first(table, prefix, before), written, |one, other| one.cmp(other))
    }
}

impl View for Layered<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        match self.writes.get(&table.key(key)) {
            Some(written) => Ok(written.map(<[u8]>::to_vec)),
            None => self.base.get(table, key),
        }
    }

    fn newest_first(&self, table: Table, prefix: &[u8], before: Option<&[u8]>) -> Entries<'_> {
        self.newest(table, prefix, before)
    }

    fn oldest_first(&self, table: Table, prefix: &[u8], before: &[u8]) -> Entries<'_> {
        self.oldest(table, prefix, before)
    }
}

/// The entries of both in their common order, those of `written` instead of those of `base`.
fn merged<'a>(
    base: Entries<'a>,
    written: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a,
    order: fn(&[u8], &[u8]) -> Ordering,
) -> Entries<'a> {
    let (mut base, mut written) = (base.peekable(), written.peekable());
    Box::new(std::iter::from_fn(move || {
        loop {
            let first = match (base.peek(), written.peek()) {
                (None, None) => return None,
                (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(Ok((key, _))), Some((written, _))) => order(key, written),
            };
            if first.is_lt() {
                return base.next();
            }
            if first.is_eq() {
                base.next();
            }
            if let Some((key, Some(value))) = written.next() {
                return Some(Ok((key.to_vec(), value.to_vec())));
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tables::{Entry, Space};

    fn all(entries: Entries<'_>) -> Vec<Entry> {
        entries.map(|entry| entry.unwrap()).collect()
    }

    fn writes(rows: &[(Vec<u8>, Option<u8>)]) -> Writes {
        let mut writes = Writes::default();
        for (key, value) in rows {
            match value {
                Some(value) => writes.put(Table::Job.key(key), vec![*value]),
                None => writes.remove(Table::Job.key(key)),
            }
        }
        writes
    }

    fn rows() -> impl Strategy<Value = Vec<(Vec<u8>, Option<u8>)>> {
        let key = proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(u8::MAX)], 0..4);
        proptest::collection::vec((key, any::<Option<u8>>()), 0..12)
    }

    proptest! {
        #[test]
        fn it_reads_like_the_space_to_which_it_was_written(
            below in rows(),
            above in rows(),
            prefix in proptest::collection::vec(0..2_u8, 0..2),
            bound in proptest::collection::vec(0..2_u8, 0..3),
        ) {
            let (mut base, mut whole) = (Space::default(), Space::default());
            base.apply(writes(&below));
            whole.apply(writes(&below));
            whole.apply(writes(&above));
            let written = writes(&above);
            let layered = Layered { base: &base, writes: &written };
            for before in [None, Some(bound.as_slice())] {
                let newest = |view: &dyn View| all(view.newest_first(Table::Job, &prefix, before));
                prop_assert_eq!(newest(&layered), newest(&whole));
            }
            let oldest = |view: &dyn View| all(view.oldest_first(Table::Job, &prefix, &bound));
            prop_assert_eq!(oldest(&layered), oldest(&whole));
            for (key, _) in below.iter().chain(&above) {
                let get = |view: &dyn View| view.get(Table::Job, key).unwrap();
                prop_assert_eq!(get(&layered), get(&whole));
            }
            let mut overlay = Overlay::over(&base);
            overlay.writes = written;
            let there = !all(whole.newest_first(Table::Job, &prefix, None)).is_empty();
            prop_assert_eq!(overlay.any(Table::Job, &prefix).unwrap(), there);
        }
    }
}
