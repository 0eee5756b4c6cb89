//! What a daemon outlives when a disk takes nothing more: its log, and a limit on the size of its files.
//!
//! Each test runs this test binary again, with [`CHILD`] set: a signal or a panic is then the end of that process alone.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};
use shorepass_daemon::shutdown::survive_file_size_limit;
use shorepass_daemon::telemetry;

const CHILD: &str = "SHOREPASS_DAEMON_TEST_CHILD";

fn run_as_child(test: &str, stderr: Stdio) -> std::io::Result<ExitStatus> {
    Command::new(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .stderr(stderr)
        .status()
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

#[test]
fn a_log_that_takes_nothing_stops_nobody() {
    if is_child() {
        telemetry::init("info").unwrap();
        tracing::info!("nobody reads this");
        return;
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = run_as_child("a_log_that_takes_nothing_stops_nobody", full.into()).unwrap();
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_file_that_reaches_its_limit_is_an_error_and_no_end() {
    if is_child() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { survive_file_size_limit().unwrap() });
        setrlimit(Resource::Fsize, Rlimit { current: Some(4096), maximum: Some(4096) }).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let refused = file.write_all(&[0; 8192]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::FileTooLarge);
        return;
    }
    let ended =
        run_as_child("a_file_that_reaches_its_limit_is_an_error_and_no_end", Stdio::inherit()).unwrap();
    assert!(ended.success(), "{ended}");
}
