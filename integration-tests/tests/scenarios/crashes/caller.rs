//! A caller of the lanes: asks for jobs, leases and tokens, asks again what was not answered, and keeps what it was told.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;
use integration_tests::client::{self, Client};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use shorepass_proto::v1::{self, ErrorReason};
use shorepass_rpc::client::{ApiClient, ClientError};

use super::Failure;

/// One caller.
pub(super) struct Caller {
    pub(super) client: Client,
    pub(super) told: Told,
    roles: &'static [&'static str],
}

/// What the client was told, and what it asked without being told.
#[derive(Default)]
pub(super) struct Told {
    jobs: Vec<String>,
    pub(super) leases: BTreeMap<String, Known>,
    /// By `jti`: the lease and the token.
    pub(super) tokens: BTreeMap<String, (String, String)>,
    /// Asked and not answered; asked again after the crash, as an agent does.
    start: Option<v1::StartJobRequest>,
    pub(super) issue: Option<v1::IssueRequest>,
}

/// A lease as the client knows it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) standing: Standing,
    pub(super) role: String,
}

/// What the client knows of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was issued, and its end was not asked for.
    Live,
    /// Its end was asked for, and nobody answered.
    Unknown,
    /// Its end was acknowledged.
    Over,
}

/// What became of a call that came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// What was asked for, or something that is as good.
    Done,
    /// The caller is blocked or banned.
    ShutOut(ErrorReason),
}

/// Blocks and bans are answers; every other refusal must not happen.
fn shut_out(error: ClientError) -> Result<Answer, Failure> {
    match error.reason() {
        Some(reason @ (ErrorReason::Blocked | ErrorReason::Banned)) => Ok(Answer::ShutOut(reason)),
        _ => Err(error.into()),
    }
}

impl Answer {
    /// For whom nobody shuts out.
    pub(super) fn done(self) -> Result<(), Failure> {
        match self {
            Self::Done => Ok(()),
            Self::ShutOut(reason) => Err(anyhow!("shut out: {reason:?}").into()),
        }
    }
}

impl Caller {
    pub(super) fn new(client: Client, roles: &'static [&'static str]) -> Self {
        Self { client, told: Told::default(), roles }
    }

    pub(super) async fn start_job(&mut self) -> Result<Answer, Failure> {
        let request = self.told.start.get_or_insert_with(|| client::start_job("1")).clone();
        match self.client.call(ApiClient::start_job, request).await {
            Ok(answer) => {
                self.told.start = None;
                self.told.jobs.push(answer.job.unwrap_or_default().id);
                Ok(Answer::Done)
            }
            Err(error) => shut_out(error),
        }
    }

    /// A lease of that role, or of any; what was not answered first.
    pub(super) async fn issue(&mut self, rng: &mut StdRng, role: Option<&str>) -> Result<Answer, Failure> {
        let Some(job) = self.told.jobs.choose(rng).cloned() else { return self.start_job().await };
        let role = role.or_else(|| self.roles.choose(rng).copied()).unwrap_or_default();
        let request = self.told.issue.get_or_insert_with(|| client::issue(&job, role)).clone();
        loop {
            match self.client.call(ApiClient::issue, request.clone()).await {
                Ok(answer) => {
                    self.told.issue = None;
                    let lease = answer.lease.unwrap_or_default();
                    let known = Known { standing: Standing::Live, role: lease.role };
                    self.told.leases.insert(lease.id.clone(), known);
                    self.hold(&lease.id, answer.credential);
                    return Ok(Answer::Done);
                }
                Err(error) => match error.reason() {
                    // The sweeper was faster than the client; or the API server with the rights of a strict lease too slow.
                    Some(ErrorReason::LeaseEnded | ErrorReason::RightsNotInEffect) => {
                        self.told.issue = None;
                        return Ok(Answer::Done);
                    }
                    Some(ErrorReason::ClusterBusy) => tokio::time::sleep(Duration::from_millis(200)).await,
                    _ => return shut_out(error),
                },
            }
        }
    }

    fn hold(&mut self, lease: &str, credential: Option<v1::Credential>) {
        let credential = credential.unwrap_or_default();
        self.told.tokens.insert(credential.token_id.clone(), (lease.to_owned(), credential.token.clone()));
    }

    pub(super) fn one_that_is(&self, rng: &mut StdRng, fits: impl Fn(&Known) -> bool) -> Option<String> {
        let fitting: Vec<&String> =
            self.told.leases.iter().filter(|(_, known)| fits(known)).map(|(id, _)| id).collect();
        fitting.choose(rng).map(|id| (*id).clone())
    }

    pub(super) fn stands(&mut self, lease: &str, standing: Standing) {
        if let Some(known) = self.told.leases.get_mut(lease) {
            known.standing = standing;
        }
    }

    /// Somebody else may have ended all of them.
    pub(super) fn all_stand(&mut self, standing: Standing) {
        let not_over = self.told.leases.values_mut().filter(|known| known.standing != Standing::Over);
        not_over.for_each(|known| known.standing = standing);
    }

    pub(super) async fn refresh(&mut self, rng: &mut StdRng) -> Result<Answer, Failure> {
        let Some(lease) = self.one_that_is(rng, |known| known.standing == Standing::Live) else {
            return self.issue(rng, None).await;
        };
        match self.client.refresh(&lease).await {
            Ok(issued) => {
                self.hold(&lease, Some(issued.credential));
                Ok(Answer::Done)
            }
            Err(error) => shut_out(error),
        }
    }

    /// Gives a lease of that role back, or of any.
    pub(super) async fn release(&mut self, rng: &mut StdRng, role: Option<&str>) -> Result<Answer, Failure> {
        let fits =
            |known: &Known| known.standing != Standing::Over && role.is_none_or(|role| known.role == role);
        let Some(lease) = self.one_that_is(rng, fits) else { return self.issue(rng, role).await };
        self.stands(&lease, Standing::Unknown);
        match self.client.release(&lease).await {
            Ok(_) => {
                self.stands(&lease, Standing::Over);
                Ok(Answer::Done)
            }
            Err(error) => shut_out(error),
        }
    }
}
