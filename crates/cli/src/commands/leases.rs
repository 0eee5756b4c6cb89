//! `lease list` and `lease show`.

use std::io::Write;

use shorepass_core::id::LeaseId;
use shorepass_proto::v1;

use super::emit_as;
use super::pages::{PAGE_SIZE, all_pages};
use crate::args::{Conditions, ListArgs, ShowArgs};
use crate::failure::Failure;
use crate::operator::Operator;
use crate::output::Incomplete;
use crate::output::lease::{LeaseView, lease_document, lease_table, list_document, list_table};
use crate::progress;

pub(super) async fn list(args: &ListArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let selector = selector(&operator, None, &args.conditions, args.all);
    let client = &operator.client;
    let fetch = async |page_token| {
        let request =
            v1::ListLeasesRequest { selector: Some(selector.clone()), page_size: PAGE_SIZE, page_token };
        let page = client.list_leases(request).await?;
        Ok((page.leases, page.next_page_token))
    };
    let leases = progress::during("the issuer", all_pages(fetch)).await?;
    let leases = leases.into_iter().map(LeaseView::of).collect::<Result<Vec<_>, _>>()?;
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
    let account = conditions.service_account.as_ref();
    v1::LeaseSelector {
        lease_id: text(lease),
        caller: conditions.runner.as_ref().map_or_else(String::new, |runner| operator.caller(runner)),
        job_id: text(conditions.job),
        role: text(conditions.role.as_ref()),
        cluster: text(conditions.cluster.as_ref().or(account.map(|account| &account.cluster))),
        include_ended,
        namespace: text(account.map(|account| &account.namespace)),
        service_account: text(account.map(|account| &account.name)),
        all: false,
    }
}
