//! The promise: a model that takes longer to load than a request may take is loaded all the same.

use std::time::Duration;

use aiplatform_proto::inference::v1::ChatRequest;
use e2e::chat::{Client, client, question, served_by};
use e2e::eventually;
use e2e::metrics::Metrics;
use e2e::process::Process;
use e2e::suite::{start_router, start_simulator_that_loads_for};
use serde_json::{Value, json};

const LOAD: Duration = Duration::from_millis(1500);

/// A router whose requests are cut off long before a model is loaded.
async fn start(variables: &[(&'static str, &str)]) -> (Process, Process, Client) {
    let simulator = start_simulator_that_loads_for(LOAD).await;
    let mut all = vec![
        ("AIP__TIERS__OLLAMA__TIMEOUT", "0.3".to_owned()),
        ("AIP__TIERS__OLLAMA__FIRST_TOKEN_TIMEOUT", "0.3".to_owned()),
        ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", "1".to_owned()),
    ];
    all.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let router = start_router(&simulator, None, &all).await;
    let client = client(&router.url("grpc"));
    (simulator, router, client)
}

async fn is_answered(client: &Client) -> bool {
    let chat = ChatRequest { tier: "ollama".into(), allow_degraded: Some(false), ..question("x") };
    let answer = client.clone().chat(chat).await;
    answer.is_ok_and(|answer| served_by(answer.get_ref()).tier == "ollama")
}

async fn loaded(simulator: &Process) -> bool {
    let answer = e2e::http().get(format!("{}/api/ps", simulator.url("ollama"))).send().await.unwrap();
    !answer.json::<Value>().await.unwrap()["models"].as_array().unwrap().is_empty()
}

async fn unload(simulator: &Process) {
    let body = json!({"model": "sim-ollama", "messages": [], "keep_alive": 0, "stream": false});
    let url = format!("{}/api/chat", simulator.url("ollama"));
    assert!(e2e::http().post(url).json(&body).send().await.unwrap().status().is_success());
}

#[tokio::test]
async fn a_model_is_loaded_at_start_and_when_its_breaker_opens() {
    let (simulator, router, client) = start(&[]).await;
    eventually("the model, by the router's own doing", || async { loaded(&simulator).await.then_some(()) })
        .await;
    assert!(is_answered(&client).await);

    unload(&simulator).await;
    for _ in 0..3 {
        assert!(!is_answered(&client).await);
    }
    eventually("an answer of the cold server", || async { is_answered(&client).await.then_some(()) }).await;
    let metrics = Metrics::scrape(&router, "admin").await;
    let of = |result| metrics.value("aip_model_preloads_total", &["tier=\"ollama\"", result]);
    assert!(of("result=\"loaded\"") >= 2.0);
    let told = |line: &Value| line["message"] == "model loaded" && line["tier"] == "ollama";
    assert!(router.logs().iter().any(told));
}

#[tokio::test]
async fn switched_off_the_server_is_left_to_its_requests() {
    let (simulator, router, client) = start(&[("AIP__TIERS__OLLAMA__PRELOAD__ENABLED", "false")]).await;
    for _ in 0..5 {
        assert!(!is_answered(&client).await);
    }
    assert!(!loaded(&simulator).await);
    let metrics = Metrics::scrape(&router, "admin").await;
    assert!(metrics.value("aip_model_preloads_total", &["tier=\"ollama\""]).abs() < f64::EPSILON);
}

#[tokio::test]
async fn loading_is_given_up_after_its_own_limit() {
    let (_simulator, router, _client) = start(&[("AIP__TIERS__OLLAMA__PRELOAD__TIMEOUT", "0.2")]).await;
    eventually("a timeout", || async {
        let metrics = Metrics::scrape(&router, "admin").await;
        let late = metrics.value("aip_model_preloads_total", &["tier=\"ollama\"", "result=\"timeout\""]);
        (late > 0.5).then_some(())
    })
    .await;
}
