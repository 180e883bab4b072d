//! Builds a breaker's settings, and refuses nonsense by the field's name.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{
    AfterHalfOpen, CircuitBreakerConfig, InvalidConfig, Mode, OnDrop, OpenWait, Percent, Ramp, SlowCalls,
    Window,
};

/// Builds a [`CircuitBreakerConfig`].
///
/// | setting | default | for a tier |
/// |---|---|---|
/// | `window` | the last 100 calls | the same |
/// | `minimum_calls` | 100 | the same |
/// | `failure_rate_percent` | 50 | none |
/// | `slow_call` | longer than 60 s | none |
/// | `slow_call_rate_percent` | 100 | none |
/// | `consecutive_failures` | none | 3 |
/// | `open_wait` | 60 s | 30 s ± 15 % |
/// | `half_open_calls` | 10 | 1 |
/// | `half_open_max_wait` | the first open wait, then open | the same |
/// | `on_drop` | release | the same |
/// | `half_open_ramp` | off | off |
/// | `automatic_half_open` | off | off |
///
/// The defaults of the first column are resilience4j's where it has the setting.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct CircuitBreakerConfigBuilder {
    mode: Mode,
    window: Window,
    minimum_calls: u32,
    failure_rate: Option<f64>,
    slow_call: Option<Duration>,
    slow_call_rate: f64,
    consecutive_failures: Option<u32>,
    open_wait: OpenWait,
    half_open_calls: u32,
    half_open_max_wait: MaxWait,
    after_half_open: AfterHalfOpen,
    on_drop: OnDrop,
    ramp: Option<(Vec<u32>, Duration)>,
    automatic_half_open: bool,
}

/// How long half-open may last.
#[derive(Debug, Clone, Copy)]
enum MaxWait {
    AsOpenWait,
    Of(Duration),
    Never,
}

impl CircuitBreakerConfigBuilder {
    const CALLS: u32 = 100;
    const FAILURE_RATE: f64 = 50.0;
    const SLOW_CALL: Duration = Duration::from_secs(60);
    const SLOW_CALL_RATE: f64 = 100.0;
    const OPEN_WAIT: Duration = Duration::from_secs(60);
    const PROBES: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

    pub(super) fn standard() -> Self {
        Self {
            mode: Mode::Normal,
            window: Window::Count(Self::CALLS),
            minimum_calls: Self::CALLS,
            failure_rate: Some(Self::FAILURE_RATE),
            slow_call: Some(Self::SLOW_CALL),
            slow_call_rate: Self::SLOW_CALL_RATE,
            consecutive_failures: None,
            open_wait: OpenWait::fixed(Self::OPEN_WAIT),
            half_open_calls: Self::PROBES.get(),
            half_open_max_wait: MaxWait::AsOpenWait,
            after_half_open: AfterHalfOpen::Open,
            on_drop: OnDrop::Release,
            ramp: None,
            automatic_half_open: false,
        }
    }

    /// What [`Self::standard`] builds, without the checks that it is known to pass.
    pub(super) fn standard_config() -> CircuitBreakerConfig {
        CircuitBreakerConfig {
            mode: Mode::Normal,
            window: Window::Count(Self::CALLS),
            minimum_calls: Self::CALLS,
            failure_rate: Some(Percent(Self::FAILURE_RATE)),
            slow_calls: Some(SlowCalls { after: Self::SLOW_CALL, rate: Percent(Self::SLOW_CALL_RATE) }),
            consecutive_failures: None,
            open_wait: OpenWait::fixed(Self::OPEN_WAIT),
            half_open_calls: Self::PROBES,
            half_open_max_wait: Some(Self::OPEN_WAIT),
            after_half_open: AfterHalfOpen::Open,
            on_drop: OnDrop::Release,
            ramp: None,
            automatic_half_open: false,
        }
    }

    pub(super) fn tier() -> Self {
        const OPEN_WAIT: Duration = Duration::from_secs(30);
        const JITTER: f64 = 0.15;
        Self::standard()
            .without_failure_rate()
            .without_slow_calls()
            .consecutive_failures(3)
            .open_wait(OpenWait::fixed(OPEN_WAIT).with_jitter(JITTER))
            .half_open_calls(1)
    }

    /// The state that the configuration itself wants.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The window in which rates are computed: 1 to [`Window::MAX`] calls or seconds.
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// The calls below which no rate is computed, at least 1. A count window lowers it to its own size.
    pub fn minimum_calls(mut self, calls: u32) -> Self {
        self.minimum_calls = calls;
        self
    }

    /// Opens when this share of the window's calls failed, in percent: over 0, at most 100.
    pub fn failure_rate_percent(mut self, percent: f64) -> Self {
        self.failure_rate = Some(percent);
        self
    }

    /// Looks at no failure rate.
    pub fn without_failure_rate(mut self) -> Self {
        self.failure_rate = None;
        self
    }

    /// A call that takes strictly longer than this is slow.
    pub fn slow_call(mut self, after: Duration) -> Self {
        self.slow_call = Some(after);
        self
    }

    /// Opens when this share of the window's calls was slow, in percent: over 0, at most 100.
    pub fn slow_call_rate_percent(mut self, percent: f64) -> Self {
        self.slow_call_rate = percent;
        self
    }

    /// Measures no call, which saves two readings of the clock for each.
    pub fn without_slow_calls(mut self) -> Self {
        self.slow_call = None;
        self
    }

    /// Opens after this many failures in a row, at least 1, whatever the window holds.
    pub fn consecutive_failures(mut self, failures: u32) -> Self {
        self.consecutive_failures = Some(failures);
        self
    }

    /// Does not look at the run of failures.
    pub fn without_consecutive_failures(mut self) -> Self {
        self.consecutive_failures = None;
        self
    }

    /// How long it stays open before a probe.
    pub fn open_wait(mut self, wait: OpenWait) -> Self {
        self.open_wait = wait;
        self
    }

    /// Probes in one half-open generation, at least 1.
    pub fn half_open_calls(mut self, calls: u32) -> Self {
        self.half_open_calls = calls;
        self
    }

    /// Half-open that lasts longer than this leads to `then`: a probe that never settles cannot hold the breaker.
    ///
    /// A probe whose stream goes on for longer counts as one, unless it passes with its first chunk
    /// ([`Permit::pass_probe`](crate::Permit::pass_probe)).
    ///
    /// Without a probe out nothing is held, and half-open does not go back to open however long it lasts; its time begins anew
    /// with the next probe. It does close, where that is what `then` says.
    pub fn half_open_max_wait(mut self, wait: Duration, then: AfterHalfOpen) -> Self {
        self.half_open_max_wait = MaxWait::Of(wait);
        self.after_half_open = then;
        self
    }

    /// Half-open may last for ever.
    pub fn without_half_open_max_wait(mut self) -> Self {
        self.half_open_max_wait = MaxWait::Never;
        self
    }

    /// What it means when a permit is dropped without an outcome.
    pub fn on_drop(mut self, meaning: OnDrop) -> Self {
        self.on_drop = meaning;
        self
    }

    /// After half-open has closed it, admits these shares of the calls one after the other, each for the same part of
    /// `over`, and everything after that. In percent, whole numbers from 1 to 100 that do not fall, such as 10, 25, 50, 100.
    pub fn half_open_ramp(mut self, shares_percent: &[u32], over: Duration) -> Self {
        self.ramp = Some((shares_percent.to_vec(), over));
        self
    }

    /// Lets [`CircuitBreaker::tick`](crate::CircuitBreaker::tick) move it to half-open, without a call.
    pub fn automatic_half_open(mut self, automatic: bool) -> Self {
        self.automatic_half_open = automatic;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn build(self) -> Result<CircuitBreakerConfig, InvalidConfig> {
        let at_least_1 =
            |field, value| NonZeroU32::new(value).ok_or(InvalidConfig { field, rule: "at least 1" });
        let window = at_least_1("window", self.window.size())?.get();
        if window > Window::MAX {
            return Err(InvalidConfig { field: "window", rule: "at most 1000000" });
        }
        let minimum_calls = at_least_1("minimum_calls", self.minimum_calls)?.get();
        let minimum_calls = match self.window {
            // A minimum that the window cannot hold would never be reached.
            Window::Count(size) => minimum_calls.min(size),
            Window::Time { .. } => minimum_calls,
        };
        let failure_rate =
            self.failure_rate.map(|rate| Percent::new("failure_rate_percent", rate)).transpose()?;
        let slow_rate = Percent::new("slow_call_rate_percent", self.slow_call_rate)?;
        let slow_calls = match self.slow_call {
            Some(Duration::ZERO) => {
                return Err(InvalidConfig { field: "slow_call", rule: "longer than 0" });
            }
            after => after.map(|after| SlowCalls { after, rate: slow_rate }),
        };
        let consecutive_failures = self
            .consecutive_failures
            .map(|failures| at_least_1("consecutive_failures", failures))
            .transpose()?;
        if failure_rate.is_none() && slow_calls.is_none() && consecutive_failures.is_none() {
            let rule = "set where neither slow_call nor consecutive_failures is: nothing would ever open the breaker";
            return Err(InvalidConfig { field: "failure_rate_percent", rule });
        }
        self.open_wait.check()?;
        let half_open_max_wait = match self.half_open_max_wait {
            MaxWait::AsOpenWait => Some(self.open_wait.base()),
            MaxWait::Of(wait) => Some(wait),
            MaxWait::Never => None,
        };
        if half_open_max_wait == Some(Duration::ZERO) {
            return Err(InvalidConfig { field: "half_open_max_wait", rule: "longer than 0" });
        }
        if self.on_drop == OnDrop::FailureAfter(Duration::ZERO) {
            let rule = "longer than 0: every cancelled call would be a failure";
            return Err(InvalidConfig { field: "on_drop", rule });
        }
        Ok(CircuitBreakerConfig {
            mode: self.mode,
            window: self.window,
            minimum_calls,
            failure_rate,
            slow_calls,
            consecutive_failures,
            open_wait: self.open_wait,
            half_open_calls: at_least_1("half_open_calls", self.half_open_calls)?,
            half_open_max_wait,
            after_half_open: self.after_half_open,
            on_drop: self.on_drop,
            ramp: self.ramp.map(|(shares, over)| ramp(&shares, over)).transpose()?,
            automatic_half_open: self.automatic_half_open,
        })
    }
}

fn ramp(shares: &[u32], over: Duration) -> Result<Ramp, InvalidConfig> {
    let refuse = |rule| Err(InvalidConfig { field: "half_open_ramp", rule });
    let Ok(steps @ 1..=100) = u32::try_from(shares.len()) else {
        return refuse("1 to 100 shares");
    };
    if shares.iter().any(|share| !(1..=100).contains(share)) || !shares.is_sorted() {
        return refuse("shares from 1 to 100 that do not fall");
    }
    let step = over / steps;
    if step.is_zero() {
        return refuse("spread over more than 0");
    }
    Ok(Ramp { shares: shares.into(), step })
}
