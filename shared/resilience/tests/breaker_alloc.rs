//! Nothing on the hot path allocates: counted by an allocator that counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use resilience::{
    CircuitBreaker, CircuitBreakerConfig, CircuitBreakerConfigBuilder, OnDrop, SystemClock, Window,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn breaker(config: CircuitBreakerConfigBuilder) -> CircuitBreaker {
    CircuitBreaker::new("alloc", config.build().unwrap(), Arc::new(SystemClock::new()))
}

/// One test for all, because the allocator counts for the whole process. The threads of the test harness are counted too,
/// so the quietest of a few rounds is looked at: what the hot path allocates is in every one of them.
#[test]
fn acquiring_recording_dropping_and_rejecting_allocate_nothing() {
    let plain = || CircuitBreakerConfig::builder().failure_rate_percent(100.0).without_slow_calls();
    let breakers = [
        breaker(plain()),
        breaker(plain().window(Window::Count(10_000))),
        breaker(plain().window(Window::Time { seconds: 60 })),
        breaker(plain().slow_call(Duration::from_secs(1)).consecutive_failures(1_000_000)),
        breaker(plain().on_drop(OnDrop::FailureAfter(Duration::from_secs(60)))),
    ];
    let open = breaker(plain());
    open.open("test", "");
    // The first rejections are events, and events have a history that grows.
    for _ in 0..5000 {
        assert!(open.acquire().is_err());
    }

    let rounds = (0..10).map(|_| {
        let region = Region::new(ALLOCATOR);
        hot_path(&breakers, &open);
        let change = region.change();
        (change.allocations, change.reallocations, change.deallocations)
    });
    assert_eq!(rounds.min(), Some((0, 0, 0)));
}

fn hot_path(breakers: &[CircuitBreaker], open: &CircuitBreaker) {
    for breaker in breakers {
        for call in 0..2_000 {
            let (owned, borrowed) = (breaker.acquire().unwrap(), breaker.acquire_borrowed().unwrap());
            match call % 5 {
                0 => owned.failure(),
                1 => drop(owned),
                2 => owned.ignored(),
                _ => owned.success(),
            }
            borrowed.success();
        }
    }
    for _ in 0..300 {
        assert!(open.acquire().is_err());
    }
}
