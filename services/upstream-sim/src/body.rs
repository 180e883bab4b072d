//! The body of an answer as a script: what to send, when, and how it breaks.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::attempts::{AttemptGuard, End};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sends bytes that hold content of the answer.
    Chunk(Bytes),
    /// Sends bytes around the content.
    Frame(Bytes),
    /// Sends the same bytes many times.
    Repeat { bytes: Bytes, times: u64, content: bool },
    /// Waits, counted from the end of the wait before, so that a pace does not drift.
    Wait(Duration),
    /// Hands what was sent to the socket before the next step.
    Flush,
    /// Never goes on.
    Silence,
    /// Breaks the connection.
    Cut,
}

/// A body that plays its steps and tells its attempt how it ended.
#[derive(Debug)]
pub(crate) struct ScriptBody {
    steps: VecDeque<Step>,
    length: Option<u64>,
    end: End,
    attempt: Option<AttemptGuard>,
    waited_until: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// The error that breaks the connection of a body that was cut.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut, as a fault demanded")]
pub(crate) struct CutShort;

impl ScriptBody {
    /// A whole body that belongs to no attempt.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = bytes.len() as u64;
        let steps = if bytes.is_empty() { VecDeque::new() } else { [Step::Frame(bytes)].into() };
        Self::new(steps, Some(length), End::Completed, None)
    }

    /// A body that plays `steps` for an attempt, which ends as `end` when it has played them all.
    pub(crate) fn script(steps: VecDeque<Step>, end: End, attempt: AttemptGuard) -> Self {
        Self::new(steps, None, end, Some(attempt))
    }

    /// A body that promises a length, which its steps need not keep.
    pub(crate) fn promising(length: u64, steps: VecDeque<Step>, end: End, attempt: AttemptGuard) -> Self {
        Self::new(steps, Some(length), end, Some(attempt))
    }

    fn new(steps: VecDeque<Step>, length: Option<u64>, end: End, attempt: Option<AttemptGuard>) -> Self {
        let mut body = Self { steps, length, end, attempt, waited_until: None, sleep: None };
        if body.steps.is_empty() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(mut attempt) = self.attempt.take() {
            attempt.end(self.end);
        }
    }

    fn send(&mut self, bytes: Bytes, content: bool) -> Frame<Bytes> {
        if content && let Some(attempt) = &self.attempt {
            attempt.chunk_sent();
        }
        // A consumer that knows the length does not ask for the end.
        if self.steps.is_empty() {
            self.finish();
        }
        Frame::data(bytes)
    }
}

impl Body for ScriptBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = self.get_mut();
        loop {
            if let Some(sleep) = this.sleep.as_mut() {
                ready!(sleep.as_mut().poll(cx));
                this.sleep = None;
            }
            let Some(step) = this.steps.pop_front() else {
                this.finish();
                return Poll::Ready(None);
            };
            match step {
                Step::Chunk(bytes) => return Poll::Ready(Some(Ok(this.send(bytes, true)))),
                Step::Frame(bytes) => return Poll::Ready(Some(Ok(this.send(bytes, false)))),
                Step::Repeat { bytes, times, content } => {
                    if times == 0 {
                        continue;
                    }
                    if times > 1 {
                        let left = Step::Repeat { bytes: bytes.clone(), times: times - 1, content };
                        this.steps.push_front(left);
                    }
                    return Poll::Ready(Some(Ok(this.send(bytes, content))));
                }
                Step::Wait(duration) => {
                    let until = this.waited_until.unwrap_or_else(Instant::now) + duration;
                    this.waited_until = Some(until);
                    this.sleep = Some(Box::pin(sleep_until(until)));
                }
                Step::Flush => {
                    // The connection flushes when its body has nothing ready.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Silence => {
                    // Nothing wakes it: the connection drops it when the client leaves.
                    this.steps.push_front(Step::Silence);
                    return Poll::Pending;
                }
                Step::Cut => {
                    this.finish();
                    return Poll::Ready(Some(Err(CutShort)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.sleep.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
