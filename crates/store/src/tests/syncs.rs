//! What is durable when a commit is acknowledged: the image that a power failure would leave, made of nothing but what was
//! synced until then.
//!
//! [`Power`] takes the place of the disk. It keeps each file as it was when it was synced last, a new name as soon as its
//! directory was synced, and an empty file where that was not. sled's own small files (`conf`, snapshots) are taken as they
//! are: it syncs them by itself, and they do not hold what is committed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use shorepass_core::block::Block;
use shorepass_core::id::BlockId;
use shorepass_core::ledger::{Change, Ledger as _};

use crate::audit::AuditFile;
use crate::copy;
use crate::files::Disk;
use crate::manifest::{Found, Manifest};
use crate::records::Records;
use crate::tables::Table;
use crate::testing::*;
use crate::{OnFailure, Options, Store};

#[derive(Clone)]
struct Power(Arc<Mutex<Synced>>);

struct Synced {
    /// Where the image is.
    image: PathBuf,
    events: Vec<String>,
    /// What new files held when they were synced, by inode.
    new: HashMap<u64, Vec<u8>>,
    /// Names that their directory was not synced for.
    renamed: Vec<(PathBuf, u64)>,
}

impl Power {
    fn new(image: &Path) -> Self {
        for directory in [image.to_owned(), image.join("ledger")] {
            fs::DirBuilder::new().mode(0o700).create(directory).unwrap();
        }
        let image = image.to_owned();
        Self(Arc::new(Mutex::new(Synced {
            image,
            events: Vec::new(),
            new: HashMap::new(),
            renamed: Vec::new(),
        })))
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().events)
    }

    fn sync(&self, event: &str, file: &File, name: &str) -> io::Result<()> {
        let bytes = content(file)?;
        file.sync_data()?;
        let mut synced = self.0.lock().unwrap();
        synced.events.push(event.to_owned());
        fs::write(synced.image.join(name), bytes)
    }
}

fn content(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap()];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Disk for Power {
    fn sync_audit(&self, file: &File) -> io::Result<()> {
        self.sync("audit", file, "audit.jsonl")
    }

    fn sync_records(&self, file: &File) -> io::Result<()> {
        self.sync("records", file, "ledger/db")
    }

    fn sync_copy(&self, file: &File) -> io::Result<()> {
        self.sync("copy", file, "security.log")
    }

    fn sync_new(&self, file: &File) -> io::Result<()> {
        let bytes = content(file)?;
        file.sync_all()?;
        let mut synced = self.0.lock().unwrap();
        synced.events.push(format!("new file of {} bytes", bytes.len()));
        synced.new.insert(file.metadata()?.ino(), bytes);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = fs::metadata(from)?.ino();
        fs::rename(from, to)?;
        let mut synced = self.0.lock().unwrap();
        synced.events.push(format!("rename to {}", to.file_name().unwrap().display()));
        synced.renamed.push((to.to_owned(), inode));
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        crate::files::sync_directory(directory)?;
        let mut synced = self.0.lock().unwrap();
        synced.events.push("directory".to_owned());
        for (path, inode) in std::mem::take(&mut synced.renamed) {
            let bytes = synced.new.get(&inode).cloned().unwrap_or_default();
            fs::write(synced.image.join(path.file_name().unwrap()), bytes)?;
        }
        Ok(())
    }
}

fn copied(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// The ledger in `directory` on a [`Power`] whose image begins as it is, and what opening it synced.
async fn open_on_power(directory: &Path, image: &Path) -> (Store, Power, Vec<String>) {
    let store = open(directory).unwrap();
    store.commit(vec![job_started(9)]).await.unwrap(); // the first line moves the mark by itself
    drop(store);
    let power = Power::new(image);
    let options = Options { on_failure: OnFailure::Stop, retention: None };
    let (clock, entropy) = (Arc::new(Still), Arc::new(Seed::new(1)));
    let store = Store::open_on(Box::new(power.clone()), directory, options, clock, entropy).unwrap();
    for file in fs::read_dir(directory.join("ledger")).unwrap().flatten() {
        copied(&file.path(), &image.join("ledger").join(file.file_name()));
    }
    for name in ["audit.jsonl", "security.log"] {
        copied(&directory.join(name), &image.join(name));
    }
    let events = power.take();
    (store, power, events)
}

/// What is in an image, file by file: the last line of the audit file, of the second copy, of the records.
fn lines_in(image: &Path) -> [u64; 3] {
    let audit = AuditFile::open(&image.join("audit.jsonl")).unwrap();
    let copy::Found::Read(copy) = copy::read(&image.join("security.log")).unwrap() else { panic!("no copy") };
    assert!(!audit.is_ragged() && !copy.torn);
    let records = Records::open(&image.join("ledger")).unwrap();
    [audit.last(), copy.sequence, records.look().unwrap().progress]
}

#[tokio::test]
async fn what_is_acknowledged_survives_a_power_failure_in_audit_file_and_copy() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("state");
    fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
    let (store, power, _) = open_on_power(&directory, &place.path().join("image")).await;
    let commits: Vec<(Vec<Change>, &[&str], [u64; 2])> = vec![
        (vec![job_started(1), lease_pending(1)], &["audit"], [3, 0]),
        (vec![Change::BlockSet { block: block(1) }], &["audit", "copy"], [4, 4]),
        (vec![job_started(2)], &["audit"], [5, 4]),
        (vec![join_token_created(1)], &["audit", "copy"], [6, 6]),
    ];
    for (number, (changes, events, lines)) in commits.into_iter().enumerate() {
        store.commit(changes).await.unwrap();
        // Acknowledged: this and no later sync is what it may stand on.
        let image = place.path().join(format!("image-{number}"));
        copied(&place.path().join("image"), &image);
        let mut seen = power.take();
        seen.retain(|event| event != "records"); // of the commits before, when their time had come
        assert_eq!(seen, events, "commit {number}");
        let [audit, copy, records] = lines_in(&image);
        assert_eq!([audit, copy], lines, "commit {number}");
        assert!(records <= audit, "commit {number}");
        let after = open(&image).unwrap();
        assert!(after.job(job(1).id).unwrap().is_some() && after.lease(lease(1).id).unwrap().is_some());
        let blocks = after.blocks(&owner().spiffe_id, &name("web-deployer")).unwrap();
        assert_eq!(blocks.len(), usize::from(number > 0), "commit {number}");
    }
}

#[tokio::test]
async fn the_records_are_synced_a_moment_later_for_all_that_came_until_then() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("state");
    fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
    let (store, power, _) = open_on_power(&directory, &place.path().join("image")).await;
    for number in 10..30 {
        store.commit(vec![job_started(number)]).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event| event != "records") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        seen.extend(power.take());
    }
    let records = seen.iter().filter(|event| *event == "records").count();
    assert!(records < 20, "one for each commit: {seen:?}");
    assert_eq!(lines_in(&place.path().join("image")), [21, 0, 21]);
}

#[tokio::test]
async fn a_copy_that_is_written_anew_has_what_is_not_in_the_records_yet() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("security.log");
    let store = open(directory.path()).unwrap();
    let reason = "a copy is written anew when it has grown to a mebibyte ".repeat(100);
    let (mut blocks, mut before) = (0, 0);
    loop {
        let id = BlockId::parse(&format!("01a0c450-0000-7000-8000-0000{blocks:08x}")).unwrap();
        let block = Block { id, reason: reason.clone(), ..block(1) };
        store.commit(vec![Change::BlockSet { block }]).await.unwrap();
        blocks += 1;
        // Nobody is told when it is written anew; the next block comes after that.
        let now = fs::metadata(&path).unwrap().len();
        if now < before {
            break;
        }
        before = now;
    }
    drop(store);
    let copy::Found::Read(copy) = copy::read(&path).unwrap() else { panic!("no copy") };
    let held = copy.rows.iter().filter(|(key, _)| key.first() == Some(&Table::Block.key(&[])[0])).count();
    assert_eq!(held, blocks);
}

#[tokio::test]
async fn a_manifest_is_written_synced_renamed_and_its_directory_synced() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("state");
    fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
    let (store, power, opening) = open_on_power(&directory, &place.path().join("image")).await;
    store.commit(vec![job_started(1)]).await.unwrap();
    power.take();
    store.shutdown();
    let manifest = directory.join("MANIFEST");
    let written = format!("new file of {} bytes", fs::metadata(&manifest).unwrap().len());
    for (when, events) in [("at the end", power.take()), ("at the start", opening)] {
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let renamed = events.iter().position(|event| *event == "rename to MANIFEST").unwrap();
        assert!(events[renamed - 1].starts_with("new file of "), "{when}: {events:?}");
        assert_eq!(events[renamed + 1], "directory", "{when}: {events:?}");
        if when == "at the end" {
            assert_eq!(events, ["records", &written, "rename to MANIFEST", "directory"]);
        }
    }
    let Found::Whole(image) = Manifest::read(&place.path().join("image/MANIFEST")).unwrap() else {
        panic!("a power failure leaves no whole MANIFEST")
    };
    assert_eq!((image.sequence, image.clean), (2, true));
    assert_eq!(Manifest::read(&manifest).unwrap(), Found::Whole(image));
}
