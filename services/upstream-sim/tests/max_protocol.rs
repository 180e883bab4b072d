//! MAX Serve's protocol, as its clients see it.
#![allow(clippy::expect_used, reason = "a test may end by a panic")]

mod common;

use common::{Ended, Reply, Sim, chat_body, json_request, text_request, with, with_prefix};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use upstream_sim::{End, SimConfig, UpstreamKind::Max};

async fn ask(sim: &Sim, body: &Value) -> Reply {
    Reply::read(sim.post(Max, body).await.expect("headers")).await
}

#[tokio::test]
async fn a_unary_answer_has_all_of_the_fields() {
    let sim = Sim::start().await;
    let reply = ask(&sim, &chat_body(Max, false)).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("content-type"), "application/json");
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "sim-max");
    assert_eq!(body["id"].as_str().map(str::len), Some(32));
    assert!(body["created"].as_u64().is_some_and(|created| created > 1_700_000_000));
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["message"]["role"], "assistant");
    let text = reply.content();
    assert!(
        text.starts_with("This is sim-max on simulated MAX Serve. You said: \"Tell me about fjords\"."),
        "{text}"
    );
    let usage = &body["usage"];
    assert_eq!(usage["prompt_tokens"], 8);
    assert_eq!(usage["completion_tokens"], text.split_whitespace().count());
    assert_eq!(usage["total_tokens"], 8 + text.split_whitespace().count());

    let attempt = sim.only_attempt(Max).await;
    assert_eq!((attempt.end, attempt.status, attempt.fault), (End::Completed, Some(200), None));
    assert_eq!(attempt.body, chat_body(Max, false));
}

#[tokio::test]
async fn a_stream_repeats_the_role_and_ends_with_done() {
    let sim = Sim::start().await;
    let reply = ask(&sim, &chat_body(Max, true)).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("content-type"), "text/event-stream; charset=utf-8");
    assert_eq!(reply.ended, Ended::Whole);
    assert_eq!(reply.events().last(), Some(&"[DONE]"));

    let events = reply.json_events();
    assert_eq!(events.len() + 1, reply.events().len(), "all but the last are JSON");
    for event in &events {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["id"], events[0]["id"]);
        assert_eq!(event["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(event.get("usage"), None, "no usage unless it is asked for");
    }
    let (last, before) = events.split_last().expect("events");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(before.iter().all(|event| event["choices"][0].get("finish_reason").is_none()));

    let unary = ask(&sim, &chat_body(Max, false)).await;
    assert_eq!(reply.content(), unary.content());
    let attempts = sim.handle.attempts(Max);
    assert_eq!(attempts[0].chunks_sent, reply.content_events() as u64);
}

#[tokio::test]
async fn usage_comes_last_without_choices_when_it_is_asked_for() {
    let sim = Sim::start().await;
    let body = with(chat_body(Max, true), "stream_options", json!({"include_usage": true}));
    let reply = ask(&sim, &body).await;
    let events = reply.json_events();
    let last = events.last().expect("events");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["prompt_tokens"], 8);
    assert_eq!(last["usage"]["completion_tokens"], reply.content_events());
    assert!(events[..events.len() - 1].iter().all(|event| event.get("usage").is_none()));
    assert!(reply.is_done());
}

#[tokio::test]
async fn a_limit_is_kept_and_named() {
    let sim = Sim::start().await;
    let whole = ask(&sim, &chat_body(Max, false)).await.content();
    for field in ["max_tokens", "max_completion_tokens"] {
        let unary = ask(&sim, &with(chat_body(Max, false), field, json!(5))).await;
        assert_eq!(unary.json()["choices"][0]["finish_reason"], "length");
        assert_eq!(unary.json()["usage"]["completion_tokens"], 5);
        assert!(whole.starts_with(&unary.content()));

        let streamed = ask(&sim, &with(chat_body(Max, true), field, json!(5))).await;
        assert_eq!(streamed.content(), unary.content());
        assert_eq!(streamed.content_events(), 5);
        let events = streamed.json_events();
        assert_eq!(events.len(), 5, "the last token's chunk carries the reason");
        assert_eq!(events[4]["choices"][0]["finish_reason"], "length");
        assert!(streamed.is_done());
    }
}

#[tokio::test]
async fn a_prefix_is_continued_and_not_repeated() {
    let sim = Sim::start().await;
    let whole = ask(&sim, &chat_body(Max, false)).await.content();
    for stream in [false, true] {
        let prefix = &whole[..60];
        let reply = ask(&sim, &with_prefix(chat_body(Max, stream), prefix)).await;
        assert_eq!(format!("{prefix}{}", reply.content()), whole);
    }
    let foreign = "Words that another upstream has said before it fell silent in its middle";
    let reply = ask(&sim, &with_prefix(chat_body(Max, false), foreign)).await;
    let said = foreign.split_whitespace().count();
    let later: Vec<&str> = whole.split_whitespace().skip(said).collect();
    assert_eq!(reply.content().split_whitespace().collect::<Vec<_>>(), later);

    let nothing = ask(&sim, &with_prefix(chat_body(Max, true), &whole)).await;
    assert_eq!(nothing.content(), "");
    assert_eq!(nothing.json_events()[0]["choices"][0]["finish_reason"], "stop");
    assert!(nothing.is_done());
}

#[tokio::test]
async fn content_may_come_in_parts() {
    let sim = Sim::start().await;
    let parts = json!([{"role": "user", "content": [
        {"type": "text", "text": "Tell me "},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "text", "text": "about fjords"},
    ]}]);
    let reply = ask(&sim, &with(chat_body(Max, false), "messages", parts)).await;
    assert_eq!(reply.content(), ask(&sim, &chat_body(Max, false)).await.content());
}

#[tokio::test]
async fn bad_requests_are_refused_in_its_shape() {
    let sim = Sim::start().await;
    let good = chat_body(Max, false);
    let cases = [
        (with(good.clone(), "model", json!("no-such-model")), "Value error."),
        (with(good.clone(), "messages", json!([])), "messages"),
        (with(good.clone(), "messages", json!("hello")), "messages"),
        (with(good.clone(), "messages", json!([{"content": "x"}])), "messages.0.role"),
        (with(good.clone(), "messages", json!([{"role": "user", "content": 5}])), "0.content"),
        (with(good.clone(), "max_tokens", json!(0)), "max_tokens"),
        (with(good.clone(), "stream", json!("yes")), "stream"),
        (json!({"model": "sim-max"}), "messages"),
        (json!({"messages": [{"role": "user", "content": "x"}]}), "model"),
        (json!([]), "Invalid JSON."),
    ];
    let count = cases.len() as u64 + 1;
    for (body, message) in cases {
        let reply = ask(&sim, &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}");
        let error = &reply.json()["error"];
        assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{error}");
        assert_eq!(error["code"], "400");
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], "");
    }
    let broken = text_request(Method::POST, "/v1/chat/completions", "{\"model\":".to_owned());
    let reply = Reply::read(sim.send(sim.max, broken).await.expect("headers")).await;
    assert_eq!(reply.error_message(), "Missing JSON.");
    let attempts = sim.handle.attempts(Max);
    assert!(attempts.iter().all(|attempt| attempt.end == End::Rejected));
    assert_eq!(attempts.last().expect("one").body, json!("{\"model\":"), "kept as text");
    assert_eq!(sim.handle.status(Max).counters.rejected, count);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let sim = Sim::start().await;
    let huge = json!([{"role": "user", "content": "x".repeat(9 << 20)}]);
    let sent = sim.post(Max, &with(chat_body(Max, false), "messages", huge)).await;
    let reply = Reply::read(sent.expect("headers")).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn lists_and_probes_are_answered_and_are_no_attempts() {
    let sim = Sim::start().await;
    let health = sim.get(sim.max, "/health").await;
    assert_eq!((health.status, health.body.len()), (StatusCode::OK, 0));
    let models = sim.get(sim.max, "/v1/models").await.json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "sim-max");
    assert_eq!(models["data"][0]["object"], "model");
    assert_eq!(sim.get(sim.max, "/v1/models/sim-max").await.json()["id"], "sim-max");
    assert_eq!(sim.get(sim.max, "/v1/models/other").await.status, StatusCode::NOT_FOUND);
    assert!(sim.get(sim.max, "/version").await.json()["version"].is_string());
    let missing = sim.get(sim.max, "/v2").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(missing.json()["error"]["type"], "not_found_error");
    let wrong = sim.get(sim.max, "/v1/chat/completions").await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);

    let counters = sim.handle.status(Max).counters;
    assert_eq!((counters.attempts, counters.other_requests), (0, 7));
}

#[tokio::test]
async fn without_a_list_every_model_is_served() {
    let config = SimConfig { max_models: Vec::new(), ..SimConfig::ephemeral() };
    let sim = Sim::with(config).await;
    let reply = ask(&sim, &with(chat_body(Max, false), "model", json!("anything"))).await;
    assert_eq!(reply.json()["model"], "anything");
    assert!(reply.content().starts_with("This is anything on"), "{}", reply.content());
}

#[tokio::test]
async fn an_empty_model_is_the_first_one() {
    let sim = Sim::start().await;
    let reply = ask(&sim, &with(chat_body(Max, false), "model", json!(""))).await;
    assert_eq!(reply.json()["model"], "sim-max");
}

#[tokio::test]
async fn http2_without_tls_is_spoken_too() {
    let sim = Sim::start().await;
    let request = json_request(Method::POST, "http://sim/v1/chat/completions", &chat_body(Max, true));
    let reply = Reply::read(sim.send_h2(sim.max, request).await.expect("headers")).await;
    assert!(reply.is_done());
    assert_eq!(reply.content(), ask(&sim, &chat_body(Max, false)).await.content());
}

#[tokio::test]
async fn tokens_come_at_the_pace_that_is_set() {
    let config = SimConfig { tokens_per_second: 200.0, ..SimConfig::ephemeral() };
    let sim = Sim::with(config).await;
    let body = with(chat_body(Max, true), "max_tokens", json!(20));
    let streamed = ask(&sim, &body).await;
    let last = streamed.times.last().expect("parts").as_millis();
    assert!((95..900).contains(&last), "20 tokens at 200/s took {last} ms");
    assert!(streamed.times.len() >= 15, "they come one by one: {}", streamed.times.len());
    let start = tokio::time::Instant::now();
    ask(&sim, &with(body, "stream", json!(false))).await;
    let took = start.elapsed().as_millis();
    assert!((95..900).contains(&took), "a unary answer took {took} ms");
}

#[tokio::test]
async fn two_simulators_with_a_seed_agree_and_with_another_differ() {
    let seeded = |seed| Sim::with(SimConfig { seed, ..SimConfig::ephemeral() });
    let (first, second, other) = (seeded(7).await, seeded(7).await, seeded(8).await);
    let body = chat_body(Max, false);
    let (a, b, c) = (ask(&first, &body).await, ask(&second, &body).await, ask(&other, &body).await);
    assert_eq!(a.content(), b.content());
    assert_eq!(a.json()["id"], b.json()["id"]);
    assert_ne!(a.content(), c.content());
}
