//! SIGKILL in the middle of writing: what was acknowledged is there.
//!
//! The writer is this test binary, run again with [`WRITER`] set. That shows that nothing depends on an orderly end; that
//! nothing depends on the page cache is shown by the order of the syncs (`disk`), and by no test that can run here.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use shorepass_core::id::{JobId, RequestId};
use shorepass_core::job::Job;
use shorepass_core::ledger::{Change, Ledger};
use shorepass_core::request::{Method, Outcome};

use crate::testing::*;

const WRITER: &str = "SHOREPASS_STORE_TEST_WRITER";
const ROUNDS: u64 = 200;

/// The writer's part; by itself, a test of nothing.
#[test]
fn writer() {
    let Some(directory) = std::env::var_os(WRITER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = Arc::new(open(Path::new(&directory)).unwrap());
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                loop {
                    let job = unique_job(writer);
                    let mut request = request(0, Method::StartJob, Outcome::Job(job.id));
                    request.id = RequestId::parse(&job.id.to_string()).unwrap();
                    store.commit(vec![Change::JobStarted { job: job.clone(), request }]).await.unwrap();
                    let mut stdout = std::io::stdout().lock();
                    writeln!(stdout, "acknowledged {}", job.id).and_then(|()| stdout.flush()).unwrap();
                }
            });
        }
        writers.join_next().await;
    });
}

fn unique_job(writer: u8) -> Job {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let process = std::process::id() & 0xff_ffff;
    let id = format!("{:08x}-{:04x}-7000-8000-{process:06x}{count:06x}", now >> 16, now & 0xffff);
    Job { id: JobId::parse(&id).unwrap(), ..job(writer) }
}

fn spawn_writer(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::crash::writer", "--nocapture", "--test-threads=1"])
        .env(WRITER, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the writer some time after its first acknowledgement; gives all that were acknowledged.
fn killed_writer(directory: &Path, after: Duration) -> Vec<JobId> {
    let mut child = spawn_writer(directory);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    let mut line = String::new();
    let mut killed = false;
    // A last line that is not whole was not seen by anybody.
    while stdout.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
        if let Some(id) = line.trim_end().strip_prefix("acknowledged ") {
            acknowledged.push(JobId::parse(id).unwrap());
        }
        if !acknowledged.is_empty() && !killed {
            std::thread::sleep(after);
            child.kill().unwrap();
            killed = true;
        }
        line.clear();
    }
    assert!(killed, "the writer ended by itself");
    child.wait().unwrap();
    acknowledged
}

#[test]
fn what_was_acknowledged_survives_two_hundred_kills() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        // Anywhere between the acknowledgement and the middle of a later batch.
        let after = Duration::from_micros(round * round * 211 % 29_989);
        acknowledged.extend(killed_writer(directory.path(), after));
        let store = open(directory.path()).unwrap();
        let audit = fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
        let audited: BTreeSet<String> = audit.lines().map(job_of).collect();
        for id in &acknowledged {
            assert!(store.job(*id).unwrap().is_some(), "round {round}: job {id} is lost");
            assert!(audited.contains(&id.to_string()), "round {round}: job {id} has no audit line");
        }
        assert_eq!(audit.lines().count(), audited.len(), "round {round}: an audit line stands twice");
    }
    assert!(acknowledged.len() as u64 > ROUNDS, "{} were acknowledged", acknowledged.len());
}

fn job_of(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["job"].as_str().unwrap().to_owned()
}
