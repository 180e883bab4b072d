//! From the types of breakers to those of the wire.

use std::time::{Duration, SystemTime};

use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::resilience::v1::circuit_breaker_settings::Window as Setting;
use aiplatform_proto::time::{to_proto_duration, to_proto_timestamp};
use resilience::{CircuitBreaker, CircuitBreakerConfig, State, Window};

use crate::replica::Replica;

/// A breaker's state.
pub fn state(state: State) -> wire::CircuitBreakerState {
    match state {
        State::Closed => wire::CircuitBreakerState::Closed,
        State::Open => wire::CircuitBreakerState::Open,
        State::HalfOpen => wire::CircuitBreakerState::HalfOpen,
        State::Disabled => wire::CircuitBreakerState::Disabled,
        State::ForcedOpen => wire::CircuitBreakerState::ForcedOpen,
        State::MetricsOnly => wire::CircuitBreakerState::MetricsOnly,
    }
}

pub(super) fn breaker(
    breaker: &CircuitBreaker,
    tiers: Vec<String>,
    replica: &Replica,
) -> wire::CircuitBreaker {
    let snapshot = breaker.snapshot();
    let config = breaker.config();
    let totals = snapshot.totals;
    wire::CircuitBreaker {
        name: breaker.name().to_owned(),
        service: replica.service().to_owned(),
        replica: replica.name().to_owned(),
        tiers,
        state: state(snapshot.state).into(),
        state_since: Some(to_proto_timestamp(snapshot.since)),
        generation: snapshot.generation,
        window: None,
        consecutive_failures: snapshot.consecutive_failures,
        totals: Some(wire::CallTotals {
            success: totals.success,
            failure: totals.failure,
            ignored: totals.ignored,
            rejected: totals.rejected,
            cancelled: totals.cancelled,
            late: totals.late,
        }),
        openings: snapshot.openings,
        next_probe_at: snapshot.next_probe_in.map(|wait| to_proto_timestamp(SystemTime::now() + wait)),
        half_open_permits: snapshot.half_open_permits,
        settings: Some(settings(&config)),
    }
}

fn settings(config: &CircuitBreakerConfig) -> wire::CircuitBreakerSettings {
    let window = match config.window() {
        Window::Count(calls) => Setting::WindowCalls(calls),
        Window::Time { seconds } => {
            Setting::WindowTime(to_proto_duration(Duration::from_secs(u64::from(seconds))))
        }
    };
    wire::CircuitBreakerSettings {
        consecutive_failures: Some(config.failure_threshold()),
        failure_rate_percent: config.failure_rate_percent(),
        slow_call_rate_percent: config.slow_call_rate_percent(),
        slow_call: config.slow_call().map(to_proto_duration),
        minimum_calls: config.minimum_calls(),
        open_wait: Some(to_proto_duration(config.open_wait())),
        half_open_calls: config.half_open_calls(),
        window: Some(window),
    }
}
