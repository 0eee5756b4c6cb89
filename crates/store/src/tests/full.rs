//! A full disk, at work and at the start: what is refused meanwhile, and that it goes on by itself.
//!
//! The writer is this test binary, run again with [`WRITER`] set and a limit on the size of its files, which the database
//! reaches first; lifting the limit is the space that comes back. For the start it is run with [`SMALL`] set, on a
//! filesystem of its own that it fills to the last page.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use shorepass_core::id::{JobId, RequestId};
use shorepass_core::job::Job;
use shorepass_core::ledger::{Change, Ledger as _, LedgerError};
use shorepass_core::request::{Method, Outcome};

use crate::place::Place;
use crate::testing::*;
use crate::{OnFailure, Options};

const WRITER: &str = "SHOREPASS_STORE_TEST_FULL";
const SMALL: &str = "SHOREPASS_STORE_TEST_SMALL";
/// How much is written before the disk is filled: more than one of sled's pages.
const JOBS: u32 = 300;

fn id(number: u32) -> JobId {
    JobId::parse(&format!("01a0c450-0000-7000-8000-0000{number:08x}")).unwrap()
}

/// The writer's part; by itself, a test of nothing.
#[test]
fn writer() {
    let Some(directory) = std::env::var_os(WRITER) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = open(Path::new(&directory)).unwrap();
    runtime.block_on(async {
        for number in 0.. {
            let told = match store.commit(vec![started(number)]).await {
                Ok(_) => format!("acknowledged {number}"),
                Err(LedgerError::Unavailable(_) | LedgerError::AuditUnavailable(_)) => {
                    assert!(store.health().is_err());
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    "refused".to_owned()
                }
                Err(other) => panic!("{other}"),
            };
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "{told}").and_then(|()| stdout.flush()).unwrap();
        }
    });
}

#[test]
fn a_full_disk_refuses_and_then_goes_on_by_itself() {
    for limit in [600_000, 1_200_000] {
        let directory = tempfile::tempdir().unwrap();
        let limit = format!("--fsize={limit}:unlimited");
        let mut child = Command::new("sh")
            // A write beyond the limit is an error then, and not the end of the process.
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", "prlimit", &limit])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "tests::full::writer", "--nocapture", "--test-threads=1"])
            .env(WRITER, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut acknowledged, mut refused, mut since) = (BTreeSet::new(), 0, 0);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(number) = line.strip_prefix("acknowledged ") {
                acknowledged.insert(number.parse::<u32>().unwrap());
                since += usize::from(refused > 0);
            } else if line == "refused" {
                refused += 1;
                if refused == 30 {
                    let pid = child.id().to_string();
                    let lifted = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
                    assert!(lifted.unwrap().success());
                }
            }
            if (refused >= 30 && since >= 20) || refused >= 1000 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(refused >= 30 && since >= 20, "{refused} refused, {since} acknowledged since");
        let store = open(directory.path()).unwrap();
        for number in acknowledged {
            assert!(store.job(id(number)).unwrap().is_some(), "job {number} is lost");
        }
    }
}

fn started(number: u32) -> Change {
    let job = Job { id: id(number), ..job(1) };
    let mut request = request(0, Method::StartJob, Outcome::Job(job.id));
    request.id = RequestId::parse(&job.id.to_string()).unwrap();
    Change::JobStarted { job, request }
}

/// A start on a disk with that many bytes left, of a ledger that a crash left behind; whether it opened at once.
async fn starts_with(free: u64, disk: &Path, crashed: &Path) -> bool {
    let ballast = disk.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let full = loop {
        match file.write_all(&[0; 4096]) {
            Ok(()) => {}
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(full, ErrorKind::StorageFull);
    let length = file.metadata().unwrap().len();
    file.set_len(length - free).unwrap();
    drop(file); // an open file keeps its room when it is removed
    let audit = fs::read(crashed.join("audit.jsonl")).unwrap();
    let options = Options { on_failure: OnFailure::Continue, retention: None };
    let store = open_with(crashed, options).unwrap();
    let opened = store.health().is_ok();
    if !opened {
        let Err(LedgerError::Unavailable(why)) = store.health() else { panic!("{:?}", store.health()) };
        assert!(why.contains("there is no room to write") && why.contains("free space on its disk"), "{why}");
        assert!(matches!(store.job(id(0)), Err(LedgerError::Unavailable(_))));
        assert!(matches!(store.commit(vec![started(JOBS)]).await, Err(LedgerError::Unavailable(_))));
        assert_eq!(fs::read(crashed.join("audit.jsonl")).unwrap(), audit);
    }
    fs::remove_file(ballast).unwrap();
    let started_waiting = Instant::now();
    while store.health().is_err() {
        assert!(started_waiting.elapsed() < Duration::from_secs(20), "last seen: {:?}", store.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.commit(vec![started(JOBS)]).await.unwrap();
    assert!((0..=JOBS).all(|number| store.job(id(number)).unwrap().is_some()), "{free} bytes left");
    // What is whole is not taken for damaged.
    assert_eq!((store.alarm(), Place::new(crashed).moved_aside()), (None, Vec::new()), "{free} bytes left");
    opened
}

/// The part on the small disk; by itself, a test of nothing.
#[test]
fn on_a_small_disk() {
    let Some(disk) = std::env::var_os(SMALL) else { return };
    let disk = Path::new(&disk);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let written = disk.join("written");
    DirBuilder::new().mode(0o700).create(&written).unwrap();
    let store = open(&written).unwrap();
    runtime.block_on(async {
        for number in 0..JOBS {
            store.commit(vec![started(number)]).await.unwrap();
        }
        let mut refused = 0;
        for free in [0, 4096, 8192, 16_384, 32_768, 600_000] {
            let crashed = disk.join(format!("crashed-{free}"));
            // It is open: that is what SIGKILL leaves.
            assert!(Command::new("cp").arg("-a").arg(&written).arg(&crashed).status().unwrap().success());
            refused += u32::from(!starts_with(free, disk, &crashed).await);
            fs::remove_dir_all(&crashed).unwrap();
        }
        assert!((2..6).contains(&refused), "{refused} starts were refused for want of room");
    });
}

#[test]
fn a_start_on_a_full_disk_refuses_and_then_goes_on_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=12m,mode=0700 none \"$0\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "tests::full::on_a_small_disk", "--nocapture", "--test-threads=1"])
        .env(SMALL, directory.path())
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].map(|told| String::from_utf8_lossy(&told).into_owned());
    assert!(output.status.success() && told[0].contains("1 passed"), "{}\n{}", told[0], told[1]);
}
