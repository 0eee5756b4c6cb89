//! Anchors that are found by listing: the only place that lists Secrets, with a credential that is opted into.
//!
//! Whoever may list Secrets may read them all. So the credential is not the issuer's own, and only their metadata is asked
//! for: data does not come here. What is to go is deleted with the issuer's own credential, under its policy.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use shorepass_core::anchors::{Anchors, FoundAnchor, ListError, Remains};
use shorepass_core::cluster::CutError;
use shorepass_core::lease::AnchorName;
use shorepass_core::name::Name;
use shorepass_core::time::Timestamp;
use tokio::time::timeout;

use crate::api_server::{ApiError, ApiServer};
use crate::connection::{ConnectError, Connection};
use crate::kube_cluster::{CUT_DEADLINE, KubeCluster, no_answer_within};
use crate::names;
use crate::refusal::is_missing_rule;

/// How many anchors are asked for at once: whoever may edit Secrets can make the metadata of each a few hundred KiB long.
const PAGE: usize = 50;
/// How many anchors are looked at; there are no more leases than that.
const FOUND_LIMIT: usize = 200_000;

/// Lists the anchors of one cluster.
pub struct KubeListing {
    api: ApiServer,
    cluster: Arc<KubeCluster>,
}

impl KubeListing {
    /// Reads the kubeconfig of the listing credential. Nothing is sent yet.
    pub async fn connect(connection: &Connection, cluster: Arc<KubeCluster>) -> Result<Self, ConnectError> {
        let (_, api, _) = connection.open().await?;
        Ok(Self { api, cluster })
    }

    async fn page(&self, namespace: &Name, go_on: &str) -> Result<Page, ListError> {
        let (kind, managed) = (names::LEASE_TYPE, names::MANAGED_BY_LABEL);
        let (by, label, issuer) = (names::MANAGED_BY, names::ISSUER_LABEL, &self.cluster.issuer);
        let query = query(&[
            ("fieldSelector", &format!("type={kind}")),
            ("labelSelector", &format!("{managed}={by},{label}={issuer}")),
            ("limit", &PAGE.to_string()),
            ("continue", go_on),
        ]);
        let answer = self.api.list_metadata(format!("/api/v1/namespaces/{namespace}/secrets?{query}")).await;
        let body = answer.map_err(|error| match error {
            ApiError::Refused(refusal) if is_missing_rule(&refusal) => {
                ListError::Forbidden(namespace.clone())
            }
            other => ListError::Unreachable(other.to_string()),
        })?;
        serde_json::from_slice(&body)
            .map_err(|_| ListError::Unreachable("the answer is no list of metadata".to_owned()))
    }

    async fn remove_now(&self, remains: &Remains) -> Result<(), CutError> {
        let Remains { namespace, anchor, bindings } = remains;
        let mut outcome = Ok(());
        for (namespace, name) in bindings {
            outcome = outcome.and(self.cluster.delete_binding(namespace, name).await);
        }
        if !bindings.is_empty() {
            outcome = outcome.and(self.cluster.delete_account(namespace, anchor.as_str(), "").await);
        }
        // Last, and only if all else is gone: it is what the rest is found by.
        outcome?;
        self.cluster.delete_anchor(namespace, anchor, "").await
    }
}

#[async_trait]
impl Anchors for KubeListing {
    /// An item that is named like no anchor is nobody's lease.
    async fn list(&self, namespace: &Name) -> Result<Vec<FoundAnchor>, ListError> {
        let (mut found, mut go_on) = (Vec::new(), String::new());
        loop {
            let page = self.page(namespace, &go_on).await?;
            let items = page.items.unwrap_or_default();
            found.extend(items.into_iter().filter_map(|item| item.metadata.found(namespace)));
            go_on = page.metadata.go_on;
            if go_on.is_empty() {
                return Ok(found);
            }
            if found.len() >= FOUND_LIMIT {
                return Err(ListError::Unreachable(format!("there are more than {FOUND_LIMIT} anchors")));
            }
        }
    }

    async fn remove(&self, remains: &Remains) -> Result<(), CutError> {
        let removed = timeout(CUT_DEADLINE, self.remove_now(remains)).await;
        removed.unwrap_or_else(|_| Err(CutError::Unreachable(no_answer_within(CUT_DEADLINE))))
    }
}

fn query(pairs: &[(&str, &str)]) -> String {
    let escaped = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        text.bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect::<String>()
    };
    let given = pairs.iter().filter(|(_, value)| !value.is_empty());
    given.map(|(key, value)| format!("{key}={}", escaped(value))).collect::<Vec<_>>().join("&")
}

#[derive(Deserialize)]
struct Page {
    metadata: ListMeta,
    /// `null` where there is none.
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct ListMeta {
    #[serde(default, rename = "continue")]
    go_on: String,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    uid: String,
    creation_timestamp: Timestamp,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Deserialize, Default)]
struct Annotations {
    #[serde(rename = "shorepass.dev/lease")]
    lease: Option<String>,
}

impl Metadata {
    fn found(self, namespace: &Name) -> Option<FoundAnchor> {
        Some(FoundAnchor {
            namespace: namespace.clone(),
            name: AnchorName::parse(&self.name)?,
            uid: self.uid,
            created: self.creation_timestamp,
            annotation: self.annotations.lease,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_what_it_means() {
        let selectors = [("fieldSelector", "type=shorepass.dev/lease"), ("limit", "50"), ("continue", "")];
        assert_eq!(query(&selectors), "fieldSelector=type%3Dshorepass.dev%2Flease&limit=50");
    }

    #[test]
    fn metadata_is_read_and_strange_names_are_left_out() {
        let item = |name: &str, annotations: &str| {
            format!(
                r#"{{"metadata":{{"name":"{name}","uid":"u-1","creationTimestamp":"2026-01-01T00:00:00Z"{annotations}}}}}"#
            )
        };
        let anchor = format!("shorepass-{}", "a".repeat(26));
        let annotated = item(&anchor, r#","annotations":{"shorepass.dev/lease":"v1.x.y","other":"z"}"#);
        let items = [annotated, item(&anchor, ""), item("shorepass-x", "")].join(",");
        let page: Page =
            serde_json::from_str(&format!(r#"{{"metadata":{{"continue":"more"}},"items":[{items}]}}"#))
                .unwrap();
        assert_eq!(page.metadata.go_on, "more");
        let namespace = Name::parse("web").unwrap();
        let found = page.items.unwrap().into_iter().filter_map(|item| item.metadata.found(&namespace));
        let told: Vec<_> =
            found.map(|found| (found.name.as_str().to_owned(), found.uid, found.annotation)).collect();
        let told_of = |annotation| (anchor.clone(), "u-1".to_owned(), annotation);
        assert_eq!(told, [told_of(Some("v1.x.y".to_owned())), told_of(None)]);
    }

    #[test]
    fn a_namespace_without_anchors_is_no_error() {
        for empty in [r#"{"metadata":{},"items":null}"#, r#"{"metadata":{},"items":[]}"#] {
            let page: Page = serde_json::from_str(empty).unwrap();
            assert!(page.items.unwrap_or_default().is_empty() && page.metadata.go_on.is_empty());
        }
    }
}
