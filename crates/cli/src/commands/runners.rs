//! `runner list`.

use std::io::Write;

use shorepass_proto::v1;

use super::emit_as;
use super::pages::{PAGE_SIZE, all_pages};
use crate::args::RunnerListArgs;
use crate::failure::Failure;
use crate::operator::Operator;
use crate::output::runner::{RunnerView, list_document, list_table};
use crate::progress;

pub(super) async fn list(args: &RunnerListArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let fetch = async |page_token| {
        let request = v1::ListRunnersRequest { include_ended: args.all, page_size: PAGE_SIZE, page_token };
        let page = operator.client.list_runners(request).await?;
        Ok((page.runners, page.next_page_token))
    };
    let runners = progress::during("the issuer", all_pages(fetch)).await?;
    let runners: Vec<_> = runners.into_iter().map(RunnerView::of).collect();
    emit_as(out, args.operator.output, || list_document(&runners), || list_table(&runners))
}
