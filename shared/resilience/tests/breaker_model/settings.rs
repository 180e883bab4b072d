//! The settings of the plain breaker, and the numbers that follow from them alone.

use resilience::{Mode, Window};

/// All times are in nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1000 * MS;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    pub(crate) window: Window,
    pub(crate) minimum_calls: u32,
    pub(crate) failure_rate: Option<u32>,
    pub(crate) slow: Option<(u64, u32)>,
    pub(crate) consecutive: Option<u32>,
    pub(crate) wait: u64,
    pub(crate) multiplier: u32,
    pub(crate) cap: u64,
    pub(crate) jitter_percent: u32,
    pub(crate) half_open_calls: u32,
    pub(crate) half_open_max: Option<u64>,
    pub(crate) half_open_closes: bool,
    pub(crate) failure_after: Option<u64>,
    pub(crate) automatic: bool,
    /// The shares in percent, and for how long each is admitted.
    pub(crate) ramp: Option<(Vec<u32>, u64)>,
}

impl Settings {
    pub(crate) fn minimum(&self) -> usize {
        let capped = match self.window {
            Window::Count(size) => self.minimum_calls.min(size),
            Window::Time { .. } => self.minimum_calls,
        };
        capped as usize
    }

    pub(crate) fn deciding_probes(&self) -> usize {
        if self.failure_rate.is_none() && self.slow.is_none() {
            return self.half_open_calls as usize;
        }
        self.minimum().min(self.half_open_calls as usize)
    }

    /// Whether a permit knows when it was given out.
    pub(crate) fn measures(&self) -> bool {
        self.slow.is_some() || self.failure_after.is_some()
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some seconds in nanoseconds"
    )]
    pub(crate) fn wait(&self, in_a_row: u32, unit: f64) -> u64 {
        let factor = u64::from(self.multiplier).checked_pow(in_a_row - 1);
        let grown = factor.and_then(|factor| self.wait.checked_mul(factor)).unwrap_or(u64::MAX).min(self.cap);
        if self.jitter_percent == 0 {
            return grown;
        }
        let jitter = f64::from(self.jitter_percent) / 100.0;
        let middle = (grown as f64).min(self.cap as f64 / (1.0 + jitter));
        ((middle * (1.0 + jitter * (2.0 * unit - 1.0))).round() as u64).min(self.cap)
    }
}
