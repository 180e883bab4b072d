//! Latencies of one kind: of this window, and the baseline.
//!
//! All in logarithms: their mean is the geometric mean, a difference is a ratio, and how much they differ has the same meaning
//! for answers of a tenth of a second and of a minute.

use std::time::Duration;

/// How many calls the baseline is at most thought to be made of: what comes new always counts.
const MEMORY: u32 = 300;
/// How many standard errors a mean must differ by to differ surely.
const CERTAINTY: f64 = 2.0;
/// How much of a window's own variance is taken over, and of its mean into that of the windows lately.
const LEARNING: f64 = 0.2;
const FOLLOWING: f64 = 0.3;
/// How long the first answers are only listened to, and how many of their latencies: the first to end are the shortest.
const WARM_UP: Duration = Duration::from_secs(5);
const WARM_UP_LATENCIES: f64 = 5.0;
/// What ended at once took so long.
const SHORTEST: Duration = Duration::from_micros(1);

#[derive(Debug, Clone, Copy)]
struct Baseline {
    mean: f64,
    /// How many calls it is made of.
    calls: u32,
}

/// How much longer calls take than without a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slowness {
    /// In the windows that filled the limit lately, as it looks.
    pub(super) lately: f64,
    /// In this window, at least.
    pub(super) surely: f64,
}

impl Slowness {
    /// Over all kinds that are known well enough. `None`: no call of this window was of such a kind.
    pub(super) fn of(kinds: [&Latencies; 2]) -> Option<Self> {
        let (mut excess, mut lately, mut variance, mut calls) = (0.0, 0.0, 0.0, 0.0);
        for latencies in kinds.into_iter().filter(|latencies| latencies.warm) {
            if let Some(more) = latencies.excess() {
                let of_these = f64::from(latencies.calls);
                excess += of_these * more.mean;
                lately += of_these * more.lately;
                variance += of_these * of_these * more.variance;
                calls += of_these;
            }
        }
        (calls > 0.0).then(|| {
            let surely = (excess - CERTAINTY * variance.sqrt()) / calls;
            Self { lately: (lately / calls).exp(), surely: surely.exp() }
        })
    }
}

/// By how much latencies have fallen since they were remembered, as a logarithm, over all kinds. `None`: nothing was measured.
pub(super) fn fall(kinds: [&Latencies; 2]) -> Option<f64> {
    let (mut fall, mut calls) = (0.0, 0.0);
    for latencies in kinds {
        if let (Some(mean), Some(before)) = (latencies.mean(), latencies.lately) {
            fall += f64::from(latencies.calls) * (before - mean);
            calls += f64::from(latencies.calls);
        }
    }
    (calls > 0.0).then(|| fall / calls)
}

/// By how much this window's mean is over the baseline, and that of the windows lately.
struct Excess {
    mean: f64,
    lately: f64,
    variance: f64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Latencies {
    /// `None` before the first window.
    baseline: Option<Baseline>,
    /// Of single calls.
    variance: f64,
    /// When the first call began.
    known_since: Option<Duration>,
    /// Whether that was long enough ago to judge by the baseline.
    warm: bool,
    /// The mean of the windows that filled the limit, one after the other: of the later ones more than of the earlier ones.
    lately: Option<f64>,
    sum: f64,
    sum_of_squares: f64,
    calls: u32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            baseline: None,
            // Before it is known, that of an exponential law or a little less.
            variance: 1.0,
            known_since: None,
            warm: false,
            lately: None,
            sum: 0.0,
            sum_of_squares: 0.0,
            calls: 0,
        }
    }
}

impl Latencies {
    pub(super) fn add(&mut self, now: Duration, latency: Duration) {
        self.known_since.get_or_insert(now.saturating_sub(latency));
        let latency = latency.max(SHORTEST).as_secs_f64().ln();
        self.sum += latency;
        self.sum_of_squares += latency * latency;
        self.calls = self.calls.saturating_add(1);
    }

    /// Of this window.
    pub(super) fn calls(&self) -> u32 {
        self.calls
    }

    fn mean(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.sum / f64::from(self.calls))
    }

    fn excess(&self) -> Option<Excess> {
        let (mean, baseline) = (self.mean()?, self.baseline?);
        let variance = self.variance * (1.0 / f64::from(self.calls) + 1.0 / f64::from(baseline.calls.max(1)));
        let lately = self.lately.unwrap_or(mean) - baseline.mean;
        Some(Excess { mean: mean - baseline.mean, lately, variance })
    }

    /// Takes this window into the baseline. One in which the limit was busy only where it lowers it.
    pub(super) fn learn(&mut self, busy: bool) {
        let Some(mean) = self.mean() else { return };
        let is_lower = self.excess().is_some_and(|more| more.mean + CERTAINTY * more.variance.sqrt() < 0.0);
        if !busy || !self.warm || is_lower {
            let Baseline { mean: old, calls } = self.baseline.unwrap_or(Baseline { mean, calls: 0 });
            let all = calls.saturating_add(self.calls);
            let weight = f64::from(self.calls) / f64::from(all);
            self.baseline = Some(Baseline { mean: old + weight * (mean - old), calls: all.min(MEMORY) });
        }
        if self.calls > 1 {
            let calls = f64::from(self.calls);
            let variance = ((self.sum_of_squares - calls * mean * mean) / (calls - 1.0)).max(0.0);
            self.variance += LEARNING * (variance - self.variance);
        }
    }

    /// Says whether from now on the baseline is known well enough to judge by.
    pub(super) fn warm_up(&mut self, now: Duration) -> bool {
        let (Some(since), Some(baseline)) = (self.known_since, self.baseline) else { return false };
        let age = now.saturating_sub(since);
        let is_now =
            !self.warm && age >= WARM_UP && age.as_secs_f64() >= WARM_UP_LATENCIES * baseline.mean.exp();
        self.warm |= is_now;
        is_now
    }

    /// Adds this window to those lately, or begins anew.
    pub(super) fn follow(&mut self, on: bool) {
        self.lately = match (self.lately, self.mean()) {
            (_, _) if !on => None,
            (Some(lately), Some(mean)) => Some(lately + FOLLOWING * (mean - lately)),
            (lately, mean) => lately.or(mean),
        };
    }

    /// Remembers what calls take now, to be compared with what comes. Says how long that is.
    pub(super) fn remember(&mut self) -> Duration {
        self.lately = self.lately.or(self.mean());
        self.lately.and_then(|mean| Duration::try_from_secs_f64(mean.exp()).ok()).unwrap_or_default()
    }

    /// Takes this window's mean for the baseline, where `rule` wants so of one that is lower, or not.
    pub(super) fn learn_anew(&mut self, rule: impl Fn(bool) -> bool) {
        if let Some(mean) = self.mean()
            && rule(self.baseline.is_none_or(|baseline| mean < baseline.mean))
        {
            self.baseline = Some(Baseline { mean, calls: self.calls });
        }
    }

    pub(super) fn end_window(&mut self) {
        (self.sum, self.sum_of_squares, self.calls) = (0.0, 0.0, 0);
    }
}
