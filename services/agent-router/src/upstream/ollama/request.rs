//! A chat as the body of `POST /api/chat`.

use std::collections::HashMap;

use aiplatform_proto::inference::v1::{
    ContentPart, Message, ResponseFormat, Role, Sampling, ToolCall, ToolChoiceMode, content_part,
    response_format, tool_choice,
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
    body.insert("messages".into(), messages(chat)?);
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
            // A function without parameters takes an empty object: the field must be there, and null is none.
            let empty = || json!({ "type": "object", "properties": {} });
            let parameters =
                tool.parameters.as_ref().map_or_else(empty, |given| to_json_object(given).into());
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

fn messages(chat: &Chat) -> Result<Value, UpstreamError> {
    // Ollama names the function of a result, not the call.
    let calls: HashMap<&str, &str> = chat
        .messages()
        .flat_map(|message| &message.tool_calls)
        .map(|call| (call.id.as_str(), call.name.as_str()))
        .collect();
    chat.messages().map(|one| message(one, calls.get(one.tool_call_id.as_str()).copied())).collect()
}

fn message(message: &Message, answers: Option<&str>) -> Result<Value, UpstreamError> {
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
        let calls = message.tool_calls.iter().map(tool_call).collect::<Result<_, _>>()?;
        json.insert("tool_calls".into(), calls);
    }
    if let Some(function) = answers.filter(|_| message.role() == Role::Tool) {
        json.insert("tool_name".into(), function.into());
    }
    Ok(json.into())
}

/// Ollama takes arguments as an object and nothing else.
fn tool_call(call: &ToolCall) -> Result<Value, UpstreamError> {
    let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    let arguments: Map<String, Value> =
        serde_json::from_str(text).map_err(|_| unsupported("tool call arguments that are no JSON object"))?;
    Ok(json!({ "function": { "name": call.name, "arguments": arguments } }))
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
    use aiplatform_proto::inference::v1::{
        ChatRequest, JsonObjectFormat, JsonSchemaFormat, Tool, ToolChoice,
    };

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

    /// What a chat that is changed so adds to the body of a plain question, or changes in it.
    fn adds(change: impl FnOnce(&mut ChatRequest)) -> Value {
        let plain = body(&chat(None, |_| {}), "m", false).unwrap();
        let changed = body(&chat(None, change), "m", false).unwrap();
        let (Value::Object(plain), Value::Object(changed)) = (plain, changed) else { panic!() };
        changed.into_iter().filter(|(name, value)| plain.get(name) != Some(value)).collect()
    }

    #[test]
    fn each_field_has_its_place_in_the_protocol() {
        let sampling = |sampling: Sampling| adds(|request| request.sampling = Some(sampling));
        let format =
            |format| adds(|request| request.response_format = Some(ResponseFormat { format: Some(format) }));
        let tool = |mode: ToolChoiceMode| {
            adds(|request| {
                request.tools = vec![Tool { name: "f".into(), description: "d".into(), parameters: None }];
                let choice = Some(tool_choice::Choice::Mode(mode.into()));
                request.tool_choice = Some(ToolChoice { choice });
            })
        };
        let function =
            json!({"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}});
        let tools = json!({"tools": [{"type": "function", "function": function}]});
        let cases = [
            (sampling(Sampling::default()), json!({})),
            (
                sampling(Sampling { temperature: Some(0.0), ..Sampling::default() }),
                json!({"options": {"temperature": 0.0}}),
            ),
            (
                sampling(Sampling { top_p: Some(0.5), ..Sampling::default() }),
                json!({"options": {"top_p": 0.5}}),
            ),
            (sampling(Sampling { top_k: Some(4), ..Sampling::default() }), json!({"options": {"top_k": 4}})),
            (
                sampling(Sampling { max_tokens: Some(9), ..Sampling::default() }),
                json!({"options": {"num_predict": 9}}),
            ),
            (
                sampling(Sampling {
                    presence_penalty: Some(1.0),
                    frequency_penalty: Some(0.5),
                    ..Sampling::default()
                }),
                json!({"options": {"presence_penalty": 1.0, "frequency_penalty": 0.5}}),
            ),
            (
                sampling(Sampling { stop: vec!["a".into()], ..Sampling::default() }),
                json!({"options": {"stop": ["a"]}}),
            ),
            (tool(ToolChoiceMode::Auto), tools),
            (tool(ToolChoiceMode::None), json!({})),
            (
                format(response_format::Format::JsonObject(JsonObjectFormat::default())),
                json!({"format": "json"}),
            ),
            (
                format(response_format::Format::JsonSchema(JsonSchemaFormat {
                    name: "s".into(),
                    schema: Some(prost_types::Struct::default()),
                    strict: true,
                })),
                json!({"format": {}}),
            ),
            (adds(|request| request.extra_body = Some(prost_types::Struct::default())), json!({})),
        ];
        for (sent, expected) in cases {
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn the_result_of_a_tool_names_its_function() {
        let chat = chat(None, |request| {
            let call = ToolCall { id: "call_0".into(), name: "f".into(), arguments: String::new() };
            let assistant =
                Message { role: Role::Assistant.into(), tool_calls: vec![call], ..Message::default() };
            let result = Message { role: Role::Tool.into(), tool_call_id: "call_0".into(), ..user("42") };
            request.messages.extend([assistant, result]);
        });
        let messages = &body(&chat, "m", false).unwrap()["messages"];
        assert_eq!(messages[1]["tool_calls"], json!([{"function": {"name": "f", "arguments": {}}}]));
        assert_eq!(messages[2], json!({"role": "tool", "content": "42", "tool_name": "f"}));
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
        let malformed = chat(None, |request| {
            let call = ToolCall { arguments: "[1]".into(), ..ToolCall::default() };
            let assistant = Message { tool_calls: vec![call], ..Message::default() };
            request.messages.insert(0, Message { role: Role::Assistant.into(), ..assistant });
        });
        let expected = unsupported("tool call arguments that are no JSON object");
        assert_eq!(body(&malformed, "m", false).unwrap_err(), expected);
    }
}
