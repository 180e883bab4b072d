//! The promise: who has no business here hears so, and nothing else; who has is known by name, and nobody's secret is
//! anywhere but in its file.

use std::time::Duration;

use aiplatform_proto::inference::v1::{CacheMode, ChatRequest};
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use aiplatform_proto::resilience::v1::{ListCircuitBreakersRequest, ResetCircuitBreakerRequest};
use e2e::chat::{Client, channel, open, question, served_by};
use e2e::keys::{Key, Keys, bearing};
use e2e::metrics::Metrics;
use e2e::process::{Process, command};
use e2e::suite::{Options, Suite, start_all_in_one, start_gateway};
use e2e::{eventually, http};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

fn unauthenticated() -> (Code, String) {
    (Code::Unauthenticated, "UNAUTHENTICATED".to_owned())
}

fn denied() -> (Code, String) {
    (Code::PermissionDenied, "PERMISSION_DENIED".to_owned())
}

async fn asks(client: &Client, key: &str) -> Result<(), Status> {
    client.clone().chat(bearing(key, question("who am I?"))).await.map(drop)
}

/// How often a process has read its configuration again.
fn reloads(process: &Process) -> usize {
    process.logs().iter().filter(|line| line["message"] == "configuration reloaded").count()
}

/// A suite whose gateway knows these keys.
async fn suite(keys: &Keys) -> Suite {
    Options::new().with_all(keys.variables()).start().await
}

#[tokio::test]
async fn every_credential_that_is_not_good_is_refused_in_the_same_words() {
    let keys = Keys::new();
    let good = keys.make("acme", &["inference"]).await;
    let viewer = keys.make("acme", &["viewer"]).await;
    let expired = keys.make("acme", &["inference"]).await.with("expires_at", "2026-01-01T00:00:00Z");
    let disabled = keys.make("acme", &["inference"]).await.with("disabled", true);
    let revoked = keys.make("acme", &["inference"]).await;
    keys.set(&[&good, &viewer, &expired, &disabled]);
    let suite = suite(&keys).await;
    let client = suite.client();

    asks(&client, &good.text).await.unwrap();
    let mut by_header = Request::new(question("x"));
    by_header.metadata_mut().insert("x-api-key", good.text.parse().unwrap());
    client.clone().chat(by_header).await.unwrap();

    let missing = client.clone().chat(question("x")).await.unwrap_err();
    assert_eq!(reason(&missing), unauthenticated());
    let wrong = format!("{}x", good.text);
    for (what, key) in [
        ("wrong", wrong.as_str()),
        ("revoked", &revoked.text),
        ("expired", &expired.text),
        ("disabled", &disabled.text),
        ("malformed", "sk-anything"),
    ] {
        let status = asks(&client, key).await.unwrap_err();
        assert_eq!(reason(&status), unauthenticated(), "{what}");
        assert_eq!(status.message(), missing.message(), "{what}");
        assert_eq!(status.details(), missing.details(), "{what}");
    }
    let status = open(&client, question("x")).await.unwrap_err();
    assert_eq!(reason(&status), unauthenticated(), "streams too");
    assert_eq!(reason(&asks(&client, &viewer.text).await.unwrap_err()), denied());

    let metrics = Metrics::scrape(&suite.gateway, "admin").await;
    for (reason, count) in [
        ("missing", 2.0),
        ("wrong_key", 1.0),
        ("unknown_key", 1.0),
        ("expired", 1.0),
        ("disabled", 1.0),
        ("malformed", 1.0),
        ("forbidden", 1.0),
    ] {
        let label = format!("reason=\"{reason}\"");
        assert!((metrics.value("aip_auth_failures_total", &[&label]) - count).abs() < 0.1, "{reason}");
    }
}

#[tokio::test]
async fn the_http_port_asks_for_the_same() {
    let keys = Keys::new();
    let (good, viewer) = (keys.make("acme", &["inference"]).await, keys.make("acme", &["viewer"]).await);
    keys.set(&[&good, &viewer]);
    let suite = suite(&keys).await;
    let ask = async |key: Option<&str>| {
        let chat = json!({"model": "assistant", "messages": [{"role": "user", "content": "x"}]});
        let request = http().post(format!("{}/v1/chat/completions", suite.gateway.url("http"))).json(&chat);
        let request = match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    assert_eq!(ask(Some(&good.text)).await.0, 200);
    let (missing, wrong) = (ask(None).await, ask(Some("aip_x_y")).await);
    assert_eq!((missing.0, missing.1["error"]["code"].as_str()), (401, Some("invalid_api_key")));
    assert_eq!(missing, wrong, "in the same words");
    assert_eq!(ask(Some(&viewer.text)).await.0, 403);
    let models = format!("{}/v1/models", suite.gateway.url("http"));
    assert_eq!(http().get(&models).send().await.unwrap().status(), 401);
    // A method that another one stands for needs what that needs.
    let breakers = format!("{}/circuit-breakers", suite.gateway.url("http"));
    for (url, key, status) in
        [(&models, &good, 200), (&models, &viewer, 403), (&breakers, &viewer, 200), (&breakers, &good, 403)]
    {
        for method in [reqwest::Method::GET, reqwest::Method::HEAD] {
            let asked = http().request(method.clone(), url).bearer_auth(&key.text).send().await.unwrap();
            assert_eq!(asked.status(), status, "{method} {url}");
        }
    }
    assert_eq!(http().get(&models).header("x-api-key", &good.text).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn looking_takes_a_viewer_and_changing_an_operator() {
    let keys = Keys::new();
    let (inference, viewer, operator) = (
        keys.make("acme", &["inference"]).await,
        keys.make("acme", &["viewer"]).await,
        keys.make("acme", &["operator"]).await,
    );
    keys.set(&[&inference, &viewer, &operator]);
    let suite = suite(&keys).await;
    let mut client = CircuitBreakerServiceClient::new(channel(&suite.api_server.url("grpc")));
    let list = ListCircuitBreakersRequest::default();
    for key in [&viewer, &operator] {
        let listed = client.list_circuit_breakers(key.on(list.clone())).await.unwrap().into_inner();
        assert!(!listed.circuit_breakers.is_empty(), "the api-server is known to the router");
    }
    assert_eq!(
        reason(&client.list_circuit_breakers(inference.on(list.clone())).await.unwrap_err()),
        denied()
    );
    assert_eq!(reason(&client.list_circuit_breakers(list).await.unwrap_err()), unauthenticated());
    let reset = ResetCircuitBreakerRequest::default();
    let refused = client.reset_circuit_breaker(viewer.on(reset.clone())).await.unwrap_err();
    assert_eq!(reason(&refused), denied());
    let let_in = client.reset_circuit_breaker(operator.on(reset)).await;
    assert!(let_in.err().is_none_or(|status| reason(&status) != denied()));

    let url = format!("{}/circuit-breakers", suite.api_server.url("http"));
    let over_http = async |key: Option<&Key>| {
        let request = http().get(&url);
        let request = match key {
            Some(key) => request.bearer_auth(&key.text),
            None => request,
        };
        request.send().await.unwrap()
    };
    assert_eq!(over_http(Some(&viewer)).await.status(), 200);
    assert_eq!(over_http(Some(&inference)).await.status(), 403);
    let refused = over_http(None).await;
    assert_eq!(
        (refused.status().as_u16(), refused.headers()["www-authenticate"].to_str().unwrap()),
        (401, "Bearer")
    );
    assert!(refused.text().await.unwrap().contains("UNAUTHENTICATED"));
}

#[tokio::test]
async fn keys_come_and_go_while_requests_are_answered() {
    let keys = Keys::new();
    let (steady, leaving, coming) = (
        keys.make("acme", &["inference"]).await,
        keys.make("acme", &["inference"]).await,
        keys.make("globex", &["inference"]).await,
    );
    keys.set(&[&steady, &leaving]);
    let suite = suite(&keys).await;
    let client = suite.client();
    let done = CancellationToken::new();
    let (stop, load, key) = (done.clone(), client.clone(), steady.text.clone());
    let mut asking = JoinSet::new();
    asking.spawn(async move {
        let mut answered = 0;
        while !stop.is_cancelled() {
            asks(&load, &key).await.expect("a good key is good throughout");
            answered += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        answered
    });

    asks(&client, &leaving.text).await.unwrap();
    assert!(asks(&client, &coming.text).await.is_err());
    keys.set(&[&steady, &coming]);
    eventually("the new key", || async { asks(&client, &coming.text).await.ok() }).await;
    assert_eq!(reason(&asks(&client, &leaving.text).await.unwrap_err()), unauthenticated());
    let told = eventually("the reload", || async {
        suite.gateway.logs().into_iter().find(|line| line["message"] == "configuration reloaded")
    })
    .await;
    assert_eq!(told["files"], keys.path("keys").display().to_string());
    let in_force = suite.gateway.logs().into_iter().find(|line| line["message"] == "API keys are in force");
    assert_eq!(in_force.unwrap()["keys"], 2);

    keys.write("keys", "{\"id\":\"hunter2\"}");
    let refused = eventually("the refusal of a file that is wrong", || async {
        let told = "configuration refused, the old one stays";
        suite.gateway.logs().into_iter().find(|line| line["message"] == told)
    })
    .await;
    assert_eq!(refused["key"], "security.api_keys_file");
    asks(&client, &coming.text).await.unwrap();

    keys.set(&[&steady, &coming]);

    // A new secret between gateways and routers: accepted by all before anybody shows it.
    let old = keys.read("gateway-secret");
    let new = "a-new-secret-that-is-long-enough-for-every-check";
    for lines in [format!("{old}\n{new}"), format!("{new}\n{old}"), new.to_owned()] {
        let processes = [&suite.router, &suite.gateway, &suite.api_server];
        let before = processes.map(reloads);
        keys.write("gateway-secret", &lines);
        for (process, before) in processes.into_iter().zip(before) {
            process.signal("HUP").await;
            eventually("the reload", || async { (reloads(process) > before).then_some(()) }).await;
        }
        for _ in 0..50 {
            asks(&client, &coming.text).await.unwrap();
        }
    }
    done.cancel();
    assert!(asking.join_next().await.unwrap().unwrap() > 100, "requests went on all the time");
}

#[tokio::test]
async fn the_router_believes_a_tenant_only_from_those_who_know_the_secret() {
    let keys = Keys::new();
    let key = keys.make("acme", &["inference"]).await;
    keys.set(&[&key]);
    let suite = suite(&keys).await;
    let mut router = e2e::chat::client(&suite.router.url("grpc"));
    for (name, value) in
        [("x-aip-tenant", "acme"), ("x-aip-gateway-secret", "guessed"), ("x-api-key", &key.text)]
    {
        let mut request = Request::new(question("x"));
        request.metadata_mut().insert(name, value.parse().unwrap());
        assert_eq!(reason(&router.chat(request).await.unwrap_err()), unauthenticated(), "{name}");
    }
    let mut request = Request::new(question("x"));
    let secret = keys.read("gateway-secret");
    request.metadata_mut().insert("x-aip-gateway-secret", secret.parse().unwrap());
    assert!(!served_by(&router.chat(request).await.unwrap().into_inner()).degraded);
    // The gateway takes neither from its own callers.
    let mut request = Request::new(question("x"));
    request.metadata_mut().insert("x-aip-gateway-secret", secret.parse().unwrap());
    request.metadata_mut().insert("x-aip-tenant", "acme".parse().unwrap());
    assert_eq!(reason(&suite.client().chat(request).await.unwrap_err()), unauthenticated());
}

#[tokio::test]
async fn the_answer_of_one_tenant_is_not_given_to_another() {
    let keys = Keys::new();
    let (acme, colleague, globex) = (
        keys.make("acme", &["inference"]).await,
        keys.make("acme", &["inference"]).await,
        keys.make("globex", &["inference"]).await,
    );
    keys.set(&[&acme, &colleague, &globex]);
    let suite = suite(&keys).await;
    let client = suite.client();
    let from_cache = async |key: &Key| {
        let chat = ChatRequest { cache: CacheMode::Only.into(), ..question("what did we say?") };
        client.clone().chat(key.on(chat)).await
    };
    client.clone().chat(acme.on(question("what did we say?"))).await.unwrap();
    eventually("the stored answer", || async { from_cache(&acme).await.ok() }).await;
    from_cache(&colleague).await.expect("the same tenant");
    let other = from_cache(&globex).await;
    assert!(other.map_or(true, |answer| served_by(answer.get_ref()).degraded), "another tenant");
}

#[tokio::test]
async fn the_suite_in_one_process_needs_no_secret_to_know_itself() {
    let keys = Keys::new();
    let key = keys.make("acme", &["inference", "viewer"]).await;
    keys.set(&[&key]);
    let mut variables = keys.variables();
    variables.retain(|(name, _)| *name != "AIP__SECURITY__GATEWAY_SECRET_FILE");
    let suite = start_all_in_one(&variables).await;
    let client = e2e::chat::client(&suite.url("gateway_grpc"));
    asks(&client, &key.text).await.unwrap();
    assert_eq!(reason(&asks(&client, "aip_x_y").await.unwrap_err()), unauthenticated());
    let router = e2e::chat::client(&suite.url("agent_router_grpc"));
    assert_eq!(reason(&asks(&router, &key.text).await.unwrap_err()), unauthenticated());
    let mut listing = CircuitBreakerServiceClient::new(channel(&suite.url("api_server_grpc")));
    let listed = listing.list_circuit_breakers(key.on(ListCircuitBreakersRequest::default())).await.unwrap();
    assert!(!listed.into_inner().circuit_breakers.is_empty());
}

#[tokio::test]
async fn what_is_unwise_is_told_at_start_and_what_is_unsafe_refused() {
    let keys = Keys::new();
    let mut variables = keys.variables();
    variables.push(("AIP__GATEWAY__GRPC_LISTEN", "0.0.0.0:0".to_owned()));
    let gateway = start_gateway("http://router.internal:50052", &variables).await;
    let told: Vec<String> = gateway
        .logs()
        .iter()
        .filter(|line| line["message"] == "unsafe setting")
        .map(|line| format!("{} {}", line["key"].as_str().unwrap(), line["value"].as_str().unwrap()))
        .collect();
    assert!(told.contains(&"gateway.grpc_listen 0.0.0.0:0".to_owned()), "{told:?}");
    assert!(told.contains(&"gateway.routers http://router.internal:50052".to_owned()), "{told:?}");
    let refused = async |without: &str| {
        let mut variables = variables.clone();
        variables.retain(|(name, _)| *name != without);
        let ran = command("gateway").envs(variables).output().await.unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    let (code, told) = refused("AIP__SECURITY__API_KEYS_FILE").await;
    assert!(code == Some(2) && told.contains("gateway.grpc_listen = 0.0.0.0:0"), "{told}");
    let (code, told) = refused("AIP__SECURITY__GATEWAY_SECRET_FILE").await;
    assert!(code == Some(2) && told.contains("security.gateway_secret_file"), "{told}");
}
