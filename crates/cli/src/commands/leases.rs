//! `lease list` and `lease show`.

use std::io::Write;

use shorepass_core::id::LeaseId;
use shorepass_proto::v1;

use super::emit_as;
use crate::args::{Conditions, ListArgs, ShowArgs};
use crate::failure::Failure;
use crate::operator::Operator;
use crate::output::Incomplete;
use crate::output::lease::{LeaseView, lease_document, lease_table, list_document, list_table};
use crate::progress;

/// The most that the issuer gives at once.
const PAGE_SIZE: i32 = 200;

pub(super) async fn list(args: &ListArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let selector = selector(&operator, None, &args.conditions, args.all);
    let client = &operator.client;
    let fetch = async |page_token| {
        let request =
            v1::ListLeasesRequest { selector: Some(selector.clone()), page_size: PAGE_SIZE, page_token };
        Ok(client.list_leases(request).await?)
    };
    let leases = progress::during("the issuer", all_pages(fetch)).await?;
    emit_as(out, args.operator.output, || list_document(&leases), || list_table(&leases))
}

pub(super) async fn show(args: &ShowArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let call = operator.client.get_lease(v1::GetLeaseRequest { lease_id: args.lease.to_string() });
    let answer = progress::during("the issuer", call).await?;
    let lease = LeaseView::of(answer.lease.ok_or(Incomplete("a lease"))?)?;
    emit_as(out, args.operator.output, || lease_document(&lease), || lease_table(&lease))
}

/// On the wire; a field that is not set is empty there.
pub(super) fn selector(
    operator: &Operator,
    lease: Option<LeaseId>,
    conditions: &Conditions,
    include_ended: bool,
) -> v1::LeaseSelector {
    fn text(part: Option<impl ToString>) -> String {
        part.map_or_else(String::new, |part| part.to_string())
    }
    v1::LeaseSelector {
        lease_id: text(lease),
        caller: conditions.runner.as_ref().map_or_else(String::new, |runner| operator.caller(runner)),
        job_id: text(conditions.job),
        role: text(conditions.role.as_ref()),
        cluster: text(conditions.cluster.as_ref()),
        include_ended,
    }
}

/// Follows the page tokens to the end. An issuer that gives the same token twice would keep us for ever.
async fn all_pages(
    mut fetch: impl AsyncFnMut(String) -> Result<v1::ListLeasesResponse, Failure>,
) -> Result<Vec<LeaseView>, Failure> {
    let mut leases = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = fetch(page_token.clone()).await?;
        for record in page.leases {
            leases.push(LeaseView::of(record)?);
        }
        if page.next_page_token.is_empty() {
            return Ok(leases);
        }
        if page.next_page_token == page_token {
            return Err(Incomplete("the next page").into());
        }
        page_token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples::active;

    #[tokio::test]
    async fn all_pages_are_fetched_in_order() {
        let mut asked = Vec::new();
        let leases = all_pages(async |page_token: String| {
            let next = match page_token.as_str() {
                "" => "two",
                "two" => "three",
                _ => "",
            };
            asked.push(page_token);
            Ok(v1::ListLeasesResponse { leases: vec![active()], next_page_token: next.to_owned() })
        });
        assert_eq!(leases.await.unwrap().len(), 3);
        assert_eq!(asked, ["", "two", "three"]);
    }

    #[tokio::test]
    async fn an_issuer_that_repeats_a_page_does_not_keep_us() {
        let again =
            async |_| Ok(v1::ListLeasesResponse { leases: Vec::new(), next_page_token: "a".to_owned() });
        assert!(matches!(all_pages(again).await, Err(Failure::Incomplete(_))));
    }
}
