//! Breakers in JSON. Times are RFC 3339, durations are numbers with their unit in the name.

use std::time::SystemTime;

use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::time::{from_proto_duration, from_proto_timestamp};
use serde::Serialize;

/// Breakers, and the replicas that were asked for them.
#[derive(Debug, Serialize)]
pub struct CircuitBreakers {
    circuit_breakers: Vec<CircuitBreaker>,
    replicas: Vec<Replica>,
}

#[derive(Debug, Serialize)]
struct CircuitBreaker {
    name: String,
    service: String,
    replica: String,
    tiers: Vec<String>,
    state: String,
    state_since: Option<String>,
    generation: u64,
    consecutive_failures: u32,
    openings: u64,
    next_probe_in_seconds: Option<f64>,
    totals: Totals,
    settings: Settings,
}

#[derive(Debug, Default, Serialize)]
struct Totals {
    success: u64,
    failure: u64,
    ignored: u64,
    rejected: u64,
    cancelled: u64,
    late: u64,
}

#[derive(Debug, Default, Serialize)]
struct Settings {
    failure_threshold: Option<u32>,
    recovery_timeout_seconds: Option<f64>,
    half_open_calls: u32,
}

/// A replica, and whether it answered.
#[derive(Debug, Serialize)]
pub struct Replica {
    service: String,
    replica: String,
    address: String,
    reachable: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

impl CircuitBreakers {
    /// What replicas said of their breakers, as of `now`.
    pub fn of(
        breakers: Vec<wire::CircuitBreaker>,
        replicas: Vec<wire::ReplicaStatus>,
        now: SystemTime,
    ) -> Self {
        Self {
            circuit_breakers: breakers.into_iter().map(|breaker| CircuitBreaker::of(breaker, now)).collect(),
            replicas: replicas.into_iter().map(Into::into).collect(),
        }
    }
}

impl CircuitBreaker {
    fn of(breaker: wire::CircuitBreaker, now: SystemTime) -> Self {
        let next_probe = breaker.next_probe_at.as_ref().and_then(from_proto_timestamp);
        Self {
            state: state_name(breaker.state()).to_owned(),
            name: breaker.name,
            service: breaker.service,
            replica: breaker.replica,
            tiers: breaker.tiers,
            state_since: breaker.state_since.as_ref().and_then(rfc3339),
            generation: breaker.generation,
            consecutive_failures: breaker.consecutive_failures,
            openings: breaker.openings,
            next_probe_in_seconds: next_probe
                .map(|at| at.duration_since(now).unwrap_or_default().as_secs_f64())
                .map(round),
            totals: breaker.totals.map(Into::into).unwrap_or_default(),
            settings: breaker.settings.map(Into::into).unwrap_or_default(),
        }
    }
}

fn state_name(state: wire::CircuitBreakerState) -> &'static str {
    match state {
        wire::CircuitBreakerState::Unspecified => "unknown",
        wire::CircuitBreakerState::Closed => "closed",
        wire::CircuitBreakerState::Open => "open",
        wire::CircuitBreakerState::HalfOpen => "half_open",
        wire::CircuitBreakerState::ForcedOpen => "forced_open",
        wire::CircuitBreakerState::Disabled => "disabled",
        wire::CircuitBreakerState::MetricsOnly => "metrics_only",
    }
}

impl From<wire::CallTotals> for Totals {
    fn from(totals: wire::CallTotals) -> Self {
        let wire::CallTotals { success, failure, ignored, rejected, cancelled, late } = totals;
        Self { success, failure, ignored, rejected, cancelled, late }
    }
}

impl From<wire::CircuitBreakerSettings> for Settings {
    fn from(settings: wire::CircuitBreakerSettings) -> Self {
        let open_wait = settings.open_wait.as_ref().and_then(from_proto_duration);
        Self {
            failure_threshold: settings.consecutive_failures,
            recovery_timeout_seconds: open_wait.map(|wait| wait.as_secs_f64()),
            half_open_calls: settings.half_open_calls,
        }
    }
}

impl From<wire::ReplicaStatus> for Replica {
    fn from(status: wire::ReplicaStatus) -> Self {
        let wire::ReplicaStatus { service, replica, address, reachable, error } = status;
        Self { service, replica, address, reachable, error }
    }
}

/// Three digits after the point: nobody reads more.
pub fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A time of day, such as `2026-01-02T03:04:05.678Z`. `None` for one that no calendar has.
pub fn rfc3339(timestamp: &aiplatform_proto::Timestamp) -> Option<String> {
    Some(humantime::format_rfc3339_millis(from_proto_timestamp(timestamp)?).to_string())
}
