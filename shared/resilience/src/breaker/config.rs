//! A breaker's settings, checked when they are built.

use std::num::NonZeroU32;
use std::time::Duration;

use thiserror::Error;

/// A setting that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{field} must be {rule}")]
pub struct InvalidConfig {
    /// The setting.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

/// The settings of a [`CircuitBreaker`](crate::CircuitBreaker).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitBreakerConfig {
    enabled: bool,
    consecutive_failures: NonZeroU32,
    open_wait: Duration,
    half_open_calls: NonZeroU32,
}

impl CircuitBreakerConfig {
    /// Opens after `failures` failures in a row, and admits one probe `open_wait` later.
    ///
    /// # Errors
    /// One of them is zero.
    pub fn consecutive_failures(failures: u32, open_wait: Duration) -> Result<Self, InvalidConfig> {
        let consecutive_failures = NonZeroU32::new(failures)
            .ok_or(InvalidConfig { field: "consecutive_failures", rule: "at least 1" })?;
        if open_wait.is_zero() {
            return Err(InvalidConfig { field: "open_wait", rule: "longer than 0" });
        }
        Ok(Self { enabled: true, consecutive_failures, open_wait, half_open_calls: NonZeroU32::MIN })
    }

    /// Admits this many probes in half-open, and closes when all of them succeeded.
    ///
    /// # Errors
    /// It is zero.
    pub fn with_half_open_calls(mut self, calls: u32) -> Result<Self, InvalidConfig> {
        self.half_open_calls =
            NonZeroU32::new(calls).ok_or(InvalidConfig { field: "half_open_calls", rule: "at least 1" })?;
        Ok(self)
    }

    /// Admits everything and records nothing.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.enabled = false;
        self
    }

    /// Whether it decides at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Failures in a row that open it.
    pub fn failure_threshold(&self) -> u32 {
        self.consecutive_failures.get()
    }

    /// How long it stays open before a probe.
    pub fn open_wait(&self) -> Duration {
        self.open_wait
    }

    /// Probes in one half-open generation.
    pub fn half_open_calls(&self) -> u32 {
        self.half_open_calls.get()
    }
}
