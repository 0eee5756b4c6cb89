//! Blocks as operators see them.

use serde::Serialize;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use super::{document, short_caller, table, time, to_the_second};

/// A block.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockView {
    pub(crate) id: String,
    pub(crate) caller: String,
    pub(crate) role: String,
    create_time: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) by: String,
    pub(crate) reason: String,
    lease_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    job_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lift_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    lifted_by: String,
}

impl BlockView {
    /// What is refused: a role, or everything to one job session.
    pub(crate) fn refused(&self) -> String {
        match self.job_id.as_str() {
            "" => self.role.clone(),
            job => format!("all, job {job}"),
        }
    }

    /// From the wire.
    pub(crate) fn of(block: v1::Block) -> Self {
        Self {
            id: block.id,
            caller: block.caller,
            role: block.role,
            create_time: time(block.create_time),
            until: time(block.until),
            by: block.by,
            reason: block.reason,
            lease_id: block.lease_id,
            job_id: block.job_id,
            lift_time: time(block.lift_time),
            lifted_by: block.lifted_by,
        }
    }
}

/// A list for programs.
pub(crate) fn list_document(items: &[BlockView]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        items: &'a [BlockView],
    }
    document("BlockList", Body { items })
}

/// A list for people.
pub(crate) fn list_table(items: &[BlockView]) -> String {
    let rows: Vec<_> = items.iter().map(row).collect();
    table(["BLOCK", "RUNNER", "ROLE", "UNTIL", "LIFTED", "BY", "REASON"], &rows)
}

/// A lifted block for programs.
pub(crate) fn block_document(block: &BlockView) -> String {
    document("Block", block)
}

/// A lifted block for people.
pub(crate) fn block_sentence(block: &BlockView) -> String {
    let (id, caller, role) =
        (super::printable(&block.id), super::printable(&block.caller), super::printable(&block.role));
    match block.job_id.is_empty() {
        true => format!("lifted {id}: {caller} may have leases of {role} again\n"),
        false => format!("lifted {id}: the job may have leases on {caller} again\n"),
    }
}

fn row(block: &BlockView) -> [String; 7] {
    [
        block.id.clone(),
        short_caller(&block.caller),
        block.refused(),
        to_the_second(block.until),
        to_the_second(block.lift_time),
        short_caller(&block.by),
        block.reason.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples::{at, block};

    fn blocks() -> [BlockView; 2] {
        let by = "spiffe://ci.example.org/operator/bob".to_owned();
        let lifted = v1::Block { lift_time: at(90), lifted_by: by, ..block() };
        [BlockView::of(block()), BlockView::of(lifted)]
    }

    #[test]
    fn a_list_for_people() {
        assert_eq!(list_table(&blocks()), include_str!("golden/block-list.txt"));
    }

    #[test]
    fn a_lifted_block() {
        let view = BlockView::of(block());
        assert_eq!(block_document(&view), include_str!("golden/block.json"));
        assert!(block_sentence(&view).contains("may have leases of web-deployer again"));
    }

    #[test]
    fn a_block_of_a_job_session_refuses_it_everything() {
        let view = BlockView::of(v1::Block { job_id: "0198c5a2".to_owned(), ..block() });
        assert!(block_sentence(&view).contains("the job may have leases on"));
        assert!(list_table(&[view]).contains("all, job 0198c5a2"));
    }

    #[test]
    fn a_list_for_programs() {
        let document: serde_json::Value = serde_json::from_str(&list_document(&blocks())).unwrap();
        assert_eq!(document["kind"], "BlockList");
        assert_eq!(document["items"][0]["liftTime"], serde_json::Value::Null);
        assert_eq!(document["items"][1]["liftedBy"], "spiffe://ci.example.org/operator/bob");
    }
}
