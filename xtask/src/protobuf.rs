//! `cargo xtask codegen` and the checks of `proto/`: lint, and that nothing breaks what `proto/image.binpb` promises.
//!
//! The image is the promise: what clients and disks out there may rely on. `codegen` brings it up to date and refuses to
//! where that would break it, so that an accident is not sealed by the next command. Who means to break it removes the
//! image first, and the reviewer sees that.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::{self, Owned};
use crate::{paths, tools};

/// Writes the image.
pub(crate) fn codegen() -> Result<()> {
    let image = image();
    if image.exists() {
        breaking(&image)
            .context("nothing is written; to break the promise on purpose, remove proto/image.binpb first")?;
    }
    build(&image)
}

/// Checks `proto/`: buf lint, buf breaking, and that the image is up to date.
pub(crate) fn check() -> Result<()> {
    ensure!(image().exists(), "there is no proto/image.binpb: run `cargo xtask codegen` and commit it");
    buf(&["lint".as_ref(), "proto".as_ref()])?;
    breaking(&image())?;
    let fresh = paths::target().join("image.binpb");
    build(&fresh)?;
    let is_current = read(&fresh)? == read(&image())?;
    fs::remove_file(&fresh).with_context(|| format!("cannot remove {}", fresh.display()))?;
    ensure!(is_current, "proto/image.binpb is behind proto/: run `cargo xtask codegen` and commit it");
    Ok(())
}

fn breaking(image: &Path) -> Result<()> {
    buf(&["breaking".as_ref(), "proto".as_ref(), "--against".as_ref(), image.as_ref()])
}

/// Without comments and places: they are no promise, and the image would change with each of them.
fn build(output: &Path) -> Result<()> {
    buf(&[
        "build".as_ref(),
        "proto".as_ref(),
        "--exclude-source-info".as_ref(),
        "--output".as_ref(),
        output.as_ref(),
    ])
}

fn buf(arguments: &[&OsStr]) -> Result<()> {
    let mut command = process::command(tools::buf()?);
    command.args(arguments).current_dir(paths::root());
    let verb = arguments.first().map(|verb| verb.to_string_lossy()).unwrap_or_default();
    Owned::spawn_visible(&format!("buf {verb}"), command)?.finish(|_| ())
}

fn image() -> PathBuf {
    paths::root().join("proto/image.binpb")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
