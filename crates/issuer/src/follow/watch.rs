//! Heartbeat and Watch: what owners say of their leases, and what they are told.
//!
//! A stream is opened first, and what its owner missed is read from the records after that: what ends in between is told
//! twice, and nothing is missed. Unknown and foreign leases look alike, and are no refusal: they are forgotten leases mostly.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use shorepass_core::caller::Caller;
use shorepass_core::feed::{Next, Opened};
use shorepass_core::id::LeaseId;
use shorepass_core::lease::Lease;
use shorepass_rpc::follow::{Beat, Following, Notice, Notices, Pulse};
use shorepass_rpc::refused::Refused;
use tokio::sync::Notify;

use super::Follow;
use super::streams::Event;
use crate::outside::ledger_refused;
use crate::services::UseCases;

#[async_trait]
impl Following for UseCases {
    async fn heartbeat(&self, caller: &Caller, beat: Beat) -> Result<Pulse, Refused> {
        let follow = &self.outside.follow;
        let behind = beat.sequence != 0 && beat.sequence != follow.newest(&caller.owner());
        let mut pulse = Pulse { behind, ..Pulse::default() };
        for id in beat.leases {
            match self.owned(caller, id)? {
                Some(lease) if lease.is_live() => {
                    follow.hear(id);
                    let limit = follow.silence_of(&lease);
                    pulse.silence = pulse.silence.into_iter().chain(limit).min();
                }
                Some(ended) => pulse.ended.push(ended),
                None => pulse.unavailable.push(id),
            }
        }
        Ok(pulse)
    }

    async fn watch(&self, caller: &Caller, beat: Beat) -> Result<Box<dyn Notices>, Refused> {
        let follow = self.outside.follow.clone();
        let (opened, wake) = follow.open(&caller.owner(), beat.sequence);
        let mut listening = Listening { follow, opened, wake, first: VecDeque::new() };
        let sequence = opened.sequence;
        for id in beat.leases {
            let Some(lease) = self.owned(caller, id)? else { continue };
            if lease.is_live() {
                self.outside.follow.hear(id);
            }
            let missed = match lease.is_live() {
                _ if opened.up_to_date => None,
                true if self.outside.follow.role_changed(&lease) => {
                    Some(Notice::RoleChanged { sequence, lease: id })
                }
                true => None,
                false => Some(Notice::Ended { sequence, lease: Box::new(lease) }),
            };
            listening.first.extend(missed);
        }
        listening.first.push_back(Notice::CaughtUp { sequence });
        Ok(Box::new(listening))
    }
}

impl UseCases {
    fn owned(&self, caller: &Caller, id: LeaseId) -> Result<Option<Lease>, Refused> {
        let found = self.outside.ledger.lease(id).map_err(|cause| ledger_refused(&cause))?;
        Ok(found.filter(|lease| caller.owns_lease(&lease.owner)))
    }

    /// The caller calls about this lease, whatever comes of it.
    pub(crate) fn hear_of(&self, caller: &Caller, id: LeaseId) {
        if let Ok(Some(lease)) = self.owned(caller, id) {
            self.outside.follow.hear(lease.id);
        }
    }
}

struct Listening {
    follow: Arc<Follow>,
    opened: Opened,
    wake: Arc<Notify>,
    first: VecDeque<Notice>,
}

#[async_trait]
impl Notices for Listening {
    async fn next(&mut self) -> Notice {
        if let Some(notice) = self.first.pop_front() {
            return notice;
        }
        loop {
            match self.follow.take(self.opened) {
                Next::Event { sequence, event: Event::Ended(lease) } => {
                    return Notice::Ended { sequence, lease };
                }
                Next::Event { sequence, event: Event::RoleChanged(lease) } => {
                    return Notice::RoleChanged { sequence, lease };
                }
                Next::StartOver => return Notice::StartOver,
                Next::Nothing => self.wake.notified().await,
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.follow.close(self.opened);
    }
}
