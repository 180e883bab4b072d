//! The promise: nobody gets more than its share, and whoever asks for more is told which limit it was, and for how long.

use std::time::Duration;

use aiplatform_proto::inference::v1::{ListModelsRequest, Sampling};
use e2e::chat::{Client, Streamed, channel, open, question};
use e2e::eventually;
use e2e::keys::{Key, Keys};
use e2e::metrics::Metrics;
use e2e::suite::{Options, Suite};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

const REQUESTS: &str = "AIP__GATEWAY__LIMITS__PER_CALLER__REQUESTS_PER_MINUTE";
const BURST: &str = "AIP__GATEWAY__LIMITS__PER_CALLER__BURST";
const CONCURRENT_REQUESTS: &str = "AIP__GATEWAY__LIMITS__PER_CALLER__CONCURRENT_REQUESTS";
const CONCURRENT_STREAMS: &str = "AIP__GATEWAY__LIMITS__PER_CALLER__CONCURRENT_STREAMS";
const TOKENS: &str = "AIP__GATEWAY__LIMITS__PER_CALLER__TOKENS_PER_MINUTE";

/// The limit that a refusal names.
fn limit(status: &Status) -> String {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, "RATE_LIMITED");
    assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    // Without a credential, callers are told apart by their address.
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "address:127.0.0.1");
    info.metadata["limit"].clone()
}

fn number(metadata: &MetadataMap, name: &str) -> u64 {
    metadata.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap().parse().unwrap()
}

async fn slow_stream(suite: &Suite) -> tonic::Streaming<aiplatform_proto::inference::v1::StreamChatResponse> {
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 100})).await;
    let mut stream = open(&suite.client(), question("a long story")).await.unwrap();
    stream.message().await.unwrap().unwrap();
    stream
}

async fn admitted(client: &Client) {
    eventually("a place", || async { client.clone().chat(question("x")).await.ok() }).await;
}

#[tokio::test]
async fn a_caller_over_its_rate_is_told_so_and_when_to_come_back() {
    let suite = Options::new().with(REQUESTS, "60").with(BURST, "3").start().await;
    let mut client = suite.client();
    let first = client.chat(question("x")).await.unwrap();
    assert_eq!(number(first.metadata(), "x-ratelimit-limit-requests"), 60);
    assert_eq!(number(first.metadata(), "x-ratelimit-remaining-requests"), 2);
    let refused = loop {
        if let Err(status) = client.chat(question("x")).await {
            break status;
        }
    };
    assert_eq!(limit(&refused), "requests");
    // Whoever looks after the process is not counted.
    let mut health = HealthClient::new(channel(&suite.gateway.url("grpc")));
    for _ in 0..10 {
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
    tokio::time::sleep(refused.get_details_retry_info().unwrap().retry_delay.unwrap()).await;
    client.chat(question("x")).await.expect("the time that was named is enough");
    let metrics = Metrics::scrape(&suite.gateway, "admin").await;
    assert!(metrics.value("aip_rate_limited_total", &["limit=\"requests\""]) >= 1.0);
}

#[tokio::test]
async fn what_runs_at_a_time_is_counted_until_it_ends() {
    for (variable, named) in
        [(CONCURRENT_REQUESTS, "concurrent_requests"), (CONCURRENT_STREAMS, "concurrent_streams")]
    {
        let suite = Options::new().with(variable, "1").start().await;
        let running = slow_stream(&suite).await;
        let second = open(&suite.client(), question("x")).await.unwrap_err();
        assert_eq!(limit(&second), named);
        if variable == CONCURRENT_STREAMS {
            suite.client().chat(question("x")).await.expect("it is no stream");
        }
        drop(running);
        suite.sim.heal("max").await;
        admitted(&suite.client()).await;
        let whole = eventually("a place", || async { open(&suite.client(), question("x")).await.ok() }).await;
        assert!(Streamed::read(whole).await.end.is_some());
        admitted(&suite.client()).await;
    }
}

#[tokio::test]
async fn tokens_are_reserved_before_and_counted_after() {
    let suite = Options::new().with(TOKENS, "10000").start().await;
    let mut client = suite.client();
    let asking = |max_tokens| {
        let sampling = Sampling { max_tokens: Some(max_tokens), ..Sampling::default() };
        aiplatform_proto::inference::v1::ChatRequest { sampling: Some(sampling), ..question("x") }
    };
    let answer = client.chat(asking(9000)).await.unwrap();
    assert_eq!(number(answer.metadata(), "x-ratelimit-limit-tokens"), 10_000);
    let usage = answer.get_ref().usage.unwrap();
    let used = usage.input_tokens + usage.output_tokens;
    assert!(used > 0 && used < 1000, "{usage:?}");

    // While it runs, a stream holds what it may need, and no more can be had.
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 100})).await;
    let mut running = open(&client, asking(9000)).await.unwrap();
    running.message().await.unwrap().unwrap();
    assert_eq!(limit(&client.chat(asking(9000)).await.unwrap_err()), "tokens");
    suite.sim.heal("max").await;
    // A client that leaves pays for what it got, and has the rest back.
    drop(running);
    eventually("tokens", || async { client.clone().chat(asking(8000)).await.ok() }).await;
}

#[tokio::test]
async fn what_is_too_much_for_the_process_is_refused_at_once() {
    let suite = Options::new().with("AIP__GATEWAY__LIMITS__MAX_IN_FLIGHT", "2").start().await;
    let running = [slow_stream(&suite).await, slow_stream(&suite).await];
    let refused = suite.client().chat(question("x")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "OVERLOADED");
    assert_eq!(refused.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    let mut health = HealthClient::new(channel(&suite.gateway.url("grpc")));
    health.check(HealthCheckRequest::default()).await.unwrap();
    drop(running);
    suite.sim.heal("max").await;
    admitted(&suite.client()).await;
    assert!(Metrics::scrape(&suite.gateway, "admin").await.value("aip_requests_shed_total", &[]) >= 1.0);
}

#[tokio::test]
async fn over_http_the_same_limits_are_told_as_openais_clients_know_them() {
    let suite = Options::new().with(REQUESTS, "1").start().await;
    // What came by gRPC counts: it is the same caller.
    let mut url = suite.gateway.url("http");
    url.push_str("/v1/models");
    suite.client().chat(question("x")).await.unwrap();
    let refused = e2e::http().get(url).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    let header = |name: &str| refused.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-ratelimit-limit-requests"), "1");
    assert_eq!(header("x-ratelimit-remaining-requests"), "0");
    assert!((50..=60).contains(&header("retry-after").parse::<u32>().unwrap()));
    let error: serde_json::Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["code"], "rate_limit_exceeded");
    assert_eq!(error["aip"]["metadata"]["limit"], "requests");
}

/// What a tenant asked for and got.
struct Taken {
    asked: u32,
    got: u32,
    time: Duration,
}

/// Asks ten times as often as it may, as far as the machine can.
async fn ask_too_much(mut client: Client, key: Key, rate: u32) -> Taken {
    let every = Duration::from_secs(1) / (10 * rate);
    let (began, mut taken) = (Instant::now(), Taken { asked: 0, got: 0, time: Duration::ZERO });
    while taken.asked < 10 * rate * SECONDS {
        tokio::time::sleep_until(began + every * taken.asked).await;
        taken.asked += 1;
        match client.list_models(key.on(ListModelsRequest::default())).await {
            Ok(_) => taken.got += 1,
            Err(status) => {
                let details = status.get_error_details();
                assert_eq!(details.error_info().unwrap().reason, "RATE_LIMITED", "{status:?}");
                let subject = &details.quota_failure().unwrap().violations[0].subject;
                assert_eq!(*subject, format!("caller:{}", key.line["id"].as_str().unwrap()));
            }
        }
        taken.time = began.elapsed();
    }
    taken
}

const SECONDS: u32 = 4;

/// The exact shares are a unit test's; here it is the running gateway with its keys.
#[tokio::test]
async fn a_hundred_tenants_that_ask_for_ten_times_their_rate_have_their_shares() {
    const TENANTS: u32 = 100;
    let keys = Keys::new();
    let mut made = Vec::new();
    for tenant in 0..TENANTS {
        // One or two requests a second, and twenty at once.
        let rate = 1 + tenant % 2;
        let key = keys.make(&format!("tenant-{tenant}"), &["inference"]).await;
        made.push((key.with("limits", json!({"requests_per_minute": 60 * rate, "burst": 20})), rate));
    }
    keys.set(&made.iter().map(|(key, _)| key).collect::<Vec<_>>());
    let mut options = Options::new();
    for (name, value) in keys.variables() {
        options = options.with(name, value);
    }
    let suite = options.start().await;
    let mut tenants = JoinSet::new();
    let client = suite.client();
    for (key, rate) in made {
        let client = client.clone();
        tenants.spawn(async move { (ask_too_much(client, key, rate).await, rate) });
    }
    let mut refused = 0;
    for (taken, rate) in tenants.join_all().await {
        let share = 20.0 + f64::from(rate) * taken.time.as_secs_f64();
        let due = share.min(f64::from(taken.asked));
        let off = (f64::from(taken.got) - due).abs();
        // Five parts of a hundred, and the request that was earned as it came.
        assert!(off <= 0.05 * due + 1.0, "{} of {} asked, {due:.1} due", taken.got, taken.asked);
        refused += taken.asked - taken.got;
    }
    assert!(refused > 0, "nobody asked for too much");
}
