//! The streamed answer of Watch.
//!
//! A stream may stay open for as long as its connection: it ends with a word to come back when the connection reaches its
//! age or the issuer shuts down, without a word when its caller hangs up or takes nothing, and with the refusal when the
//! caller's certificate, enrolment or standing ends. That is asked before every message and every few seconds. Nothing is
//! kept for a caller that does not listen but what the feed's queue and one channel hold.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shorepass_core::caller::{Caller, SpiffeId};
use shorepass_proto::v1;
use shorepass_proto::v1::watch_response::Event;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{Instrument as _, debug};

use crate::api::Enrolments;
use crate::convert::{answers, following};
use crate::follow::{Beat, Following, Notices};
use crate::limits::Limits;
use crate::middleware::check_certificate;
use crate::refused::{Reason, Refused};
use crate::services::Work;
use crate::status::label;

/// Messages that wait for the connection.
const QUEUE: usize = 16;
/// When to open the next stream because a connection has its age: every connection at a moment of its own.
const AFTER_AGE: Duration = Duration::from_secs(1);
/// The same, because the issuer shuts down: all at once.
const AFTER_SHUTDOWN: Duration = Duration::from_secs(5);
/// When a caller with too many streams may try again.
const AFTER_TOO_MANY: Duration = Duration::from_secs(10);

type Message = Result<v1::WatchResponse, Status>;

/// What the caller is told.
pub(crate) type Told = Pin<Box<dyn Stream<Item = Message> + Send>>;

/// The end of a connection, as a stream on it learns of it.
#[derive(Clone, Debug)]
pub(crate) struct Leaving {
    /// It has reached its age, or the issuer shuts down.
    pub(crate) retiring: CancellationToken,
    /// The issuer shuts down.
    pub(crate) shutdown: CancellationToken,
}

/// How many streams each caller has open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<Mutex<HashMap<SpiffeId, usize>>>);

struct Place {
    places: Places,
    caller: SpiffeId,
}

impl Places {
    fn take(&self, caller: &Caller, most: usize) -> Result<Place, Refused> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(caller.spiffe_id().clone()).or_default();
        if *count >= most {
            let message =
                format!("this caller has {most} streams of Watch open, which is the limit; close one");
            return Err(Refused::new(Reason::RateLimited, message).retry(AFTER_TOO_MANY));
        }
        *count += 1;
        metrics::gauge!("shorepass_watches").increment(1.0);
        Ok(Place { places: self.clone(), caller: caller.spiffe_id().clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        metrics::gauge!("shorepass_watches").decrement(1.0);
        if let Some(count) = open.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.caller);
            }
        }
    }
}

/// Who watches, and where.
pub(crate) struct Watcher {
    pub(crate) caller: Arc<Caller>,
    pub(crate) enrolments: Arc<dyn Enrolments>,
    pub(crate) limits: Limits,
    pub(crate) work: Work,
    pub(crate) leaving: Leaving,
}

/// Opens a stream; one that is refused as a whole has none.
pub(crate) async fn start(
    following: Arc<dyn Following>,
    beat: Beat,
    places: &Places,
    watcher: Watcher,
) -> Result<Told, Status> {
    let place = places.take(&watcher.caller, watcher.limits.watches_per_caller)?;
    let notices = following.watch(&watcher.caller, beat).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let tasks = watcher.work.tasks.clone();
    tasks.spawn(watcher.run(notices, sender, place).in_current_span());
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

impl Watcher {
    async fn run(self, mut notices: Box<dyn Notices>, sender: mpsc::Sender<Message>, _place: Place) {
        let mut sequence = 0;
        let mut look = interval(self.limits.watch_check);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = tokio::time::Instant::now();
        loop {
            let message = tokio::select! {
                () = sender.closed() => return,
                () = self.leaving.retiring.cancelled() => {
                    let event = Some(self.come_back());
                    let _ = sender.try_send(Ok(v1::WatchResponse { sequence, event }));
                    return;
                }
                notice = notices.next() => following::notice(notice, &mut sequence),
                _ = look.tick() => {
                    let due = said.elapsed() >= self.limits.watch_alive;
                    v1::WatchResponse { sequence, event: due.then_some(Event::StillHere(v1::StillHere {})) }
                }
            };
            if let Err(refused) = self.check() {
                let status = Status::from(refused);
                debug!(reason = label(&status), "a stream of Watch is closed");
                let _ = sender.try_send(Err(status));
                return;
            }
            if message.event.is_none() {
                continue;
            }
            let last = matches!(message.event, Some(Event::ComeBack(_)));
            said = tokio::time::Instant::now();
            if !matches!(timeout(self.limits.stream_idle, sender.send(Ok(message))).await, Ok(Ok(()))) || last
            {
                return;
            }
        }
    }

    fn come_back(&self) -> Event {
        let within = if self.leaving.shutdown.is_cancelled() { AFTER_SHUTDOWN } else { AFTER_AGE };
        Event::ComeBack(v1::ComeBack { within: Some(answers::duration(within)) })
    }

    fn check(&self) -> Result<(), Refused> {
        check_certificate(&self.caller, self.work.now())?;
        self.enrolments.check_enrolment(&self.caller)
    }
}
