//! The fallback chain: ordered tiers, walked within one deadline until one of them answers.
//!
//! A tier has a [`Pool`] of equivalent backends. Within a tier a failed backend is followed by the next (*failover*); when
//! none is left, the next tier has its turn (*fallback*). What an error means for both the breaker and the walk is the
//! error's own knowledge: see [`CallError`].
//!
//! The chain owns the timeouts. A call that is cut off by its tier's own limit counts as a failure of its backend. One
//! that a hurried client's deadline left less than half of that limit does not, and with less than the tier's minimum none
//! is made: a timeout that a healthy backend could not have kept says nothing about the backend, and a few impatient
//! clients must not take it away from everybody.
//!
//! A tier may bound the calls to it ([`Tier::bulkhead`]) and ask a backend again (*retry*, [`Tier::retry`]); by default
//! it does neither. All retries of a chain draw on one [`RetryBudget`], so that trouble is not amplified, and happen
//! within the time that the tier has anyway, so that they do not eat that of the others.
//!
//! A walk is a future and may be dropped at any await: what it holds then, permit, slot and place in line, is given back.

mod attempt;
mod guard;
mod pool;
mod rest;
mod stats;
mod tier;
mod walker;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::backoff::{Randomness, SplitMix64};
use crate::classify::{CallError, Next};
use crate::clock::SystemClock;
use crate::deadline::Deadline;
use crate::retry_budget::{RetryBudget, RetryBudgetConfig};
use attempt::AttemptLog;
pub use attempt::{Attempt, AttemptOutcome, SkipReason};
pub use guard::CallGuard;
pub use pool::{FixedPool, Pool};
pub use rest::Rest;
pub use stats::{ChainStats, LatencyQuantiles, SkipCounts, TierStats};
use stats::{Recorder, WalkGuard};
pub use tier::{Backend, Tier, Walk};
use walker::{Place, Step, Walker};

/// An answer, and how it came about.
#[derive(Debug)]
pub struct Served<A> {
    /// The answer.
    pub answer: A,
    /// The position in the chain of the tier that gave it.
    pub tier: usize,
    /// Every attempt, the one that answered last.
    pub attempts: Vec<Attempt>,
    /// What the call still holds: the breaker's permit and the bulkhead's slot. For a stream: to be settled at its end.
    /// `None` where the call is settled already, as after [`FallbackChain::run`].
    pub guard: Option<CallGuard>,
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
        /// When the first of the open breakers admits a probe, or the first overloaded backend wants to be asked again.
        /// `None` when no backend said when to come back.
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
    budget: RetryBudget,
    randomness: Arc<dyn Randomness>,
}

impl<B: Backend> FallbackChain<B> {
    /// A chain of these tiers, tried in this order, with a retry budget of its own.
    pub fn new(tiers: Vec<Arc<Tier<B>>>) -> Self {
        let recorder = Recorder::new(tiers.iter().map(|tier| Arc::clone(&tier.name)));
        let budget = RetryBudget::new(RetryBudgetConfig::default(), Arc::new(SystemClock::new()));
        Self { tiers, recorder, budget, randomness: Arc::new(SplitMix64::from_entropy()) }
    }

    /// The same, with retries drawn from this budget. Chains that call the same backends do well to share one.
    #[must_use]
    pub fn with_retry_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// The same, with the waits before retries drawn from this source.
    #[must_use]
    pub fn with_randomness(mut self, randomness: Arc<dyn Randomness>) -> Self {
        self.randomness = randomness;
        self
    }

    /// The tiers, in order.
    pub fn tiers(&self) -> &[Arc<Tier<B>>] {
        &self.tiers
    }

    /// The budget that retries are drawn from.
    pub fn retry_budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// How the tiers did since the chain was made.
    pub fn stats(&self) -> ChainStats {
        self.recorder.stats()
    }

    /// Walks the chain for an answer that is whole when `call` returns: what the call holds is settled as a success.
    ///
    /// # Errors
    /// No tier answered, or one refused the request for good.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn run<A, E, F, Fut>(&self, walk: Walk<'_, B>, call: F) -> Result<Served<A>, ChainError<E>>
    where
        E: CallError,
        F: Fn(Arc<B>, Deadline) -> Fut,
        Fut: Future<Output = Result<A, E>>,
    {
        let mut served = self.open(walk, call).await?;
        if let Some(guard) = served.guard.take() {
            guard.success();
        }
        Ok(served)
    }

    /// Walks the chain for an answer that has only begun when `call` returns, which must not be before its first item:
    /// this is where the chain commits to a tier. Permit and slot of the call are handed over in one guard, to be
    /// settled when the answer ends.
    ///
    /// # Errors
    /// No tier answered, or one refused the request for good.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn open<A, E, F, Fut>(&self, mut walk: Walk<'_, B>, call: F) -> Result<Served<A>, ChainError<E>>
    where
        E: CallError,
        F: Fn(Arc<B>, Deadline) -> Fut,
        Fut: Future<Output = Result<A, E>>,
    {
        let walk_guard = WalkGuard::new(&self.recorder);
        let mut walker = Walker {
            recorder: &self.recorder,
            budget: &self.budget,
            randomness: &*self.randomness,
            log: AttemptLog::new(walk.started, std::mem::take(&mut walk.attempts)),
            retry_after: None,
        };
        for (index, tier) in self.tiers.iter().enumerate() {
            if let Some(why) = (walk.exclude)(tier) {
                walker.exclude(index, tier, why);
                continue;
            }
            for backend in &tier.pool.candidates(walk.affinity) {
                let place = Place { index, tier, backend, streaming: walk.streaming };
                if let Some(why) = (walk.skip_backend)(backend) {
                    walker.skip(&place, 0, None, SkipReason::Request, why.to_owned());
                    continue;
                }
                let allotted = walk.deadline.share(None, self.reserved_after(&walk, index));
                match walker.visit(&place, allotted, &call).await {
                    Step::Served(answer, guard) => {
                        walk_guard.finish();
                        return Ok(Served {
                            answer,
                            tier: index,
                            attempts: walker.log.into_attempts(),
                            guard: Some(guard),
                        });
                    }
                    Step::Go(Next::Backend) => {}
                    Step::Go(Next::Tier | Next::Stop) => break,
                    Step::Stopped(error) => {
                        self.recorder.unanswered();
                        walk_guard.finish();
                        return Err(ChainError::Stopped { error, attempts: walker.log.into_attempts() });
                    }
                }
            }
        }
        self.recorder.unanswered();
        walk_guard.finish();
        Err(walker.exhausted(walk.deadline))
    }

    /// What the tiers after this one want of the deadline.
    fn reserved_after(&self, walk: &Walk<'_, B>, index: usize) -> Duration {
        let later = self.tiers[index + 1..].iter().filter(|later| (walk.exclude)(later).is_none());
        later.map(|later| later.reserve).sum()
    }
}

#[cfg(test)]
mod tests;
