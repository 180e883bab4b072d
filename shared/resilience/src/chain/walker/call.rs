//! One call: what must be given before it is made, and how it can fail.
//!
//! A call needs a slot of its tier's bulkhead and a permit of its backend's breaker, and asks for them in that order:
//! waiting in line must neither hold a probe back from others nor count as the backend's slowness. An extra call draws on the
//! budget in between. Only where the line
//! would have to be joined is an open breaker asked first, so that nobody waits for a backend that is not called.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{Turn, Walker};
use crate::breaker::{CallNotPermitted, CircuitBreaker, Outcome, Outlook, Permit, RejectReason, State};
use crate::bulkhead::BulkheadPermit;
use crate::chain::attempt::{Begun, ExtraCall, SkipReason};
use crate::chain::guard::CallGuard;
use crate::chain::rest::Rest;
use crate::chain::silence::Wait;
use crate::chain::tier::Backend;
use crate::classify::{CallError, Verdict};
use crate::deadline::Deadline;

/// A call that was admitted.
pub(super) struct Call<B> {
    index: usize,
    backend: Arc<B>,
    retry: u32,
    deadline: Deadline,
    /// The tier's own limit.
    limit: Option<Duration>,
    /// What was left when it began.
    left: Duration,
    is_probe: bool,
    is_hedge: bool,
    begun: Begun,
    guard: CallGuard,
}

impl<B> Call<B> {
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn backend(&self) -> Arc<B> {
        Arc::clone(&self.backend)
    }

    pub(super) fn retry(&self) -> u32 {
        self.retry
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.deadline
    }

    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// What it holds, and its record.
    pub(super) fn into_parts(self) -> (CallGuard, Begun) {
        (self.guard, self.begun)
    }

    /// What it means that it was cut off.
    fn cut_off(&mut self) -> Verdict {
        if self.is_hurried() && !self.guard.given_up() { Verdict::HURRIED } else { Verdict::TIMEOUT }
    }

    /// Another call has ended the walk. In words, what is wrong with this one's backend by now: nobody has had an answer for as
    /// long as a call may take.
    ///
    /// Without that, hedges that always win would hide a backend that hangs. A hedge's own wait says nothing: it begins late
    /// and ends with the call beside it, so that a backend that is well may never have its time.
    pub(super) fn lost(&mut self, streaming: bool) -> Option<String> {
        if self.is_hedge {
            self.guard.disregarded();
            return None;
        }
        let limit = self.limit.filter(|_| self.guard.given_up())?;
        let waited = self.left.saturating_sub(self.deadline.remaining());
        Some(no_answer(waited, streaming) + &nor_had_others(limit))
    }

    /// Whether the client left so little time that a timeout says nothing about the backend. A retry's time is short
    /// because of the backend's own failure. Where the tier has no limit, nobody has said how much would be enough.
    pub(super) fn is_hurried(&self) -> bool {
        self.limit.is_none_or(|limit| self.retry == 0 && self.left < limit / 2)
    }

    /// Whether nothing but the client's deadline limits it.
    pub(super) fn is_unlimited(&self) -> bool {
        self.limit.is_none()
    }
}

/// Makes a call, within its time.
pub(super) async fn make<B, A, E, F, Fut>(
    backend: Arc<B>,
    deadline: Deadline,
    call: &F,
) -> Result<A, Failed<E>>
where
    F: Fn(Arc<B>, Deadline) -> Fut,
    Fut: Future<Output = Result<A, E>>,
{
    let timed = tokio::time::timeout_at(deadline.instant(), call(backend, deadline)).await;
    timed.map_or(Err(Failed::Late), |ended| ended.map_err(Failed::Error))
}

/// How a call failed.
pub(super) enum Failed<E> {
    Error(E),
    /// It was not there in time.
    Late,
}

impl<E: CallError> Failed<E> {
    pub(super) fn verdict<B>(&self, call: &mut Call<B>) -> Verdict {
        match self {
            Self::Error(error) => error.verdict(),
            Self::Late => call.cut_off(),
        }
    }

    /// What went wrong, for the caller and for logs.
    pub(super) fn words<B>(&self, call: &Call<B>, verdict: &Verdict, streaming: bool) -> (String, String) {
        match self {
            Self::Error(error) => (error.to_string(), error.cause()),
            Self::Late => {
                let hurried = match call.limit {
                    Some(limit) if call.is_hurried() && verdict.breaker == Outcome::Failure => {
                        nor_had_others(limit)
                    }
                    Some(limit) if call.is_hurried() => {
                        format!(", too short to blame the backend: its limit is {limit:.1?}")
                    }
                    Some(_) | None => String::new(),
                };
                let words = no_answer(call.left, streaming) + &hurried;
                (words.clone(), words)
            }
        }
    }
}

fn no_answer(within: Duration, streaming: bool) -> String {
    let what = if streaming { "first content" } else { "answer" };
    format!("no {what} within {within:.1?}")
}

fn nor_had_others(limit: Duration) -> String {
    format!(", as nobody else had in {limit:.1?}")
}

impl<B: Backend> Walker<'_, B> {
    /// Gets what a call needs. `None`: the backend, or the whole tier, is passed over, and the record says why.
    pub(super) async fn admit(&mut self, index: usize, turn: Turn<B>) -> Option<Call<B>> {
        let limit = self.tier(index).limit(self.walk.streaming);
        let allotted = self.allotted(index);
        let given = turn.again.as_ref().and_then(|again| again.deadline);
        if self.is_too_late(index, &turn, given) {
            self.leave(index);
            return None;
        }
        if self.is_resting(index, &turn) {
            return None;
        }
        let costs = self.costs(index, &turn);
        if costs && !self.chain.budget.would_grant() {
            self.refuse(index, &turn);
            return None;
        }
        let slot = self.slot(index, &turn, given.unwrap_or(allotted)).await.ok()?;
        let deadline = given.unwrap_or_else(|| allotted.within(limit));
        let grant = costs.then(|| self.chain.budget.withdraw());
        if let Some(None) = grant {
            self.refuse(index, &turn);
            return None;
        }
        let permit = match turn.backend.breaker().map(CircuitBreaker::acquire).transpose() {
            Ok(permit) => permit,
            Err(rejection) => {
                if let Some(grant) = grant.flatten() {
                    grant.give_back();
                }
                self.rejected(index, &turn, rejection);
                return None;
            }
        };
        if turn.again.is_some() {
            self.chain.recorder.retried(index);
        }
        let why = turn.extra();
        Some(self.begin(index, turn, deadline, slot, permit, why))
    }

    /// The call begins.
    pub(super) fn begin(
        &mut self,
        index: usize,
        turn: Turn<B>,
        deadline: Deadline,
        slot: Option<BulkheadPermit>,
        permit: Option<Permit>,
        why: Option<ExtraCall>,
    ) -> Call<B> {
        let tier = self.tier(index);
        let limit = tier.limit(self.walk.streaming);
        self.line(index).calls += 1;
        let state = permit.as_ref().map(Permit::state);
        let silence = turn.backend.silence().cloned();
        let wait = silence.zip(limit).map(|(silence, limit)| Wait::begin(silence, limit));
        let tells_cold_starts = turn.backend.tells_cold_starts();
        Call {
            index,
            retry: turn.retry,
            deadline,
            limit,
            left: deadline.remaining(),
            is_probe: state == Some(State::HalfOpen),
            is_hedge: why == Some(ExtraCall::Hedge),
            begun: self.log.begin(&tier.name, turn.backend.name(), state, turn.retry, why),
            backend: turn.backend,
            guard: CallGuard::new(permit, slot, self.chain.budget.clone(), wait, tells_cold_starts),
        }
    }

    fn is_too_late(&mut self, index: usize, turn: &Turn<B>, given: Option<Deadline>) -> bool {
        let minimum = self.tier(index).minimum;
        let (left, needed) = match given {
            Some(given) => (given.remaining(), minimum),
            None => (self.walk.deadline.remaining(), self.needed(index)),
        };
        let limit = self.tier(index).limit(self.walk.streaming).filter(|limit| *limit < minimum);
        let left = limit.map_or(left, |limit| left.min(limit));
        let late = left.is_zero() || left < needed;
        if late {
            let detail = format!("{left:.0?} left, {needed:.0?} needed");
            self.skip(index, turn, None, SkipReason::Deadline, detail);
        }
        late
    }

    fn is_resting(&mut self, index: usize, turn: &Turn<B>) -> bool {
        let Some(left) = turn.backend.rest().and_then(Rest::left) else {
            return false;
        };
        self.wants_rest(Some(left));
        let detail = format!("asked to be left alone for {left:.1?} more");
        self.skip(index, turn, None, SkipReason::Resting, detail);
        true
    }

    /// Waits for a slot of the tier's bulkhead, for as long as a call is worth making after it.
    async fn slot(
        &mut self,
        index: usize,
        turn: &Turn<B>,
        deadline: Deadline,
    ) -> Result<Option<BulkheadPermit>, ()> {
        let tier = self.tier(index);
        let Some(bulkhead) = &tier.bulkhead else {
            return Ok(None);
        };
        if let Some(slot) = bulkhead.try_acquire() {
            return Ok(Some(slot));
        }
        // Only who would be rejected asks, and is: a permit that is given back at once would be counted as a cancelled call.
        let rejects = |breaker: &&CircuitBreaker| breaker.outlook() == Outlook::Rejected;
        if let Some(breaker) = turn.backend.breaker().filter(rejects) {
            breaker.acquire().map(drop).map_err(|rejection| self.rejected(index, turn, rejection))?;
        }
        let latest = deadline.before(tier.minimum);
        bulkhead.acquire_before(latest).await.map(Some).map_err(|full| {
            self.skip(index, turn, None, SkipReason::Bulkhead, full.to_string());
            // The other backends of the tier are behind the same bulkhead.
            self.leave(index);
        })
    }

    fn rejected(&mut self, index: usize, turn: &Turn<B>, rejection: CallNotPermitted) {
        let detail = match (rejection.reason(), rejection.retry_after) {
            (RejectReason::OpenWait, Some(wait)) => format!("{rejection}, next probe in {wait:.1?}"),
            (RejectReason::Ramp, Some(wait)) => format!("{rejection}, a larger share in {wait:.1?}"),
            (RejectReason::ProbesOut, _) => format!("{rejection}, all its probes are out"),
            (RejectReason::ForcedOpen, _) => format!("{rejection}, until an operator lets it go"),
            (RejectReason::OpenWait | RejectReason::Ramp, None) => rejection.to_string(),
        };
        self.wants_rest(rejection.retry_after);
        self.skip(index, turn, Some(rejection.state), SkipReason::Breaker, detail);
    }
}
