//! Rights by which a job can leave something behind that outlives its lease, as operators see them.

use serde::Serialize;
use shorepass_core::escape::Escapes;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use super::{printable, time, to_the_second};

/// What is known of a role's ServiceAccount.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EscapesView {
    rights: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    review_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    unknown: String,
}

impl EscapesView {
    /// From the wire.
    pub(crate) fn of(wire: v1::EscapeRights) -> Self {
        Self { rights: wire.rights, review_time: time(wire.review_time), unknown: wire.unknown }
    }

    /// What was just asked.
    pub(crate) fn known(escapes: Escapes) -> Self {
        match escapes {
            Escapes::Found { rights, at } => Self { rights, review_time: Some(at), unknown: String::new() },
            Escapes::Unknown(unknown) => Self { rights: Vec::new(), review_time: None, unknown },
        }
    }

    /// All of it, in one line.
    pub(crate) fn sentence(&self) -> String {
        if !self.unknown.is_empty() {
            return format!("not known: {}", printable(&self.unknown));
        }
        let seen = format!("by a review at {}", to_the_second(self.review_time));
        match self.rights.is_empty() {
            true => format!("none, {seen}"),
            false => format!("{} ({seen}): what is made with them outlives the lease", self.words()),
        }
    }

    /// What a receipt says of it; nothing if there is nothing.
    pub(crate) fn clause(&self) -> String {
        if self.rights.is_empty() {
            String::new()
        } else {
            format!("; may have left something by: {}", self.words())
        }
    }

    fn words(&self) -> String {
        printable(&self.rights.join("; "))
    }
}
