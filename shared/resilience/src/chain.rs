//! The fallback chain: ordered tiers, walked within one deadline until one of them answers.
//!
//! A tier is a pool of equivalent backends. Within a tier a failed backend is followed by the next (*failover*); when
//! none is left, the next tier has its turn (*fallback*). What an error means for both the breaker and the walk is the
//! error's own knowledge: see [`CallError`].
//!
//! The chain owns the timeouts. A call that is cut off by its tier's own limit counts as a failure of its backend. One
//! that a hurried client's deadline left less than half of that limit does not, and with less than the tier's minimum none
//! is made: a timeout that a healthy backend could not have kept says nothing about the backend, and a few impatient
//! clients must not take it away from everybody.

mod attempt;
mod stats;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::breaker::{CallNotPermitted, CircuitBreaker, Permit, State};
use crate::deadline::Deadline;
use attempt::AttemptLog;
pub use attempt::{Attempt, AttemptOutcome, CallError, Next, SkipReason, Verdict};
pub use stats::{ChainStats, LatencyQuantiles, TierStats};
use stats::{Recorder, WalkGuard};

/// Something that can be called, and its guard.
pub trait Backend: Send + Sync + 'static {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// The breaker that guards it. `None` for a backend that cannot fail, such as a fixed message.
    fn breaker(&self) -> Option<&CircuitBreaker>;
}

/// One step of a chain.
#[derive(Debug)]
pub struct Tier<B> {
    /// Its name, unique in the chain.
    pub name: Arc<str>,
    /// The longest that a unary call may take. `None`: the deadline alone limits it.
    pub timeout: Option<Duration>,
    /// The longest that a streamed call may take to its first content. `None`: the deadline alone limits it.
    pub first_item_timeout: Option<Duration>,
    /// The shortest time worth trying. With less, the tier is passed over.
    pub minimum: Duration,
    /// What earlier tiers leave of the deadline for this one.
    pub reserve: Duration,
    /// Its backends, in the order in which they are tried.
    pub backends: Vec<Arc<B>>,
}

impl<B: Backend> Tier<B> {
    /// The longest that a call may take; for a stream, to its first content.
    fn limit(&self, streaming: bool) -> Option<Duration> {
        if streaming { self.first_item_timeout } else { self.timeout }
    }

    /// The breakers of its backends.
    pub fn breakers(&self) -> impl Iterator<Item = &CircuitBreaker> {
        self.backends.iter().filter_map(|backend| backend.breaker())
    }
}

/// What one walk asks of the chain.
pub struct Walk<'a, B> {
    /// When the answer must be there.
    pub deadline: Deadline,
    /// When the request arrived: attempts are timed from here.
    pub started: Instant,
    /// Whether the answer is a stream: then [`Tier::first_item_timeout`] applies.
    pub streaming: bool,
    /// The rule by which the request itself rules a tier out, with the reason in words.
    pub exclude: &'a (dyn Fn(&Tier<B>) -> Option<&'static str> + Send + Sync),
}

impl<B> fmt::Debug for Walk<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk")
            .field("deadline", &self.deadline)
            .field("streaming", &self.streaming)
            .finish_non_exhaustive()
    }
}

/// An answer, and how it came about.
#[derive(Debug)]
pub struct Served<A> {
    /// The answer.
    pub answer: A,
    /// The position in the chain of the tier that gave it.
    pub tier: usize,
    /// Every attempt, the one that answered last.
    pub attempts: Vec<Attempt>,
    /// The permit of the call, still open. For a stream: to be settled at its end.
    pub permit: Option<Permit>,
}

/// No answer.
#[derive(Debug, Error)]
pub enum ChainError<E> {
    /// A backend's error ended the walk: no other backend would do better.
    #[error("the request was refused")]
    Stopped {
        /// The backend's error.
        #[source]
        error: E,
        /// Every attempt.
        attempts: Vec<Attempt>,
    },
    /// No tier answered.
    #[error("no tier answered")]
    Exhausted {
        /// Every attempt.
        attempts: Vec<Attempt>,
        /// When the first of the open breakers admits a probe, or of the overloaded backends wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The deadline passed, or left too little for the tiers that had not been tried.
    #[error("the deadline passed")]
    DeadlineExceeded {
        /// Every attempt.
        attempts: Vec<Attempt>,
    },
}

/// Ordered tiers.
#[derive(Debug)]
pub struct FallbackChain<B> {
    tiers: Vec<Arc<Tier<B>>>,
    recorder: Recorder,
}

impl<B: Backend> FallbackChain<B> {
    /// A chain of these tiers, tried in this order.
    pub fn new(tiers: Vec<Arc<Tier<B>>>) -> Self {
        let recorder = Recorder::new(tiers.iter().map(|tier| Arc::clone(&tier.name)));
        Self { tiers, recorder }
    }

    /// The tiers, in order.
    pub fn tiers(&self) -> &[Arc<Tier<B>>] {
        &self.tiers
    }

    /// How the tiers did since the chain was made.
    pub fn stats(&self) -> ChainStats {
        self.recorder.stats()
    }

    /// Walks the chain for an answer that is whole when `call` returns: its permit is settled as a success.
    ///
    /// # Errors
    /// No tier answered, or one refused the request for good.
    pub async fn run<A, E, F, Fut>(&self, walk: Walk<'_, B>, call: F) -> Result<Served<A>, ChainError<E>>
    where
        E: CallError,
        F: Fn(Arc<B>, Deadline) -> Fut,
        Fut: Future<Output = Result<A, E>>,
    {
        let mut served = self.open(walk, call).await?;
        if let Some(permit) = served.permit.take() {
            permit.success();
        }
        Ok(served)
    }

    /// Walks the chain for an answer that has only begun when `call` returns: its permit is handed over, to be settled
    /// when the answer ends.
    ///
    /// A probe has passed when it brought the first content. Its stream may go on for minutes, and holding the breaker
    /// half-open all that time would keep everybody else from a backend that is well; so the probe is settled, and the
    /// stream goes on with a permit like any other.
    ///
    /// # Errors
    /// No tier answered, or one refused the request for good.
    pub async fn open<A, E, F, Fut>(&self, walk: Walk<'_, B>, call: F) -> Result<Served<A>, ChainError<E>>
    where
        E: CallError,
        F: Fn(Arc<B>, Deadline) -> Fut,
        Fut: Future<Output = Result<A, E>>,
    {
        let guard = WalkGuard::new(&self.recorder);
        let mut walker =
            Walker { recorder: &self.recorder, log: AttemptLog::new(walk.started), retry_after: None };
        for (index, tier) in self.tiers.iter().enumerate() {
            if let Some(why) = (walk.exclude)(tier) {
                walker.skip(index, tier, "", None, SkipReason::Request, why.to_owned());
                continue;
            }
            for backend in &tier.backends {
                let deadline = self.share(&walk, index);
                let step = walker.visit(index, tier, backend, deadline, walk.streaming, &call).await;
                match step {
                    Step::Served(answer, permit) => {
                        guard.finish();
                        return Ok(Served {
                            answer,
                            tier: index,
                            attempts: walker.log.into_attempts(),
                            permit,
                        });
                    }
                    Step::Go(Next::Backend) => {}
                    Step::Go(Next::Tier | Next::Stop) => break,
                    Step::Stopped(error) => {
                        self.recorder.unanswered();
                        guard.finish();
                        return Err(ChainError::Stopped { error, attempts: walker.log.into_attempts() });
                    }
                }
            }
        }
        self.recorder.unanswered();
        guard.finish();
        Err(walker.exhausted(walk.deadline))
    }

    fn share(&self, walk: &Walk<'_, B>, index: usize) -> Deadline {
        let tier = &self.tiers[index];
        let limit = tier.limit(walk.streaming);
        let reserve = self.tiers[index + 1..]
            .iter()
            .filter(|later| (walk.exclude)(later).is_none())
            .map(|later| later.reserve)
            .sum();
        walk.deadline.share(limit, reserve)
    }
}

/// Where a visit to a backend leads.
enum Step<A, E> {
    Served(A, Option<Permit>),
    Go(Next),
    Stopped(E),
}

/// One walk under way.
struct Walker<'a> {
    recorder: &'a Recorder,
    log: AttemptLog,
    retry_after: Option<Duration>,
}

impl Walker<'_> {
    async fn visit<B, A, E, F, Fut>(
        &mut self,
        index: usize,
        tier: &Tier<B>,
        backend: &Arc<B>,
        deadline: Deadline,
        streaming: bool,
        call: &F,
    ) -> Step<A, E>
    where
        B: Backend,
        E: CallError,
        F: Fn(Arc<B>, Deadline) -> Fut,
        Fut: Future<Output = Result<A, E>>,
    {
        let left = deadline.remaining();
        let fair_time = tier.limit(streaming).unwrap_or_default() / 2;
        if left.is_zero() || left < tier.minimum {
            let detail = format!("{left:.0?} left, {:.0?} needed", tier.minimum);
            self.skip(index, tier, backend.name(), None, SkipReason::Deadline, detail);
            return Step::Go(Next::Tier);
        }
        let permit = match backend.breaker().map(CircuitBreaker::acquire).transpose() {
            Ok(permit) => permit,
            Err(rejection) => {
                self.rejected(index, tier, backend.name(), rejection);
                return Step::Go(Next::Backend);
            }
        };
        let begun = self.log.begin(&tier.name, backend.name(), permit.as_ref().map(Permit::state));
        let timed = tokio::time::timeout_at(deadline.instant(), call(Arc::clone(backend), deadline)).await;
        let (verdict, detail, error) = match timed {
            Ok(Ok(answer)) => {
                let took = self.log.end(begun, AttemptOutcome::Success, String::new(), String::new());
                self.recorder.served(index, took);
                let permit = if streaming { permit.and_then(Permit::passed_probe) } else { permit };
                return Step::Served(answer, permit);
            }
            Ok(Err(error)) => (error.verdict(), error.to_string(), Some(error)),
            Err(_elapsed) => {
                let what = if streaming { "first content" } else { "answer" };
                let verdict = if left < fair_time { Verdict::HURRIED } else { Verdict::TIMEOUT };
                (verdict, format!("no {what} within {left:.1?}"), None)
            }
        };
        if let Some(permit) = permit {
            permit.record(verdict.breaker);
        }
        let cause = error.as_ref().map_or_else(|| detail.clone(), CallError::cause);
        let retry_after = error.as_ref().and_then(CallError::retry_after);
        self.retry_after = self.retry_after.into_iter().chain(retry_after).min();
        self.log.end(begun, verdict.outcome, detail, cause);
        self.recorder.ended(index, verdict.outcome);
        match (verdict.next, error) {
            (Next::Stop, Some(error)) => Step::Stopped(error),
            (next, _) => Step::Go(next),
        }
    }

    fn rejected<B>(&mut self, index: usize, tier: &Tier<B>, backend: &str, rejection: CallNotPermitted) {
        let detail = match rejection.retry_after {
            Some(wait) => format!("{rejection}, next probe in {wait:.1?}"),
            None => format!("{rejection}, all its probes are out"),
        };
        self.retry_after = self.retry_after.into_iter().chain(rejection.retry_after).min();
        self.skip(index, tier, backend, Some(rejection.state), SkipReason::Breaker, detail);
    }

    fn skip<B>(
        &mut self,
        index: usize,
        tier: &Tier<B>,
        backend: &str,
        state: Option<State>,
        reason: SkipReason,
        detail: String,
    ) {
        self.recorder.skipped(index);
        self.log.skip(&tier.name, backend, state, reason, detail);
    }

    fn exhausted<E>(self, deadline: Deadline) -> ChainError<E> {
        let attempts = self.log.into_attempts();
        let out_of_time =
            attempts.last().is_some_and(|last| last.outcome == AttemptOutcome::Skipped(SkipReason::Deadline));
        if out_of_time || deadline.has_passed() {
            return ChainError::DeadlineExceeded { attempts };
        }
        ChainError::Exhausted { attempts, retry_after: self.retry_after }
    }
}

#[cfg(test)]
mod tests;
