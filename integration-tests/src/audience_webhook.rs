//! A mutating webhook that makes every TokenRequest of a namespace one for another audience, as a cluster's own might.
//!
//! Admission policies look at what it has made of the request.

use anyhow::{Context, Result};
use data_encoding::BASE64;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use shorepass_core::name::Name;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::admin::{Admin, Cleanup};
use crate::raw;

/// It is there until this is dropped.
pub struct AudienceWebhook {
    _installed: Cleanup,
    task: JoinHandle<()>,
}

impl AudienceWebhook {
    /// For all TokenRequests in that namespace. The API server learns of it a moment later.
    pub async fn install(admin: &Admin, namespace: &Name, audience: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (acceptor, ca) = raw::self_made_server("webhook")?;
        let task = tokio::spawn(accept(listener, acceptor, audience.to_owned()));
        let name = admin.unique("audience");
        let installed = admin.cleanup(vec![format!("mutatingwebhookconfiguration/{name}")]);
        let object = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name.as_str()},
            "webhooks": [{
                "name": "audience.shorepass.test",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.as_str()}},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"],
                    "operations": ["CREATE"], "resources": ["serviceaccounts/token"],
                }],
                "clientConfig": {
                    "url": format!("https://localhost:{port}/"),
                    "caBundle": BASE64.encode(ca.as_bytes()),
                },
            }],
        });
        admin.apply(&object.to_string())?;
        Ok(Self { _installed: installed, task })
    }
}

impl Drop for AudienceWebhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, audience: String) {
    let mut connections = JoinSet::new(); // they end with the webhook
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream, acceptor.clone(), audience.clone()));
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, audience: String) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| answer(request, audience.clone()));
    // An API server that hangs up is no news.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, audience: String) -> Result<Response<Full<Bytes>>> {
    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let patch = json!([{"op": "add", "path": "/spec/audiences", "value": [audience]}]);
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": review["request"]["uid"].as_str().context("a review without uid")?,
            "allowed": true,
            "patchType": "JSONPatch",
            "patch": BASE64.encode(patch.to_string().as_bytes()),
        },
    });
    let mut response = Response::new(Full::from(answer.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}
