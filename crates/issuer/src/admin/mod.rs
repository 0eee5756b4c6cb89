//! What operators see, and the acts of theirs that are not revocations.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use shorepass_core::block::Block;
use shorepass_core::caller::{Caller, SpiffeId};
use shorepass_core::enrolment::{Enrolment, JoinToken, Standing};
use shorepass_core::id::{BlockId, EnrolmentId, LeaseId};
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{BlockFilter, Change, LeaseFilter, Ledger, LedgerError, MintedToken, Revision};
use shorepass_core::name::Name;
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_core::time::{Timestamp, after};
use shorepass_rpc::api::{BlocksAsked, JoinTokenAsked, LeaseView, NewJoinToken, Page, RequestKey};
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_tls::{Authority, JoinTokenText};

use crate::outside::{Outside, ledger_refused};

/// How many tokens of one lease are shown.
const TOKENS_SHOWN: usize = 200;

/// Leases with what belongs to them.
#[derive(Clone)]
pub struct Views {
    outside: Arc<Outside>,
}

impl Views {
    /// Over the outside.
    pub fn new(outside: Arc<Outside>) -> Self {
        Self { outside }
    }

    /// The lease with its job, its newest tokens and the block that its revocation set.
    pub fn of(&self, lease: Lease, tokens: usize, blocks: &mut Blocks) -> Result<LeaseView, Refused> {
        let mut read = || {
            let ledger = &self.outside.ledger;
            let job = lease.job.map(|job| ledger.job(job)).transpose()?;
            Ok((job, ledger.tokens(lease.id, tokens)?, blocks.of(&lease)?.cloned()))
        };
        let (job, tokens, block) = read().map_err(|cause: LedgerError| ledger_refused(&cause))?;
        let missing =
            || ledger_refused(&LedgerError::Unavailable(format!("the job of lease {} is missing", lease.id)));
        let job = job.map(|job| job.ok_or_else(missing)).transpose()?;
        let silence = self.outside.follow.silence_of(&lease).filter(|_| lease.is_live());
        let escapes = lease.role.as_ref().and_then(|role| self.outside.reviews.escapes_of(role));
        Ok(LeaseView { lease, job, tokens, block, silence, escapes })
    }

    /// One page, newest first, each lease with its newest token.
    pub fn page(
        &self,
        filter: &LeaseFilter,
        before: Option<LeaseId>,
        limit: usize,
    ) -> Result<Page<LeaseView, LeaseId>, Refused> {
        let found =
            self.outside.ledger.leases(filter, before, limit).map_err(|cause| ledger_refused(&cause))?;
        let next = if found.len() == limit { found.last().map(|lease| lease.id) } else { None };
        let mut blocks = Blocks::now(&self.outside);
        let items =
            found.into_iter().map(|lease| self.of(lease, 1, &mut blocks)).collect::<Result<_, _>>()?;
        Ok(Page { items, next })
    }

    /// One lease with all its tokens.
    pub fn one(&self, id: LeaseId) -> Result<LeaseView, Refused> {
        let found = self.outside.ledger.lease(id).map_err(|cause| ledger_refused(&cause))?;
        let missing = || not_found(format!("there is no lease {id}; see `shorepass lease list --all`"));
        self.of(found.ok_or_else(missing)?, TOKENS_SHOWN, &mut Blocks::now(&self.outside))
    }

    /// One page of blocks, newest first.
    pub fn blocks(&self, asked: BlocksAsked) -> Result<Page<Block, BlockId>, Refused> {
        let BlocksAsked { caller, role, include_ended, before, limit } = asked;
        let in_force = (!include_ended).then(|| self.outside.clock.now());
        let filter = BlockFilter { caller, role, in_force };
        let found = self.outside.ledger.find_blocks(&filter, before, limit);
        let items = found.map_err(|cause| ledger_refused(&cause))?;
        let next = if items.len() == limit { items.last().map(|block| block.id) } else { None };
        Ok(Page { items, next })
    }

    /// One page of enrolments, newest first: of those that live or are to be looked at, or of all.
    pub fn runners(
        &self,
        include_ended: bool,
        mut before: Option<EnrolmentId>,
        limit: usize,
    ) -> Result<Page<Enrolment, EnrolmentId>, Refused> {
        let now = self.outside.clock.now();
        let mut items = Vec::new();
        loop {
            let page =
                self.outside.ledger.enrolments(before, limit).map_err(|cause| ledger_refused(&cause))?;
            let last = page.len() < limit;
            for enrolment in page {
                before = Some(enrolment.id);
                let shown = match enrolment.standing(now) {
                    Standing::Live | Standing::Cloned => true,
                    Standing::Expired | Standing::Replaced => include_ended,
                };
                items.extend(shown.then_some(enrolment));
                if items.len() == limit {
                    return Ok(Page { items, next: before });
                }
            }
            if last {
                return Ok(Page { items, next: None });
            }
        }
    }

    /// Who held a token.
    pub fn token(&self, jti: &str) -> Result<(MintedToken, LeaseView), Refused> {
        let found = self.outside.ledger.token(jti).map_err(|cause| ledger_refused(&cause))?;
        let token = found.ok_or_else(|| {
            not_found("no token with this jti was issued here; give the jti claim, not the token".to_owned())
        })?;
        let view = self.one(token.lease)?;
        Ok((token, view))
    }
}

/// The blocks in force that revocations of leases set, as they were when their caller and role were first asked about: a
/// thousand leases of one pair are not a thousand times all of its blocks.
pub struct Blocks {
    ledger: Arc<dyn Ledger>,
    now: Timestamp,
    pairs: HashMap<(SpiffeId, Name), HashMap<LeaseId, Block>>,
}

impl Blocks {
    /// Those of now.
    pub fn now(outside: &Outside) -> Self {
        Self { ledger: outside.ledger.clone(), now: outside.clock.now(), pairs: HashMap::new() }
    }

    /// The one that the lease's revocation set.
    pub fn of(&mut self, lease: &Lease) -> Result<Option<&Block>, LedgerError> {
        // Of an adopted lease it may not be known whom a block would hold off from what.
        let (Some(owner), Some(role)) = (lease.owner.spiffe_id(), &lease.role) else { return Ok(None) };
        let pair = match self.pairs.entry((owner.clone(), role.clone())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let (caller, role) = unknown.key();
                let mut blocks = self.ledger.blocks(caller, role)?;
                blocks.retain(|block| block.in_force(self.now));
                // The newest first, and so it stays.
                unknown.insert(blocks.into_iter().rev().map(|block| (block.lease, block)).collect())
            }
        };
        Ok(pair.get(&lease.id))
    }
}

/// Acts of operators.
#[derive(Clone)]
pub struct Acts {
    outside: Arc<Outside>,
    authority: Arc<Authority>,
}

impl Acts {
    /// Over the outside; join tokens are for whom `authority` signs.
    pub fn new(outside: Arc<Outside>, authority: Arc<Authority>) -> Self {
        Self { outside, authority }
    }

    /// Lifts a block, and with it all others that refuse the same, before their end. One that has ended by itself, or was lifted, stays as it is.
    pub async fn unblock(&self, caller: &Caller, id: BlockId) -> Result<Block, Refused> {
        let found = self.outside.ledger.block(id).map_err(|cause| ledger_refused(&cause))?;
        let block =
            found.ok_or_else(|| not_found(format!("there is no block {id}; see `shorepass block list`")))?;
        let now = self.outside.clock.now();
        if !block.in_force(now) {
            return Ok(block);
        }
        // Several revocations may have blocked the same: it is free only without all of them.
        let siblings = self.siblings(&block, now).map_err(|cause| ledger_refused(&cause))?;
        let lift = |block: Block| block.lift(now, caller.spiffe_id().clone());
        let lifted =
            siblings.into_iter().map(|sibling| Change::BlockLifted { block: lift(sibling) }).collect();
        self.outside.ledger.commit(lifted).await.map_err(|cause| ledger_refused(&cause))?;
        tracing::info!(block = %id, by = %caller.spiffe_id(), "blocks lifted");
        Ok(lift(block))
    }

    /// The blocks in force that refuse the same, this one among them.
    fn siblings(&self, block: &Block, now: Timestamp) -> Result<Vec<Block>, LedgerError> {
        let mut siblings = Vec::new();
        for other in self.outside.ledger.blocks_of_caller(&block.caller)? {
            let alike = match (other.job, block.job) {
                (None, None) => other.role == block.role,
                (Some(one), Some(other)) => self.outside.is_one_job(one, other)?,
                (None, Some(_)) | (Some(_), None) => false,
            };
            if alike && other.in_force(now) {
                siblings.push(other);
            }
        }
        Ok(siblings)
    }

    /// Creates a one-time join token; its secret is in the answer and nowhere else.
    pub async fn create_join_token(
        &self,
        caller: &Caller,
        request: RequestKey,
        asked: JoinTokenAsked,
    ) -> Result<NewJoinToken, Refused> {
        let owner = caller.owner();
        let earlier = self.outside.ledger.request(&owner, None, Method::CreateJoinToken, request.id);
        if let Some(earlier) = earlier.map_err(|cause| ledger_refused(&cause))? {
            let message = "this request id has created a join token, and its secret cannot be shown twice; create another";
            return Err(self.outside.refuse_reused(caller, "CreateJoinToken", &earlier, message).await);
        }
        let text = JoinTokenText::generate(self.authority.key_digest(), self.outside.entropy.as_ref());
        let now = self.outside.clock.now();
        let JoinTokenAsked { runners, labels, lifetime, replace } = asked;
        let expires = after(now, lifetime);
        let join_token = JoinToken {
            digest: text.secret_digest(),
            runners,
            labels: labels.clone(),
            replace,
            created: now,
            expires,
            by: caller.spiffe_id().clone(),
            taken: None,
            revision: Revision::FIRST,
        };
        let outcome = Outcome::JoinToken(join_token.digest);
        let request = Request {
            owner,
            job: None,
            method: Method::CreateJoinToken,
            id: request.id,
            content: request.content,
            outcome,
        };
        let change = Change::JoinTokenCreated { join_token, request };
        self.outside.ledger.commit(vec![change]).await.map_err(|cause| ledger_refused(&cause))?;
        Ok(NewJoinToken { text: text.expose(), expires, labels })
    }
}

fn not_found(message: String) -> Refused {
    Refused::new(Reason::RecordNotFound, message)
}
