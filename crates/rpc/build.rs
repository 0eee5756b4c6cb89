//! Generates the services of `shorepass.v1` over the messages of `shorepass-proto`.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 3] =
    ["shorepass/v1/credential.proto", "shorepass/v1/enrollment.proto", "shorepass/v1/admin.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    tonic_prost_build::configure()
        .extern_path(".shorepass.v1", "::shorepass_proto::v1")
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds(protox::compile(FILES, [&root])?)?;
    Ok(())
}
