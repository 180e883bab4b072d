//! A breaker's settings, checked when they are built.

mod builder;
mod wait;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::state::TripReason;
use super::window::{Sums, Window};
pub use builder::CircuitBreakerConfigBuilder;
pub use wait::OpenWait;

/// A setting that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{field} must be {rule}")]
#[non_exhaustive]
pub struct InvalidConfig {
    /// The setting.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

/// A share of calls in percent: a number over 0 and up to 100, and never NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Percent(f64);

// Not a NaN, so that equality is total.
impl Eq for Percent {}

impl Percent {
    fn new(field: &'static str, value: f64) -> Result<Self, InvalidConfig> {
        // Written so that NaN fails it.
        if value > 0.0 && value <= 100.0 {
            Ok(Self(value))
        } else {
            Err(InvalidConfig { field, rule: "over 0 and at most 100" })
        }
    }

    /// Whether `part` of `calls` is at least this share. Whole percentages are compared without rounding.
    #[inline]
    #[allow(clippy::cast_precision_loss, reason = "a window holds fewer calls than an f64 counts exactly")]
    fn is_reached(self, part: u64, calls: u64) -> bool {
        // No share is 0, so that the usual case, in which nothing has failed, takes no arithmetic.
        part != 0 && (part * 100) as f64 >= self.0 * calls as f64
    }
}

/// When calls count as slow, and how many of them open the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlowCalls {
    pub(super) after: Duration,
    pub(super) rate: Percent,
}

/// What it means when a permit is dropped without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnDrop {
    /// The call is cancelled: nothing is recorded, and a probe's slot is given back.
    #[default]
    Release,
    /// Held for this long or longer, the call was a slow failure; held for less, it is cancelled.
    ///
    /// `timeout(d, breaker.call(f))` drops the future when it fires: without this a backend that hangs would never open
    /// the breaker.
    FailureAfter(Duration),
}

/// Where a half-open state leads that has lasted too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AfterHalfOpen {
    /// Back to open: what cannot be shown to be well is not.
    #[default]
    Open,
    /// To closed.
    Close,
}

/// The state that the configuration itself wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Closed at the start, and then what the calls make of it.
    #[default]
    Normal,
    /// [`State::ForcedOpen`](crate::State::ForcedOpen) from the start.
    ForcedOpen,
    /// [`State::Disabled`](crate::State::Disabled) from the start.
    Disabled,
    /// [`State::MetricsOnly`](crate::State::MetricsOnly) from the start.
    MetricsOnly,
}

/// The growing share of calls that a breaker admits after it closed, so that a recovered backend is not flooded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ramp {
    /// In percent, each between 1 and 100. Not empty.
    pub(super) shares: Arc<[u32]>,
    pub(super) step: Duration,
}

/// The settings of a [`CircuitBreaker`](crate::CircuitBreaker). What is built is valid.
///
/// Two settings are equal when breakers with them behave alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitBreakerConfig {
    mode: Mode,
    window: Window,
    minimum_calls: u32,
    failure_rate: Option<Percent>,
    slow_calls: Option<SlowCalls>,
    consecutive_failures: Option<NonZeroU32>,
    open_wait: OpenWait,
    half_open_calls: NonZeroU32,
    half_open_max_wait: Option<Duration>,
    after_half_open: AfterHalfOpen,
    on_drop: OnDrop,
    ramp: Option<Ramp>,
    automatic_half_open: bool,
}

impl CircuitBreakerConfig {
    /// All settings, starting from the defaults of resilience4j that [`CircuitBreakerConfigBuilder`] lists.
    pub fn builder() -> CircuitBreakerConfigBuilder {
        CircuitBreakerConfigBuilder::standard()
    }

    /// All settings, starting from what suits the tier of a fallback chain: opens after 3 failures in a row, whatever the
    /// rates are; waits 30 s ± 15 %, so that replicas do not probe together; one probe, for which half-open lasts 30 s at most:
    /// for streams that go on for longer there is [`Permit::pass_probe`](crate::Permit::pass_probe).
    pub fn tier() -> CircuitBreakerConfigBuilder {
        CircuitBreakerConfigBuilder::tier()
    }

    /// Opens after `failures` failures in a row, and admits one probe exactly `open_wait` later. Looks at no rate.
    ///
    /// # Errors
    /// One of them is zero.
    pub fn consecutive_failures(failures: u32, open_wait: Duration) -> Result<Self, InvalidConfig> {
        Self::builder()
            .without_failure_rate()
            .without_slow_calls()
            .consecutive_failures(failures)
            .open_wait(OpenWait::fixed(open_wait))
            .half_open_calls(1)
            .build()
    }

    /// Admits this many probes in half-open.
    ///
    /// # Errors
    /// It is zero.
    pub fn with_half_open_calls(mut self, calls: u32) -> Result<Self, InvalidConfig> {
        self.half_open_calls =
            NonZeroU32::new(calls).ok_or(InvalidConfig { field: "half_open_calls", rule: "at least 1" })?;
        Ok(self)
    }

    /// Admits everything and lets nothing decide.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.mode = Mode::Disabled;
        self
    }

    /// Whether it decides at all.
    pub fn is_enabled(&self) -> bool {
        self.mode != Mode::Disabled
    }

    /// The state that the configuration itself wants.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The window's shape.
    pub fn window(&self) -> Window {
        self.window
    }

    /// The calls below which no rate is computed. With a count window at most the window's size.
    pub fn minimum_calls(&self) -> u32 {
        self.minimum_calls
    }

    /// The failure rate that opens it, in percent. `None`: it looks at no failure rate.
    pub fn failure_rate_percent(&self) -> Option<f64> {
        self.failure_rate.map(|Percent(rate)| rate)
    }

    /// The slow-call rate that opens it, in percent. `None`: it measures no call.
    pub fn slow_call_rate_percent(&self) -> Option<f64> {
        self.slow_calls.map(|SlowCalls { rate: Percent(rate), .. }| rate)
    }

    /// A call that takes longer than this is slow. `None`: it measures no call.
    pub fn slow_call(&self) -> Option<Duration> {
        self.slow_calls.map(|slow| slow.after)
    }

    /// Failures in a row that open it. 0: it does not look at the run.
    pub fn failure_threshold(&self) -> u32 {
        self.consecutive_failures.map_or(0, NonZeroU32::get)
    }

    /// How long it stays open before a probe, at its first opening and before jitter.
    pub fn open_wait(&self) -> Duration {
        self.open_wait.base()
    }

    /// How the open wait grows and varies.
    pub fn open_wait_policy(&self) -> &OpenWait {
        &self.open_wait
    }

    /// Probes in one half-open generation.
    pub fn half_open_calls(&self) -> u32 {
        self.half_open_calls.get()
    }

    /// How long half-open may last while probes are out. `None`: for ever.
    pub fn half_open_max_wait(&self) -> Option<Duration> {
        self.half_open_max_wait
    }

    /// Where a half-open state leads that has lasted too long.
    pub fn after_half_open(&self) -> AfterHalfOpen {
        self.after_half_open
    }

    /// What it means when a permit is dropped without an outcome.
    pub fn on_drop(&self) -> OnDrop {
        self.on_drop
    }

    /// Whether [`CircuitBreaker::tick`](crate::CircuitBreaker::tick) moves it to half-open, without a call.
    pub fn automatic_half_open(&self) -> bool {
        self.automatic_half_open
    }

    pub(super) fn ramp(&self) -> Option<&Ramp> {
        self.ramp.as_ref()
    }

    /// Whether a permit must know when it was given out.
    pub(super) fn measures_calls(&self) -> bool {
        self.slow_calls.is_some() || matches!(self.on_drop, OnDrop::FailureAfter(_))
    }

    /// The first moment at which a half-open state that began at `since` has lasted too long.
    pub(super) fn half_open_end(&self, since: Duration) -> Option<Duration> {
        let last = since.saturating_add(self.half_open_max_wait?);
        Some(last.saturating_add(Duration::from_nanos(1)))
    }

    /// Slow means strictly longer than the threshold.
    #[inline]
    pub(super) fn is_slow(&self, took: Option<Duration>) -> bool {
        matches!((self.slow_calls, took), (Some(slow), Some(took)) if took > slow.after)
    }

    /// The threshold that these calls have reached. `None` too while there are fewer than `minimum`.
    #[inline]
    pub(super) fn breached(&self, Sums { calls, failed, slow }: Sums, minimum: u32) -> Option<TripReason> {
        if calls < u64::from(minimum) {
            return None;
        }
        if self.failure_rate.is_some_and(|rate| rate.is_reached(failed, calls)) {
            return Some(TripReason::FailureRate);
        }
        if self.slow_calls.is_some_and(|slow_calls| slow_calls.rate.is_reached(slow, calls)) {
            return Some(TripReason::SlowCallRate);
        }
        None
    }

    /// Whether this many failures in a row open it.
    #[inline]
    pub(super) fn run_is_over(&self, run: u32) -> bool {
        self.consecutive_failures.is_some_and(|threshold| run >= threshold.get())
    }

    /// Whether one failed probe reopens. Where only the run of failures speaks of failures, a single failed probe must
    /// be enough: no rate would ever notice it.
    pub(super) fn one_failed_probe_reopens(&self) -> bool {
        self.failure_rate.is_none() && self.consecutive_failures.is_some()
    }

    /// Completed probes at which half-open decides.
    pub(super) fn deciding_probes(&self) -> u32 {
        if self.failure_rate.is_none() && self.slow_calls.is_none() {
            return self.half_open_calls();
        }
        self.minimum_calls.min(self.half_open_calls())
    }
}

impl Default for CircuitBreakerConfig {
    /// What [`CircuitBreakerConfig::builder`] starts from.
    fn default() -> Self {
        CircuitBreakerConfigBuilder::standard_config()
    }
}
