//! From the types of the chain and the breakers to those of the wire.

use std::time::{Duration, SystemTime};

use aiplatform_proto::inference::v1 as inference;
use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::resilience::v1::circuit_breaker_settings::Window as Setting;
use aiplatform_proto::time::{to_proto_duration, to_proto_timestamp};
use resilience::{
    Attempt, AttemptOutcome, CircuitBreaker, CircuitBreakerConfig, ExtraCall, LatencyQuantiles, SkipReason,
    State, Window,
};

use crate::answer::Origin;
use crate::backend::{Backend, kind_of};
use crate::config::Kind;

pub(super) fn state(state: State) -> wire::CircuitBreakerState {
    match state {
        State::Closed => wire::CircuitBreakerState::Closed,
        State::Open => wire::CircuitBreakerState::Open,
        State::HalfOpen => wire::CircuitBreakerState::HalfOpen,
        State::Disabled => wire::CircuitBreakerState::Disabled,
        State::ForcedOpen => wire::CircuitBreakerState::ForcedOpen,
        State::MetricsOnly => wire::CircuitBreakerState::MetricsOnly,
    }
}

pub(super) fn attempts(attempts: &[Attempt]) -> Vec<inference::Attempt> {
    attempts.iter().map(attempt).collect()
}

fn attempt(attempt: &Attempt) -> inference::Attempt {
    inference::Attempt {
        tier: attempt.tier.to_string(),
        backend: attempt.backend.to_string(),
        outcome: outcome(attempt.outcome).into(),
        breaker_state: attempt.breaker_state.map_or(0, |breaker| state(breaker).into()),
        started_after: Some(to_proto_duration(attempt.started_after)),
        took: Some(to_proto_duration(attempt.took)),
        detail: attempt.detail.clone(),
        retry: attempt.retry,
        hedged: attempt.extra == Some(ExtraCall::Hedge),
    }
}

fn outcome(outcome: AttemptOutcome) -> inference::AttemptOutcome {
    match outcome {
        AttemptOutcome::Success => inference::AttemptOutcome::Success,
        AttemptOutcome::Failure => inference::AttemptOutcome::Failure,
        AttemptOutcome::Timeout => inference::AttemptOutcome::Timeout,
        AttemptOutcome::Rejected => inference::AttemptOutcome::Rejected,
        AttemptOutcome::Overloaded => inference::AttemptOutcome::Overloaded,
        AttemptOutcome::Cancelled => inference::AttemptOutcome::Cancelled,
        AttemptOutcome::Miss => inference::AttemptOutcome::CacheMiss,
        AttemptOutcome::Skipped(SkipReason::Breaker) => inference::AttemptOutcome::SkippedBreaker,
        AttemptOutcome::Skipped(SkipReason::Deadline) => inference::AttemptOutcome::SkippedDeadline,
        AttemptOutcome::Skipped(SkipReason::Request) => inference::AttemptOutcome::SkippedRequest,
        AttemptOutcome::Skipped(SkipReason::Bulkhead) => inference::AttemptOutcome::SkippedOverloaded,
        AttemptOutcome::Skipped(SkipReason::Resting) => inference::AttemptOutcome::SkippedResting,
    }
}

pub(super) fn served_by(
    tier: &resilience::Tier<Backend>,
    answered: &Attempt,
    origin: &Origin,
) -> inference::ServedBy {
    let kind = kind_of(tier);
    inference::ServedBy {
        tier: tier.name.to_string(),
        kind: kind.map_or(0, |kind| inference::TierKind::from(kind).into()),
        backend: answered.backend.to_string(),
        degraded: kind == Some(Kind::Message),
        cached: origin.cache_age.is_some(),
        cache_age: origin.cache_age.map(to_proto_duration),
        upstream_model: origin.upstream_model.to_string(),
        coalesced: false,
    }
}

pub(super) fn breaker(
    breaker: &CircuitBreaker,
    tiers: Vec<String>,
    service: &str,
    replica: &str,
) -> wire::CircuitBreaker {
    let snapshot = breaker.snapshot();
    let config = breaker.config();
    let totals = snapshot.totals;
    wire::CircuitBreaker {
        name: breaker.name().to_owned(),
        service: service.to_owned(),
        replica: replica.to_owned(),
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

pub(super) fn quantiles(latency: LatencyQuantiles) -> wire::LatencyQuantiles {
    wire::LatencyQuantiles {
        p50: Some(to_proto_duration(latency.p50)),
        p90: Some(to_proto_duration(latency.p90)),
        p99: Some(to_proto_duration(latency.p99)),
    }
}
