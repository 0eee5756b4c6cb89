//! A second kube-apiserver of the tests' cluster: the same etcd, keys and flags as the first, and [`EtcdProxy`] between it and
//! etcd.
//!
//! For what only happens where there are two: one sees later than the other. It starts with no fault, because a server whose
//! watches lag takes long to become ready.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Request;
use tempfile::TempDir;

use crate::admin::Admin;
use crate::etcd_proxy::EtcdProxy;
use crate::process::Process;
use crate::wait::{self, Seen};

/// How long it may take until it is ready; some seconds are usual.
const READY: Duration = Duration::from_secs(90);
/// A port that was free when it was chosen can be taken before the server listens.
const ATTEMPTS: u32 = 3;

/// It is stopped when this is dropped: the process first, which writes into the folder and talks to the proxy.
pub struct SecondApiServer {
    _process: Process,
    /// What it sees of the cluster goes through here.
    pub etcd: EtcdProxy,
    /// The administrator, by way of this server.
    pub admin: Admin,
    address: String,
    _folder: TempDir,
}

impl SecondApiServer {
    /// Starts it and waits until it is ready.
    pub async fn start(admin: &Admin) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::try_to_start(admin).await {
                Err(error) if attempt < ATTEMPTS && error.to_string().contains("address already in use") => {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_to_start(admin: &Admin) -> Result<Self> {
        let first = CommandLine::read(admin)?;
        let etcd = EtcdProxy::start(first.flag("etcd-servers")?).await?;
        let folder = tempfile::Builder::new().prefix("api-server-").tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let audit_log = folder.path().join("audit.log").display().to_string();
        let flags = first.with(&[
            ("etcd-servers", &etcd.url()),
            ("secure-port", &port.to_string()),
            ("audit-log-path", &audit_log),
        ]);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut process = Process::start(&first.program, &flags, &[], &folder.path().join("log"))?;
        let admin = admin.at(&format!("https://{address}")).await?;
        wait::until("the second API server to be ready", READY, async || {
            process.check()?;
            let asked = admin.client.request_text(Request::get("/readyz").body(Vec::new())?).await;
            Ok(asked.map_or_else(|error| Seen::NotYet(error.to_string()), |_| Seen::Ready(())))
        })
        .await?;
        Ok(Self { _process: process, etcd, admin, address, _folder: folder })
    }

    /// `host:port`, as an issuer's config names it.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// How the first API server was started.
struct CommandLine {
    program: PathBuf,
    flags: Vec<String>,
}

impl CommandLine {
    fn read(admin: &Admin) -> Result<Self> {
        let path = &admin.environment.api_server;
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        let mut lines = text.lines().map(str::to_owned);
        let program = lines.next().context("the API server has no command line")?.into();
        Ok(Self { program, flags: lines.collect() })
    }

    fn flag(&self, name: &str) -> Result<&str> {
        let value = self.flags.iter().find_map(|flag| value_of(flag, name));
        value.with_context(|| format!("the API server was started without --{name}"))
    }

    /// All flags, these with other values.
    fn with(&self, others: &[(&str, &str)]) -> Vec<String> {
        let other = |flag: &String| {
            let changed = others.iter().find(|(name, _)| value_of(flag, name).is_some());
            changed.map_or_else(|| flag.clone(), |(name, value)| format!("--{name}={value}"))
        };
        self.flags.iter().map(other).collect()
    }
}

fn value_of<'a>(flag: &'a str, name: &str) -> Option<&'a str> {
    flag.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('=')
}
