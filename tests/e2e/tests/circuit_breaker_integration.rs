//! The promise: a failing backend is left alone at once, tried again carefully, and operators see all of it.

use std::time::Duration;

use aiplatform_proto::inference::v1::AttemptOutcome;
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use aiplatform_proto::resilience::v1::fallback_chain_service_client::FallbackChainServiceClient;
use aiplatform_proto::resilience::v1::{
    CircuitBreaker, CircuitBreakerState, GetCircuitBreakerRequest, GetFallbackChainStatsRequest,
    ListCircuitBreakersRequest, ListFallbackChainsRequest,
};
use e2e::chat::{Streamed, ask, channel, client, open, outcomes, question, served_by};
use e2e::http;
use e2e::process::Process;
use e2e::suite::{Options, Suite, start_api_server, start_gateway, start_router};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;

use AttemptOutcome::{Failure, SkippedBreaker, Success};

const LONG: (&str, &str) = ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", "60");

async fn breaker(process: &Process, tier: &str) -> CircuitBreaker {
    let mut client = CircuitBreakerServiceClient::new(channel(&process.url("grpc")));
    let all = client.list_circuit_breakers(ListCircuitBreakersRequest::default()).await.unwrap().into_inner();
    let found =
        all.circuit_breakers.into_iter().find(|breaker| breaker.tiers.iter().any(|name| name == tier));
    found.unwrap_or_else(|| panic!("no breaker of tier {tier}"))
}

#[tokio::test]
async fn three_failures_in_a_row_open_it_and_then_nobody_calls() {
    let suite = Options::new().with(LONG.0, LONG.1).with("AIP__TIERS__MAX__ATTEMPTS", "1").start().await;
    let client = suite.client();
    suite.sim.fault("max", json!({"kind": "status", "status": 500})).await;
    for _ in 0..2 {
        ask(&client, "x").await;
    }
    assert_eq!(breaker(&suite.router, "max").await.state(), CircuitBreakerState::Closed);
    ask(&client, "x").await;
    let open = breaker(&suite.router, "max").await;
    assert_eq!((open.state(), open.openings, open.consecutive_failures), (CircuitBreakerState::Open, 1, 3));
    assert!(open.next_probe_at.is_some());

    let answer = ask(&client, "x").await;
    assert_eq!(outcomes(&answer.attempts), [("max", SkippedBreaker), ("ollama", Success)]);
    assert_eq!(answer.attempts[0].breaker_state(), CircuitBreakerState::Open);
    assert!(answer.attempts[0].detail.contains("next probe in "), "{answer:?}");
    assert_eq!(suite.sim.counter("max", "attempts").await, 3);

    let mut pinned = question("x");
    pinned.tier = "max".into();
    let status = client.clone().chat(pinned).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "CIRCUIT_OPEN");
    let wait = details.retry_info().unwrap().retry_delay.unwrap();
    assert!((50..=60).contains(&wait.as_secs()), "{wait:?}");
}

#[tokio::test]
async fn a_failed_probe_reopens_and_a_successful_one_closes() {
    let suite = Suite::start().await;
    let client = suite.client();
    suite.sim.fault("max", json!({"kind": "reset"})).await;
    for _ in 0..3 {
        ask(&client, "x").await;
    }
    let probed = e2e::eventually("a failed probe", || async {
        let answer = ask(&client, "x").await;
        (outcomes(&answer.attempts)[0] == ("max", Failure)).then_some(answer)
    })
    .await;
    assert_eq!(probed.attempts[0].breaker_state(), CircuitBreakerState::HalfOpen);
    assert_eq!(served_by(&probed).tier, "ollama");
    assert_eq!(breaker(&suite.router, "max").await.openings, 2);

    suite.sim.heal("max").await;
    e2e::eventually("a successful probe", || async {
        (served_by(&ask(&client, "x").await).tier == "max").then_some(())
    })
    .await;
    assert_eq!(breaker(&suite.router, "max").await.state(), CircuitBreakerState::Closed);
}

#[tokio::test]
async fn a_cancelled_probe_gives_its_place_back() {
    let suite = Suite::start().await;
    let client = suite.client();
    suite.sim.fault("max", json!({"kind": "reset"})).await;
    for _ in 0..3 {
        ask(&client, "x").await;
    }
    suite.sim.fault("max", json!({"kind": "hang"})).await;
    let calls = suite.sim.counter("max", "attempts").await;
    e2e::eventually("an abandoned probe", || async {
        tokio::select! {
            _ = open(&client, question("x")) => None,
            () = suite.sim.wait_for("max", "attempts", calls + 1) => Some(()),
        }
    })
    .await;
    suite.sim.heal("max").await;
    e2e::eventually("a probe by somebody else", || async {
        (served_by(&ask(&client, "x").await).tier == "max").then_some(())
    })
    .await;
    assert!(breaker(&suite.router, "max").await.totals.unwrap().cancelled >= 1);
}

#[tokio::test]
async fn a_server_that_cuts_every_stream_costs_one_stream_for_each_wait() {
    let suite = Suite::start().await;
    let client = suite.client();
    suite.sim.fault("max", json!({"kind": "cut", "after_chunks": 3})).await;
    // Three failures open it, and each probe after that opens it again.
    e2e::eventually("the fourth opening", || async {
        let stream = open(&client, question("x")).await.unwrap();
        let read = Streamed::read(stream).await;
        assert!(read.error.is_some() || read.end.is_some());
        (breaker(&suite.router, "max").await.openings == 4).then_some(())
    })
    .await;
    assert_eq!(suite.sim.counter("max", "attempts").await, 6);
}

#[tokio::test]
async fn a_server_that_hangs_is_found_out_by_clients_in_a_hurry() {
    let suite = Options::new().with(LONG.0, LONG.1).with("AIP__TIERS__MAX__TIMEOUT", "1").start().await;
    suite.sim.fault("max", json!({"kind": "hang"})).await;
    // Of 800 ms it has less than 400, under half of its limit.
    e2e::eventually("an open breaker", || async {
        let mut hurried = tonic::Request::new(question("x"));
        hurried.set_timeout(Duration::from_millis(800));
        let answer = suite.client().chat(hurried).await.unwrap().into_inner();
        assert_ne!(served_by(&answer).tier, "max");
        (outcomes(&answer.attempts)[0] == ("max", SkippedBreaker)).then_some(())
    })
    .await;
    assert_eq!(breaker(&suite.router, "max").await.totals.unwrap().failure, 3);
}

#[tokio::test]
async fn the_api_server_shows_the_breakers_of_all_replicas_and_names_who_is_silent() {
    let suite = Options::new().with(LONG.0, LONG.1).start().await;
    let second =
        start_router(&suite.simulator, None, &[("AIP__AGENT_ROUTER__REPLICA", "second".to_owned())]).await;
    let gone = "http://127.0.0.1:1";
    let routers = format!("{},{},{gone}", suite.router.url("grpc"), second.url("grpc"));
    let api_server = start_api_server(&routers, &[]).await;
    let gateway = start_gateway(&second.url("grpc"), &[]).await;
    suite.sim.fault("max", json!({"kind": "status", "status": 500})).await;
    for _ in 0..3 {
        ask(&client(&gateway.url("grpc")), "x").await;
    }

    let mut grpc = CircuitBreakerServiceClient::new(channel(&api_server.url("grpc")));
    let list = grpc.list_circuit_breakers(ListCircuitBreakersRequest::default()).await.unwrap().into_inner();
    let shown: Vec<_> = list
        .circuit_breakers
        .iter()
        .map(|breaker| (breaker.replica == "second", breaker.tiers[0].as_str(), breaker.state()))
        .collect();
    let (closed, open) = (CircuitBreakerState::Closed, CircuitBreakerState::Open);
    assert_eq!(shown.len(), 4);
    for expected in
        [(false, "max", closed), (false, "ollama", closed), (true, "max", open), (true, "ollama", closed)]
    {
        assert!(shown.contains(&expected), "{expected:?} is not in {shown:?}");
    }
    assert_eq!(list.replicas.iter().filter(|replica| replica.reachable).count(), 2);
    let silent = list.replicas.iter().find(|replica| !replica.reachable).unwrap();
    assert_eq!(silent.address, "127.0.0.1:1");
    assert!(silent.error.contains("refused"), "{silent:?}");

    let open_only = ListCircuitBreakersRequest { states: vec![open.into()], ..Default::default() };
    let list = grpc.list_circuit_breakers(open_only).await.unwrap().into_inner();
    assert_eq!(list.circuit_breakers.len(), 1);
    let name = list.circuit_breakers[0].name.clone();
    let get = GetCircuitBreakerRequest { name: name.clone(), replica: "second".into() };
    let got = grpc.get_circuit_breaker(get).await.unwrap().into_inner();
    assert_eq!(got.circuit_breakers[0].openings, 1);
    let both = GetCircuitBreakerRequest { name, replica: String::new() };
    assert_eq!(grpc.get_circuit_breaker(both).await.unwrap().into_inner().circuit_breakers.len(), 2);
    let unknown = GetCircuitBreakerRequest { name: "nobody".into(), ..Default::default() };
    let status = grpc.get_circuit_breaker(unknown).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, "CIRCUIT_BREAKER_NOT_FOUND");

    let get = async |path: &str| {
        let response = http().get(format!("{}{path}", api_server.url("http"))).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (status, body) = get("/circuit-breakers").await;
    assert_eq!(status, 200);
    let breakers = body["circuit_breakers"].as_array().unwrap();
    assert_eq!(breakers.len(), 4);
    let open = breakers.iter().find(|breaker| breaker["state"] == "open").unwrap();
    assert_eq!(open["replica"], "second");
    assert_eq!(open["totals"]["failure"], 3);
    assert_eq!(open["settings"]["failure_threshold"], 3);
    let (status, body) = get("/circuit-breakers?repica=x").await;
    assert_eq!((status, &body["error"]["reason"]), (400, &json!("INVALID_REQUEST")));
    let (status, body) = get("/nothing").await;
    assert_eq!((status, &body["error"]["reason"]), (404, &json!("PATH_NOT_FOUND")));
}

#[tokio::test]
async fn chain_statistics_add_up_over_grpc_and_http() {
    let suite = Suite::start().await;
    let client = suite.client();
    ask(&client, "x").await;
    suite.sim.fault("max", json!({"kind": "status", "status": 500})).await;
    ask(&client, "x").await;
    let mut grpc = FallbackChainServiceClient::new(channel(&suite.api_server.url("grpc")));
    let request = GetFallbackChainStatsRequest { agent: "assistant".into(), replica: String::new() };
    let stats = grpc.get_fallback_chain_stats(request).await.unwrap().into_inner().stats;
    assert_eq!((stats.len(), stats[0].requests, stats[0].unanswered), (1, 2, 0));
    let (max, ollama) = (&stats[0].tiers[0], &stats[0].tiers[1]);
    // The failure was asked about again once.
    assert_eq!((max.attempts, max.served, max.failures), (3, 1, 2));
    assert_eq!((ollama.attempts, ollama.served, ollama.share_percent), (1, 1, Some(50.0)));
    assert!(ollama.latency.as_ref().unwrap().p99.is_some());

    let chains = grpc.list_fallback_chains(ListFallbackChainsRequest::default()).await.unwrap().into_inner();
    let assistant = chains.fallback_chains.iter().find(|chain| chain.default).unwrap();
    let kinds: Vec<&str> = assistant.tiers.iter().map(|tier| tier.kind.as_str()).collect();
    assert_eq!(kinds, ["openai", "ollama", "cache", "message"]);

    let url = format!("{}/fallback-chain/stats?agent=assistant", suite.api_server.url("http"));
    let body: Value = http().get(url).send().await.unwrap().json().await.unwrap();
    let tiers = &body["fallback_chains"][0]["tiers"];
    assert_eq!((&tiers[1]["tier"], &tiers[1]["served"]), (&json!("ollama"), &json!(1)));
    let url = format!("{}/fallback-chain/stats?agent=nobody", suite.api_server.url("http"));
    let response = http().get(url).send().await.unwrap();
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn without_any_router_the_api_server_says_so() {
    let api_server = start_api_server("http://127.0.0.1:1", &[]).await;
    let mut grpc = CircuitBreakerServiceClient::new(channel(&api_server.url("grpc")));
    let status = grpc.list_circuit_breakers(ListCircuitBreakersRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "NO_REPLICA_REACHABLE");
    let url = format!("{}/circuit-breakers", api_server.url("http"));
    assert_eq!(http().get(url).send().await.unwrap().status(), 503);
}
