//! Lists of blocks. One block is shown by [`super::lease`], with what it came from.

use serde::Serialize;

use super::lease::BlockView;
use super::{document, short_caller, table, to_the_second};

/// For programs.
pub(crate) fn list_document(items: &[BlockView]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        items: &'a [BlockView],
    }
    document("BlockList", Body { items })
}

/// For people.
pub(crate) fn list_table(items: &[BlockView]) -> String {
    let rows: Vec<_> = items.iter().map(row).collect();
    table(["BLOCK", "RUNNER", "ROLE", "UNTIL", "LIFTED", "BY", "REASON"], &rows)
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
    use shorepass_proto::v1;

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
    fn a_block_of_a_job_session_refuses_it_everything() {
        let view = BlockView::of(v1::Block { job_id: "0198c5a2".to_owned(), ..block() });
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
