//! A streamed answer on its way to the client.
//!
//! What the call that began it holds, permit and slot, is settled here, by what becomes of the stream: see [`guard`].
//! When its backend breaks off, the agent's `mid_stream` policy decides. With `continue` the [`successors`] are asked, the
//! seam is [spliced](splice), and a `handover` says where the answer changed hands, just before the first thing that is
//! new. Whatever goes wrong on that way, nobody answering, a successor that says something else, the client is told what
//! broke its stream: the original error.
//!
//! Not everything can be gone on with. In the middle of a tool call or a refusal there is no seam that could be trusted, so
//! such an answer ends in the error. Reasoning is no part of the answer: it is not handed over, and a stream that broke off
//! before its first text simply begins anew. An answer whose form is enforced (JSON) is not given to a successor, whose
//! grammar would begin in its middle; only one that says the same again goes on with it.
//!
//! An answer that changed hands is not stored: nobody would choose a patchwork of two models to be given for a day.

mod delivered;
mod guard;
mod splice;
mod successors;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use aiplatform_proto::inference::v1::stream_chat_response::Event;
use aiplatform_proto::inference::v1::{
    HandoverMode, ServedBy, StreamChatResponse, StreamEnd, StreamHandover, StreamStart,
};
use futures_util::{Stream, stream};
use resilience::{Attempt, AttemptOutcome, CallError as _, CallGuard, Tier};
use service_kit::status::Reason;
use tonic::Status;
use tracing::{Instrument as _, Span, info, warn};

use super::convert;
use crate::answer::{Answer, AnswerStream, End, Origin, Piece, Pieces};
use crate::backend::Backend;
use crate::metrics::{ChainMetrics, Handover};
use crate::upstream::UpstreamError;
use delivered::Delivered;
use guard::StreamGuard;
use splice::{Splice, Spliced};
use successors::Successor;
pub(super) use successors::Successors;

/// What `StreamChat` returns.
pub(super) type ResponseStream = Pin<Box<dyn Stream<Item = Result<StreamChatResponse, Status>> + Send>>;

/// Told of the answer when it is whole.
pub(super) type OnWhole = Box<dyn FnOnce(&Answer) + Send>;

/// An answer that a tier has begun.
pub(super) struct Streamed {
    pub(super) tier: Arc<Tier<Backend>>,
    pub(super) answer: AnswerStream,
    pub(super) guard: Option<CallGuard>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) start: StreamStart,
    pub(super) metrics: ChainMetrics,
    pub(super) on_whole: OnWhole,
    /// Who may go on when it breaks off; `None` where that is to be an error.
    pub(super) successors: Option<Successors>,
}

impl Streamed {
    pub(super) fn into_stream(self) -> ResponseStream {
        let Self { tier, answer, guard, attempts, mut start, metrics, on_whole, successors } = self;
        let served_by = start.served_by.take().unwrap_or_default();
        let (first, leg) = Leg::new(tier, answer, guard, served_by.clone(), Splice::first(), metrics.clone());
        start.served_by = Some(served_by);
        let driver = Driver {
            ready: [Event::Start(start)].into(),
            next: Some(first),
            over: false,
            leg,
            delivered: Delivered::default(),
            attempts,
            broken: None,
            handovers: 0,
            malformed: 0,
            successors,
            metrics,
            on_whole: Some(on_whole),
            span: Span::current(),
        };
        Box::pin(stream::unfold(driver, |mut driver| async move {
            let event = driver.next().await?;
            Some((event.map(|event| StreamChatResponse { event: Some(event) }), driver))
        }))
    }
}

/// What one backend says of the answer.
struct Leg {
    tier: Arc<Tier<Backend>>,
    rest: Pieces,
    origin: Origin,
    guard: StreamGuard,
    served_by: ServedBy,
    splice: Splice,
    metrics: ChainMetrics,
}

impl Leg {
    /// The leg behind its first piece.
    fn new(
        tier: Arc<Tier<Backend>>,
        answer: AnswerStream,
        guard: Option<CallGuard>,
        served_by: ServedBy,
        splice: Splice,
        metrics: ChainMetrics,
    ) -> (Piece, Self) {
        let AnswerStream { first, rest, origin } = answer;
        let guard = StreamGuard::new(guard);
        (first, Self { tier, rest, origin, guard, served_by, splice, metrics })
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.metrics.malformed(&self.tier.name, self.rest.malformed_events());
    }
}

/// A backend that broke off, until another has gone on.
struct Broken {
    from: ServedBy,
    tier: Arc<str>,
    /// What the client is told when nobody goes on.
    error: Status,
}

struct Driver {
    /// Events for the client.
    ready: VecDeque<Event>,
    /// A piece that has come already.
    next: Option<Piece>,
    over: bool,
    leg: Leg,
    delivered: Delivered,
    attempts: Vec<Attempt>,
    broken: Option<Broken>,
    handovers: u32,
    /// Events that were passed over in the legs before this one.
    malformed: u32,
    successors: Option<Successors>,
    metrics: ChainMetrics,
    on_whole: Option<OnWhole>,
    span: Span,
}

impl Driver {
    async fn next(&mut self) -> Option<Result<Event, Status>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            let piece = match self.next.take() {
                Some(piece) => Ok(Some(piece)),
                None => self.leg.guard.waiting(self.leg.rest.next()).await,
            };
            let went_on = match piece {
                Ok(Some(Piece::Delta(delta))) => {
                    let spliced = self.leg.splice.take(delta);
                    self.deliver(spliced)
                }
                Ok(Some(Piece::End(end))) => self.end(end),
                Ok(None) => return None,
                Err(error) => self.broke_off(&error).await,
            };
            if let Err(status) = went_on {
                self.over = true;
                return Some(Err(status));
            }
        }
    }

    fn deliver(&mut self, spliced: Spliced) -> Result<(), Status> {
        match spliced {
            Spliced::Nothing => {}
            Spliced::New(delta) => {
                self.changed_hands();
                self.delivered.add(&delta);
                self.ready.push_back(Event::Delta(delta));
            }
            Spliced::Differs => return Err(self.differs()),
        }
        Ok(())
    }

    fn end(&mut self, end: End) -> Result<(), Status> {
        let End { finish_reason, usage, malformed_events, cold_start } = end;
        let malformed_events = malformed_events.saturating_add(self.malformed);
        let last = self.leg.splice.end();
        self.deliver(last)?;
        self.changed_hands();
        self.over = true;
        self.leg.guard.success(cold_start);
        let (billed, usage_estimated) = self.delivered.bill(usage, self.leg.splice.begins_anew());
        let message = self.delivered.take().into_message();
        // What was passed over may have been a piece of the answer: nobody else shall get it without.
        if malformed_events == 0
            && self.handovers == 0
            && let Some(on_whole) = self.on_whole.take()
        {
            on_whole(&Answer { message, finish_reason, usage, origin: self.leg.origin.clone() });
        }
        self.ready.push_back(Event::End(StreamEnd {
            finish_reason: finish_reason.into(),
            usage: billed,
            served_by: Some(self.leg.served_by.clone()),
            attempts: convert::attempts(&self.attempts),
            malformed_events,
            usage_estimated,
        }));
        Ok(())
    }

    /// Says that another goes on, when one does, before the first thing that it adds.
    fn changed_hands(&mut self) {
        let Some(Broken { from, tier, .. }) = self.broken.take() else { return };
        let (mode, result) = if self.leg.splice.begins_anew() {
            (HandoverMode::Regenerated, Handover::Regenerated)
        } else {
            (HandoverMode::Prefix, Handover::Prefix)
        };
        self.metrics.handover(&tier, result);
        self.handovers += 1;
        let delivered_bytes = u64::try_from(self.delivered.bytes()).unwrap_or(u64::MAX);
        self.span.in_scope(|| {
            let to = &*self.leg.tier.name;
            info!(from = &*tier, to, delivered_bytes, mode = mode.as_str_name(), "stream changed hands");
        });
        self.ready.push_back(Event::Handover(StreamHandover {
            from: Some(from),
            served_by: Some(self.leg.served_by.clone()),
            mode: mode.into(),
            delivered_bytes,
            attempts: convert::attempts(&self.attempts),
        }));
    }

    /// The backend failed. Finds another that goes on, where that is wanted.
    async fn broke_off(&mut self, error: &UpstreamError) -> Result<(), Status> {
        self.leg.guard.failure();
        self.metrics.interrupted(&self.leg.tier.name);
        let status = self.interrupted(error);
        self.malformed = self.malformed.saturating_add(self.leg.rest.malformed_events());
        self.delivered.broke_off(self.leg.rest.usage().filter(|_| !self.leg.splice.begins_anew()));
        // One that failed before it had said anything new leaves the stream as broken as it was.
        let broken = self.broken.take().unwrap_or_else(|| Broken {
            from: self.leg.served_by.clone(),
            tier: Arc::clone(&self.leg.tier.name),
            error: status,
        });
        if let Some(answered) = self.attempts.last_mut() {
            let bytes = self.delivered.bytes();
            answered.outcome = AttemptOutcome::Failure;
            answered.detail = format!("broke off after {bytes} bytes of the answer: {error}");
            answered.cause = format!("broke off: {}", error.cause());
        }
        let span = self.span.clone();
        let Some(successor) = self.successor().instrument(span).await else {
            if self.successors.is_some() {
                self.metrics.handover(&broken.tier, Handover::Failed);
            }
            return Err(broken.error);
        };
        self.broken = Some(broken);
        self.take_over(successor);
        Ok(())
    }

    async fn successor(&mut self) -> Option<Successor> {
        let successors = self.successors.as_ref()?;
        if !self.delivered.is_text() {
            return None;
        }
        let earlier = self.attempts.len();
        let (said, tokens) = (self.delivered.text(), self.delivered.tokens());
        let tier = &self.leg.tier.name;
        let successor = successors.next(tier, said, tokens, &mut self.attempts, &self.metrics).await;
        self.metrics.count(self.attempts.get(earlier..).unwrap_or_default());
        successor
    }

    fn take_over(&mut self, successor: Successor) {
        let Successor { tier, answer, guard, given_prefix } = successor;
        let said = self.delivered.text();
        let splice = if given_prefix { Splice::going_on(said) } else { Splice::beginning_anew(said) };
        let served_by = self.attempts.last().map(|last| convert::served_by(&tier, last, &answer.origin));
        let served_by = served_by.unwrap_or_default();
        let (first, leg) = Leg::new(tier, answer, guard, served_by, splice, self.metrics.clone());
        (self.leg, self.next) = (leg, Some(first));
    }

    /// The successor gives another answer. It did its work: its guard is dropped as that of a stream given up.
    fn differs(&mut self) -> Status {
        let tier = Arc::clone(&self.leg.tier.name);
        self.span.in_scope(|| {
            warn!(tier = &*tier, "a successor's answer is another: the stream ends in its first error");
        });
        match self.broken.take() {
            Some(broken) => {
                self.metrics.handover(&broken.tier, Handover::Failed);
                broken.error
            }
            // Only a successor's answer is compared with anything.
            None => self.interrupted(&UpstreamError::Interrupted("the answer is another".into())),
        }
    }

    fn interrupted(&self, error: &UpstreamError) -> Status {
        let (tier, delivered) = (&*self.leg.tier.name, self.delivered.bytes());
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
