//! How a state is left and the next one entered.

use std::time::Duration;

use super::super::config::AfterHalfOpen;
use super::super::state::{State, Transition, TripReason};
use super::phase::{Phase, Ramping};
use super::{Change, Rules};

impl Rules {
    /// When the present half-open state will have lasted too long, as things stand.
    pub(super) fn half_open_end(&self) -> Option<Duration> {
        match self.phase {
            Phase::HalfOpen { since, permits, counts } => {
                let is_held_up = u64::from(permits) > counts.calls();
                if is_held_up || self.config.after_half_open() == AfterHalfOpen::Close {
                    self.config.half_open_end(since)
                } else {
                    None
                }
            }
            Phase::Closed { .. }
            | Phase::Open { .. }
            | Phase::ForcedOpen
            | Phase::Disabled
            | Phase::MetricsOnly => None,
        }
    }

    /// Ends a half-open state that has lasted too long, as of the moment when it became too long.
    pub(super) fn catch_up(&mut self, now: Duration) {
        let Some(end) = self.half_open_end().filter(|end| now >= *end) else { return };
        match self.config.after_half_open() {
            AfterHalfOpen::Open => self.open(end, TripReason::HalfOpenTimedOut, None),
            AfterHalfOpen::Close => self.close(end, TripReason::HalfOpenTimedOut),
        }
    }

    /// Opens; `wait` stands in for the configured wait.
    #[cold]
    pub(super) fn open(&mut self, now: Duration, reason: TripReason, wait: Option<Duration>) {
        self.openings += 1;
        self.openings_in_a_row = self.openings_in_a_row.saturating_add(1);
        let policy = *self.config.open_wait_policy();
        let wait = wait.unwrap_or_else(|| policy.of(self.openings_in_a_row, self.unit));
        let asked = self.retry_at.map_or(Duration::ZERO, |at| at.saturating_sub(now)).min(policy.cap());
        let wait = wait.max(asked);
        self.enter(now, Phase::Open { until: now.saturating_add(wait) }, reason, Some(wait));
    }

    #[cold]
    pub(super) fn close(&mut self, now: Duration, reason: TripReason) {
        let ramp = self.config.ramp().map(|ramp| Ramping::new(ramp.clone(), now));
        let verdict = self.verdict();
        self.run = 0;
        self.openings_in_a_row = 0;
        self.enter(now, Phase::Closed { ramp }, reason, None);
        self.is_on_trial = verdict.is_some();
        self.verdict_passed = verdict;
    }

    #[cold]
    pub(super) fn half_open(&mut self, now: Duration) {
        self.enter(now, Phase::half_open(now), TripReason::OpenWaitPassed, None);
    }

    pub(super) fn enter(&mut self, at: Duration, phase: Phase, reason: TripReason, wait: Option<Duration>) {
        let from = self.state();
        self.phase = phase;
        self.retry_at = None;
        self.is_on_trial = false;
        self.verdict_passed = None;
        self.begin_generation(at, from, reason, wait);
    }

    pub(super) fn begin_generation(
        &mut self,
        at: Duration,
        from: State,
        reason: TripReason,
        wait: Option<Duration>,
    ) {
        self.generation += 1;
        self.ring.clear();
        let transition = Transition { from, to: self.state(), reason };
        let change = Change { transition, generation: self.generation, at, wait };
        match &mut self.changes {
            None => self.changes = Some(Box::new([Some(change), None])),
            Some(changes) => changes[1] = Some(change),
        }
    }
}
