//! The audit file: read back, torn, damaged, and what is cut off of it.

use std::fs;

use shorepass_core::ledger::Change;

use super::*;
use crate::files::Fdatasync;
use crate::testing;

const PAGE: usize = 4096;

struct Scene {
    directory: tempfile::TempDir,
    changes: Vec<Change>,
}

impl Scene {
    /// An audit file of five lines.
    fn new() -> Self {
        Self::of_batches(&[1; 5])
    }

    /// An audit file of batches with so many lines.
    fn of_batches(batches: &[u8]) -> Self {
        let changes = (0..batches.iter().sum()).map(testing::job_started).collect();
        let scene = Self { directory: tempfile::tempdir().unwrap(), changes };
        let mut numbers = 1..;
        for lines in batches {
            let numbers: Vec<u64> = numbers.by_ref().take(usize::from(*lines)).collect();
            let line = |number: &u64| entry(*number, numbers[0], &scene.changes[*number as usize - 1]);
            let lines: Vec<String> = numbers.iter().map(line).collect();
            AuditFile::open(&scene.path()).unwrap().append(&lines, &Fdatasync).unwrap();
        }
        scene
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("audit.jsonl")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    /// Where a line begins.
    fn offset_of(&self, number: usize) -> usize {
        self.text().split_inclusive('\n').take(number - 1).map(str::len).sum()
    }

    /// Zeroes a page, or what of it is there and not before `from`.
    fn zero(&self, page: usize, from: usize) {
        let mut bytes = fs::read(self.path()).unwrap();
        let end = bytes.len().min((page + 1) * PAGE);
        bytes[from.max(page * PAGE)..end].fill(0);
        fs::write(self.path(), bytes).unwrap();
    }

    fn after(&self, sequence: u64) -> Result<Vec<Change>, AuditError> {
        let mut audit = AuditFile::open(&self.path())?;
        audit.settle(sequence, sequence)?;
        audit.entries_after(sequence)?.map(|entry| Ok(entry?.change.unwrap())).collect()
    }
}

#[test]
fn the_lines_after_any_line_are_read_back() {
    let scene = Scene::new();
    for sequence in 0..=5 {
        assert_eq!(scene.after(sequence).unwrap(), scene.changes[sequence as usize..], "after {sequence}");
    }
}

#[test]
fn lines_longer_than_a_block_are_found_from_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long");
    let lines = ["a".repeat(4095), "b".repeat(4096), "c".repeat(10_000), String::new()];
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    let file = File::open(&path).unwrap();
    let mut end = file.metadata().unwrap().len();
    for expected in lines.iter().rev() {
        let (start, line) = line_before(&file, end).unwrap();
        assert_eq!(line, format!("{expected}\n").into_bytes());
        end = start;
    }
    assert_eq!(end, 0);
}

#[test]
fn a_torn_last_line_is_cut_off_wherever_it_tore() {
    let scene = Scene::new();
    let whole = scene.text();
    let fourth = whole.match_indices('\n').nth(3).unwrap().0 + 1;
    for torn in [fourth + 1, fourth + 20, whole.len() - 1] {
        fs::write(scene.path(), &whole[..torn]).unwrap();
        assert_eq!(scene.after(0).unwrap(), scene.changes[..4], "torn at {torn}");
        assert_eq!(scene.text(), whole[..fourth]);
    }
}

#[test]
fn a_last_line_of_zeroes_is_cut_off() {
    let scene = Scene::new();
    let whole = scene.text();
    fs::write(scene.path(), whole.clone() + &"\0".repeat(5000)).unwrap();
    assert_eq!(scene.after(5).unwrap(), []);
    assert_eq!(scene.text(), whole);
}

#[test]
fn a_line_that_is_in_the_records_is_never_cut_off() {
    let scene = Scene::new();
    let torn = scene.text().trim_end().to_owned();
    fs::write(scene.path(), &torn).unwrap();
    assert!(matches!(scene.after(5), Err(AuditError::Damaged { .. })));
    assert_eq!(scene.text(), torn);
}

/// Power fails while the lines from the sixth on are written, and all pages but one reach the disk.
#[test]
fn a_batch_with_a_page_missing_is_cut_off_from_there_on() {
    let scene = Scene::of_batches(&[2, 3, 60]);
    let (whole, sixth) = (scene.text(), scene.offset_of(6));
    let pages = sixth / PAGE..=(whole.len() - 1) / PAGE;
    assert!(pages.clone().count() > 3);
    for page in pages {
        fs::write(scene.path(), &whole).unwrap();
        scene.zero(page, sixth);
        let kept = whole[..sixth.max(page * PAGE)].rfind('\n').unwrap() + 1;
        let lines = whole[..kept].lines().count();
        assert_eq!(scene.after(5).unwrap(), scene.changes[5..lines], "page {page}");
        assert_eq!(scene.text(), whole[..kept], "page {page}");
    }
}

#[test]
fn a_page_missing_in_what_was_acknowledged_is_never_cut_off() {
    let scene = Scene::of_batches(&[2, 30, 60]);
    let whole = scene.text();
    let page = scene.offset_of(20) / PAGE;
    assert!((page + 1) * PAGE < scene.offset_of(33));
    // The last line in the records is among the missing; records that are further back; no records.
    let first = whole[..page * PAGE].lines().count() as u64;
    for records in [first, first + 1, 2, 1, 0] {
        fs::write(scene.path(), &whole).unwrap();
        scene.zero(page, 0);
        let damaged = fs::read(scene.path()).unwrap();
        let after = scene.after(records);
        assert!(matches!(after, Err(AuditError::Damaged { .. })), "{records}: {after:?}");
        assert_eq!(fs::read(scene.path()).unwrap(), damaged);
    }
}

#[test]
fn lines_missing_on_both_sides_of_the_records_end_are_never_cut_off() {
    let scene = Scene::of_batches(&[2, 3, 60]);
    let mut bytes = fs::read(scene.path()).unwrap();
    bytes[scene.offset_of(5)..scene.offset_of(8)].fill(0);
    fs::write(scene.path(), &bytes).unwrap();
    assert!(matches!(scene.after(5), Err(AuditError::Damaged { .. })));
    assert_eq!(fs::read(scene.path()).unwrap(), bytes);
}

#[test]
fn a_batch_that_is_in_the_records_in_part_was_whole_once() {
    let scene = Scene::of_batches(&[60]);
    scene.zero(scene.offset_of(30) / PAGE, 0);
    assert!(matches!(scene.after(10), Err(AuditError::Damaged { .. })));
}

#[test]
fn a_torn_first_line_of_a_new_file_is_cut_off() {
    let scene = Scene::new();
    let last = scene.text().lines().last().unwrap().to_owned();
    fs::write(scene.path(), &last[..100]).unwrap();
    assert_eq!(scene.after(4).unwrap(), []);
    assert_eq!(scene.text(), "");
}

#[test]
fn a_damaged_or_missing_line_in_between_is_told() {
    let scene = Scene::new();
    let whole = scene.text();
    fs::write(scene.path(), whole.replacen("\"seq\":3", "\"seq\":9", 1)).unwrap();
    assert!(matches!(scene.after(0), Err(AuditError::Damaged { .. })));
    let position = whole.rfind("\"record\":\"").unwrap() + 30;
    let mut flipped = whole.clone().into_bytes();
    flipped[position] = if flipped[position] == b'A' { b'B' } else { b'A' };
    flipped.extend_from_slice(whole.lines().last().unwrap().as_bytes());
    flipped.push(b'\n');
    fs::write(scene.path(), flipped).unwrap();
    assert!(matches!(scene.after(0), Err(AuditError::Damaged { .. })));
}

#[test]
fn a_gap_between_records_and_file_is_told() {
    let scene = Scene::new();
    let rest: String = scene.text().lines().skip(3).map(|line| format!("{line}\n")).collect();
    fs::write(scene.path(), rest).unwrap();
    assert!(matches!(scene.after(1), Err(AuditError::Gap { records: 1, first: 4, .. })));
    assert_eq!(scene.after(3).unwrap(), scene.changes[3..]);
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let scene = Scene::new();
    for foreign in ["root:x:0:0\n", "no newline", "\n\n"] {
        fs::write(scene.path(), foreign).unwrap();
        assert!(matches!(scene.after(0), Err(AuditError::Foreign { .. })), "{foreign:?}");
        assert_eq!(scene.text(), foreign);
    }
}

#[test]
fn what_could_not_be_synced_is_cut_back() {
    struct Failing;
    impl Disk for Failing {
        fn sync_audit(&self, _file: &File) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn sync_records(&self, _file: &File) -> io::Result<()> {
            Ok(())
        }

        fn sync_copy(&self, _file: &File) -> io::Result<()> {
            Ok(())
        }
    }
    let scene = Scene::new();
    let before = scene.text();
    let mut audit = AuditFile::open(&scene.path()).unwrap();
    let sixth = [entry(6, 6, &testing::job_started(6))];
    assert!(audit.append(&sixth, &Failing).is_err());
    assert_eq!(scene.text(), before);
    audit.append(&sixth, &Fdatasync).unwrap();
    assert_eq!(scene.text(), format!("{before}{}\n", sixth[0]));
}

/// Of what was acknowledged and is not in the records yet.
#[test]
fn a_flipped_bit_in_the_last_line_is_not_taken_for_a_write_that_was_cut_off() {
    let scene = Scene::new();
    let whole = scene.text().into_bytes();
    for position in scene.offset_of(5)..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[position] ^= 1 << bit;
            fs::write(scene.path(), &flipped).unwrap();
            match scene.after(4) {
                Ok(changes) => assert_eq!(changes, scene.changes[4..], "byte {position}, bit {bit}"),
                Err(refused) => assert!(!matches!(refused, AuditError::File { .. }), "{refused}"),
            }
            assert_eq!(fs::read(scene.path()).unwrap(), flipped, "byte {position}, bit {bit}");
        }
    }
}

#[test]
fn a_last_line_that_lacks_nothing_but_its_newline_is_cut_off() {
    let scene = Scene::new();
    let (whole, fifth) = (scene.text(), scene.offset_of(5));
    fs::write(scene.path(), whole.trim_end()).unwrap();
    assert_eq!(scene.after(4).unwrap(), []);
    assert_eq!(scene.text(), whole[..fifth]);
}

#[test]
fn a_flipped_bit_before_other_lines_of_its_batch_is_not_taken_for_a_missing_page() {
    let scene = Scene::of_batches(&[2, 3]);
    let mut bytes = scene.text().into_bytes();
    let record = scene.text()[scene.offset_of(4)..].find("\"record\":\"").unwrap();
    bytes[scene.offset_of(4) + record + 30] ^= 0x04;
    fs::write(scene.path(), &bytes).unwrap();
    assert!(matches!(scene.after(2), Err(AuditError::Damaged { .. })));
    assert_eq!(fs::read(scene.path()).unwrap(), bytes);
}

#[test]
fn a_flipped_bit_in_the_only_line_of_a_rotated_file_is_told() {
    let scene = Scene::new();
    let last = scene.text().lines().last().unwrap().to_owned() + "\n";
    let fifth = &scene.changes[4..];
    fs::write(scene.path(), &last).unwrap();
    assert_eq!(scene.after(4).unwrap(), fifth);
    for (position, bit) in (0..last.len()).flat_map(|position| (0..8).map(move |bit| (position, bit))) {
        let mut flipped = last.clone().into_bytes();
        flipped[position] ^= 1 << bit;
        fs::write(scene.path(), &flipped).unwrap();
        match scene.after(4) {
            // Its checksum is not known for one any more.
            Ok(changes) => assert_eq!(changes, fifth, "byte {position}, bit {bit}"),
            Err(refused) => assert!(!matches!(refused, AuditError::File { .. }), "{refused}"),
        }
        assert_eq!(fs::read(scene.path()).unwrap(), flipped, "byte {position}, bit {bit}");
    }
}

#[test]
fn a_first_line_of_a_rotated_file_that_never_came_to_the_disk_is_cut_off() {
    let scene = Scene::new();
    fs::write(scene.path(), [0; 700]).unwrap();
    assert_eq!(scene.after(5).unwrap(), []);
    assert_eq!(scene.text(), "");
    fs::write(scene.path(), [0, 0, 7]).unwrap();
    assert!(matches!(scene.after(5), Err(AuditError::Foreign { .. })));
}

#[test]
fn zeroes_that_are_no_whole_sectors_are_not_taken_for_missing_ones() {
    let scene = Scene::new();
    let whole = scene.text().into_bytes();
    for position in scene.offset_of(5)..whole.len() - 1 {
        let mut zeroed = whole.clone();
        zeroed[position] = 0;
        fs::write(scene.path(), &zeroed).unwrap();
        assert!(matches!(scene.after(4), Err(AuditError::Damaged { .. })), "byte {position}");
        assert_eq!(fs::read(scene.path()).unwrap(), zeroed);
    }
}

#[test]
fn lines_without_a_checksum_were_written_before_there_were_any() {
    let scene = Scene::new();
    let without = |line: &str| format!("{}}}\n", line.split_once(",\"crc32c\"").unwrap().0);
    let text: String = scene.text().lines().map(without).collect();
    fs::write(scene.path(), text).unwrap();
    assert_eq!(scene.after(0).unwrap(), scene.changes);
}
