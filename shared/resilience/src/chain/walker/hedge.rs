//! A second call in parallel to a slow one.
//!
//! The hedge goes to the next backend of the tier that would take it now, else to one of the next tier that takes hedges.
//! It is a favour, and never waits for anything: its backend's breaker must be closed, so that no probe is spent on it;
//! there must be a slot at once; and the budget must grant it. A probe is not hedged either: cancelled, it would leave its
//! breaker without the verdict that it waits for.
//!
//! The call that ends the walk cancels the other one: that is dropped, its permit settles as cancelled, and its slot is
//! free, before anything else happens. Unless its backend has been silent to everybody for as long as a call may take: then it
//! is the timeout that it would have been without its hedge. When one fails the other is waited for, and the walk goes on from
//! there.
//!
//! A hedge changes when an answer comes, and never what it is. So what a later tier's hedge says against the request counts
//! only when the walk comes to that tier: the call beside it was made in its own right, and may answer a request for which
//! the later tier is too small, or which has a field that only that one does not know. And none is made at a tier known to
//! take less: long requests are the slow ones, and servers exist that cut them down without a word.

use std::cmp::Ordering;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::call::{Failed, make};
use super::{Call, End, Turn, Walker};
use crate::breaker::{CircuitBreaker, State};
use crate::bulkhead::Bulkhead;
use crate::chain::attempt::{AttemptOutcome, ExtraCall};
use crate::chain::tier::Backend;
use crate::classify::{CallError, Next, Verdict};
use crate::deadline::Deadline;

impl<B: Backend> Walker<'_, B> {
    /// After which time this call is hedged, if it is.
    pub(super) fn hedge_delay(&self, call: &Call<B>) -> Option<Duration> {
        let hedge = self.tier(call.index()).hedge.as_ref().filter(|_| !call.is_probe())?;
        hedge.delay(self.walk.streaming).filter(|delay| *delay < call.deadline().remaining())
    }

    /// Waits for a call, and after `delay` makes another one beside it.
    pub(super) async fn hedged<A, E, F, Fut>(
        &mut self,
        one: Call<B>,
        delay: Duration,
        call: &F,
    ) -> Option<End<A, E>>
    where
        E: CallError,
        F: Fn(Arc<B>, Deadline) -> Fut,
        Fut: Future<Output = Result<A, E>>,
    {
        // Boxed, as the other is below: a future that holds two calls would be large, and few calls are hedged.
        let mut first = Box::pin(make(one.backend(), one.deadline(), call));
        if let Ok(result) = tokio::time::timeout(delay, &mut first).await {
            return self.judge(one, result);
        }
        let Some(other) = self.admit_hedge(one.index()) else {
            let result = first.await;
            return self.judge(one, result);
        };
        let mut second = Box::pin(make(other.backend(), other.deadline(), call));
        let (is_first, result) = first_of(first.as_mut(), second.as_mut()).await;
        let (ended, pending) = if is_first { (one, other) } else { (other, one) };
        let waiting = if is_first { second } else { first };
        if !self.is_of_use(pending.index(), ended.index(), &result) {
            drop(waiting);
            let words =
                if result.is_ok() { "another attempt was faster" } else { "another attempt was refused" };
            self.cancelled(pending, words);
            return self.judge(ended, result);
        }
        let refusing = ended.index();
        let refused = self.judge(ended, result);
        let result = waiting.await;
        match (self.judge(pending, result), refused) {
            (None, Some(End::Stopped(error))) => Some(End::StoppedAt { tier: refusing, error }),
            (end, _) => end,
        }
    }

    /// Gets what a hedge of a call at this tier needs, if there is somebody to take it.
    fn admit_hedge(&mut self, index: usize) -> Option<Call<B>> {
        let (target, turn) = self.hedge_target(index)?;
        let tier = self.tier(target);
        let deadline = self.allotted(target).within(tier.limit(self.walk.streaming));
        let slot = tier.bulkhead.as_ref().map(Bulkhead::try_acquire);
        let room = !matches!(slot, Some(None)) && deadline.remaining() > tier.minimum;
        // The budget before the breaker: a permit that is given back is counted as a cancelled call.
        if !room {
            self.line(target).put_back(turn);
            return None;
        }
        let Some(grant) = self.chain.budget.withdraw() else {
            self.chain.recorder.retry_refused(index);
            self.line(target).put_back(turn);
            return None;
        };
        let Ok(permit) = turn.backend.breaker().map(CircuitBreaker::acquire).transpose() else {
            grant.give_back();
            self.line(target).put_back(turn);
            return None;
        };
        self.chain.recorder.hedged(target);
        Some(self.begin(target, turn, deadline, slot.flatten(), permit, Some(ExtraCall::Hedge)))
    }

    /// The next backend that would take a hedge, with its tier.
    fn hedge_target(&mut self, index: usize) -> Option<(usize, Turn<B>)> {
        let skip_backend = self.walk.skip_backend;
        let is_wanted = |backend: &B| {
            let closed = |breaker: &CircuitBreaker| {
                matches!(breaker.state(), State::Closed | State::Disabled | State::MetricsOnly)
            };
            let rests = backend.rest().is_some_and(|rest| rest.left().is_some());
            !rests && backend.breaker().is_none_or(closed) && skip_backend(backend).is_none()
        };
        if self.line(index).calls < self.tier(index).max_calls
            && let Some(turn) = self.line(index).take_fresh(is_wanted)
        {
            return Some((index, turn));
        }
        let capacity = self.tier(index).capacity;
        let later = (index + 1..self.chain.tiers.len()).find(|later| {
            let tier = self.tier(*later);
            tier.takes_hedges && !capacity.exceeds(tier.capacity) && self.ruled_out(*later).is_none()
        })?;
        self.line(later).take_fresh(is_wanted).map(|turn| (later, turn))
    }

    /// Whether the other of two calls, at the tier `pending`, may still give the answer when one has ended so.
    fn is_of_use<A, E: CallError>(
        &self,
        pending: usize,
        ended: usize,
        result: &Result<A, Failed<E>>,
    ) -> bool {
        let error = match result {
            Ok(_) => return false,
            Err(Failed::Late) => return true,
            Err(Failed::Error(error)) => error,
        };
        match error.verdict().next {
            Next::Backend | Next::Tier => true,
            Next::Stop => pending < ended,
            Next::Larger => {
                let (outgrown, other) = (self.tier(ended).capacity, self.tier(pending).capacity);
                match pending.cmp(&ended) {
                    Ordering::Less => !other.is_within(outgrown),
                    Ordering::Equal => false,
                    Ordering::Greater => other.may_take_more_than(outgrown),
                }
            }
        }
    }

    /// A call was given up, because the other one had the last word.
    fn cancelled(&mut self, mut call: Call<B>, words: &str) {
        let tier = call.index();
        let silence = call.lost(self.walk.streaming);
        let (guard, begun) = call.into_parts();
        let (outcome, words) = if let Some(silence) = silence {
            guard.settle(Verdict::TIMEOUT);
            (AttemptOutcome::Timeout, silence)
        } else {
            drop(guard);
            (AttemptOutcome::Cancelled, words.to_owned())
        };
        let took = self.log.end(begun, outcome, words.clone(), words);
        self.chain.recorder.ended(tier, outcome);
        self.observe(tier, took);
    }
}

/// The one of two futures that is ready first; the first of them when both are.
async fn first_of<F: Future>(mut first: Pin<&mut F>, mut second: Pin<&mut F>) -> (bool, F::Output) {
    poll_fn(|context| {
        if let Poll::Ready(output) = first.as_mut().poll(context) {
            return Poll::Ready((true, output));
        }
        second.as_mut().poll(context).map(|output| (false, output))
    })
    .await
}
