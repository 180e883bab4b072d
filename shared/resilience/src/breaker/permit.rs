//! The right to make one call, and the duty to say how it ended.

use std::fmt;

use super::CircuitBreaker;
use super::rules::{Admitted, Settlement, State};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The backend did its work.
    Success,
    /// The backend failed, or did not answer in time.
    Failure,
    /// It ended in a way that says nothing about the backend's health, such as a request that it rightly refused.
    Ignored,
}

/// An admitted call. Settles exactly once.
///
/// Dropped without an outcome it is cancelled: nothing is recorded, and a probe's slot is given back. In Rust a future
/// can be dropped at any await, so this is how an abandoned call ends. Dropped by a panic, it is a failure.
#[must_use = "a permit that is dropped at once cancels the call"]
pub struct Permit {
    breaker: CircuitBreaker,
    admitted: Admitted,
    settled: bool,
}

impl Permit {
    pub(super) fn new(breaker: CircuitBreaker, admitted: Admitted) -> Self {
        Self { breaker, admitted, settled: false }
    }

    /// The state in which the call was admitted.
    pub fn state(&self) -> State {
        self.admitted.state
    }

    /// The call succeeded.
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// The call failed.
    pub fn failure(self) {
        self.record(Outcome::Failure);
    }

    /// The call's end says nothing about the backend.
    pub fn ignored(self) {
        self.record(Outcome::Ignored);
    }

    /// Settles a probe as a success and goes on with a permit like any other, if the breaker gives one. Any other permit
    /// is returned as it is.
    pub(crate) fn passed_probe(self) -> Option<Self> {
        if self.state() != State::HalfOpen {
            return Some(self);
        }
        let breaker = self.breaker.clone();
        self.success();
        breaker.acquire().ok()
    }

    /// Records an outcome.
    pub fn record(mut self, outcome: Outcome) {
        self.settled = true;
        self.breaker.settle(self.admitted, Settlement::Outcome(outcome));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.settled {
            let settlement = if std::thread::panicking() {
                Settlement::Outcome(Outcome::Failure)
            } else {
                Settlement::Cancelled
            };
            self.breaker.settle(self.admitted, settlement);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("breaker", &self.breaker.name())
            .field("admitted", &self.admitted)
            .finish_non_exhaustive()
    }
}
