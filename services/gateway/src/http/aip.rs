//! What OpenAI's protocol has no place for: who answered, and every attempt. It is told in headers, for whoever looks at
//! nothing else, and as the field `aip` of the answer, where nothing has to be short.
//!
//! A stream has the headers too, because its head is sent when a tier has committed itself to it with its first content.
//! What happens later, when another backend goes on with the answer, is in the `aip` of the last chunk.

use aiplatform_proto::inference::v1 as wire;
use aiplatform_proto::time::from_proto_duration;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

/// The tier that answered.
pub(super) const SERVED_BY: HeaderName = HeaderName::from_static("x-aip-served-by");
/// Whether it is the fixed message of the last tier.
pub(super) const DEGRADED: HeaderName = HeaderName::from_static("x-aip-degraded");
/// Every attempt as `tier=outcome`, in order.
pub(super) const ATTEMPTS: HeaderName = HeaderName::from_static("x-aip-attempts");

/// Attempts that the header names; the field has them all.
const MOST_ATTEMPTS: usize = 16;

/// The field `aip` of an answer.
#[derive(Debug, Serialize)]
pub(super) struct Aip {
    served_by: ServedBy,
    attempts: Vec<Attempt>,
    #[serde(skip_serializing_if = "is_zero")]
    malformed_events: u32,
    #[serde(skip_serializing_if = "is_false")]
    usage_estimated: bool,
}

#[derive(Debug, Serialize)]
struct ServedBy {
    tier: String,
    kind: String,
    backend: String,
    degraded: bool,
    cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_age_seconds: Option<f64>,
    upstream_model: String,
    coalesced: bool,
}

#[derive(Debug, Serialize)]
struct Attempt {
    tier: String,
    backend: String,
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker_state: Option<String>,
    started_after_ms: f64,
    took_ms: f64,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    retry: u32,
    hedged: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Aip {
    pub(super) fn of_answer(served_by: Option<wire::ServedBy>, attempts: Vec<wire::Attempt>) -> Self {
        Self {
            served_by: served_by.unwrap_or_default().into(),
            attempts: attempts.into_iter().map(Into::into).collect(),
            malformed_events: 0,
            usage_estimated: false,
        }
    }

    pub(super) fn of_end(end: wire::StreamEnd) -> Self {
        Self {
            malformed_events: end.malformed_events,
            usage_estimated: end.usage_estimated,
            ..Self::of_answer(end.served_by, end.attempts)
        }
    }
}

/// Says in headers who answered.
pub(super) fn set_headers(
    headers: &mut HeaderMap,
    served_by: Option<&wire::ServedBy>,
    attempts: &[wire::Attempt],
) {
    let Some(served_by) = served_by else { return };
    let degraded = if served_by.degraded { "true" } else { "false" };
    headers.insert(DEGRADED, HeaderValue::from_static(degraded));
    let attempts = attempts.iter().take(MOST_ATTEMPTS).map(|attempt| {
        // The gateway's own attempts at reaching a router belong to no tier.
        let tier = if attempt.tier.is_empty() { "router" } else { &attempt.tier };
        format!("{tier}={}", outcome(attempt))
    });
    let attempts = attempts.collect::<Vec<_>>().join(", ");
    for (name, value) in [(SERVED_BY, served_by.tier.clone()), (ATTEMPTS, attempts)] {
        // The name of a tier may be anything; one that no header can hold is in the field alone.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

fn outcome(attempt: &wire::Attempt) -> String {
    short(attempt.outcome().as_str_name(), "ATTEMPT_OUTCOME_")
}

/// The name of an enum's value as JSON has it: without its prefix, in small letters.
pub(super) fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

impl From<wire::ServedBy> for ServedBy {
    fn from(served_by: wire::ServedBy) -> Self {
        let age = served_by.cache_age.as_ref().and_then(from_proto_duration);
        Self {
            kind: short(served_by.kind().as_str_name(), "TIER_KIND_"),
            tier: served_by.tier,
            backend: served_by.backend,
            degraded: served_by.degraded,
            cached: served_by.cached,
            cache_age_seconds: age.map(|age| age.as_secs_f64()),
            upstream_model: served_by.upstream_model,
            coalesced: served_by.coalesced,
        }
    }
}

impl From<wire::Attempt> for Attempt {
    fn from(attempt: wire::Attempt) -> Self {
        let ms = |time: Option<aiplatform_proto::Duration>| {
            let time = time.as_ref().and_then(from_proto_duration).unwrap_or_default();
            (time.as_secs_f64() * 1e6).round() / 1e3
        };
        let breaker = attempt.breaker_state != 0;
        let state = || short(attempt.breaker_state().as_str_name(), "CIRCUIT_BREAKER_STATE_");
        Self {
            outcome: outcome(&attempt),
            breaker_state: breaker.then(state),
            started_after_ms: ms(attempt.started_after),
            took_ms: ms(attempt.took),
            tier: attempt.tier,
            backend: attempt.backend,
            detail: attempt.detail,
            retry: attempt.retry,
            hedged: attempt.hedged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::AttemptOutcome;

    #[test]
    fn the_headers_name_the_tier_and_each_attempt() {
        let attempt = |tier: &str, outcome: AttemptOutcome| wire::Attempt {
            tier: tier.into(),
            outcome: outcome.into(),
            ..wire::Attempt::default()
        };
        let attempts = [
            attempt("", AttemptOutcome::Unreachable),
            attempt("max", AttemptOutcome::SkippedBreaker),
            attempt("ollama", AttemptOutcome::Success),
        ];
        let served_by = wire::ServedBy { tier: "ollama".into(), ..wire::ServedBy::default() };
        let mut headers = HeaderMap::new();
        set_headers(&mut headers, Some(&served_by), &attempts);
        assert_eq!(headers[SERVED_BY], "ollama");
        assert_eq!(headers[DEGRADED], "false");
        assert_eq!(headers[ATTEMPTS], "router=unreachable, max=skipped_breaker, ollama=success");

        let odd = wire::ServedBy { tier: "a\nb".into(), degraded: true, ..served_by };
        let mut headers = HeaderMap::new();
        set_headers(&mut headers, Some(&odd), &attempts);
        assert!(!headers.contains_key(SERVED_BY) && headers[DEGRADED] == "true");
    }
}
