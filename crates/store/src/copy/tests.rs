//! The copy's file: what is read of it whole, cut and damaged.

use super::*;
use crate::files::Fdatasync;

const LEDGER: [u8; 16] = [7; 16];

struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("security.log")
    }

    fn written(&self, appended: u8) -> SecurityCopy {
        let rows = Rows::from([(Table::Block.key(b"first"), b"value".to_vec())]);
        let mut copy = SecurityCopy::write(&Fdatasync, &self.path(), LEDGER, 1, &rows).unwrap();
        for number in 0..appended {
            copy.append(&Fdatasync, 2 + u64::from(number), &block(number)).unwrap();
        }
        copy
    }

    fn contents(&self) -> Contents {
        match read(&self.path()).unwrap() {
            Found::Read(contents) => contents,
            other => panic!("{other:?}"),
        }
    }
}

fn block(number: u8) -> Writes {
    let mut writes = Writes::default();
    writes.put(Table::Block.key(&[number]), vec![number; 9]);
    writes
}

#[test]
fn rows_are_read_back_replaced_and_removed() {
    let scene = Scene::new();
    let mut copy = scene.written(2);
    let mut writes = Writes::default();
    writes.put(Table::Block.key(&[0]), b"later".to_vec());
    writes.remove(Table::Block.key(b"first"));
    writes.put(Table::Lease.key(b"not security state"), vec![]);
    copy.append(&Fdatasync, 9, &writes).unwrap();
    let contents = scene.contents();
    let expected =
        Rows::from([(Table::Block.key(&[0]), b"later".to_vec()), (Table::Block.key(&[1]), vec![1; 9])]);
    assert_eq!((contents.rows, contents.sequence, contents.torn), (expected, 9, false));
    assert_eq!(contents.ledger.as_deref(), Some(LEDGER.as_slice()));
}

#[test]
fn a_batch_without_security_state_writes_nothing() {
    let scene = Scene::new();
    let mut copy = scene.written(0);
    let before = std::fs::read(scene.path()).unwrap();
    let mut writes = Writes::default();
    writes.put(Table::Lease.key(b"lease"), vec![1]);
    copy.append(&Fdatasync, 2, &writes).unwrap();
    assert_eq!((std::fs::read(scene.path()).unwrap(), copy.sequence()), (before, 1));
}

#[test]
fn a_cut_is_torn_and_gives_what_is_before_it() {
    let scene = Scene::new();
    let whole = scene.written(3).length as usize;
    let bytes = std::fs::read(scene.path()).unwrap();
    for length in HEADER.len()..whole {
        std::fs::write(scene.path(), &bytes[..length]).unwrap();
        let contents = scene.contents();
        // Between two entries it looks whole: what was last in it is known from elsewhere.
        assert!(contents.sequence < 4, "{length}");
        assert!(contents.rows.len() < 4, "{length}");
    }
    std::fs::write(scene.path(), &bytes[..whole - 1]).unwrap();
    assert!(scene.contents().torn);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let scene = Scene::new();
    scene.written(2);
    let whole = std::fs::read(scene.path()).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(scene.path(), &bytes).unwrap();
        match read(&scene.path()) {
            Ok(Found::Read(contents)) => assert!(contents.torn, "bit {bit}"),
            Ok(Found::Damaged(_)) | Err(OpenError::Newer { .. }) => {}
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_newer_format_and_another_file_are_told_apart() {
    let scene = Scene::new();
    std::fs::write(scene.path(), "shorepass security state 2\n...").unwrap();
    assert!(matches!(read(&scene.path()), Err(OpenError::Newer { .. })));
    std::fs::write(scene.path(), "something else").unwrap();
    assert!(matches!(read(&scene.path()), Ok(Found::Damaged(_))));
    std::fs::remove_file(scene.path()).unwrap();
    assert!(matches!(read(&scene.path()), Ok(Found::Nothing)));
}
