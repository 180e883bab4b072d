//! The promise: a valid new configuration takes over between two requests without dropping one; an invalid one changes
//! nothing and says what is wrong with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aiplatform_proto::inference::v1::{ChatRequest, ListModelsRequest};
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use aiplatform_proto::resilience::v1::{CircuitBreakerState, ListCircuitBreakersRequest};
use e2e::chat::{Client, Streamed, ask, channel, client, open, question, served_by, text};
use e2e::process::Process;
use e2e::sim::Sim;
use e2e::suite::{start_all_in_one_with_file, start_router_with, start_simulator};
use e2e::{eventually, http};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const ASSISTANT: &str = "agents:\n  - {name: assistant, tiers: [max, ollama, degraded]}\n";
const SECOND: &str = "  - {name: second, tiers: [ollama, degraded], degraded_text: the second is away}\n";

/// A router with a configuration file, and its simulated upstreams.
struct Reloading {
    directory: tempfile::TempDir,
    simulator: Process,
    router: Process,
    sim: Sim,
}

impl Reloading {
    async fn start(file: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, file).unwrap();
        let simulator = start_simulator().await;
        // Long enough for a breaker to stay open over a reload.
        let recovery = [("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", "60".to_owned())];
        let router = start_router_with(&simulator, &path, &recovery).await;
        let sim = Sim::new(simulator.url("control"));
        Self { directory, simulator, router, sim }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    fn write(&self, file: &str) {
        replace(&self.path(), file);
    }

    fn client(&self) -> Client {
        client(&self.router.url("grpc"))
    }

    /// The lines with a message, once there are as many.
    async fn logged(&self, message: &str, lines: usize) -> Vec<Value> {
        logged(&self.router, message, lines).await
    }

    async fn models(&self) -> Vec<String> {
        let models = self.client().list_models(ListModelsRequest::default()).await.unwrap().into_inner();
        models.models.into_iter().map(|model| model.name).collect()
    }

    async fn metric(&self, name: &str) -> f64 {
        let url = format!("{}/metrics", self.router.url("admin"));
        let body = http().get(url).send().await.unwrap().text().await.unwrap();
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {body}")).parse().unwrap()
    }

    async fn breaker_states(&self) -> Vec<(String, CircuitBreakerState)> {
        let mut client = CircuitBreakerServiceClient::new(channel(&self.router.url("grpc")));
        let listed = client.list_circuit_breakers(ListCircuitBreakersRequest::default()).await.unwrap();
        let breakers = listed.into_inner().circuit_breakers;
        breakers.into_iter().map(|breaker| (breaker.name.clone(), breaker.state())).collect()
    }
}

/// Replaces a file at once, as an editor and the kubelet do.
fn replace(path: &Path, file: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, file).unwrap();
    std::fs::rename(&new, path).unwrap();
}

async fn logged(process: &Process, message: &str, lines: usize) -> Vec<Value> {
    eventually(message, || async {
        let found: Vec<Value> =
            process.logs().into_iter().filter(|line| line["message"] == message).collect();
        (found.len() >= lines).then_some(found)
    })
    .await
}

const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "configuration refused, the old one stays";

#[tokio::test]
async fn a_changed_file_takes_over_and_no_request_fails_meanwhile() {
    let suite = Reloading::start(ASSISTANT).await;
    let began = suite.metric("aip_config_last_reload_success_timestamp_seconds").await;
    let (client, done) = (suite.client(), CancellationToken::new());
    let stop = done.clone();
    let mut steady = JoinSet::new();
    steady.spawn(async move {
        let mut answered = 0;
        while !stop.is_cancelled() {
            let answer = ask(&client, "still there?").await;
            assert!(!served_by(&answer).degraded, "{answer:?}");
            answered += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        answered
    });
    suite.write(&format!("{ASSISTANT}{SECOND}"));
    let line = suite.logged(RELOADED, 1).await.remove(0);
    assert_eq!((&line["cause"], &line["changed"]), (&json!("file changed"), &json!("agents")));
    assert_eq!(suite.models().await, ["assistant", "second", "sim-max", "sim-ollama"]);
    let second = ChatRequest { model: "second".into(), ..question("x") };
    let answer = suite.client().chat(second.clone()).await.unwrap().into_inner();
    assert_eq!(served_by(&answer).tier, "ollama");
    suite.sim.fault("ollama", json!({"kind": "down"})).await;
    let answer = suite.client().chat(second).await.unwrap().into_inner();
    assert_eq!((served_by(&answer).degraded, text(&answer).as_str()), (true, "the second is away"));

    suite.write(ASSISTANT);
    suite.router.signal("HUP").await;
    suite.logged(RELOADED, 2).await;
    assert_eq!(suite.models().await, ["assistant", "sim-max", "sim-ollama"]);
    done.cancel();
    assert!(steady.join_next().await.unwrap().unwrap() > 10, "requests went on all the time");
    assert!(suite.metric("aip_config_reloads_total{result=\"applied\"}").await >= 2.0);
    assert!(suite.metric("aip_config_last_reload_success_timestamp_seconds").await > began);
}

#[tokio::test]
async fn a_sighup_reloads_at_once_and_an_open_breaker_stays_open() {
    let suite = Reloading::start(ASSISTANT).await;
    suite.sim.fault("max", json!({"kind": "status", "status": 500})).await;
    for _ in 0..4 {
        ask(&suite.client(), "x").await;
    }
    let open: Vec<String> = suite
        .breaker_states()
        .await
        .into_iter()
        .filter_map(|(name, state)| (state == CircuitBreakerState::Open).then_some(name))
        .collect();
    assert_eq!(open.len(), 1);
    let asked = suite.sim.counter("max", "attempts").await;

    // Of the same content, so that only the signal can be the cause; and with new settings for the breaker.
    suite.router.signal("HUP").await;
    assert_eq!(suite.logged(RELOADED, 1).await[0]["cause"], "SIGHUP");
    suite.write(&format!("{ASSISTANT}circuit_breaker: {{failure_threshold: 5}}\n"));
    suite.router.signal("HUP").await;
    suite.logged(RELOADED, 2).await;
    assert!(suite.breaker_states().await.contains(&(open[0].clone(), CircuitBreakerState::Open)));
    assert_eq!(served_by(&ask(&suite.client(), "x").await).tier, "ollama");
    assert_eq!(suite.sim.counter("max", "attempts").await, asked, "the open breaker let nothing through");

    // A backend that is gone takes its breaker along.
    let moved = "tiers: {max: {endpoints: ['http://127.0.0.1:1']}}\n";
    suite.write(&format!("{ASSISTANT}{moved}"));
    suite.router.signal("HUP").await;
    suite.logged(RELOADED, 3).await;
    let names: Vec<String> = suite.breaker_states().await.into_iter().map(|(name, _)| name).collect();
    assert!(names.contains(&"127.0.0.1:1/sim-max".to_owned()) && !names.contains(&open[0]), "{names:?}");
}

#[tokio::test]
async fn an_invalid_file_is_refused_by_name_and_the_old_one_stays() {
    let suite = Reloading::start(ASSISTANT).await;
    suite.write("agents:\n  - {name: assistant, tiers: [maxx]}\ncircuit_breaker: {failure_threshold: 0}\n");
    let lines = suite.logged(REFUSED, 2).await;
    let told: Vec<_> = lines.iter().map(|line| (line["key"].as_str(), line["value"].as_str())).collect();
    assert!(told.contains(&(Some("agents.0.tiers"), Some("maxx"))), "{lines:?}");
    assert!(told.contains(&(Some("circuit_breaker.failure_threshold"), Some("0"))), "{lines:?}");
    assert!(lines.iter().all(|line| line["level"] == "ERROR" && line["rule"].is_string()));
    assert_eq!(suite.models().await, ["assistant", "sim-max", "sim-ollama"]);
    assert_eq!(served_by(&ask(&suite.client(), "x").await).tier, "max");

    suite.write("agents: [");
    let lines = suite.logged(REFUSED, 3).await;
    assert!(lines[2]["key"].as_str().unwrap().ends_with("config.yaml"), "{lines:?}");
    suite.write(&format!("{ASSISTANT}{SECOND}agent_router: {{max_message_bytes: 5000000}}\n"));
    suite.logged(RELOADED, 1).await;
    let warned = suite.logged("changed settings need a restart", 1).await;
    assert_eq!(warned[0]["keys"], "agent_router.max_message_bytes");
    assert!(suite.models().await.contains(&"second".to_owned()), "what can be taken over is");
    assert_eq!(suite.logged(REFUSED, 3).await.len(), 3, "each refusal was told once");
    assert_eq!(suite.metric("aip_config_reloads_total{result=\"refused\"}").await.to_string(), "2");
}

#[tokio::test]
async fn a_stream_of_a_removed_agent_ends_whole() {
    let suite = Reloading::start(&format!("{ASSISTANT}{SECOND}")).await;
    suite.sim.fault("ollama", json!({"kind": "slow_tokens", "delay_ms": 20})).await;
    let second = ChatRequest { model: "second".into(), ..question("tell me a long story") };
    let mut stream = open(&suite.client(), second.clone()).await.unwrap();
    stream.message().await.unwrap().expect("it has begun");
    suite.write(ASSISTANT);
    suite.router.signal("HUP").await;
    suite.logged(RELOADED, 1).await;
    assert_eq!(suite.client().chat(second).await.unwrap_err().code(), tonic::Code::NotFound);
    let streamed = Streamed::read(stream).await;
    assert!(streamed.end.is_some(), "{:?}", streamed.error);
    assert!(suite.simulator.logs().iter().all(|line| line["level"] != "ERROR"));
}

#[tokio::test]
async fn the_suite_in_one_process_reloads_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, ASSISTANT).unwrap();
    let suite = start_all_in_one_with_file(&path, &[]).await;
    replace(&path, &format!("{ASSISTANT}{SECOND}"));
    suite.signal("HUP").await;
    logged(&suite, RELOADED, 1).await;
    let second = ChatRequest { model: "second".into(), ..question("x") };
    let answer = client(&suite.url("gateway_grpc")).chat(second).await.unwrap().into_inner();
    assert_eq!(served_by(&answer).tier, "ollama");
}
