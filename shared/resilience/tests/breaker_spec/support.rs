//! What the tests share.

use std::sync::Arc;
use std::time::Duration;

use resilience::{
    CallReport, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerConfigBuilder, ManualClock, OpenWait,
    Outcome, Permit, Snapshot, State, TripReason, Window, WindowCounts,
};

pub(crate) const WAIT: Duration = Duration::from_secs(30);

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A failure rate of 50 % over 4 calls, half-open with 2 probes, no limit to half-open: small enough to reason about.
pub(crate) fn small() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder()
        .window(Window::Count(4))
        .minimum_calls(4)
        .without_slow_calls()
        .open_wait(OpenWait::fixed(WAIT))
        .half_open_calls(2)
        .without_half_open_max_wait()
}

/// Opens at the first failure.
pub(crate) fn touchy() -> CircuitBreakerConfigBuilder {
    small().without_failure_rate().consecutive_failures(1).half_open_calls(1)
}

pub(crate) struct Rig {
    pub(crate) breaker: CircuitBreaker,
    pub(crate) clock: ManualClock,
}

impl Rig {
    pub(crate) fn new(config: CircuitBreakerConfigBuilder) -> Self {
        let clock = ManualClock::new();
        let breaker = CircuitBreaker::new("spec", config.build().unwrap(), Arc::new(clock.clone()));
        Self { breaker, clock }
    }

    /// A breaker that is open.
    pub(crate) fn open(config: CircuitBreakerConfigBuilder) -> Self {
        let rig = Self::new(config);
        rig.breaker.open("test", "to begin with");
        rig
    }

    /// A breaker that is open and whose wait has passed.
    pub(crate) fn due(config: CircuitBreakerConfigBuilder) -> Self {
        let rig = Self::open(config);
        rig.advance(rig.snapshot().next_probe_in.unwrap());
        rig
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub(crate) fn acquire(&self) -> Permit {
        self.breaker.acquire().unwrap()
    }

    pub(crate) fn succeed(&self, times: u32) {
        for _ in 0..times {
            self.acquire().success();
        }
    }

    pub(crate) fn fail(&self, times: u32) {
        for _ in 0..times {
            self.acquire().failure();
        }
    }

    pub(crate) fn took(&self, outcome: Outcome, took: Duration) {
        self.acquire().record(CallReport::new(outcome).took(took));
    }

    pub(crate) fn state(&self) -> State {
        self.breaker.state()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.breaker.snapshot()
    }

    pub(crate) fn window(&self) -> WindowCounts {
        self.snapshot().window
    }

    pub(crate) fn calls(&self) -> u64 {
        self.window().calls()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.snapshot().generation
    }

    /// Why it changed state last.
    pub(crate) fn reason(&self) -> Option<TripReason> {
        self.breaker.history().iter().rev().find_map(|event| match event.kind {
            resilience::EventKind::StateChanged { reason, .. } => Some(reason),
            _ => None,
        })
    }
}
