//! Bodies of answers: whole ones, and those that a broken network or server sends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::Interval;

/// Between two bytes of a body that drips: never long enough for a limit on silence.
const DRIP: Duration = Duration::from_millis(200);
/// How much of an endless body comes at once.
const CHUNK: &[u8] = &[b' '; 64 * 1024];

/// The body of an answer.
pub(super) enum AnswerBody {
    /// As it should be; none when it was sent.
    Whole(Option<Bytes>),
    /// One byte after the other.
    Drip(Interval, Bytes),
    /// This, and then the connection breaks.
    Broken(Interval, Option<Bytes>),
    /// It never ends; counts what was sent.
    Endless(Arc<AtomicU64>),
}

impl AnswerBody {
    /// Sends it one byte after the other.
    pub(super) fn drip(bytes: Bytes) -> Self {
        Self::Drip(tokio::time::interval(DRIP), bytes)
    }

    /// Sends the first half of it.
    pub(super) fn broken(bytes: &Bytes) -> Self {
        let mut later = tokio::time::interval(DRIP);
        later.reset(); // what was sent first is on its way by then
        Self::Broken(later, Some(bytes.slice(..bytes.len() / 2)))
    }
}

impl From<Bytes> for AnswerBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let data = match self.get_mut() {
            Self::Whole(bytes) => bytes.take(),
            Self::Drip(_, bytes) if bytes.is_empty() => None,
            Self::Drip(interval, bytes) => {
                ready!(interval.poll_tick(context));
                Some(bytes.split_to(1))
            }
            Self::Broken(later, bytes) => match bytes.take() {
                Some(bytes) => Some(bytes),
                None => {
                    ready!(later.poll_tick(context));
                    return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
                }
            },
            Self::Endless(sent) => {
                sent.fetch_add(CHUNK.len() as u64, Ordering::Relaxed);
                Some(Bytes::from_static(CHUNK))
            }
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Drip(..) | Self::Broken(..) | Self::Endless(_) => SizeHint::default(),
        }
    }
}
