//! Programs that the checks use, pinned in `integration-tests/tools/go.mod`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::go::{Build, Program};
use crate::paths;

/// The path of the pinned buf, built if needed.
pub(crate) fn buf() -> Result<PathBuf> {
    let build = Build {
        what: "buf".to_owned(),
        usually: "2 minutes",
        module: paths::root().join("integration-tests/tools"),
        programs: &[Program { package: "github.com/bufbuild/buf/cmd/buf", name: "buf" }],
        linker_flags: String::new(),
        cache: paths::target().join("tools"),
        ways_out: &[],
    };
    Ok(build.obtain()?.join("buf"))
}

/// Becomes buf with these arguments; returns only if it cannot.
pub(crate) fn run_buf(arguments: &[OsString]) -> Result<()> {
    Err(Command::new(buf()?).args(arguments).exec()).context("cannot run buf")
}
