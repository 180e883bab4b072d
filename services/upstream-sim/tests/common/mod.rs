//! A simulator on free ports, and a client that shows how an exchange really went.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "each test binary uses a part of it, and a test may end by a panic"
)]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use upstream_sim::{Attempt, Fault, SimConfig, SimHandle, Simulator, UpstreamKind, UpstreamStatus, When};

/// Longest wait for what must happen at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Silence that is taken for a stall.
const QUIET: Duration = Duration::from_millis(200);

pub struct Sim {
    pub max: SocketAddr,
    pub ollama: SocketAddr,
    pub control: SocketAddr,
    pub handle: SimHandle,
    pub shutdown: CancellationToken,
    pub tasks: TaskTracker,
    _stop: DropGuard,
}

impl Sim {
    pub async fn start() -> Self {
        Self::with(SimConfig::ephemeral()).await
    }

    pub async fn with(config: SimConfig) -> Self {
        let simulator = Simulator::bind(config).await.expect("free ports");
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (max, ollama, control) =
            (simulator.max_addr(), simulator.ollama_addr(), simulator.control_addr());
        let handle = simulator.handle();
        tasks.spawn(simulator.run(shutdown.clone()));
        let stop = shutdown.clone().drop_guard();
        Self { max, ollama, control, handle, shutdown, tasks, _stop: stop }
    }

    pub fn addr(&self, kind: UpstreamKind) -> SocketAddr {
        match kind {
            UpstreamKind::Max => self.max,
            UpstreamKind::Ollama => self.ollama,
        }
    }

    pub fn fault(&self, kind: UpstreamKind, fault: Fault) {
        self.handle.set_fault(kind, fault, When::Always).expect("a good fault");
    }

    /// Asks for a chat, streamed or not, and returns once the headers are there.
    pub async fn chat(&self, kind: UpstreamKind, stream: bool) -> Response<Incoming> {
        self.try_chat(kind, stream).await.expect("headers")
    }

    pub async fn try_chat(
        &self,
        kind: UpstreamKind,
        stream: bool,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.post(kind, &chat_body(kind, stream)).await
    }

    pub async fn post(&self, kind: UpstreamKind, body: &Value) -> Result<Response<Incoming>, hyper::Error> {
        let request = json_request(Method::POST, chat_path(kind), body);
        self.send(self.addr(kind), request).await
    }

    pub async fn get(&self, addr: SocketAddr, path: &str) -> Reply {
        Reply::read(self.send(addr, empty_request(Method::GET, path)).await.expect("headers")).await
    }

    pub async fn send(
        &self,
        addr: SocketAddr,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn(connection);
        timeout(PATIENCE, sender.send_request(request)).await.expect("in time")
    }

    pub async fn send_h2(
        &self,
        addr: SocketAddr,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let stream = TcpStream::connect(addr).await.expect("a connection");
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        self.tasks.spawn(connection);
        timeout(PATIENCE, sender.send_request(request)).await.expect("in time")
    }

    /// The only attempt that an upstream saw, once it has ended.
    pub async fn only_attempt(&self, kind: UpstreamKind) -> Attempt {
        let ended = |status: &UpstreamStatus| status.counters.active == 0;
        let waited = timeout(PATIENCE, self.handle.wait_until(kind, ended)).await;
        waited.expect("the attempt ends");
        let mut attempts = self.handle.attempts(kind);
        assert_eq!(attempts.len(), 1, "{attempts:?}");
        attempts.remove(0)
    }

    /// Waits until an upstream has so many chats under way.
    pub async fn until_active(&self, kind: UpstreamKind, active: u64) {
        let reached = |status: &UpstreamStatus| status.counters.active == active;
        timeout(PATIENCE, self.handle.wait_until(kind, reached)).await.expect("reached");
    }
}

pub fn chat_path(kind: UpstreamKind) -> &'static str {
    match kind {
        UpstreamKind::Max => "/v1/chat/completions",
        UpstreamKind::Ollama => "/api/chat",
    }
}

pub fn model(kind: UpstreamKind) -> &'static str {
    match kind {
        UpstreamKind::Max => "sim-max",
        UpstreamKind::Ollama => "sim-ollama",
    }
}

pub fn chat_body(kind: UpstreamKind, stream: bool) -> Value {
    json!({
        "model": model(kind),
        "messages": [{"role": "user", "content": "Tell me about fjords"}],
        "stream": stream,
    })
}

pub fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

/// The chat with an assistant prefix after the question.
pub fn with_prefix(mut body: Value, prefix: &str) -> Value {
    let messages = body["messages"].as_array_mut().expect("messages");
    messages.push(json!({"role": "assistant", "content": prefix}));
    body
}

pub fn json_request(method: Method, path: &str, body: &Value) -> Request<Full<Bytes>> {
    text_request(method, path, body.to_string())
}

pub fn text_request(method: Method, path: &str, body: String) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "sim")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body))
        .expect("a request")
}

pub fn empty_request(method: Method, path: &str) -> Request<Full<Bytes>> {
    text_request(method, path, String::new())
}

/// How a body ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Whole,
    Broken,
    Silent,
}

/// A response that was read as far as it goes.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub ended: Ended,
    /// When each part came, counted from the headers.
    pub times: Vec<Duration>,
}

impl Reply {
    pub async fn read(response: Response<Incoming>) -> Self {
        Self::read_with(response, PATIENCE).await
    }

    /// Reads until the body ends or falls silent.
    pub async fn read_until_quiet(response: Response<Incoming>) -> Self {
        Self::read_with(response, QUIET).await
    }

    async fn read_with(response: Response<Incoming>, quiet: Duration) -> Self {
        let start = Instant::now();
        let (parts, mut incoming) = response.into_parts();
        let (mut body, mut times) = (Vec::new(), Vec::new());
        let ended = loop {
            match timeout(quiet, incoming.frame()).await {
                Err(_) => break Ended::Silent,
                Ok(None) => break Ended::Whole,
                Ok(Some(Err(_))) => break Ended::Broken,
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        times.push(start.elapsed());
                        body.extend_from_slice(&data);
                    }
                }
            }
        };
        Self { status: parts.status, headers: parts.headers, body, ended, times }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// The events of a stream: SSE data or lines of NDJSON, whichever it is.
    pub fn events(&self) -> Vec<&str> {
        if self.header("content-type").starts_with("text/event-stream") {
            let events = self.text().split_terminator("\n\n");
            events.map(|event| event.strip_prefix("data: ").expect("an event with data")).collect()
        } else {
            self.text().split_terminator('\n').collect()
        }
    }

    /// The events that are JSON.
    pub fn json_events(&self) -> Vec<Value> {
        self.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect()
    }

    /// The content of a whole or streamed answer of either protocol.
    pub fn content(&self) -> String {
        let streamed = self.header("content-type").starts_with("text/event-stream")
            || self.header("content-type").starts_with("application/x-ndjson");
        let bodies = if streamed { self.json_events() } else { vec![self.json()] };
        bodies.iter().map(content_of).collect()
    }

    /// How many events hold content.
    pub fn content_events(&self) -> usize {
        self.json_events().iter().filter(|event| !content_of(event).is_empty()).count()
    }

    pub fn is_done(&self) -> bool {
        self.events().last().is_some_and(|last| {
            *last == "[DONE]" || serde_json::from_str(last).is_ok_and(|event: Value| event["done"] == true)
        })
    }

    pub fn error_message(&self) -> String {
        error_message(&self.json())
    }
}

pub fn error_message(body: &Value) -> String {
    let error = &body["error"];
    let message = error.as_str().or_else(|| error["message"].as_str());
    message.unwrap_or_else(|| panic!("no error: {body}")).to_owned()
}

fn content_of(body: &Value) -> &str {
    let choice = &body["choices"][0];
    let places = [&choice["delta"], &choice["message"], &body["message"]];
    places.iter().find_map(|place| place["content"].as_str()).unwrap_or_default()
}
