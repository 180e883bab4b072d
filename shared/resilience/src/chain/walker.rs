//! One walk along a chain, step by step.
//!
//! A call needs a slot of its tier's bulkhead and a permit of its backend's breaker, and asks for them in that order:
//! waiting in line must neither hold a probe back from others nor count as the backend's slowness. Only where the line
//! would have to be joined is an open breaker asked first, so that nobody waits for a backend that is not called.
//!
//! A retry asks for both anew, after its wait: what is asleep is no load. It is made only where the backend says that it
//! may be asked again, its breaker is not open, what is left of the time is worth a call, and the budget grants it, in
//! that order, so that nothing is spent in vain.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::{AttemptLog, AttemptOutcome, Begun, SkipReason};
use super::guard::CallGuard;
use super::stats::Recorder;
use super::tier::{Backend, Tier};
use super::{Attempt, ChainError};
use crate::backoff::Randomness;
use crate::breaker::{CallNotPermitted, CircuitBreaker, Permit, State};
use crate::bulkhead::{BulkheadFull, BulkheadPermit};
use crate::classify::{CallError, Next, Verdict};
use crate::deadline::Deadline;
use crate::retry_budget::RetryBudget;

/// Where a visit to a backend leads.
pub(super) enum Step<A, E> {
    Served(A, CallGuard),
    Go(Next),
    Stopped(E),
}

/// A backend to visit.
pub(super) struct Place<'a, B> {
    pub(super) index: usize,
    pub(super) tier: &'a Tier<B>,
    pub(super) backend: &'a Arc<B>,
    pub(super) streaming: bool,
}

/// One walk under way.
pub(super) struct Walker<'a> {
    pub(super) recorder: &'a Recorder,
    pub(super) budget: &'a RetryBudget,
    pub(super) randomness: &'a dyn Randomness,
    pub(super) log: AttemptLog,
    pub(super) retry_after: Option<Duration>,
}

impl Walker<'_> {
    /// Passes a whole tier over because of the request.
    pub(super) fn exclude<B>(&mut self, index: usize, tier: &Tier<B>, why: &str) {
        self.recorder.skipped(index, SkipReason::Request);
        let begun = self.log.begin(&tier.name, "", None, 0);
        self.log.skip(begun, SkipReason::Request, why.to_owned());
    }

    /// Calls a backend, again where that is wanted and allowed. `allotted` is what this and earlier steps leave to later
    /// ones; the tier's own limit runs from the first call.
    pub(super) async fn visit<B, A, E, F, Fut>(
        &mut self,
        place: &Place<'_, B>,
        allotted: Deadline,
        call: &F,
    ) -> Step<A, E>
    where
        B: Backend,
        E: CallError,
        F: Fn(Arc<B>, Deadline) -> Fut,
        Fut: Future<Output = Result<A, E>>,
    {
        let limit = place.tier.limit(place.streaming);
        let mut deadline = None;
        let mut retry = 0;
        loop {
            if let Some(next) = self.too_late(place, retry, deadline.unwrap_or(allotted.within(limit))) {
                return Step::Go(next);
            }
            if let Some(next) = self.resting(place, retry) {
                return Step::Go(next);
            }
            let slot = match self.slot(place, retry, deadline.unwrap_or(allotted)).await {
                Ok(slot) => slot,
                Err(next) => return Step::Go(next),
            };
            let deadline = *deadline.get_or_insert_with(|| allotted.within(limit));
            let permit = match place.backend.breaker().map(CircuitBreaker::acquire).transpose() {
                Ok(permit) => permit,
                Err(rejection) => return Step::Go(self.rejected(place, retry, rejection)),
            };
            if retry > 0 {
                self.recorder.retried(place.index);
            }
            let begun = self.begin(place, retry, permit.as_ref().map(Permit::state));
            let mut guard = CallGuard::new(permit, slot, self.budget.clone());
            let left = deadline.remaining();
            let timed =
                tokio::time::timeout_at(deadline.instant(), call(Arc::clone(place.backend), deadline)).await;
            let (verdict, detail, error) = match timed {
                Ok(Ok(answer)) => {
                    let took = self.log.succeed(begun);
                    self.recorder.served(place.index, took);
                    guard.begun(place.streaming);
                    return Step::Served(answer, guard);
                }
                Ok(Err(error)) => (error.verdict(), error.to_string(), Some(error)),
                Err(_elapsed) => {
                    let what = if place.streaming { "first content" } else { "answer" };
                    let hurried = left < limit.unwrap_or_default() / 2;
                    let verdict = if hurried && retry == 0 { Verdict::HURRIED } else { Verdict::TIMEOUT };
                    (verdict, format!("no {what} within {left:.1?}"), None)
                }
            };
            guard.settle(verdict);
            let cause = error.as_ref().map_or_else(|| detail.clone(), CallError::cause);
            self.ended(place, begun, &verdict, detail, cause);
            let Some(delay) = self.retry_in(place, retry + 1, &verdict, deadline) else {
                return match (verdict.next, error) {
                    (Next::Stop, Some(error)) => Step::Stopped(error),
                    (next, _) => Step::Go(next),
                };
            };
            drop(error);
            tokio::time::sleep(delay).await;
            retry += 1;
        }
    }

    /// The end of a walk that no tier answered.
    pub(super) fn exhausted<E>(self, deadline: Deadline) -> ChainError<E> {
        let out_of_time = |last: &Attempt| last.outcome == AttemptOutcome::Skipped(SkipReason::Deadline);
        let late = self.log.last().is_some_and(out_of_time) || deadline.has_passed();
        let attempts = self.log.into_attempts();
        if late {
            return ChainError::DeadlineExceeded { attempts };
        }
        ChainError::Exhausted { attempts, retry_after: self.retry_after }
    }

    fn too_late<B: Backend>(&mut self, place: &Place<'_, B>, retry: u32, deadline: Deadline) -> Option<Next> {
        let (left, minimum) = (deadline.remaining(), place.tier.minimum);
        if !left.is_zero() && left >= minimum {
            return None;
        }
        let detail = format!("{left:.0?} left, {minimum:.0?} needed");
        self.skip(place, retry, None, SkipReason::Deadline, detail);
        Some(Next::Tier)
    }

    fn resting<B: Backend>(&mut self, place: &Place<'_, B>, retry: u32) -> Option<Next> {
        let left = place.backend.rest()?.left()?;
        self.wants_rest(Some(left));
        self.skip(
            place,
            retry,
            None,
            SkipReason::Resting,
            format!("asked to be left alone for {left:.1?} more"),
        );
        Some(Next::Backend)
    }

    /// Waits for a slot of the tier's bulkhead, for as long as a call is worth making after it.
    async fn slot<B: Backend>(
        &mut self,
        place: &Place<'_, B>,
        retry: u32,
        deadline: Deadline,
    ) -> Result<Option<BulkheadPermit>, Next> {
        let Some(bulkhead) = &place.tier.bulkhead else {
            return Ok(None);
        };
        if let Some(slot) = bulkhead.try_acquire() {
            return Ok(Some(slot));
        }
        let doubtful = |state| matches!(state, State::Open | State::ForcedOpen | State::HalfOpen);
        if let Some(breaker) = place.backend.breaker().filter(|breaker| doubtful(breaker.state())) {
            // A permit is given back at once: the call asks again when it has its slot.
            breaker.acquire().map(drop).map_err(|rejection| self.rejected(place, retry, rejection))?;
        }
        let latest = deadline.before(place.tier.minimum);
        bulkhead.acquire_before(latest).await.map(Some).map_err(|full: BulkheadFull| {
            self.skip(place, retry, None, SkipReason::Bulkhead, full.to_string());
            // The other backends of the tier are behind the same bulkhead.
            Next::Tier
        })
    }

    fn rejected<B: Backend>(
        &mut self,
        place: &Place<'_, B>,
        retry: u32,
        rejection: CallNotPermitted,
    ) -> Next {
        let detail = match rejection.retry_after {
            Some(wait) => format!("{rejection}, next probe in {wait:.1?}"),
            None => format!("{rejection}, all its probes are out"),
        };
        self.wants_rest(rejection.retry_after);
        self.skip(place, retry, Some(rejection.state), SkipReason::Breaker, detail);
        Next::Backend
    }

    fn wants_rest(&mut self, retry_after: Option<Duration>) {
        self.retry_after = self.retry_after.into_iter().chain(retry_after).min();
    }

    fn begin<B: Backend>(&self, place: &Place<'_, B>, retry: u32, state: Option<State>) -> Begun {
        self.log.begin(&place.tier.name, place.backend.name(), state, retry)
    }

    fn ended<B: Backend>(
        &mut self,
        place: &Place<'_, B>,
        begun: Begun,
        verdict: &Verdict,
        detail: String,
        cause: String,
    ) {
        self.log.end(begun, verdict.outcome, detail, cause);
        self.recorder.ended(place.index, verdict.outcome);
        self.wants_rest(verdict.retry_after);
        if let (Some(rest), Some(wait)) = (place.backend.rest(), verdict.retry_after) {
            rest.begin(wait);
        }
    }

    pub(super) fn skip<B: Backend>(
        &mut self,
        place: &Place<'_, B>,
        retry: u32,
        state: Option<State>,
        reason: SkipReason,
        detail: String,
    ) {
        self.recorder.skipped(place.index, reason);
        let begun = self.begin(place, retry, state);
        self.log.skip(begun, reason, detail);
    }

    /// How long to wait before the same backend is asked again, if it is.
    fn retry_in<B: Backend>(
        &self,
        place: &Place<'_, B>,
        made: u32,
        verdict: &Verdict,
        deadline: Deadline,
    ) -> Option<Duration> {
        let delay = place.tier.retry.next_delay(made, verdict, self.randomness)?;
        let left = deadline.remaining();
        let worth_it = delay.saturating_add(place.tier.minimum) < left;
        let refuses = |breaker: &CircuitBreaker| matches!(breaker.state(), State::Open | State::ForcedOpen);
        let open = place.backend.breaker().is_some_and(refuses);
        if open || !worth_it {
            return None;
        }
        if !self.budget.withdraw() {
            self.recorder.retry_refused(place.index);
            return None;
        }
        Some(delay)
    }
}
