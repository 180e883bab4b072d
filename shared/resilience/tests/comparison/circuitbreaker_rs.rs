//! circuitbreaker-rs 0.1.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use circuitbreaker_rs::{
    BreakerError, BreakerPolicy, CircuitBreaker, DefaultPolicy, HookRegistry, MetricSink,
    State as TheirState, ThroughputAwarePolicy, TimeBasedPolicy,
};
use resilience::{CircuitBreakerConfig, State, Window};

use super::support::{
    Ours, begin, ours_counts_a_panic_as_a_failure, ours_opens_at_50_failures_after_10_000_successes,
    ours_stays_half_open_at_a_late_success, panics, touchy, unwind,
};

const HOUR: Duration = Duration::from_secs(3600);

type Theirs<P = DefaultPolicy> = CircuitBreaker<P, fmt::Error>;

struct NoMetrics;

impl MetricSink for NoMetrics {
    fn record_state_transition(&self, _from: &str, _to: &str) {}
    fn record_error_rate(&self, _rate: f64) {}
    fn record_probe_attempt(&self, _success: bool) {}
    fn record_call(&self, _success: bool, _duration: Duration) {}
}

fn with_policy<P: BreakerPolicy>(policy: P) -> Theirs<P> {
    CircuitBreaker::new(policy, HOUR, 1, Arc::new(NoMetrics), Arc::new(HookRegistry::new()))
}

fn fail<P: BreakerPolicy>(theirs: &Theirs<P>, calls: u32) {
    for _ in 0..calls {
        let failed = theirs.call(|| Err::<(), _>(fmt::Error));
        assert!(matches!(failed, Err(BreakerError::Operation(_))));
    }
}

/// Open, its wait over, and configured to admit one probe.
fn due() -> Theirs {
    let theirs = <Theirs>::builder()
        .with_error_type()
        .consecutive_failures(1)
        .consecutive_successes(1)
        .cooldown(Duration::ZERO)
        .probe_interval(1)
        .build();
    fail(&theirs, 1);
    assert_eq!(theirs.current_state(), TheirState::Open);
    theirs
}

#[test]
fn circuitbreaker_rs_admits_one_probe_more_than_configured_and_ours_does_not() {
    let theirs = due();
    let probes: Vec<_> = (0..2).map(|_| begin(theirs.call_async(pending::<Result<(), _>>))).collect();
    assert_eq!((probes.len(), theirs.current_state()), (2, TheirState::HalfOpen));
    assert!(matches!(theirs.call(|| Ok(())), Err(BreakerError::Open)));

    let ours = Ours::due(touchy(1));
    let _probe = ours.breaker.acquire().unwrap();
    assert!(ours.breaker.acquire().is_err());
}

#[test]
fn circuitbreaker_rs_is_stuck_for_ever_when_its_probes_are_dropped_and_ours_is_not() {
    let theirs = due();
    for _ in 0..2 {
        drop(begin(theirs.call_async(pending::<Result<(), _>>)));
    }
    for _ in 0..1000 {
        assert!(matches!(theirs.call(|| Ok(())), Err(BreakerError::Open)));
    }
    assert_eq!(theirs.current_state(), TheirState::HalfOpen);

    let ours = Ours::due(touchy(1));
    for _ in 0..1000 {
        drop(begin(ours.breaker.call(pending::<Result<(), fmt::Error>>())));
    }
    ours.succeed(1);
    assert_eq!(ours.breaker.state(), State::Closed);
}

#[test]
fn circuitbreaker_rs_never_feeds_its_windows_and_ours_opens_by_its_own() {
    let time = with_policy(TimeBasedPolicy::new(HOUR, 10, 0.5, 1, HOUR, 1));
    fail(&time, 1000);
    assert_eq!(time.current_state(), TheirState::Closed);
    let average = with_policy(ThroughputAwarePolicy::new(0.5, 1, 0.5, 0.0, HOUR, 0.1));
    fail(&average, 1000);
    assert_eq!(average.current_state(), TheirState::Closed);

    let window = Window::Time { seconds: 3600 };
    let ours = Ours::new(CircuitBreakerConfig::builder().window(window).minimum_calls(1000));
    ours.fail(1000);
    assert_eq!(ours.breaker.state(), State::Open);
}

#[test]
fn circuitbreaker_rs_computes_its_rate_since_the_start_and_ours_over_the_window() {
    let theirs = with_policy(DefaultPolicy::new(0.5, 100, u64::MAX, 1));
    for _ in 0..10_000 {
        theirs.call(|| Ok(())).unwrap();
    }
    fail(&theirs, 9_999);
    assert_eq!(theirs.current_state(), TheirState::Closed);

    ours_opens_at_50_failures_after_10_000_successes();
}

#[test]
fn circuitbreaker_rs_lets_a_late_success_close_half_open_and_ours_does_not() {
    let theirs = <Theirs>::builder()
        .with_error_type()
        .consecutive_failures(1)
        .consecutive_successes(1)
        .cooldown(Duration::ZERO)
        .build();
    theirs
        .call(|| {
            // While this call runs, others open the breaker and begin to probe.
            fail(&theirs, 1);
            drop(begin(theirs.call_async(pending::<Result<(), _>>)));
            assert_eq!(theirs.current_state(), TheirState::HalfOpen);
            Ok(())
        })
        .unwrap();
    assert_eq!(theirs.current_state(), TheirState::Closed);

    ours_stays_half_open_at_a_late_success();
}

#[test]
fn circuitbreaker_rs_records_nothing_of_a_panic_and_ours_a_failure() {
    let theirs = with_policy(DefaultPolicy::new(0.5, 1, 1, 1));
    for _ in 0..100 {
        panics(|| drop(theirs.call(|| -> Result<(), _> { unwind() })));
    }
    assert_eq!(theirs.current_state(), TheirState::Closed);
    ours_counts_a_panic_as_a_failure();
}
