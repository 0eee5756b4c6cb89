//! The command `shorepass`. It holds no rule: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(shorepass_cli::run(std::env::args_os()))
}
