//! The record of what a walk did.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::trail::Trail;

use crate::breaker::State;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// It gave the answer.
    Success,
    /// The backend failed.
    Failure,
    /// The backend did not answer in time.
    Timeout,
    /// The backend refused the request.
    Rejected,
    /// The backend asked for patience.
    Overloaded,
    /// The backend is well and has no answer, like a cache without the entry.
    Miss,
    /// It was given up: another one that was made in parallel ended the walk, or the walk was given up itself.
    Cancelled,
    /// It was not made.
    Skipped(SkipReason),
}

impl AttemptOutcome {
    /// All outcomes.
    pub const ALL: &'static [Self] = &[
        Self::Success,
        Self::Failure,
        Self::Timeout,
        Self::Rejected,
        Self::Overloaded,
        Self::Miss,
        Self::Cancelled,
        Self::Skipped(SkipReason::Breaker),
        Self::Skipped(SkipReason::Deadline),
        Self::Skipped(SkipReason::Request),
        Self::Skipped(SkipReason::Bulkhead),
        Self::Skipped(SkipReason::Resting),
        Self::Skipped(SkipReason::Budget),
    ];

    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Rejected => "rejected",
            Self::Overloaded => "overloaded",
            Self::Miss => "miss",
            Self::Cancelled => "cancelled",
            Self::Skipped(SkipReason::Breaker) => "skipped_breaker",
            Self::Skipped(SkipReason::Deadline) => "skipped_deadline",
            Self::Skipped(SkipReason::Request) => "skipped_request",
            Self::Skipped(SkipReason::Bulkhead) => "skipped_bulkhead",
            Self::Skipped(SkipReason::Resting) => "skipped_resting",
            Self::Skipped(SkipReason::Budget) => "skipped_retry_budget",
        }
    }
}

/// Why no attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipReason {
    /// The backend's breaker did not admit it.
    Breaker,
    /// Too little of the deadline was left.
    Deadline,
    /// The request rules the tier out.
    Request,
    /// The tier's bulkhead was full, and stayed so for as long as a caller may wait.
    Bulkhead,
    /// The backend has asked to be left alone, and still wants it.
    Resting,
    /// It would have been a retry or a failover, and the chain's budget for those was spent.
    Budget,
}

/// Why a call was made that one turn for each backend does not explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExtraCall {
    /// A retry at once.
    AtOnce,
    /// A retry after a backoff.
    Backoff,
    /// A retry at the time that the backend had named.
    RetryAfter,
    /// A hedge: made in parallel to one that was slow.
    Hedge,
}

impl ExtraCall {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::AtOnce, Self::Backoff, Self::RetryAfter, Self::Hedge];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtOnce => "at_once",
            Self::Backoff => "backoff",
            Self::RetryAfter => "retry_after",
            Self::Hedge => "hedge",
        }
    }
}

/// One attempt at an answer, or the reason for making none. A retry is an attempt of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The tier.
    pub tier: Arc<str>,
    /// The backend. Empty when the tier was passed over as a whole.
    pub backend: Arc<str>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// The state of the breaker when the attempt was made or rejected. `None` where no breaker was asked.
    pub breaker_state: Option<State>,
    /// Its number among the walk's calls to this backend: 0 for the first, 1 for the first retry.
    pub retry: u32,
    /// Why it was made, where the walk alone does not explain it.
    pub extra: Option<ExtraCall>,
    /// When it began, counted from the arrival of the request.
    pub started_after: Duration,
    /// How long it took. For a stream: to its first content.
    pub took: Duration,
    /// What went wrong, in words, for the caller. Empty on success.
    pub detail: String,
    /// The same for logs, without anything that the backend said. Empty on success.
    pub cause: String,
}

impl Attempt {
    /// An attempt at this tier's backend that ended so: the first, at once, with no breaker and no words.
    pub fn new(tier: Arc<str>, backend: &str, outcome: AttemptOutcome) -> Self {
        Self {
            tier,
            backend: Arc::from(backend),
            outcome,
            breaker_state: None,
            retry: 0,
            extra: None,
            started_after: Duration::ZERO,
            took: Duration::ZERO,
            detail: String::new(),
            cause: String::new(),
        }
    }
}

/// An attempt under way, by its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun(u32);

#[derive(Debug)]
struct UnderWay {
    number: u32,
    attempt: Attempt,
    at: Instant,
}

/// The record of a walk. Dropped with the walk, it leaves what there is of it on the walk's trail.
#[derive(Debug)]
pub(super) struct AttemptLog<'a> {
    started: Instant,
    attempts: Vec<Attempt>,
    /// How many of them are an earlier walk's.
    earlier: usize,
    /// A call, and its hedge at most.
    under_way: Vec<UnderWay>,
    /// The number of the next one.
    next: u32,
    trail: Option<&'a Trail>,
}

impl<'a> AttemptLog<'a> {
    /// A record that goes on from that of an earlier walk.
    pub(super) fn new(started: Instant, mut attempts: Vec<Attempt>, trail: Option<&'a Trail>) -> Self {
        let earlier = attempts.len();
        attempts.reserve(4);
        Self { started, attempts, earlier, under_way: Vec::with_capacity(2), next: 0, trail }
    }

    /// The attempts of this walk so far.
    pub(super) fn own(&self) -> &[Attempt] {
        &self.attempts[self.earlier..]
    }

    pub(super) fn begin(
        &mut self,
        tier: &Arc<str>,
        backend: &str,
        breaker_state: Option<State>,
        retry: u32,
        extra: Option<ExtraCall>,
    ) -> Begun {
        let at = Instant::now();
        let attempt = Attempt {
            breaker_state,
            retry,
            extra,
            started_after: at.saturating_duration_since(self.started),
            ..Attempt::new(Arc::clone(tier), backend, AttemptOutcome::Success)
        };
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.under_way.push(UnderWay { number, attempt, at });
        Begun(number)
    }

    pub(super) fn succeed(&mut self, begun: Begun) -> Duration {
        self.end(begun, AttemptOutcome::Success, String::new(), String::new())
    }

    pub(super) fn end(
        &mut self,
        begun: Begun,
        outcome: AttemptOutcome,
        detail: String,
        cause: String,
    ) -> Duration {
        let Some(UnderWay { attempt, at, .. }) = self.ended(begun) else { return Duration::ZERO };
        let took = at.elapsed();
        self.attempts.push(Attempt { outcome, took, detail, cause, ..attempt });
        took
    }

    pub(super) fn skip(&mut self, begun: Begun, reason: SkipReason, detail: String) {
        let outcome = AttemptOutcome::Skipped(reason);
        let cause = detail.clone();
        let begun = self.ended(begun);
        self.attempts.extend(begun.map(|begun| Attempt { outcome, detail, cause, ..begun.attempt }));
    }

    fn ended(&mut self, begun: Begun) -> Option<UnderWay> {
        let place = self.under_way.iter().position(|under_way| under_way.number == begun.0)?;
        Some(self.under_way.remove(place))
    }

    pub(super) fn into_attempts(mut self) -> Vec<Attempt> {
        self.trail = None;
        std::mem::take(&mut self.attempts)
    }
}

impl Drop for AttemptLog<'_> {
    fn drop(&mut self) {
        let Some(trail) = self.trail else { return };
        let mut attempts = self.attempts.split_off(self.earlier);
        attempts.extend(self.under_way.drain(..).map(|UnderWay { attempt, at, .. }| {
            let words = "given up with the request".to_owned();
            let (outcome, took) = (AttemptOutcome::Cancelled, at.elapsed());
            Attempt { outcome, took, cause: words.clone(), detail: words, ..attempt }
        }));
        trail.leave(attempts);
    }
}
