//! The streamed answer of RevokeLeases.
//!
//! The revocation runs in a task of its own and never waits for its watcher longer than one idle limit: an operator who
//! hangs up, stalls, or whose certificate ends meanwhile, loses the view of it and nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::caller::Caller;
use shorepass_proto::v1;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use tracing::{Instrument as _, error, warn};

use crate::api::{Administration, Enrolments, Revocation, RevokeStep};
use crate::convert::answers;
use crate::middleware::{check_certificate, internal};
use crate::refused::Refused;
use crate::services::Work;
use crate::status::label;

/// How long the head of the answer waits for the first step; well below the time that a call has.
const FIRST_STEP: Duration = Duration::from_secs(4);

/// Steps that may wait on either side of the conversion.
const QUEUE: usize = 64;

type Step = Result<v1::RevokeLeasesResponse, Status>;

/// The steps as the operator sees them.
pub(crate) type Steps = Pin<Box<dyn Stream<Item = Step> + Send>>;

/// Who watches, and for how long without a word.
pub(crate) struct Watch {
    pub(crate) caller: Arc<Caller>,
    pub(crate) enrolments: Arc<dyn Enrolments>,
    pub(crate) idle: Duration,
    pub(crate) work: Work,
}

/// Begins, and waits for the first step, but not for long: a revocation that is refused as a whole has no stream.
pub(crate) async fn start(
    administration: Arc<dyn Administration>,
    revocation: Revocation,
    watch: Watch,
) -> Result<Steps, Status> {
    let (sender, mut answer) = mpsc::channel(QUEUE);
    let tasks = watch.work.tasks.clone();
    tasks.spawn(run(administration, revocation, watch, sender).in_current_span());
    match timeout(FIRST_STEP, answer.recv()).await {
        Ok(Some(Err(status))) => Err(status),
        Ok(Some(Ok(first))) => Ok(Box::pin(tokio_stream::once(Ok(first)).chain(ReceiverStream::new(answer)))),
        Ok(None) => Ok(Box::pin(tokio_stream::empty())),
        // It goes on, and what comes of it is told on the stream: a cluster that hangs is no reason to say nothing.
        Err(_) => Ok(Box::pin(ReceiverStream::new(answer))),
    }
}

async fn run(
    administration: Arc<dyn Administration>,
    revocation: Revocation,
    watch: Watch,
    sender: mpsc::Sender<Step>,
) {
    let (steps, received) = mpsc::channel(QUEUE);
    let caller = watch.caller.clone();
    let revoke = async move { administration.revoke(&caller, revocation, steps).await };
    let revoke = watch.work.tasks.spawn(revoke.in_current_span());
    let mut watcher = Watcher { watch, sender: Some(sender) };
    watcher.follow(received).await;
    match revoke.await {
        Ok(Ok(())) => {}
        Ok(Err(refused)) => watcher.tell(Err(refused.into())).await,
        Err(_) => {
            error!("a revocation panicked");
            watcher.tell(Err(internal())).await;
        }
    }
}

struct Watcher {
    watch: Watch,
    /// None once it is gone.
    sender: Option<mpsc::Sender<Step>>,
}

impl Watcher {
    /// Until the revocation has nothing more to say.
    async fn follow(&mut self, mut steps: mpsc::Receiver<Result<RevokeStep, Refused>>) {
        while self.sender.is_some() {
            match timeout(self.watch.idle, steps.recv()).await {
                Ok(Some(step)) => self.tell(self.view(step)).await,
                Ok(None) => return,
                Err(_) => {
                    let late = "the revocation goes on, but took too long to watch: list the leases";
                    self.tell(Err(Status::deadline_exceeded(late))).await;
                }
            }
        }
        while steps.recv().await.is_some() {}
    }

    /// The caller is checked again for every message.
    fn view(&self, step: Result<RevokeStep, Refused>) -> Step {
        let now = self.watch.work.now();
        check_certificate(&self.watch.caller, now)?;
        self.watch.enrolments.check_enrolment(&self.watch.caller)?;
        Ok(answers::revoke_step(step?, now))
    }

    /// An error is the last that it hears.
    async fn tell(&mut self, step: Step) {
        let Some(sender) = self.sender.take() else { return };
        let last = step.is_err();
        if let Err(status) = &step {
            warn!(reason = label(status), "a watched revocation broke off");
        }
        let delivered = matches!(timeout(self.watch.idle, sender.send(step)).await, Ok(Ok(())));
        if delivered && !last {
            self.sender = Some(sender);
        }
    }
}
