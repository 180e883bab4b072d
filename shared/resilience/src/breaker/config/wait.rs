//! How long a breaker stays open.

use std::time::Duration;

use super::InvalidConfig;

/// How long a breaker stays open before its first probe, as a function of how often it has opened in a row.
///
/// The nth wait in a row is `base × multiplierⁿ⁻¹`, at most the cap, varied by up to the jitter to either side. Where the
/// jitter would carry a wait past the cap, its middle is lowered instead of its end being cut off: waits that all end at the
/// cap would make the replicas probe together after all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OpenWait {
    base: Duration,
    multiplier: f64,
    cap: Duration,
    jitter: f64,
}

// Never holds a NaN once it is part of a configuration, so that equality is total there.
impl Eq for OpenWait {}

impl OpenWait {
    /// What a fixed wait may be lengthened to by a Retry-After, unless [`OpenWait::with_cap`] says otherwise.
    pub const DEFAULT_CAP: Duration = Duration::from_secs(300);

    /// Always the same wait. A Retry-After may lengthen it to [`OpenWait::DEFAULT_CAP`], or to the wait where that is
    /// longer.
    pub fn fixed(wait: Duration) -> Self {
        Self { base: wait, multiplier: 1.0, cap: wait.max(Self::DEFAULT_CAP), jitter: 0.0 }
    }

    /// `base` at first, then `multiplier` times as long with each consecutive opening, up to `cap`.
    pub fn exponential(base: Duration, multiplier: f64, cap: Duration) -> Self {
        Self { base, multiplier, cap, jitter: 0.0 }
    }

    /// Varies each wait by up to this share of itself, to either side: 0.15 is ± 15 %.
    #[must_use]
    pub fn with_jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// No wait is longer than this, a Retry-After's included.
    #[must_use]
    pub fn with_cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// The first wait, before jitter.
    pub fn base(&self) -> Duration {
        self.base
    }

    /// The factor between consecutive waits. 1 for a fixed wait.
    pub fn multiplier(&self) -> f64 {
        self.multiplier
    }

    /// The longest wait.
    pub fn cap(&self) -> Duration {
        self.cap
    }

    /// The share by which a wait varies.
    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    pub(super) fn check(&self) -> Result<(), InvalidConfig> {
        let refuse = |field, rule| Err(InvalidConfig { field, rule });
        if self.base.is_zero() {
            return refuse("open_wait", "longer than 0");
        }
        // Both written so that NaN fails.
        if !(self.multiplier >= 1.0 && self.multiplier.is_finite()) {
            return refuse("open_wait.multiplier", "a number of at least 1");
        }
        if !(self.jitter >= 0.0 && self.jitter < 1.0) {
            return refuse("open_wait.jitter", "at least 0 and under 1");
        }
        if self.cap < self.base {
            return refuse("open_wait.cap", "at least the first wait");
        }
        Ok(())
    }

    /// The wait of the `nth` consecutive opening, from 1, given a random number in [0, 1).
    pub(in crate::breaker) fn of(&self, nth: u32, unit: f64) -> Duration {
        let exponent = i32::try_from(nth.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = if exponent == 0 || self.multiplier <= 1.0 {
            self.base
        } else {
            let seconds = self.base.as_secs_f64() * self.multiplier.powi(exponent);
            Duration::try_from_secs_f64(seconds).unwrap_or(self.cap).min(self.cap)
        };
        if self.jitter <= 0.0 {
            return grown;
        }
        let middle = grown.as_secs_f64().min(self.cap.as_secs_f64() / (1.0 + self.jitter));
        let varied = middle * (1.0 + self.jitter * (2.0 * unit - 1.0));
        Duration::try_from_secs_f64(varied).unwrap_or(self.cap).min(self.cap)
    }
}
