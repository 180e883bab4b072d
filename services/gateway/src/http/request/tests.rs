use aiplatform_proto::inference::v1::{
    ContentPart, Message, Role, Tool, ToolCall, ToolChoice, ToolChoiceMode, content_part, response_format,
    tool_choice,
};
use serde_json::json;
use service_kit::status::reason_of;
use tonic_types::StatusExt as _;

use super::*;

const MANUAL: &str = include_str!("../../../../../docs/openai.md");

fn asked(body: &str) -> Result<Asked, Status> {
    read(body.as_bytes())
}

fn hello(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!(r#"{{"messages": [{{"role": "user", "content": "hello"}}]{comma}{more}}}"#)
}

/// The manual's rows whose first cell begins so, each with what it says becomes of that.
fn rows(begin: &str) -> Vec<(&'static str, &'static str)> {
    let cells = MANUAL.lines().filter_map(|line| {
        let (example, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        Some((example, rest.split(" |").next()?))
    });
    cells.filter(|(example, _)| example.starts_with(begin)).collect()
}

#[test]
fn each_field_ends_as_the_manual_says() {
    let plain = asked(&hello("")).unwrap();
    let rows = rows("\"");
    assert!(rows.len() > 40, "{}", rows.len());
    for (field, becomes) in rows {
        let found = match asked(&hello(field)) {
            Err(status) => {
                let details = status.get_error_details();
                let param = &details.bad_request().unwrap().field_violations[0].field;
                let name = param.split(['.', '[']).next().unwrap();
                assert!(field.contains(&format!("\"{name}\":")), "{field}: {param}");
                "refused"
            }
            Ok(asked) if !asked.chat.extra_body_json.is_empty() => "passed through",
            Ok(asked) if asked == plain => "ignored",
            Ok(_) => "supported",
        };
        assert_eq!(found, becomes, "{field}");
    }
}

#[test]
fn each_message_ends_as_the_manual_says() {
    let rows = rows("{\"role\"");
    assert!(rows.len() > 12, "{}", rows.len());
    for (message, becomes) in rows {
        let found = match asked(&format!("{{\"messages\": [{message}]}}")) {
            Ok(_) => "supported",
            Err(_) => "refused",
        };
        assert_eq!(found, becomes, "{message}");
    }
}

fn text(text: &str) -> ContentPart {
    ContentPart { part: Some(content_part::Part::Text(text.into())) }
}

#[test]
fn a_whole_conversation_has_its_place_in_the_api() {
    let body = json!({
        "model": "assistant",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "name": "ann", "content": [
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
            ]},
            {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "a cat"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "looks", "strict": true}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "temperature": 1, "max_completion_tokens": 9, "stop": "x", "seed": -7,
        "user": "ann", "stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false},
        "aip": {"allow_degraded": false, "cache": "only", "tier": "max"},
    });
    let picture = content_part::Part::ImageUrl("https://example.com/a.png".into());
    let message =
        |role: Role, content: Vec<ContentPart>| Message { role: role.into(), content, ..Message::default() };
    let expected = ChatRequest {
        model: "assistant".into(),
        messages: vec![
            message(Role::System, vec![text("be brief")]),
            Message {
                name: "ann".into(),
                ..message(Role::User, vec![text("what is this?"), ContentPart { part: Some(picture) }])
            },
            Message {
                reasoning: "hm".into(),
                tool_calls: vec![ToolCall { id: "1".into(), name: "look".into(), arguments: "{}".into() }],
                ..message(Role::Assistant, vec![])
            },
            Message { tool_call_id: "1".into(), ..message(Role::Tool, vec![text("a cat")]) },
        ],
        tools: vec![Tool { name: "look".into(), description: "looks".into(), ..Tool::default() }],
        tool_choice: Some(ToolChoice { choice: Some(tool_choice::Choice::Function("look".into())) }),
        sampling: Some(Sampling {
            temperature: Some(1.0),
            max_tokens: Some(9),
            stop: vec!["x".into()],
            seed: Some(-7),
            ..Sampling::default()
        }),
        session: "ann".into(),
        allow_degraded: Some(false),
        cache: CacheMode::Only.into(),
        tier: "max".into(),
        ..ChatRequest::default()
    };
    let asked = asked(&body.to_string()).unwrap();
    assert_eq!(asked, Asked { chat: expected, stream: true, include_usage: true });
}

#[test]
fn a_refusal_goes_back_as_one() {
    let message = |json: &str| asked(&format!("{{\"messages\": [{json}]}}")).unwrap().chat.messages.remove(0);
    let whole = message(r#"{"role": "assistant", "content": null, "refusal": "no"}"#);
    let parts = r#"[{"type": "text", "text": "sorry"}, {"type": "refusal", "refusal": "no"}]"#;
    let parts = message(&format!(r#"{{"role": "assistant", "content": {parts}}}"#));
    assert_eq!((whole.content, whole.refusal.as_str()), (vec![], "no"));
    assert_eq!((parts.content, parts.refusal.as_str()), (vec![text("sorry")], "no"));
}

#[test]
fn choices_and_forms_are_told_apart() {
    let chat = |more: &str| asked(&hello(more)).unwrap().chat;
    for (mode, expected) in [
        ("none", ToolChoiceMode::None),
        ("auto", ToolChoiceMode::Auto),
        ("required", ToolChoiceMode::Required),
    ] {
        let choice = chat(&format!("\"tool_choice\": \"{mode}\"")).tool_choice.unwrap().choice;
        assert_eq!(choice, Some(tool_choice::Choice::Mode(expected.into())));
    }
    let schema = r#""response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}"#;
    let Some(response_format::Format::JsonSchema(schema)) = chat(schema).response_format.unwrap().format
    else {
        panic!();
    };
    assert_eq!((schema.strict, schema.schema_json.as_str()), (false, r#"{"type": "object"}"#));
    assert_eq!(chat(r#""prompt_cache_key": "a", "user": "b""#).session, "a");
    let both = chat(r#""max_tokens": 5, "max_completion_tokens": 5"#).sampling.unwrap();
    assert_eq!(both.max_tokens, Some(5));
}

#[test]
fn json_that_is_passed_on_keeps_its_order_and_its_numbers() {
    const SCHEMA: &str = r#"{"type":"object","properties":{"reasoning":{"maximum":9007199254740993},"answer":{"minimum":1.0},"a\u0022":null}}"#;
    let chat = asked(&hello(&format!(
        r#""tools": [{{"type": "function", "function": {{"name": "f", "parameters": {SCHEMA}}}}}],
        "response_format": {{"type": "json_schema", "json_schema": {{"name": "s", "schema": {SCHEMA}}}}},
        "guided_json": {SCHEMA}, "min_p": 1.0, "odd \" name": 1e2, "nothing": null"#
    )));
    let chat = chat.unwrap().chat;
    assert_eq!(chat.tools[0].parameters_json, SCHEMA);
    let Some(response_format::Format::JsonSchema(format)) = chat.response_format.unwrap().format else {
        panic!();
    };
    assert_eq!(format.schema_json, SCHEMA);
    let extra = format!(r#"{{"guided_json":{SCHEMA},"min_p":1.0,"odd \" name":1e2}}"#);
    assert_eq!(chat.extra_body_json, extra);
}

#[test]
fn what_is_wrong_is_named_and_not_repeated() {
    let long = format!("\"user\": \"{}\"", "secret".repeat(50));
    for (more, message) in [
        ("\"temperature\": \"secret\"", "temperature: must be a number"),
        ("\"max_tokens\": 0.5", "max_tokens: must be a whole number of 1 to 4294967295"),
        ("\"max_tokens\": 4294967296", "max_tokens: must be a whole number of 1 to 4294967295"),
        ("\"max_tokens\": -1", "max_tokens: must be a whole number of 1 to 4294967295"),
        (
            "\"max_tokens\": 1, \"max_completion_tokens\": 2",
            "max_tokens: must be left out or equal to max_completion_tokens",
        ),
        ("\"seed\": 1e30", "seed: must be a whole number of 64 bits"),
        ("\"stop\": [1]", "stop: must be a string or a list of strings"),
        ("\"stream\": \"secret\"", "stream: must be true or false"),
        ("\"model\": [\"secret\"]", "model: must be a string"),
        ("\"messages\": \"secret\"", "messages: must be a list"),
        ("\"messages\": [\"secret\"]", "messages[0]: must be an object"),
        ("\"messages\": [{\"content\": \"secret\"}]", "messages[0].role: must be set"),
        (
            "\"messages\": [{\"role\": \"secret\"}]",
            "messages[0].role: must be system, developer, user, assistant or tool",
        ),
        (
            "\"messages\": [{\"role\": \"user\", \"content\": 7}]",
            "messages[0].content: must be a string or a list of parts",
        ),
        (
            "\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]",
            "messages[0].content[0].text: must be set",
        ),
        ("\"tools\": {}", "tools: must be a list"),
        ("\"tools\": [{\"type\": \"function\"}]", "tools[0].function: must be set"),
        (
            "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": []}}]",
            "tools[0].function.parameters: must be an object",
        ),
        ("\"tool_choice\": 7", "tool_choice: must be none, auto, required or a function"),
        (
            "\"response_format\": {\"type\": \"xml\"}",
            "response_format.type: must be text, json_object or json_schema",
        ),
        ("\"aip\": {\"cache\": \"secret\"}", "aip.cache: must be default, bypass or only"),
        ("\"aip\": {\"teir\": \"max\"}", "aip.teir: is not known here"),
        (long.as_str(), "user: must be at most 256 bytes"),
    ] {
        let status = asked(&hello(more)).unwrap_err();
        assert_eq!(status.message(), message);
        assert_eq!(reason_of(&status).as_deref(), Some("INVALID_REQUEST"));
        let param = message.split(": ").next().unwrap();
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, param);
    }
}

#[test]
fn what_is_no_json_is_told_by_its_place() {
    let deep = "[".repeat(1000);
    let many = hello(&format!("\"x\": [{}0]", "0,".repeat(50_000)));
    for (body, message) in [
        ("", "the body is not JSON: EOF while parsing a value at line 1 column 0"),
        ("{\"a\": secret}", "the body is not JSON: expected value at line 1 column 7"),
        ("{\"a\":\n \"b\" 1}", "the body is not JSON: expected `,` or `}` at line 2 column 6"),
        ("{\"a\": 1e999}", "the body must not hold a number that is too large: line 1 column 11"),
        (deep.as_str(), "the body must be at most 127 levels deep: line 1 column 128"),
        (many.as_str(), "the body must be of at most 50000 values"),
        ("[]", "the body must be an object"),
        ("{}", "messages: must be set"),
    ] {
        assert_eq!(asked(body).unwrap_err().message(), message);
    }
    assert!(
        read(b"{\"messages\": \"\xff\"}")
            .unwrap_err()
            .message()
            .starts_with("the body is not JSON: invalid unicode")
    );
}
