//! Ollama's protocol, as its clients see it.
#![allow(clippy::expect_used, reason = "a test may end by a panic")]

mod common;

use common::{Ended, Reply, Sim, chat_body, empty_request, text_request, with, with_prefix};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use upstream_sim::{End, SimConfig, UpstreamKind::Ollama};

async fn ask(sim: &Sim, body: &Value) -> Reply {
    Reply::read(sim.post(Ollama, body).await.expect("headers")).await
}

fn default_body() -> Value {
    let mut body = chat_body(Ollama, true);
    body.as_object_mut().expect("an object").remove("stream");
    body
}

#[tokio::test]
async fn it_streams_lines_by_default_and_the_last_is_done() {
    let sim = Sim::start().await;
    let reply = ask(&sim, &default_body()).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    assert_eq!(reply.ended, Ended::Whole);
    let lines = reply.json_events();
    assert_eq!(lines.len(), reply.events().len(), "every line is JSON");
    let (last, before) = lines.split_last().expect("lines");
    for line in before {
        assert_eq!(line["done"], false);
        assert_eq!(line["model"], "sim-ollama");
        assert_eq!(line["message"]["role"], "assistant");
        assert!(line["created_at"].as_str().is_some_and(|time| time.ends_with('Z')));
        assert_eq!(line.get("done_reason"), None);
    }
    assert_eq!(last["done"], true);
    assert_eq!(last["done_reason"], "stop");
    assert_eq!(last["message"]["content"], "");
    assert_eq!(last["eval_count"], before.len());
    assert_eq!(last["prompt_eval_count"], 8);
    let nanos = |field: &str| last[field].as_u64().expect("nanoseconds");
    assert!(nanos("load_duration") > 0);
    assert_eq!(
        nanos("total_duration"),
        nanos("load_duration") + nanos("prompt_eval_duration") + nanos("eval_duration")
    );
    let text = reply.content();
    assert!(text.starts_with("This is sim-ollama on simulated Ollama. You said: \"Tell me about"), "{text}");
    assert_eq!(sim.only_attempt(Ollama).await.chunks_sent, before.len() as u64);
}

#[tokio::test]
async fn a_unary_answer_is_one_object() {
    let sim = Sim::start().await;
    let reply = ask(&sim, &chat_body(Ollama, false)).await;
    assert_eq!(reply.header("content-type"), "application/json; charset=utf-8");
    let body = reply.json();
    assert_eq!((&body["done"], &body["done_reason"]), (&json!(true), &json!("stop")));
    assert_eq!(body["eval_count"], reply.content().split_whitespace().count());
    assert_eq!(reply.content(), ask(&sim, &default_body()).await.content());
}

#[tokio::test]
async fn a_cold_start_shows_in_the_load_duration_only_once() {
    let sim = Sim::start().await;
    let mut loads = Vec::new();
    for _ in 0..2 {
        let body = ask(&sim, &chat_body(Ollama, false)).await.json();
        loads.push(body["load_duration"].as_u64().expect("nanoseconds"));
    }
    assert_eq!(loads, [50_000_000, 1_000_000]);
}

#[tokio::test]
async fn num_predict_is_kept_and_named() {
    let sim = Sim::start().await;
    let whole = ask(&sim, &chat_body(Ollama, false)).await.content();
    for stream in [false, true] {
        let limited = with(chat_body(Ollama, stream), "options", json!({"num_predict": 4}));
        let reply = ask(&sim, &limited).await;
        let last = reply.json_events().pop().expect("a line");
        assert_eq!((&last["done_reason"], &last["eval_count"]), (&json!("length"), &json!(4)));
        assert!(whole.starts_with(&reply.content()));
        let unlimited = with(chat_body(Ollama, stream), "options", json!({"num_predict": -1}));
        assert_eq!(ask(&sim, &unlimited).await.content(), whole);
    }
}

#[tokio::test]
async fn a_prefix_is_continued_and_not_repeated() {
    let sim = Sim::start().await;
    let whole = ask(&sim, &chat_body(Ollama, false)).await.content();
    let reply = ask(&sim, &with_prefix(default_body(), &whole[..40])).await;
    assert_eq!(format!("{}{}", &whole[..40], reply.content()), whole);
}

#[tokio::test]
async fn it_goes_on_where_the_other_upstream_was_cut() {
    let sim = Sim::start().await;
    let max = sim.chat(upstream_sim::UpstreamKind::Max, false).await;
    let said: String = Reply::read(max).await.content().chars().take(93).collect();
    let whole = ask(&sim, &chat_body(Ollama, false)).await.content();
    let reply = ask(&sim, &with_prefix(default_body(), &said)).await;
    assert!(whole.ends_with(&reply.content()), "later words of its own answer");
    assert!(!reply.content().contains("This is"), "the beginning is not said again");
}

#[tokio::test]
async fn tools_and_the_latest_tag_are_tolerated() {
    let sim = Sim::start().await;
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let body = with(with(default_body(), "tools", tools), "model", json!("sim-ollama:latest"));
    let reply = ask(&sim, &body).await;
    assert_eq!(reply.json_events()[0]["model"], "sim-ollama:latest");
    assert!(reply.is_done());
}

#[tokio::test]
async fn empty_messages_load_and_unload() {
    let sim = Sim::start().await;
    let running = || async { sim.get(sim.ollama, "/api/ps").await.json()["models"].clone() };
    assert_eq!(running().await, json!([]));
    let load = json!({"model": "sim-ollama"});
    let body = ask(&sim, &load).await.json();
    assert_eq!((&body["done"], &body["done_reason"]), (&json!(true), &json!("load")));
    let loaded = running().await;
    assert_eq!(loaded[0]["name"], "sim-ollama:latest");
    assert!(loaded[0]["expires_at"].is_string());
    for keep_alive in [json!(0), json!("0s")] {
        ask(&sim, &with(load.clone(), "messages", json!([]))).await;
        let body = ask(&sim, &with(load.clone(), "keep_alive", keep_alive)).await.json();
        assert_eq!(body["done_reason"], "unload");
        assert_eq!(running().await, json!([]));
    }
    ask(&sim, &chat_body(Ollama, false)).await;
    assert_eq!(running().await.as_array().map(Vec::len), Some(1), "a chat loads its model");
}

#[tokio::test]
async fn bad_requests_are_refused_in_its_shape() {
    let sim = Sim::start().await;
    let good = default_body();
    let cases = [
        (with(good.clone(), "model", json!("nope")), 404, "model 'nope' not found"),
        (with(good.clone(), "model", json!("")), 400, "model is required"),
        (with(good.clone(), "model", json!(5)), 400, "ChatRequest.model"),
        (with(good.clone(), "messages", json!("x")), 400, "ChatRequest.messages"),
        (with(good.clone(), "messages", json!(["x"])), 400, "ChatRequest.messages"),
        (with(good.clone(), "messages", json!([{"content": "x"}])), 400, "messages.role"),
        (with(good.clone(), "stream", json!(1)), 400, "ChatRequest.stream"),
        (with(good.clone(), "options", json!([])), 400, "ChatRequest.options"),
        (json!("x"), 400, "api.ChatRequest"),
    ];
    for (body, status, message) in cases {
        let reply = ask(&sim, &body).await;
        assert_eq!(reply.status.as_u16(), status, "{body}");
        let error = reply.json()["error"].as_str().expect("a string").to_owned();
        assert!(error.contains(message), "{error}");
    }
    for (body, message) in [("", "missing request body"), ("{", "EOF")] {
        let request = text_request(Method::POST, "/api/chat", body.to_owned());
        let reply = Reply::read(sim.send(sim.ollama, request).await.expect("headers")).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.error_message().contains(message), "{}", reply.text());
    }
    assert!(sim.handle.attempts(Ollama).iter().all(|attempt| attempt.end == End::Rejected));
}

#[tokio::test]
async fn lists_and_probes_are_answered() {
    let sim = Sim::start().await;
    let tags = sim.get(sim.ollama, "/api/tags").await.json();
    let model = &tags["models"][0];
    assert_eq!(model["name"], "sim-ollama:latest");
    assert_eq!(model["digest"].as_str().map(str::len), Some(64));
    assert_eq!(model["details"]["format"], "gguf");
    assert!(sim.get(sim.ollama, "/api/version").await.json()["version"].is_string());
    assert_eq!(sim.get(sim.ollama, "/").await.text(), "Ollama is running");
    let head = sim.send(sim.ollama, empty_request(Method::HEAD, "/")).await.expect("headers");
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(sim.get(sim.ollama, "/api/nothing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(sim.get(sim.ollama, "/api/chat").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_a_list_every_model_is_served() {
    let sim = Sim::with(SimConfig { ollama_models: Vec::new(), ..SimConfig::ephemeral() }).await;
    let reply = ask(&sim, &with(default_body(), "model", json!("llama3:8b"))).await;
    assert_eq!(reply.json_events()[0]["model"], "llama3:8b");
}
