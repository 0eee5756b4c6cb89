//! The agent's socket: one request for each connection, from a uid that the config names.
//!
//! The uid is what the kernel says about who connected (SO_PEERCRED); nothing in a request says who asks. Two jobs of
//! one uid cannot be told apart here: that is a limit we state. Who connected decides what the connection may hold,
//! before a byte of it is read ([`crate::seats`]).
//!
//! Every request gets an id. It is in the log lines about the request, a call to the issuer that the request causes goes
//! under it, and an error names it, or the call of another request that it waited for.
//!
//! Questionable: root is not served tokens unless the config names it. Root could take them anyway, but not by mistake.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use shorepass_core::id::CallId;
use shorepass_core::job_token::JobToken;
use shorepass_core::name::Name;
use shorepass_core::time::{Clock, Entropy, Timestamp};
use shorepass_proto::local::MESSAGE_LIMIT;
use shorepass_proto::local::v1::request::Request as Question;
use shorepass_proto::local::v1::response::Response as Answer;
use shorepass_proto::local::v1::{
    CredentialRequest, CredentialResponse, EndJobRequest, EndJobResponse, Error, ErrorClass, LeaseStatus,
    LeaveResponse, Request, Response, RoleResponse, StartJobRequest, StartJobResponse, StatusResponse,
    WatchStatus,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, info, info_span, warn};
use zeroize::{Zeroize as _, Zeroizing};

use crate::follow;
use crate::identity::Standing;
use crate::issuer::Denial;
use crate::refresher::{Handle, Kept, Overview};
use crate::roles::Roles;
use crate::seats::{Admission, Full, Seats};
use crate::session::{JobKey, Key};

/// For a request to arrive, and for its answer to be taken.
const TRANSFER: Duration = Duration::from_secs(5);

/// The same for a uid that gets nothing; its request is read only for a better refusal.
const TRANSFER_OF_STRANGERS: Duration = Duration::from_millis(250);

/// For an answer to be found; below the exec plugin's own deadline, so that it can tell why there is none.
const PATIENCE: Duration = Duration::from_secs(4);

/// For leaving, which calls the issuer once for each job.
const LEAVE_PATIENCE: Duration = Duration::from_secs(60);

/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may ask for what.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// Who gets tokens.
    pub(crate) users: BTreeSet<u32>,
    /// The agent's own uid.
    pub(crate) own: u32,
}

impl Access {
    /// All uids that get anything.
    fn known(&self) -> impl Iterator<Item = u32> {
        self.users.iter().copied().chain([0, self.own])
    }

    fn check(&self, uid: u32, question: &Question) -> Result<(), Denial> {
        let user = self.users.contains(&uid);
        let administrator = uid == 0 || uid == self.own;
        let allowed = match question {
            Question::Credential(_) | Question::Role(_) | Question::StartJob(_) | Question::EndJob(_) => user,
            Question::Status(_) => user || administrator,
            Question::Leave(_) => administrator,
        };
        if allowed {
            return Ok(());
        }
        Err(match question {
            Question::Leave(_) => refusal(uid, format!("ask as root or as uid {}", self.own)),
            Question::Credential(_)
            | Question::Role(_)
            | Question::Status(_)
            | Question::StartJob(_)
            | Question::EndJob(_) => not_a_user(uid),
        })
    }
}

fn not_a_user(uid: u32) -> Denial {
    refusal(uid, format!("add {uid} to jobs.users in the agent's config and restart the agent"))
}

fn refusal(uid: u32, remedy: String) -> Denial {
    Denial::new(ErrorClass::Denied, format!("uid {uid} may not ask this agent for that"), remedy)
}

impl Full {
    fn denial(self, uid: u32) -> Denial {
        let message = format!("uid {uid} has too many connections to this agent");
        match self {
            Self::OfThisUid => Denial::new(
                ErrorClass::Unreachable,
                message,
                "try again with fewer clients at once".to_owned(),
            ),
            Self::OfStrangers => not_a_user(uid),
        }
    }
}

/// What answers are made of.
pub(crate) struct Server {
    pub(crate) access: Access,
    pub(crate) handle: Handle,
    pub(crate) roles: Roles,
    pub(crate) issuer_address: String,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) follow: follow::Standing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// Who connected, for one request of this id.
struct Client {
    uid: u32,
    id: CallId,
    stream: UnixStream,
}

/// Answers until `stop`.
pub(crate) async fn serve(
    listener: &UnixListener,
    server: Arc<Server>,
    short: TaskTracker,
    stop: CancellationToken,
) {
    let seats = Seats::new(server.access.known());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream))) {
            Ok((uid, stream)) => {
                let client = server.client(uid, stream);
                let span = info_span!("local", request_id = %client.id, uid);
                match seats.admit(uid) {
                    Ok(admission) => {
                        short.spawn(server.clone().answer(client, admission).instrument(span));
                    }
                    Err(full) => span.in_scope(|| turn_away(client, full.denial(uid))),
                }
            }
            Err(error) => {
                warn!(%error, "cannot accept local clients; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers without reading and without waiting: a new connection has room for this, and if not, nobody is owed it.
fn turn_away(client: Client, denial: Denial) {
    debug!(reason = denial.message, "turned a local client away");
    let frame = encode(denial.answer(&client.id), &client.id);
    if let Ok(mut stream) = client.stream.into_std() {
        let _ = stream.write(&frame);
    }
}

impl Denial {
    /// The answer to request `own`. What a call to the issuer gave is known by the call.
    fn answer(self, own: &CallId) -> Answer {
        let Self { class, message, remedy, rules, call } = self;
        let request_id = call.as_ref().unwrap_or(own).to_string();
        Answer::Error(Error { class: class.into(), message, remedy, request_id, rules })
    }
}

impl Server {
    fn client(&self, uid: u32, stream: UnixStream) -> Client {
        Client { uid, id: CallId::generate(self.clock.now(), &*self.entropy), stream }
    }

    async fn answer(self: Arc<Self>, client: Client, admission: Admission) {
        let uid = client.uid;
        let answered = match admission {
            Admission::Queued(queued) => match timeout(PATIENCE, queued.seat()).await {
                Ok(_seat) => self.serve(client).await,
                Err(_) => return turn_away(client, Full::OfThisUid.denial(uid)),
            },
            Admission::Stranger(_seat) => return self.refuse(client).await,
        };
        if let Err(error) = answered {
            debug!(%error, "a local client went away");
        }
    }

    async fn serve(&self, Client { uid, id, mut stream }: Client) -> io::Result<()> {
        let request = timeout(TRANSFER, read(&mut stream)).await??;
        let answer = match request {
            Some(question) => self.consider(uid, &id, question).await,
            None => Err(Denial::new(
                ErrorClass::Usage,
                "the agent does not understand the request".to_owned(),
                "install the same version of agent and clients".to_owned(),
            )),
        };
        let answer = answer.unwrap_or_else(|denial| {
            tell_of(&denial);
            denial.answer(&id)
        });
        let frame = encode(answer, &id);
        timeout(TRANSFER, stream.write_all(&frame)).await?
    }

    async fn refuse(&self, mut client: Client) {
        let request = timeout(TRANSFER_OF_STRANGERS, read(&mut client.stream)).await;
        let denied = match request {
            Ok(Ok(Some(question))) => self.access.check(client.uid, &question).err(),
            Ok(_) | Err(_) => None,
        };
        let denied = denied.unwrap_or_else(|| not_a_user(client.uid));
        turn_away(client, denied);
    }

    async fn consider(&self, uid: u32, id: &CallId, question: Question) -> Result<Answer, Denial> {
        self.access.check(uid, &question)?;
        match question {
            Question::Credential(request) => self.credential(uid, id, request).await.map(Answer::Credential),
            Question::Status(_) => Ok(Answer::Status(self.status().await)),
            Question::Role(request) => self.role(id, &request.role).await.map(Answer::Role),
            Question::Leave(_) => self.leave(id).await.map(Answer::Leave),
            Question::StartJob(request) => self.start_job(uid, id, request).await.map(Answer::StartJob),
            Question::EndJob(request) => self.end_job(uid, id, request).await.map(Answer::EndJob),
        }
    }

    async fn credential(
        &self,
        uid: u32,
        id: &CallId,
        request: CredentialRequest,
    ) -> Result<CredentialResponse, Denial> {
        let role = role_name(&request.role)?;
        let job = job_key(uid, &request.job)?;
        let key = Key { job, role: role.clone() };
        let lent = match in_time(PATIENCE, self.handle.credential(key.clone(), id.clone())).await {
            Ok(lent) => lent?,
            Err(late) => return Err(Denial { call: self.handle.call_out(key).await, ..late }),
        };
        if request.for_others == lent.audiences.is_empty() {
            return Err(for_somebody_else(&role, &lent.audiences));
        }
        Ok(CredentialResponse { token: lent.token.expose().to_owned(), valid_for: duration(lent.valid_for) })
    }

    async fn start_job(
        &self,
        uid: u32,
        id: &CallId,
        request: StartJobRequest,
    ) -> Result<StartJobResponse, Denial> {
        let StartJobRequest { job, job_token } = request;
        let token = JobToken::new(job_token);
        if token.is_empty() {
            let remedy = "hand over the token that the CI system gave to the job".to_owned();
            return Err(Denial::new(ErrorClass::Usage, "there is no job token".to_owned(), remedy));
        }
        let key = job_key(uid, &job)?;
        let started = in_time(PATIENCE, self.handle.start_job(key, token, id.clone())).await??;
        Ok(StartJobResponse { job_id: started.id.to_string(), latest_end_time: started.ends.map(timestamp) })
    }

    async fn end_job(&self, uid: u32, id: &CallId, request: EndJobRequest) -> Result<EndJobResponse, Denial> {
        let key = job_key(uid, &request.job)?;
        let leases = in_time(PATIENCE, self.handle.end_job(key, id.clone())).await??;
        Ok(EndJobResponse { leases: count(leases) })
    }

    async fn status(&self) -> StatusResponse {
        let Overview { leases, outage } = in_time(PATIENCE, self.handle.overview()).await.unwrap_or_default();
        let standing = self.standing.borrow().clone();
        let none = "no user gets tokens: list uids under jobs.users in the agent's config";
        let problems = standing.problem_at(self.clock.now()).into_iter().chain(outage);
        let problems = problems.chain(self.access.users.is_empty().then(|| none.to_owned()));
        StatusResponse {
            spiffe_id: standing.spiffe_id.map(|id| id.to_string()).unwrap_or_default(),
            certificate_expires_at: standing.expires.map(timestamp),
            issuer: self.issuer_address.clone(),
            problem: problems.collect::<Vec<_>>().join("; "),
            leases: leases.into_iter().map(lease_status).collect(),
            users: self.access.users.iter().copied().collect(),
            watch: Some(watch_status(self.follow.now())),
        }
    }

    async fn role(&self, id: &CallId, role: &str) -> Result<RoleResponse, Denial> {
        let name = role_name(role)?;
        let offered = in_time(PATIENCE, self.roles.find(id, &name)).await??;
        let offered = offered.ok_or_else(|| {
            let message = format!("this runner is not offered a role named {role}");
            Denial::new(ErrorClass::Denied, message, "check the name, or ask an operator".to_owned())
        })?;
        if !offered.audiences.is_empty() {
            return Err(for_somebody_else(&name, &offered.audiences));
        }
        let cluster = offered.cluster.unwrap_or_default();
        Ok(RoleResponse {
            cluster: cluster.name,
            server: cluster.server,
            ca_bundle_pem: cluster.ca_bundle_pem,
            tls_server_name: cluster.tls_server_name,
            namespace: cluster.namespace,
        })
    }

    async fn leave(&self, id: &CallId) -> Result<LeaveResponse, Denial> {
        let given_back = in_time(LEAVE_PATIENCE, self.handle.leave(id.clone())).await?;
        let given_back = given_back.ok_or_else(|| {
            let remedy = "run shorepass-agent leave again".to_owned();
            Denial::new(ErrorClass::Unreachable, "the agent is stopping".to_owned(), remedy)
        })?;
        match given_back.problem {
            Some(problem) => Err(problem),
            None => Ok(LeaveResponse { jobs: count(given_back.jobs), leases: count(given_back.leases) }),
        }
    }
}

fn watch_status(status: follow::Status) -> WatchStatus {
    WatchStatus { connected: status.connected, last_heard_at: status.last_heard.map(timestamp) }
}

/// What a call to the issuer gave is logged with the call already.
fn tell_of(Denial { class, message, call, .. }: &Denial) {
    match call {
        None => info!(?class, reason = message, "refused a local client"),
        Some(call) => debug!(?class, reason = message, %call, "refused a local client"),
    }
}

/// None where it is no request that this version knows.
async fn read(stream: &mut UnixStream) -> io::Result<Option<Question>> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > MESSAGE_LIMIT {
        return Ok(None);
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Request::decode(message.as_slice()).ok().and_then(|request| request.request))
}

/// The frame; the token in the answer is wiped.
fn encode(answer: Answer, id: &CallId) -> Zeroizing<Vec<u8>> {
    let mut response = Response { response: Some(answer) };
    if response.encoded_len() > MESSAGE_LIMIT {
        response = Response {
            response: Some(Answer::Error(Error {
                class: ErrorClass::Failure.into(),
                message: "the answer is longer than 64 KiB, the limit of the agent's socket".to_owned(),
                remedy: "end leases that nobody uses with shorepass-agent leave".to_owned(),
                request_id: id.to_string(),
                rules: String::new(),
            })),
        };
    }
    let length = response.encoded_len();
    let mut frame = Zeroizing::new(Vec::with_capacity(4 + length));
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    response.encode_raw(&mut *frame);
    if let Some(Answer::Credential(credential)) = &mut response.response {
        credential.token.zeroize();
    }
    frame
}

async fn in_time<T>(patience: Duration, answer: impl Future<Output = T>) -> Result<T, Denial> {
    timeout(patience, answer).await.map_err(|_| {
        let message = format!("the issuer did not answer within {} s", patience.as_secs());
        Denial::new(ErrorClass::Unreachable, message, "wait, or see `shorepass status`".to_owned())
    })
}

/// Where a token would be shown to who refuses it. Nobody but the API server is kubectl's.
fn for_somebody_else(role: &Name, audiences: &[String]) -> Denial {
    let (message, remedy) = match audiences {
        [] => (
            format!("the tokens of role {role} are for the API server of its cluster alone"),
            format!("use it with kubectl: shorepass kubeconfig --role {role}"),
        ),
        others => (
            format!(
                "the tokens of role {role} are for {}, and the API server refuses them",
                others.join(", ")
            ),
            format!(
                "print one with `shorepass token --role {role}`; for kubectl, use a role without spec.audiences"
            ),
        ),
    };
    Denial::new(ErrorClass::Usage, message, remedy)
}

/// What is no name is not repeated: it may be a token that somebody pasted, and the answer ends in logs.
fn role_name(text: &str) -> Result<Name, Denial> {
    Name::parse(text).map_err(|_| {
        let message = "this is no role: a role's name is 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both \
                       ends";
        Denial::new(ErrorClass::Usage, message.to_owned(), "check the name of the role".to_owned())
    })
}

fn job_key(uid: u32, name: &str) -> Result<JobKey, Denial> {
    JobKey::parse(uid, name).map_err(|error| {
        Denial::new(
            ErrorClass::Usage,
            error.to_string(),
            "choose another name in SHOREPASS_JOB or --job".to_owned(),
        )
    })
}

fn lease_status(kept: Kept) -> LeaseStatus {
    LeaseStatus {
        lease_id: kept.lease.map(|lease| lease.to_string()).unwrap_or_default(),
        role: kept.key.role.to_string(),
        job: kept.key.job.name().to_owned(),
        token_id: kept.token_id,
        valid_for: duration(kept.valid_for),
        problem: kept.problem,
        denied: kept.denied,
        unbound: kept.unbound,
    }
}

fn duration(span: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(span).ok()
}

fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
