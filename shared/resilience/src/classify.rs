//! What the end of a call means.
//!
//! One [`Verdict`] answers the three who want to know: the backend's breaker (is it ill?), the record (what shall be
//! shown?) and the caller (ask whom next, and when?). They are kept apart because they differ. Too many requests, for
//! instance, is no failure of the backend and yet no answer; a refused request is final, yet says nothing about health.
//! Whether the same backend may be asked again is separate from all of that and from any status code.
//!
//! Two ways lead to a verdict. An error that knows its own meaning implements [`CallError`]; the fallback chain wants
//! that. A [`Classify`] judges a whole `Result`, for callers that see failure in an answer, such as an HTTP 503; the
//! `tower` layers want that. [`ByError`] makes the second from the first.

use std::fmt;
use std::time::Duration;

use crate::breaker::{CallReport, Outcome};
use crate::chain::AttemptOutcome;

/// What the end of a call means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct Verdict {
    /// For the backend's breaker: success, failure, or to be ignored.
    pub breaker: Outcome,
    /// For the record.
    pub outcome: AttemptOutcome,
    /// For the walk along a chain, when the same backend is not, or no longer, asked again.
    pub next: Next,
    /// Whether, and how, the same backend may be asked again. A retry policy decides whether it is.
    pub retry: Retry,
    /// How long the backend wants to be left alone, in its own words (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl Verdict {
    /// It answered.
    pub const SUCCESS: Self = Self::new(Outcome::Success, AttemptOutcome::Success, Next::Stop);

    /// The backend failed: the next backend's turn.
    pub const FAILURE: Self = Self::new(Outcome::Failure, AttemptOutcome::Failure, Next::Backend);

    /// The backend failed in passing, as with a broken connection: it may be asked again.
    pub const TRANSIENT: Self = Self::FAILURE.retryable();

    /// The backend did not answer in time: a failure, and the next backend's turn. Not asked for again: the time that
    /// a second wait would take is better spent elsewhere.
    pub const TIMEOUT: Self = Self::new(Outcome::Failure, AttemptOutcome::Timeout, Next::Backend);

    /// The backend did not answer in a time that was too short to blame it.
    pub const HURRIED: Self = Self::new(Outcome::Ignored, AttemptOutcome::Timeout, Next::Backend);

    /// The backend rightly refused the request: no one's failure, and every backend would say the same.
    pub const REJECTED: Self = Self::new(Outcome::Ignored, AttemptOutcome::Rejected, Next::Stop);

    /// A verdict that asks for no retry.
    pub const fn new(breaker: Outcome, outcome: AttemptOutcome, next: Next) -> Self {
        Self { breaker, outcome, next, retry: Retry::Never, retry_after: None }
    }

    /// The backend has too much to do, and wants to be left alone for `retry_after`. Saturation is not death: the
    /// breaker ignores it.
    pub const fn overloaded(retry_after: Option<Duration>) -> Self {
        Self::new(Outcome::Ignored, AttemptOutcome::Overloaded, Next::Backend).with_retry_after(retry_after)
    }

    /// The same, and the same backend may be asked again, each time after a longer wait.
    pub const fn retryable(self) -> Self {
        self.retried(Retry::Backoff)
    }

    /// The same, and the same backend may be asked again in this way.
    pub const fn retried(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The same, and the walk goes on there.
    pub const fn followed_by(mut self, next: Next) -> Self {
        self.next = next;
        self
    }

    /// The same, and the backend wants to be left alone for this long.
    pub const fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }
}

impl From<Verdict> for CallReport {
    fn from(verdict: Verdict) -> Self {
        let report = Self::new(verdict.breaker);
        verdict.retry_after.map_or(report, |wait| report.retry_after(wait))
    }
}

/// How the same backend may be asked again. Where it has named a time itself ([`Verdict::retry_after`]), not before that, and
/// then after a backoff all the same, so that not all who were told the same time come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Not at all: it would say the same, or has cost too much time already.
    Never,
    /// Once, and at once: what broke was on the way to the backend, and cost it nothing.
    AtOnce,
    /// Once, after a wait: it failed at its work, and may do so again for the same reason.
    Once,
    /// As often as the policy allows, each time after a longer wait: it had no room.
    Backoff,
}

/// Where a walk goes after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// To the tier's next backend, or to the next tier when there is none.
    Backend,
    /// To the next tier: this tier's other backends would say the same.
    Tier,
    /// To the next tier that is known to take larger requests ([`Capacity`](crate::Capacity)), and nowhere when there is
    /// none.
    Larger,
    /// Nowhere: every tier would say the same.
    Stop,
}

/// An error that knows what it means.
pub trait CallError: fmt::Display {
    /// What it means for the breaker, for the record, and for the walk.
    fn verdict(&self) -> Verdict;

    /// What went wrong, for logs: nothing in it was said by the backend, which may quote the request. By default the
    /// error's own words.
    fn cause(&self) -> String {
        self.to_string()
    }
}

/// Judges the end of a call, answers included. Every closure from `&Result<T, E>` to [`Verdict`] is one.
///
/// ```
/// use resilience::{Classify, Verdict};
///
/// // A status of 500 or more is a failure that may pass.
/// let classify = |result: &Result<u16, std::io::Error>| match result {
///     Ok(500..) | Err(_) => Verdict::TRANSIENT,
///     Ok(_) => Verdict::SUCCESS,
/// };
/// assert_eq!(classify.classify(&Ok(503)), Verdict::TRANSIENT);
/// ```
pub trait Classify<T, E> {
    /// What this end of a call means.
    fn classify(&self, result: &Result<T, E>) -> Verdict;
}

impl<T, E, F: Fn(&Result<T, E>) -> Verdict> Classify<T, E> for F {
    fn classify(&self, result: &Result<T, E>) -> Verdict {
        self(result)
    }
}

/// Every answer is a success; an error means what it says itself, by [`CallError`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByError;

impl<T, E: CallError> Classify<T, E> for ByError {
    fn classify(&self, result: &Result<T, E>) -> Verdict {
        result.as_ref().map_or_else(CallError::verdict, |_| Verdict::SUCCESS)
    }
}

/// Every answer is a success, and every error means the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorsAre(pub Verdict);

impl<T, E> Classify<T, E> for ErrorsAre {
    fn classify(&self, result: &Result<T, E>) -> Verdict {
        if result.is_ok() { Verdict::SUCCESS } else { self.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Busy;

    impl fmt::Display for Busy {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("busy")
        }
    }

    impl CallError for Busy {
        fn verdict(&self) -> Verdict {
            Verdict::overloaded(Some(Duration::from_secs(2)))
        }
    }

    #[test]
    fn an_error_that_knows_its_meaning_classifies_a_result() {
        let verdict = ByError.classify(&Err::<(), _>(Busy));
        assert_eq!((verdict.breaker, verdict.outcome), (Outcome::Ignored, AttemptOutcome::Overloaded));
        assert_eq!((verdict.retry, verdict.retry_after), (Retry::Never, Some(Duration::from_secs(2))));
        assert_eq!(ByError.classify(&Ok::<_, Busy>(())), Verdict::SUCCESS);
    }

    #[test]
    fn one_verdict_can_stand_for_every_error() {
        let classify = ErrorsAre(Verdict::TRANSIENT);
        assert_eq!(classify.classify(&Err::<(), _>(1)), Verdict::TRANSIENT);
        assert_eq!(classify.classify(&Ok::<_, u8>(())), Verdict::SUCCESS);
    }

    #[test]
    fn an_answer_can_be_a_failure() {
        let classify = |result: &Result<u16, ()>| match result {
            Ok(500..) => Verdict::FAILURE,
            Ok(_) | Err(()) => Verdict::SUCCESS,
        };
        assert_eq!(classify.classify(&Ok(503)), Verdict::FAILURE);
        assert_eq!(classify.classify(&Ok(200)), Verdict::SUCCESS);
    }
}
