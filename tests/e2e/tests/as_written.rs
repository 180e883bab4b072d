//! The promise: what a client writes for a model reaches it as it was written, and what a model says is told as what it is.

use std::net::SocketAddr;
use std::sync::Arc;

use e2e::http;
use e2e::suite::{Options, Suite};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A model server that says the same to everybody, and keeps what it was asked.
struct Scripted {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Scripted {
    async fn start(content_type: &'static str, answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (mut tasks, kept) = (JoinSet::new(), Arc::clone(&asked));
        let length = answer.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}"
        );
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, answer.clone(), Arc::clone(&kept)));
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    /// A suite with this server in the place of one tier's.
    async fn suite(&self, endpoint: &'static str) -> Suite {
        Options::new().with(endpoint, format!("http://{}", self.address)).start().await
    }

    fn last(&self) -> String {
        self.asked.lock().last().unwrap().clone()
    }
}

async fn serve(socket: TcpStream, answer: String, asked: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(socket);
    let (mut line, mut length) = (String::new(), 0);
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
        let header = line.to_ascii_lowercase();
        length = header.strip_prefix("content-length:").map_or(length, |value| value.trim().parse().unwrap());
        line.clear();
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    // A look at its health brings nothing.
    if length > 0 {
        asked.lock().push(String::from_utf8(body).unwrap());
    }
    drop(stream.write_all(answer.as_bytes()).await);
}

const MAX: &str = "MAX_SERVE_ENDPOINT";
const OLLAMA: &str = "OLLAMA_CPU_ENDPOINT";
const JSON: &str = "application/json";

fn completion(message: &Value) -> String {
    json!({"model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).to_string()
}

async fn post(suite: &Suite, body: String) -> reqwest::Response {
    let url = format!("{}/v1/chat/completions", suite.gateway.url("http"));
    let response = http().post(url).header("content-type", JSON).body(body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

async fn ask(suite: &Suite, body: String) -> Value {
    post(suite, body).await.json().await.unwrap()
}

/// A schema whose order and numbers are lost wherever it is taken apart.
const SCHEMA: &str = r#"{"type":"object","properties":{"reasoning":{"type":"string"},"answer":{"maximum":9007199254740993,"minimum":1.0}}}"#;

#[tokio::test]
async fn schemas_and_what_is_passed_through_reach_the_model_as_they_are() {
    let hello = completion(&json!({"role": "assistant", "content": "hello"}));
    let max = Scripted::start(JSON, &hello).await;
    let answer =
        r#"{"model":"m","message":{"role":"assistant","content":"hi"},"done":true,"done_reason":"stop"}"#;
    let ollama = Scripted::start(JSON, answer).await;
    let body = |model: &str| {
        format!(
            r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "x"}}],
            "tools": [{{"type": "function", "function": {{"name": "f", "parameters": {SCHEMA}}}}}],
            "response_format": {{"type": "json_schema", "json_schema": {{"name": "s", "schema": {SCHEMA}}}}},
            "guided_json": {SCHEMA}}}"#
        )
    };
    ask(&max.suite(MAX).await, body("sim-max")).await;
    for field in ["parameters", "schema", "guided_json"] {
        let sent = max.last();
        assert!(sent.contains(&format!("\"{field}\":{SCHEMA}")), "{field}: {sent}");
    }
    ask(&ollama.suite(OLLAMA).await, body("sim-ollama")).await;
    for field in ["parameters", "format"] {
        let sent = ollama.last();
        assert!(sent.contains(&format!("\"{field}\":{SCHEMA}")), "{field}: {sent}");
    }
}

#[tokio::test]
async fn calls_of_several_turns_are_told_apart_at_ollama() {
    let call = json!({"function": {"name": "f", "arguments": {"x": 1}}});
    let message = json!({"role": "assistant", "content": "", "tool_calls": [call]});
    let answer = json!({"model": "m", "message": message, "done": true, "done_reason": "stop"}).to_string();
    let ollama = Scripted::start(JSON, &answer).await;
    let suite = ollama.suite(OLLAMA).await;
    let mut messages = vec![json!({"role": "user", "content": "x"})];
    let mut ids = Vec::new();
    for function in ["f", "g"] {
        let answer = ask(&suite, json!({"model": "sim-ollama", "messages": messages}).to_string()).await;
        let mut message = answer["choices"][0]["message"].clone();
        message["tool_calls"][0]["function"]["name"] = function.into();
        let id = message["tool_calls"][0]["id"].clone();
        messages.extend([message, json!({"role": "tool", "tool_call_id": id, "content": function})]);
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
    ask(&suite, json!({"model": "sim-ollama", "messages": messages}).to_string()).await;
    let sent: Value = serde_json::from_str(&ollama.last()).unwrap();
    for (place, function) in [(2, "f"), (4, "g")] {
        let result = json!({"role": "tool", "content": function, "tool_name": function});
        assert_eq!(sent["messages"][place], result);
    }
}

#[tokio::test]
async fn a_refusal_is_told_as_one_and_goes_back() {
    let max = Scripted::start(JSON, &completion(&json!({"role": "assistant", "refusal": "no"}))).await;
    let suite = max.suite(MAX).await;
    let question = json!({"role": "user", "content": "x"});
    let asked = json!({"model": "sim-max", "messages": [question]});
    let refused = ask(&suite, asked.to_string()).await["choices"][0]["message"].clone();
    assert_eq!((&refused["content"], &refused["refusal"]), (&json!(null), &json!("no")));
    let again = json!({"model": "sim-max", "messages": [question, refused, question]});
    ask(&suite, again.to_string()).await;
    let sent: Value = serde_json::from_str(&max.last()).unwrap();
    assert_eq!(sent["messages"][1], json!({"role": "assistant", "content": "no"}));
}

#[tokio::test]
async fn a_refusal_is_streamed_as_one() {
    let chunk = |delta: &str, reason: &str| {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{reason}}}]}}\n\n")
    };
    let answer =
        [chunk(r#"{"refusal":"n"}"#, "null"), chunk(r#"{"refusal":"o"}"#, "null"), chunk("{}", "\"stop\"")];
    let max = Scripted::start("text/event-stream", &(answer.concat() + "data: [DONE]\n\n")).await;
    let suite = max.suite(MAX).await;
    let asked = json!({"model": "sim-max", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let events = post(&suite, asked.to_string()).await.text().await.unwrap();
    let events = events.split("\n\n").filter_map(|event| event.strip_prefix("data: {"));
    let deltas = events.map(|event| serde_json::from_str::<Value>(&format!("{{{event}")).unwrap());
    let refusal =
        deltas.filter_map(|chunk| chunk["choices"][0]["delta"]["refusal"].as_str().map(str::to_owned));
    assert_eq!(refusal.collect::<String>(), "no");
}
