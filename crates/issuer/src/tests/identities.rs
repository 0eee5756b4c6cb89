//! What `identity create` hands over comes into the ledger once, whatever happens to file and process.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;

use shorepass_core::caller::Owner;
use shorepass_core::ledger::Ledger as _;
use shorepass_core::security::SecurityState;
use tempfile::TempDir;

use super::issuing::FailingLedger;
use super::*;
use crate::identities::inbox::Inbox;
use crate::identities::{FILE, Handover, Line};

/// A file, and a ledger that fails when it is told to.
struct Desk {
    folder: TempDir,
    ledger: Arc<FailingLedger>,
    inbox: Inbox,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inner = Arc::new(MemoryLedger::new(ManualClock::new()));
        let ledger = Arc::new(FailingLedger {
            inner,
            left: 1_000.into(),
            audit: true,
            security: SecurityState::Whole,
        });
        let inbox = Inbox::new(folder.path().join(FILE), ledger.clone());
        Self { folder, ledger, inbox }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    /// What a daemon knows that was started again.
    fn restart(&mut self) {
        self.inbox = Inbox::new(self.path(), self.ledger.clone());
    }

    async fn look(&mut self) {
        self.inbox.look().await.unwrap();
    }

    fn make(&self, name: &str) {
        Handover::open(&self.path()).unwrap().append(&line(name)).unwrap();
    }

    fn append(&self, bytes: &[u8]) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.path()).unwrap();
        file.write_all(bytes).unwrap();
    }

    /// The names of those that have an audit line, in its order.
    fn audited(&self) -> Vec<String> {
        let caller = |line: &String| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["event"], "identity.created");
            line["caller"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
        };
        self.ledger.inner.audit_lines().iter().map(caller).collect()
    }
}

fn line(name: &str) -> Line {
    let clock = ManualClock::new();
    let owner = Owner {
        spiffe_id: SpiffeId::parse(&format!("spiffe://{DOMAIN}/operator/{name}")).unwrap(),
        enrolment: EnrolmentId::generate(clock.now(), &CountingEntropy::default()),
    };
    let expires = after(clock.now(), Duration::from_secs(3600));
    Line::new(&owner, clock.now(), expires, Digest::of_bytes(name.as_bytes()))
}

fn bytes(name: &str) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&line(name)).unwrap();
    bytes.push(b'\n');
    bytes
}

#[tokio::test]
async fn each_comes_in_once_over_any_number_of_looks_and_restarts() {
    let mut desk = Desk::new();
    desk.look().await; // there is no file yet
    desk.make("a");
    desk.make("b");
    for _ in 0..2 {
        desk.look().await;
        desk.look().await;
        desk.restart();
    }
    desk.make("c");
    desk.look().await;
    assert_eq!(desk.audited(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_line_comes_in_when_it_is_whole_wherever_it_was_cut() {
    let text = [bytes("a"), bytes("b"), bytes("c")].concat();
    for cut in 0..text.len() {
        let mut desk = Desk::new();
        desk.append(&text[..cut]);
        desk.look().await;
        if cut % 2 == 0 {
            desk.restart();
        }
        let whole = text[..cut].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(desk.audited().len(), whole, "cut at {cut}");
        desk.append(&text[cut..]);
        desk.look().await;
        assert_eq!(desk.audited(), ["a", "b", "c"], "cut at {cut}");
    }
}

#[tokio::test]
async fn a_line_that_is_never_finished_is_passed_over() {
    let mut desk = Desk::new();
    desk.make("a");
    desk.append(&bytes("lost")[..50]);
    desk.look().await;
    desk.make("b");
    desk.append(b"{\"event\":\"identity.created\"}\n\n");
    desk.look().await;
    desk.make("c");
    desk.look().await;
    assert_eq!(desk.audited(), ["a", "b", "c"]);
}

#[tokio::test]
async fn what_was_not_recorded_is_brought_in_again() {
    let mut desk = Desk::new();
    desk.make("a");
    desk.ledger.left.store(0, SeqCst);
    assert!(desk.inbox.look().await.is_err());
    assert_eq!(desk.audited(), [""; 0]);
    desk.make("b");
    desk.ledger.left.store(1_000, SeqCst);
    desk.look().await;
    assert_eq!(desk.audited(), ["a", "b"]);
}

/// The daemon was killed when its commit was durable and before it knew.
#[tokio::test]
async fn what_was_recorded_unnoticed_is_not_recorded_again() {
    let mut desk = Desk::new();
    desk.make("a");
    let mut other = Inbox::new(desk.path(), desk.ledger.clone());
    other.look().await.unwrap();
    desk.make("b");
    desk.look().await;
    assert_eq!(desk.audited(), ["a", "b"]);
}

#[tokio::test]
async fn a_restart_reads_on_behind_the_line_that_was_recorded_last() {
    let mut desk = Desk::new();
    desk.make("a");
    desk.make("b");
    desk.look().await;
    // Had it read the first line again, it would find somebody new there.
    let text = [bytes("x"), bytes("b"), bytes("c")].concat();
    std::fs::write(desk.path(), text).unwrap();
    desk.restart();
    desk.look().await;
    assert_eq!(desk.audited(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_file_that_was_replaced_is_read_from_its_start() {
    for restarted in [true, false] {
        let mut desk = Desk::new();
        for name in ["a", "b"] {
            desk.make(name);
        }
        desk.look().await;
        // Shorter, with what is known in it, even twice; then longer than what was read before, and all of it new.
        for text in [vec![bytes("a"), bytes("c"), bytes("c")], ["d", "e", "f", "g"].map(bytes).to_vec()] {
            let new = desk.folder.path().join("new");
            std::fs::write(&new, text.concat()).unwrap();
            std::fs::rename(new, desk.path()).unwrap();
            if restarted {
                desk.restart();
            }
            desk.look().await;
            desk.look().await;
        }
        assert_eq!(desk.audited(), ["a", "b", "c", "d", "e", "f", "g"]);
    }
}

#[tokio::test]
async fn more_than_a_window_comes_in_in_order_and_what_is_no_line_ends_nothing() {
    let mut desk = Desk::new();
    let names: Vec<String> = (0..600).map(|number| format!("a{number}")).collect();
    for name in &names {
        desk.append(&bytes(name));
    }
    desk.append(&vec![b'x'; 200_000]);
    desk.append(b"\n");
    desk.append(&bytes("last"));
    desk.look().await;
    assert_eq!(desk.audited(), [names, vec!["last".to_owned()]].concat());
    let latest = desk.ledger.latest_identity().unwrap().unwrap();
    assert_eq!(latest.line_end, std::fs::metadata(desk.path()).unwrap().len());
}
