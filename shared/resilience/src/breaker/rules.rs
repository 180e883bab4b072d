//! The rules of the circuit breaker as a pure state machine: no lock, no clock, no log. The time is an argument.
//!
//! ```text
//!            a threshold is reached                    open wait passed, next acquire
//!   CLOSED ───────────────────────────────────► OPEN ─────────────────────────────► HALF_OPEN
//!     ▲                                          ▲                                     │  │
//!     │                                          └── a threshold reached, or too long ─┘  │
//!     └──────────────────────── enough probes, all thresholds kept ──────────────────────┘
//!
//!   any state ◄──────── an operator or the configuration ────────► FORCED_OPEN, DISABLED, METRICS_ONLY
//! ```
//!
//! Each entry into a state starts a new generation and an empty window. An outcome counts only in the generation that
//! admitted its call: a straggler from before the trip says nothing about the backend now, so it must neither close nor reopen
//! a breaker. A cancelled probe gives its slot back in its own generation only, so that there are never more probes out than
//! configured and none is ever lost. One exception has a file of its own: [`pass`].
//!
//! There are no timers. What a timer would have done in half-open happens at the next step, dated back to when it was due
//! ([`Rules::catch_up`]), so that no timer can outlive the state that it was meant for.
//!
//! Half-open lasts too long only while probes are out. The limit is there so that a probe that never settles cannot hold the
//! breaker; a half-open state that waits for traffic holds nobody, because the next call is a probe. If it went back to OPEN,
//! an idle breaker that goes half-open by itself would swing between the two for ever, each time one opening more and, where
//! waits grow, for longer: the backend would be punished for having no callers. So its time begins anew with the next probe.
//! Where the configuration has it close instead, nothing swings, and idleness closes it too.
//!
//! Where the specification leaves room: the run of failures goes on through OPEN and HALF_OPEN and starts anew with each entry
//! into CLOSED; a new open wait applies from the next opening. A window that changes its shape begins a new generation, and
//! empties only itself: the state is not entered anew, and all that is not the window's goes on, which is the run, a ramp, a
//! verdict on trial and what a backend asked for. None of these depends on what the window holds, and a new window is no reason
//! to let a flood in, or to forget that a backend fails.

mod operate;
mod pass;
mod phase;
#[cfg(test)]
mod tests;
mod transitions;

use std::sync::Arc;
use std::time::Duration;

use super::config::{CircuitBreakerConfig, OnDrop};
use super::state::{CallTotals, Outcome, State, Transition, TripReason};
use super::window::{Class, Ring, WindowCounts};
pub(super) use operate::Command;
use phase::{Phase, Share};

/// The circumstances in which a call was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) generation: u64,
    pub(super) state: State,
    /// Whether it was a probe that has passed since; see [`pass`].
    pub(super) has_passed: bool,
}

/// A call was not admitted: the state, and the rest of the wait where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) state: State,
    pub(super) retry_after: Option<Duration>,
}

/// How a permit was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    /// By its holder.
    Outcome {
        outcome: Outcome,
        /// How long the call took, where it was measured.
        took: Option<Duration>,
        /// How long the backend asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// By its drop, after it had been held for so long.
    Dropped { held: Option<Duration> },
}

/// An entry into a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) transition: Transition,
    /// The generation that began.
    pub(super) generation: u64,
    /// When it began, by the breaker's clock. Dated back where a due time was noticed later.
    pub(super) at: Duration,
    /// The open wait that began with it.
    pub(super) wait: Option<Duration>,
}

/// The state machine.
///
/// In C's order, so that what a success in CLOSED touches lies together at the beginning: with the lock before it, 128 bytes
/// up to the phase's tag.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Rules {
    generation: u64,
    config: Arc<CircuitBreakerConfig>,
    /// Failures in a row.
    run: u32,
    /// Whether no call has ended well since the probes passed.
    is_on_trial: bool,
    /// The window of CLOSED and METRICS_ONLY. Half-open keeps its own counts.
    ring: Ring,
    /// Counted here and not in `totals`.
    successes: u64,
    /// What the last step changed. A step enters two states at most: half-open lapses to open, whose wait is over too.
    changes: Option<Box<[Option<Change>; 2]>>,
    phase: Phase,
    totals: CallTotals,
    openings: u64,
    openings_in_a_row: u32,
    /// Until when the backend asked to be left alone, as far as was heard in this state.
    retry_at: Option<Duration>,
    /// What the present closed state rests on. `None` where no probes began it.
    verdict_passed: Option<pass::Verdict>,
    /// What the next wait is varied by: a random number, drawn ahead because where it comes from is somebody else's code.
    unit: f64,
}

impl Rules {
    /// `unit` varies the first open wait; see [`OpenWait`](super::OpenWait).
    pub(super) fn new(config: Arc<CircuitBreakerConfig>, unit: f64) -> Self {
        Self {
            generation: 0,
            run: 0,
            is_on_trial: false,
            ring: Ring::new(config.window()),
            successes: 0,
            changes: None,
            phase: Phase::of_mode(config.mode()),
            totals: CallTotals::default(),
            openings: 0,
            openings_in_a_row: 0,
            retry_at: None,
            verdict_passed: None,
            unit,
            config,
        }
    }

    /// The random number for the wait of the next opening.
    pub(super) fn vary_next_wait(&mut self, unit: f64) {
        self.unit = unit;
    }

    pub(super) fn config(&self) -> &Arc<CircuitBreakerConfig> {
        &self.config
    }

    pub(super) fn state(&self) -> State {
        self.phase.state()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn consecutive_failures(&self) -> u32 {
        self.run
    }

    /// Calls by outcome. `rejected` stays 0: the shell counts rejections, most of which never come here.
    pub(super) fn totals(&self) -> CallTotals {
        CallTotals { success: self.successes, ..self.totals }
    }

    pub(super) fn openings(&self) -> u64 {
        self.openings
    }

    pub(super) fn openings_in_a_row(&self) -> u32 {
        self.openings_in_a_row
    }

    /// Until when an open breaker rejects.
    pub(super) fn open_until(&self) -> Option<Duration> {
        match self.phase {
            Phase::Open { until } => Some(until),
            Phase::Closed { .. }
            | Phase::HalfOpen { .. }
            | Phase::ForcedOpen
            | Phase::Disabled
            | Phase::MetricsOnly => None,
        }
    }

    /// Permits out or used in this half-open generation.
    pub(super) fn half_open_permits(&self) -> u32 {
        match self.phase {
            Phase::HalfOpen { permits, .. } => permits,
            Phase::Closed { .. }
            | Phase::Open { .. }
            | Phase::ForcedOpen
            | Phase::Disabled
            | Phase::MetricsOnly => 0,
        }
    }

    /// Whether half-open has a place for another probe.
    pub(super) fn has_probe_free(&self) -> bool {
        self.state() == State::HalfOpen && self.half_open_permits() < self.config.half_open_calls()
    }

    /// What the window of the present state holds.
    pub(super) fn counts(&mut self, now: Duration) -> WindowCounts {
        match self.phase {
            Phase::HalfOpen { counts, .. } => counts,
            Phase::Closed { .. }
            | Phase::Open { .. }
            | Phase::ForcedOpen
            | Phase::Disabled
            | Phase::MetricsOnly => self.ring.counts_at(now),
        }
    }

    /// The calls from which the present state computes rates.
    pub(super) fn minimum_calls(&self) -> u32 {
        if self.state() == State::HalfOpen {
            self.config.deciding_probes()
        } else {
            self.config.minimum_calls()
        }
    }

    /// Whether a closed breaker admits only a share of the calls.
    pub(super) fn is_ramping(&self) -> bool {
        matches!(self.phase, Phase::Closed { ramp: Some(_) })
    }

    /// Whether recording an outcome needs the time.
    pub(super) fn is_timed(&self) -> bool {
        self.ring.is_timed()
    }

    /// Whether the last step changed the state.
    #[inline]
    pub(super) fn has_changed(&self) -> bool {
        self.changes.is_some()
    }

    /// What the last step changed, in order.
    pub(super) fn take_changes(&mut self) -> [Option<Change>; 2] {
        self.changes.take().map_or([None; 2], |changes| *changes)
    }

    /// Asks to make a call.
    pub(super) fn acquire(&mut self, now: Duration) -> Result<Admitted, Rejected> {
        self.catch_up(now);
        let retry_after = match &mut self.phase {
            Phase::Closed { ramp } => {
                match ramp.as_mut().map_or(Share::Whole, |ramping| ramping.admit(now)) {
                    Share::Whole => {
                        *ramp = None;
                        return Ok(self.admitted());
                    }
                    Share::In => return Ok(self.admitted()),
                    Share::Out { next_step } => Some(next_step),
                }
            }
            Phase::Disabled | Phase::MetricsOnly => return Ok(self.admitted()),
            Phase::Open { until } if now >= *until => {
                self.half_open(now);
                self.take_probe(now);
                return Ok(self.admitted());
            }
            Phase::Open { until } => Some(until.saturating_sub(now)),
            Phase::HalfOpen { .. } => {
                if self.take_probe(now) {
                    return Ok(self.admitted());
                }
                None
            }
            Phase::ForcedOpen => None,
        };
        Err(Rejected { state: self.state(), retry_after })
    }

    /// Does what time alone brings about. Says at what time there will be something to do again, if ever.
    ///
    /// It moves an open breaker to half-open only where the configuration has that done automatically.
    pub(super) fn tick(&mut self, now: Duration) -> Option<Duration> {
        self.catch_up(now);
        match self.phase {
            Phase::Open { until } if self.config.automatic_half_open() => {
                if now >= until {
                    self.half_open(now);
                    return self.half_open_end();
                }
                Some(until)
            }
            Phase::HalfOpen { .. } => self.half_open_end(),
            Phase::Open { .. }
            | Phase::Closed { .. }
            | Phase::ForcedOpen
            | Phase::Disabled
            | Phase::MetricsOnly => None,
        }
    }

    /// Settles a permit. Asks for the time only where the answer depends on it, which a call in CLOSED with a count window
    /// does not unless it trips the breaker.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "see `CircuitBreaker::settle`")]
    pub(super) fn settle(&mut self, now: impl Fn() -> Duration, admitted: Admitted, settlement: Settlement) {
        // Only a permit of this generation makes time pass; a late one changes nothing at all.
        if admitted.state == State::HalfOpen && admitted.generation == self.generation {
            self.catch_up(now());
        }
        if admitted.has_passed {
            self.settle_passed(now, admitted, settlement);
            return;
        }
        if admitted.generation != self.generation {
            self.totals.late += 1;
            return;
        }
        match settlement {
            Settlement::Outcome { outcome: Outcome::Success, took, .. } => {
                self.successes += 1;
                self.record(now, false, self.config.is_slow(took));
            }
            Settlement::Outcome { outcome: Outcome::Failure, took, retry_after } => {
                self.totals.failure += 1;
                self.asked_to_wait(&now, retry_after);
                self.record(now, true, self.config.is_slow(took));
            }
            Settlement::Outcome { outcome: Outcome::Ignored, .. } => {
                self.totals.ignored += 1;
                self.give_back();
            }
            Settlement::Dropped { held } => match (self.config.on_drop(), held) {
                (OnDrop::FailureAfter(limit), Some(held)) if held >= limit => {
                    self.totals.failure += 1;
                    self.record(now, true, true);
                }
                (OnDrop::FailureAfter(_) | OnDrop::Release, _) => {
                    self.totals.cancelled += 1;
                    self.give_back();
                }
            },
        }
    }

    fn asked_to_wait(&mut self, now: &impl Fn() -> Duration, retry_after: Option<Duration>) {
        if let Some(retry_after) = retry_after {
            self.retry_at = self.retry_at.max(Some(now().saturating_add(retry_after)));
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "see `CircuitBreaker::settle`")]
    fn record(&mut self, now: impl Fn() -> Duration, failed: bool, slow: bool) {
        if !matches!(self.phase, Phase::Closed { .. }) {
            self.record_elsewhere(now, failed, slow);
            return;
        }
        self.ring.add(Class::new(failed, slow), &now);
        self.count_run(failed);
        self.is_on_trial &= failed;
        if let Some(reason) = self.closed_verdict(failed) {
            self.open(now(), reason, None);
        }
    }

    /// Records an outcome in any state but CLOSED.
    #[inline(never)]
    fn record_elsewhere(&mut self, now: impl Fn() -> Duration, failed: bool, slow: bool) {
        match &mut self.phase {
            Phase::MetricsOnly => {
                self.ring.add(Class::new(failed, slow), now);
                self.count_run(failed);
            }
            Phase::HalfOpen { counts, .. } => {
                counts.add(Class::new(failed, slow));
                let counts = *counts;
                self.count_run(failed);
                self.judge_probes(now, &counts, failed);
            }
            // DISABLED records nothing. No call is admitted in the next two, so none is settled in their generations.
            Phase::Disabled | Phase::Open { .. } | Phase::ForcedOpen | Phase::Closed { .. } => {}
        }
    }

    #[inline]
    fn count_run(&mut self, failed: bool) {
        self.run = if failed { self.run.saturating_add(1) } else { 0 };
    }

    #[inline]
    fn closed_verdict(&self, failed: bool) -> Option<TripReason> {
        if failed && self.config.run_is_over(self.run) {
            return Some(TripReason::ConsecutiveFailures);
        }
        self.config.breached(self.ring.sums(), self.config.minimum_calls())
    }

    /// A probe slot, if one is free.
    fn take_probe(&mut self, now: Duration) -> bool {
        match &mut self.phase {
            Phase::HalfOpen { since, permits, .. } if *permits < self.config.half_open_calls() => {
                // Over its time and still half-open: no probe was out, so that its time begins with this one.
                if self.config.half_open_end(*since).is_some_and(|end| now >= end) {
                    *since = now;
                }
                *permits += 1;
                true
            }
            Phase::HalfOpen { .. }
            | Phase::Closed { .. }
            | Phase::Open { .. }
            | Phase::ForcedOpen
            | Phase::Disabled
            | Phase::MetricsOnly => false,
        }
    }

    fn give_back(&mut self) {
        if let Phase::HalfOpen { permits, .. } = &mut self.phase {
            *permits = permits.saturating_sub(1);
        }
    }

    fn admitted(&self) -> Admitted {
        Admitted { generation: self.generation, state: self.state(), has_passed: false }
    }
}
