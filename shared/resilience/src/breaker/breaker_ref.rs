//! Looking at a breaker without holding it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::CircuitBreaker;

/// A breaker of a registry, to be looked at: for a list or a scrape of metrics.
///
/// It can do what a [`CircuitBreaker`] can, but who has it does not count as somebody who holds the breaker. An idle one may be
/// given up under it, and the registry then makes a new one for the name. To go on using a breaker, take it by name.
#[derive(Debug)]
pub struct BreakerRef(CircuitBreaker);

impl BreakerRef {
    pub(crate) fn new(breaker: &CircuitBreaker) -> Self {
        breaker.inner.onlookers.fetch_add(1, Ordering::Relaxed);
        Self(breaker.clone())
    }
}

impl Deref for BreakerRef {
    type Target = CircuitBreaker;

    fn deref(&self) -> &CircuitBreaker {
        &self.0
    }
}

impl Drop for BreakerRef {
    fn drop(&mut self) {
        // Ahead of the handle's own drop: for a moment one holder too many is seen, never one too few.
        self.0.inner.onlookers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CircuitBreaker {
    /// Whether somebody besides the registry holds a handle of this breaker, or an owned permit. To be asked by the registry
    /// alone, while nobody can get a [`BreakerRef`].
    pub(crate) fn is_shared(&self) -> bool {
        let handles = Arc::strong_count(&self.inner);
        // Who has given up a handle since it was an onlooker's is seen to be no onlooker.
        fence(Ordering::Acquire);
        handles > 1 + self.inner.onlookers.load(Ordering::Relaxed)
    }
}
