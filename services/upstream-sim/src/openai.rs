//! MAX Serve's side: OpenAI's chat completions as MAX Serve writes them.

mod tool_call;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::answer::{Finish, Message};
use crate::body::ScriptBody;
use crate::config::DEFAULT_MAX_MODEL;
use crate::protocol::{
    AnswerHead, Asked, ChatCall, Ending, ErrorReply, Events, Protocol, message_of, respond,
};
use crate::upstream::Upstream;

const JSON: &str = "application/json";

#[derive(Debug)]
pub(crate) struct OpenAi;

impl Protocol for OpenAi {
    fn chat_path(&self) -> &'static str {
        "/v1/chat/completions"
    }

    fn stream_content_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }

    fn unary_content_type(&self) -> &'static str {
        JSON
    }

    fn read_chat(&self, upstream: &Upstream, body: &[u8]) -> Asked {
        match read_chat(upstream.models(), body) {
            Ok(call) => Asked::Chat(call),
            Err(refusal) => Asked::Refused(ErrorReply::new(400, refusal)),
        }
    }

    fn write_stream(&self, head: &AnswerHead, tokens: &[String], ending: Ending) -> Events {
        let finish = ending.finish_reason.then(|| finish(head));
        // A limit is reached by a token, so that token's chunk says so; the model's own stop is a
        // token without text and has a chunk of its own.
        let finish_with_content = head.finish == Finish::Length;
        let last = tokens.len().saturating_sub(1);
        let reason = |index: usize| finish.filter(|_| finish_with_content && index == last);
        let content = match &head.tool {
            None => {
                let write = |(index, token): (usize, &String)| event(&chunk(head, token, reason(index)));
                tokens.iter().enumerate().map(write).collect()
            }
            Some(tool) => {
                let pieces = tool_call::pieces(head, tool, tokens);
                let write = |(index, piece): (usize, Value)| {
                    let mut chunk = chunk(head, "", reason(index));
                    chunk["choices"][0]["delta"] = json!({"role": "assistant", "tool_calls": piece});
                    event(&chunk)
                };
                pieces.into_iter().enumerate().map(write).collect()
            }
        };
        let mut tail = Vec::new();
        if let Some(reason) = finish
            && (!finish_with_content || tokens.is_empty())
        {
            tail.push(event(&chunk(head, "", Some(reason))));
        }
        if head.include_usage && ending.finish_reason {
            tail.push(event(&usage_chunk(head)));
        }
        if ending.done {
            tail.push(Bytes::from_static(b"data: [DONE]\n\n"));
        }
        Events { content, tail }
    }

    fn write_unary(&self, head: &AnswerHead, text: &str, ending: Ending) -> Bytes {
        let finish = ending.finish_reason.then(|| finish(head));
        let tool_calls = head.tool.as_ref().map(|tool| tool_call::whole(head, tool, text));
        let body = json!({
            "id": head.id,
            "object": "chat.completion",
            "created": head.unix_seconds(),
            "model": head.model,
            "choices": [{
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": tool_calls.is_none().then_some(text),
                    "refusal": null,
                    "tool_calls": tool_calls,
                    "function_call": null,
                },
                "logprobs": {"content": [], "refusal": []},
                "finish_reason": finish,
            }],
            "usage": usage(head),
            "system_fingerprint": null,
            "service_tier": null,
        });
        Bytes::from(body.to_string())
    }

    fn write_error(&self, error: &ErrorReply) -> Bytes {
        Bytes::from(error_json(error).to_string())
    }

    fn write_error_event(&self, message: &str) -> Bytes {
        let error = json!({
            "error": {"code": "500", "message": message, "param": "", "type": ""},
        });
        event(&error)
    }

    fn malformed_event(&self) -> Bytes {
        Bytes::from_static(b"data: {\"id\":\"broken\",\"choices\":[{\"delta\":{\"content\":\n\n")
    }

    fn usual_message(&self, status: u16) -> String {
        match status {
            429 => "Server is at capacity. Please retry later.".to_owned(),
            500 => "Model worker is not responding.".to_owned(),
            status => reason(status),
        }
    }

    fn context_length(&self) -> ErrorReply {
        let message = "Prompt is too long: 1204 tokens exceeds the configured maximum context length of 512 tokens. \
                       Please shorten your prompt.";
        ErrorReply::new(400, message)
    }

    fn content_policy(&self) -> ErrorReply {
        ErrorReply {
            code: Some("content_policy_violation"),
            ..ErrorReply::new(400, "The request was rejected by the content policy.")
        }
    }

    fn model_not_found(&self, model: &str) -> ErrorReply {
        ErrorReply::new(404, format!("The model `{model}` does not exist."))
    }

    fn prefix_refused(&self) -> ErrorReply {
        ErrorReply::new(400, "The last message must not have the role `assistant`.")
    }

    fn other(&self, upstream: &Upstream, method: &Method, path: &str) -> Response<ScriptBody> {
        let known = ["/health", "/version", "/v1/models", "/v1/chat/completions"];
        let model = path.strip_prefix("/v1/models/");
        if !known.contains(&path) && model.is_none() {
            return error(404, "Not Found");
        }
        if !(*method == Method::GET || *method == Method::HEAD) || path == self.chat_path() {
            return error(405, "Method Not Allowed");
        }
        match (path, model) {
            ("/health", _) => Response::new(ScriptBody::full(Bytes::new())),
            ("/version", _) => {
                let version = json!({"version": concat!("sim-", env!("CARGO_PKG_VERSION"))});
                respond(StatusCode::OK, JSON, version.to_string())
            }
            (_, Some(model)) if upstream.models().iter().any(|served| served == model) => {
                respond(StatusCode::OK, JSON, model_json(model).to_string())
            }
            (_, Some(_)) => error(404, "Not Found"),
            (_, None) => {
                let models: Vec<Value> = upstream.models().iter().map(|model| model_json(model)).collect();
                let list = json!({"object": "list", "data": models});
                respond(StatusCode::OK, JSON, list.to_string())
            }
        }
    }
}

fn finish(head: &AnswerHead) -> &'static str {
    match (&head.tool, head.finish) {
        (Some(_), Finish::Stop) => "tool_calls",
        (_, finish) => finish.as_str(),
    }
}

fn event(body: &Value) -> Bytes {
    Bytes::from(format!("data: {body}\n\n"))
}

fn chunk(head: &AnswerHead, content: &str, finish: Option<&str>) -> Value {
    let mut choice = json!({"index": 0, "delta": {"role": "assistant", "content": content}});
    if let Some(finish) = finish {
        choice["finish_reason"] = Value::from(finish);
    }
    json!({
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.unix_seconds(),
        "model": head.model,
        "choices": [choice],
    })
}

fn usage_chunk(head: &AnswerHead) -> Value {
    json!({
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.unix_seconds(),
        "model": head.model,
        "choices": [],
        "usage": usage(head),
        "system_fingerprint": null,
        "service_tier": null,
    })
}

fn usage(head: &AnswerHead) -> Value {
    json!({
        "prompt_tokens": head.prompt_tokens,
        "completion_tokens": head.completion_tokens,
        "total_tokens": head.prompt_tokens + head.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    })
}

fn model_json(model: &str) -> Value {
    json!({"id": model, "object": "model", "created": 0, "owned_by": ""})
}

fn error_json(error: &ErrorReply) -> Value {
    let code = error.code.map_or_else(|| error.status.to_string(), str::to_owned);
    let kind = match error.status {
        400 | 422 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        409 => "conflict_error",
        429 => "rate_limit_error",
        status if status < 500 => "invalid_request_error",
        _ => "api_error",
    };
    json!({"error": {"code": code, "message": error.message, "param": "", "type": kind}})
}

fn error(status: u16, message: &str) -> Response<ScriptBody> {
    let body = error_json(&ErrorReply::new(status, message)).to_string();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, JSON, body)
}

fn reason(status: u16) -> String {
    let known = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    known.map_or_else(|| format!("Error {status}"), str::to_owned)
}

fn invalid(field: &str, rule: &str) -> String {
    format!("1 validation error for CreateChatCompletionRequest\n{field}\n  {rule}")
}

fn read_chat(models: &[String], body: &[u8]) -> Result<ChatCall, String> {
    let body: Value = serde_json::from_slice(body).map_err(|_| "Missing JSON.".to_owned())?;
    let Value::Object(body) = body else { return Err("Invalid JSON.".to_owned()) };
    let messages = messages(&body)?;
    let max_tokens = match positive(&body, "max_tokens")? {
        None => positive(&body, "max_completion_tokens")?,
        some => some,
    };
    let stream = boolean(&body, "stream")?;
    let include_usage = stream
        && match body.get("stream_options") {
            Some(Value::Object(options)) => boolean(options, "include_usage")?,
            _ => false,
        };
    let model = match body.get("model") {
        Some(Value::String(model)) if !model.is_empty() => model.clone(),
        // An empty name means the model that the server was started with.
        Some(Value::String(_)) => models.first().map_or_else(|| DEFAULT_MAX_MODEL.to_owned(), Clone::clone),
        Some(_) => return Err(invalid("model", "Input should be a valid string")),
        None => return Err(invalid("model", "Field required")),
    };
    if !models.is_empty() && !models.contains(&model) {
        return Err("Value error.".to_owned());
    }
    let seed = body.get("seed").and_then(Value::as_i64);
    let tool = tool_call::demanded(&body);
    Ok(ChatCall { model, messages, stream, max_tokens, include_usage, seed, tool })
}

fn messages(body: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let messages = match body.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(Value::Array(_)) => {
            return Err(invalid("messages", "List should have at least 1 item after validation"));
        }
        Some(_) => return Err(invalid("messages", "Input should be a valid list")),
        None => return Err(invalid("messages", "Field required")),
    };
    let read = |(index, message): (usize, &Value)| {
        let Value::Object(message) = message else {
            return Err(invalid(&format!("messages.{index}"), "Input should be an object"));
        };
        message_of(message)
            .map_err(|field| invalid(&format!("messages.{index}.{field}"), "Input is not valid"))
    };
    messages.iter().enumerate().map(read).collect()
}

fn positive(body: &Map<String, Value>, field: &str) -> Result<Option<usize>, String> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_u64().filter(|number| *number > 0);
            let number = number.and_then(|number| usize::try_from(number).ok());
            number.map(Some).ok_or_else(|| invalid(field, "Input should be greater than 0"))
        }
    }
}

fn boolean(body: &Map<String, Value>, field: &str) -> Result<bool, String> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(invalid(field, "Input should be a valid boolean")),
    }
}
