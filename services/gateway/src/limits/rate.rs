//! How many requests a caller may make: governor's GCRA, on a clock that tests can set.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use resilience::Clock;
use service_kit::identity::{Count, KeyLimits};

/// Seconds of requests that may come at once where nothing else is said.
const USUAL_BURST: u32 = 10;

#[derive(Debug, Clone)]
struct Time(Arc<dyn Clock>);

impl governor::clock::Clock for Time {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.now()
    }
}

/// A rate of requests and the burst that it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// How many requests a minute, in the long run.
    pub(super) per_minute: Count,
    /// How many at once, after a pause.
    pub(super) burst: NonZeroU32,
}

impl Pace {
    /// The pace in a caller's limits, when they have one.
    pub(super) fn of(limits: &KeyLimits) -> Option<Self> {
        let per_minute = limits.requests_per_minute?;
        let usual = NonZeroU32::new(per_minute.get() / (60 / USUAL_BURST)).unwrap_or(NonZeroU32::MIN);
        Some(Self { per_minute, burst: limits.burst.map_or(usual, Count::non_zero) })
    }

    /// The time in which one request is earned.
    pub(super) fn interval(self) -> Duration {
        Duration::from_secs(60) / self.per_minute.get()
    }

    /// What is left when so much time is owed.
    pub(super) fn left(self, owed: Duration) -> Left {
        let free = self.refill().saturating_sub(owed).as_nanos() / self.interval().as_nanos().max(1);
        Left { remaining: u32::try_from(free).unwrap_or(u32::MAX), reset: owed }
    }

    /// The time in which a whole burst is earned.
    pub(super) fn refill(self) -> Duration {
        self.interval() * self.burst.get()
    }
}

/// What is left of a rate after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// How many may come at once.
    pub(super) remaining: u32,
    /// When it will be as if there had been none.
    pub(super) reset: Duration,
}

/// One caller's requests.
pub(super) struct Rate {
    pace: Pace,
    clock: Time,
    limiter: RateLimiter<NotKeyed, InMemoryState, Time, StateInformationMiddleware>,
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rate").field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl Rate {
    pub(super) fn new(pace: Pace, clock: Arc<dyn Clock>) -> Self {
        let clock = Time(clock);
        // `per_minute` rounds the interval as `Pace::interval` does: down to nanoseconds.
        let quota = Quota::per_minute(pace.per_minute.non_zero()).allow_burst(pace.burst);
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone()).with_middleware();
        Self { pace, clock, limiter }
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// Counts a request.
    ///
    /// # Errors
    /// It is one too many; the time after which it would not be.
    pub(super) fn take(&self) -> Result<Left, Duration> {
        match self.limiter.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = self.pace.burst.get().saturating_sub(remaining);
                Ok(Left { remaining, reset: self.pace.interval() * used })
            }
            Err(not_until) => Err(not_until.wait_time_from(governor::clock::Clock::now(&self.clock))),
        }
    }
}
