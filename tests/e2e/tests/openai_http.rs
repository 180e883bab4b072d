//! The promise: whoever speaks OpenAI's protocol is answered by the same chain, by the same rules, and told as much.

use std::time::Duration;

use e2e::metrics::Metrics;
use e2e::suite::{Options, Suite, start_gateway};
use e2e::{eventually, http};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

fn question(text: &str) -> Value {
    json!({"model": "assistant", "messages": [{"role": "user", "content": text}]})
}

fn with(mut request: Value, more: Value) -> Value {
    let (Value::Object(request), Value::Object(more)) = (&mut request, more) else { panic!() };
    request.extend(more);
    Value::Object(std::mem::take(request))
}

struct Api {
    client: reqwest::Client,
    base: String,
}

impl Api {
    fn of(suite: &Suite) -> Self {
        Self { client: http(), base: suite.gateway.url("http") }
    }

    async fn send(&self, body: &Value) -> Response {
        self.client.post(format!("{}/v1/chat/completions", self.base)).json(body).send().await.unwrap()
    }

    async fn ask(&self, body: &Value) -> Value {
        let response = self.send(body).await;
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    async fn refused(&self, body: &Value) -> (StatusCode, Value, Response) {
        let mut response = self.send(body).await;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.unwrap() {
            bytes.extend_from_slice(&chunk);
        }
        (response.status(), serde_json::from_slice(&bytes).unwrap(), response)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let response = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }
}

/// The events of a stream, without comments.
async fn events(response: Response) -> Vec<String> {
    let text = response.text().await.unwrap();
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    events.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
}

fn chunks(events: &[String]) -> Vec<Value> {
    events
        .iter()
        .filter(|event| *event != "[DONE]")
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

fn text(chunks: &[Value]) -> String {
    let pieces = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    pieces.collect()
}

/// Reads until there was some content.
async fn first_content(stream: &mut Response) {
    let mut read = String::new();
    while read.matches("\"content\":").count() < 2 {
        let bytes = stream.chunk().await.unwrap().expect("it is not over");
        read.push_str(&String::from_utf8_lossy(&bytes));
    }
}

#[tokio::test]
async fn an_answer_and_a_stream_say_the_same_and_who_gave_it() {
    let suite = Suite::start().await;
    let api = Api::of(&suite);
    let response = api.send(&question("tell me")).await;
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(
        (&headers["x-aip-served-by"], &headers["x-aip-attempts"]),
        (&"max".parse().unwrap(), &"max=success".parse().unwrap())
    );
    assert_eq!(headers["x-aip-degraded"], "false");
    assert_eq!(headers["x-request-id"].len(), 36);
    let answer: Value = response.json().await.unwrap();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("assistant")));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    assert!(usage["completion_tokens"].as_u64().unwrap() > 5);
    assert_eq!(answer["aip"]["served_by"]["backend"], answer["aip"]["attempts"][0]["backend"]);

    let wanted =
        with(question("tell me"), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let response = api.send(&wanted).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(response.headers()["x-aip-served-by"], "max");
    let events = events(response).await;
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks = chunks(&events);
    assert_eq!(chunks.last().unwrap()["usage"], *usage);
    let finished = &chunks[chunks.len() - 2];
    assert_eq!(finished["choices"][0]["finish_reason"], "stop");
    assert_eq!(finished["aip"]["served_by"]["tier"], "max");
    assert_eq!(answer["choices"][0]["message"]["content"], text(&chunks));
    assert!(chunks.len() > 10, "piece by piece: {}", chunks.len());

    let metrics = Metrics::scrape(&suite.gateway, "admin").await;
    let labels = ["rpc_method=\"POST /v1/chat/completions\"", "rpc_status_code=\"OK\""];
    assert_eq!(metrics.sum("rpc_server_call_duration_seconds_count", &labels), Some(2.0));
}

#[tokio::test]
async fn a_tool_is_called_whole_and_in_pieces() {
    let suite = Suite::start().await;
    let api = Api::of(&suite);
    let tool = json!({"type": "function", "function": {"name": "say", "parameters": {"type": "object"}}});
    let asked = with(question("x"), json!({"tools": [tool], "tool_choice": "required"}));
    let answer = api.ask(&asked).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!(null))
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("say")));
    let whole: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();

    let streamed = chunks(&events(api.send(&with(asked, json!({"stream": true}))).await).await);
    let calls = streamed.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].get(0));
    let calls: Vec<&Value> = calls.collect();
    assert!(calls.iter().all(|call| call["index"] == 0) && calls.len() > 5);
    assert_eq!((&calls[0]["type"], &calls[0]["function"]["name"]), (&json!("function"), &json!("say")));
    let arguments: String = calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), whole);
    assert_eq!(streamed.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    // The call and its result go back.
    let message = choice["message"].clone();
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "done"});
    let mut next = question("x");
    next["messages"].as_array_mut().unwrap().extend([message, result]);
    assert_eq!(api.ask(&next).await["choices"][0]["finish_reason"], "stop");
    let seen = suite.sim.attempts("max").await.pop().unwrap()["body"].to_string();
    assert!(seen.contains("tool_call_id"), "{seen}");
}

#[tokio::test]
async fn what_is_asked_for_reaches_the_model() {
    let suite = Suite::start().await;
    let more = json!({
        "max_completion_tokens": 3, "temperature": 0.5, "seed": 7, "stop": "END", "logit_bias": {"1": -100},
        "user": "ann", "metadata": {"a": "b"}, "parallel_tool_calls": false,
    });
    let answer = Api::of(&suite).ask(&with(question("x"), more)).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let seen = suite.sim.attempts("max").await.pop().unwrap()["body"].clone();
    for (name, value) in [
        ("max_tokens", json!(3)),
        ("temperature", json!(0.5)),
        ("seed", json!(7)),
        ("stop", json!(["END"])),
        ("logit_bias", json!({"1": -100})),
        ("parallel_tool_calls", json!(false)),
        ("user", json!(null)),
        ("metadata", json!(null)),
    ] {
        assert_eq!(seen[name], value, "{name} of {seen}");
    }
}

#[tokio::test]
async fn each_error_has_its_status_type_code_and_field() {
    let suite = Options::new().with("CACHE_ENABLED", "false").start().await;
    let api = Api::of(&suite);
    let check = async |body: Value, expected: (u16, &str, &str, Value)| {
        let (status, error, response) = api.refused(&body).await;
        let error = &error["error"];
        let found = (status.as_u16(), error["type"].as_str().unwrap(), error["code"].as_str().unwrap());
        assert_eq!(found, (expected.0, expected.1, expected.2), "{body}: {error}");
        assert_eq!(error["param"], expected.3, "{error}");
        assert!(response.headers().contains_key("x-request-id"));
        assert!(!response.headers().contains_key("grpc-status"));
        response
    };
    let deep = (0..30).fold(json!(0), |inner, _| json!([inner]));
    let invalid = |more, param: &str| {
        (with(question("x"), more), (400, "invalid_request_error", "invalid_request", json!(param)))
    };
    for (body, expected) in [
        invalid(json!({"temperature": 9}), "temperature"),
        invalid(json!({"temperature": "hot"}), "temperature"),
        invalid(json!({"n": 2}), "n"),
        invalid(json!({"messages": []}), "messages"),
        invalid(json!({"messages": [{"role": "user", "content": " "}]}), "messages[0].content"),
        invalid(
            json!({"tools": [{"type": "function", "function": {"name": "no good"}}]}),
            "tools[0].function.name",
        ),
        invalid(json!({"tool_choice": "required"}), "tool_choice"),
        invalid(json!({"x": deep}), "x"),
        // Within the size of a request, and as many bytes again for each of its values once they are read.
        invalid(json!({"y": vec![0; 30_000]}), "y"),
        (
            with(question("x"), json!({"y": vec![json!([]); 300_000]})),
            (400, "invalid_request_error", "invalid_request", json!(null)),
        ),
        (
            with(question("x"), json!({"model": "gpt"})),
            (404, "invalid_request_error", "model_not_found", json!("model")),
        ),
        (
            with(question("x"), json!({"aip": {"tier": "gpu"}})),
            (404, "invalid_request_error", "tier_not_found", json!("aip.tier")),
        ),
        (
            question(&"x".repeat(1024 * 1024)),
            (413, "invalid_request_error", "request_too_large", json!(null)),
        ),
        (
            question(&"x".repeat(10 * 1024 * 1024)),
            (413, "invalid_request_error", "request_too_large", json!(null)),
        ),
    ] {
        check(body, expected).await;
    }
    assert_eq!(suite.sim.counter("max", "attempts").await, 0);

    suite.sim.fault_next("max", json!({"kind": "context_length"}), 1).await;
    check(
        with(question("x"), json!({"aip": {"tier": "max"}})),
        (400, "invalid_request_error", "context_length_exceeded", json!(null)),
    )
    .await;
    for upstream in ["max", "ollama"] {
        suite.sim.fault(upstream, json!({"kind": "status", "status": 429, "retry_after": 7})).await;
    }
    let wanted = with(question("x"), json!({"aip": {"allow_degraded": false}}));
    let response = check(wanted.clone(), (503, "server_error", "overloaded", json!(null))).await;
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=7).contains(&wait), "{wait}");
    let exact: u64 = response.headers()["retry-after-ms"].to_str().unwrap().parse().unwrap();
    assert!(exact.div_ceil(1000).max(1) == wait, "{exact} ms, {wait} s");
    for upstream in ["max", "ollama"] {
        suite.sim.fault(upstream, json!({"kind": "down"})).await;
    }
    eventually("the backends to be asked again", || async {
        let (status, error, _) = api.refused(&wanted).await;
        (status == 503 && error["error"]["code"] == "all_tiers_unavailable").then_some(())
    })
    .await;
    // A stream that nobody begins is no stream.
    check(with(wanted, json!({"stream": true})), (503, "server_error", "all_tiers_unavailable", json!(null)))
        .await;
}

#[tokio::test]
async fn what_is_no_request_of_ours_is_refused_as_such() {
    let suite = Suite::start().await;
    let api = Api::of(&suite);
    let url = format!("{}/v1/chat/completions", api.base);
    let send = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let error: Value = response.json().await.unwrap();
        (status, error["error"]["code"].as_str().unwrap().to_owned(), error["error"]["message"].to_string())
    };
    let json = ("content-type", "application/json");
    let post = || api.client.post(&url).header(json.0, json.1);
    let (status, code, message) = send(post().body("{\"model\": secret}")).await;
    assert_eq!((status, code.as_str()), (400, "invalid_request"));
    assert!(message.contains("line 1 column 11") && !message.contains("secret"), "{message}");
    let (status, code, _) = send(post().body(vec![b'{', 0xff])).await;
    assert_eq!((status, code.as_str()), (400, "invalid_request"));
    let (status, code, _) = send(post().body("[".repeat(500_000))).await;
    assert_eq!((status, code.as_str()), (400, "invalid_request"));
    let (status, code, _) = send(api.client.post(&url).body("{}")).await;
    assert_eq!((status, code.as_str()), (415, "unsupported_media_type"));
    let (status, code, _) = send(post().header("content-encoding", "gzip").body("{}")).await;
    assert_eq!((status, code.as_str()), (415, "unsupported_media_type"));
    let (status, code, message) = send(post().header("x-request-timeout-ms", "soon").body("{}")).await;
    assert_eq!((status, code.as_str()), (400, "invalid_request"));
    assert!(message.contains("x-request-timeout-ms: must be"), "{message}");
    let (status, code, _) = send(api.client.get(&url)).await;
    assert_eq!((status, code.as_str()), (405, "method_not_allowed"));
    let (status, code, message) = send(api.client.post(format!("{}/v1/embeddings", api.base))).await;
    assert_eq!((status, code.as_str()), (404, "path_not_found"));
    assert!(message.contains("POST /v1/chat/completions"), "{message}");
    // What a caller may do depends on the route: no method of gRPC is to be reached without one.
    let method = format!("{}/aiplatform.inference.v1.InferenceService/Chat", api.base);
    let (status, code, _) = send(api.client.post(method).header(json.0, json.1).body("{}")).await;
    assert_eq!((status, code.as_str()), (404, "path_not_found"));
}

#[tokio::test]
async fn models_are_listed_and_shown() {
    let suite = Suite::start().await;
    let api = Api::of(&suite);
    let (status, list) = api.get("/v1/models").await;
    assert_eq!((status.as_u16(), &list["object"]), (200, &json!("list")));
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["assistant", "sim-max", "sim-ollama"]);
    let (status, model) = api.get("/v1/models/sim-max").await;
    assert_eq!((status.as_u16(), &model), (200, &list["data"][1]));
    assert_eq!((&model["object"], &model["aip"]["kind"]), (&json!("model"), &json!("plain")));
    for name in ["some%2Fmodel", "%ff"] {
        let (status, error) = api.get(&format!("/v1/models/{name}")).await;
        assert_eq!((status.as_u16(), &error["error"]["code"]), (404, &json!("model_not_found")), "{name}");
    }
}

#[tokio::test]
async fn without_models_the_degraded_answer_and_without_a_router_the_gateways_own() {
    let mut suite = Options::new().with("CACHE_ENABLED", "false").start().await;
    let api = Api::of(&suite);
    for upstream in ["max", "ollama"] {
        suite.sim.fault(upstream, json!({"kind": "down"})).await;
    }
    let response = api.send(&question("x")).await;
    assert_eq!(
        (&response.headers()["x-aip-degraded"], &response.headers()["x-aip-served-by"]),
        (&"true".parse().unwrap(), &"degraded".parse().unwrap())
    );
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], "Service temporarily unavailable");
    assert_eq!((&answer["usage"], &answer["aip"]["served_by"]["degraded"]), (&json!(null), &json!(true)));
    suite.router.signal("KILL").await;
    suite.router.wait().await;
    let streamed = api.send(&with(question("x"), json!({"stream": true}))).await;
    assert_eq!(
        (&streamed.headers()["x-aip-degraded"], &streamed.headers()["x-aip-served-by"]),
        (&"true".parse().unwrap(), &"gateway".parse().unwrap())
    );
    assert_eq!(text(&chunks(&events(streamed).await)), "Service temporarily unavailable");
    let (status, error, _) =
        api.refused(&with(question("x"), json!({"aip": {"allow_degraded": false}}))).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (503, &json!("no_endpoints")));
    let (status, error) = api.get("/v1/models").await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (503, &json!("no_endpoints")));
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_in_an_error_and_is_not_done() {
    let suite = Suite::start().await;
    suite.sim.fault_next("max", json!({"kind": "cut", "after_chunks": 3}), 1).await;
    let response = Api::of(&suite).send(&with(question("x"), json!({"stream": true}))).await;
    assert_eq!(response.status(), 200);
    let events = events(response).await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "stream_interrupted");
    assert!(last["aip"]["metadata"]["delivered_bytes"].is_string(), "{last}");
    assert!(events.len() > 2 && !events.contains(&"[DONE]".to_owned()));
    let metrics = Metrics::scrape(&suite.gateway, "admin").await;
    let labels = ["rpc_method=\"POST /v1/chat/completions\"", "rpc_status_code=\"UNAVAILABLE\""];
    assert_eq!(metrics.sum("rpc_server_call_duration_seconds_count", &labels), Some(1.0));
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_upstream() {
    let suite = Suite::start().await;
    let api = Api::of(&suite);
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 50})).await;
    let mut stream = api.send(&with(question("x"), json!({"stream": true}))).await;
    first_content(&mut stream).await;
    assert_eq!(suite.sim.counter("max", "active").await, 1);
    drop(stream);
    suite.sim.wait_for("max", "client_gone", 1).await;

    suite.sim.fault("max", json!({"kind": "hang"})).await;
    let body = question("x");
    let call = api.send(&body);
    assert!(tokio::time::timeout(Duration::from_millis(200), call).await.is_err(), "it was to be abandoned");
    suite.sim.wait_for("max", "client_gone", 2).await;
    assert_eq!(suite.sim.counter("max", "active").await, 0);
}

#[tokio::test]
async fn a_deadline_is_kept_whoever_names_it() {
    let suite = Options::new().with("CACHE_ENABLED", "false").start().await;
    let api = Api::of(&suite);
    for upstream in ["max", "ollama"] {
        suite.sim.fault(upstream, json!({"kind": "hang"})).await;
    }
    let send = async |header: &str, value: &str, more: Value| {
        let url = format!("{}/v1/chat/completions", api.base);
        let began = Instant::now();
        let request = api.client.post(url).header(header, value).json(&with(question("x"), more));
        let response = request.send().await.unwrap();
        // Far less than what a tier's own timeouts would take.
        assert!(began.elapsed() < Duration::from_secs(4), "{header}: {:?}", began.elapsed());
        response
    };
    for (header, value) in [("x-request-timeout-ms", "900"), ("x-stainless-read-timeout", "0.9")] {
        let response = send(header, value, json!({})).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-aip-degraded"]),
            (200, &"true".parse().unwrap())
        );
    }
    let response = send("x-request-timeout-ms", "500", json!({"aip": {"tier": "max"}})).await;
    assert_eq!(response.status(), 504);
    // A stream's deadline comes in its middle as well.
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 50})).await;
    let url = format!("{}/v1/chat/completions", api.base);
    eventually("a stream whose deadline passes", || async {
        let body = with(question("x"), json!({"stream": true, "aip": {"tier": "max"}}));
        let response =
            api.client.post(&url).header("x-request-timeout-ms", "700").json(&body).send().await.unwrap();
        if response.status() != 200 {
            // The breaker still remembers the hanging.
            return None;
        }
        let last: Value = serde_json::from_str(events(response).await.last().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], "deadline_exceeded");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_gateway_ends_after_its_event_streams_and_idle_connections_hold_nobody() {
    let mut suite = Suite::start().await;
    let idle = tokio::net::TcpStream::connect(suite.gateway.address("http")).await.unwrap();
    let api = Api::of(&suite);
    assert_eq!(api.get("/v1/models").await.0, 200);
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 20})).await;
    let mut stream = api.send(&with(question("a long story"), json!({"stream": true}))).await;
    first_content(&mut stream).await;
    suite.gateway.signal("TERM").await;
    let events = events(stream).await;
    assert_eq!(events.last().unwrap(), "[DONE]");
    assert_eq!(suite.gateway.wait().await.code(), Some(0));
    drop(idle);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_told_so_in_its_stream() {
    let mut suite = Options::new().with("TERMINATION_GRACE_PERIOD_SECONDS", "6").start().await;
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 1000})).await;
    let stream = Api::of(&suite).send(&with(question("x"), json!({"stream": true}))).await;
    suite.gateway.signal("TERM").await;
    let last: Value = serde_json::from_str(events(stream).await.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "shutting_down");
    assert_eq!(suite.gateway.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_request_is_named_and_traced_as_over_grpc() {
    let suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "down"})).await;
    let api = Api::of(&suite);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = api.client.post(format!("{}/v1/chat/completions", api.base)).json(&question("x"));
    let request = request.header("x-request-id", "from-the-client");
    let response =
        request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")).send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "from-the-client");
    assert_eq!(response.headers()["x-aip-attempts"], "max=failure, max=failure, ollama=success");
    let logged = eventually("the router's log line", || async {
        suite.router.logs().into_iter().find(|line| line["message"] == "answered by a fallback")
    })
    .await;
    assert_eq!((&logged["request_id"], &logged["trace_id"]), (&json!("from-the-client"), &json!(trace)));
}

#[tokio::test]
async fn a_frozen_router_does_not_hold_a_request_over_its_deadline() {
    let suite = Suite::start().await;
    let api = Api::of(&suite);
    api.ask(&question("x")).await;
    suite.router.signal("STOP").await;
    let url = format!("{}/v1/chat/completions", api.base);
    let request = api.client.post(url).header("x-stainless-timeout", "1").json(&question("x"));
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["x-aip-served-by"], "gateway");
    suite.router.signal("CONT").await;
}

#[tokio::test]
async fn a_gateway_without_any_router_refuses_or_degrades_at_once() {
    let gateway = start_gateway("http://127.0.0.1:1", &[]).await;
    let url = format!("{}/v1/chat/completions", gateway.url("http"));
    let response = http().post(url).json(&question("x")).send().await.unwrap();
    assert_eq!(response.headers()["x-aip-attempts"], "router=unreachable, gateway=success");
}
