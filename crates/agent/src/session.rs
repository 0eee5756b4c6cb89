//! What the agent remembers across restarts: jobs, leases, request ids. Never a token.
//!
//! `sessions.json` is written before a request is sent, so that an agent that was killed asks again under the same id
//! and gets the same job or lease. A file that cannot be read is put aside and costs leases, not service: it is no
//! authority for anything.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shorepass_core::id::{JobId, LeaseId, RequestId};
use shorepass_core::job::{AssertedJob, AssertedJobError};
use shorepass_core::name::Name;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The version of the file's form.
const VERSION: u32 = 1;

/// How a default job is called, before the uid.
const DEFAULT_JOB: &str = "default:";

/// A job of a user on this runner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobKey {
    uid: u32,
    name: String,
}

/// Why a text does not name a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobNameError {
    /// Not a name.
    #[error("the job's name {0}")]
    Malformed(&'static str),
    /// The name of a default job.
    #[error("the job's name begins with {DEFAULT_JOB:?}, which is kept for users without a job's name")]
    Reserved,
}

impl JobKey {
    /// The job that the user names; the user's default job where it names none.
    pub fn parse(uid: u32, name: &str) -> Result<Self, JobNameError> {
        let default = format!("{DEFAULT_JOB}{uid}");
        if name.is_empty() || name == default {
            return Ok(Self { uid, name: default });
        }
        if name.starts_with(DEFAULT_JOB) {
            return Err(JobNameError::Reserved);
        }
        let key = Self { uid, name: name.to_owned() };
        // Any system does to find out whether the name will pass.
        match key.asserted("local") {
            Ok(_) => Ok(key),
            Err(error) => Err(JobNameError::Malformed(error.problem)),
        }
    }

    /// Whose it is.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// The job's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As it is recorded.
    pub(crate) fn record(&self) -> JobRecord {
        let Self { uid, name } = self.clone();
        JobRecord { uid, name, request: None, id: None, opening: None, by_token: None, leases: Vec::new() }
    }

    /// What the agent tells the issuer about it.
    pub(crate) fn asserted(&self, system: &str) -> Result<AssertedJob, AssertedJobError> {
        AssertedJob::new(system.to_owned(), self.name.clone(), String::new())
    }
}

/// What a token is held for: every input of the request for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The job.
    pub job: JobKey,
    /// The role.
    pub role: Name,
}

/// The content of `sessions.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sessions {
    version: u32,
    pub(crate) jobs: Vec<JobRecord>,
}

/// A job that was opened, or is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobRecord {
    pub(crate) uid: u32,
    pub(crate) name: String,
    /// The id of a StartJob that was not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<JobId>,
    /// A StartJob with a token that was not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) opening: Option<Unanswered>,
    /// Where a token opened the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by_token: Option<ByToken>,
    pub(crate) leases: Vec<LeaseRecord>,
}

/// A StartJob with a token that may have opened a session. With the same token it is sent again under the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unanswered {
    pub(crate) request: RequestId,
    /// When it was sent first, in seconds of Unix time.
    pub(crate) sent: i64,
}

/// A session that a token opened. The token is spent: nothing opens the session again when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByToken {
    /// When it ends by itself, in seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ends: Option<i64>,
}

/// A lease that was issued, or is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaseRecord {
    pub(crate) role: Name,
    /// The id of an Issue that was not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<LeaseId>,
}

impl Sessions {
    pub(crate) fn of(jobs: Vec<JobRecord>) -> Self {
        Self { version: VERSION, jobs }
    }

    /// Reads the file. One that is damaged is put aside, and there are no sessions then.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::of(Vec::new())),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(sessions) if sessions.version == VERSION => return Ok(sessions),
            Ok(sessions) => warn!(version = sessions.version, "sessions of another version are put aside"),
            Err(error) => warn!(%error, "damaged sessions are put aside; their leases end by themselves"),
        }
        std::fs::rename(path, path.with_extension("json.damaged"))?;
        Ok(Self::of(Vec::new()))
    }

    /// Forgets all: they belong to an earlier enrolment, which is another owner.
    pub(crate) fn forget(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Ok(()) => info!("sessions of an earlier enrolment are forgotten"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(crate) fn store(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        shorepass_files::replace(path, &text)
    }
}

#[derive(Clone, Debug, Default)]
struct Tried {
    version: u64,
    problem: Option<String>,
}

/// Hands sessions to the task that writes them. Only the newest is written.
pub(crate) struct Recorder {
    newest: watch::Sender<(u64, Sessions)>,
    tried: watch::Receiver<Tried>,
}

/// Waits until what was recorded is durable.
pub(crate) struct Recording {
    version: u64,
    tried: watch::Receiver<Tried>,
}

/// Writes sessions until `stop`, and what is left then.
pub(crate) struct Writer {
    path: PathBuf,
    newest: watch::Receiver<(u64, Sessions)>,
    tried: watch::Sender<Tried>,
}

/// A recorder and the writer behind it. `stored` is what the file holds.
pub(crate) fn recorder(path: PathBuf, stored: Sessions) -> (Recorder, Writer) {
    let (newest_sender, newest) = watch::channel((0, stored));
    let (tried_sender, tried) = watch::channel(Tried::default());
    (Recorder { newest: newest_sender, tried }, Writer { path, newest, tried: tried_sender })
}

impl Recorder {
    /// Has the sessions written.
    pub(crate) fn record(&self, sessions: Sessions) -> Recording {
        self.newest.send_if_modified(|newest| {
            let changed = newest.1 != sessions || self.tried.borrow().problem.is_some();
            if changed {
                *newest = (newest.0 + 1, sessions);
            }
            changed
        });
        Recording { version: self.newest.borrow().0, tried: self.tried.clone() }
    }
}

impl Recording {
    /// Says why not, where it is not.
    pub(crate) async fn durable(mut self) -> Result<(), String> {
        match self.tried.wait_for(|tried| tried.version >= self.version).await {
            Ok(tried) => tried.problem.clone().map_or(Ok(()), Err),
            Err(_) => Err("the agent is stopping".to_owned()),
        }
    }
}

impl Writer {
    /// The task.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let more = tokio::select! {
                biased;
                changed = self.newest.changed() => changed.is_ok(),
                () = stop.cancelled() => false,
            };
            if !more {
                return;
            }
            let (version, sessions) = self.newest.borrow_and_update().clone();
            let path = self.path.clone();
            let written = tokio::task::spawn_blocking(move || sessions.store(&path)).await;
            let problem = match written {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = &problem {
                warn!(path = %self.path.display(), problem, "cannot write the sessions: no new lease until it works");
            }
            self.tried.send_replace(Tried { version, problem });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(uid: u32) -> Sessions {
        Sessions::of(vec![JobKey::parse(uid, "").unwrap().record()])
    }

    #[test]
    fn a_job_has_the_name_it_is_given_or_its_users() {
        assert_eq!(JobKey::parse(7, "").unwrap().name(), "default:7");
        assert_eq!(JobKey::parse(7, "default:7"), JobKey::parse(7, ""));
        assert_eq!(JobKey::parse(7, "build-1").unwrap().name(), "build-1");
        assert_ne!(JobKey::parse(7, "build-1"), JobKey::parse(8, "build-1"));
    }

    #[test]
    fn other_names_are_refused() {
        assert_eq!(JobKey::parse(7, "default:8"), Err(JobNameError::Reserved));
        for bad in ["a b", "a\n", "ä", &"a".repeat(201)] {
            assert!(matches!(JobKey::parse(7, bad), Err(JobNameError::Malformed(_))), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn what_is_durable_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.json");
        let (recorder, writer) = recorder(path.clone(), Sessions::of(Vec::new()));
        let stop = CancellationToken::new();
        let task = tokio::spawn(writer.run(stop.clone()));
        recorder.record(sessions(1)).durable().await.unwrap();
        recorder.record(sessions(2)).durable().await.unwrap();
        recorder.record(sessions(2)).durable().await.unwrap();
        assert_eq!(Sessions::load(&path).unwrap(), sessions(2));
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_said_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later/sessions.json");
        let (recorder, writer) = recorder(path.clone(), Sessions::of(Vec::new()));
        tokio::spawn(writer.run(CancellationToken::new()));
        recorder.record(sessions(1)).durable().await.unwrap_err();
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        recorder.record(sessions(1)).durable().await.unwrap();
    }

    #[test]
    fn damaged_sessions_are_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.json");
        for damaged in ["{", r#"{"version":2,"jobs":[]}"#, r#"{"version":1,"jobs":[],"token":"x"}"#] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Sessions::load(&path).unwrap(), Sessions::of(Vec::new()));
            assert_eq!(std::fs::read_to_string(path.with_extension("json.damaged")).unwrap(), damaged);
        }
    }
}
