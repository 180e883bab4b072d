//! The promise: routers come and go, freeze and die, and the clients of the gateway do not notice.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use aiplatform_proto::inference::v1::{AttemptOutcome, ChatRequest, ChatResponse};
use e2e::chat::{Client, Streamed, ask, client, open, question, served_by};
use e2e::dns::NameServer;
use e2e::eventually;
use e2e::metrics::Metrics;
use e2e::process::Process;
use e2e::sim::Sim;
use e2e::suite::{Suite, start_gateway, start_router, start_simulator};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const CHAT: &str = "rpc_method=\"aiplatform.inference.v1.InferenceService/Chat\"";
/// Five milliseconds between two requests: 200 a second.
const PACE: Duration = Duration::from_millis(5);
/// As long as 400 requests take.
const WINDOW: Duration = Duration::from_secs(2);
/// Requests that wait for an answer at a time: as many as are asked in a quarter of a second. On a machine that cannot keep
/// the pace they would otherwise become more and more.
const WAITING: usize = 50;
/// How often it is looked whether the load is even.
const LOOKS: usize = 5;

/// An address of this machine that no other test run listens on at the same time.
fn loopback(last: u8) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), low, last)
}

async fn router(simulator: &Process, address: Ipv4Addr, port: u16) -> Process {
    let variables = [
        ("AIP__AGENT_ROUTER__GRPC_LISTEN", format!("{address}:{port}")),
        ("CACHE_ENABLED", "false".into()),
        // All streams of a test may come to one router, and an adaptive limit begins with fewer of them.
        ("AIP__TIERS__OLLAMA__CONCURRENCY__ADAPTIVE", "false".into()),
    ];
    start_router(simulator, None, &variables).await
}

/// Requests at a steady pace, whatever becomes of them.
struct Load {
    stop: CancellationToken,
    task: JoinSet<Vec<Result<ChatResponse, Status>>>,
}

impl Load {
    fn start(client: Client) -> Self {
        let stop = CancellationToken::new();
        let until = stop.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut ticks = tokio::time::interval(PACE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let places = Arc::new(Semaphore::new(WAITING));
            let mut calls = JoinSet::new();
            while until.run_until_cancelled(ticks.tick()).await.is_some() {
                let place = Arc::clone(&places).acquire_owned().await.expect("it is open");
                let mut client = client.clone();
                calls.spawn(async move {
                    let answer = client.chat(question("x")).await;
                    drop(place);
                    Ok(answer?.into_inner())
                });
            }
            calls.join_all().await
        });
        Self { stop, task }
    }

    async fn stop(self) -> Vec<Result<ChatResponse, Status>> {
        self.stop.cancel();
        self.task.join_all().await.into_iter().flatten().collect()
    }
}

/// The sum of a metric that counts.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of a few thousand")]
fn count(metrics: &Metrics, metric: &str, labels: &[&str]) -> u64 {
    metrics.sum(metric, labels).unwrap_or(0.0) as u64
}

async fn chats(router: &Process) -> u64 {
    count(&Metrics::scrape(router, "admin").await, "rpc_server_call_duration_seconds_count", &[CHAT])
}

/// Streams that a router has from the tier whose tokens come slowly.
async fn slow_streams(router: &Process) -> u64 {
    count(&Metrics::scrape(router, "admin").await, "aip_tier_in_flight", &["tier=\"ollama\""])
}

/// Waits until the gateway sees so many routers ready and no other, and admits calls to all of them.
async fn all_ready(gateway: &Process, routers: u64) {
    eventually("all routers ready", || async {
        let metrics = Metrics::scrape(gateway, "admin").await;
        let ready = count(&metrics, "aip_routers", &["state=\"ready\""]);
        let closed = count(&metrics, "aip_circuit_breaker_state", &["state=\"closed\""]);
        let all = count(&metrics, "aip_routers", &[]);
        ([ready, closed, all] == [routers; 3]).then_some(())
    })
    .await;
}

/// Two routers share what is asked: each has its half, give or take a tenth of it. Seen in one of several looks, because a
/// router that the machine is slow with for a while is rightly given less.
async fn is_even(gateway: &Process, routers: [&Process; 2], after: &str) {
    all_ready(gateway, 2).await;
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        let before = [chats(routers[0]).await, chats(routers[1]).await];
        tokio::time::sleep(WINDOW).await;
        let shares = [chats(routers[0]).await - before[0], chats(routers[1]).await - before[1]];
        let all = shares[0] + shares[1];
        looks.push(shares);
        // A tenth of the half is a tenth of all between the two.
        if all > 100 && shares[0].abs_diff(shares[1]) * 10 <= all {
            println!("after {after}: {looks:?}");
            return;
        }
    }
    panic!("after {after}: {looks:?}");
}

fn outcome(streamed: &Streamed) -> &'static str {
    let Some(error) = &streamed.error else {
        assert!(streamed.end.is_some());
        return "whole";
    };
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert_eq!(error.get_details_error_info().unwrap().reason, "STREAM_INTERRUPTED");
    assert_eq!(error.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
    "interrupted"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_are_killed_replaced_frozen_and_rolled_and_no_request_fails() {
    let simulator = start_simulator().await;
    let sim = Sim::new(simulator.url("control"));
    let mut one = router(&simulator, loopback(1), 0).await;
    let port = one.address("grpc").port();
    let mut two = router(&simulator, loopback(2), port).await;
    let names = NameServer::start("routers.test", &[loopback(1), loopback(2)]).await;
    let variables = [
        ("AIP__GATEWAY__BALANCING__NAME_SERVERS", names.address().to_string()),
        ("AIP__GATEWAY__BALANCING__DNS_INTERVAL", "0.5".to_owned()),
    ];
    let gateway = start_gateway(&format!("http://routers.test:{port}"), &variables).await;
    let client = client(&gateway.url("grpc"));
    let load = Load::start(client.clone());
    is_even(&gateway, [&one, &two], "the start").await;

    // One is killed in the middle of streams, and replaced at another address.
    sim.fault("ollama", json!({"kind": "slow_tokens", "delay_ms": 40})).await;
    let mut streams = JoinSet::new();
    while streams.len() < 6 || slow_streams(&one).await == 0 || slow_streams(&two).await == 0 {
        let slow = ChatRequest { tier: "ollama".into(), ..question("a long story") };
        let mut stream = open(&client, slow).await.unwrap();
        stream.message().await.unwrap().unwrap();
        streams.spawn(async move { outcome(&Streamed::read(stream).await) });
    }
    one.signal("KILL").await;
    one.wait().await;
    let mut ends = streams.join_all().await;
    ends.sort_unstable();
    assert!(ends.contains(&"interrupted") && ends.contains(&"whole"), "{ends:?}");
    let mut three = router(&simulator, loopback(3), port).await;
    names.set(&[loopback(2), loopback(3)]);
    is_even(&gateway, [&two, &three], "one was killed and replaced").await;

    // One is frozen: what it has goes to the other, its breaker opens, and it is found again.
    two.signal("STOP").await;
    let breaker = format!("breaker=\"routers.test:{port}@{}\"", loopback(2));
    eventually("the frozen router's breaker opens", || async {
        let metrics = Metrics::scrape(&gateway, "admin").await;
        (count(&metrics, "aip_circuit_breaker_state", &[&breaker, "state=\"open\""]) == 1).then_some(())
    })
    .await;
    two.signal("CONT").await;
    is_even(&gateway, [&two, &three], "one was frozen").await;

    // Both are rolled, one after the other, where they are.
    for (rolled, last) in [(&mut two, 2), (&mut three, 3)] {
        rolled.signal("TERM").await;
        assert_eq!(rolled.wait().await.code(), Some(0));
        *rolled = router(&simulator, loopback(last), port).await;
        all_ready(&gateway, 2).await;
    }
    is_even(&gateway, [&two, &three], "both were rolled").await;

    let answers = load.stop().await;
    let failed: Vec<_> = answers
        .iter()
        .filter(|answer| !answer.as_ref().is_ok_and(|answer| !served_by(answer).degraded))
        .collect();
    assert!(failed.is_empty(), "{} of {} failed, such as {:?}", failed.len(), answers.len(), failed[0]);
    let metrics = Metrics::scrape(&gateway, "admin").await;
    for kind in ["silent", "connection_lost", "not_connected", "not_sent", "shutting_down"] {
        println!("{kind}: {}", count(&metrics, "aip_retries_total", &[&format!("kind=\"{kind}\"")]));
    }
    println!("{} requests", answers.len());
    assert!(count(&metrics, "aip_retries_total", &["kind=\"silent\""]) >= 1);
}

#[tokio::test]
async fn with_the_only_router_frozen_checks_bring_it_back() {
    let suite = Suite::start().await;
    let client = suite.client();
    ask(&client, "x").await;
    suite.router.signal("STOP").await;
    eventually("silence", || async {
        let metrics = Metrics::scrape(&suite.gateway, "admin").await;
        (count(&metrics, "aip_routers", &["state=\"silent\""]) == 1).then_some(())
    })
    .await;
    // Its breaker opens, and then the gateway's answer is there at once.
    let answer = eventually("the gateway's own answer", || async {
        let began = Instant::now();
        let mut request = tonic::Request::new(question("x"));
        request.set_timeout(Duration::from_secs(1));
        let answer = suite.untimed_client().chat(request).await.ok()?.into_inner();
        (began.elapsed() < Duration::from_millis(400)).then_some(answer)
    })
    .await;
    assert_eq!(served_by(&answer).tier, "gateway");
    assert_eq!(answer.attempts[0].outcome(), AttemptOutcome::SkippedBreaker);
    suite.router.signal("CONT").await;
    eventually("the router again", || async {
        let metrics = Metrics::scrape(&suite.gateway, "admin").await;
        (count(&metrics, "aip_routers", &["state=\"ready\""]) == 1).then_some(())
    })
    .await;
    assert_eq!(served_by(&ask(&client, "x").await).tier, "max");
}

#[tokio::test]
async fn a_router_without_models_draws_little_while_the_other_has_some() {
    let simulator = start_simulator().await;
    let well = start_router(&simulator, None, &[]).await;
    let nowhere = || "http://127.0.0.1:1".to_owned();
    let broken = [("MAX_SERVE_ENDPOINT", nowhere()), ("OLLAMA_CPU_ENDPOINT", nowhere())];
    let broken = start_router(&simulator, None, &broken).await;
    let gateway = start_gateway(&format!("{},{}", well.url("grpc"), broken.url("grpc")), &[]).await;
    all_ready(&gateway, 2).await;
    let client = client(&gateway.url("grpc"));
    for _ in 0..200 {
        ask(&client, "x").await;
    }
    let mut degraded = 0;
    for _ in 0..200 {
        degraded += u32::from(served_by(&ask(&client, "x").await).degraded);
    }
    assert!(degraded < 50, "{degraded} of 200, where its half would be 100");
    let metrics = Metrics::scrape(&gateway, "admin").await;
    let share = |router: &Process| {
        let label = format!("router=\"{}\"", router.address("grpc"));
        metrics.value("aip_router_failure_share", &[&label])
    };
    assert!(share(&well) < 0.1 && share(&broken) > 0.5, "{} {}", share(&well), share(&broken));
}
