//! How the tiers of a chain did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::attempt::{AttemptOutcome, SkipReason};
use super::trail::Trail;

/// How a chain did since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainStats {
    /// Requests that ended.
    pub requests: u64,
    /// Requests that no tier answered.
    pub unanswered: u64,
    /// Requests that were given up before an end.
    pub cancelled: u64,
    /// The tiers, in order.
    pub tiers: Vec<TierStats>,
}

impl ChainStats {
    /// The part of all answers that this tier gave, from 0 to 1. `None` where there is no such tier, or no answer yet.
    #[allow(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
    pub fn share(&self, tier: usize) -> Option<f64> {
        let served: u64 = self.tiers.iter().map(|tier| tier.served).sum();
        let tier = self.tiers.get(tier)?;
        (served > 0).then(|| tier.served as f64 / served as f64)
    }
}

/// How a tier did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierStats {
    /// The tier.
    pub tier: Arc<str>,
    /// Calls made to its backends that ended, retries included.
    pub attempts: u64,
    /// Requests that it answered.
    pub served: u64,
    /// Calls that failed, timeouts included.
    pub failures: u64,
    /// Times that a backend, or the whole tier, was passed over without a call.
    pub skipped: u64,
    /// The same, by reason.
    pub skipped_by: SkipCounts,
    /// Calls among the attempts that asked a backend again which had just failed.
    pub retries: u64,
    /// Calls among the attempts that were made in parallel to one that was slow.
    pub hedges: u64,
    /// Retries, failovers and hedges that were not made because the chain's budget was spent.
    pub retries_refused: u64,
    /// The times of successful calls. `None` before the first.
    pub latency: Option<LatencyQuantiles>,
}

/// How often no attempt was made, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SkipCounts {
    /// [`SkipReason::Breaker`].
    pub breaker: u64,
    /// [`SkipReason::Deadline`].
    pub deadline: u64,
    /// [`SkipReason::Request`].
    pub request: u64,
    /// [`SkipReason::Bulkhead`].
    pub bulkhead: u64,
    /// [`SkipReason::Resting`].
    pub resting: u64,
    /// [`SkipReason::Budget`].
    pub budget: u64,
}

impl SkipCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { breaker, deadline, request, bulkhead, resting, budget } = self;
        breaker + deadline + request + bulkhead + resting + budget
    }
}

/// Quantiles of a latency, with a relative error of at most 1 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatencyQuantiles {
    /// Half of the calls were as fast.
    pub p50: Duration,
    /// 90 % of the calls were as fast.
    pub p90: Duration,
    /// 99 % of the calls were as fast.
    pub p99: Duration,
}

/// Longer calls are counted as this long: an hour, far over any deadline.
const LONGEST_MICROS: u64 = 3_600_000_000;

#[derive(Debug)]
struct TierRecorder {
    tier: Arc<str>,
    attempts: AtomicU64,
    served: AtomicU64,
    failures: AtomicU64,
    skipped_breaker: AtomicU64,
    skipped_deadline: AtomicU64,
    skipped_request: AtomicU64,
    skipped_bulkhead: AtomicU64,
    skipped_resting: AtomicU64,
    skipped_budget: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    retries_refused: AtomicU64,
    /// In microseconds. `None` only if a histogram cannot be made.
    latency: Option<Mutex<Histogram<u64>>>,
}

#[derive(Debug)]
pub(super) struct Recorder {
    requests: AtomicU64,
    unanswered: AtomicU64,
    cancelled: AtomicU64,
    tiers: Vec<TierRecorder>,
}

impl Recorder {
    pub(super) fn new(tiers: impl Iterator<Item = Arc<str>>) -> Self {
        let tiers = tiers
            .map(|tier| TierRecorder {
                tier,
                attempts: AtomicU64::new(0),
                served: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                skipped_breaker: AtomicU64::new(0),
                skipped_deadline: AtomicU64::new(0),
                skipped_request: AtomicU64::new(0),
                skipped_bulkhead: AtomicU64::new(0),
                skipped_resting: AtomicU64::new(0),
                skipped_budget: AtomicU64::new(0),
                retries: AtomicU64::new(0),
                hedges: AtomicU64::new(0),
                retries_refused: AtomicU64::new(0),
                latency: Histogram::new_with_bounds(1, LONGEST_MICROS, 2).ok().map(Mutex::new),
            })
            .collect();
        Self {
            requests: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            tiers,
        }
    }

    pub(super) fn served(&self, tier: usize, took: Duration) {
        let tier = &self.tiers[tier];
        tier.attempts.fetch_add(1, Ordering::Relaxed);
        tier.served.fetch_add(1, Ordering::Relaxed);
        if let Some(latency) = &tier.latency {
            latency.lock().saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn ended(&self, tier: usize, outcome: AttemptOutcome) {
        let tier = &self.tiers[tier];
        tier.attempts.fetch_add(1, Ordering::Relaxed);
        if matches!(outcome, AttemptOutcome::Failure | AttemptOutcome::Timeout) {
            tier.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn skipped(&self, tier: usize, reason: SkipReason) {
        let tier = &self.tiers[tier];
        let count = match reason {
            SkipReason::Breaker => &tier.skipped_breaker,
            SkipReason::Deadline => &tier.skipped_deadline,
            SkipReason::Request => &tier.skipped_request,
            SkipReason::Bulkhead => &tier.skipped_bulkhead,
            SkipReason::Resting => &tier.skipped_resting,
            SkipReason::Budget => &tier.skipped_budget,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retried(&self, tier: usize) {
        self.tiers[tier].retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hedged(&self, tier: usize) {
        self.tiers[tier].hedges.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retry_refused(&self, tier: usize) {
        self.tiers[tier].retries_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> ChainStats {
        ChainStats {
            requests: self.requests.load(Ordering::Relaxed),
            unanswered: self.unanswered.load(Ordering::Relaxed),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            tiers: self.tiers.iter().map(TierRecorder::stats).collect(),
        }
    }
}

impl TierRecorder {
    fn stats(&self) -> TierStats {
        let latency = self.latency.as_ref().and_then(|latency| {
            let latency = latency.lock();
            let quantile = |q| Duration::from_micros(latency.value_at_quantile(q));
            (!latency.is_empty()).then(|| LatencyQuantiles {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
            })
        });
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let skipped_by = SkipCounts {
            breaker: read(&self.skipped_breaker),
            deadline: read(&self.skipped_deadline),
            request: read(&self.skipped_request),
            bulkhead: read(&self.skipped_bulkhead),
            resting: read(&self.skipped_resting),
            budget: read(&self.skipped_budget),
        };
        TierStats {
            tier: Arc::clone(&self.tier),
            attempts: read(&self.attempts),
            served: read(&self.served),
            failures: read(&self.failures),
            skipped: skipped_by.total(),
            skipped_by,
            retries: read(&self.retries),
            hedges: read(&self.hedges),
            retries_refused: read(&self.retries_refused),
            latency,
        }
    }
}

/// Counts a walk exactly once, also when its future is dropped. One whose request was answered elsewhere is not counted.
#[derive(Debug)]
pub(super) struct WalkGuard<'a> {
    recorder: &'a Recorder,
    trail: Option<&'a Trail>,
    finished: bool,
}

impl<'a> WalkGuard<'a> {
    pub(super) fn new(recorder: &'a Recorder, trail: Option<&'a Trail>) -> Self {
        Self { recorder, trail, finished: false }
    }

    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for WalkGuard<'_> {
    fn drop(&mut self) {
        if !self.finished && self.trail.is_some_and(Trail::is_answered) {
            return;
        }
        self.recorder.requests.fetch_add(1, Ordering::Relaxed);
        if !self.finished {
            self.recorder.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}
