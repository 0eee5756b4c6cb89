//! A full disk: what is refused meanwhile, and that it goes on by itself.
//!
//! The writer is this test binary, run again with [`WRITER`] set and a limit on the size of its files, which the database
//! reaches first; lifting the limit is the space that comes back.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use shorepass_core::id::{JobId, RequestId};
use shorepass_core::job::Job;
use shorepass_core::ledger::{Change, Ledger as _, LedgerError};
use shorepass_core::request::{Method, Outcome};

use crate::testing::*;

const WRITER: &str = "SHOREPASS_STORE_TEST_FULL";

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
            let job = Job { id: id(number), ..job(1) };
            let mut request = request(0, Method::StartJob, Outcome::Job(job.id));
            request.id = RequestId::parse(&job.id.to_string()).unwrap();
            let told = match store.commit(vec![Change::JobStarted { job, request }]).await {
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
