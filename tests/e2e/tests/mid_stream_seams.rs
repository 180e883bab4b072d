//! The promise of `mid_stream: continue` at seams that the simulators do not have: upstreams that send exactly these
//! bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use aiplatform_proto::inference::v1::HandoverMode;
use e2e::chat::{Client, Streamed, client, open, question};
use e2e::process::Process;
use e2e::suite::quick;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic_types::StatusExt as _;

/// An upstream that answers its first request with the first of these bodies, and so on; each ends with its connection.
struct Scripted {
    url: String,
    asked: Arc<Mutex<Vec<Value>>>,
    _task: JoinSet<()>,
}

impl Scripted {
    async fn start(bodies: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        let (log, mut bodies) = (Arc::clone(&asked), VecDeque::from(bodies));
        task.spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let Some(request) = read_request(&mut connection).await else { continue };
                log.lock().push(request);
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                let body = bodies.pop_front().unwrap_or_default();
                // A client that has enough is no error.
                drop(connection.write_all(format!("{head}{body}").as_bytes()).await);
            }
        });
        Self { url, asked, _task: task }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().clone()
    }
}

async fn read_request(connection: &mut TcpStream) -> Option<Value> {
    let mut bytes = Vec::new();
    loop {
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut lengths = head
            .lines()
            .filter_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = lengths.next()?;
        if body.len() >= length {
            return serde_json::from_str(body).ok();
        }
    }
}

fn event(delta: &Value, finish: Option<&str>) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))
}

fn text(text: &str) -> String {
    event(&json!({"content": text}), None)
}

/// The end of a whole answer that took so many tokens.
fn end(input: u64, output: u64) -> String {
    let usage = json!({"choices": [], "usage": {"prompt_tokens": input, "completion_tokens": output}});
    format!("{}data: {usage}\n\ndata: [DONE]\n\n", event(&json!({}), Some("stop")))
}

struct Rig {
    first: Scripted,
    next: Scripted,
    _router: Process,
    client: Client,
}

impl Rig {
    async fn start(first: Vec<String>, next: Vec<String>) -> Self {
        let (first, next) = (Scripted::start(first).await, Scripted::start(next).await);
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = format!(
            "tiers:
  first: {{kind: openai, endpoints: ['{}'], model: m}}
  next: {{kind: openai, endpoints: ['{}'], model: m}}
agents: [{{name: a, tiers: [first, next], mid_stream: continue}}]
",
            first.url, next.url
        );
        std::fs::write(file.path(), config).unwrap();
        let mut variables = quick();
        variables.push(("AIP__AGENT_ROUTER__GRPC_LISTEN", "127.0.0.1:0".to_owned()));
        variables.push(("AIP__AGENT_ROUTER__ADMIN_LISTEN", "127.0.0.1:0".to_owned()));
        let path = file.path().to_str().unwrap();
        let router = Process::start("agent-router", &["--config", path], &variables).await;
        let client = client(&router.url("grpc"));
        Self { first, next, _router: router, client }
    }

    async fn stream(&self) -> Streamed {
        Streamed::read(open(&self.client, question("hi")).await.unwrap()).await
    }
}

const SAID: &str = "Once upon a time there was a fox in a wood; ";

#[tokio::test]
async fn a_server_that_says_the_beginning_again_is_found_out() {
    let again =
        format!("{}{}{}", text("Once upon a time "), text(&format!("{}it slept.", &SAID[17..])), end(9, 20));
    let rig = Rig::start(vec![text(SAID)], vec![again]).await;
    let streamed = rig.stream().await;
    assert_eq!(streamed.text, format!("{SAID}it slept."), "{:?}", streamed.error);
    assert_eq!(streamed.handovers[0].mode(), HandoverMode::Regenerated);
    let end = streamed.end.unwrap();
    let usage = end.usage.unwrap();
    assert_eq!((usage.output_tokens, end.usage_estimated), (20, false));
    assert_eq!(rig.next.asked()[0]["messages"][1], json!({"role": "assistant", "content": SAID}));
}

#[tokio::test]
async fn in_the_middle_of_a_tool_call_nobody_goes_on() {
    let call = json!({"index": 0, "id": "c", "function": {"name": "f", "arguments": "{\"x\":"}});
    let begun = format!("{}{}", text(SAID), event(&json!({"tool_calls": [call]}), None));
    let rig = Rig::start(vec![begun], vec![format!("{}{}", text("x"), end(1, 1))]).await;
    let streamed = rig.stream().await;
    assert_eq!(streamed.handovers, []);
    let info = streamed.error.unwrap().get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["tier"].as_str()), ("STREAM_INTERRUPTED", "first"));
    assert_eq!(rig.next.asked().len(), 0);
    assert_eq!(rig.first.asked().len(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_off_while_the_model_reasons_begins_anew() {
    let thought = event(&json!({"reasoning_content": "hm"}), None);
    let whole = format!("{}{}{}", event(&json!({"reasoning": "so"}), None), text("yes"), end(3, 2));
    let rig = Rig::start(vec![thought], vec![whole]).await;
    let streamed = rig.stream().await;
    assert_eq!(streamed.text, "yes", "{:?}", streamed.error);
    assert_eq!(streamed.reasoning, "hmso", "the handover stands between the two");
    assert_eq!(streamed.end.unwrap().usage.unwrap().output_tokens, 2);
    assert_eq!(rig.next.asked()[0]["messages"].as_array().unwrap().len(), 1, "reasoning is not handed over");
}

#[tokio::test]
async fn what_a_backend_counted_before_it_broke_off_is_billed() {
    let counted = json!({"choices": [{"delta": {"content": SAID}}], "usage": {"prompt_tokens": 5, "completion_tokens": 11}});
    let rig = Rig::start(
        vec![format!("data: {counted}\n\n: a malformed event\ndata: {{\n\n")],
        vec![format!("{}{}", text("it slept."), end(16, 3))],
    )
    .await;
    let streamed = rig.stream().await;
    assert_eq!(streamed.text, format!("{SAID}it slept."), "{:?}", streamed.error);
    assert_eq!(streamed.handovers[0].mode(), HandoverMode::Prefix);
    let end = streamed.end.unwrap();
    let usage = end.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (5, 14));
    assert_eq!((end.usage_estimated, end.malformed_events), (false, 1));
}

#[tokio::test]
async fn a_limit_on_the_answer_holds_for_all_hands_together() {
    let rig = Rig::start(
        vec![format!("{}{}", text(SAID), text("and "))],
        vec![format!("{}{}", text("so."), end(1, 1))],
    )
    .await;
    let mut chat = question("hi");
    chat.sampling.get_or_insert_default().max_tokens = Some(10);
    let streamed = Streamed::read(open(&rig.client, chat).await.unwrap()).await;
    assert!(streamed.end.is_some(), "{:?}", streamed.error);
    assert_eq!(
        (rig.first.asked()[0]["max_tokens"].clone(), rig.next.asked()[0]["max_tokens"].clone()),
        (json!(10), json!(8))
    );
}
