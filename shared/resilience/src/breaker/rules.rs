//! The rules of the circuit breaker as a pure state machine: no lock, no clock, no log. The time is an argument.
//!
//! ```text
//!            threshold of failures in a row            open wait passed, next acquire
//!   CLOSED ───────────────────────────────────► OPEN ─────────────────────────────► HALF_OPEN
//!     ▲                                          ▲                                     │  │
//!     │                                          └──────────── a probe failed ─────────┘  │
//!     └───────────────────────────── all probes succeeded ───────────────────────────────┘
//! ```
//!
//! Each entry into a state starts a new generation. An outcome counts only in the generation that admitted its call:
//! a straggler from before the trip says nothing about the backend now, so it must neither close nor reopen a breaker.
//! A cancelled probe gives its slot back in its own generation only, so that there are never more probes out than
//! configured and none is ever lost.

use std::fmt;
use std::time::Duration;

use super::config::CircuitBreakerConfig;
use super::permit::Outcome;
use super::{CallNotPermitted, Transition};

/// The states of a breaker. Closed means that traffic flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Calls are admitted and their outcomes counted.
    Closed,
    /// Calls are rejected until the open wait has passed.
    Open,
    /// A few calls are admitted as probes.
    HalfOpen,
    /// Calls are admitted and nothing is counted.
    Disabled,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Open, Self::HalfOpen, Self::Disabled];

    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a breaker changed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TripReason {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// The open wait has passed.
    OpenWaitPassed,
    /// A probe failed.
    ProbeFailed,
    /// All probes succeeded.
    ProbesPassed,
}

impl TripReason {
    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::OpenWaitPassed => "open_wait_passed",
            Self::ProbeFailed => "probe_failed",
            Self::ProbesPassed => "probes_passed",
        }
    }
}

impl fmt::Display for TripReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Calls since a breaker was made, by what became of them. Admitted calls that have ended are the sum of all but
/// `rejected`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallTotals {
    /// Succeeded.
    pub success: u64,
    /// Failed.
    pub failure: u64,
    /// Ended in a way that says nothing about the backend.
    pub ignored: u64,
    /// Not admitted.
    pub rejected: u64,
    /// Admitted, and given up by the caller.
    pub cancelled: u64,
    /// Settled after the breaker had moved on: counted here and nowhere else.
    pub late: u64,
}

/// The circumstances in which a call was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) generation: u64,
    pub(super) state: State,
}

/// How a permit was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    Outcome(Outcome),
    Cancelled,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Duration },
    HalfOpen { permits: u32, passed: u32 },
    Disabled,
}

#[derive(Debug)]
pub(super) struct Rules {
    phase: Phase,
    generation: u64,
    consecutive_failures: u32,
    openings: u64,
    totals: CallTotals,
    transition: Option<Transition>,
}

impl Rules {
    pub(super) fn new(config: &CircuitBreakerConfig) -> Self {
        Self {
            phase: if config.is_enabled() { Phase::Closed } else { Phase::Disabled },
            generation: 0,
            consecutive_failures: 0,
            openings: 0,
            totals: CallTotals::default(),
            transition: None,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
            Phase::Disabled => State::Disabled,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures
    }

    pub(super) fn openings(&self) -> u64 {
        self.openings
    }

    pub(super) fn totals(&self) -> CallTotals {
        self.totals
    }

    pub(super) fn next_probe_in(&self, now: Duration) -> Option<Duration> {
        match self.phase {
            Phase::Open { until } => Some(until.saturating_sub(now)),
            Phase::Closed | Phase::HalfOpen { .. } | Phase::Disabled => None,
        }
    }

    pub(super) fn half_open_permits(&self) -> u32 {
        match self.phase {
            Phase::HalfOpen { permits, .. } => permits,
            Phase::Closed | Phase::Open { .. } | Phase::Disabled => 0,
        }
    }

    /// The transition that the last step made, if it made one. A step makes at most one.
    pub(super) fn take_transition(&mut self) -> Option<Transition> {
        self.transition.take()
    }

    pub(super) fn acquire(
        &mut self,
        config: &CircuitBreakerConfig,
        now: Duration,
    ) -> Result<Admitted, CallNotPermitted> {
        let rejected = match &mut self.phase {
            Phase::Closed | Phase::Disabled => None,
            Phase::Open { until } if now >= *until => {
                self.enter(Phase::HalfOpen { permits: 1, passed: 0 }, TripReason::OpenWaitPassed);
                None
            }
            Phase::Open { until } => Some(Some(until.saturating_sub(now))),
            Phase::HalfOpen { permits, .. } if *permits < config.half_open_calls() => {
                *permits += 1;
                None
            }
            Phase::HalfOpen { .. } => Some(None),
        };
        if let Some(retry_after) = rejected {
            self.totals.rejected += 1;
            return Err(CallNotPermitted { state: self.state(), retry_after });
        }
        Ok(Admitted { generation: self.generation, state: self.state() })
    }

    pub(super) fn settle(
        &mut self,
        config: &CircuitBreakerConfig,
        now: Duration,
        admitted: Admitted,
        settlement: Settlement,
    ) {
        if admitted.generation != self.generation {
            self.totals.late += 1;
            return;
        }
        match settlement {
            Settlement::Cancelled => {
                self.totals.cancelled += 1;
                self.give_back();
            }
            Settlement::Outcome(Outcome::Ignored) => {
                self.totals.ignored += 1;
                self.give_back();
            }
            Settlement::Outcome(Outcome::Success) => {
                self.totals.success += 1;
                self.succeeded(config);
            }
            Settlement::Outcome(Outcome::Failure) => {
                self.totals.failure += 1;
                self.failed(config, now);
            }
        }
    }

    fn give_back(&mut self) {
        if let Phase::HalfOpen { permits, .. } = &mut self.phase {
            *permits -= 1;
        }
    }

    fn succeeded(&mut self, config: &CircuitBreakerConfig) {
        match &mut self.phase {
            Phase::Closed => self.consecutive_failures = 0,
            Phase::HalfOpen { passed, .. } => {
                *passed += 1;
                if *passed >= config.half_open_calls() {
                    self.enter(Phase::Closed, TripReason::ProbesPassed);
                    self.consecutive_failures = 0;
                }
            }
            Phase::Open { .. } | Phase::Disabled => {}
        }
    }

    fn failed(&mut self, config: &CircuitBreakerConfig, now: Duration) {
        let reason = match self.phase {
            Phase::Closed => {
                self.consecutive_failures += 1;
                if self.consecutive_failures < config.failure_threshold() {
                    return;
                }
                TripReason::ConsecutiveFailures
            }
            Phase::HalfOpen { .. } => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                TripReason::ProbeFailed
            }
            Phase::Open { .. } | Phase::Disabled => return,
        };
        self.openings += 1;
        self.enter(Phase::Open { until: now.saturating_add(config.open_wait()) }, reason);
    }

    fn enter(&mut self, phase: Phase, reason: TripReason) {
        let from = self.state();
        self.phase = phase;
        self.generation += 1;
        self.transition = Some(Transition { from, to: self.state(), reason });
    }
}
