//! The yardstick: what the issuer asks of the API server, asked for directly, with the issuer's own credential.
//!
//! The same kind of client as the issuer's, and no more requests at once than the issuer makes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::site::{DEPLOY, Site};
use kube::Client;
use serde_json::{Value, json};
use shorepass_core::lease::AnchorName;
use shorepass_core::time::Entropy as _;
use shorepass_daemon::clock::SystemEntropy;
use tokio::sync::Semaphore;

use crate::measure::Cpu;

/// What the issuer has as `limits.mintsInFlight` by default.
const MINTS_IN_FLIGHT: usize = 16;
/// How many deletes the issuer sends at once.
const CUTS_IN_FLIGHT: usize = 32;

/// What is logged: where it listens, and no line for each token.
const LOG: &str = "warn,shorepass_issuer::compose=info";

/// An issuer, and the way around it. The issuer is dropped first.
pub(crate) struct Bench {
    pub(crate) issuer: IssuerUnderTest,
    pub(crate) direct: Arc<Direct>,
    pub(crate) site: Site,
}

/// The way around the issuer.
pub(crate) struct Direct {
    client: Client,
    namespace: String,
    issuer: String,
    mints: Semaphore,
    cuts: Semaphore,
    made: AtomicUsize,
}

impl Bench {
    pub(crate) async fn start(purpose: &str) -> Result<Self> {
        let beside = std::env::current_exe()?.with_file_name("");
        let programs = PathBuf::from(std::env::var_os("SHOREPASS_TEST_BIN_DIR").unwrap_or_default());
        ensure!(
            programs.canonicalize()? == beside.canonicalize()?,
            "the issuer in {} is not of this release build: start this with `cargo xtask bench`",
            programs.display()
        );
        let site = Site::new(purpose).await?;
        let knobs = Knobs { rate: (10_000, 10_000), log: LOG, ..Knobs::default() };
        let issuer = IssuerUnderTest::start(&site, knobs).await?;
        let direct = Direct {
            client: site.admin.client_with(&site.identity.token().await?).await?,
            namespace: site.place.namespace.to_string(),
            issuer: site.identity.issuer.to_string(),
            mints: Semaphore::new(MINTS_IN_FLIGHT),
            cuts: Semaphore::new(CUTS_IN_FLIGHT),
            made: AtomicUsize::new(0),
        };
        Ok(Self { issuer, direct: Arc::new(direct), site })
    }

    /// What has been used up to now.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Cpu::used(self.issuer.process()?.id())
    }

    /// Deletes all anchors, so that the next round begins with an empty namespace.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.site.place.secrets().delete_collection(&Default::default(), &Default::default()).await?;
        Ok(())
    }
}

/// An anchor that the yardstick made.
#[derive(Clone)]
pub(crate) struct Anchor {
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Direct {
    /// An anchor and a token on it.
    pub(crate) async fn mint(&self) -> Result<()> {
        let _permit = self.mints.acquire().await?;
        let anchor = self.anchor_now().await?;
        self.token_now(&anchor).await
    }

    /// An anchor.
    pub(crate) async fn anchor(&self) -> Result<Anchor> {
        let _permit = self.mints.acquire().await?;
        self.anchor_now().await
    }

    /// A token on an anchor.
    pub(crate) async fn token(&self, anchor: &Anchor) -> Result<()> {
        let _permit = self.mints.acquire().await?;
        self.token_now(anchor).await
    }

    /// Deletes an anchor.
    pub(crate) async fn cut(&self, anchor: &Anchor) -> Result<()> {
        let _permit = self.cuts.acquire().await?;
        let path = format!("/api/v1/namespaces/{}/secrets/{}", self.namespace, anchor.name);
        self.send(Method::DELETE, path, &json!({"propagationPolicy": "Background"})).await.map(drop)
    }

    async fn anchor_now(&self) -> Result<Anchor> {
        let mut random = [0; 16];
        SystemEntropy.fill(&mut random);
        let name = AnchorName::from_random(random).as_str().to_owned();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "shorepass.dev/lease",
            "metadata": {
                "name": name, "namespace": self.namespace,
                "labels": {"app.kubernetes.io/managed-by": "shorepass", "shorepass.dev/issuer": self.issuer},
                // As long as a sealed one.
                "annotations": {"shorepass.dev/lease": "x".repeat(300)},
            },
        });
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace);
        let made = self.send(Method::POST, path, &secret).await?;
        let uid = made["metadata"]["uid"].as_str().context("an anchor without UID")?.to_owned();
        Ok(Anchor { name, uid })
    }

    async fn token_now(&self, anchor: &Anchor) -> Result<()> {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {
                "name": DEPLOY.service_account, "namespace": self.namespace,
                "annotations": {"shorepass.dev/lease-id": self.lease_id()},
            },
            "spec": {
                "audiences": [], "expirationSeconds": 600,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": anchor.name, "uid": anchor.uid},
            },
        });
        let path =
            format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", self.namespace, DEPLOY.service_account);
        self.send(Method::POST, path, &request).await.map(drop)
    }

    fn lease_id(&self) -> String {
        format!("01900000-0000-7000-8000-{:012x}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    async fn send(&self, method: Method, path: String, body: &Value) -> Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(body)?)?;
        Ok(self.client.request(request).await?)
    }
}
