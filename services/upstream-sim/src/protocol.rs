//! What the two protocols have in common: a chat read into one form, an answer written in theirs.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use serde_json::{Map, Value};

use crate::answer::{Finish, Message};
use crate::body::ScriptBody;
use crate::upstream::{Upstream, UpstreamKind};
use crate::{ollama, openai};

/// A well-formed request for a chat with a model that is served.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatCall {
    pub(crate) model: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) stream: bool,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) include_usage: bool,
    pub(crate) seed: Option<i64>,
    /// The tool that must be called, where that was asked for and is known to the protocol.
    pub(crate) tool: Option<String>,
}

impl ChatCall {
    pub(crate) fn has_prefix(&self) -> bool {
        self.messages.last().is_some_and(|message| message.role == "assistant")
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    Chat(ChatCall),
    /// The loading of a model, by its name, that is answered with this body once it is loaded.
    Load(String, Bytes),
    /// Something that is answered at once with this body, as the unloading of a model is.
    Reply(Bytes),
    Refused(ErrorReply),
}

/// An error in the form that both protocols can write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ErrorReply {
    pub(crate) status: u16,
    pub(crate) message: String,
    /// The code, where it is not the status.
    pub(crate) code: Option<&'static str>,
    pub(crate) retry_after: Option<String>,
}

impl ErrorReply {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), code: None, retry_after: None }
    }
}

/// What an answer says about itself.
#[derive(Debug, Clone)]
pub(crate) struct AnswerHead {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) created: SystemTime,
    pub(crate) finish: Finish,
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) include_usage: bool,
    /// The tool that the answer is a call of.
    pub(crate) tool: Option<String>,
    pub(crate) pace: Duration,
    pub(crate) cold: bool,
}

impl AnswerHead {
    pub(crate) fn unix_seconds(&self) -> u64 {
        let since = self.created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_secs()
    }
}

/// How a stream, or a unary answer, ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) finish_reason: bool,
    pub(crate) done: bool,
}

impl Ending {
    pub(crate) const WHOLE: Self = Self { finish_reason: true, done: true };
}

/// A stream as its protocol writes it: the events with content, and those after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) content: Vec<Bytes>,
    pub(crate) tail: Vec<Bytes>,
}

/// How an upstream reads requests and writes answers.
pub(crate) trait Protocol: Sync {
    /// Path of the chat endpoint.
    fn chat_path(&self) -> &'static str;
    fn stream_content_type(&self) -> &'static str;
    fn unary_content_type(&self) -> &'static str;
    fn read_chat(&self, upstream: &Upstream, body: &[u8]) -> Asked;
    fn write_stream(&self, head: &AnswerHead, tokens: &[String], ending: Ending) -> Events;
    fn write_unary(&self, head: &AnswerHead, text: &str, ending: Ending) -> Bytes;
    fn write_error(&self, error: &ErrorReply) -> Bytes;
    fn write_error_event(&self, message: &str) -> Bytes;
    fn malformed_event(&self) -> Bytes;
    /// The message that is usual for a status.
    fn usual_message(&self, status: u16) -> String;
    fn context_length(&self) -> ErrorReply;
    fn content_policy(&self) -> ErrorReply;
    fn model_not_found(&self, model: &str) -> ErrorReply;
    fn prefix_refused(&self) -> ErrorReply;
    /// Every request that is no chat.
    fn other(&self, upstream: &Upstream, method: &Method, path: &str) -> Response<ScriptBody>;
}

pub(crate) fn protocol(kind: UpstreamKind) -> &'static dyn Protocol {
    match kind {
        UpstreamKind::Max => &openai::OpenAi,
        UpstreamKind::Ollama => &ollama::Ollama,
    }
}

pub(crate) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<ScriptBody> {
    let mut response = Response::new(ScriptBody::full(body));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// The text of a message's content: a string, or parts of which those with text count.
pub(crate) fn text_of(content: Option<&Value>) -> Option<String> {
    match content {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().map(|part| match part {
                Value::Object(part) => Some(part.get("text").and_then(Value::as_str).unwrap_or_default()),
                Value::String(text) => Some(text.as_str()),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
            });
            texts.collect::<Option<Vec<_>>>().map(|texts| texts.concat())
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => None,
    }
}

/// A message with a role and a content that can be read, or the name of the field that cannot.
pub(crate) fn message_of(message: &Map<String, Value>) -> Result<Message, &'static str> {
    let role = message.get("role").and_then(Value::as_str).ok_or("role")?;
    let text = text_of(message.get("content")).ok_or("content")?;
    Ok(Message { role: role.to_owned(), text })
}
