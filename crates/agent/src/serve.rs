//! Putting the agent together. No rules here: who does what is decided in the parts.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shorepass_config::AgentConfig;
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::id::CallId;
use shorepass_core::time::{Clock, Entropy};
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_daemon::shutdown::{Tasks, UnexpectedEnd, on_signals, survive_file_size_limit};
use shorepass_exec::{Agent, AskError};
use shorepass_tls::{IdentityFile, IdentityFileError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use crate::identity::EnrolError;
pub use crate::place::PlaceError;
pub use crate::private::PrivateError;

use crate::follow::Follower;
use crate::identity::{Enrolment as _, Keeper, Standing, TicketSource};
use crate::issuer::Denial;
use crate::leave::give_back;
use crate::place::Place;
use crate::private::StateDirectory;
use crate::refresher::{Parts, Refresher};
use crate::remote::{Address, Remote};
use crate::roles::Roles;
use crate::session::{self, Sessions};
use crate::socket::{self, Access, Server};

/// For tasks to end after a signal.
const GRACE: Duration = Duration::from_secs(5);

/// For a running agent to give everything back.
const LEAVE_PATIENCE: Duration = Duration::from_secs(70);

/// Why the agent does not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state directory is unfit.
    #[error("cannot use the state directory")]
    State(#[source] PrivateError),
    /// The identity is unfit.
    #[error("cannot load the identity")]
    Identity(#[source] IdentityFileError),
    /// The identity is another runner's.
    #[error("{} is the identity of {found}, and the config says {expected}; correct the config, or move the file away and enrol again", path.display())]
    OtherIdentity {
        /// Its file.
        path: PathBuf,
        /// Whose it is.
        found: Box<SpiffeId>,
        /// Who we are.
        expected: Box<SpiffeId>,
    },
    /// The sessions cannot be read.
    #[error("cannot use {}; it must be a file that this user may read and replace; mend that, or move it away: jobs then get new leases", path.display())]
    Sessions {
        /// Their file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// There is no socket.
    #[error("cannot serve local jobs")]
    Place(#[source] PlaceError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
    /// There is no identity and there will be none.
    #[error("this runner is not enrolled")]
    Enrol(#[source] EnrolError),
    /// A task ended.
    #[error("the agent stopped")]
    Task(#[source] UnexpectedEnd),
    /// The running agent did not give everything back.
    #[error("{source}; {}{}", source.remedy(), under(source.request_id()))]
    Leave {
        /// What it said.
        source: AskError,
    },
    /// Not everything was given back.
    #[error("not everything was given back: {}; {}{}", .0.message, .0.remedy, under(.0.call.as_ref()))]
    Kept(Denial),
}

impl AgentError {
    /// The exit code that fits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Enrol(error) => error.exit_code(),
            Self::Leave { source } => source.exit_code(),
            Self::Kept(_) => 4,
            Self::State(_)
            | Self::Identity(_)
            | Self::OtherIdentity { .. }
            | Self::Sessions { .. }
            | Self::Place(_)
            | Self::Signals(_)
            | Self::Task(_) => 1,
        }
    }
}

/// The end of a sentence about a request.
fn under(id: Option<impl Display>) -> String {
    id.map_or_else(String::new, |id| format!(" (request {id})"))
}

/// What was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// How many jobs were ended.
    pub jobs: usize,
    /// How many leases ended with them.
    pub leases: usize,
}

/// Serves until SIGTERM or SIGINT. Leases are not released then.
pub async fn serve(config: AgentConfig) -> Result<(), AgentError> {
    survive_file_size_limit().map_err(AgentError::Signals)?;
    let stop = on_signals().map_err(AgentError::Signals)?;
    let opened = Opened::of(&config)?;
    let place = Place::bind(&config.socket).await.map_err(AgentError::Place)?;
    let Opened { state: _state, keeper, identity, remote, sessions, sessions_path, standing } = opened;
    let (clock, entropy) = system();
    let (recorder, writer) = session::recorder(sessions_path, sessions.clone());
    let parts = Parts {
        issuer: remote.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        job_system: config.job_system.clone(),
        max_age: config.refresh_max_age,
    };
    let (refresher, handle) = Refresher::new(parts, sessions, recorder);
    let follower = Follower::new(remote.clone(), handle.clone(), clock.clone(), entropy.clone());
    let own = rustix::process::geteuid().as_raw();
    let server = Arc::new(Server {
        access: Access { users: config.job_users.clone(), own },
        handle,
        roles: Roles::new(remote, clock.clone()),
        issuer_address: config.issuer.api.to_string(),
        standing,
        follow: follower.status.clone(),
        clock,
        entropy,
    });
    if config.job_users.is_empty() {
        warn!("no user gets tokens: list uids under jobs.users in the config");
    }
    info!(socket = %config.socket.display(), runner = %config.name, "serving local jobs");

    let failed = Arc::new(OnceLock::new());
    let mut tasks = Tasks::new(stop.clone());
    // The writer is stopped by the end of the refresher, so that nothing that was recorded is lost.
    tasks.spawn("sessions", writer.run(CancellationToken::new()));
    tasks.spawn("refresher", refresher.run(stop.clone()));
    tasks.spawn("heartbeats", follower.clone().send_heartbeats(stop.clone()));
    tasks.spawn("ends", follower.listen(stop.clone()));
    tasks.spawn("identity", keep(keeper, identity, failed.clone(), stop.clone()));
    let short = tasks.short();
    tasks.spawn("socket", async move { socket::serve(&place.listener, server, short, stop).await });
    let ended = tasks.run(GRACE).await;
    match Arc::into_inner(failed).and_then(OnceLock::into_inner) {
        Some(error) => Err(AgentError::Enrol(error)),
        None => ended.map_err(AgentError::Task),
    }
}

/// Gives everything back: through the agent that runs, or in its place.
pub async fn leave(config: AgentConfig) -> Result<Left, AgentError> {
    let agent = Agent::at(config.socket.clone(), LEAVE_PATIENCE);
    let asked = tokio::task::spawn_blocking(move || agent.leave()).await;
    match asked.expect("asking does not panic, and nothing aborts it") {
        Ok(left) => return Ok(Left { jobs: left.jobs as usize, leases: left.leases as usize }),
        Err(AskError::NotRunning { .. }) => {}
        Err(source) => return Err(AgentError::Leave { source }),
    }
    let opened = Opened::of(&config)?;
    if opened.identity.is_none() {
        return Ok(Left { jobs: 0, leases: 0 });
    }
    let (clock, entropy) = system();
    let call = CallId::generate(clock.now(), &*entropy);
    let given_back = give_back(&*opened.remote, &call, &config.job_system, opened.sessions.jobs).await;
    let path = opened.sessions_path;
    let kept = Sessions::of(given_back.kept);
    kept.store(&path).map_err(|source| AgentError::Sessions { path, source })?;
    match given_back.problem {
        Some(problem) => Err(AgentError::Kept(problem)),
        None => Ok(Left { jobs: given_back.jobs, leases: given_back.leases }),
    }
}

/// The state directory, locked, and what is in it.
struct Opened {
    state: StateDirectory,
    keeper: Keeper,
    identity: Option<shorepass_tls::Identity>,
    remote: Arc<Remote>,
    sessions: Sessions,
    sessions_path: PathBuf,
    standing: watch::Receiver<Standing>,
}

impl Opened {
    fn of(config: &AgentConfig) -> Result<Self, AgentError> {
        let state = StateDirectory::open(&config.state_directory).map_err(AgentError::State)?;
        let spiffe = |kind, name: &shorepass_core::name::Name| SpiffeId {
            trust_domain: config.trust_domain.clone(),
            kind,
            name: name.clone(),
        };
        let expected = spiffe(Kind::Runner, &config.name);
        let file = IdentityFile::new(state.file("identity.pem"));
        let identity = file.load().map_err(AgentError::Identity)?;
        if let Some(found) =
            identity.as_ref().map(|identity| identity.spiffe_id()).filter(|id| **id != expected)
        {
            let (path, found) = (file.path().to_owned(), Box::new(found.clone()));
            return Err(AgentError::OtherIdentity { path, found, expected: Box::new(expected) });
        }
        let sessions_path = state.file("sessions.json");
        let sessions = load_sessions(&sessions_path, identity.is_some())
            .map_err(|source| AgentError::Sessions { path: sessions_path.clone(), source })?;
        let standing = identity.as_ref().map(Standing::of).unwrap_or_default();
        let (standing_sender, standing) = watch::channel(standing);
        let address = Address {
            issuer: spiffe(Kind::Issuer, &config.issuer.name),
            api: config.issuer.api.to_string(),
            enroll: config.issuer.enroll.to_string(),
        };
        let (clock, entropy) = system();
        let remote = Arc::new(Remote::new(
            address,
            config.name.clone(),
            clock.clone(),
            entropy.clone(),
            standing.clone(),
        ));
        // Before anybody asks: a refresh that is due at the start must not find an agent without identity.
        if let Some(identity) = &identity {
            remote.adopt(identity);
        }
        let keeper = Keeper {
            spiffe_id: expected,
            ticket: TicketSource::of(config),
            file,
            enrolment: remote.clone(),
            clock,
            entropy,
            standing: standing_sender,
        };
        Ok(Self { state, keeper, identity, remote, sessions, sessions_path, standing })
    }
}

/// Sessions without an identity are an earlier enrolment's, which is another owner.
fn load_sessions(path: &Path, enrolled: bool) -> std::io::Result<Sessions> {
    if !enrolled {
        Sessions::forget(path)?;
    }
    Sessions::load(path)
}

fn system() -> (Arc<dyn Clock>, Arc<dyn Entropy>) {
    (Arc::new(SystemClock), Arc::new(SystemEntropy))
}

/// Stops the agent where it cannot get an identity.
async fn keep(
    keeper: Keeper,
    identity: Option<shorepass_tls::Identity>,
    failed: Arc<OnceLock<EnrolError>>,
    stop: CancellationToken,
) {
    tokio::select! {
        error = keeper.run(identity) => {
            // Set once: this task ends here.
            let _ = failed.set(error);
            stop.cancel();
        }
        () = stop.cancelled() => {}
    }
}
