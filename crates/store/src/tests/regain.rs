//! Security state that was found lost and comes back: from which files of before, and from which not.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use shorepass_core::ban::Banned;
use shorepass_core::ledger::{Change, Ledger as _};
use shorepass_core::security::SecurityState;

use crate::testing::*;
use crate::{Offline, OnFailure, OpenError, Options, Rebuilt, Store};

/// A ledger that lost its security state, whose issuer went on without it and was stopped.
struct Lost {
    directory: tempfile::TempDir,
    /// The copy and the rotated audit file, as they were before.
    copy: Vec<u8>,
    audit: Vec<u8>,
    /// The copy as it was before the last block.
    older: Vec<u8>,
}

const GO_ON: Options = Options { on_failure: OnFailure::Continue, retention: None };

impl Lost {
    /// What happens in it before the loss is `late` at its end.
    async fn new(late: Vec<Change>, killed: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let store = open(directory.path()).unwrap();
        store.commit(vec![job_started(1), lease_pending(1)]).await.unwrap();
        store.commit(vec![join_token_created(1), join_token_taken(1, 1), enrolled(1)]).await.unwrap();
        let banned = ban(Banned::Name(owner().spiffe_id));
        store.commit(vec![Change::BanSet { ban: banned.clone() }]).await.unwrap();
        store
            .commit(vec![Change::BanLifted { ban: banned.clone().lift(second(6), operator()) }])
            .await
            .unwrap();
        let older = fs::read(path("security.log")).unwrap();
        store.commit(vec![Change::BlockSet { block: block(1) }]).await.unwrap();
        drop(store);
        let audit = fs::read(path("audit.jsonl")).unwrap();
        fs::remove_file(path("audit.jsonl")).unwrap();
        open(directory.path()).unwrap().commit(late).await.unwrap();
        let copy = fs::read(path("security.log")).unwrap();
        let lost = Self { directory, copy, audit, older };
        if killed {
            lost.unclean();
        }
        lost.lose();
        let store = lost.go_on();
        assert_eq!(store.security(), SecurityState::LostSince(second(0)));
        // Who was banned and let in again before the loss is banned since.
        store.commit(vec![Change::BanSet { ban: banned }, join_token_created(2)]).await.unwrap();
        drop(store);
        lost
    }

    async fn plain() -> Self {
        Self::new(vec![job_started(3)], false).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn go_on(&self) -> Store {
        open_with(self.directory.path(), GO_ON).unwrap()
    }

    fn lose(&self) {
        fs::remove_dir_all(self.path("ledger")).unwrap();
        fs::write(self.path("security.log"), "rubbish").unwrap();
    }

    /// As after a kill.
    fn unclean(&self) {
        let text = fs::read_to_string(self.path("MANIFEST")).unwrap();
        let line = text.lines().next().unwrap().replace("\"clean\":true", "\"clean\":false");
        let sum = crc32c::crc32c(line.as_bytes());
        fs::write(self.path("MANIFEST"), format!("{line}\ncrc32c {sum:08x}\n")).unwrap();
    }

    fn restore_copy(&self) {
        fs::write(self.path("security.log"), &self.copy).unwrap();
    }

    /// The older part of the audit file before the present one.
    fn join_audit(&self) {
        let present = fs::read(self.path("audit.jsonl")).unwrap();
        fs::write(self.path("audit.jsonl"), [self.audit.as_slice(), &present].concat()).unwrap();
    }

    fn rebuild(&self) -> Result<Rebuilt, OpenError> {
        let (clock, entropy) = (Arc::new(Still), Arc::new(Seed::new(9)));
        Offline::lock(self.directory.path(), GO_ON, clock, entropy).unwrap().rebuild(false)
    }

    fn assert_regained(&self) {
        let report = Offline::lock(self.directory.path(), GO_ON, Arc::new(Still), Arc::new(Seed::new(9)));
        let report = report.unwrap().verify().unwrap();
        assert!(report.is_whole(), "{report:?}");
        for manifest in [true, false] {
            if !manifest {
                fs::remove_file(self.path("MANIFEST")).unwrap();
            }
            let store = open(self.directory.path()).unwrap();
            assert_eq!(store.security(), SecurityState::Whole);
            assert!(store.join_token(join_token(1).digest).unwrap().unwrap().taken.is_some());
            assert_eq!(store.latest_enrolment(&owner().spiffe_id).unwrap(), Some(enrolment(1)));
            assert_eq!(store.blocks(&owner().spiffe_id, &name("web-deployer")).unwrap(), [block(1)]);
            assert!(store.join_token(join_token(2).digest).unwrap().is_some(), "it was made since");
            let banned = ban(Banned::Name(owner().spiffe_id));
            assert_eq!(store.ban(&banned.banned.key()).unwrap(), Some(banned), "it was set since");
        }
    }

    fn assert_lost(&self, harm: &str, part: &str) {
        let refused = self.rebuild().unwrap_err();
        let hopeless = ["had not stopped in order", "no MANIFEST"].contains(&part);
        assert_eq!(refused.to_string().contains("or accept"), !hopeless, "{harm}: {refused}");
        assert!(matches!(refused, OpenError::SecurityLost { .. }), "{harm}: {refused}");
        assert!(refused.to_string().contains(part), "{harm}: {refused}");
        let store = self.go_on();
        assert_eq!(store.security(), SecurityState::LostSince(second(0)), "{harm}");
        let banned = ban(Banned::Name(owner().spiffe_id));
        let held = store.ban(&banned.banned.key()).unwrap();
        assert!(held.is_none_or(|held| held.in_force()), "{harm}: a ban of since then was overridden");
    }
}

#[tokio::test]
async fn the_copy_of_before_gives_back_what_was_lost() {
    let lost = Lost::plain().await;
    lost.restore_copy();
    assert_eq!(lost.rebuild().unwrap(), Rebuilt::Regained(second(0), "security.log"));
    lost.assert_regained();
}

#[tokio::test]
async fn the_audit_file_from_its_first_line_gives_back_what_was_lost() {
    for copy in [false, true] {
        let lost = Lost::plain().await;
        lost.join_audit();
        if copy {
            lost.restore_copy();
        }
        assert_eq!(lost.rebuild().unwrap(), Rebuilt::Regained(second(0), "the audit file"));
        lost.assert_regained();
        assert!(open(lost.directory.path()).unwrap().lease(lease(1).id).unwrap().is_some());
    }
}

#[tokio::test]
async fn a_copy_that_may_lack_something_gives_back_nothing_for_certain() {
    let lost = Lost::plain().await;
    lost.assert_lost("it is what was written since", "may have been written after the loss");
    fs::write(lost.path("security.log"), &lost.older).unwrap();
    lost.assert_lost("it is too old", "before the loss");
    // What it had is there all the same, and the copy that was written of it is no proof.
    assert!(lost.go_on().join_token(join_token(1).digest).unwrap().is_some());
    lost.assert_lost("it is what was written of it", "may have been written after the loss");

    let lost = Lost::plain().await;
    let other = tempfile::tempdir().unwrap();
    let seed = Arc::new(Seed::new(77));
    drop(Store::open(other.path(), GO_ON, Arc::new(Still), seed).unwrap());
    fs::copy(other.path().join("security.log"), lost.path("security.log")).unwrap();
    lost.assert_lost("it is another ledger's", "another ledger's");

    let lost = Lost::plain().await;
    lost.unclean();
    lost.restore_copy();
    lost.assert_lost("it was killed since", "start it and stop it");

    let lost = Lost::new(vec![join_token_created(4)], false).await;
    lost.restore_copy();
    lost.assert_lost("it ends where one of since may", "may have been written after the loss");
}

#[tokio::test]
async fn an_audit_file_that_lacks_lines_gives_back_nothing() {
    let lost = Lost::plain().await;
    let present = fs::read(lost.path("audit.jsonl")).unwrap();
    fs::write(lost.path("audit.jsonl"), &lost.audit).unwrap();
    lost.assert_lost("the lines of since are missing", "had line");
    fs::write(lost.path("audit.jsonl"), present).unwrap();
    lost.assert_lost("the lines of before are missing", "begins with line");
}

#[tokio::test]
async fn nothing_is_proof_where_nobody_knows_how_the_ledger_had_ended() {
    let lost = Lost::new(vec![job_started(3)], true).await;
    lost.restore_copy();
    lost.join_audit();
    lost.assert_lost("it was killed before the loss", "had not stopped in order");

    let lost = Lost::plain().await;
    lost.lose();
    drop(lost.go_on());
    lost.restore_copy();
    lost.assert_lost("it was lost once more, with what was recorded in between", "had not stopped in order");

    let lost = Lost::plain().await;
    fs::remove_file(lost.path("MANIFEST")).unwrap();
    lost.restore_copy();
    lost.assert_lost("the MANIFEST was lost", "no MANIFEST");
}

#[tokio::test]
async fn what_is_restored_before_the_issuer_goes_on_needs_no_proof() {
    for copy in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let store = open(directory.path()).unwrap();
        store.commit(vec![Change::BlockSet { block: block(1) }]).await.unwrap();
        drop(store);
        let whole = ["audit.jsonl", "security.log"].map(|file| (file, fs::read(path(file)).unwrap()));
        fs::remove_file(path("audit.jsonl")).unwrap();
        open(directory.path()).unwrap().commit(vec![job_started(1)]).await.unwrap();
        let present = fs::read(path("audit.jsonl")).unwrap();
        fs::remove_dir_all(path("ledger")).unwrap();
        fs::write(path("security.log"), "rubbish").unwrap();
        let offline =
            || Offline::lock(directory.path(), GO_ON, Arc::new(Still), Arc::new(Seed::new(9))).unwrap();
        assert!(matches!(offline().rebuild(false), Err(OpenError::SecurityLost { .. })));
        let [(_, older), (_, restored)] = &whole;
        match copy {
            true => fs::write(path("security.log"), restored).unwrap(),
            false => fs::write(path("audit.jsonl"), [older.as_slice(), &present].concat()).unwrap(),
        }
        assert!(matches!(offline().rebuild(false).unwrap(), Rebuilt::Anew(_)));
        let store = open(directory.path()).unwrap();
        assert_eq!(store.security(), SecurityState::Whole);
        assert_eq!(store.block(block(1).id).unwrap(), Some(block(1)));
    }
}
