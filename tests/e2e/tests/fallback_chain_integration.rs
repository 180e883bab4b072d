//! The promise: a chat is answered by the first tier that can, and still answered when everything behind is gone.

use std::time::Duration;

use aiplatform_proto::inference::v1::{AttemptOutcome, CacheMode, ChatRequest};
use e2e::chat::{Client, ask, client, open, outcomes, question, served_by, text};
use e2e::eventually;
use e2e::metrics::Metrics;
use e2e::sim::Sim;
use e2e::suite::{Options, Suite, quick, start_all_in_one};
use serde_json::json;
use tokio::time::Instant;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use AttemptOutcome::{CacheMiss, Failure, SkippedBreaker, SkippedRequest, Success};

/// The deadline of every request here: far over what an answer takes, far under a test's patience.
const DEADLINE: Duration = Duration::from_secs(5);

async fn ask_within(client: &Client, text: &str) -> aiplatform_proto::inference::v1::ChatResponse {
    let mut request = Request::new(question(text));
    request.set_timeout(DEADLINE);
    let began = Instant::now();
    let answer = client.clone().chat(request).await.unwrap_or_else(|status| panic!("{status:?}"));
    assert!(began.elapsed() < DEADLINE);
    answer.into_inner()
}

/// Down the chain step by step, and back up.
async fn walk_down_and_up(client: &Client, sim: &Sim) {
    let answer = ask_within(client, "an early question").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Success)]);
    assert!(text(&answer).contains("an early question"), "{answer:?}");
    assert!(!served_by(&answer).degraded && !served_by(&answer).cached);

    sim.fault("max", json!({"kind": "down"})).await;
    let answer = ask_within(client, "a second question").await;
    assert_eq!(outcomes(&answer.attempts), [("max", Failure), ("max", Failure), ("ollama", Success)]);
    assert_eq!(served_by(&answer).upstream_model, "sim-ollama");
    // The first went out on a connection that was kept, and may have been reset; the second needed a new one.
    assert!(answer.attempts[1].detail.contains("Connection refused"), "{answer:?}");

    sim.fault("ollama", json!({"kind": "down"})).await;
    // The answer is stored behind the request, so it may be a moment away.
    let cached = eventually("the answer from the cache", || async {
        let answer = ask_within(client, "an early question").await;
        served_by(&answer).cached.then_some(answer)
    })
    .await;
    assert_eq!(served_by(&cached).tier, "cache");
    assert_eq!(served_by(&cached).upstream_model, "sim-max");
    assert!(served_by(&cached).cache_age.is_some());
    assert!(text(&cached).contains("an early question"));

    let answer = ask_within(client, "a question that nobody asked before").await;
    assert_eq!(text(&answer), "Service temporarily unavailable");
    assert!(served_by(&answer).degraded);
    let tiers: Vec<_> = outcomes(&answer.attempts).into_iter().map(|(tier, _)| tier).collect();
    assert_eq!(tiers, ["max", "ollama", "cache", "degraded"]);
    assert_eq!(outcomes(&answer.attempts)[2..], [("cache", CacheMiss), ("degraded", Success)]);

    // Enough failures to open both breakers: from then on nobody is called.
    eventually("both breakers open", || async {
        let answer = ask_within(client, "another new question").await;
        let skipped = [("max", SkippedBreaker), ("ollama", SkippedBreaker)];
        (outcomes(&answer.attempts)[..2] == skipped).then_some(())
    })
    .await;

    sim.heal("max").await;
    sim.heal("ollama").await;
    let recovering = Instant::now();
    eventually("the first tier again", || async {
        let answer = ask_within(client, "a question after the outage").await;
        (served_by(&answer).tier == "max").then_some(())
    })
    .await;
    // 300 ms is the recovery timeout of these tests; the rest is what the last request took.
    assert!(recovering.elapsed() < Duration::from_millis(1300), "{:?}", recovering.elapsed());
}

#[tokio::test]
async fn separate_processes_walk_down_the_chain_and_up_again() {
    let suite = Options::new().redis().start().await;
    walk_down_and_up(&suite.client(), &suite.sim).await;
}

#[tokio::test]
async fn one_process_walks_down_the_chain_and_up_again() {
    let all = start_all_in_one(&[]).await;
    walk_down_and_up(&client(&all.url("gateway_grpc")), &Sim::new(all.url("sim_control"))).await;
}

#[tokio::test]
async fn without_redis_the_chain_goes_on() {
    let mut suite = Options::new().redis().start().await;
    let client = suite.client();
    ask(&client, "stored").await;
    suite.redis.take().expect("there is a Redis").kill().await;
    suite.sim.fault("max", json!({"kind": "down"})).await;
    suite.sim.fault("ollama", json!({"kind": "down"})).await;
    let began = Instant::now();
    let answer = ask(&client, "stored").await;
    assert!(served_by(&answer).degraded, "{answer:?}");
    let cache = answer.attempts.iter().find(|attempt| attempt.tier == "cache").expect("it was tried");
    assert_eq!(cache.outcome(), Failure, "{cache:?}");
    let took = cache.took.as_ref().expect("a time");
    assert!(took.seconds == 0 && took.nanos < 80_000_000, "the cache cost {took:?}");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_redis_that_comes_back_is_used_again() {
    let mut suite = Options::new().redis().start().await;
    let client = suite.client();
    let redis = suite.redis.take().expect("there is a Redis");
    suite.redis = Some(redis.replace().await);
    let only = || {
        let chat = ChatRequest { cache: CacheMode::Only.into(), ..question("after the restart") };
        let mut client = client.clone();
        async move { client.chat(chat).await.unwrap().into_inner() }
    };
    eventually("an answer from the new Redis", || async {
        ask(&client, "after the restart").await;
        served_by(&only().await).cached.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_decides_about_cache_degraded_answers_and_its_tier() {
    let suite = Suite::start().await;
    let client = suite.client();
    let send = |change: fn(&mut ChatRequest)| {
        let mut request = question("a decided question");
        change(&mut request);
        let mut client = client.clone();
        async move { client.chat(request).await.map(tonic::Response::into_inner) }
    };

    let bypassed = send(|chat| chat.cache = CacheMode::Bypass.into()).await.unwrap();
    assert_eq!(served_by(&bypassed).tier, "max");
    let only = send(|chat| chat.cache = CacheMode::Only.into()).await.unwrap();
    assert_eq!(outcomes(&only.attempts)[..2], [("max", SkippedRequest), ("ollama", SkippedRequest)]);
    assert!(served_by(&only).degraded, "the bypassed answer was not stored: {only:?}");
    send(|_| ()).await.unwrap();
    eventually("the stored answer", || async {
        let only = send(|chat| chat.cache = CacheMode::Only.into()).await.unwrap();
        served_by(&only).cached.then_some(())
    })
    .await;
    assert_eq!(suite.sim.counter("max", "attempts").await, 2);

    let pinned = send(|chat| chat.tier = "ollama".into()).await.unwrap();
    assert_eq!(served_by(&pinned).tier, "ollama");
    let unknown = send(|chat| chat.tier = "gpu".into()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(unknown.get_details_error_info().unwrap().reason, "TIER_NOT_FOUND");

    suite.sim.fault("max", json!({"kind": "status", "status": 500})).await;
    suite.sim.fault("ollama", json!({"kind": "status", "status": 503})).await;
    let refused = send(|chat| {
        chat.allow_degraded = Some(false);
        chat.cache = CacheMode::Bypass.into();
    })
    .await
    .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "ALL_TIERS_UNAVAILABLE");
    assert!(refused.message().contains("max failure (status 500"), "{refused:?}");
}

#[tokio::test]
async fn a_refused_request_reaches_the_caller_and_spares_the_breakers() {
    let suite = Suite::start().await;
    let client = suite.client();
    for (fault, reason) in [
        (json!({"kind": "context_length"}), "CONTEXT_LENGTH_EXCEEDED"),
        (json!({"kind": "content_policy"}), "CONTENT_POLICY"),
        (json!({"kind": "status", "status": 422}), "INVALID_REQUEST"),
    ] {
        suite.sim.fault("max", fault).await;
        for _ in 0..4 {
            let status = client.clone().chat(question("x")).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert_eq!(status.get_details_error_info().unwrap().reason, reason);
        }
    }
    suite.sim.heal("max").await;
    assert_eq!(served_by(&ask(&client, "x").await).tier, "max");
    assert_eq!(suite.sim.counter("ollama", "attempts").await, 0);
}

#[tokio::test]
async fn every_kind_of_upstream_failure_falls_through_to_the_next_tier() {
    let suite = Options::new()
        .with("CIRCUIT_BREAKER_ENABLED", "false")
        .with("CIRCUIT_BREAKER_TIMEOUT_SECONDS", "0.3")
        .with("AIP__TIERS__MAX__FIRST_TOKEN_TIMEOUT", "0.3")
        .start()
        .await;
    let client = suite.client();
    let faults = [
        json!({"kind": "reset"}),
        json!({"kind": "hang"}),
        json!({"kind": "no_first_token"}),
        json!({"kind": "cut"}),
        json!({"kind": "stall"}),
        json!({"kind": "status", "status": 500}),
        json!({"kind": "status", "status": 503}),
        json!({"kind": "status", "status": 429, "retry_after": 1}),
        json!({"kind": "model_not_found"}),
        json!({"kind": "wrong_content_type"}),
        json!({"kind": "malformed_body"}),
        json!({"kind": "oversize", "bytes": 5_000_000}),
        json!({"kind": "error_event"}),
    ];
    for fault in faults {
        suite.sim.fault("max", fault.clone()).await;
        let answer = ask(&client, "x").await;
        assert_eq!(served_by(&answer).tier, "ollama", "{fault}: {answer:?}");
        assert!(!answer.attempts[0].detail.is_empty(), "{fault}");
    }
}

#[tokio::test]
async fn what_was_tried_for_a_client_that_went_away_is_counted_and_said() {
    let suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "status", "status": 500})).await;
    suite.sim.fault("ollama", json!({"kind": "hang"})).await;
    for streamed in [false, true] {
        let before = suite.sim.counter("ollama", "attempts").await;
        let client = suite.client();
        let mut asking = tokio::task::JoinSet::new();
        asking.spawn(async move {
            if streamed {
                drop(open(&client, question("x")).await);
            } else {
                drop(ask(&client, "x").await);
            }
        });
        suite.sim.wait_for("ollama", "attempts", before + 1).await;
        asking.shutdown().await;
    }
    let counted = async |metric: &str, labels: &[&str]| {
        Metrics::scrape(&suite.router, "admin").await.value(metric, labels)
    };
    eventually("two clients that went away", || async {
        let cancelled = ["tier=\"ollama\"", "outcome=\"cancelled\""];
        (counted("aip_tier_attempts_total", &cancelled).await > 1.5).then_some(())
    })
    .await;
    let failed = counted("aip_tier_attempts_total", &["tier=\"max\"", "outcome=\"failure\""]).await;
    let retried = counted("aip_retries_total", &["tier=\"max\""]).await;
    // The breaker opens with the third failure.
    assert_eq!((failed, retried), (3.0, 1.0));
    let lines = eventually("a line for each", || async {
        let lines = suite.router.logs().into_iter().filter(|line| line["message"] == "client went away");
        Some(lines.collect::<Vec<_>>()).filter(|lines| lines.len() == 2)
    })
    .await;
    let tried = lines[0]["tried"].as_str().unwrap_or_default();
    assert!(
        tried.starts_with("max failure (status 500), max again failure (status 500), ollama cancelled"),
        "{tried}"
    );
}

#[tokio::test]
async fn with_no_router_the_gateway_answers_by_itself() {
    let mut suite = Suite::start().await;
    let client = suite.client();
    ask(&client, "x").await;
    suite.router.signal("KILL").await;
    suite.router.wait().await;
    let answer = ask(&client, "x").await;
    assert!(served_by(&answer).degraded);
    assert_eq!(served_by(&answer).tier, "gateway");
    assert_eq!(answer.attempts[0].outcome(), AttemptOutcome::Unreachable);

    let mut request = question("x");
    request.allow_degraded = Some(false);
    let status = client.clone().chat(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "NO_ENDPOINTS");
}

#[tokio::test]
async fn a_second_router_takes_over_when_the_first_is_gone() {
    let suite = Suite::start().await;
    let other = e2e::suite::start_router(&suite.simulator, None, &quick()).await;
    let routers = format!("{},{}", suite.router.url("grpc"), other.url("grpc"));
    let gateway = e2e::suite::start_gateway(&routers, &[]).await;
    let client = client(&gateway.url("grpc"));
    other.signal("KILL").await;
    for _ in 0..6 {
        assert_eq!(served_by(&ask(&client, "x").await).tier, "max");
    }
}
