//! Probes that pass before their calls have ended.
//!
//! A streamed answer may go on for minutes. A probe that held half-open all that time would keep everybody else from a
//! backend that is well; one that counted as a plain success with its first chunk would know nothing of the end, and a
//! backend that cuts every stream would be closed and opened in turns, each turn at the price of a whole run of failures.
//! So it passes for the time being: its first chunk counts as its success, and the verdict of the probes stands on trial
//! until a call that ended well confirms it. A probe that ends in failure before that turns its success into the failure that
//! it was, and if the probes would not have passed so, the breaker opens as if it had never closed.
//!
//! Its end, whatever it is, counts in the closed state that followed like any other call's.

use std::time::Duration;

use super::super::config::CircuitBreakerConfig;
use super::super::state::{Outcome, TripReason};
use super::super::window::{Class, WindowCounts};
use super::{Admitted, Phase, Rules, Settlement};

/// What closed a breaker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdict {
    /// The half-open generation.
    generation: u64,
    counts: WindowCounts,
    /// Failures in a row, and openings, as they were.
    run: u32,
    openings_in_a_row: u32,
}

impl Rules {
    /// A probe has its first chunk, after `took` where that was measured, and passes for the time being. Says whether it does:
    /// one of another generation is late, and will be.
    pub(in crate::breaker) fn pass(
        &mut self,
        now: Duration,
        admitted: Admitted,
        took: Option<Duration>,
    ) -> bool {
        if admitted.generation != self.generation {
            return false;
        }
        self.catch_up(now);
        let slow = self.config.is_slow(took);
        let Phase::HalfOpen { counts, .. } = &mut self.phase else { return false };
        counts.add(Class::new(false, slow));
        let counts = *counts;
        self.judge_probes(|| now, &counts, false);
        true
    }

    /// A probe has ended, or passed.
    pub(super) fn judge_probes(&mut self, now: impl Fn() -> Duration, counts: &WindowCounts, failed: bool) {
        if have_failed(&self.config, counts, self.run, failed) {
            self.open(now(), TripReason::ProbeFailed, None);
        } else if counts.calls() >= u64::from(self.config.deciding_probes()) {
            self.close(now(), TripReason::ProbesPassed);
        }
    }

    /// What the verdict on the probes of the present half-open state rests on.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let Phase::HalfOpen { counts, .. } = self.phase else { return None };
        let (generation, run, openings_in_a_row) = (self.generation, self.run, self.openings_in_a_row);
        Some(Verdict { generation, counts, run, openings_in_a_row })
    }

    /// Settles the permit of a probe that has passed.
    #[cold]
    pub(super) fn settle_passed(
        &mut self,
        now: impl Fn() -> Duration,
        admitted: Admitted,
        settlement: Settlement,
    ) {
        let here = admitted.generation == self.generation;
        let closed = self.verdict_passed.filter(|verdict| verdict.generation == admitted.generation);
        if !here && closed.is_none() {
            self.totals.late += 1;
            return;
        }
        match settlement {
            Settlement::Outcome { outcome: Outcome::Success, took, .. } => {
                self.successes += 1;
                if here {
                    self.run = 0;
                } else {
                    self.record(now, false, self.config.is_slow(took));
                }
            }
            Settlement::Outcome { outcome: Outcome::Failure, took, retry_after } => {
                self.totals.failure += 1;
                self.asked_to_wait(&now, retry_after);
                let slow = self.config.is_slow(took);
                if !self.revise(&now, slow) && !here {
                    self.record(now, true, slow);
                }
            }
            Settlement::Outcome { outcome: Outcome::Ignored, .. } => self.totals.ignored += 1,
            // A call that has begun is dropped as a success; were it not, nothing would be known of its end.
            Settlement::Dropped { .. } => self.totals.cancelled += 1,
        }
    }

    /// A probe that had passed has failed. Opens the breaker if the verdict is not confirmed yet and does not stand without it;
    /// says whether it does.
    fn revise(&mut self, now: &impl Fn() -> Duration, slow: bool) -> bool {
        let closed = self.verdict_passed.filter(|_| self.is_on_trial);
        let Some(mut verdict) = self.verdict().or(closed) else { return false };
        verdict.counts.turn_to_failure(slow);
        verdict.run = verdict.run.saturating_add(1);
        let stands = !have_failed(&self.config, &verdict.counts, verdict.run, true);
        match &mut self.phase {
            Phase::HalfOpen { counts, .. } => {
                *counts = verdict.counts;
                self.run = verdict.run;
            }
            Phase::Closed { .. } if stands => self.verdict_passed = Some(verdict),
            Phase::Closed { .. } => {
                self.run = verdict.run;
                self.openings_in_a_row = verdict.openings_in_a_row;
            }
            Phase::Open { .. } | Phase::ForcedOpen | Phase::Disabled | Phase::MetricsOnly => {}
        }
        if !stands {
            self.open(now(), TripReason::ProbeFailed, None);
        }
        !stands
    }
}

/// Whether probes with these outcomes, the last of which has `failed`, open the breaker again.
fn have_failed(config: &CircuitBreakerConfig, counts: &WindowCounts, run: u32, failed: bool) -> bool {
    let bad = failed && (config.one_failed_probe_reopens() || config.run_is_over(run));
    bad || config.breached(counts.sums(), config.deciding_probes()).is_some()
}
