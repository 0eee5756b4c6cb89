//! What the end of a lease leaves to its ServiceAccount, as operators see it.

use serde::Serialize;
use shorepass_proto::v1;

use super::printable;

/// Rights that a ServiceAccount has from elsewhere.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NotRemovedView {
    rights: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    others: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl NotRemovedView {
    /// From the wire.
    pub(crate) fn of(wire: v1::NotRemovedRights) -> Self {
        Self { rights: wire.rights, others: wire.others }
    }

    /// One for each right.
    pub(crate) fn sentences(&self) -> impl Iterator<Item = String> + '_ {
        let sentence = |right: &String| {
            format!("{}: it has this from elsewhere, such as by a group, and keeps it", printable(right))
        };
        self.rights.iter().map(sentence).chain(self.and_more())
    }

    /// All of them, behind what a receipt says.
    pub(crate) fn clause(&self) -> String {
        let rights: Vec<String> =
            self.rights.iter().map(|right| printable(right)).chain(self.and_more()).collect();
        format!("; not removed: {}", rights.join("; "))
    }

    fn and_more(&self) -> Option<String> {
        (self.others > 0).then(|| format!("and {} more", self.others))
    }
}
