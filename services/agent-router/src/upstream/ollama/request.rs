//! A chat as the body of `POST /api/chat`.

use std::collections::HashMap;

use aiplatform_proto::inference::v1::{
    ContentPart, Message, ResponseFormat, Role, Sampling, Tool, ToolCall, ToolChoiceMode, content_part,
    response_format, tool_choice,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::chat::Chat;
use crate::upstream::UpstreamError;
use crate::upstream::json::{Fields, Json};

/// # Errors
/// The request needs something that Ollama cannot do.
pub(super) fn body<'a>(chat: &'a Chat, model: &str, streaming: bool) -> Result<Fields<'a>, UpstreamError> {
    let request = chat.request();
    let mut body = Fields::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), messages(chat)?);
    body.insert("stream".into(), streaming.into());
    if let Some(options) = request.sampling.as_ref().map(options).filter(|options| !options.is_empty()) {
        body.insert("options".into(), Value::from(options).into());
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
        let tools = request.tools.iter().map(tool).collect::<Result<_, _>>()?;
        body.insert("tools".into(), Json::List(tools));
    }
    if let Some(format) = request.response_format.as_ref().and_then(format) {
        body.insert("format".into(), format?);
    }
    Ok(body)
}

fn tool(tool: &Tool) -> Result<Json<'_>, UpstreamError> {
    let parameters = if tool.parameters_json.is_empty() {
        // A function without parameters takes an empty object: the field must be there, and null is none.
        json!({ "type": "object", "properties": {} }).into()
    } else {
        Json::given(&tool.parameters_json)?
    };
    let (name, description) = (tool.name.as_str().into(), tool.description.as_str().into());
    let function = Json::object([("name", name), ("description", description), ("parameters", parameters)]);
    Ok(Json::object([("type", "function".into()), ("function", function)]))
}

fn unsupported(what: &str) -> UpstreamError {
    UpstreamError::Unsupported(what.to_owned())
}

fn messages(chat: &Chat) -> Result<Json<'_>, UpstreamError> {
    // Ollama names the function of a result, not the call. Of calls with the same id the latest before the result is meant.
    let mut calls: HashMap<&str, &str> = HashMap::new();
    let messages = chat.messages().map(|one| {
        calls.extend(one.tool_calls.iter().map(|call| (call.id.as_str(), call.name.as_str())));
        message(one, calls.get(one.tool_call_id.as_str()).copied())
    });
    Ok(Json::List(messages.collect::<Result<_, _>>()?))
}

fn message<'a>(message: &'a Message, answers: Option<&str>) -> Result<Json<'a>, UpstreamError> {
    let mut json = Fields::new();
    let role = match message.role() {
        Role::System => "system",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
        Role::User | Role::Unspecified => "user",
    };
    json.insert("role".into(), role.into());
    // A refusal is what was said: Ollama has no other word for it.
    let said = crate::answer::text_of(message) + &message.refusal;
    json.insert("content".into(), Value::from(said).into());
    let images: Vec<Value> = message.content.iter().filter_map(image).collect::<Result<_, _>>()?;
    if !images.is_empty() {
        json.insert("images".into(), Value::from(images).into());
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(tool_call).collect::<Result<_, _>>()?;
        json.insert("tool_calls".into(), Json::List(calls));
    }
    if let Some(function) = answers.filter(|_| message.role() == Role::Tool) {
        json.insert("tool_name".into(), function.into());
    }
    Ok(Json::Object(json))
}

/// Ollama takes arguments as an object and nothing else.
fn tool_call(call: &ToolCall) -> Result<Json<'_>, UpstreamError> {
    let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    let arguments: Option<&RawValue> = serde_json::from_str(text).ok();
    let arguments = arguments.filter(|arguments| arguments.get().starts_with('{'));
    let arguments = arguments.ok_or_else(|| unsupported("tool call arguments that are no JSON object"))?;
    let function = [("name", call.name.as_str().into()), ("arguments", Json::Given(arguments))];
    Ok(Json::object([("function", Json::object(function))]))
}

/// Ollama takes pictures as bare base64 and fetches none.
fn image(part: &ContentPart) -> Option<Result<Value, UpstreamError>> {
    let Some(content_part::Part::ImageUrl(url)) = &part.part else {
        return None;
    };
    let base64 = url.strip_prefix("data:").and_then(|data| data.split_once(";base64,"));
    Some(base64.map(|(_, data)| Value::from(data)).ok_or_else(|| unsupported("a picture by its address")))
}

fn format(format: &ResponseFormat) -> Option<Result<Json<'_>, UpstreamError>> {
    Some(match format.format.as_ref()? {
        response_format::Format::JsonObject(_) => Ok("json".into()),
        response_format::Format::JsonSchema(schema) => Json::given(&schema.schema_json),
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
    use aiplatform_proto::inference::v1::{ChatRequest, JsonObjectFormat, JsonSchemaFormat, ToolChoice};

    fn body(chat: &Chat, model: &str, streaming: bool) -> Result<Value, UpstreamError> {
        super::body(chat, model, streaming).map(|body| serde_json::to_value(body).unwrap())
    }

    #[test]
    fn json_of_the_client_s_goes_as_it_came() {
        const SCHEMA: &str =
            r#"{"type":"object","properties":{"reasoning":{},"answer":{"maximum":9007199254740993}}}"#;
        const ARGUMENTS: &str = r#"{"b":1.0,"a":9007199254740993}"#;
        let chat = chat(None, |request| {
            request.tools =
                vec![Tool { name: "f".into(), parameters_json: SCHEMA.into(), ..Tool::default() }];
            let schema = JsonSchemaFormat { schema_json: SCHEMA.into(), ..JsonSchemaFormat::default() };
            let format = Some(response_format::Format::JsonSchema(schema));
            request.response_format = Some(ResponseFormat { format });
            let call = ToolCall { arguments: ARGUMENTS.into(), ..ToolCall::default() };
            let assistant =
                Message { role: Role::Assistant.into(), tool_calls: vec![call], ..Message::default() };
            request.messages.extend([assistant, user("go on")]);
        });
        let sent = serde_json::to_string(&super::body(&chat, "m", false).unwrap()).unwrap();
        for (field, text) in [("parameters", SCHEMA), ("format", SCHEMA), ("arguments", ARGUMENTS)] {
            assert!(sent.contains(&format!("\"{field}\":{text}")), "{field}: {sent}");
        }
    }

    #[test]
    fn a_chat_is_written_in_ollamas_words() {
        let chat = chat(Some("be brief"), |request| {
            let call = ToolCall { id: "1".into(), name: "f".into(), arguments: r#"{"x":1}"#.into() };
            let assistant =
                Message { role: Role::Assistant.into(), tool_calls: vec![call], ..Message::default() };
            let picture = content_part::Part::ImageUrl("data:image/png;base64,QUJD".into());
            let mut asks = user("what is this?");
            asks.content.push(ContentPart { part: Some(picture) });
            let refused =
                Message { role: Role::Assistant.into(), refusal: "no".into(), ..Message::default() };
            request.messages = vec![asks, assistant, refused, user("go on")];
            request.sampling = Some(Sampling { max_tokens: Some(5), seed: Some(1), ..Sampling::default() });
        });
        let expected = json!({
            "model": "m", "stream": true, "options": {"num_predict": 5, "seed": 1},
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "what is this?", "images": ["QUJD"]},
                {"role": "assistant", "content": "",
                 "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
                {"role": "assistant", "content": "no"},
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
                request.tools = vec![Tool { name: "f".into(), description: "d".into(), ..Tool::default() }];
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
                    ..JsonSchemaFormat::default()
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
    fn a_result_belongs_to_the_latest_call_of_its_id() {
        let chat = chat(None, |request| {
            for name in ["f", "g"] {
                let call = ToolCall { id: "call_0".into(), name: name.into(), arguments: String::new() };
                let assistant =
                    Message { role: Role::Assistant.into(), tool_calls: vec![call], ..Message::default() };
                let result = Message { role: Role::Tool.into(), tool_call_id: "call_0".into(), ..user(name) };
                request.messages.extend([assistant, result]);
            }
        });
        let messages = body(&chat, "m", false).unwrap()["messages"].take();
        for (place, name) in [(2, "f"), (4, "g")] {
            assert_eq!(
                (&messages[place]["content"], &messages[place]["tool_name"]),
                (&json!(name), &json!(name))
            );
        }
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
