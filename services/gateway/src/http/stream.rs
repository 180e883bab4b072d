//! A streamed answer as server-sent events.
//!
//! The head waits for the first content: until then the chain may still move on or fail, and a failure is worth more as a
//! status code than as an event of a stream that had begun with 200. From then on, silence is filled with comments, so that
//! nobody on the way takes the connection for dead.
//!
//! A stream that breaks off ends in trailers with its status, as every response does on this side of the edge; the edge
//! makes an event of them, and `[DONE]` does not follow.

use std::pin::Pin;
use std::time::Duration;

use aiplatform_proto::inference::v1 as wire;
use futures_util::{Stream, StreamExt as _, stream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use service_kit::status::Reason;
use tonic::Status;
use tonic::body::Body;
use wire::stream_chat_response::Event;

use super::aip::{self, Aip};
use super::answer::{Usage, finish_reason, unix_seconds};

/// The longest silence.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Asks nginx not to collect what comes piece by piece.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

type Bytes = <Body as http_body::Body>::Data;

/// Events of the router, or of the gateway's own answer.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<wire::StreamChatResponse, Status>> + Send>>;

#[derive(Debug, Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice],
    /// Where it was asked for it is in every chunk, and `null` in all but one.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Counted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aip: Option<Aip>,
}

/// The tokens of a stream, where they were asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Counted {
    NotYet,
    All(Usage),
}

#[derive(Debug, Default, Serialize)]
struct Choice {
    index: u32,
    delta: Delta,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Debug, Serialize)]
struct ToolCall {
    index: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function,
}

#[derive(Debug, Serialize)]
struct Function {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    arguments: String,
}

/// The response to a request that wanted a stream.
pub(super) async fn response(mut events: Events, include_usage: bool) -> Result<Response<Body>, Status> {
    let start = match events.next().await {
        Some(Ok(wire::StreamChatResponse { event: Some(Event::Start(start)) })) => start,
        Some(Err(status)) => return Err(status),
        Some(Ok(_)) | None => return Err(cut()),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    aip::set_headers(&mut headers, start.served_by.as_ref(), &start.attempts);
    let writer = Writer {
        id: start.id,
        created: unix_seconds(start.created_at.as_ref()),
        model: start.model,
        include_usage,
        events,
        state: State::Opened,
    };
    let frames = stream::unfold(writer, |mut writer| async move {
        let frame = writer.next().await?;
        Some((Ok::<_, Status>(frame), writer))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    *response.headers_mut() = headers;
    Ok(response)
}

fn cut() -> Status {
    Reason::StreamInterrupted.status("the router ended the answer before its end").build()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was written.
    Opened,
    /// The answer is on its way.
    Answering,
    /// All was written; the router has still to say that it is done.
    Ended,
    /// There is nothing more to be had.
    Over,
}

struct Writer {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    events: Events,
    state: State,
}

impl Writer {
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.state == State::Opened {
            self.state = State::Answering;
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            return Some(Frame::data(self.delta(delta)));
        }
        loop {
            if self.state == State::Over {
                return None;
            }
            let event = match tokio::time::timeout(KEEP_ALIVE, self.events.next()).await {
                Ok(Some(Ok(event))) => event.event,
                Ok(Some(Err(status))) => return self.break_off(&status),
                Ok(None) => return self.break_off(&cut()),
                Err(_silence) => return Some(Frame::data(Bytes::from_static(b": keep-alive\n\n"))),
            };
            let written = match event {
                Some(Event::Delta(delta)) => self.piece(delta),
                Some(Event::Handover(handover)) => Some(comment(&handover)),
                Some(Event::End(end)) => {
                    self.state = State::Ended;
                    Some(self.end(end))
                }
                Some(Event::Start(_)) | None => None,
            };
            if let Some(bytes) = written {
                return Some(Frame::data(bytes));
            }
        }
    }

    /// Nothing comes any more. When the answer is whole, it does not matter why.
    fn break_off(&mut self, status: &Status) -> Option<Frame<Bytes>> {
        let was = std::mem::replace(&mut self.state, State::Over);
        if was == State::Ended {
            return None;
        }
        let mut trailers = HeaderMap::new();
        // Fails only for a message that no header can hold, and they are encoded.
        drop(status.add_header(&mut trailers));
        Some(Frame::trailers(trailers))
    }

    fn piece(&self, delta: wire::StreamDelta) -> Option<Bytes> {
        if delta == wire::StreamDelta::default() {
            return None;
        }
        let wire::StreamDelta { text, reasoning, tool_calls, refusal } = delta;
        let [content, refusal] = [text, refusal].map(|text| (!text.is_empty()).then_some(text));
        let tool_calls = tool_calls.into_iter().map(Into::into).collect();
        Some(self.delta(Delta { role: None, content, refusal, reasoning_content: reasoning, tool_calls }))
    }

    fn delta(&self, delta: Delta) -> Bytes {
        let mut out = Vec::with_capacity(256);
        self.write(&mut out, &[Choice { delta, ..Choice::default() }], None, None);
        out.into()
    }

    fn end(&self, end: wire::StreamEnd) -> Bytes {
        let mut out = Vec::with_capacity(1024);
        let finish = finish_reason(end.finish_reason());
        let usage = end.usage.map(Usage::from).filter(|_| self.include_usage);
        let choice = Choice { finish_reason: finish, ..Choice::default() };
        self.write(&mut out, &[choice], None, Some(Aip::of_end(end)));
        if usage.is_some() {
            self.write(&mut out, &[], usage, None);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        out.into()
    }

    fn write(&self, out: &mut Vec<u8>, choices: &[Choice], usage: Option<Usage>, aip: Option<Aip>) {
        let usage = self.include_usage.then(|| usage.map_or(Counted::NotYet, Counted::All));
        let (id, model) = (&self.id, &self.model);
        let chunk =
            Chunk { id, object: "chat.completion.chunk", created: self.created, model, choices, usage, aip };
        // JSON has no line ends of its own, which an event must not have. Writing to memory does not fail.
        out.extend_from_slice(b"data: ");
        drop(serde_json::to_writer(&mut *out, &chunk));
        out.extend_from_slice(b"\n\n");
    }
}

impl From<wire::ToolCallDelta> for ToolCall {
    fn from(piece: wire::ToolCallDelta) -> Self {
        let first = !piece.id.is_empty() || !piece.name.is_empty();
        Self {
            index: piece.index,
            id: piece.id,
            r#type: first.then_some("function"),
            function: Function { name: piece.name, arguments: piece.arguments },
        }
    }
}

/// Says that another backend goes on with the answer. A comment and not a chunk: clients index `choices` unasked.
fn comment(handover: &wire::StreamHandover) -> Bytes {
    let tier = |served_by: Option<&wire::ServedBy>| {
        let tier = served_by.map(|served_by| served_by.tier.as_str()).unwrap_or_default();
        tier.replace(char::is_control, " ")
    };
    let (from, to) = (tier(handover.from.as_ref()), tier(handover.served_by.as_ref()));
    format!(": handover from {from} to {to}\n\n").into()
}

#[cfg(test)]
mod tests;
