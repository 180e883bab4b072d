//! A chat as the body of a chat completion request.
//!
//! Only what the client or the agent asked for is sent: MAX Serve refuses fields that it does not know.

use aiplatform_proto::inference::v1::{
    ContentPart, Message, ResponseFormat, Role, Sampling, Tool, ToolCall, ToolChoice, ToolChoiceMode,
    content_part, response_format, tool_choice,
};
use serde_json::{Map, Value, json};

use crate::chat::Chat;
use crate::upstream::UpstreamError;
use crate::upstream::json::{Fields, Json, given_fields};

/// # Errors
/// Some of the client's JSON is none.
pub(super) fn body<'a>(chat: &'a Chat, model: &str, streaming: bool) -> Result<Fields<'a>, UpstreamError> {
    let request = chat.request();
    let mut body = Fields::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), chat.messages().map(message).collect::<Value>().into());
    body.insert("stream".into(), streaming.into());
    if streaming {
        body.insert("stream_options".into(), json!({ "include_usage": true }).into());
    }
    if let Some(sampling) = &request.sampling {
        add_sampling(&mut body, sampling);
    }
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(tool).collect::<Result<_, _>>()?;
        body.insert("tools".into(), Json::List(tools));
        // Without tools there is nothing to choose, and servers refuse the field.
        if let Some(choice) = request.tool_choice.as_ref().and_then(tool_choice) {
            body.insert("tool_choice".into(), choice.into());
        }
    }
    if let Some(format) = request.response_format.as_ref().and_then(response_format) {
        body.insert("response_format".into(), format?);
    }
    if !request.extra_body_json.is_empty() {
        body.extend(given_fields(&request.extra_body_json)?);
    }
    Ok(body)
}

fn message(message: &Message) -> Value {
    let mut json = Map::new();
    let role = match message.role() {
        Role::System => "system",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
        Role::User | Role::Unspecified => "user",
    };
    json.insert("role".into(), role.into());
    json.insert("content".into(), content(message));
    if !message.name.is_empty() {
        json.insert("name".into(), message.name.as_str().into());
    }
    if !message.tool_calls.is_empty() {
        json.insert("tool_calls".into(), message.tool_calls.iter().map(tool_call).collect());
    }
    if !message.tool_call_id.is_empty() {
        json.insert("tool_call_id".into(), message.tool_call_id.as_str().into());
    }
    json.into()
}

/// A single text is sent as a string, which every server and chat template takes. A refusal is sent as what was said: hardly a
/// template knows it, and without it the model would not know that it has refused.
fn content(message: &Message) -> Value {
    let refusal = (!message.refusal.is_empty()).then_some(message.refusal.as_str());
    match (&message.content[..], refusal) {
        ([], None) => Value::Null,
        ([ContentPart { part: Some(content_part::Part::Text(text)) }], None) => text.as_str().into(),
        ([], Some(refusal)) => refusal.into(),
        (parts, refusal) => {
            let refusal = refusal.map(|text| json!({ "type": "text", "text": text }));
            parts.iter().filter_map(part).chain(refusal).collect()
        }
    }
}

fn part(part: &ContentPart) -> Option<Value> {
    Some(match part.part.as_ref()? {
        content_part::Part::Text(text) => json!({ "type": "text", "text": text }),
        content_part::Part::ImageUrl(url) => {
            json!({ "type": "image_url", "image_url": { "url": url } })
        }
    })
}

fn tool_call(call: &ToolCall) -> Value {
    json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } })
}

fn tool(tool: &Tool) -> Result<Json<'_>, UpstreamError> {
    let mut function = Fields::new();
    function.insert("name".into(), tool.name.as_str().into());
    if !tool.description.is_empty() {
        function.insert("description".into(), tool.description.as_str().into());
    }
    if !tool.parameters_json.is_empty() {
        function.insert("parameters".into(), Json::given(&tool.parameters_json)?);
    }
    Ok(Json::object([("type", "function".into()), ("function", Json::Object(function))]))
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    match choice.choice.as_ref()? {
        tool_choice::Choice::Function(name) => {
            Some(json!({ "type": "function", "function": { "name": name } }))
        }
        tool_choice::Choice::Mode(mode) => match ToolChoiceMode::try_from(*mode).unwrap_or_default() {
            ToolChoiceMode::Unspecified => None,
            ToolChoiceMode::Auto => Some("auto".into()),
            ToolChoiceMode::None => Some("none".into()),
            ToolChoiceMode::Required => Some("required".into()),
        },
    }
}

fn response_format(format: &ResponseFormat) -> Option<Result<Json<'_>, UpstreamError>> {
    Some(match format.format.as_ref()? {
        response_format::Format::JsonObject(_) => Ok(json!({ "type": "json_object" }).into()),
        response_format::Format::JsonSchema(schema) => Json::given(&schema.schema_json).map(|given| {
            let name = schema.name.as_str().into();
            let schema = Json::object([("name", name), ("schema", given), ("strict", schema.strict.into())]);
            Json::object([("type", "json_schema".into()), ("json_schema", schema)])
        }),
    })
}

fn add_sampling(body: &mut Fields<'_>, sampling: &Sampling) {
    let fields = [
        ("temperature", sampling.temperature.map(Value::from)),
        ("top_p", sampling.top_p.map(Value::from)),
        ("top_k", sampling.top_k.map(Value::from)),
        ("max_tokens", sampling.max_tokens.map(Value::from)),
        ("seed", sampling.seed.map(Value::from)),
        ("presence_penalty", sampling.presence_penalty.map(Value::from)),
        ("frequency_penalty", sampling.frequency_penalty.map(Value::from)),
        ("stop", (!sampling.stop.is_empty()).then(|| Value::from(sampling.stop.clone()))),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            body.insert(name.into(), value.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::tests::{chat, user};
    use aiplatform_proto::inference::v1::{ChatRequest, JsonObjectFormat, JsonSchemaFormat};

    fn body(chat: &Chat, model: &str, streaming: bool) -> Value {
        serde_json::to_value(super::body(chat, model, streaming).unwrap()).unwrap()
    }

    #[test]
    fn json_of_the_client_s_goes_as_it_came() {
        const SCHEMA: &str = r#"{"type":"object","properties":{"reasoning":{"maximum":9007199254740993},"answer":{"minimum":1.0}}}"#;
        let chat = chat(None, |request| {
            request.tools =
                vec![Tool { name: "f".into(), parameters_json: SCHEMA.into(), ..Tool::default() }];
            let schema = JsonSchemaFormat { schema_json: SCHEMA.into(), ..JsonSchemaFormat::default() };
            let format = Some(response_format::Format::JsonSchema(schema));
            request.response_format = Some(ResponseFormat { format });
            request.extra_body_json = format!(r#"{{"guided_json":{SCHEMA}}}"#);
        });
        let sent = serde_json::to_string(&super::body(&chat, "m", false).unwrap()).unwrap();
        for field in ["parameters", "schema", "guided_json"] {
            assert!(sent.contains(&format!("\"{field}\":{SCHEMA}")), "{field}: {sent}");
        }
    }

    #[test]
    fn a_plain_question_sends_nothing_that_was_not_asked_for() {
        let expected = json!({
            "model": "m", "stream": false,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        });
        assert_eq!(body(&chat(Some("be brief"), |_| {}), "m", false), expected);
    }

    /// What a chat that is changed so adds to the body of a plain question, or changes in it.
    fn adds(change: impl FnOnce(&mut ChatRequest)) -> Value {
        let plain = body(&chat(None, |_| {}), "m", false);
        let changed = body(&chat(None, change), "m", false);
        let (Value::Object(plain), Value::Object(changed)) = (plain, changed) else { panic!() };
        changed.into_iter().filter(|(name, value)| plain.get(name) != Some(value)).collect()
    }

    fn choose(request: &mut ChatRequest, choice: tool_choice::Choice) {
        request.tools = vec![Tool { name: "f".into(), description: "d".into(), ..Tool::default() }];
        request.tool_choice = Some(ToolChoice { choice: Some(choice) });
    }

    #[test]
    fn each_field_has_its_place_in_the_protocol() {
        let tools = json!([{"type": "function", "function": {"name": "f", "description": "d"}}]);
        let mode =
            |mode: ToolChoiceMode| adds(|request| choose(request, tool_choice::Choice::Mode(mode.into())));
        let sampling = |sampling: Sampling| adds(|request| request.sampling = Some(sampling));
        let format =
            |format| adds(|request| request.response_format = Some(ResponseFormat { format: Some(format) }));
        let cases = [
            (sampling(Sampling::default()), json!({})),
            (
                sampling(Sampling { temperature: Some(0.0), ..Sampling::default() }),
                json!({"temperature": 0.0}),
            ),
            (sampling(Sampling { top_p: Some(0.5), ..Sampling::default() }), json!({"top_p": 0.5})),
            (sampling(Sampling { top_k: Some(4), ..Sampling::default() }), json!({"top_k": 4})),
            (sampling(Sampling { max_tokens: Some(9), ..Sampling::default() }), json!({"max_tokens": 9})),
            (sampling(Sampling { seed: Some(-7), ..Sampling::default() }), json!({"seed": -7})),
            (
                sampling(Sampling { presence_penalty: Some(-1.0), ..Sampling::default() }),
                json!({"presence_penalty": -1.0}),
            ),
            (
                sampling(Sampling { frequency_penalty: Some(1.0), ..Sampling::default() }),
                json!({"frequency_penalty": 1.0}),
            ),
            (
                sampling(Sampling { stop: vec!["a".into(), "b".into()], ..Sampling::default() }),
                json!({"stop": ["a", "b"]}),
            ),
            (mode(ToolChoiceMode::Unspecified), json!({"tools": tools})),
            (mode(ToolChoiceMode::Auto), json!({"tools": tools, "tool_choice": "auto"})),
            (mode(ToolChoiceMode::None), json!({"tools": tools, "tool_choice": "none"})),
            (mode(ToolChoiceMode::Required), json!({"tools": tools, "tool_choice": "required"})),
            (
                adds(|request| {
                    let auto = tool_choice::Choice::Mode(ToolChoiceMode::Auto.into());
                    request.tool_choice = Some(ToolChoice { choice: Some(auto) });
                }),
                json!({}),
            ),
            (
                format(response_format::Format::JsonObject(JsonObjectFormat::default())),
                json!({"response_format": {"type": "json_object"}}),
            ),
            (
                format(response_format::Format::JsonSchema(JsonSchemaFormat {
                    name: "s".into(),
                    schema: Some(prost_types::Struct::default()),
                    strict: true,
                    ..JsonSchemaFormat::default()
                })),
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}, "strict": true}}}),
            ),
            (
                adds(|request| {
                    let number = prost_types::value::Kind::NumberValue(3.0);
                    let value = prost_types::Value { kind: Some(number) };
                    let fields = [("top_logprobs".to_owned(), value)].into();
                    request.extra_body = Some(prost_types::Struct { fields });
                }),
                json!({"top_logprobs": 3}),
            ),
        ];
        for (sent, expected) in cases {
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn parts_are_sent_as_parts_and_what_a_model_thought_is_kept_back() {
        let chat = chat(None, |request| {
            let part = |part| ContentPart { part: Some(part) };
            let mut asks = user("what is this?");
            asks.content.push(part(content_part::Part::ImageUrl("https://example.com/a.png".into())));
            asks.name = "ann".into();
            let thought = Message { reasoning: "hm".into(), role: Role::Assistant.into(), ..user("a cat") };
            let refused =
                Message { role: Role::Assistant.into(), refusal: "no".into(), ..Message::default() };
            let both = Message { refusal: "no".into(), role: Role::Assistant.into(), ..user("a dog?") };
            request.messages = vec![asks, thought, user("sure?"), refused, both];
        });
        let expected = json!([
            {"role": "user", "name": "ann", "content": [
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            ]},
            {"role": "assistant", "content": "a cat"},
            {"role": "user", "content": "sure?"},
            {"role": "assistant", "content": "no"},
            {"role": "assistant", "content": [{"type": "text", "text": "a dog?"}, {"type": "text", "text": "no"}]},
        ]);
        assert_eq!(body(&chat, "m", false)["messages"], expected);
    }

    #[test]
    fn everything_that_was_asked_for_is_sent() {
        let schema = prost_types::Struct::default();
        let chat = chat(None, |request| {
            request.messages = vec![
                user("a"),
                Message {
                    role: Role::Assistant.into(),
                    tool_calls: vec![ToolCall { id: "1".into(), name: "f".into(), arguments: "{}".into() }],
                    ..Message::default()
                },
                Message { role: Role::Tool.into(), tool_call_id: "1".into(), ..user("42") },
            ];
            request.sampling = Some(Sampling {
                temperature: Some(0.5),
                max_tokens: Some(7),
                stop: vec!["x".into()],
                seed: Some(-1),
                ..Sampling::default()
            });
            request.tools =
                vec![Tool { name: "f".into(), parameters: Some(schema.clone()), ..Tool::default() }];
            request.tool_choice =
                Some(ToolChoice { choice: Some(tool_choice::Choice::Function("f".into())) });
            request.response_format = Some(ResponseFormat {
                format: Some(response_format::Format::JsonObject(JsonObjectFormat::default())),
            });
            let logprobs = prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) };
            request.extra_body =
                Some(prost_types::Struct { fields: [("logprobs".to_owned(), logprobs)].into() });
        });
        let expected = json!({
            "model": "m", "stream": true, "stream_options": {"include_usage": true},
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": null,
                 "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "content": "42", "tool_call_id": "1"},
            ],
            "temperature": 0.5, "max_tokens": 7, "stop": ["x"], "seed": -1,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_object"},
            "logprobs": true,
        });
        assert_eq!(body(&chat, "m", true), expected);
    }
}
