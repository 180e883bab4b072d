//! How many calls a tier can take at a time, found out by its latency.
//!
//! A server answers a number of calls side by side. More than that wait in its queue: every call then takes longer and none is
//! answered sooner. The limit looks for the point where the queue begins, so that what does not fit is turned away here at once
//! instead of there by a timeout. The family is that of Netflix's concurrency-limits; the rule is its Gradient2, with two
//! changes.
//!
//! **The rule.** Latencies are gathered in windows, because the prompts of single calls differ more than the load does. At the
//! end of a window its mean is compared with the baseline, the latency without a queue: `gradient = tolerance × baseline /
//! mean`, within ½ and 1. The new limit is `limit × gradient + √limit`, and is approached by a fifth. A timeout or an overload
//! answer takes a tenth off at once, at most once a window: whoever says so need not be measured.
//!
//! **Why not AIMD.** It needs a latency that is too long, and nobody can set it: half of the tier's timeout would let a queue of
//! seconds build before a fast server. **Why not Vegas.** Its baseline is the fastest answer ever seen; for a model that is a
//! prompt of two words in the cache, and everything else would look like a queue.
//!
//! **The first change: the baseline.** Gradient2 takes a long average for it, which under lasting load learns the queue: the
//! limit creeps to its maximum. Here a window that used at least half of the limit can only lower it. It may then be out of
//! date, where prompts have become longer or the server slower for good, and would strangle a server that has no queue at all.
//! So when calls have looked slow for [`PROBE_EVERY`], the limit is halved for two windows, one for the queue to drain and one
//! to measure the baseline anew, as BBR does for its round-trip time. The limit stands at about twice what the server does side
//! by side, so half of it still keeps the server busy.
//!
//! **The second: no growth unseen.** The limit grows only in windows that used at least half of it. What nobody asks for is
//! not known to be possible.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::breaker::InvalidConfig;

/// How much longer than the baseline calls may take before the limit shrinks.
const TOLERANCE: f64 = 1.5;
/// The part of the way to the new limit that one window goes.
const SMOOTHING: f64 = 0.2;
/// What is left of the limit after a timeout or an overload.
const BACKOFF: f64 = 0.9;
/// A window ends when it is this old and has this many latencies.
const WINDOW: Duration = Duration::from_millis(500);
const WINDOW_CALLS: u32 = 10;
/// A window that stays short of calls ends at this age with what it has.
const LONGEST_WINDOW: Duration = Duration::from_secs(10);
/// How much of a new mean the baseline takes over.
const LEARNING: f64 = 0.2;
/// From this slowness on, it is either a queue or a baseline that is out of date.
const DOUBTFUL: f64 = 1.25;
/// How long that may last before the baseline is measured anew.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);

/// The bounds of an adaptive limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveConfig {
    min: NonZeroU32,
    initial: NonZeroU32,
    max: NonZeroU32,
}

impl AdaptiveConfig {
    /// A limit that begins at `initial` and stays from `min` to `max` calls at a time.
    ///
    /// # Errors
    /// `min` is zero, or they are not in this order.
    pub fn new(min: u32, initial: u32, max: u32) -> Result<Self, InvalidConfig> {
        let refuse = |field, rule| InvalidConfig { field, rule };
        let min = NonZeroU32::new(min).ok_or(refuse("concurrency.min", "at least 1"))?;
        let of = |value: u32| NonZeroU32::new(value).filter(|value| *value >= min);
        let max = of(max).ok_or(refuse("concurrency.max", "at least concurrency.min"))?;
        let initial = of(initial)
            .filter(|initial| *initial <= max)
            .ok_or(refuse("concurrency.initial", "from concurrency.min to concurrency.max"))?;
        Ok(Self { min, initial, max })
    }

    /// The least, in calls at a time.
    pub fn min(&self) -> u32 {
        self.min.get()
    }

    /// What it begins with.
    pub fn initial(&self) -> u32 {
        self.initial.get()
    }

    /// The most.
    pub fn max(&self) -> u32 {
        self.max.get()
    }
}

/// What a latency was measured to. Whole answers and first contents take times that have nothing to do with each other, so
/// each has a baseline of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measured {
    /// The whole answer.
    Whole,
    /// A stream's first content.
    FirstItem,
}

/// Latencies of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Latencies {
    /// Without a queue, in seconds; `None` before the first window.
    baseline: Option<f64>,
    /// Of this window, in seconds.
    sum: f64,
    calls: u32,
}

impl Latencies {
    fn mean(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.sum / f64::from(self.calls))
    }
}

/// The interruption that measures the baseline anew.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Probe {
    /// None is under way.
    None,
    /// The queue drains. The limit to go back to.
    Draining { resume: f64 },
    /// What is measured now has met no queue of ours.
    Measuring { resume: f64 },
}

/// The limit: a pure machine. The time is an argument, and nothing else is asked.
#[derive(Debug)]
pub(crate) struct AdaptiveLimit {
    config: AdaptiveConfig,
    limit: f64,
    whole: Latencies,
    first_item: Latencies,
    window_began: Duration,
    most_in_flight: u32,
    /// Timeouts and overload answers in this window.
    overloads: u32,
    probe: Probe,
    /// When the baseline was last known to be true: nothing was queued, or nothing looked like it.
    sure_at: Duration,
}

impl AdaptiveLimit {
    pub(crate) fn new(config: AdaptiveConfig, now: Duration) -> Self {
        Self {
            config,
            limit: f64::from(config.initial()),
            whole: Latencies::default(),
            first_item: Latencies::default(),
            window_began: now,
            most_in_flight: 0,
            overloads: 0,
            probe: Probe::None,
            sure_at: now,
        }
    }

    /// Calls at a time, now.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "kept within u32 bounds")]
    pub(crate) fn limit(&self) -> u32 {
        (self.limit as u32).clamp(self.config.min(), self.config.max())
    }

    /// A call was answered after `latency`, while `in_flight` calls, itself included, were under way. Says the limit.
    pub(crate) fn answered(
        &mut self,
        now: Duration,
        measured: Measured,
        latency: Duration,
        in_flight: u32,
    ) -> u32 {
        let latencies = match measured {
            Measured::Whole => &mut self.whole,
            Measured::FirstItem => &mut self.first_item,
        };
        latencies.sum += latency.as_secs_f64();
        latencies.calls += 1;
        self.most_in_flight = self.most_in_flight.max(in_flight);
        self.end_window(now);
        self.limit()
    }

    /// A call was cut off by its time limit, or the server said that it is overloaded. Says the limit.
    pub(crate) fn overloaded(&mut self, now: Duration, in_flight: u32) -> u32 {
        self.most_in_flight = self.most_in_flight.max(in_flight);
        self.overloads = self.overloads.saturating_add(1);
        if self.overloads == 1 {
            self.set(self.limit * BACKOFF);
        }
        self.end_window(now);
        self.limit()
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(f64::from(self.config.min()), f64::from(self.config.max()));
    }

    fn end_window(&mut self, now: Duration) {
        let age = now.saturating_sub(self.window_began);
        let calls = self.whole.calls.saturating_add(self.first_item.calls).saturating_add(self.overloads);
        if age < WINDOW || (calls < WINDOW_CALLS && age < LONGEST_WINDOW) {
            return;
        }
        let busy = f64::from(self.most_in_flight) * 2.0 >= self.limit;
        match self.probe {
            Probe::Draining { resume } => self.probe = Probe::Measuring { resume },
            Probe::Measuring { resume } => {
                self.learn(|_baseline, mean| mean);
                // What an overload took off in the meantime stays off.
                self.set(if self.overloads > 0 { self.limit } else { resume });
                self.probe = Probe::None;
                self.sure_at = now;
            }
            Probe::None => {
                let slowness = self.slowness();
                if let Some(slowness) = slowness.filter(|_| self.overloads == 0) {
                    self.adjust(slowness, busy);
                }
                if busy {
                    self.learn(
                        |baseline, mean| if mean < baseline { towards(baseline, mean) } else { baseline },
                    );
                } else {
                    self.learn(towards);
                }
                if !busy || slowness.is_none_or(|slowness| slowness < DOUBTFUL) {
                    self.sure_at = now;
                }
                if now.saturating_sub(self.sure_at) >= PROBE_EVERY {
                    self.probe = Probe::Draining { resume: self.limit };
                    self.set(self.limit / 2.0);
                }
            }
        }
        self.window_began = now;
        self.most_in_flight = 0;
        self.overloads = 0;
        for latencies in [&mut self.whole, &mut self.first_item] {
            (latencies.sum, latencies.calls) = (0.0, 0);
        }
    }

    /// How much longer this window's calls took than without a queue, as the mean over all of them.
    fn slowness(&self) -> Option<f64> {
        let (mut slowness, mut calls) = (0.0, 0.0);
        for latencies in [&self.whole, &self.first_item] {
            if let (Some(mean), Some(baseline)) = (latencies.mean(), latencies.baseline) {
                let ratio = if baseline > 0.0 { mean / baseline } else { 1.0 };
                slowness += ratio * f64::from(latencies.calls);
                calls += f64::from(latencies.calls);
            }
        }
        (calls > 0.0).then(|| slowness / calls)
    }

    fn adjust(&mut self, slowness: f64, busy: bool) {
        let gradient = (TOLERANCE / slowness).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + self.limit.sqrt();
        if wanted < self.limit || busy {
            self.set(self.limit + SMOOTHING * (wanted - self.limit));
        }
    }

    fn learn(&mut self, rule: impl Fn(f64, f64) -> f64) {
        for latencies in [&mut self.whole, &mut self.first_item] {
            if let Some(mean) = latencies.mean() {
                latencies.baseline = Some(latencies.baseline.map_or(mean, |baseline| rule(baseline, mean)));
            }
        }
    }
}

fn towards(baseline: f64, mean: f64) -> f64 {
    baseline + LEARNING * (mean - baseline)
}

// Simulations of minutes, in the arithmetic of one thread: Miri would take hours over them and has nothing to see.
#[cfg(test)]
#[cfg(not(miri))]
mod tests;
