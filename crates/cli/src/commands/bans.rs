//! `ban`, `ban list` and `unban`.

use std::io::Write;

use shorepass_core::ban::BanKey;
use shorepass_proto::v1;

use super::emit_as;
use super::pages::{PAGE_SIZE, all_pages};
use crate::args::{BanArgs, BanCommand, BanListArgs, UnbanArgs};
use crate::failure::Failure;
use crate::operator::Operator;
use crate::output::Incomplete;
use crate::output::ban::{BanView, Shutout, ban_document, list_document, list_table};
use crate::progress;

pub(super) async fn ban(args: &BanArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match (&args.command, &args.whom, &args.reason) {
        (None, Some(whom), Some(reason)) => set(args, whom, reason, out).await,
        (Some(BanCommand::List(list)), ..) => self::list(list, out).await,
        // The parser asks for both where there is no command.
        (None, ..) => Ok(()),
    }
}

async fn set(args: &BanArgs, whom: &BanKey, reason: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let request = v1::BanRequest { subject: whom.to_string(), reason: reason.to_owned() };
    let answer = progress::during("the issuer", operator.client.ban(request)).await?;
    let shutout = Shutout::of(answer)?;
    emit_as(out, args.operator.output, || shutout.document(), || shutout.sentences())?;
    match shutout.tokens_remain() {
        0 => Ok(()),
        leases => Err(Failure::TokensRemain(leases)),
    }
}

async fn list(args: &BanListArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let fetch = async |page_token| {
        let request = v1::ListBansRequest { include_lifted: args.all, page_size: PAGE_SIZE, page_token };
        let page = operator.client.list_bans(request).await?;
        Ok((page.bans, page.next_page_token))
    };
    let bans = progress::during("the issuer", all_pages(fetch)).await?;
    let mut bans: Vec<_> = bans.into_iter().map(BanView::of).collect();
    bans.sort_by_key(|ban| std::cmp::Reverse(ban.create_time));
    emit_as(out, args.operator.output, || list_document(&bans), || list_table(&bans))
}

pub(super) async fn unban(args: &UnbanArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let call = operator.client.unban(v1::UnbanRequest { subject: args.whom.to_string() });
    let answer = progress::during("the issuer", call).await?;
    let ban = BanView::of(answer.ban.ok_or(Incomplete("the ban"))?);
    emit_as(out, args.operator.output, || ban_document(&ban), || ban.lifted_sentence())
}
