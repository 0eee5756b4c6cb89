//! Heartbeat and Watch over the wire.

use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::id::{CallId, LeaseId};
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;
use shorepass_proto::v1::watch_response::Event as Told;
use shorepass_rpc::client::WatchStream;

use super::{Remote, span};
use crate::follow::{Ended, Event, Follow, Pulse, Stream};
use crate::issuer::IssuerError;

/// Where the issuer does not say when to come back.
const COME_BACK: Duration = Duration::from_secs(5);

#[async_trait]
impl Follow for Remote {
    async fn heartbeat(&self, call: &CallId, leases: &[LeaseId], seen: u64) -> Result<Pulse, IssuerError> {
        let request = v1::HeartbeatRequest { lease_ids: texts(leases), watch_sequence: seen };
        let answer = self.client("Heartbeat", call)?.heartbeat(request).await?;
        let unavailable = answer.unavailable_lease_ids.iter().map(|id| lease(id));
        Ok(Pulse {
            silence: span(answer.silence_limit),
            ended: answer.ended.into_iter().map(ended).collect::<Result<_, _>>()?,
            unavailable: unavailable.collect::<Result<_, _>>()?,
            behind: answer.watch_behind,
        })
    }

    async fn watch(
        &self,
        call: &CallId,
        leases: &[LeaseId],
        seen: u64,
    ) -> Result<Box<dyn Stream>, IssuerError> {
        let request = v1::WatchRequest { lease_ids: texts(leases), sequence: seen };
        Ok(Box::new(Wire(self.client("Watch", call)?.watch(request).await?)))
    }
}

struct Wire(WatchStream);

#[async_trait]
impl Stream for Wire {
    async fn next(&mut self) -> Result<Option<(u64, Event)>, IssuerError> {
        let Some(told) = self.0.next().await? else { return Ok(None) };
        let event = match told.event {
            Some(Told::Ended(lease)) => Event::Ended(ended(lease)?),
            Some(Told::RoleChanged(changed)) => Event::RoleChanged(lease(&changed.lease_id)?),
            Some(Told::CaughtUp(_)) => Event::CaughtUp,
            Some(Told::ComeBack(word)) => Event::ComeBack(span(word.within).unwrap_or(COME_BACK)),
            // What a newer issuer tells besides is not for this version.
            Some(Told::StillHere(_)) | None => Event::StillHere,
        };
        Ok(Some((told.sequence, event)))
    }
}

fn texts(leases: &[LeaseId]) -> Vec<String> {
    leases.iter().map(LeaseId::to_string).collect()
}

fn lease(id: &str) -> Result<LeaseId, IssuerError> {
    LeaseId::parse(id).map_err(|_| IssuerError::Garbled("lease"))
}

fn ended(told: v1::EndedLease) -> Result<Ended, IssuerError> {
    let end = told.end.ok_or(IssuerError::Garbled("end of a lease"))?;
    let at = end.time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    Ok(Ended { lease: lease(&told.lease_id)?, cause: end.cause(), at, by: end.by, reason: end.reason })
}
