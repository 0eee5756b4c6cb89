//! `shorepass-issuer`: see [`shorepass_issuer`].

use std::process::ExitCode;

fn main() -> ExitCode {
    shorepass_issuer::commands::run()
}
