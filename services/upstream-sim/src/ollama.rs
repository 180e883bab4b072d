//! Ollama's side: `/api/chat` and its neighbours as Ollama writes them.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::answer::Finish;
use crate::body::ScriptBody;
use crate::protocol::{
    AnswerHead, Asked, ChatCall, Ending, ErrorReply, Events, Protocol, message_of, respond,
};
use crate::rng::TextHash;
use crate::upstream::Upstream;

const JSON: &str = "application/json; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What the simulated server says that it takes to load a model, to find it loaded, to read a
/// token of the prompt, and to write one when no pace is set.
const COLD_LOAD: Duration = Duration::from_millis(50);
const WARM_LOAD: Duration = Duration::from_millis(1);
const PROMPT_TOKEN: Duration = Duration::from_micros(100);
const FASTEST_TOKEN: Duration = Duration::from_micros(50);

#[derive(Debug)]
pub(crate) struct Ollama;

impl Protocol for Ollama {
    fn chat_path(&self) -> &'static str {
        "/api/chat"
    }

    fn stream_content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn unary_content_type(&self) -> &'static str {
        JSON
    }

    fn read_chat(&self, upstream: &Upstream, body: &[u8]) -> Asked {
        read_chat(upstream, body).unwrap_or_else(Asked::Refused)
    }

    fn write_stream(&self, head: &AnswerHead, tokens: &[String], ending: Ending) -> Events {
        let mut created = head.created;
        let content = tokens
            .iter()
            .map(|token| {
                created += head.pace;
                line(&message(&head.model, created, token, false))
            })
            .collect();
        let tail = if ending.done {
            let mut last = message(&head.model, created, "", true);
            complete(&mut last, head);
            vec![line(&last)]
        } else {
            Vec::new()
        };
        Events { content, tail }
    }

    fn write_unary(&self, head: &AnswerHead, text: &str, ending: Ending) -> Bytes {
        let mut body = message(&head.model, head.created, text, ending.done);
        if ending.done {
            complete(&mut body, head);
        }
        Bytes::from(body.to_string())
    }

    fn write_error(&self, error: &ErrorReply) -> Bytes {
        Bytes::from(json!({"error": error.message}).to_string())
    }

    fn write_error_event(&self, message: &str) -> Bytes {
        line(&json!({"error": message}))
    }

    fn malformed_event(&self) -> Bytes {
        Bytes::from_static(b"{\"model\":\"broken\",\"message\":{\"role\":\"assistant\",\n")
    }

    fn usual_message(&self, status: u16) -> String {
        match status {
            499 => "request canceled".to_owned(),
            500 => "llama runner process has terminated: exit status 2".to_owned(),
            503 => "server busy, please try again.  maximum pending requests exceeded".to_owned(),
            status => {
                let known = StatusCode::from_u16(status).ok();
                let known = known.and_then(|status| status.canonical_reason());
                known.map_or_else(|| format!("error {status}"), str::to_lowercase)
            }
        }
    }

    fn context_length(&self) -> ErrorReply {
        ErrorReply::new(400, "the input length exceeds the context length")
    }

    fn content_policy(&self) -> ErrorReply {
        ErrorReply::new(400, "the request was rejected by the content policy")
    }

    fn model_not_found(&self, model: &str) -> ErrorReply {
        ErrorReply::new(404, format!("model '{model}' not found"))
    }

    fn prefix_refused(&self) -> ErrorReply {
        ErrorReply::new(400, "the last message must not have the role assistant")
    }

    fn other(&self, upstream: &Upstream, method: &Method, path: &str) -> Response<ScriptBody> {
        let json = |body: Value| respond(StatusCode::OK, JSON, body.to_string());
        if !(*method == Method::GET || *method == Method::HEAD) {
            return respond(StatusCode::NOT_FOUND, PLAIN, "404 page not found");
        }
        match path {
            "/" => respond(StatusCode::OK, PLAIN, "Ollama is running"),
            "/api/version" => json(json!({"version": concat!(env!("CARGO_PKG_VERSION"), "-sim")})),
            "/api/tags" => {
                let models: Vec<Value> = upstream.models().iter().map(|model| installed(model)).collect();
                json(json!({"models": models}))
            }
            "/api/ps" => {
                let models: Vec<Value> = upstream.loaded().iter().map(|model| loaded(model)).collect();
                json(json!({"models": models}))
            }
            _ => respond(StatusCode::NOT_FOUND, PLAIN, "404 page not found"),
        }
    }
}

fn line(body: &Value) -> Bytes {
    Bytes::from(format!("{body}\n"))
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

fn message(model: &str, created: SystemTime, text: &str, done: bool) -> Value {
    json!({
        "model": model,
        "created_at": timestamp(created),
        "message": {"role": "assistant", "content": text},
        "done": done,
    })
}

fn complete(body: &mut Value, head: &AnswerHead) {
    let times = |count: usize, each: Duration| each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let load = if head.cold { COLD_LOAD } else { WARM_LOAD };
    let prompt = times(head.prompt_tokens, PROMPT_TOKEN);
    let eval = times(head.completion_tokens, head.pace.max(FASTEST_TOKEN));
    body["done_reason"] = Value::from(match head.finish {
        Finish::Abort => "unload",
        Finish::Stop | Finish::Length => head.finish.as_str(),
    });
    body["total_duration"] = Value::from(nanos(load + prompt + eval));
    body["load_duration"] = Value::from(nanos(load));
    body["prompt_eval_count"] = Value::from(head.prompt_tokens);
    body["prompt_eval_duration"] = Value::from(nanos(prompt));
    body["eval_count"] = Value::from(head.completion_tokens);
    body["eval_duration"] = Value::from(nanos(eval));
}

/// A name without the tag that Ollama adds when there is none.
fn bare(model: &str) -> &str {
    model.strip_suffix(":latest").unwrap_or(model)
}

fn tagged(model: &str) -> String {
    if model.contains(':') { model.to_owned() } else { format!("{model}:latest") }
}

fn details() -> Value {
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": "sim",
        "families": ["sim"],
        "parameter_size": "1M",
        "quantization_level": "F16",
    })
}

fn digest(model: &str) -> String {
    let mut hash = TextHash::new(0).text(bare(model));
    let words = (0..4_u64).map(|index| {
        hash = hash.number(index);
        format!("{:016x}", hash.finish())
    });
    words.collect()
}

fn installed(model: &str) -> Value {
    json!({
        "name": tagged(model),
        "model": tagged(model),
        "modified_at": timestamp(SystemTime::UNIX_EPOCH),
        "size": 1_000_000,
        "digest": digest(model),
        "details": details(),
    })
}

fn loaded(model: &str) -> Value {
    // Five minutes are Ollama's own default for keep_alive.
    let expires = SystemTime::now() + Duration::from_secs(300);
    json!({
        "name": tagged(model),
        "model": tagged(model),
        "size": 1_000_000,
        "size_vram": 0,
        "digest": digest(model),
        "details": details(),
        "expires_at": timestamp(expires),
        "context_length": 4096,
    })
}

fn refuse(status: u16, message: impl Into<String>) -> ErrorReply {
    ErrorReply::new(status, message)
}

fn read_chat(upstream: &Upstream, body: &[u8]) -> Result<Asked, ErrorReply> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(refuse(400, "missing request body"));
    }
    let body: Value = serde_json::from_slice(body).map_err(|error| refuse(400, error.to_string()))?;
    let mistyped = |field: &str, wanted: &str| {
        refuse(
            400,
            format!("json: cannot unmarshal into Go struct field ChatRequest.{field} of type {wanted}"),
        )
    };
    let Value::Object(body) = body else {
        return Err(refuse(400, "json: cannot unmarshal into Go value of type api.ChatRequest"));
    };
    let model = match body.get("model") {
        None | Some(Value::Null) => "",
        Some(Value::String(model)) => model.as_str(),
        Some(_) => return Err(mistyped("model", "string")),
    };
    let stream = match body.get("stream") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(stream)) => *stream,
        Some(_) => return Err(mistyped("stream", "bool")),
    };
    let messages = match body.get("messages") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(messages)) => messages
            .iter()
            .map(|message| {
                let message = message.as_object();
                let message = message.ok_or_else(|| mistyped("messages", "api.Message"))?;
                message_of(message).map_err(|field| mistyped(&format!("messages.{field}"), "string"))
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(mistyped("messages", "[]api.Message")),
    };
    let options = match body.get("options") {
        None | Some(Value::Null) => None,
        Some(Value::Object(options)) => Some(options),
        Some(_) => return Err(mistyped("options", "map[string]interface {}")),
    };
    if model.is_empty() {
        return Err(refuse(400, "model is required"));
    }
    let served = upstream.models();
    if !served.is_empty() && !served.iter().any(|name| bare(name) == bare(model)) {
        return Err(refuse(404, format!("model '{model}' not found")));
    }
    if messages.is_empty() {
        return Ok(preload(upstream, model, body.get("keep_alive")));
    }
    let option = |name: &str| options.and_then(|options| options.get(name)).and_then(Value::as_i64);
    // Ollama takes zero and the negative numbers as no limit.
    let max_tokens =
        option("num_predict").and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    Ok(Asked::Chat(ChatCall {
        model: model.to_owned(),
        messages,
        stream,
        max_tokens,
        include_usage: true,
        seed: option("seed"),
        tool: None,
    }))
}

/// A request without messages loads the model, or unloads it when it is not to be kept.
fn preload(upstream: &Upstream, model: &str, keep_alive: Option<&Value>) -> Asked {
    let unload = match keep_alive {
        Some(Value::Number(number)) => number.as_f64() == Some(0.0),
        Some(Value::String(text)) => text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic()) == "0",
        _ => false,
    };
    let mut body = message(model, SystemTime::now(), "", true);
    body["done_reason"] = Value::from(if unload { "unload" } else { "load" });
    let body = Bytes::from(body.to_string());
    if unload {
        upstream.unload(bare(model));
        Asked::Reply(body)
    } else {
        Asked::Load(bare(model).to_owned(), body)
    }
}

/// What is said to `/api/generate`, of which nothing is simulated but the loading of a model: by a request without a prompt.
pub(crate) async fn generate(upstream: &Upstream, body: &[u8]) -> Response<ScriptBody> {
    let error = |error: &ErrorReply| {
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        respond(status, JSON, json!({"error": error.message}).to_string())
    };
    let asked = match serde_json::from_slice::<Value>(body) {
        Ok(body) if !body["prompt"].as_str().unwrap_or_default().is_empty() => {
            Err(refuse(501, "only the loading of a model is simulated"))
        }
        // Without a prompt it is a chat without messages.
        Ok(body) => {
            let load = json!({"model": body["model"], "keep_alive": body["keep_alive"]});
            read_chat(upstream, load.to_string().as_bytes())
        }
        Err(invalid) => Err(refuse(400, invalid.to_string())),
    };
    match asked {
        Ok(Asked::Load(model, body)) => {
            upstream.loading(&model).await;
            upstream.load(&model);
            respond(StatusCode::OK, JSON, body)
        }
        Ok(Asked::Reply(body)) => respond(StatusCode::OK, JSON, body),
        Ok(Asked::Refused(refusal)) | Err(refusal) => error(&refusal),
        Ok(Asked::Chat(_)) => error(&refuse(500, "a chat was read")),
    }
}

/// Waits until the model of a chat is loaded.
pub(crate) async fn loading_for_chat(upstream: &Upstream, model: &str) {
    upstream.loading(bare(model)).await;
}

/// Notes that a chat loads its model, and says whether it was cold.
pub(crate) fn load_for_chat(upstream: &Upstream, model: &str) -> bool {
    upstream.load(bare(model))
}
