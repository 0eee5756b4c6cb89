//! Heartbeat and Watch between wire and domain.

use std::time::Duration;

use shorepass_core::id::LeaseId;
use shorepass_core::lease::Lease;
use shorepass_proto::v1;
use shorepass_proto::v1::watch_response::Event;

use super::{answers, fields};
use crate::follow::{Beat, Notice, Pulse};
use crate::refused::Refused;

/// Leases in one message: as many as an agent keeps.
const LEASES: usize = 1024;

fn leases(ids: &[String]) -> Result<Vec<LeaseId>, Refused> {
    if ids.len() > LEASES {
        return Err(Refused::field("lease_ids", format!("must be at most {LEASES}")));
    }
    ids.iter().map(|id| fields::required("lease_ids", id, LeaseId::parse)).collect()
}

pub(crate) fn heartbeat(message: v1::HeartbeatRequest) -> Result<Beat, Refused> {
    let v1::HeartbeatRequest { lease_ids, watch_sequence } = message;
    Ok(Beat { leases: leases(&lease_ids)?, sequence: watch_sequence })
}

pub(crate) fn watch(message: v1::WatchRequest) -> Result<Beat, Refused> {
    let v1::WatchRequest { lease_ids, sequence } = message;
    Ok(Beat { leases: leases(&lease_ids)?, sequence })
}

pub(crate) fn pulse(pulse: &Pulse) -> v1::HeartbeatResponse {
    v1::HeartbeatResponse {
        silence_limit: pulse.silence.map(answers::duration),
        ended: pulse.ended.iter().map(ended).collect(),
        unavailable_lease_ids: pulse.unavailable.iter().map(LeaseId::to_string).collect(),
        watch_behind: pulse.behind,
    }
}

fn ended(lease: &Lease) -> v1::EndedLease {
    v1::EndedLease { lease_id: lease.id.to_string(), end: answers::lease_end(lease) }
}

/// `sequence` is that of the message before, and then that of this one.
pub(crate) fn notice(notice: Notice, sequence: &mut u64) -> v1::WatchResponse {
    let event = match notice {
        Notice::Ended { sequence: number, lease } => {
            *sequence = number;
            Event::Ended(ended(&lease))
        }
        Notice::RoleChanged { sequence: number, lease } => {
            *sequence = number;
            Event::RoleChanged(v1::RoleChanged { lease_id: lease.to_string() })
        }
        Notice::CaughtUp { sequence: number } => {
            *sequence = number;
            Event::CaughtUp(v1::CaughtUp {})
        }
        Notice::StartOver => {
            *sequence = 0;
            Event::ComeBack(v1::ComeBack { within: Some(answers::duration(Duration::ZERO)) })
        }
    };
    v1::WatchResponse { sequence: *sequence, event: Some(event) }
}
