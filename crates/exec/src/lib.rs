//! The local client: asks the agent over its Unix socket, blocking, one request for each connection.
//!
//! Used by the exec plugin in this crate and by the command line. It depends on the messages and on nothing that speaks
//! HTTP, TLS or Kubernetes: kubectl runs the plugin once in every process, so its start-up time is everybody's.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use prost::Message as _;
use shorepass_proto::local::MESSAGE_LIMIT;
use shorepass_proto::local::v1::request::Request as Question;
use shorepass_proto::local::v1::response::Response as Answer;
use shorepass_proto::local::v1::{
    CredentialRequest, EndJobRequest, EndJobResponse, ErrorClass, LeaveRequest, LeaveResponse, Request,
    Response, RoleRequest, RoleResponse, StartJobRequest, StartJobResponse, StatusRequest, StatusResponse,
};
use zeroize::Zeroizing;

/// The environment variable that names the agent's socket.
pub const SOCKET_VARIABLE: &str = "SHOREPASS_SOCKET";

/// The environment variable that names the job.
pub const JOB_VARIABLE: &str = "SHOREPASS_JOB";

/// Where the agent's socket is unless something else is said.
pub const DEFAULT_SOCKET: &str = "/run/shorepass/agent.sock";

/// A token to use now. It cannot be printed.
pub struct Credential {
    /// The bearer token; wiped on drop.
    pub token: Zeroizing<String>,
    /// How long it may be used from now.
    pub valid_for: Duration,
}

/// Why the agent gave no answer, or gave a refusal.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing listens there.
    #[error("no agent answers at {}", socket.display())]
    NotRunning {
        /// Where it should be.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The socket's or its directory's mode keeps this user out.
    #[error("this user may not use the agent's socket {}", socket.display())]
    Forbidden {
        /// Where it is.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The agent did not answer in time.
    #[error("the agent at {} did not answer within {patience:?}", socket.display())]
    Silent {
        /// Where it is.
        socket: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The connection broke.
    #[error("the connection to the agent at {} broke", socket.display())]
    Broken {
        /// Where it is.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What answers there is no agent of this version.
    #[error("what answers at {} is not an agent that this program understands", socket.display())]
    Garbled {
        /// Where it is.
        socket: PathBuf,
    },
    /// The agent says no.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        class: ErrorClass,
        /// What happened.
        message: String,
        /// What to do.
        remedy: String,
        /// Under which id the logs of agent and issuer have it; empty where an older agent names none.
        request_id: String,
        /// What an administrator of the cluster has to add to RBAC, as YAML; empty if that is not what lacks.
        rules: String,
    },
}

impl AskError {
    /// What to do about it, in one sentence.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotRunning { .. } => {
                format!("start shorepass-agent, or name its socket in {SOCKET_VARIABLE}")
            }
            Self::Forbidden { .. } => {
                "let the runner's administrator add this user to jobs.users in the agent's config".to_owned()
            }
            Self::Silent { .. } => "see the log of shorepass-agent and `shorepass status`".to_owned(),
            Self::Broken { .. } => "try again; if it stays, see the log of shorepass-agent".to_owned(),
            Self::Garbled { .. } => {
                format!("install the same version of agent and clients, and check {SOCKET_VARIABLE}")
            }
            Self::Refused { remedy, .. } => remedy.clone(),
        }
    }

    /// Under which id the logs of agent and issuer have it, for whoever is asked about it.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Refused { request_id, .. } => Some(request_id.as_str()).filter(|id| !id.is_empty()),
            Self::NotRunning { .. }
            | Self::Forbidden { .. }
            | Self::Silent { .. }
            | Self::Broken { .. }
            | Self::Garbled { .. } => None,
        }
    }

    /// What an administrator of the cluster has to add to RBAC, as YAML of several lines; empty if that is not what lacks.
    pub fn rules(&self) -> &str {
        match self {
            Self::Refused { rules, .. } => rules,
            Self::NotRunning { .. }
            | Self::Forbidden { .. }
            | Self::Silent { .. }
            | Self::Broken { .. }
            | Self::Garbled { .. } => "",
        }
    }

    /// The exit code of a program that ends with it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } | Self::Silent { .. } => 4,
            Self::Forbidden { .. } => 3,
            Self::Broken { .. } | Self::Garbled { .. } => 1,
            Self::Refused { class, .. } => match class {
                ErrorClass::Unspecified | ErrorClass::Failure => 1,
                ErrorClass::Usage => 2,
                ErrorClass::Denied => 3,
                ErrorClass::Unreachable => 4,
                ErrorClass::LeaseEnded => 5,
            },
        }
    }
}

/// The agent behind a socket.
#[derive(Clone, Debug)]
pub struct Agent {
    socket: PathBuf,
    patience: Duration,
}

impl Agent {
    /// The agent at `SHOREPASS_SOCKET`, or at the usual place. Each call waits at most `patience`.
    pub fn from_environment(patience: Duration) -> Self {
        let named = std::env::var_os(SOCKET_VARIABLE).filter(|socket| !socket.is_empty());
        Self::at(named.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from), patience)
    }

    /// The agent at `socket`. Each call waits at most `patience`.
    pub fn at(socket: PathBuf, patience: Duration) -> Self {
        Self { socket, patience }
    }

    /// Where it is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A token of `role` for the API server and the job; an empty name is this user's default job.
    pub fn credential(&self, role: &str, job: &str) -> Result<Credential, AskError> {
        self.any_credential(role, job, false)
    }

    /// The same, for others than the API server.
    pub fn token(&self, role: &str, job: &str) -> Result<Credential, AskError> {
        self.any_credential(role, job, true)
    }

    fn any_credential(&self, role: &str, job: &str, for_others: bool) -> Result<Credential, AskError> {
        let question = CredentialRequest { role: role.to_owned(), job: job.to_owned(), for_others };
        match self.ask(Question::Credential(question))? {
            Answer::Credential(answer) => {
                let token = Zeroizing::new(answer.token);
                let valid_for = answer.valid_for.and_then(|life| u64::try_from(life.seconds).ok());
                let valid_for = valid_for.map(Duration::from_secs).ok_or_else(|| self.garbled())?;
                Ok(Credential { token, valid_for })
            }
            _ => Err(self.garbled()),
        }
    }

    /// How the agent is.
    pub fn status(&self) -> Result<StatusResponse, AskError> {
        match self.ask(Question::Status(StatusRequest {}))? {
            Answer::Status(status) => Ok(status),
            _ => Err(self.garbled()),
        }
    }

    /// Where tokens of `role` are used.
    pub fn role(&self, role: &str) -> Result<RoleResponse, AskError> {
        match self.ask(Question::Role(RoleRequest { role: role.to_owned() }))? {
            Answer::Role(role) => Ok(role),
            _ => Err(self.garbled()),
        }
    }

    /// Opens a session for the job with a token of its CI system.
    pub fn start_job(&self, job: &str, job_token: &str) -> Result<StartJobResponse, AskError> {
        let question = StartJobRequest { job: job.to_owned(), job_token: job_token.to_owned() };
        match self.ask(Question::StartJob(question))? {
            Answer::StartJob(started) => Ok(started),
            _ => Err(self.garbled()),
        }
    }

    /// Ends the job's session and gives its leases back.
    pub fn end_job(&self, job: &str) -> Result<EndJobResponse, AskError> {
        match self.ask(Question::EndJob(EndJobRequest { job: job.to_owned() }))? {
            Answer::EndJob(ended) => Ok(ended),
            _ => Err(self.garbled()),
        }
    }

    /// Makes the agent end all its jobs.
    pub fn leave(&self) -> Result<LeaveResponse, AskError> {
        match self.ask(Question::Leave(LeaveRequest {}))? {
            Answer::Leave(left) => Ok(left),
            _ => Err(self.garbled()),
        }
    }

    fn ask(&self, question: Question) -> Result<Answer, AskError> {
        let deadline = Instant::now() + self.patience;
        let mut stream = self.connect(deadline)?;
        let request = Zeroizing::new(Request { request: Some(question) }.encode_to_vec());
        let length = u32::try_from(request.len()).map_err(|_| self.garbled())?;
        let mut frame = Zeroizing::new(length.to_be_bytes().to_vec());
        frame.extend_from_slice(&request);
        self.within(deadline, &stream)?;
        stream.write_all(&frame).map_err(|source| self.lost(source))?;

        let mut length = [0; 4];
        self.read(&mut stream, &mut length, deadline)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| self.garbled())?;
        if length > MESSAGE_LIMIT {
            return Err(self.garbled());
        }
        let mut answer = Zeroizing::new(vec![0; length]);
        self.read(&mut stream, &mut answer, deadline)?;
        let answer = Response::decode(answer.as_slice()).map_err(|_| self.garbled())?;
        match answer.response.ok_or_else(|| self.garbled())? {
            Answer::Error(error) => Err(AskError::Refused {
                class: error.class(),
                message: error.message,
                remedy: error.remedy,
                request_id: error.request_id,
                rules: error.rules,
            }),
            answer => Ok(answer),
        }
    }

    /// Connects on a thread of its own: a connect to a Unix socket whose queue is full has no timeout.
    fn connect(&self, deadline: Instant) -> Result<UnixStream, AskError> {
        let (connected, outcome) = mpsc::channel();
        let socket = self.socket.clone();
        std::thread::spawn(move || connected.send(UnixStream::connect(socket)));
        match outcome.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(AskError::Forbidden { socket: self.socket.clone(), source })
            }
            Ok(Err(source)) => Err(AskError::NotRunning { socket: self.socket.clone(), source }),
            Err(_) => Err(self.silent()),
        }
    }

    fn read(
        &self,
        stream: &mut UnixStream,
        mut buffer: &mut [u8],
        deadline: Instant,
    ) -> Result<(), AskError> {
        while !buffer.is_empty() {
            self.within(deadline, stream)?;
            match stream.read(buffer) {
                Ok(0) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(())
    }

    /// Lets the next read or write wait until the deadline and no longer.
    fn within(&self, deadline: Instant, stream: &UnixStream) -> Result<(), AskError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.silent());
        }
        let both = stream.set_read_timeout(Some(left)).and_then(|()| stream.set_write_timeout(Some(left)));
        both.map_err(|source| self.lost(source))
    }

    fn lost(&self, source: io::Error) -> AskError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.silent(),
            _ => AskError::Broken { socket: self.socket.clone(), source },
        }
    }

    fn silent(&self) -> AskError {
        AskError::Silent { socket: self.socket.clone(), patience: self.patience }
    }

    fn garbled(&self) -> AskError {
        AskError::Garbled { socket: self.socket.clone() }
    }
}
