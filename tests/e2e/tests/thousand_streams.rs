//! The promise: a thousand streams at once, with clients that leave and upstreams that break, leave nothing behind.

use std::time::Duration;

use aiplatform_proto::resilience::v1::ListCircuitBreakersRequest;
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use e2e::chat::{Client, ask, channel, client, open, question, served_by};
use e2e::eventually;
use e2e::metrics::Metrics;
use e2e::process::Process;
use e2e::sim::Sim;
use e2e::suite::{start_gateway, start_router};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Code;

const STREAMS: u64 = 1000;
const CONNECTIONS: u64 = 10;
/// Connections that the router keeps for the next requests: at most 64 to each of the two servers.
const KEPT: f64 = 2.0 * 64.0;
/// Of a hundred clients, so many leave in the middle.
const LEAVE: u32 = 5;

struct Suite {
    simulator: Process,
    sim: Sim,
    router: Process,
    gateway: Process,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Whole,
    Left,
    Error(Code),
}

async fn start() -> Suite {
    let any = "127.0.0.1:0";
    // About a second for an answer: long enough for all streams to be open together.
    let arguments = ["--max-listen", any, "--ollama-listen", any, "--control-listen", any];
    let pace = ["--tokens-per-second", "30"];
    let simulator = Process::start("upstream-sim", &[&arguments[..], &pace].concat(), &[]).await;
    // The tiers take them all: what is bounded is tested elsewhere.
    let wide = [
        ("AIP__TIERS__MAX__CONCURRENCY__ADAPTIVE", "false".to_owned()),
        ("AIP__TIERS__MAX__CONCURRENCY__MAX", "2000".to_owned()),
        ("AIP__TIERS__OLLAMA__CONCURRENCY__ADAPTIVE", "false".to_owned()),
        ("AIP__TIERS__OLLAMA__CONCURRENCY__MAX", "2000".to_owned()),
    ];
    let router = start_router(&simulator, None, &wide).await;
    // Room for what looks in while the streams run.
    let roomy = ("AIP__GATEWAY__LIMITS__MAX_IN_FLIGHT", "2000".to_owned());
    let gateway = start_gateway(&router.url("grpc"), &[roomy]).await;
    Suite { sim: Sim::new(simulator.url("control")), simulator, router, gateway }
}

/// What upstreams are made to do while the streams run, in turn.
fn faults() -> [Option<Value>; 6] {
    [
        Some(json!({"kind": "cut", "after_chunks": 4})),
        None,
        Some(json!({"kind": "reset"})),
        Some(json!({"kind": "error_event", "after_chunks": 2})),
        None,
        Some(json!({"kind": "status", "status": 503})),
    ]
}

async fn flip_faults(sim: Sim) {
    for (turn, fault) in faults().iter().cycle().enumerate() {
        let upstream = if turn % 2 == 0 { "max" } else { "ollama" };
        match fault {
            Some(fault) => sim.fault(upstream, fault.clone()).await,
            None => sim.heal(upstream).await,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn one(client: Client, number: u64, leave_after: Option<usize>) -> End {
    let mut stream = match open(&client, question(&format!("stream {number}"))).await {
        Ok(stream) => stream,
        Err(status) => return End::Error(status.code()),
    };
    let mut events = 0;
    loop {
        if leave_after.is_some_and(|after| events > after) {
            return End::Left;
        }
        match stream.message().await {
            Ok(Some(_)) => events += 1,
            Ok(None) => return End::Whole,
            Err(status) => return End::Error(status.code()),
        }
    }
}

/// All streams at once, on a few connections that end with the round.
async fn round(suite: &Suite, seed: u64, faulty: bool) -> Vec<End> {
    let mut random = StdRng::seed_from_u64(seed);
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| client(&suite.gateway.url("grpc"))).collect();
    let mut flipping = JoinSet::new();
    if faulty {
        flipping.spawn(flip_faults(suite.sim.clone()));
    }
    let mut streams = JoinSet::new();
    for (number, client) in (0..STREAMS).zip(clients.iter().cycle()) {
        let leave_after = random.random_ratio(LEAVE, 100).then(|| random.random_range(0..10));
        streams.spawn(one(client.clone(), number, leave_after));
    }
    let ends = streams.join_all().await;
    flipping.shutdown().await;
    suite.sim.heal("max").await;
    suite.sim.heal("ollama").await;
    ends
}

/// What the router and the gateway hold when nobody asks anything of them.
#[derive(Debug, Clone, Copy)]
struct Held {
    tasks: f64,
    descriptors: f64,
    memory: f64,
}

async fn at_rest(suite: &Suite, process: &Process) -> Held {
    eventually("the last calls end", || async {
        let metrics = Metrics::scrape(process, "admin").await;
        // Of tiers only the router knows.
        let calls = metrics.sum("aip_tier_in_flight", &[]).unwrap_or(0.0);
        (metrics.value("aip_rpc_in_flight", &[]) + calls == 0.0).then_some(())
    })
    .await;
    for upstream in ["max", "ollama"] {
        eventually("the upstreams are left alone", || async {
            (suite.sim.counter(upstream, "active").await == 0).then_some(())
        })
        .await;
    }
    let metrics = Metrics::scrape(process, "admin").await;
    Held {
        tasks: metrics.value("aip_runtime_alive_tasks", &[]),
        descriptors: metrics.value("process_open_fds", &[]),
        memory: metrics.value("process_resident_memory_bytes", &[]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_nothing_behind() {
    let suite = start().await;
    // One answer opens the connections between the services.
    ask(&client(&suite.gateway.url("grpc")), "x").await;
    let fresh = [at_rest(&suite, &suite.router).await, at_rest(&suite, &suite.gateway).await];
    // The first rounds make the pools, buffers and arenas that a process of this load keeps. Without faults, all streams are
    // open together, which is the most that there is.
    for (seed, faulty) in [(1, false), (2, false), (3, true)] {
        round(&suite, seed, faulty).await;
    }
    let before = [at_rest(&suite, &suite.router).await, at_rest(&suite, &suite.gateway).await];

    // A slot that is never given back would take the tier away, one stream at a time.
    let slots = Metrics::scrape(&suite.router, "admin").await;
    assert!(slots.value("aip_tier_in_flight", &[]) == 0.0);

    let ends = round(&suite, 4, true).await;
    assert_eq!(ends.len(), usize::try_from(STREAMS).unwrap());
    let count = |wanted: fn(&End) -> bool| ends.iter().filter(|end| wanted(end)).count();
    // The others of the fifty were told of an error before they had heard enough.
    assert!(count(|end| *end == End::Left) >= 5, "{ends:?}");
    assert!(count(|end| *end == End::Whole) >= 300, "{ends:?}");
    let untyped = count(|end| matches!(end, End::Error(code) if *code != Code::Unavailable));
    assert_eq!(untyped, 0, "{ends:?}");

    let processes = [(&suite.router, KEPT), (&suite.gateway, 0.0)];
    for (((process, kept), before), fresh) in processes.into_iter().zip(before).zip(fresh) {
        let after = eventually("tasks, connections and memory as before", || async {
            let after = at_rest(&suite, process).await;
            let back = after.tasks <= fresh.tasks + kept
                && after.descriptors <= fresh.descriptors + kept
                && after.memory <= before.memory * 1.1;
            if !back {
                eprintln!("{fresh:?} {before:?} {after:?}");
            }
            back.then_some(after)
        })
        .await;
        println!("{before:?} {after:?}");
    }
    let breakers = CircuitBreakerServiceClient::new(channel(&suite.router.url("grpc")));
    eventually("traffic on the first tier, no probe out", || async {
        let well = served_by(&ask(&client(&suite.gateway.url("grpc")), "x").await).tier == "max";
        let all = breakers.clone().list_circuit_breakers(ListCircuitBreakersRequest::default()).await;
        let out = all
            .unwrap()
            .into_inner()
            .circuit_breakers
            .iter()
            .map(|breaker| breaker.half_open_permits)
            .sum::<u32>();
        (well && out == 0).then_some(())
    })
    .await;
    drop(suite.simulator);
}
