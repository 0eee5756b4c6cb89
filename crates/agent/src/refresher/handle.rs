//! How to ask the refresher, and what it tells. No decisions here.

use std::time::Duration;

use shorepass_core::id::{CallId, LeaseId};
use shorepass_core::job_token::JobToken;
use shorepass_proto::local::v1::ErrorClass;
use tokio::sync::{mpsc, oneshot, watch};

use crate::entry::{Lent, Waiting};
use crate::follow::Ended;
use crate::issuer::{Denial, IssuerError, Started};
use crate::leave::GivenBack;
use crate::session::{JobKey, Key};

use super::jobs::{Ending, Opening};

/// How to ask the task.
#[derive(Clone)]
pub struct Handle {
    pub(super) questions: mpsc::Sender<Question>,
    pub(super) kept: watch::Receiver<Vec<LeaseId>>,
}

/// What the agent keeps.
#[derive(Debug, Default)]
pub struct Overview {
    /// One for each (user, job, role).
    pub leases: Vec<Kept>,
    /// Why the issuer gave nothing the last time it was called; none when it answered.
    pub outage: Option<String>,
}

/// One of them.
#[derive(Debug)]
pub struct Kept {
    /// For whom and what.
    pub key: Key,
    /// The lease; none when the last attempt gave none.
    pub lease: Option<LeaseId>,
    /// The current token's `jti`; empty where there is none.
    pub token_id: String,
    /// How long the current token may be used from now.
    pub valid_for: Duration,
    /// What is wrong, in words; empty when all is well.
    pub problem: String,
    /// Whether all that is wrong is that the job asked for a role that it may not have.
    pub denied: bool,
    /// Whether nothing ends its tokens before they expire.
    pub unbound: bool,
}

impl Handle {
    /// A token to use now. At once where one is held; else as soon as the issuer has answered. A call to the issuer that
    /// this causes goes under `id`.
    pub async fn credential(&self, key: Key, id: CallId) -> Result<Lent, Denial> {
        let (answer, answered) = oneshot::channel();
        let asked = self.questions.send(Question::Credential { key, asker: Waiting { id, answer } }).await;
        asked.map_err(|_| stopping())?;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// The call to the issuer that is out for a token; none where there is none, or the agent is stopping.
    pub async fn call_out(&self, key: Key) -> Option<CallId> {
        let (answer, answered) = oneshot::channel();
        let _ = self.questions.send(Question::CallOut { key, answer }).await;
        answered.await.unwrap_or_default()
    }

    /// What the agent keeps. Empty when it is stopping.
    pub async fn overview(&self) -> Overview {
        let (answer, answered) = oneshot::channel();
        // A task that has ended drops the question, and then there is no answer.
        let _ = self.questions.send(Question::Overview { answer }).await;
        answered.await.unwrap_or_default()
    }

    /// Opens a session for a job with a token of its CI system. What was under the job's name before is over then.
    pub async fn start_job(&self, key: JobKey, token: JobToken, id: CallId) -> Result<Started, Denial> {
        let (answer, answered) = oneshot::channel();
        self.tell(Question::StartJob(Opening::new(key, token, id, answer))).await;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Ends the session of a job; gives how many leases ended with it.
    pub async fn end_job(&self, key: JobKey, id: CallId) -> Result<usize, Denial> {
        let (answer, answered) = oneshot::channel();
        self.tell(Question::EndJob(Ending::new(key, id, answer))).await;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Wipes all tokens and ends all jobs, with calls under `id`. None when the agent is stopping.
    pub async fn leave(&self, id: CallId) -> Option<GivenBack> {
        let (answer, answered) = oneshot::channel();
        let _ = self.questions.send(Question::Leave { id, answer }).await;
        answered.await.ok()
    }
}

impl Handle {
    /// The leases that are kept, as they change.
    pub(crate) fn kept(&self) -> watch::Receiver<Vec<LeaseId>> {
        self.kept.clone()
    }

    /// A lease has ended, as `call` told.
    pub(crate) async fn ended(&self, ended: Ended, call: CallId) {
        self.tell(Question::Ended { ended, call }).await;
    }

    /// The issuer does not know this lease as ours.
    pub(crate) async fn unavailable(&self, lease: LeaseId, call: CallId) {
        self.tell(Question::Unavailable { lease, call }).await;
    }

    /// The role of this lease was changed.
    pub(crate) async fn role_changed(&self, lease: LeaseId) {
        self.tell(Question::RoleChanged { lease }).await;
    }

    /// The issuer has acknowledged a heartbeat for these leases that was sent then, on the boot-time clock.
    pub(crate) async fn heard(&self, leases: Vec<LeaseId>, sent: Duration) {
        self.tell(Question::Heard { leases, sent }).await;
    }

    /// The issuer serves this agent no more.
    pub(crate) async fn shut_out(&self, error: IssuerError, call: CallId) {
        self.tell(Question::ShutOut { error, call }).await;
    }

    /// A task that has ended needs no telling.
    async fn tell(&self, question: Question) {
        let _ = self.questions.send(question).await;
    }
}

fn stopping() -> Denial {
    Denial::new(ErrorClass::Unreachable, "the agent is stopping", "try again when it runs")
}

/// What is asked of the task, or told.
pub(super) enum Question {
    Credential { key: Key, asker: Waiting },
    CallOut { key: Key, answer: oneshot::Sender<Option<CallId>> },
    Overview { answer: oneshot::Sender<Overview> },
    Leave { id: CallId, answer: oneshot::Sender<GivenBack> },
    StartJob(Opening),
    EndJob(Ending),
    Ended { ended: Ended, call: CallId },
    Unavailable { lease: LeaseId, call: CallId },
    RoleChanged { lease: LeaseId },
    Heard { leases: Vec<LeaseId>, sent: Duration },
    ShutOut { error: IssuerError, call: CallId },
}
