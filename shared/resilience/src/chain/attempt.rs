//! The record of what a walk did.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::breaker::{Outcome, State};

/// What an error means.
pub trait CallError: fmt::Display {
    /// What it means for the breaker, for the record, and for the walk.
    fn verdict(&self) -> Verdict;

    /// What went wrong, for logs: nothing in it was said by the backend, which may quote the request. By default the
    /// error's own words.
    fn cause(&self) -> String {
        self.to_string()
    }

    /// When the backend wants to be asked again, if it said so.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// What the end of a call means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// For the backend's breaker.
    pub breaker: Outcome,
    /// For the record.
    pub outcome: AttemptOutcome,
    /// For the walk.
    pub next: Next,
}

impl Verdict {
    /// The backend did not answer in time: a failure, and the next backend's turn.
    pub const TIMEOUT: Self =
        Self { breaker: Outcome::Failure, outcome: AttemptOutcome::Timeout, next: Next::Backend };

    /// The backend did not answer in a time that was too short to blame it.
    pub const HURRIED: Self = Self { breaker: Outcome::Ignored, ..Self::TIMEOUT };
}

/// Where the walk goes after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To the tier's next backend, or to the next tier when there is none.
    Backend,
    /// To the next tier: this tier's other backends would say the same.
    Tier,
    /// Nowhere: every tier would say the same.
    Stop,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// It was not made.
    Skipped(SkipReason),
}

impl AttemptOutcome {
    /// All outcomes.
    pub const ALL: [Self; 9] = [
        Self::Success,
        Self::Failure,
        Self::Timeout,
        Self::Rejected,
        Self::Overloaded,
        Self::Miss,
        Self::Skipped(SkipReason::Breaker),
        Self::Skipped(SkipReason::Deadline),
        Self::Skipped(SkipReason::Request),
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
            Self::Skipped(SkipReason::Breaker) => "skipped_breaker",
            Self::Skipped(SkipReason::Deadline) => "skipped_deadline",
            Self::Skipped(SkipReason::Request) => "skipped_request",
        }
    }
}

/// Why no attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The backend's breaker did not admit it.
    Breaker,
    /// Too little of the deadline was left.
    Deadline,
    /// The request rules the tier out.
    Request,
}

/// One attempt at an answer, or the reason for making none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The tier.
    pub tier: Arc<str>,
    /// The backend. Empty when the tier was passed over as a whole.
    pub backend: Arc<str>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// The state of the breaker when the attempt was made or rejected. `None` where no breaker was asked.
    pub breaker_state: Option<State>,
    /// When it began, counted from the arrival of the request.
    pub started_after: Duration,
    /// How long it took. For a stream: to its first content.
    pub took: Duration,
    /// What went wrong, in words, for the caller. Empty on success.
    pub detail: String,
    /// The same for logs, without anything that the backend said. Empty on success.
    pub cause: String,
}

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Begun {
    attempt: Attempt,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct AttemptLog {
    started: Instant,
    attempts: Vec<Attempt>,
}

impl AttemptLog {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, attempts: Vec::with_capacity(4) }
    }

    pub(super) fn begin(&self, tier: &Arc<str>, backend: &str, breaker_state: Option<State>) -> Begun {
        let at = Instant::now();
        let attempt = Attempt {
            tier: Arc::clone(tier),
            backend: Arc::from(backend),
            outcome: AttemptOutcome::Success,
            breaker_state,
            started_after: at.saturating_duration_since(self.started),
            took: Duration::ZERO,
            detail: String::new(),
            cause: String::new(),
        };
        Begun { attempt, at }
    }

    pub(super) fn end(
        &mut self,
        begun: Begun,
        outcome: AttemptOutcome,
        detail: String,
        cause: String,
    ) -> Duration {
        let took = begun.at.elapsed();
        self.attempts.push(Attempt { outcome, took, detail, cause, ..begun.attempt });
        took
    }

    pub(super) fn skip(
        &mut self,
        tier: &Arc<str>,
        backend: &str,
        breaker_state: Option<State>,
        reason: SkipReason,
        detail: String,
    ) {
        let begun = self.begin(tier, backend, breaker_state);
        let outcome = AttemptOutcome::Skipped(reason);
        let cause = detail.clone();
        self.attempts.push(Attempt { outcome, detail, cause, ..begun.attempt });
    }

    pub(super) fn into_attempts(self) -> Vec<Attempt> {
        self.attempts
    }
}
