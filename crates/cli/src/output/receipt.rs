//! Receipts and the steps of a lease's life, as operators see them.

use serde::Serialize;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use super::lease::{cause, state};
use super::not_removed::NotRemovedView;
use super::{by_the_second, printable, time, to_the_second};

/// What was proved about the end of a lease.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReceiptView {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_by: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    endpoints: Vec<String>,
    canaries: Vec<String>,
    create_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_removed: Option<NotRemovedView>,
}

impl ReceiptView {
    /// From the wire, with what the lease's end does not take away.
    pub(crate) fn of(receipt: v1::Receipt, not_removed: Option<NotRemovedView>) -> Self {
        Self {
            verdict: match receipt.verdict() {
                v1::ReceiptVerdict::Unspecified => "unknown",
                v1::ReceiptVerdict::Proved => "proved",
                v1::ReceiptVerdict::Assumed => "assumed",
                v1::ReceiptVerdict::Unproved => "unproved",
            },
            refused_at: time(receipt.refuse_time),
            observed_at: time(receipt.observe_time),
            dead_by: time(receipt.dead_by_time),
            reason: receipt.reason,
            endpoints: receipt.endpoints,
            canaries: receipt.canaries,
            create_time: time(receipt.create_time),
            not_removed,
        }
    }

    /// In a word.
    pub(crate) fn verdict(&self) -> &'static str {
        self.verdict
    }

    /// All of it, in one line.
    pub(crate) fn sentence(&self) -> String {
        let told = match self.dead_by {
            Some(dead_by) => format!(
                "{}: dead by {}, as {} said",
                self.verdict,
                by_the_second(dead_by),
                printable(&self.endpoints.join(" and "))
            ),
            None => format!("{}: {}", self.verdict, printable(&self.reason)),
        };
        told + &self.not_removed.as_ref().map(NotRemovedView::clause).unwrap_or_default()
    }
}

/// A step in the life of a lease.
#[derive(Debug, Serialize)]
pub(crate) struct TransitionView {
    state: &'static str,
    time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
}

impl TransitionView {
    /// From the wire.
    pub(crate) fn of(step: v1::LeaseTransition) -> Self {
        let why = Some(step.cause()).filter(|why| *why != v1::EndCause::Unspecified);
        Self { state: state(step.state()), time: time(step.time), cause: why.map(cause) }
    }

    /// Heading and time, for people; none for the first step, which is shown as the lease's creation.
    pub(crate) fn field(&self, has_anchor: bool) -> Option<(&'static str, String)> {
        let heading = match self.state {
            "active" => "ACTIVE",
            "ending" => "ENDING",
            "ended" if has_anchor => "ANCHOR GONE",
            "ended" => "ENDED",
            _ => return None,
        };
        Some((heading, to_the_second(self.time)))
    }
}

/// Objects of the cluster that stay the same for all tokens of a lease.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PinsView {
    anchor_uid: String,
    service_account_uid: String,
}

impl PinsView {
    /// From the wire.
    pub(crate) fn of(pins: v1::LeasePins) -> Self {
        Self { anchor_uid: pins.anchor_uid, service_account_uid: pins.service_account_uid }
    }
}
