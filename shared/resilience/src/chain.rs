//! The fallback chain: ordered tiers, walked within one deadline until one of them answers.
//!
//! A tier has a [`Pool`] of equivalent backends. Within a tier a failed backend is followed by the next (*failover*); when
//! none is left, the next tier has its turn (*fallback*). What an error means for both the breaker and the walk is the
//! error's own knowledge: see [`CallError`].
//!
//! The chain owns the timeouts. A call that is cut off by its tier's own limit counts as a failure of its backend. One
//! that a hurried client's deadline left less than half of that limit does not, and with less than the tier's minimum none
//! is made: a timeout that a healthy backend could not have kept says nothing about the backend, and a few impatient
//! clients must not take it away from everybody. But where nobody else is answered either, such waits add up to the failure that
//! a patient client would have seen ([`Silence`]), and so do those that are given up with their walk. A tier without a limit has
//! nothing to tell patience by: what a client's deadline cuts off there is given up like the call of a client who goes away.
//!
//! A tier may bound the calls to it ([`Tier::bulkhead`]), ask a backend again (*retry*, [`Tier::retry`]), and make a second
//! call beside a slow one (*hedge*, [`Tier::hedge`]); by default it does none of that. All extra calls of a chain draw on one
//! [`RetryBudget`], so that trouble is not amplified, and happen within the time that the tier has anyway, so that they do
//! not eat that of the others.
//!
//! A walk is a future and may be dropped at any await: what it holds then, permit, slot and place in line, is given back, and what
//! it has done is left on its [`Trail`].

mod attempt;
mod guard;
mod hedge;
mod pool;
mod rest;
mod silence;
mod stats;
mod tier;
mod trail;
mod walker;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::backoff::{Randomness, SplitMix64};
use crate::classify::CallError;
use crate::clock::SystemClock;
use crate::deadline::Deadline;
use crate::retry_budget::{RetryBudget, RetryBudgetConfig};
pub use attempt::{Attempt, AttemptOutcome, ExtraCall, SkipReason};
pub use guard::CallGuard;
pub use hedge::Hedge;
pub use pool::{FixedPool, Pool};
pub use rest::Rest;
pub use silence::Silence;
pub use stats::{ChainStats, LatencyQuantiles, SkipCounts, TierStats};
use stats::{Recorder, WalkGuard};
pub use tier::{Backend, Capacity, Tier, Walk};
pub use trail::Trail;
use walker::Walker;

/// An answer, and how it came about.
#[derive(Debug)]
#[non_exhaustive]
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
    #[non_exhaustive]
    Stopped {
        /// The backend's error.
        #[source]
        error: E,
        /// Every attempt.
        attempts: Vec<Attempt>,
    },
    /// No tier answered.
    #[error("no tier answered")]
    #[non_exhaustive]
    Exhausted {
        /// Every attempt.
        attempts: Vec<Attempt>,
        /// When the first of the open breakers admits a probe, or the first overloaded backend wants to be asked again.
        /// Of what a backend asks for, at most [`Rest::LONGEST`]. `None` when no backend said when to come back.
        retry_after: Option<Duration>,
    },
    /// The deadline passed, or left a tier too little: for a call, or for one that could have been expected to answer.
    #[error("the deadline passed")]
    #[non_exhaustive]
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
    longest_rest: Option<Duration>,
}

impl<B: Backend> FallbackChain<B> {
    /// A chain of these tiers, tried in this order, with a retry budget of its own.
    pub fn new(tiers: Vec<Arc<Tier<B>>>) -> Self {
        let recorder = Recorder::new(tiers.iter().map(|tier| Arc::clone(&tier.name)));
        let budget = RetryBudget::new(RetryBudgetConfig::default(), Arc::new(SystemClock::new()));
        Self { tiers, recorder, budget, randomness: Arc::new(SplitMix64::from_entropy()), longest_rest: None }
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

    /// The same, waiting for a backend that has named a time (`Retry-After`) for at most so long; one that wants more is
    /// not asked again. By default it is the cap of its tier's backoff.
    #[must_use]
    pub fn with_longest_rest(mut self, longest: Duration) -> Self {
        self.longest_rest = Some(longest);
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
        let walk_guard = WalkGuard::new(&self.recorder, walk.trail);
        let attempts = std::mem::take(&mut walk.attempts);
        let ended = Walker::new(self, &walk, attempts).walk(&call).await;
        walk_guard.finish();
        ended
    }
}

#[cfg(test)]
mod tests;
