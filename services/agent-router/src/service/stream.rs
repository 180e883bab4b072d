//! A streamed answer on its way to the client.
//!
//! What the call that began it holds, permit and slot, is settled here, by what becomes of the stream: its end is a success, an error
//! or a silence a failure, and one that is given up is judged by [`StreamGuard`].

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aiplatform_proto::inference::v1::stream_chat_response::Event;
use aiplatform_proto::inference::v1::{StreamChatResponse, StreamDelta, StreamEnd, StreamStart};
use futures_util::{Stream, stream};
use resilience::{CallError as _, CallGuard};
use service_kit::status::Reason;
use tokio::time::Instant;
use tonic::Status;
use tracing::{Span, warn};

use crate::answer::{Answer, AnswerStream, Collector, End, Origin, Piece, Pieces};
use crate::metrics::ChainMetrics;
use crate::upstream::UpstreamError;

/// What `StreamChat` returns.
pub(super) type ResponseStream = Pin<Box<dyn Stream<Item = Result<StreamChatResponse, Status>> + Send>>;

/// Told of the answer when it is whole.
pub(super) type OnWhole = Box<dyn FnOnce(&Answer) + Send>;

/// An answer that a tier has begun.
pub(super) struct Streamed {
    pub(super) tier: Arc<str>,
    pub(super) answer: AnswerStream,
    pub(super) guard: Option<CallGuard>,
    pub(super) start: StreamStart,
    pub(super) metrics: ChainMetrics,
    pub(super) on_whole: OnWhole,
}

impl Streamed {
    pub(super) fn into_stream(self) -> ResponseStream {
        let AnswerStream { first, rest, origin } = self.answer;
        let driver = Driver {
            tier: self.tier,
            state: Progress::Start { first },
            rest,
            origin,
            guard: StreamGuard { guard: self.guard, waiting_since: None },
            start: self.start,
            collected: Collector::default(),
            metrics: self.metrics,
            on_whole: Some(self.on_whole),
            span: Span::current(),
        };
        Box::pin(stream::unfold(driver, |mut driver| async move {
            let event = driver.next().await?;
            Some((event, driver))
        }))
    }
}

enum Progress {
    Start { first: Piece },
    First { first: Piece },
    Going,
    Over,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.metrics.malformed(&self.tier, self.rest.malformed_events());
    }
}

struct Driver {
    tier: Arc<str>,
    state: Progress,
    rest: Pieces,
    origin: Origin,
    guard: StreamGuard,
    start: StreamStart,
    collected: Collector,
    metrics: ChainMetrics,
    on_whole: Option<OnWhole>,
    span: Span,
}

impl Driver {
    async fn next(&mut self) -> Option<Result<StreamChatResponse, Status>> {
        let piece = match std::mem::replace(&mut self.state, Progress::Going) {
            Progress::Start { first } => {
                self.state = Progress::First { first };
                return Some(Ok(event(Event::Start(self.start.clone()))));
            }
            Progress::First { first } => first,
            Progress::Going => match self.wait().await {
                Ok(Some(piece)) => piece,
                Ok(None) => return None,
                Err(error) => {
                    self.state = Progress::Over;
                    return Some(Err(self.interrupted(&error)));
                }
            },
            Progress::Over => {
                self.state = Progress::Over;
                return None;
            }
        };
        Some(Ok(match piece {
            Piece::Delta(delta) => self.delta(delta),
            Piece::End(end) => self.end(end),
        }))
    }

    async fn wait(&mut self) -> Result<Option<Piece>, UpstreamError> {
        self.guard.waiting_since = Some(Instant::now());
        let piece = self.rest.next().await;
        self.guard.waiting_since = None;
        piece
    }

    fn delta(&mut self, delta: StreamDelta) -> StreamChatResponse {
        self.collected.add(&delta);
        event(Event::Delta(delta))
    }

    fn end(&mut self, end: End) -> StreamChatResponse {
        let End { finish_reason, usage, malformed_events } = end;
        self.state = Progress::Over;
        self.guard.success();
        let message = std::mem::take(&mut self.collected).into_message();
        // What was passed over may have been a piece of the answer: nobody else shall get it without.
        if malformed_events == 0
            && let Some(on_whole) = self.on_whole.take()
        {
            on_whole(&Answer { message, finish_reason, usage, origin: self.origin.clone() });
        }
        event(Event::End(StreamEnd {
            finish_reason: finish_reason.into(),
            usage,
            served_by: self.start.served_by.clone(),
            attempts: self.start.attempts.clone(),
            malformed_events,
        }))
    }

    fn interrupted(&mut self, error: &UpstreamError) -> Status {
        self.guard.failure();
        self.metrics.interrupted(&self.tier);
        let delivered = self.collected.len();
        let tier = &*self.tier;
        self.span.in_scope(|| {
            warn!(tier, delivered_bytes = delivered, cause = error.cause(), "stream interrupted");
        });
        Reason::StreamInterrupted
            .status(format!("tier `{tier}` stopped after {delivered} bytes of its answer: {error}"))
            .with("tier", tier)
            .with("delivered_bytes", delivered.to_string())
            .build()
    }
}

/// How long the upstream may have been silent for a stream that is given up to count as a success.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a stream that has begun holds. When the stream is given up, because the client has gone, the deadline has
/// passed or the process ends, the backend has done its work so far: a success. But when the backend had fallen silent,
/// nobody knows, and it counts for nothing, so that a backend that stalls is not called well by those who lose patience.
struct StreamGuard {
    guard: Option<CallGuard>,
    waiting_since: Option<Instant>,
}

impl StreamGuard {
    fn success(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.success();
        }
    }

    fn failure(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.failure();
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let silent = self.waiting_since.is_some_and(|since| since.elapsed() > PATIENCE);
        if silent
            && !std::thread::panicking()
            && let Some(guard) = self.guard.take()
        {
            guard.ignored();
        }
    }
}

fn event(event: Event) -> StreamChatResponse {
    StreamChatResponse { event: Some(event) }
}
