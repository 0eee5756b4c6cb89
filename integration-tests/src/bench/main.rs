//! The loader of `cargo xtask bench`: measures the release build of the issuer on a real Kubernetes.
//!
//! Each benchmark runs the thing and its yardstick in turn, in the same process and over several rounds, so that a noisy
//! machine disturbs both. Ratio and spread come first; absolute numbers mean little on another machine.

mod cluster;
mod measure;
mod mint;
mod policy;
mod progress;
mod revoke;
mod store;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use measure::Measured;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Arguments: the benchmark, `table` or `json`, the rounds, the lease cycles of `store`. xtask has checked them.
fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, format, rounds, cycles] = &arguments[..] else { bail!("start it with `cargo xtask bench`") };
    let rounds: usize = rounds.parse().context("the number of rounds")?;
    let cycles: usize = cycles.parse().context("the number of lease cycles")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured: Vec<Measured> = runtime.block_on(async {
        match name.as_str() {
            "mint" => mint::mint(rounds).await,
            "refresh" => mint::refresh(rounds).await,
            "revoke" => revoke::revoke(rounds).await,
            "policy" => policy::policy(rounds),
            "store" => store::store(rounds, cycles).await,
            other => bail!("there is no benchmark {other}"),
        }
    })?;
    match format.as_str() {
        "json" => println!("{}", serde_json::to_string_pretty(&measure::json(&measured)?)?),
        _ => print!("{}", measure::table(&measured)?),
    }
    Ok(())
}
