//! Ours, on a clock set by hand.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use resilience::{
    CircuitBreaker, CircuitBreakerConfig, CircuitBreakerConfigBuilder, ManualClock, OpenWait, State, Window,
};

const WAIT: Duration = Duration::from_secs(30);

/// Opens at the first failure, and then admits `probes`.
pub(crate) fn touchy(probes: u32) -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::tier().consecutive_failures(1).half_open_calls(probes)
}

/// Our breaker, its open wait known.
pub(crate) struct Ours {
    pub(crate) breaker: CircuitBreaker,
    clock: ManualClock,
}

impl Ours {
    pub(crate) fn new(config: CircuitBreakerConfigBuilder) -> Self {
        let clock = ManualClock::new();
        let config = config.open_wait(OpenWait::fixed(WAIT)).build().unwrap();
        Self { breaker: CircuitBreaker::new("ours", config, Arc::new(clock.clone())), clock }
    }

    /// The same, open and its wait over, so that the next call is a probe.
    pub(crate) fn due(config: CircuitBreakerConfigBuilder) -> Self {
        let ours = Self::new(config);
        ours.breaker.open("test", "");
        ours.wait();
        ours
    }

    pub(crate) fn wait(&self) {
        self.clock.advance(WAIT);
    }

    pub(crate) fn succeed(&self, calls: u32) {
        for _ in 0..calls {
            self.breaker.acquire().unwrap().success();
        }
    }

    pub(crate) fn fail(&self, calls: u32) {
        for _ in 0..calls {
            self.breaker.acquire().unwrap().failure();
        }
    }
}

/// Begins a call and leaves it where it waits for its answer.
pub(crate) fn begin<F: Future>(future: F) -> Pin<Box<F>>
where
    F::Output: std::fmt::Debug,
{
    let mut future = Box::pin(future);
    let polled = poll(&mut future);
    assert!(polled.is_pending(), "ended at once: {polled:?}");
    future
}

/// Looks once whether a call has ended.
pub(crate) fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// A zero wait is over as soon as the clock has moved: asks until it has.
pub(crate) fn until(mut is_over: impl FnMut() -> bool) {
    let asked = (0..100_000_000).position(|_| is_over());
    assert!(asked.is_some(), "the clock stands still");
}

/// A panic, without the message on the terminal.
pub(crate) fn unwind() -> ! {
    std::panic::resume_unwind(Box::new("in the call"))
}

/// Makes a call that panics.
pub(crate) fn panics(call: impl FnOnce()) {
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
}

pub(crate) fn ours_counts_a_panic_as_a_failure() {
    let ours = Ours::new(touchy(1));
    panics(|| {
        let _permit = ours.breaker.acquire().unwrap();
        unwind()
    });
    assert_eq!(ours.breaker.state(), State::Open);
}

pub(crate) fn ours_stays_half_open_at_a_late_success() {
    let ours = Ours::new(touchy(1));
    let late = ours.breaker.acquire().unwrap();
    ours.fail(1);
    ours.wait();
    let _probe = ours.breaker.acquire().unwrap();
    late.success();
    assert_eq!(ours.breaker.state(), State::HalfOpen);
    assert_eq!(ours.breaker.snapshot().totals.late, 1);
}

pub(crate) fn ours_opens_at_50_failures_after_10_000_successes() {
    let ours = Ours::new(CircuitBreakerConfig::builder().window(Window::Count(100)));
    ours.succeed(10_000);
    ours.fail(49);
    assert_eq!(ours.breaker.state(), State::Closed);
    ours.fail(1);
    assert_eq!(ours.breaker.state(), State::Open);
}
