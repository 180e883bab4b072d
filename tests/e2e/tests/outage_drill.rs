//! The promise: while the first tier is out, every request is answered, the dead server is left in peace, and it has its
//! traffic back soon after it is well.
//!
//! The drill is an outage of a minute, asked every four seconds for eighty and until the first tier is back, at a twentieth
//! of its times; with `OUTAGE_DRILL_SCALE=1` it takes the whole time.

use std::time::Duration;

use aiplatform_proto::inference::v1::{Attempt, AttemptOutcome, ChatResponse};
use aiplatform_proto::resilience::v1::CircuitBreakerState;
use e2e::chat::{ask, question, served_by};
use e2e::suite::Options;
use serde_json::{Value, json};
use tokio::time::Instant;

const OUTAGE: f64 = 60.0;
const EVERY: f64 = 4.0;
const REQUESTS: u32 = 20;
const RECOVERY: f64 = 30.0;
const FIRST_TIER_TIMEOUT: f64 = 5.0;
/// The share by which breakers vary their wait.
const JITTER: f64 = 0.15;

#[allow(clippy::disallowed_methods, reason = "no service's setting")]
fn scaled(seconds: f64) -> Duration {
    let scale = std::env::var("OUTAGE_DRILL_SCALE").map_or(0.05, |scale| scale.parse().expect("a number"));
    Duration::from_secs_f64(seconds * scale)
}

/// The calls that a request made of the first tier.
fn calls(answer: &ChatResponse) -> impl Iterator<Item = &Attempt> {
    let skipped = |attempt: &Attempt| {
        let outcome = attempt.outcome().as_str_name();
        outcome.starts_with("ATTEMPT_OUTCOME_SKIPPED")
    };
    answer.attempts.iter().filter(move |attempt| attempt.tier == "max" && !skipped(attempt))
}

async fn drill(fault: Value) {
    let suite = Options::new()
        .with("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", scaled(RECOVERY).as_secs_f64().to_string())
        .with("CIRCUIT_BREAKER_TIMEOUT_SECONDS", scaled(FIRST_TIER_TIMEOUT).as_secs_f64().to_string())
        .with("AIP__TIERS__MAX__FIRST_TOKEN_TIMEOUT", scaled(FIRST_TIER_TIMEOUT).as_secs_f64().to_string())
        .start()
        .await;
    let client = suite.client();
    assert_eq!(served_by(&ask(&client, "before").await).tier, "max");

    suite.sim.fault("max", fault).await;
    let began = Instant::now();
    let mut healed = None;
    let mut answers: Vec<(Instant, ChatResponse)> = Vec::new();
    let longest = scaled(RECOVERY * (1.0 + JITTER) + EVERY) + Duration::from_millis(500);
    for number in 0.. {
        tokio::time::sleep_until(began + scaled(EVERY) * number).await;
        let back = answers.last().is_some_and(|(_, answer)| served_by(answer).tier == "max");
        let in_vain = healed.is_some_and(|healed: Instant| healed.elapsed() > longest * 2);
        if number >= REQUESTS && (back || in_vain) {
            break;
        }
        if healed.is_none() && began.elapsed() >= scaled(OUTAGE) {
            suite.sim.heal("max").await;
            healed = Some(Instant::now());
        }
        // Each request is another question, so that no earlier answer helps.
        let chat = question(&format!("question {number}"));
        let answer = client.clone().chat(chat).await.unwrap_or_else(|status| panic!("{number}: {status:?}"));
        answers.push((Instant::now(), answer.into_inner()));
    }

    let healed = healed.expect("the outage ended within the drill");
    let (out, after): (Vec<_>, Vec<_>) = answers.iter().partition(|(at, _)| *at < healed);
    assert!(out.len() >= 14 && after.len() >= 4, "{} and {}", out.len(), after.len());
    for (_, answer) in &out {
        assert_eq!(served_by(answer).tier, "ollama", "{answer:?}");
    }
    let made: Vec<&Attempt> = out.iter().flat_map(|(_, answer)| calls(answer)).collect();
    let before_it_opened =
        made.iter().take_while(|attempt| attempt.breaker_state() == CircuitBreakerState::Closed).count();
    assert!((1..=3).contains(&before_it_opened), "{before_it_opened} calls of a dead server: {made:?}");
    for probe in &made[before_it_opened..] {
        assert_eq!(probe.breaker_state(), CircuitBreakerState::HalfOpen, "{probe:?}");
        assert!(matches!(probe.outcome(), AttemptOutcome::Failure | AttemptOutcome::Timeout), "{probe:?}");
    }
    let most_probes = (OUTAGE / (RECOVERY * (1.0 - JITTER))).ceil();
    let probes = made.len() - before_it_opened;
    assert!(f64::from(u32::try_from(probes).unwrap()) <= most_probes, "{probes} probes");

    let back = after.iter().find(|(_, answer)| served_by(answer).tier == "max");
    let (back, _) = back.unwrap_or_else(|| panic!("it never came back: {after:?}"));
    assert!(back.duration_since(healed) <= longest, "{:?}", back.duration_since(healed));
    for (_, answer) in after.iter().filter(|(at, _)| at > back) {
        assert_eq!(served_by(answer).tier, "max", "{answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_down() {
    drill(json!({"kind": "down"})).await;
}

#[tokio::test]
async fn a_server_that_takes_requests_and_says_nothing() {
    drill(json!({"kind": "hang"})).await;
}

#[tokio::test]
async fn a_server_whose_worker_has_crashed() {
    drill(json!({"kind": "status", "status": 500})).await;
}
