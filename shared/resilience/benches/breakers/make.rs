//! The breakers of the rows: closed over the last 100 calls unless a row says otherwise, and never tripping.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use failsafe::backoff::Constant;
use failsafe::failure_policy::{ConsecutiveFailures, SuccessRateOverTimeWindow};
use failsafe::{CircuitBreaker as _, StateMachine, backoff, failure_policy};
use recloser::Recloser;
use resilience::tower::{CircuitBreakerLayer, CircuitBreakerService};
use resilience::{
    CircuitBreaker, CircuitBreakerConfig, CircuitBreakerConfigBuilder, Clock, ErrorsAre, FastClock,
    SystemClock, Verdict, Window,
};
use tower::Layer;
use tower_resilience_circuitbreaker as tower_resilience;

use crate::caller::{CircuitBreakerRs, Failsafe, Succeed, TowerResilience, finish};

pub(crate) type Made<T> = Result<T, Box<dyn Error>>;

/// Long enough never to end in a run.
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn fast() -> Arc<dyn Clock> {
    Arc::new(FastClock::new())
}

pub(crate) fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// A failure rate over a window of these calls or seconds, no slow calls.
pub(crate) fn plain(window: Window) -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder().window(window).without_slow_calls()
}

/// A failure rate and a slow-call rate over the last 100 calls.
pub(crate) fn slow() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder().window(Window::Count(100)).slow_call(HOUR)
}

pub(crate) fn ours(config: CircuitBreakerConfigBuilder, clock: Arc<dyn Clock>) -> Made<CircuitBreaker> {
    Ok(CircuitBreaker::new("bench", config.build()?, clock))
}

pub(crate) fn ours_open(clock: Arc<dyn Clock>) -> Made<CircuitBreaker> {
    let breaker = ours(plain(Window::Count(100)).open_wait(resilience::OpenWait::fixed(HOUR)), clock)?;
    breaker.open("bench", "to be rejected");
    Ok(breaker)
}

pub(crate) fn ours_in_tower() -> Made<CircuitBreakerService<Succeed, ErrorsAre>> {
    let breaker = ours(slow(), fast())?;
    Ok(CircuitBreakerLayer::new(breaker, ErrorsAre(Verdict::TRANSIENT)).layer(Succeed))
}

/// Counts failures in a row and nothing else: the cheapest of failsafe's policies.
pub(crate) fn failsafe() -> Failsafe<ConsecutiveFailures<Constant>> {
    Failsafe(StateMachine::new(failure_policy::consecutive_failures(5, backoff::constant(HOUR)), ()))
}

pub(crate) fn failsafe_open() -> Failsafe<ConsecutiveFailures<Constant>> {
    let Failsafe(breaker) = failsafe();
    for _ in 0..5 {
        drop(breaker.call(|| Err::<(), ()>(())));
    }
    Failsafe(breaker)
}

/// A moving average of successes over 30 s, with a count of calls in five slices: the nearest it has to a time window.
pub(crate) fn failsafe_rate() -> Failsafe<SuccessRateOverTimeWindow<Constant>> {
    let window = Duration::from_secs(30);
    let backoff = backoff::constant(HOUR);
    Failsafe(StateMachine::new(failure_policy::success_rate_over_time_window(0.5, 100, window, backoff), ()))
}

pub(crate) fn recloser(calls: usize) -> Recloser {
    Recloser::custom().closed_len(calls).open_wait(HOUR).build()
}

pub(crate) fn recloser_open() -> Recloser {
    let breaker = recloser(1);
    for _ in 0..3 {
        drop(breaker.call(|| Err::<(), ()>(())));
    }
    breaker
}

pub(crate) fn circuitbreaker_rs() -> CircuitBreakerRs {
    CircuitBreakerRs::builder().with_error_type().cooldown(HOUR).build()
}

pub(crate) fn circuitbreaker_rs_open() -> CircuitBreakerRs {
    let breaker = circuitbreaker_rs();
    for _ in 0..10 {
        drop(breaker.call(|| Err::<(), _>(fmt::Error)));
    }
    breaker
}

pub(crate) fn tower_resilience() -> Made<TowerResilience> {
    let layer = tower_resilience::CircuitBreakerLayer::builder()
        .sliding_window_size(100)
        .slow_call_duration_threshold(HOUR)
        .wait_duration_in_open(HOUR)
        .build()?;
    Ok(layer.layer_fn(Succeed))
}

pub(crate) fn tower_resilience_open() -> Made<TowerResilience> {
    let service = tower_resilience()?;
    finish(service.force_open());
    Ok(service)
}
