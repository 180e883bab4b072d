//! A chat as the body of `POST /api/chat`.

use aiplatform_proto::inference::v1::{
    ContentPart, Message, ResponseFormat, Role, Sampling, ToolChoiceMode, content_part, response_format,
    tool_choice,
};
use aiplatform_proto::json::to_json_object;
use serde_json::{Map, Value, json};

use crate::chat::Chat;
use crate::upstream::UpstreamError;

/// # Errors
/// The request needs something that Ollama cannot do.
pub(super) fn body(chat: &Chat, model: &str, streaming: bool) -> Result<Value, UpstreamError> {
    let request = chat.request();
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), chat.messages().map(message).collect::<Result<_, _>>()?);
    body.insert("stream".into(), streaming.into());
    if let Some(options) = request.sampling.as_ref().map(options).filter(|options| !options.is_empty()) {
        body.insert("options".into(), options.into());
    }
    let choice = request.tool_choice.as_ref().and_then(|choice| choice.choice.as_ref());
    let wants_tools = match choice {
        None => true,
        Some(tool_choice::Choice::Function(_)) => return Err(unsupported("a forced tool call")),
        Some(tool_choice::Choice::Mode(mode)) => match ToolChoiceMode::try_from(*mode).unwrap_or_default() {
            ToolChoiceMode::Unspecified | ToolChoiceMode::Auto => true,
            ToolChoiceMode::None => false,
            ToolChoiceMode::Required => return Err(unsupported("a forced tool call")),
        },
    };
    if wants_tools && !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            let parameters = tool.parameters.as_ref().map(to_json_object);
            let function =
                json!({ "name": tool.name, "description": tool.description, "parameters": parameters });
            json!({ "type": "function", "function": function })
        });
        body.insert("tools".into(), tools.collect());
    }
    if let Some(format) = request.response_format.as_ref().and_then(format) {
        body.insert("format".into(), format);
    }
    Ok(body.into())
}

fn unsupported(what: &str) -> UpstreamError {
    UpstreamError::Unsupported(what.to_owned())
}

fn message(message: &Message) -> Result<Value, UpstreamError> {
    let mut json = Map::new();
    let role = match message.role() {
        Role::System => "system",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
        Role::User | Role::Unspecified => "user",
    };
    json.insert("role".into(), role.into());
    json.insert("content".into(), crate::answer::text_of(message).into());
    let images: Vec<Value> = message.content.iter().filter_map(image).collect::<Result<_, _>>()?;
    if !images.is_empty() {
        json.insert("images".into(), images.into());
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            // Ollama wants an object; a model's malformed arguments are given as the text they are.
            let arguments: Value =
                serde_json::from_str(&call.arguments).unwrap_or_else(|_| call.arguments.as_str().into());
            json!({ "function": { "name": call.name, "arguments": arguments } })
        });
        json.insert("tool_calls".into(), calls.collect());
    }
    Ok(json.into())
}

/// Ollama takes pictures as bare base64 and fetches none.
fn image(part: &ContentPart) -> Option<Result<Value, UpstreamError>> {
    let Some(content_part::Part::ImageUrl(url)) = &part.part else {
        return None;
    };
    let base64 = url.strip_prefix("data:").and_then(|data| data.split_once(";base64,"));
    Some(base64.map(|(_, data)| Value::from(data)).ok_or_else(|| unsupported("a picture by its address")))
}

fn format(format: &ResponseFormat) -> Option<Value> {
    Some(match format.format.as_ref()? {
        response_format::Format::JsonObject(_) => "json".into(),
        response_format::Format::JsonSchema(schema) => to_json_object(schema.schema.as_ref()?).into(),
    })
}

fn options(sampling: &Sampling) -> Map<String, Value> {
    let fields = [
        ("temperature", sampling.temperature.map(Value::from)),
        ("top_p", sampling.top_p.map(Value::from)),
        ("top_k", sampling.top_k.map(Value::from)),
        ("num_predict", sampling.max_tokens.map(Value::from)),
        ("seed", sampling.seed.map(Value::from)),
        ("presence_penalty", sampling.presence_penalty.map(Value::from)),
        ("frequency_penalty", sampling.frequency_penalty.map(Value::from)),
        ("stop", (!sampling.stop.is_empty()).then(|| Value::from(sampling.stop.clone()))),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::tests::{chat, user};
    use aiplatform_proto::inference::v1::{ToolCall, ToolChoice};

    #[test]
    fn a_chat_is_written_in_ollamas_words() {
        let chat = chat(Some("be brief"), |request| {
            let call = ToolCall { id: "1".into(), name: "f".into(), arguments: r#"{"x":1}"#.into() };
            let assistant =
                Message { role: Role::Assistant.into(), tool_calls: vec![call], ..Message::default() };
            let picture = content_part::Part::ImageUrl("data:image/png;base64,QUJD".into());
            let mut asks = user("what is this?");
            asks.content.push(ContentPart { part: Some(picture) });
            request.messages = vec![asks, assistant, user("go on")];
            request.sampling = Some(Sampling { max_tokens: Some(5), seed: Some(1), ..Sampling::default() });
        });
        let expected = json!({
            "model": "m", "stream": true, "options": {"num_predict": 5, "seed": 1},
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "what is this?", "images": ["QUJD"]},
                {"role": "assistant", "content": "",
                 "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
                {"role": "user", "content": "go on"},
            ],
        });
        assert_eq!(body(&chat, "m", true).unwrap(), expected);
    }

    #[test]
    fn what_ollama_cannot_do_is_said() {
        let forced = chat(None, |request| {
            let mode = tool_choice::Choice::Mode(ToolChoiceMode::Required.into());
            request.tool_choice = Some(ToolChoice { choice: Some(mode) });
        });
        assert_eq!(body(&forced, "m", false).unwrap_err(), unsupported("a forced tool call"));
        let remote = chat(None, |request| {
            let picture = content_part::Part::ImageUrl("https://example.com/a.png".into());
            request.messages[0].content.push(ContentPart { part: Some(picture) });
        });
        assert_eq!(body(&remote, "m", false).unwrap_err(), unsupported("a picture by its address"));
    }
}
