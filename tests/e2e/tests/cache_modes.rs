//! The promise: an agent repeats itself only where its model would say the same again, and then asks it once.

use std::time::Duration;

use aiplatform_proto::inference::v1::{AttemptOutcome, CacheMode, ChatRequest, ChatResponse, Sampling};
use aiplatform_proto::resilience::v1::GetFallbackChainStatsRequest;
use aiplatform_proto::resilience::v1::fallback_chain_service_client::FallbackChainServiceClient;
use e2e::answers::{Router, held_by_redis};
use e2e::chat::{Streamed, channel, open, outcomes, question, served_by, text};
use e2e::eventually;
use e2e::redis::Redis;
use futures_util::future::join_all;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;

use AttemptOutcome::{CacheMiss, Cancelled, Success};

fn deterministic(text: &str) -> ChatRequest {
    let sampling = Sampling { temperature: Some(0.0), ..Sampling::default() };
    ChatRequest { sampling: Some(sampling), ..question(text) }
}

/// A router whose agent has this `cache` section, and the file that says so.
async fn start(redis: Option<&Redis>, cache: &str) -> (Router, NamedTempFile) {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let text =
        format!("agents: [{{name: assistant, tiers: [max, ollama, cache, degraded], cache: {cache}}}]");
    std::fs::write(file.path(), text).unwrap();
    let url = redis.map(|redis| ("REDIS_URL", redis.url()));
    (Router::start_with(file.path(), &url.into_iter().collect::<Vec<_>>()).await, file)
}

async fn until_stored(router: &Router, stored: u64) {
    eventually("the stored answer", || async { (router.writes("stored").await == stored).then_some(()) })
        .await;
}

#[tokio::test]
async fn read_through_repeats_deterministic_answers_before_the_models() {
    let redis = Redis::start().await;
    let (router, _file) = start(Some(&redis), "{mode: read_through}").await;
    router.keep("warm up").await;
    let first = router.send(deterministic("q")).await;
    assert_eq!(outcomes(&first.attempts), [("cache", CacheMiss), ("max", Success)]);
    until_stored(&router, 2).await;
    let second = router.send(deterministic("q")).await;
    assert_eq!(outcomes(&second.attempts), [("cache", Success)]);
    assert_eq!(text(&second), text(&first));
    let streamed = Streamed::read(open(&router.client(), deterministic("q")).await.unwrap()).await;
    assert_eq!(streamed.text, text(&first));
    assert!(streamed.end.unwrap().served_by.unwrap().cached);
    // Who wants another answer each time gets one, and who bypasses the cache too.
    assert_eq!(outcomes(&router.ask("warm up").await.attempts), [("max", Success)]);
    let bypass = ChatRequest { cache: CacheMode::Bypass.into(), ..deterministic("q") };
    assert_eq!(outcomes(&router.send(bypass).await.attempts), [("max", Success)]);

    // A lesser model's answer is not repeated: it would outlive the outage.
    router.sim.fault("max", json!({"kind": "status", "status": 500})).await;
    let lesser = router.send(deterministic("asked in the outage")).await;
    assert_eq!(served_by(&lesser).tier, "ollama");
    router.models_up().await;
    let better = router.send(deterministic("asked in the outage")).await;
    assert_eq!(outcomes(&better.attempts), [("cache", CacheMiss), ("max", Success)]);
    // A store that is gone is no obstacle.
    redis.kill().await;
    for _ in 0..8 {
        assert_eq!(served_by(&router.send(deterministic("q")).await).tier, "max");
    }
}

#[tokio::test]
async fn a_store_that_hangs_holds_a_request_once() {
    // Asked before the models and at its own place, it has one response timeout to spend.
    let redis = Redis::start().await;
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    let tiers = "tiers: [max, ollama, cache, degraded]";
    let text = format!("agents: [{{name: assistant, {tiers}, cache: {{mode: read_through}}}}]");
    std::fs::write(file.path(), text).unwrap();
    let limit = Duration::from_millis(500);
    let variables =
        [("REDIS_URL", redis.url()), ("AIP__CACHE__RESPONSE_TIMEOUT", limit.as_secs_f64().to_string())];
    let router = Router::start_with(file.path(), &variables).await;
    router.keep("warm up").await;
    redis.signal("STOP").await;
    router.models_down().await;
    let answer = router.client().chat(deterministic("q")).await.unwrap().into_inner();
    assert!(served_by(&answer).degraded, "{answer:?}");
    let held = held_by_redis(&answer);
    assert!(limit <= held && held < limit + limit / 2, "{answer:?}");
}

#[tokio::test]
async fn off_neither_reads_nor_stores() {
    let (router, _file) = start(None, "{mode: off}").await;
    router.ask("q").await;
    router.models_down().await;
    let answer = router.ask("q").await;
    assert!(served_by(&answer).degraded);
    assert!(answer.attempts.iter().all(|attempt| attempt.tier != "cache"), "{answer:?}");
    assert_eq!(router.writes("stored").await, 0);
}

/// Sends a request that will be slow, and waits until it is with the model.
async fn lead(router: &Router, request: ChatRequest) -> JoinSet<ChatResponse> {
    let before = router.sim.counter("max", "attempts").await;
    let mut client = router.client();
    let mut leader = JoinSet::new();
    leader.spawn(async move { client.chat(request).await.unwrap().into_inner() });
    router.sim.wait_for("max", "attempts", before + 1).await;
    leader
}

#[tokio::test]
async fn identical_deterministic_requests_are_answered_once() {
    let (router, _file) = start(None, "{mode: fallback}").await;
    router.sim.fault("max", json!({"kind": "slow_first_token", "delay_ms": 700})).await;
    let mut leader = lead(&router, deterministic("q")).await;
    let followers = join_all((0..5).map(|_| router.send(deterministic("q")))).await;
    let leader = leader.join_next().await.unwrap().unwrap();
    assert!(!served_by(&leader).coalesced);
    for follower in &followers {
        assert!(served_by(follower).coalesced, "{follower:?}");
        assert_eq!(text(follower), text(&leader));
        assert_eq!(outcomes(&follower.attempts), [("max", Success)]);
        assert_ne!(follower.id, leader.id);
    }
    assert_eq!(router.sim.counter("max", "attempts").await, 1);
    assert_eq!(router.metric("aip_coalesced_requests_total{result=\"shared\"}").await, 5);
    assert_eq!(router.metric("aip_requests_served_total{tier=\"max\"}").await, 6);

    // Who may want different answers asks for each.
    let different = join_all((0..3).map(|_| router.ask("q"))).await;
    assert!(different.iter().all(|answer| !served_by(answer).coalesced));
    assert_eq!(router.sim.counter("max", "attempts").await, 4);
}

#[tokio::test]
async fn nobody_loses_by_a_slow_leader() {
    let (router, _file) = start(None, "{mode: fallback}").await;
    // A stream is worth its first token, and asks for it at once.
    router.sim.fault_next("max", json!({"kind": "slow_first_token", "delay_ms": 3000}), 1).await;
    let mut leader = lead(&router, deterministic("q")).await;
    let began = Instant::now();
    let stream = Streamed::read(open(&router.client(), deterministic("q")).await.unwrap()).await;
    assert!(!stream.end.unwrap().served_by.unwrap().coalesced);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    leader.join_next().await.unwrap().unwrap();

    // One in a hurry asks beside its leader, and has the answer that comes first.
    router.sim.fault("max", json!({"kind": "slow_first_token", "delay_ms": 1800})).await;
    let mut leader = lead(&router, deterministic("another")).await;
    let mut hurried = Request::new(deterministic("another"));
    hurried.set_timeout(Duration::from_secs(3));
    let answer = router.untimed_client().chat(hurried).await.unwrap().into_inner();
    let leader = leader.join_next().await.unwrap().unwrap();
    assert!(served_by(&answer).coalesced, "{answer:?}");
    assert_eq!(text(&answer), text(&leader));
    assert_eq!(router.metric("aip_coalesced_requests_total{result=\"beside\"}").await, 1);
    assert_eq!(router.sim.counter("max", "attempts").await, 4);
    // What it began by itself is said, and it is no client that went away.
    assert_eq!(outcomes(&answer.attempts), [("max", Cancelled), ("max", Success)]);
    assert_eq!(router.metric("aip_tier_attempts_total{tier=\"max\",outcome=\"cancelled\"}").await, 1);
    assert_eq!(router.metric("aip_requests_served_total{tier=\"max\"}").await, 4);
    let mut chains = FallbackChainServiceClient::new(channel(&router.process.url("grpc")));
    let stats = chains.get_fallback_chain_stats(GetFallbackChainStatsRequest::default()).await.unwrap();
    assert!(stats.into_inner().stats.iter().all(|chain| chain.cancelled == 0));
}

#[tokio::test]
async fn a_leader_that_fails_takes_nobody_along() {
    let (router, _file) = start(None, "{mode: fallback}").await;
    router.sim.fault_next("max", json!({"kind": "slow_first_token", "delay_ms": 4000}), 1).await;
    router.sim.fault("ollama", json!({"kind": "status", "status": 500})).await;
    let mut impatient = Request::new(deterministic("q"));
    impatient.set_timeout(Duration::from_secs(1));
    let mut client = router.untimed_client();
    let mut leader = JoinSet::new();
    leader.spawn(async move { client.chat(impatient).await.unwrap().into_inner() });
    router.sim.wait_for("max", "attempts", 1).await;
    let followers = join_all((0..3).map(|_| router.send(deterministic("q")))).await;
    assert!(served_by(&leader.join_next().await.unwrap().unwrap()).degraded, "what it got is not for others");
    for follower in &followers {
        assert_eq!(served_by(follower).tier, "max");
        assert!(!served_by(follower).coalesced, "{follower:?}");
    }
    assert_eq!(router.metric("aip_coalesced_requests_total{result=\"alone\"}").await, 3);
}
