//! How many tokens something is taken to have, where nobody has counted them.
//!
//! Whatever a model reads or writes counts, by its length: what is left out would be free for whoever finds out.

use aiplatform_proto::inference::v1 as wire;
use aiplatform_proto::json::json_size;
use wire::content_part::Part;
use wire::response_format::Format;

/// Tokens that an answer is taken to have where the request sets no limit.
const USUAL_ANSWER: u64 = 512;
/// Tokens that a picture is taken to have: what OpenAI counts for one of 1024 × 1024.
const PICTURE: u64 = 765;

/// A token has about four bytes.
pub(super) fn tokens_in(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// The prompt of a chat: its messages, its tools, and what else a model server may make part of it.
pub(super) fn prompt_tokens(chat: &wire::ChatRequest) -> u64 {
    let messages: u64 = chat.messages.iter().map(message_tokens).sum();
    let tools: usize = chat.tools.iter().map(tool_bytes).sum();
    let format = match chat.response_format.as_ref().and_then(|format| format.format.as_ref()) {
        Some(Format::JsonSchema(schema)) => {
            schema.schema_json.len() + schema.schema.as_ref().map_or(0, json_size)
        }
        Some(Format::JsonObject(_)) | None => 0,
    };
    let extra = chat.extra_body_json.len() + chat.extra_body.as_ref().map_or(0, json_size);
    messages + tokens_in((tools + format + extra) as u64)
}

/// The answer to a chat, before there is one.
pub(super) fn answer_tokens(chat: &wire::ChatRequest) -> u64 {
    chat.sampling.as_ref().and_then(|sampling| sampling.max_tokens).map_or(USUAL_ANSWER, u64::from)
}

/// What a model wrote of a whole answer, in bytes.
pub(super) fn answer_bytes(message: &wire::Message) -> u64 {
    message.content.iter().map(text_bytes).sum::<u64>() + unseen_bytes(message)
}

/// What a model wrote of a piece of a stream, in bytes.
pub(super) fn delta_bytes(delta: &wire::StreamDelta) -> u64 {
    let calls: usize = delta.tool_calls.iter().map(|call| call.name.len() + call.arguments.len()).sum();
    (delta.text.len() + delta.reasoning.len() + delta.refusal.len() + calls) as u64
}

fn message_tokens(message: &wire::Message) -> u64 {
    let part = |part: &wire::ContentPart| match &part.part {
        Some(Part::ImageUrl(_)) => PICTURE,
        Some(Part::Text(_)) | None => tokens_in(text_bytes(part)),
    };
    message.content.iter().map(part).sum::<u64>() + tokens_in(unseen_bytes(message))
}

fn text_bytes(part: &wire::ContentPart) -> u64 {
    match &part.part {
        Some(Part::Text(text)) => text.len() as u64,
        Some(Part::ImageUrl(_)) | None => 0,
    }
}

/// What a message has besides its content.
fn unseen_bytes(message: &wire::Message) -> u64 {
    let calls: usize = message.tool_calls.iter().map(|call| call.name.len() + call.arguments.len()).sum();
    (message.reasoning.len() + message.refusal.len() + calls) as u64
}

fn tool_bytes(tool: &wire::Tool) -> usize {
    let parameters = tool.parameters_json.len() + tool.parameters.as_ref().map_or(0, json_size);
    tool.name.len() + tool.description.len() + parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "four tokens here";

    fn call() -> wire::ToolCall {
        wire::ToolCall { arguments: TEXT.into(), ..wire::ToolCall::default() }
    }

    #[test]
    fn all_that_a_model_reads_is_counted() {
        let message = |message: wire::Message| wire::ChatRequest {
            messages: vec![message],
            ..wire::ChatRequest::default()
        };
        let part = |part| wire::Message {
            content: vec![wire::ContentPart { part: Some(part) }],
            ..wire::Message::default()
        };
        let field = (TEXT.repeat(10), prost_types::Value::default());
        let schema = prost_types::Struct { fields: [field].into() };
        let schema_json = format!(r#"{{"description":"{}"}}"#, TEXT.repeat(10));
        let tool = wire::Tool { parameters: Some(schema.clone()), ..wire::Tool::default() };
        let written = wire::Tool { parameters_json: schema_json.clone(), ..wire::Tool::default() };
        let described = wire::Tool { description: TEXT.into(), ..wire::Tool::default() };
        let format =
            wire::JsonSchemaFormat { schema: Some(schema.clone()), ..wire::JsonSchemaFormat::default() };
        let format = wire::ResponseFormat { format: Some(Format::JsonSchema(format)) };
        let form =
            wire::JsonSchemaFormat { schema_json: schema_json.clone(), ..wire::JsonSchemaFormat::default() };
        let form = wire::ResponseFormat { format: Some(Format::JsonSchema(form)) };
        for (what, least, chat) in [
            ("text", 4, message(part(Part::Text(TEXT.into())))),
            ("a picture", 765, message(part(Part::ImageUrl(TEXT.into())))),
            ("reasoning", 4, message(wire::Message { reasoning: TEXT.into(), ..wire::Message::default() })),
            ("a refusal", 4, message(wire::Message { refusal: TEXT.into(), ..wire::Message::default() })),
            ("a call", 4, message(wire::Message { tool_calls: vec![call()], ..wire::Message::default() })),
            ("a tool", 4, wire::ChatRequest { tools: vec![described], ..wire::ChatRequest::default() }),
            ("its schema", 40, wire::ChatRequest { tools: vec![tool], ..wire::ChatRequest::default() }),
            ("its text", 40, wire::ChatRequest { tools: vec![written], ..wire::ChatRequest::default() }),
            ("extra", 40, wire::ChatRequest { extra_body: Some(schema), ..wire::ChatRequest::default() }),
            (
                "extra text",
                40,
                wire::ChatRequest { extra_body_json: schema_json, ..wire::ChatRequest::default() },
            ),
            (
                "a form's text",
                40,
                wire::ChatRequest { response_format: Some(form), ..wire::ChatRequest::default() },
            ),
            (
                "a form",
                40,
                wire::ChatRequest { response_format: Some(format), ..wire::ChatRequest::default() },
            ),
        ] {
            let counted = prompt_tokens(&chat);
            assert!((least..=least + 10).contains(&counted), "{what}: {counted}");
        }
        assert_eq!(prompt_tokens(&wire::ChatRequest::default()), 0);
    }

    #[test]
    fn all_that_a_model_writes_is_counted() {
        let message = wire::Message {
            content: vec![wire::ContentPart { part: Some(Part::Text(TEXT.into())) }],
            reasoning: TEXT.into(),
            refusal: TEXT.into(),
            tool_calls: vec![call()],
            ..wire::Message::default()
        };
        assert_eq!(answer_bytes(&message), 4 * 16);
        let piece = wire::ToolCallDelta { name: "f".into(), arguments: TEXT.into(), ..Default::default() };
        let delta = wire::StreamDelta {
            text: "x".into(),
            reasoning: "y".into(),
            refusal: "z".into(),
            tool_calls: vec![piece],
        };
        assert_eq!(delta_bytes(&delta), 20);
    }
}
