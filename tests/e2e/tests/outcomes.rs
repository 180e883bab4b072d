//! The promise: what an upstream does means one thing, for the request and for its breaker. A row of the table in
//! docs/fallback.md, a test.

use std::time::Duration;

use aiplatform_proto::inference::v1::{Attempt, AttemptOutcome, CacheMode, ChatRequest, ChatResponse};
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use aiplatform_proto::resilience::v1::{CircuitBreaker, CircuitBreakerState, ListCircuitBreakersRequest};
use aiplatform_proto::time::from_proto_duration;
use e2e::answers::Router;
use e2e::chat::{Streamed, ask, channel, open, outcomes, question, served_by};
use e2e::eventually;
use e2e::suite::{Options, Suite};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

use AttemptOutcome::{
    Cancelled, Failure, Overloaded, Rejected, SkippedBreaker, SkippedRequest, SkippedResting, Success,
    Timeout,
};

async fn breaker(suite: &Suite, tier: &str) -> CircuitBreaker {
    let mut client = CircuitBreakerServiceClient::new(channel(&suite.router.url("grpc")));
    let all = client.list_circuit_breakers(ListCircuitBreakersRequest::default()).await.unwrap().into_inner();
    let mut breakers = all.circuit_breakers.into_iter();
    breakers.find(|breaker| breaker.tiers.iter().any(|name| name == tier)).expect("a breaker of this tier")
}

/// The pause between the end of one attempt and the beginning of the next.
fn gap(attempts: &[Attempt], second: usize) -> Duration {
    let time =
        |duration: &Option<_>| from_proto_duration(duration.as_ref().expect("a time")).expect("a duration");
    let (one, two) = (&attempts[second - 1], &attempts[second]);
    time(&two.started_after).saturating_sub(time(&one.started_after) + time(&one.took))
}

fn retries(answer: &ChatResponse) -> Vec<u32> {
    answer.attempts.iter().map(|attempt| attempt.retry).collect()
}

#[tokio::test]
async fn a_reset_before_headers_is_asked_again_once_and_at_once() {
    let suite = Suite::start().await;
    suite.sim.fault_next("max", json!({"kind": "reset"}), 1).await;
    let answer = ask(&suite.client(), "x").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Failure), ("max", Success)]);
    assert_eq!(retries(&answer), [0, 1]);
    assert!(gap(&answer.attempts, 1) < Duration::from_millis(40), "{answer:?}");

    suite.sim.fault("max", json!({"kind": "reset"})).await;
    let answer = ask(&suite.client(), "x").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Failure), ("max", Failure), ("ollama", Success)]);
    assert_eq!(breaker(&suite, "max").await.consecutive_failures, 2);
}

#[tokio::test]
async fn a_silent_upstream_is_not_asked_again() {
    let suite = Options::new().with("AIP__TIERS__MAX__FIRST_TOKEN_TIMEOUT", "0.2").start().await;
    for fault in ["hang", "no_first_token"] {
        suite.sim.fault("max", json!({"kind": fault})).await;
        let streamed = Streamed::read(open(&suite.client(), question("x")).await.unwrap()).await;
        assert_eq!(outcomes(&streamed.end.unwrap().attempts), [("max", Timeout), ("ollama", Success)]);
    }
    assert_eq!(breaker(&suite, "max").await.consecutive_failures, 2);
}

#[tokio::test]
async fn a_500_is_asked_again_once_after_a_moment() {
    let suite = Options::new().with("AIP__TIERS__MAX__ATTEMPTS", "5").start().await;
    for status in [500, 502, 504] {
        suite.sim.fault_next("max", json!({"kind": "status", "status": status}), 1).await;
        let answer = ask(&suite.client(), "x").await;
        assert_eq!(outcomes(&answer.attempts), [("max", Failure), ("max", Success)]);
        let gap = gap(&answer.attempts, 1);
        assert!((Duration::from_millis(50)..Duration::from_secs(1)).contains(&gap), "{gap:?}");
    }
    suite.sim.fault("max", json!({"kind": "status", "status": 500})).await;
    let answer = ask(&suite.client(), "x").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Failure), ("max", Failure), ("ollama", Success)]);
}

#[tokio::test]
async fn a_503_is_asked_again_as_often_as_the_tier_allows() {
    let suite = Options::new()
        .with("AIP__TIERS__MAX__ATTEMPTS", "4")
        .with("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "20")
        .start()
        .await;
    for status in [503, 529] {
        suite.sim.fault("max", json!({"kind": "status", "status": status})).await;
        let answer = ask(&suite.client(), "x").await;
        assert_eq!(
            outcomes(&answer.attempts),
            [("max", Failure); 4].into_iter().chain([("ollama", Success)]).collect::<Vec<_>>()
        );
        assert_eq!(retries(&answer)[..4], [0, 1, 2, 3]);
    }
    assert_eq!(breaker(&suite, "max").await.consecutive_failures, 8);
}

#[tokio::test]
async fn a_429_is_waited_for_where_the_time_that_it_names_is_short() {
    let suite = Suite::start().await;
    suite.sim.fault_next("max", json!({"kind": "status", "status": 429, "retry_after": 1}), 1).await;
    let answer = ask(&suite.client(), "x").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Overloaded), ("max", Success)]);
    let gap = gap(&answer.attempts, 1);
    assert!((Duration::from_secs(1)..Duration::from_secs(2)).contains(&gap), "{gap:?}");
    let totals = breaker(&suite, "max").await.totals.unwrap();
    assert_eq!((totals.failure, totals.ignored, totals.success), (0, 1, 1));
}

#[tokio::test]
async fn a_429_that_names_a_long_time_rests_for_everybody() {
    let suite = Suite::start().await;
    let client = suite.client();
    suite.sim.fault("max", json!({"kind": "status", "status": 429, "retry_after": 30})).await;
    let told = ask(&client, "x").await;
    assert_eq!(outcomes(&told.attempts), [("max", Overloaded), ("ollama", Success)]);
    let other = ask(&client, "y").await;
    assert_eq!(outcomes(&other.attempts), [("max", SkippedResting), ("ollama", Success)]);
    assert_eq!(suite.sim.counter("max", "attempts").await, 1);

    let mut pinned = question("x");
    pinned.tier = "max".into();
    let status = client.clone().chat(pinned).await.unwrap_err();
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unavailable, "OVERLOADED"));
    assert!(info.metadata["attempts"].contains("max skipped_resting"), "{info:?}");
    let wait = details.retry_info().unwrap().retry_delay.unwrap();
    assert!((25..=30).contains(&wait.as_secs()), "{wait:?}");
}

#[tokio::test]
async fn a_429_without_a_time_is_asked_again_and_never_opens_a_breaker() {
    let suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "status", "status": 429})).await;
    for _ in 0..3 {
        let answer = ask(&suite.client(), "x").await;
        assert_eq!(
            outcomes(&answer.attempts),
            [("max", Overloaded), ("max", Overloaded), ("ollama", Success)]
        );
        assert!(gap(&answer.attempts, 1) >= Duration::from_millis(50));
    }
}

#[tokio::test]
async fn a_prompt_that_is_too_long_goes_to_a_larger_context_or_back_to_the_caller() {
    let suite = Options::new()
        .with("AIP__TIERS__MAX__CONTEXT_TOKENS", "4096")
        .with("AIP__TIERS__OLLAMA__CONTEXT_TOKENS", "8192")
        .start()
        .await;
    suite.sim.fault("max", json!({"kind": "context_length"})).await;
    let answer = ask(&suite.client(), "x").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Rejected), ("ollama", Success)]);

    suite.sim.fault("ollama", json!({"kind": "context_length"})).await;
    let status = suite.client().chat(question("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_error_info().unwrap().reason, "CONTEXT_LENGTH_EXCEEDED");
}

#[tokio::test]
async fn a_policy_refusal_reaches_the_caller_and_asks_nobody_else() {
    let suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "content_policy"})).await;
    let status = suite.client().chat(question("x")).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::InvalidArgument, "CONTENT_POLICY"));
    assert_eq!(info.metadata["attempts"], "max rejected (content_policy)");
    assert_eq!(suite.sim.counter("max", "attempts").await, 1);
    assert_eq!(suite.sim.counter("ollama", "attempts").await, 0);
}

#[tokio::test]
async fn a_missing_model_is_the_tiers_own_fault_and_said() {
    let suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "model_not_found"})).await;
    let answer = ask(&suite.client(), "x").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Rejected), ("ollama", Success)]);
    assert!(answer.attempts[0].detail.starts_with("model missing: "), "{answer:?}");
    assert_eq!(breaker(&suite, "max").await.totals.unwrap().failure, 0);
}

#[tokio::test]
async fn an_answer_that_is_none_goes_on_to_the_next_tier_at_once() {
    let suite = Suite::start().await;
    for fault in [json!({"kind": "wrong_content_type"}), json!({"kind": "oversize", "bytes": 5_000_000})] {
        suite.sim.fault("max", fault).await;
        let answer = ask(&suite.client(), "x").await;
        assert_eq!(outcomes(&answer.attempts), [("max", Failure), ("ollama", Success)]);
    }
    assert_eq!(breaker(&suite, "max").await.consecutive_failures, 2);
}

#[tokio::test]
async fn a_slow_first_token_is_hedged_and_the_loser_leaves_nothing_behind() {
    let suite = Options::new().with("AIP__TIERS__MAX__HEDGE__AFTER", "0.1").start().await;
    suite.sim.fault("max", json!({"kind": "slow_first_token", "delay_ms": 2000})).await;
    let streamed = Streamed::read(open(&suite.client(), question("x")).await.unwrap()).await;
    let end = streamed.end.unwrap();
    assert_eq!(outcomes(&end.attempts), [("max", Cancelled), ("ollama", Success)]);
    assert_eq!(end.attempts.iter().map(|attempt| attempt.hedged).collect::<Vec<_>>(), [false, true]);
    assert_eq!(end.served_by.unwrap().tier, "ollama");
    let answer = ask(&suite.client(), "y").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Cancelled), ("ollama", Success)]);
    let max = breaker(&suite, "max").await.totals.unwrap();
    assert_eq!((max.cancelled, max.failure, max.success), (2, 0, 0));
    let ollama = eventually("the streams to be settled", || async {
        let totals = breaker(&suite, "ollama").await.totals.unwrap();
        (totals.success == 2).then_some(totals)
    });
    assert_eq!(ollama.await.cancelled, 0);
    suite.sim.wait_for("max", "client_gone", 2).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_found_out_behind_hedges_that_always_win() {
    let suite = Options::new()
        .with("AIP__TIERS__MAX__HEDGE__AFTER", "0.1")
        .with("AIP__TIERS__MAX__FIRST_TOKEN_TIMEOUT", "0.5")
        .with("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", "60")
        .start()
        .await;
    suite.sim.fault("max", json!({"kind": "hang"})).await;
    let client = suite.client();
    let answered = async || {
        let end = Streamed::read(open(&client, question("x")).await.unwrap()).await.end.unwrap();
        assert_eq!(end.served_by.as_ref().unwrap().tier, "ollama");
        end.attempts
    };
    // Five waits of a tenth of a second are a failure, and three failures are enough.
    for _ in 0..15 {
        answered().await;
    }
    let max = breaker(&suite, "max").await;
    assert_eq!((max.state(), max.totals.unwrap().failure), (CircuitBreakerState::Open, 3));
    assert_eq!(outcomes(&answered().await), [("max", SkippedBreaker), ("ollama", Success)]);
}

#[tokio::test]
async fn wishes_that_contradict_each_other_are_refused_by_name() {
    let suite = Suite::start().await;
    let pinned = |tier: &str| ChatRequest { tier: tier.into(), ..question("x") };
    let cases: [(ChatRequest, &[&str]); 3] = [
        (ChatRequest { cache: CacheMode::Bypass.into(), ..pinned("cache") }, &["tier", "cache"]),
        (ChatRequest { allow_degraded: Some(false), ..pinned("degraded") }, &["tier", "allow_degraded"]),
        (ChatRequest { cache: CacheMode::Only.into(), model: "sim-max".into(), ..question("x") }, &["cache"]),
    ];
    for (chat, fields) in cases {
        let status = suite.client().chat(chat).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let details = status.get_error_details();
        let named: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|found| found.field.clone()).collect();
        assert_eq!(named, fields);
    }
    let degraded = suite.client().chat(pinned("degraded")).await.unwrap().into_inner();
    assert!(served_by(&degraded).degraded);
    assert!(outcomes(&degraded.attempts).contains(&("max", SkippedRequest)));
}

#[tokio::test]
async fn a_whole_answer_that_fits_into_no_message_is_the_next_tiers_and_as_a_stream_it_fits() {
    let router = Router::start(&[("AIP__AGENT_ROUTER__MAX_MESSAGE_BYTES", "1048576".to_owned())]).await;
    router.sim.fault("max", json!({"kind": "oversize", "bytes": 1_500_000})).await;
    let answer = router.ask("q").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Failure), ("ollama", Success)]);
    assert_eq!(answer.attempts[0].detail, "protocol error: answer over 983040 bytes");
    let stream = Streamed::read(open(&router.client(), question("q")).await.unwrap()).await;
    assert_eq!((stream.text.len(), stream.error.is_none()), (1_500_000, true));
}
