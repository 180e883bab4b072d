//! From the types of the chain and the breakers to those of the wire.

use aiplatform_proto::inference::v1 as inference;
use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::time::to_proto_duration;
use resilience::{Attempt, AttemptOutcome, ExtraCall, LatencyQuantiles, SkipReason};
use service_kit::circuit_breakers::state;

use crate::answer::Origin;
use crate::backend::{Backend, kind_of};
use crate::config::Kind;

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
        AttemptOutcome::Skipped(reason) => skipped(reason),
        // None of today's: a test goes through them all.
        _ => inference::AttemptOutcome::Unspecified,
    }
}

fn skipped(reason: SkipReason) -> inference::AttemptOutcome {
    match reason {
        SkipReason::Breaker => inference::AttemptOutcome::SkippedBreaker,
        SkipReason::Deadline => inference::AttemptOutcome::SkippedDeadline,
        SkipReason::Request => inference::AttemptOutcome::SkippedRequest,
        SkipReason::Bulkhead => inference::AttemptOutcome::SkippedOverloaded,
        SkipReason::Resting => inference::AttemptOutcome::SkippedResting,
        SkipReason::Budget => inference::AttemptOutcome::SkippedRetryBudget,
        _ => inference::AttemptOutcome::Unspecified,
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

pub(super) fn quantiles(latency: LatencyQuantiles) -> wire::LatencyQuantiles {
    wire::LatencyQuantiles {
        p50: Some(to_proto_duration(latency.p50)),
        p90: Some(to_proto_duration(latency.p90)),
        p99: Some(to_proto_duration(latency.p99)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_on_the_wire() {
        let mut seen = Vec::new();
        for &known in AttemptOutcome::ALL {
            let wire = outcome(known);
            assert!(wire != inference::AttemptOutcome::Unspecified && !seen.contains(&wire), "{known:?}");
            seen.push(wire);
        }
    }
}
