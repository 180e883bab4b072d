//! The promise: what people ask and what models answer is in no log, whatever goes wrong and however much is logged.

use std::time::Duration;

use aiplatform_proto::inference::v1::{
    CacheMode, ChatRequest, ContentPart, Message, Role, StreamChatRequest, Tool, ToolCall, content_part,
};
use e2e::chat::{Client, Streamed, question, text, user};
use e2e::http;
use e2e::suite::Options;
use serde_json::{Value, json};
use tonic::Request;

/// Stands in every place of a request that a person may fill. The simulated models repeat what they are asked.
const MARKER: &str = "lighthouse";

fn telling() -> ChatRequest {
    let part = |part| ContentPart { part: Some(part) };
    let call = ToolCall { id: "1".into(), name: "f".into(), arguments: format!(r#"{{"x":"{MARKER}"}}"#) };
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(MARKER.into())) };
    let mut asks = user(&format!("the secret of the {MARKER}"));
    asks.content.push(part(content_part::Part::ImageUrl(format!("data:image/png;base64,{MARKER}"))));
    ChatRequest {
        messages: vec![
            Message { role: Role::System.into(), ..user(MARKER) },
            asks,
            Message { role: Role::Assistant.into(), tool_calls: vec![call], ..user(MARKER) },
            Message { role: Role::Tool.into(), tool_call_id: "1".into(), ..user(MARKER) },
            user(&format!("again: the {MARKER}")),
        ],
        tools: vec![Tool { name: "f".into(), description: MARKER.into(), ..Tool::default() }],
        extra_body: Some(prost_types::Struct { fields: [("user".to_owned(), value)].into() }),
        ..ChatRequest::default()
    }
}

/// Every way in which an upstream can fail, those first that quote what they were asked.
fn faults() -> Vec<Value> {
    let quoted = format!("cannot answer: the secret of the {MARKER}");
    let mut faults: Vec<Value> = [400, 401, 404, 413, 422, 429, 500, 502, 503, 504, 529]
        .into_iter()
        .map(|status| json!({"kind": "status", "status": status, "message": quoted}))
        .collect();
    faults.push(json!({"kind": "error_event", "message": quoted}));
    let kinds = [
        "down",
        "reset",
        "hang",
        "no_first_token",
        "stall",
        "cut",
        "no_done",
        "aborted",
        "malformed_event",
        "context_length",
        "content_policy",
        "model_not_found",
        "wrong_content_type",
        "malformed_body",
    ];
    faults.extend(kinds.map(|kind| json!({"kind": kind})));
    faults.push(json!({"kind": "oversize", "bytes": 5_000_000}));
    faults
}

/// Long enough for every fault, and an end to those that have none.
const PATIENCE: Duration = Duration::from_secs(2);

async fn ask(client: &Client, chat: &ChatRequest) {
    let mut request = Request::new(chat.clone());
    request.set_timeout(PATIENCE);
    drop(client.clone().chat(request).await);
}

/// Asks both ways, and lets come what may.
async fn ask_both_ways(client: &Client, chat: &ChatRequest) {
    ask(client, chat).await;
    let mut request = Request::new(StreamChatRequest { chat: Some(chat.clone()) });
    request.set_timeout(PATIENCE);
    if let Ok(stream) = client.clone().stream_chat(request).await {
        Streamed::read(stream.into_inner()).await;
    }
}

/// The same over HTTP, as it should be and in every way in which it cannot be read.
async fn ask_over_http(url: &str) {
    let url = format!("{url}/v1/chat/completions");
    let chat = json!({
        "messages": [{"role": "user", "content": format!("the secret of the {MARKER}")}],
        "tools": [{"type": "function", "function": {"name": "f", "description": MARKER}}],
        "logit_bias": {MARKER: 1},
    });
    let with = |field: &str, value: Value| {
        let mut changed = chat.clone();
        changed[field] = value;
        changed.to_string()
    };
    let bodies = [
        chat.to_string(),
        with("stream", json!(true)),
        with("temperature", json!(MARKER)),
        with("messages", json!([{"role": MARKER}])),
        with("messages", json!([{"role": "user", "content": "x", MARKER: MARKER}])),
        with("aip", json!({"tier": "max", MARKER: MARKER})),
        with("n", json!(MARKER)),
        format!("{{\"messages\": {MARKER}}}"),
        MARKER.repeat(200_000),
    ];
    for body in bodies {
        let request = http().post(&url).header("content-type", "application/json").body(body);
        // Whatever comes of it.
        if let Ok(response) = request.timeout(PATIENCE).send().await {
            drop(response.bytes().await);
        }
    }
}

#[tokio::test]
async fn prompts_and_answers_are_in_no_log_whatever_goes_wrong() {
    let mut suite = Options::new()
        .redis()
        .with("AIP__TELEMETRY__LOG_LEVEL", "trace")
        // Each fault is to be met, and soon.
        .with("CIRCUIT_BREAKER_ENABLED", "false")
        .with("AIP__TIERS__MAX__TIMEOUT", "200ms")
        .with("AIP__TIERS__MAX__FIRST_TOKEN_TIMEOUT", "200ms")
        .with("AIP__TIERS__MAX__IDLE_TIMEOUT", "200ms")
        .start()
        .await;
    let client = suite.client();
    let chat = telling();
    // Success first, so that there is an earlier answer too.
    let answer = client.clone().chat(chat.clone()).await.unwrap().into_inner();
    assert!(text(&answer).contains(MARKER), "the marker is in the answer: {answer:?}");
    ask_both_ways(&client, &chat).await;
    ask_both_ways(&client, &ChatRequest { cache: CacheMode::Only.into(), ..chat.clone() }).await;
    for fault in faults() {
        suite.sim.fault("max", fault).await;
        ask_both_ways(&client, &chat).await;
        ask(&client, &ChatRequest { tier: "max".into(), ..chat.clone() }).await;
    }
    // What the door refuses.
    let refused = ChatRequest {
        extra_body: Some(prost_types::Struct {
            fields: [("model".to_owned(), prost_types::Value::default())].into(),
        }),
        ..chat.clone()
    };
    ask_both_ways(&client, &refused).await;
    ask_both_ways(&client, &question(&MARKER.repeat(200_000))).await;
    let port = suite.gateway.url("http");
    ask_over_http(&port).await;
    suite.sim.heal("max").await;
    ask_over_http(&port).await;
    suite.router.signal("STOP").await;
    ask_both_ways(&client, &chat).await;
    suite.router.signal("CONT").await;

    for process in [&mut suite.gateway, &mut suite.router] {
        // When it has ended, all that it logged has been read.
        process.signal("TERM").await;
        assert_eq!(process.wait().await.code(), Some(0));
        let log = process.output();
        assert!(log.contains("TRACE"), "it is logged at trace level");
        let telling = log.lines().find(|line| line.contains(MARKER));
        assert_eq!(telling, None);
    }
}
