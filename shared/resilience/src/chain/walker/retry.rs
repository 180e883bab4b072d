//! Who is asked next within a tier, and at what price.
//!
//! Another backend comes before the same one again: it is not the one that has just failed, and there is no need to wait
//! for it. Where one more call is all that a failure is worth ([`Retry::AtOnce`], [`Retry::Once`]), the tier's second call is
//! it, the failover too. Else each backend is called as often as the policy says, and all of them as often as the tier does
//! ([`Tier::max_calls`](crate::Tier::max_calls)).
//!
//! A retry is made only where the backend says that it may be asked again, its breaker is not open, what is left of the
//! time is worth a call, and the budget would grant it. It asks for slot and permit anew, after its wait: what is asleep is no
//! load. And it draws on the budget last of all, so that nothing is spent in vain: not on a backend that wants to rest by
//! then, not on one behind a full bulkhead, and not by a request that is given up during the wait.
//!
//! A failover draws on the budget too, because the work is done twice: where every backend of a pool is overloaded, asking
//! all of them for each request would be the storm that the budget is there to stop. Only after a call that never reached
//! its backend it is free: that cost nobody anything.

use std::sync::Arc;

use super::line::Again;
use super::{Turn, Walker};
use crate::breaker::{CircuitBreaker, State};
use crate::chain::attempt::{ExtraCall, SkipReason};
use crate::chain::tier::Backend;
use crate::chain::walker::call::Call;
use crate::classify::{Retry, Verdict};
use tokio::time::Instant;

impl<B: Backend> Walker<'_, B> {
    /// Who has the next turn at a tier. For a retry, when its time has come.
    pub(super) async fn next_turn(&mut self, index: usize) -> Option<Turn<B>> {
        let max_calls = self.tier(index).max_calls;
        while self.line(index).calls < max_calls {
            let turn = self.line(index).pop()?;
            if let Some(why) = (self.walk.skip_backend)(&turn.backend) {
                self.skip(index, &turn, None, SkipReason::Request, why.to_owned());
                continue;
            }
            let Some(again) = &turn.again else {
                return Some(turn);
            };
            if !self.is_worth_it(index, again) || is_open(&turn.backend) {
                continue;
            }
            if !self.chain.budget.would_grant() {
                self.refuse(index, &turn);
                return None;
            }
            tokio::time::sleep_until(again.due).await;
            return Some(turn);
        }
        None
    }

    /// A call has failed: where its backend may be asked again, it goes to the end of the line.
    pub(super) fn line_up_again(&mut self, call: &Call<B>, verdict: &Verdict) {
        let index = call.index();
        let (chain, policy) = (self.chain, &self.tier(index).retry);
        let line = self.line(index);
        line.failover_costs = verdict.retry != Retry::AtOnce;
        let only_once = matches!(verdict.retry, Retry::AtOnce | Retry::Once);
        if only_once && (line.calls > 1 || line.has_fresh()) {
            return;
        }
        let longest = chain.longest_rest.unwrap_or_else(|| policy.backoff().cap());
        let made = call.retry() + 1;
        let Some(delay) = policy.delay_within(made, verdict, longest, &*chain.randomness) else {
            return;
        };
        let (why, deadline) = match (verdict.retry_after, verdict.retry) {
            (Some(_), _) => (ExtraCall::RetryAfter, None),
            (None, Retry::AtOnce) => (ExtraCall::AtOnce, Some(call.deadline())),
            (None, Retry::Never | Retry::Once | Retry::Backoff) => {
                (ExtraCall::Backoff, Some(call.deadline()))
            }
        };
        let again = Again { due: Instant::now() + delay, deadline, why };
        line.push(Turn { backend: call.backend(), retry: call.retry() + 1, again: Some(again) });
    }

    /// Whether what will be left of the time is worth a retry.
    fn is_worth_it(&self, index: usize, again: &Again) -> bool {
        let deadline = again.deadline.unwrap_or_else(|| self.allotted(index));
        let wait = again.due.saturating_duration_since(Instant::now());
        wait.saturating_add(self.tier(index).minimum) < deadline.remaining()
    }

    /// Whether a turn draws on the budget: each retry, and each failover after a call that reached its backend.
    pub(super) fn costs(&mut self, index: usize, turn: &Turn<B>) -> bool {
        let is_extra = turn.again.is_some() || self.line(index).failover_costs;
        // One whose breaker is open is not called, and costs nothing.
        is_extra && !is_open(&turn.backend)
    }

    /// The budget does not grant a turn. The tier is left, whose other turns it would not grant either.
    pub(super) fn refuse(&mut self, index: usize, turn: &Turn<B>) {
        self.chain.recorder.retry_refused(index);
        self.skip(index, turn, None, SkipReason::Budget, "the budget for retries is spent".to_owned());
        self.leave(index);
    }
}

fn is_open<B: Backend>(backend: &Arc<B>) -> bool {
    let refuses = |breaker: &CircuitBreaker| matches!(breaker.state(), State::Open | State::ForcedOpen);
    backend.breaker().is_some_and(refuses)
}
