//! The circuit breaker: a thin, thread-safe shell around the pure rules in [`rules`].
//!
//! The shell takes the time, holds the lock for one step of the rules, and speaks of what happened after the lock is
//! gone. A [`Permit`] is the only way to record an outcome, and settles exactly once: by a method or by its drop.

mod config;
mod permit;
mod rules;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use thiserror::Error;

use crate::clock::Clock;
pub use config::{CircuitBreakerConfig, InvalidConfig};
pub use permit::{Outcome, Permit};
use rules::Rules;
pub use rules::{CallTotals, State, TripReason};

/// A call was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("circuit breaker is {state}")]
pub struct CallNotPermitted {
    /// The state that rejected it.
    pub state: State,
    /// When to come back: the rest of the open wait. `None` when nobody can tell, as in half-open with all probes out.
    pub retry_after: Option<Duration>,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub reason: TripReason,
}

/// A breaker's state and counts at one moment, all read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The state. Reading it never changes it: an open breaker whose wait has passed is open until the next acquire.
    pub state: State,
    /// When it entered the state, by the wall clock.
    pub since: SystemTime,
    /// Grows by one with each entry into a state.
    pub generation: u64,
    /// Failures in a row up to now.
    pub consecutive_failures: u32,
    /// Counts since the breaker was made.
    pub totals: CallTotals,
    /// How often it opened.
    pub openings: u64,
    /// How long until the next probe is admitted. Only while open.
    pub next_probe_in: Option<Duration>,
    /// Probes out or used in this half-open generation. 0 in other states.
    pub half_open_permits: u32,
    /// How often each transition was made.
    pub transitions: Vec<(Transition, u64)>,
}

struct Inner {
    name: String,
    config: CircuitBreakerConfig,
    clock: Arc<dyn Clock>,
    guarded: Mutex<Guarded>,
}

struct Guarded {
    rules: Rules,
    since: SystemTime,
    transitions: Vec<(Transition, u64)>,
}

/// Guards the calls to one backend. Clones share one breaker.
#[derive(Clone)]
pub struct CircuitBreaker {
    inner: Arc<Inner>,
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.inner.name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl CircuitBreaker {
    /// A closed breaker, or a disabled one where the configuration says so.
    pub fn new(name: &str, config: CircuitBreakerConfig, clock: Arc<dyn Clock>) -> Self {
        let guarded =
            Mutex::new(Guarded { rules: Rules::new(&config), since: clock.wall(), transitions: Vec::new() });
        Self { inner: Arc::new(Inner { name: name.to_owned(), config, clock, guarded }) }
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &CircuitBreakerConfig {
        &self.inner.config
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.inner.guarded.lock().rules.state()
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// The breaker does not admit it; the error says when to come back.
    pub fn acquire(&self) -> Result<Permit, CallNotPermitted> {
        let admitted = self.step(Rules::acquire)?;
        Ok(Permit::new(self.clone(), admitted))
    }

    /// State and counts, read together.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.inner.clock.now();
        let guarded = self.inner.guarded.lock();
        let rules = &guarded.rules;
        Snapshot {
            state: rules.state(),
            since: guarded.since,
            generation: rules.generation(),
            consecutive_failures: rules.consecutive_failures(),
            totals: rules.totals(),
            openings: rules.openings(),
            next_probe_in: rules.next_probe_in(now),
            half_open_permits: rules.half_open_permits(),
            transitions: guarded.transitions.clone(),
        }
    }

    fn settle(&self, admitted: rules::Admitted, settlement: rules::Settlement) {
        self.step(|rules, config, now| rules.settle(config, now, admitted, settlement));
    }

    fn step<T>(&self, step: impl FnOnce(&mut Rules, &CircuitBreakerConfig, Duration) -> T) -> T {
        let inner = &*self.inner;
        let now = inner.clock.now();
        let mut guarded = inner.guarded.lock();
        let result = step(&mut guarded.rules, &inner.config, now);
        let Some(transition) = guarded.rules.take_transition() else {
            return result;
        };
        guarded.since = inner.clock.wall();
        match guarded.transitions.iter_mut().find(|(known, _)| *known == transition) {
            Some((_, times)) => *times += 1,
            None => guarded.transitions.push((transition, 1)),
        }
        drop(guarded);
        self.tell(transition);
        result
    }

    fn tell(&self, Transition { from, to, reason }: Transition) {
        let breaker = self.name();
        if to == State::Open {
            let open_wait_ms = u64::try_from(self.inner.config.open_wait().as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(breaker, %from, %to, %reason, open_wait_ms, "circuit breaker opened");
        } else {
            tracing::info!(breaker, %from, %to, %reason, "circuit breaker changed state");
        }
    }
}

#[cfg(test)]
mod tests;
