//! How to ask the refresher, and what it tells. No decisions here.

use std::time::Duration;

use shorepass_core::id::{CallId, LeaseId};
use shorepass_proto::local::v1::ErrorClass;
use tokio::sync::{mpsc, oneshot};

use crate::entry::{Lent, Waiting};
use crate::issuer::Denial;
use crate::leave::GivenBack;
use crate::session::Key;

/// How to ask the task.
#[derive(Clone)]
pub struct Handle(pub(super) mpsc::Sender<Question>);

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
}

impl Handle {
    /// A token to use now. At once where one is held; else as soon as the issuer has answered. A call to the issuer that
    /// this causes goes under `id`.
    pub async fn credential(&self, key: Key, id: CallId) -> Result<Lent, Denial> {
        let (answer, answered) = oneshot::channel();
        let asked = self.0.send(Question::Credential { key, asker: Waiting { id, answer } }).await;
        let stopping = || Denial {
            class: ErrorClass::Unreachable,
            message: "the agent is stopping".to_owned(),
            remedy: "try again when it runs".to_owned(),
            call: None,
        };
        asked.map_err(|_| stopping())?;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// The call to the issuer that is out for a token; none where there is none, or the agent is stopping.
    pub async fn call_out(&self, key: Key) -> Option<CallId> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Question::CallOut { key, answer }).await;
        answered.await.unwrap_or_default()
    }

    /// What the agent keeps. Empty when it is stopping.
    pub async fn overview(&self) -> Overview {
        let (answer, answered) = oneshot::channel();
        // A task that has ended drops the question, and then there is no answer.
        let _ = self.0.send(Question::Overview { answer }).await;
        answered.await.unwrap_or_default()
    }

    /// Wipes all tokens and ends all jobs, with calls under `id`. None when the agent is stopping.
    pub async fn leave(&self, id: CallId) -> Option<GivenBack> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Question::Leave { id, answer }).await;
        answered.await.ok()
    }
}

/// What is asked of the task.
pub(super) enum Question {
    Credential { key: Key, asker: Waiting },
    CallOut { key: Key, answer: oneshot::Sender<Option<CallId>> },
    Overview { answer: oneshot::Sender<Overview> },
    Leave { id: CallId, answer: oneshot::Sender<GivenBack> },
}
