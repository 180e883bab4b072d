//! A whole answer as a chat completion.

use aiplatform_proto::inference::v1 as wire;
use aiplatform_proto::time::from_proto_timestamp;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use std::time::UNIX_EPOCH;
use tonic::body::Body;

use super::aip::{self, Aip};
use wire::FinishReason;
use wire::content_part::Part;

#[derive(Debug, Serialize)]
struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: [Choice; 1],
    usage: Option<Usage>,
    aip: Aip,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reasoning_content: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Debug, Serialize)]
struct ToolCall {
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

/// Tokens, as OpenAI counts them.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

/// The response to a request that wanted no stream.
pub(super) fn response(answer: wire::ChatResponse) -> Response<Body> {
    let mut headers = http::HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    aip::set_headers(&mut headers, answer.served_by.as_ref(), &answer.attempts);
    // Texts, numbers and lists of them: there is nothing in it that could not be written.
    let json = serde_json::to_vec(&Completion::from(answer)).unwrap_or_default();
    let mut response = Response::new(Body::new(http_body_util::Full::from(json)));
    *response.headers_mut() = headers;
    response
}

impl From<wire::ChatResponse> for Completion {
    fn from(answer: wire::ChatResponse) -> Self {
        let message = answer.message.unwrap_or_default();
        let finish = FinishReason::try_from(answer.finish_reason).unwrap_or_default();
        let tool_calls: Vec<ToolCall> = message.tool_calls.into_iter().map(Into::into).collect();
        let text: String = message.content.into_iter().filter_map(text).collect();
        let refusal = (!message.refusal.is_empty()).then_some(message.refusal);
        let content = (!text.is_empty() || (tool_calls.is_empty() && refusal.is_none())).then_some(text);
        let message =
            Message { role: "assistant", content, refusal, reasoning_content: message.reasoning, tool_calls };
        let choice = Choice { index: 0, message, logprobs: None, finish_reason: finish_reason(finish) };
        Self {
            id: answer.id,
            object: "chat.completion",
            created: unix_seconds(answer.created_at.as_ref()),
            model: answer.model,
            choices: [choice],
            usage: answer.usage.map(Into::into),
            aip: Aip::of_answer(answer.served_by, answer.attempts),
        }
    }
}

/// An answer is text; a part of another kind would have no place in OpenAI's.
fn text(part: wire::ContentPart) -> Option<String> {
    match part.part? {
        Part::Text(text) => Some(text),
        Part::ImageUrl(_) => None,
    }
}

impl From<wire::ToolCall> for ToolCall {
    fn from(call: wire::ToolCall) -> Self {
        let function = Function { name: call.name, arguments: call.arguments };
        Self { id: call.id, r#type: "function", function }
    }
}

impl From<wire::Usage> for Usage {
    fn from(usage: wire::Usage) -> Self {
        Self {
            prompt_tokens: usage.input_tokens,
            completion_tokens: usage.output_tokens,
            total_tokens: usage.input_tokens.saturating_add(usage.output_tokens),
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_input_tokens },
            completion_tokens_details: CompletionDetails { reasoning_tokens: usage.reasoning_tokens },
        }
    }
}

/// OpenAI's word. None for a reason that is not known here: `stop` would promise that the answer is whole, and a word of our
/// own would break clients that know OpenAI's only.
pub(super) fn finish_reason(reason: FinishReason) -> Option<&'static str> {
    match reason {
        FinishReason::Unspecified => None,
        FinishReason::Stop => Some("stop"),
        FinishReason::Length => Some("length"),
        FinishReason::ToolCalls => Some("tool_calls"),
        FinishReason::ContentFilter => Some("content_filter"),
    }
}

pub(super) fn unix_seconds(time: Option<&aiplatform_proto::Timestamp>) -> u64 {
    let time = time.and_then(from_proto_timestamp);
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(answer: wire::ChatResponse) -> serde_json::Value {
        serde_json::to_value(Completion::from(answer)).unwrap()
    }

    #[test]
    fn an_answer_is_a_chat_completion() {
        let part = wire::ContentPart { part: Some(Part::Text("hello".into())) };
        let answer = wire::ChatResponse {
            id: "chat-1".into(),
            model: "assistant".into(),
            created_at: Some(aiplatform_proto::Timestamp { seconds: 17, nanos: 0 }),
            message: Some(wire::Message { content: vec![part], ..wire::Message::default() }),
            finish_reason: FinishReason::Length.into(),
            usage: Some(wire::Usage {
                input_tokens: 3,
                output_tokens: 4,
                cached_input_tokens: 2,
                reasoning_tokens: 1,
            }),
            served_by: Some(wire::ServedBy { tier: "max".into(), ..wire::ServedBy::default() }),
            attempts: vec![],
        };
        let expected = json!({
            "id": "chat-1", "object": "chat.completion", "created": 17, "model": "assistant",
            "choices": [{
                "index": 0, "logprobs": null, "finish_reason": "length",
                "message": {"role": "assistant", "content": "hello", "refusal": null},
            }],
            "usage": {
                "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
            "aip": {
                "attempts": [],
                "served_by": {
                    "tier": "max", "kind": "unspecified", "backend": "", "degraded": false, "cached": false,
                    "upstream_model": "", "coalesced": false,
                },
            },
        });
        assert_eq!(shown(answer), expected);
    }

    #[test]
    fn a_reason_that_nobody_knows_is_not_a_stop() {
        let reason = |reason: FinishReason| {
            let answer = wire::ChatResponse { finish_reason: reason.into(), ..wire::ChatResponse::default() };
            shown(answer)["choices"][0]["finish_reason"].clone()
        };
        assert_eq!(reason(FinishReason::Stop), "stop");
        assert_eq!(reason(FinishReason::Unspecified), json!(null));
    }

    #[test]
    fn a_refusal_stands_where_the_text_would() {
        let message = wire::Message { refusal: "no".into(), ..wire::Message::default() };
        let answer = wire::ChatResponse { message: Some(message), ..wire::ChatResponse::default() };
        let expected = json!({"role": "assistant", "content": null, "refusal": "no"});
        assert_eq!(shown(answer)["choices"][0]["message"], expected);
    }

    #[test]
    fn tool_calls_stand_where_the_text_would() {
        let call = wire::ToolCall { id: "1".into(), name: "f".into(), arguments: "{}".into() };
        let message =
            wire::Message { tool_calls: vec![call], reasoning: "hm".into(), ..wire::Message::default() };
        let answer = wire::ChatResponse {
            message: Some(message),
            finish_reason: FinishReason::ToolCalls.into(),
            ..wire::ChatResponse::default()
        };
        let shown = shown(answer);
        let expected = json!({
            "role": "assistant", "content": null, "refusal": null, "reasoning_content": "hm",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        });
        assert_eq!(shown["choices"][0]["message"], expected);
        assert_eq!(shown["usage"], json!(null));
    }
}
