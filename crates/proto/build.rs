//! Compiles `proto/` with protox, so that no machine needs protoc.

use std::error::Error;
use std::path::PathBuf;

/// Messages that hold a secret: their `Debug` is written by hand in `secret.rs`.
const SECRET: [&str; 6] = [
    ".shorepass.local.v1.StartJobRequest",
    ".shorepass.v1.OidcToken",
    ".shorepass.v1.Credential",
    ".shorepass.v1.EnrollRequest",
    ".shorepass.v1.CreateJoinTokenResponse",
    ".shorepass.local.v1.CredentialResponse",
];

const FILES: [&str; 7] = [
    "shorepass/v1/errors.proto",
    "shorepass/v1/types.proto",
    "shorepass/v1/credential.proto",
    "shorepass/v1/enrollment.proto",
    "shorepass/v1/admin.proto",
    "shorepass/local/v1/local.proto",
    "shorepass/store/v1/store.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    prost_build::Config::new()
        .file_descriptor_set_path(out.join("descriptors.binpb"))
        .skip_debug(SECRET)
        .compile_fds(descriptors.clone())?;
    std::fs::write(out.join("descriptors.binpb"), prost::Message::encode_to_vec(&descriptors))?;
    Ok(())
}
