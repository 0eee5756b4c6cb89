//! Jobs as operators see them.
//!
//! The job column shows the CI system and the job's id there, marked as asserted where nobody but the caller says so. Of a
//! job whose token the issuer verified, `lease show` and JSON have the claims.

use std::collections::BTreeMap;

use serde::Serialize;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use super::time;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobView {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    asserted: Option<AssertedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<VerifiedView>,
    start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_end_time: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct AssertedView {
    system: String,
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    url: String,
}

#[derive(Debug, Serialize)]
struct VerifiedView {
    issuer: String,
    system: String,
    id: String,
    claims: BTreeMap<String, String>,
}

impl JobView {
    pub(super) fn of(job: v1::Job) -> Self {
        let asserted = |job: v1::AssertedJob| AssertedView { system: job.system, id: job.id, url: job.url };
        let verified = |job: v1::VerifiedJob| VerifiedView {
            issuer: job.issuer,
            system: job.system,
            id: job.id,
            claims: job.claims.into_iter().map(|claim| (claim.name, claim.value)).collect(),
        };
        Self {
            id: job.id,
            asserted: job.asserted.map(asserted),
            verified: job.verified.map(verified),
            start_time: time(job.start_time),
            latest_end_time: time(job.latest_end_time),
        }
    }

    pub(super) fn label(&self) -> String {
        match (&self.verified, &self.asserted) {
            (Some(verified), _) => format!("{}/{}", verified.issuer, verified.id),
            (None, Some(asserted)) => format!("{}/{} (asserted)", asserted.system, asserted.id),
            (None, None) => self.id.clone(),
        }
    }

    /// What `lease show` has of it.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![("JOB SESSION", self.id.clone())];
        if let Some(asserted) = self.asserted.as_ref().filter(|asserted| !asserted.url.is_empty()) {
            fields.push(("JOB URL", asserted.url.clone()));
        }
        let claims = self.verified.iter().flat_map(|verified| &verified.claims);
        fields.extend(claims.map(|(name, value)| ("JOB CLAIM", format!("{name}={value}"))));
        fields
    }
}
