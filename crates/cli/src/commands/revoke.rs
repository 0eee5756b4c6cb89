//! `lease revoke`: each step, and each receipt that is waited for, is told as it happens.
//!
//! When the answer breaks off, what was seen is still told: the issuer goes on with the rest.

use std::io::Write;

use shorepass_proto::v1;

use super::emit;
use super::leases::selector;
use crate::args::{Format, RevokeArgs};
use crate::failure::Failure;
use crate::operator::Operator;
use crate::output::revocation::{Revocation, Step};
use crate::progress::Progress;

pub(super) async fn revoke(args: &RevokeArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let operator = Operator::new(&args.operator)?;
    let selector = selector(&operator, args.lease, &args.conditions, false);
    let request = v1::RevokeLeasesRequest {
        selector: Some(v1::LeaseSelector { all: args.all, ..selector }),
        reason: args.reason.clone(),
        dry_run: args.dry_run,
        wait: args.wait,
    };
    let mut progress = Progress::new();
    let mut stream = progress.during("the issuer", operator.client.revoke_leases(request)).await?;
    let next = async |so_far: String| Ok(progress.during(&so_far, stream.next()).await?);
    follow(next, args.operator.output, Revocation::new(args.dry_run, args.wait), out).await
}

async fn follow(
    mut next: impl AsyncFnMut(String) -> Result<Option<v1::RevokeLeasesResponse>, Failure>,
    format: Format,
    mut revocation: Revocation,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let broken_off = loop {
        let step = match next(revocation.so_far()).await {
            Ok(Some(wire)) => Step::of(wire).map_err(Failure::from),
            Ok(None) => break None,
            Err(failure) => Err(failure),
        };
        match step {
            Ok(step) => {
                if format == Format::Table {
                    emit(out, &step.lines())?;
                }
                revocation.push(step);
            }
            Err(failure) => break Some(failure),
        }
    };
    match (format, &broken_off) {
        (Format::Json, _) => emit(out, &revocation.document(broken_off.is_none()))?,
        (Format::Table, None) => emit(out, &revocation.summary())?,
        (Format::Table, Some(_)) => {}
    }
    match (broken_off, revocation.ending(), revocation.tokens_remain(), revocation.unproved()) {
        (Some(failure), ..) => Err(failure),
        (None, 0, 0, 0) => Ok(()),
        (None, 0, 0, unproved) => Err(Failure::Unproved(unproved)),
        (None, 0, unbound, _) => Err(Failure::TokensRemain(unbound)),
        (None, ending, ..) => Err(Failure::StillEnding(ending)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shorepass_rpc::status::ClientError;

    use super::*;
    use crate::output::samples::{active, proved, revoked, unbound, unproved};

    fn step(lease: v1::LeaseRecord, outcome: v1::RevokeOutcome) -> v1::RevokeLeasesResponse {
        v1::RevokeLeasesResponse { lease: Some(lease), outcome: outcome.into(), ..Default::default() }
    }

    /// What is printed, and how it ends, when the steps are these and `end` follows.
    async fn followed(
        steps: Vec<v1::RevokeLeasesResponse>,
        end: Option<Failure>,
        format: Format,
        waits: bool,
    ) -> (String, Result<(), Failure>) {
        let (mut steps, mut end) = (steps.into_iter(), end);
        let next = async |_| match (steps.next(), end.take()) {
            (Some(step), kept) => {
                end = kept;
                Ok(Some(step))
            }
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(None),
        };
        let mut out = Vec::new();
        let outcome = follow(next, format, Revocation::new(false, waits), &mut out).await;
        (String::from_utf8(out).unwrap(), outcome)
    }

    #[tokio::test]
    async fn a_revocation_that_is_done_succeeds() {
        let steps = vec![step(revoked(), v1::RevokeOutcome::Revoked)];
        let (told, outcome) = followed(steps, None, Format::Table, false).await;
        assert!(outcome.is_ok());
        assert!(told.starts_with("revoked ") && told.ends_with("\n1 revoked; no new block\n"), "{told}");
    }

    #[tokio::test]
    async fn a_lease_that_is_still_ending_fails_the_command() {
        let steps = vec![step(active(), v1::RevokeOutcome::Ending)];
        let (_, outcome) = followed(steps, None, Format::Table, false).await;
        assert!(matches!(outcome, Err(Failure::StillEnding(1))));
    }

    #[tokio::test]
    async fn an_unbound_lease_whose_tokens_live_fails_the_command() {
        let steps = vec![
            step(revoked(), v1::RevokeOutcome::Revoked),
            step(unbound(), v1::RevokeOutcome::TokensRemain),
        ];
        let (told, outcome) = followed(steps, None, Format::Table, false).await;
        assert!(matches!(outcome, Err(Failure::TokensRemain(1))));
        assert!(told.ends_with("\n1 revoked, 1 tokens remain; no new block\n"), "{told}");
    }

    #[tokio::test]
    async fn who_waits_succeeds_only_if_all_are_proved() {
        let arrived = |receipt| v1::RevokeLeasesResponse {
            receipt: v1::RevokeReceipt::Arrived.into(),
            ..step(v1::LeaseRecord { receipt: Some(receipt), ..revoked() }, v1::RevokeOutcome::Revoked)
        };
        let (told, outcome) = followed(vec![arrived(proved())], None, Format::Table, true).await;
        assert!(outcome.is_ok() && told.ends_with("receipts: 1 proved\n"), "{told}");
        let (_, outcome) = followed(vec![arrived(unproved())], None, Format::Table, true).await;
        assert!(matches!(outcome, Err(Failure::Unproved(1))), "{outcome:?}");
        for ended in [v1::RevokeOutcome::Revoked, v1::RevokeOutcome::AlreadyEnded] {
            let outside = step(v1::LeaseRecord { receipt: None, ..revoked() }, ended);
            let (_, outcome) = followed(vec![outside], None, Format::Table, true).await;
            assert!(matches!(outcome, Err(Failure::Unproved(1))), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_lease_that_had_ended_before_counts_by_its_receipt_where_that_is_waited_for() {
        for (receipt, dead) in [(proved(), true), (unproved(), false)] {
            let lease = v1::LeaseRecord { receipt: Some(receipt), ..revoked() };
            let told = |receipt: v1::RevokeReceipt| v1::RevokeLeasesResponse {
                receipt: receipt.into(),
                ..step(lease.clone(), v1::RevokeOutcome::AlreadyEnded)
            };
            let steps = vec![told(v1::RevokeReceipt::Follows), told(v1::RevokeReceipt::Arrived)];
            let (told, outcome) = followed(steps, None, Format::Table, true).await;
            assert_eq!(outcome.is_ok(), dead, "{outcome:?}");
            assert!(told.starts_with("ended before") && told.contains("proved: "), "{told}");
            let steps = vec![step(lease, v1::RevokeOutcome::AlreadyEnded)];
            assert!(followed(steps, None, Format::Table, false).await.1.is_ok(), "nobody waited");
        }
    }

    #[tokio::test]
    async fn what_was_seen_is_told_when_the_answer_breaks_off() {
        for format in [Format::Table, Format::Json] {
            let steps = vec![step(revoked(), v1::RevokeOutcome::Revoked)];
            let end = Failure::Call(ClientError::Deadline(Duration::from_secs(45)));
            let (told, outcome) = followed(steps, Some(end), format, false).await;
            assert!(told.contains("0198c5a2-8f7e-7cc0-b1d2-000000000002"), "{told}");
            assert!(told.contains("\"complete\": false") == (format == Format::Json), "{told}");
            assert_eq!(outcome.unwrap_err().exit_code(), 4);
        }
    }
}
