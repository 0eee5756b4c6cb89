//! What fuzz targets start from: files that somebody chose, and changes to them.
//!
//! An engine that sees no coverage would hardly ever come by a whole document. So a target takes its input twice: as what
//! somebody could send, and as a plan of changes to one of its seeds.

use std::fs;
use std::path::Path;

/// How many changes one plan makes at most.
const CHANGES: usize = 4;
/// The longest run of bytes that one change takes away, repeats or brings from another seed.
const RUN: usize = 48;

/// The files of a corpus.
pub struct Seeds(Vec<Vec<u8>>);

impl Seeds {
    /// Reads all files of a folder.
    pub fn read(folder: &Path) -> Self {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry of the folder").path()).collect();
        files.sort();
        Self::of(files.iter().map(|file| fs::read(file).expect("a file of the corpus")).collect())
    }

    /// Takes these.
    pub fn of(seeds: Vec<Vec<u8>>) -> Self {
        assert!(!seeds.is_empty(), "a corpus has files");
        Self(seeds)
    }

    /// Each as it is.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// One of them with one to four changes; which and where, the plan says.
    pub fn changed(&self, plan: &[u8]) -> Vec<u8> {
        let at = |index: usize| plan.get(index).copied().unwrap_or_default();
        let mut bytes = self.seed(at(0)).to_vec();
        let steps = plan.get(2..).unwrap_or_default().chunks_exact(4);
        for step in steps.take(1 + usize::from(at(1)) % CHANGES) {
            let &[how, high, low, value] = step else { continue };
            let place = usize::from(u16::from_be_bytes([high, low]));
            self.change(&mut bytes, how, place, value);
        }
        bytes
    }

    fn seed(&self, number: u8) -> &[u8] {
        &self.0[usize::from(number) % self.0.len()]
    }

    fn change(&self, bytes: &mut Vec<u8>, how: u8, place: usize, value: u8) {
        let place = place % (bytes.len() + 1);
        let end = bytes.len().min(place + usize::from(value) % RUN);
        let printable = b' ' + value % 95;
        let own = bytes.get(place).copied().unwrap_or(printable);
        match how % 10 {
            0 => put(bytes, place, value),
            1 => put(bytes, place, printable),
            2 => put(bytes, place, own ^ (1 << (value % 8))),
            3 => bytes.insert(place, value),
            4 => bytes.insert(place, printable),
            5 => drop(bytes.drain(place..end)),
            6 => {
                let run = bytes[place..end].to_vec();
                insert(bytes, place, &run);
            }
            7 => insert(bytes, place, &vec![own; value.into()]),
            8 => bytes.truncate(place),
            _ => {
                let other = self.seed(value);
                let from = place % (other.len() + 1);
                insert(bytes, place, &other[from..other.len().min(from + RUN)]);
            }
        }
    }
}

fn put(bytes: &mut [u8], place: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(place) {
        *byte = value;
    }
}

fn insert(bytes: &mut Vec<u8>, place: usize, piece: &[u8]) {
    drop(bytes.splice(place..place, piece.iter().copied()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_can_be_carried_out_and_changes_what_it_says() {
        let seeds = Seeds::of(vec![b"abcdef".to_vec(), Vec::new()]);
        for how in 0..10 {
            for (place, value) in [(0, 0), (3, 5), (6, 255), (7, 48), (255, 7)] {
                let plan = [0, 0, how, 0, place, value];
                assert!(seeds.changed(&plan).len() <= 6 + 255);
                seeds.changed(&[1, 0, how, 1, place, value]);
            }
        }
        let change = |how, place, value| seeds.changed(&[0, 0, how, 0, place, value]);
        assert_eq!(change(0, 2, b'X'), b"abXdef");
        assert_eq!(change(2, 0, 1), b"cbcdef");
        assert_eq!(change(3, 6, b'X'), b"abcdefX");
        assert_eq!(change(5, 1, 2), b"adef");
        assert_eq!(change(6, 1, 2), b"abcbcdef");
        assert_eq!(change(7, 1, 3), b"abbbbcdef");
        assert_eq!(change(8, 4, 0), b"abcd");
        assert_eq!(change(9, 4, 0), b"abcdefef");
        assert_eq!(seeds.changed(&[0, 1, 8, 0, 4, 0, 8, 0, 2, 0]), b"ab");
        assert_eq!(seeds.changed(&[]), b"abcdef");
    }
}
