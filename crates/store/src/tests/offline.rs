//! What an operator does to a ledger that nobody has open.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shorepass_core::lease::{Lease, Mode};
use shorepass_core::ledger::{Change, Ledger as _};
use shorepass_core::security::SecurityState;

use crate::testing::*;
use crate::{Offline, OnFailure, OpenError, Options, Rebuilt, TransferError};

fn options() -> Options {
    Options { on_failure: OnFailure::Stop, retention: None }
}

fn offline(directory: &Path) -> Result<Offline, OpenError> {
    Offline::lock(directory, options(), Arc::new(Still), Arc::new(Seed::new(9)))
}

async fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    store.commit(vec![job_started(1), lease_pending(1), token_minted(1, 0)]).await.unwrap();
    store.commit(vec![join_token_created(1), join_token_taken(1, 1), enrolled(1)]).await.unwrap();
    store.commit(vec![Change::BlockSet { block: block(1) }]).await.unwrap();
    directory
}

fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path) } else { vec![(path.clone(), fs::read(&path).unwrap())] }
        })
        .collect();
    files.sort();
    files
}

fn damage(directory: &Path, table: u8) {
    let records = super::records_in(directory.join("ledger"));
    let (key, value) = records.scan_prefix([table]).next().unwrap().unwrap();
    let mut value = value.to_vec();
    *value.last_mut().unwrap() ^= 1;
    records.insert(key, value).unwrap();
}

#[tokio::test]
async fn a_whole_ledger_is_found_whole_and_left_as_it_is() {
    let directory = filled().await;
    drop(offline(directory.path()).unwrap());
    let before = files(directory.path());
    let report = offline(directory.path()).unwrap().verify().unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert!(report.facts.iter().any(|fact| fact.contains("lines 1 to 7")), "{report:?}");
    assert_eq!(files(directory.path()), before);
}

#[tokio::test]
async fn what_is_damaged_is_named() {
    let directory = filled().await;
    damage(directory.path(), 3);
    let report = offline(directory.path()).unwrap().verify().unwrap();
    assert_eq!(report.records.len(), 1, "{report:?}");
    assert!(
        report.records[0].contains("table Token") && report.records[0].contains("checksum"),
        "{report:?}"
    );

    let directory = filled().await;
    let records = super::records_in(directory.path().join("ledger"));
    records.remove(records.scan_prefix([11]).keys().next().unwrap().unwrap()).unwrap();
    records.remove(records.scan_prefix([3]).keys().next().unwrap().unwrap()).unwrap();
    drop(records);
    let report = offline(directory.path()).unwrap().verify().unwrap();
    let told = report.records.join("\n");
    assert!(told.contains("table Lease is not in its indices"), "{told}");
    assert!(told.contains("TokensOfLease") && told.contains("names a row that is not there"), "{told}");

    for (file, part) in
        [("security.log", "security.log: "), ("MANIFEST", "MANIFEST: "), ("audit.jsonl", "damaged at byte")]
    {
        let directory = filled().await;
        let path = directory.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x80;
        fs::write(&path, bytes).unwrap();
        let report = offline(directory.path()).unwrap().verify().unwrap();
        let told = report.others.join("\n");
        // An end that is not whole is what a crash leaves, and is told as that.
        let torn = report.facts.iter().any(|fact| fact.contains(file) && fact.contains("not whole"));
        assert!(told.contains(part) || torn, "{file}: {report:?}");
    }
}

#[tokio::test]
async fn files_that_do_not_go_as_far_as_they_should_are_named() {
    let told = |directory: &Path| offline(directory).unwrap().verify().unwrap().others.join("\n");
    let whole = filled().await;
    let audit = fs::read_to_string(whole.path().join("audit.jsonl")).unwrap();
    let shorter = audit.lines().take(5).map(|line| format!("{line}\n")).collect::<String>();
    let zeroed = audit[..audit.len() - 40].to_owned() + "\0" + &audit[audit.len() - 39..];
    for (text, problem) in [
        (&audit[..audit.len() - 5], "may have been acknowledged and is not whole"),
        (shorter.as_str(), "it ends with line 5, and the records have had lines to 7"),
        (zeroed.as_str(), "damaged at byte"),
    ] {
        fs::write(whole.path().join("audit.jsonl"), text).unwrap();
        assert!(told(whole.path()).contains(problem), "{problem}: {}", told(whole.path()));
    }

    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    store.commit(vec![job_started(1)]).await.unwrap();
    drop(store);
    let before = files(directory.path());
    open(directory.path()).unwrap().commit(vec![Change::BlockSet { block: block(1) }]).await.unwrap();
    fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    for (path, bytes) in before.into_iter().filter(|(path, _)| !path.ends_with("security.log")) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let problem = "it goes to line 2, which neither audit.jsonl nor the records have";
    assert!(told(directory.path()).contains(problem), "{}", told(directory.path()));
}

#[tokio::test]
async fn an_export_that_fails_leaves_no_file() {
    let directory = filled().await;
    damage(directory.path(), 3);
    let file = directory.path().join("export");
    for _ in 0..2 {
        let refused = offline(directory.path()).unwrap().export(&file).unwrap_err();
        assert!(matches!(refused, TransferError::Ledger(_)), "{refused}");
        assert!(!file.exists());
    }
}

#[tokio::test]
async fn nothing_is_done_while_an_issuer_has_it_open() {
    let directory = filled().await;
    let _open = open(directory.path()).unwrap();
    assert!(matches!(offline(directory.path()).err(), Some(OpenError::Locked { .. })));
}

#[test]
fn the_lock_is_one_for_the_whole_directory() {
    let directory = tempfile::tempdir().unwrap();
    let _open = open(directory.path()).unwrap();
    fs::rename(directory.path().join("ledger"), directory.path().join("elsewhere")).unwrap();
    assert!(matches!(open(directory.path()).err(), Some(OpenError::Locked { .. })));
}

#[tokio::test]
async fn an_export_is_imported_as_the_same_records() {
    let directory = filled().await;
    let file = directory.path().join("export.jsonl");
    let rows = offline(directory.path()).unwrap().export(&file).unwrap();
    let again = offline(directory.path()).unwrap().export(&file);
    assert!(matches!(again, Err(TransferError::File { .. })), "{again:?}");
    let other = tempfile::tempdir().unwrap();
    assert_eq!(offline(other.path()).unwrap().import(&file).unwrap(), rows);
    let second = other.path().join("export.jsonl");
    offline(other.path()).unwrap().export(&second).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), fs::read_to_string(second).unwrap());
    let not_empty = offline(other.path()).unwrap().import(&file);
    assert!(matches!(not_empty, Err(TransferError::NotEmpty { .. })), "{not_empty:?}");
    let store = open(other.path()).unwrap();
    assert_eq!(store.lease(lease(1).id).unwrap(), Some(lease(1)));
    store.commit(vec![job_started(2)]).await.unwrap();
    drop(store);
    let text = fs::read_to_string(other.path().join("audit.jsonl")).unwrap();
    assert!(text.starts_with("{\"seq\":8,"), "{text}");
}

#[tokio::test]
async fn leases_of_every_mode_are_carried_and_made_anew_whole() {
    let directory = tempfile::tempdir().unwrap();
    let modes = [strict(), Mode::Unbound { tokens_until: Some(second(7)) }];
    let store = open(directory.path()).unwrap();
    for (number, mode) in (2..).zip(modes.clone()) {
        store.commit(vec![lease_pending_in(number, mode)]).await.unwrap();
    }
    drop(store);
    assert!(offline(directory.path()).unwrap().verify().unwrap().is_whole());
    let file = directory.path().join("export.jsonl");
    offline(directory.path()).unwrap().export(&file).unwrap();
    let other = tempfile::tempdir().unwrap();
    offline(other.path()).unwrap().import(&file).unwrap();
    damage(directory.path(), 2);
    let rebuilt = offline(directory.path()).unwrap().rebuild(false).unwrap();
    assert!(matches!(rebuilt, Rebuilt::Anew(_)), "{rebuilt:?}");
    for directory in [directory, other] {
        let store = open(directory.path()).unwrap();
        for (number, mode) in (2..).zip(modes.clone()) {
            let lease = Lease { mode, ..lease(number) };
            assert_eq!(store.lease(lease.id).unwrap(), Some(lease));
        }
    }
}

#[tokio::test]
async fn an_export_with_anything_missing_or_altered_is_not_imported() {
    let directory = filled().await;
    let file = directory.path().join("export.jsonl");
    offline(directory.path()).unwrap().export(&file).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without = |gone: usize| {
        let kept: Vec<&str> =
            (0..lines.len()).filter(|index| *index != gone).map(|index| lines[index]).collect();
        kept.join("\n") + "\n"
    };
    let mut bad: Vec<String> = (0..lines.len()).map(without).collect();
    bad.push(text.replacen("\"value\":\"A", "\"value\":\"B", 1));
    let format =
        |number: u32| text.replace("\"shorepassLedger\":2", &format!("\"shorepassLedger\":{number}"));
    bad.extend([format(1), format(3)]);
    bad.extend(["\n", "rubbish", &text].map(|more| format!("{text}{more}")));
    for text in bad {
        fs::write(&file, &text).unwrap();
        let other = tempfile::tempdir().unwrap();
        let imported = offline(other.path()).unwrap().import(&file);
        assert!(matches!(imported, Err(TransferError::Damaged { .. })), "{imported:?}");
        assert!(!other.path().join("ledger").exists());
    }
}

#[tokio::test]
async fn every_flipped_bit_in_the_first_and_last_line_of_an_export_is_noticed() {
    let directory = filled().await;
    let file = directory.path().join("export.jsonl");
    offline(directory.path()).unwrap().export(&file).unwrap();
    let whole = fs::read(&file).unwrap();
    let head = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let foot = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    let other = tempfile::tempdir().unwrap();
    for byte in (0..head).chain(foot..whole.len()) {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1 << bit;
            fs::write(&file, &bytes).unwrap();
            let imported = offline(other.path()).unwrap().import(&file);
            assert!(matches!(imported, Err(TransferError::Damaged { .. })), "{byte}, {bit}: {imported:?}");
        }
    }
    assert_eq!(files(other.path()).len(), 1, "only the lock");
}

#[tokio::test]
async fn an_export_of_before_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("export.jsonl");
    fs::write(&file, "{\"shorepassLedger\":1,\"sequence\":0}\n{\"rows\":0,\"crc32c\":\"00000000\"}\n")
        .unwrap();
    let refused = offline(directory.path()).unwrap().import(&file).unwrap_err().to_string();
    assert!(refused.contains("format 1") && refused.contains("export the ledger again"), "{refused}");
}

#[tokio::test]
async fn an_import_that_did_not_end_is_repeated_as_its_refusal_says() {
    let directory = filled().await;
    let file = directory.path().join("export.jsonl");
    offline(directory.path()).unwrap().export(&file).unwrap();
    let other = tempfile::tempdir().unwrap();
    // As a kill leaves it once records were begun.
    fs::create_dir(other.path().join("ledger")).unwrap();
    fs::copy(directory.path().join("MANIFEST"), other.path().join("MANIFEST")).unwrap();
    fs::write(other.path().join("ledger.begun"), "").unwrap();
    let refused = offline(other.path()).unwrap().import(&file).unwrap_err().to_string();
    assert!(refused.contains("remove `ledger`, `MANIFEST` and `security.log`"), "{refused}");
    fs::remove_dir_all(other.path().join("ledger")).unwrap();
    fs::remove_file(other.path().join("MANIFEST")).unwrap();
    offline(other.path()).unwrap().import(&file).unwrap();
    assert_eq!(open(other.path()).unwrap().lease(lease(1).id).unwrap(), Some(lease(1)));
}

#[tokio::test]
async fn a_loss_that_was_not_accepted_goes_with_an_export() {
    let directory = filled().await;
    for file in ["audit.jsonl", "security.log"] {
        fs::remove_file(directory.path().join(file)).unwrap();
    }
    fs::remove_dir_all(directory.path().join("ledger")).unwrap();
    drop(open_with(directory.path(), Options { on_failure: OnFailure::Continue, retention: None }).unwrap());
    let file = directory.path().join("export.jsonl");
    let exported = offline(directory.path()).unwrap().export(&file).unwrap();
    let other = tempfile::tempdir().unwrap();
    assert!(exported.lost.is_some());
    assert_eq!(offline(other.path()).unwrap().import(&file).unwrap(), exported);
    for manifest in [true, false] {
        if !manifest {
            fs::remove_file(other.path().join("MANIFEST")).unwrap();
        }
        let lost = SecurityState::of(exported.lost);
        assert_eq!(open(other.path()).unwrap().security(), lost, "manifest: {manifest}");
    }
    assert_eq!(offline(other.path()).unwrap().rebuild(true).unwrap(), Rebuilt::LossAccepted);
    assert_eq!(open(other.path()).unwrap().security(), SecurityState::Whole);
    assert!(offline(other.path()).unwrap().export(&other.path().join("accepted")).unwrap().lost.is_none());
}

#[tokio::test]
async fn rebuild_mends_what_is_damaged_and_leaves_what_is_whole() {
    let directory = filled().await;
    assert_eq!(offline(directory.path()).unwrap().rebuild(false).unwrap(), Rebuilt::Nothing);
    for table in [2, 3] {
        damage(directory.path(), table);
        let rebuilt = offline(directory.path()).unwrap().rebuild(false).unwrap();
        let Rebuilt::Anew(told) = rebuilt else { panic!("{rebuilt:?}") };
        assert!(told.contains("all of them came back") && told.contains("checksum"), "{told}");
        let store = open(directory.path()).unwrap();
        assert_eq!(store.lease(lease(1).id).unwrap(), Some(lease(1)));
        assert_eq!(store.tokens(lease(1).id, 9).unwrap(), [token(1, 0)]);
        let again = store.alarm().unwrap();
        assert!(again.contains(&told) && !again.contains("may be missing"), "the next start agrees: {again}");
    }
}

#[tokio::test]
async fn a_loss_of_security_state_is_only_accepted_in_so_many_words() {
    let directory = filled().await;
    fs::remove_file(directory.path().join("audit.jsonl")).unwrap();
    fs::remove_file(directory.path().join("security.log")).unwrap();
    damage(directory.path(), 6 + 1);
    let before = files(directory.path());
    let refused = offline(directory.path()).unwrap().rebuild(false).unwrap_err();
    assert!(matches!(refused, OpenError::SecurityLost { .. }), "{refused}");
    assert!(refused.to_string().contains("--accept-loss"), "{refused}");
    let paths = |files: Vec<(PathBuf, Vec<u8>)>| files.into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(
        paths(files(directory.path())).iter().filter(|path| !path.ends_with("audit.jsonl")).count(),
        paths(before).len(),
        "nothing was moved"
    );
    // What the issuer does by itself: it goes on and believes nothing of before, until somebody accepts it.
    let store =
        open_with(directory.path(), Options { on_failure: OnFailure::Continue, retention: None }).unwrap();
    assert!(matches!(store.security(), SecurityState::LostSince(_)));
    store.commit(vec![job_started(2)]).await.unwrap();
    drop(store);
    let still = offline(directory.path()).unwrap().rebuild(false).unwrap_err();
    assert!(matches!(still, OpenError::SecurityLost { .. }), "{still}");
    assert!(!offline(directory.path()).unwrap().verify().unwrap().is_whole());
    assert_eq!(offline(directory.path()).unwrap().rebuild(true).unwrap(), Rebuilt::LossAccepted);
    let store = open(directory.path()).unwrap();
    assert_eq!(store.security(), SecurityState::Whole);
    assert!(store.job(job(2).id).unwrap().is_some(), "what was recorded since is kept");
}
