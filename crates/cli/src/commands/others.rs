//! `unblock`, `block list`, `whois` and `join-token create`.

use std::io::Write;

use shorepass_proto::v1;

use super::pages::{PAGE_SIZE, all_pages};
use super::{emit, emit_as};
use crate::args::{BlockListArgs, CreateArgs, Format, UnblockArgs, WhoisArgs};
use crate::failure::Failure;
use crate::operator::{Operator, request_id};
use crate::output::Incomplete;
use crate::output::block;
use crate::output::block::{BlockView, block_document, block_sentence};
use crate::output::join_token::JoinToken;
use crate::output::lease::TokenOwner;
use crate::progress;

pub(super) async fn unblock(args: &UnblockArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let call = operator.client.unblock(v1::UnblockRequest { block_id: args.block.to_string() });
    let answer = progress::during("the issuer", call).await?;
    let block = BlockView::of(answer.block.ok_or(Incomplete("the block"))?);
    emit_as(out, args.operator.output, || block_document(&block), || block_sentence(&block))
}

pub(super) async fn list_blocks(args: &BlockListArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let asked = v1::ListBlocksRequest {
        caller: args.runner.as_ref().map_or_else(String::new, |runner| operator.caller(runner)),
        role: args.role.as_ref().map_or_else(String::new, ToString::to_string),
        include_ended: args.all,
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    let fetch = async |page_token| {
        let page = operator.client.list_blocks(v1::ListBlocksRequest { page_token, ..asked.clone() }).await?;
        Ok((page.blocks, page.next_page_token))
    };
    let blocks = progress::during("the issuer", all_pages(fetch)).await?;
    let blocks: Vec<_> = blocks.into_iter().map(BlockView::of).collect();
    emit_as(out, args.operator.output, || block::list_document(&blocks), || block::list_table(&blocks))
}

pub(super) async fn whois(args: &WhoisArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let call = operator.client.find_token(v1::FindTokenRequest { token_id: args.jti.0.clone() });
    let owner = TokenOwner::of(progress::during("the issuer", call).await?)?;
    emit_as(out, args.operator.output, || owner.document(), || owner.table())
}

/// The token alone goes to stdout, so that it can be piped to where it is needed and seen by nobody.
pub(super) async fn create_join_token(args: &CreateArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let lifetime = prost_types::Duration::try_from(args.lifetime).ok();
    let label = |(name, value): &(String, String)| v1::Label { name: name.clone(), value: value.clone() };
    let labels = args.labels.iter().map(label);
    let request = v1::CreateJoinTokenRequest {
        request_id: request_id().to_string(),
        runners: args.runners.to_string(),
        // More than the wire can say is more than the issuer allows: it says so.
        lifetime: Some(lifetime.unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })),
        replace: args.replace,
        labels: labels.collect(),
    };
    let answer = progress::during("the issuer", operator.client.create_join_token(request)).await?;
    let token = JoinToken::of(answer)?;
    match args.operator.output {
        Format::Json => emit(out, &token.document()),
        Format::Table => {
            emit(out, &token.line())?;
            eprint!("{}", token.expiry());
            Ok(())
        }
    }
}
