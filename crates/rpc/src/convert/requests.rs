//! Requests of the wire as the domain knows them.

use std::mem::take;
use std::time::Duration;

use shorepass_core::ban::BanKey;
use shorepass_core::caller::SpiffeId;
use shorepass_core::id::{BlockId, EnrolmentId, JobId, LeaseId};
use shorepass_core::job::AssertedJob;
use shorepass_core::job_token::JobToken;
use shorepass_core::labels::Labels;
use shorepass_core::ledger::LeaseFilter;
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::policy::Ask;
use shorepass_proto::v1;
use zeroize::Zeroizing;

use super::{fields, pages};
use crate::api::{
    BlocksAsked, Enrolling, JoinTokenAsked, Presented, Rejoining, RequestKey, Revocation, Ticket,
};
use crate::refused::Refused;

/// Longer than any join token.
const JOIN_TOKEN_LIMIT: usize = 300;

/// Longer than any token that an API server makes.
const POD_TOKEN_LIMIT: usize = 16 * 1024;

/// Longer than any nonce and any signature.
const REJOIN_LIMIT: usize = 128;

#[derive(Debug)]
pub(crate) struct StartJob {
    pub(crate) request: RequestKey,
    pub(crate) evidence: Presented,
    pub(crate) expected: Option<Duration>,
}

pub(crate) fn start_job(mut message: v1::StartJobRequest) -> Result<StartJob, Refused> {
    let request_id = take(&mut message.request_id);
    let request = fields::request_key(&request_id, &message)?;
    let v1::StartJobRequest { request_id: _, evidence, expected } = message;
    let evidence = match evidence {
        Some(v1::start_job_request::Evidence::Asserted(asserted)) => {
            let v1::AssertedJob { system, id, url } = asserted;
            let asserted = AssertedJob::new(system, id, url);
            Presented::Asserted(asserted.map_err(|error| Refused::field(error.field, error.problem))?)
        }
        Some(v1::start_job_request::Evidence::Oidc(v1::OidcToken { token })) => {
            Presented::Token(job_token(token)?)
        }
        None => return Err(Refused::field("evidence", "is missing")),
    };
    let expected = expected.map(|wire| fields::duration("expected", wire)).transpose()?;
    if expected == Some(Duration::ZERO) {
        return Err(Refused::field("expected", "must be more than 0, or unset"));
    }
    Ok(StartJob { request, evidence, expected })
}

/// One that is too long is refused by whoever verifies it, who also says why to the operators.
fn job_token(text: String) -> Result<JobToken, Refused> {
    let token = JobToken::new(text);
    match token.is_empty() {
        true => Err(Refused::field("oidc.token", "is missing")),
        false => Ok(token),
    }
}

pub(crate) fn end_job(message: v1::EndJobRequest) -> Result<JobId, Refused> {
    let v1::EndJobRequest { job_id } = message;
    fields::required("job_id", &job_id, JobId::parse)
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) request: RequestKey,
    pub(crate) job: JobId,
    pub(crate) ask: Ask,
}

pub(crate) fn issue(mut message: v1::IssueRequest) -> Result<Issue, Refused> {
    let request_id = take(&mut message.request_id);
    let request = fields::request_key(&request_id, &message)?;
    let v1::IssueRequest { request_id: _, job_id, role, lease_lifetime, token_lifetime } = message;
    let job = fields::required("job_id", &job_id, JobId::parse)?;
    let ask = Ask {
        role: fields::required("role", &role, Name::parse)?,
        lease_lifetime: fields::lease_lifetime(lease_lifetime)?,
        token_lifetime: fields::token_lifetime(token_lifetime)?,
    };
    Ok(Issue { request, job, ask })
}

pub(crate) fn refresh(message: v1::RefreshRequest) -> Result<(LeaseId, Option<Duration>), Refused> {
    let v1::RefreshRequest { lease_id, token_lifetime } = message;
    let lease = fields::required("lease_id", &lease_id, LeaseId::parse)?;
    Ok((lease, fields::token_lifetime(token_lifetime)?))
}

pub(crate) fn release(message: v1::ReleaseRequest) -> Result<LeaseId, Refused> {
    let v1::ReleaseRequest { lease_id } = message;
    fields::required("lease_id", &lease_id, LeaseId::parse)
}

pub(crate) fn list_roles(message: v1::ListRolesRequest) -> Result<(Option<Name>, usize), Refused> {
    let v1::ListRolesRequest { page_size, page_token } = message;
    let after = pages::read_token("page_token", &page_token, Name::parse)?;
    Ok((after, pages::size("page_size", page_size)?))
}

pub(crate) fn enroll(message: v1::EnrollRequest) -> Result<Enrolling, Refused> {
    let v1::EnrollRequest {
        join_token,
        name,
        certificate_request_pem,
        service_account_token,
        cluster,
        oidc_token,
    } = message;
    let shown = [join_token, service_account_token, oidc_token].map(Zeroizing::new);
    let ticket = ticket(shown, &cluster)?;
    let name = fields::required("name", &name, unrepeated_name)?;
    let certificate_request_pem =
        fields::certificate_request("certificate_request_pem", certificate_request_pem)?;
    Ok(Enrolling { ticket, name, certificate_request_pem })
}

/// Who swaps two arguments should not find the token in an error: the name is not repeated.
fn unrepeated_name(text: &str) -> Result<Name, &'static str> {
    Name::parse(text).map_err(|_| "must be 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends")
}

/// The one that is there.
fn ticket([join, pod, oidc]: [Zeroizing<String>; 3], cluster: &str) -> Result<Ticket, Refused> {
    if !cluster.is_empty() && pod.is_empty() {
        return Err(Refused::field("cluster", "goes with service_account_token only"));
    }
    let too_long = |field, of| Err(Refused::field(field, format!("is too long for {of}")));
    let second = |field| Err(Refused::field(field, "is not shown together with another token: show one"));
    match (join.len(), pod.len(), oidc.len()) {
        (0, 0, 0) => Err(Refused::field("join_token", "is missing")),
        (1..=JOIN_TOKEN_LIMIT, 0, 0) => Ok(Ticket::JoinToken(join)),
        (_, 0, 0) => too_long("join_token", "a join token"),
        (0, 1..=POD_TOKEN_LIMIT, 0) => {
            let cluster = fields::required("cluster", cluster, unrepeated_name)?;
            Ok(Ticket::Pod { cluster, token: pod })
        }
        (0, _, 0) => too_long("service_account_token", "a ServiceAccount's token"),
        (0, 0, _) => Ok(Ticket::Oidc(oidc)),
        (_, _, 0) => second("service_account_token"),
        (_, _, _) => second("oidc_token"),
    }
}

pub(crate) fn begin_rejoin(message: v1::BeginRejoinRequest) -> Result<Vec<u8>, Refused> {
    let v1::BeginRejoinRequest { certificate_pem } = message;
    fields::certificate("certificate_pem", certificate_pem)
}

pub(crate) fn rejoin(message: v1::RejoinRequest) -> Result<Rejoining, Refused> {
    let v1::RejoinRequest { certificate_pem, nonce, certificate_request_pem, signature } = message;
    let certificate_pem = fields::certificate("certificate_pem", certificate_pem)?;
    for (field, bytes) in [("nonce", &nonce), ("signature", &signature)] {
        if !(1..=REJOIN_LIMIT).contains(&bytes.len()) {
            return Err(Refused::field(field, format!("must be 1 to {REJOIN_LIMIT} bytes")));
        }
    }
    let certificate_request_pem =
        fields::certificate_request("certificate_request_pem", certificate_request_pem)?;
    Ok(Rejoining { certificate_pem, nonce, certificate_request_pem, signature })
}

pub(crate) fn renew(message: v1::RenewRequest) -> Result<Vec<u8>, Refused> {
    let v1::RenewRequest { certificate_request_pem } = message;
    fields::certificate_request("certificate_request_pem", certificate_request_pem)
}

/// Which leases, and whether all of them were asked for in so many words.
fn selector(message: Option<v1::LeaseSelector>) -> Result<(LeaseFilter, bool), Refused> {
    let v1::LeaseSelector {
        lease_id,
        caller,
        job_id,
        role,
        cluster,
        include_ended,
        namespace,
        service_account,
        all,
    } = message.unwrap_or_default();
    let filter = LeaseFilter {
        lease: fields::optional("selector.lease_id", &lease_id, LeaseId::parse)?,
        caller: fields::optional("selector.caller", &caller, SpiffeId::parse)?,
        job: fields::optional("selector.job_id", &job_id, JobId::parse)?,
        role: fields::optional("selector.role", &role, Name::parse)?,
        cluster: fields::optional("selector.cluster", &cluster, Name::parse)?,
        namespace: fields::optional("selector.namespace", &namespace, Name::parse)?,
        service_account: fields::optional(
            "selector.service_account",
            &service_account,
            fields::service_account,
        )?,
        include_ended,
    };
    if filter.service_account.is_some() && filter.namespace.is_none() {
        let problem = "names a ServiceAccount together with namespace and cluster";
        return Err(Refused::field("selector.service_account", problem));
    }
    if filter.namespace.is_some() && filter.cluster.is_none() {
        return Err(Refused::field("selector.namespace", "names a namespace together with its cluster"));
    }
    if all && !filter.is_everything() {
        return Err(Refused::field("selector.all", "stands alone: all leases, or those of the conditions"));
    }
    Ok((filter, all))
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListLeases {
    pub(crate) filter: LeaseFilter,
    pub(crate) before: Option<LeaseId>,
    pub(crate) limit: usize,
}

pub(crate) fn list_leases(message: v1::ListLeasesRequest) -> Result<ListLeases, Refused> {
    let v1::ListLeasesRequest { selector: wanted, page_size, page_token } = message;
    Ok(ListLeases {
        filter: selector(wanted)?.0,
        before: pages::read_token("page_token", &page_token, LeaseId::parse)?,
        limit: pages::size("page_size", page_size)?,
    })
}

pub(crate) fn get_lease(message: v1::GetLeaseRequest) -> Result<LeaseId, Refused> {
    let v1::GetLeaseRequest { lease_id } = message;
    fields::required("lease_id", &lease_id, LeaseId::parse)
}

pub(crate) fn revoke_leases(message: v1::RevokeLeasesRequest) -> Result<Revocation, Refused> {
    let v1::RevokeLeasesRequest { selector: wanted, reason, dry_run, wait } = message;
    let (filter, all) = selector(wanted)?;
    if filter.is_everything() && !all {
        return Err(Refused::field(
            "selector",
            "must have at least one condition: who means all leases says `all`",
        ));
    }
    Ok(Revocation { filter, reason: fields::reason_text("reason", reason)?, dry_run, wait })
}

pub(crate) fn unblock(message: v1::UnblockRequest) -> Result<BlockId, Refused> {
    let v1::UnblockRequest { block_id } = message;
    fields::required("block_id", &block_id, BlockId::parse)
}

pub(crate) fn list_blocks(message: v1::ListBlocksRequest) -> Result<BlocksAsked, Refused> {
    let v1::ListBlocksRequest { caller, role, include_ended, page_size, page_token } = message;
    Ok(BlocksAsked {
        caller: fields::optional("caller", &caller, SpiffeId::parse)?,
        role: fields::optional("role", &role, Name::parse)?,
        include_ended,
        before: pages::read_token("page_token", &page_token, BlockId::parse)?,
        limit: pages::size("page_size", page_size)?,
    })
}

pub(crate) fn ban(message: v1::BanRequest) -> Result<(BanKey, String), Refused> {
    let v1::BanRequest { subject, reason } = message;
    let whom = fields::required("subject", &subject, BanKey::parse)?;
    Ok((whom, fields::reason_text("reason", reason)?))
}

pub(crate) fn unban(message: v1::UnbanRequest) -> Result<BanKey, Refused> {
    let v1::UnbanRequest { subject } = message;
    fields::required("subject", &subject, BanKey::parse)
}

pub(crate) fn list_bans(message: v1::ListBansRequest) -> Result<(bool, Option<BanKey>, usize), Refused> {
    let v1::ListBansRequest { include_lifted, page_size, page_token } = message;
    let after = pages::read_token("page_token", &page_token, BanKey::parse)?;
    Ok((include_lifted, after, pages::size("page_size", page_size)?))
}

pub(crate) fn list_runners(
    message: v1::ListRunnersRequest,
) -> Result<(bool, Option<EnrolmentId>, usize), Refused> {
    let v1::ListRunnersRequest { include_ended, page_size, page_token } = message;
    let before = pages::read_token("page_token", &page_token, EnrolmentId::parse)?;
    Ok((include_ended, before, pages::size("page_size", page_size)?))
}

pub(crate) fn find_token(message: v1::FindTokenRequest) -> Result<String, Refused> {
    let v1::FindTokenRequest { token_id } = message;
    fields::token_id("token_id", token_id)
}

pub(crate) fn create_join_token(
    mut message: v1::CreateJoinTokenRequest,
) -> Result<(RequestKey, JoinTokenAsked), Refused> {
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    let request_id = take(&mut message.request_id);
    let request = fields::request_key(&request_id, &message)?;
    let v1::CreateJoinTokenRequest { request_id: _, runners, lifetime, replace, labels } = message;
    let runners = fields::required("runners", &runners, NamePattern::parse)?;
    let lifetime = match lifetime {
        Some(wire) => fields::duration("lifetime", wire)?,
        None => HOUR,
    };
    if !(MINUTE..=WEEK).contains(&lifetime) {
        return Err(Refused::field("lifetime", "must be 1 min to 7 days, or unset for 1 h"));
    }
    let labels = labels.into_iter().map(|v1::Label { name, value }| (name, value));
    let labels = Labels::new(labels).map_err(|problem| Refused::field("labels", problem))?;
    Ok((request, JoinTokenAsked { runners, labels, lifetime, replace }))
}
