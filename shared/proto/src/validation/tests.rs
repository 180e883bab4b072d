use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::*;
use crate::inference::v1::{JsonSchemaFormat, StreamChatRequest, ToolCall};

fn text(role: Role, text: &str) -> Message {
    let part = content_part::Part::Text(text.into());
    Message { role: role.into(), content: vec![ContentPart { part: Some(part) }], ..Message::default() }
}

fn chat(messages: Vec<Message>) -> ChatRequest {
    ChatRequest { messages, ..ChatRequest::default() }
}

fn fields(chat: &ChatRequest) -> Vec<String> {
    violations(chat).into_iter().map(|violation| violation.field).collect()
}

#[test]
fn a_plain_question_breaks_no_rule() {
    assert_eq!(violations(&chat(vec![text(Role::System, "be brief"), text(Role::User, "hi")])), []);
}

#[test]
fn every_broken_rule_is_named_with_its_field() {
    let no_part = Message { content: vec![ContentPart { part: None }], ..text(Role::User, "x") };
    let picture = ContentPart { part: Some(content_part::Part::ImageUrl("ftp://x".into())) };
    let cases = [
        (chat(vec![]), "messages"),
        (chat(vec![text(Role::User, "x"); 129]), "messages"),
        (chat(vec![text(Role::Unspecified, "x")]), "messages[0].role"),
        (chat(vec![text(Role::System, "x")]), "messages[0].role"),
        (chat(vec![Message { content: vec![], ..text(Role::User, "") }]), "messages[0].content"),
        (chat(vec![no_part]), "messages[0].content[0]"),
        (
            chat(vec![Message { content: vec![picture], ..text(Role::User, "") }]),
            "messages[0].content[0].image_url",
        ),
        (chat(vec![text(Role::Tool, "42")]), "messages[0].tool_call_id"),
        (chat(vec![text(Role::User, " \n")]), "messages[0].content"),
        (
            chat(vec![
                Message { tool_calls: vec![ToolCall::default(); 129], ..text(Role::Assistant, "") },
                text(Role::User, "x"),
            ]),
            "messages[0].tool_calls",
        ),
        (chat(vec![Message { refusal: "no".into(), ..text(Role::User, "x") }]), "messages[0].refusal"),
        (chat(vec![Message { name: "x".repeat(65), ..text(Role::User, "x") }]), "messages[0].name"),
    ];
    for (chat, field) in cases {
        assert_eq!(fields(&chat), [field]);
    }
}

#[test]
fn a_flood_of_broken_rules_is_not_repeated_in_full() {
    let parts = vec![ContentPart { part: None }; 10_000];
    let messages = vec![Message { content: parts, ..text(Role::User, "") }; 200];
    assert_eq!(violations(&chat(messages)).len(), MAX_VIOLATIONS);
}

#[test]
fn a_name_that_is_too_long_is_refused() {
    let long = ChatRequest { model: "x".repeat(257), ..chat(vec![text(Role::User, "x")]) };
    assert_eq!(fields(&long), ["model"]);
}

#[test]
fn numbers_out_of_range_are_refused_nan_included() {
    let sampling = Sampling {
        temperature: Some(f64::NAN),
        top_p: Some(0.0),
        top_k: Some(0),
        max_tokens: Some(0),
        presence_penalty: Some(-2.1),
        frequency_penalty: Some(f64::INFINITY),
        ..Sampling::default()
    };
    let chat = ChatRequest { sampling: Some(sampling), ..chat(vec![text(Role::User, "x")]) };
    let expected = ["temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "max_tokens"];
    assert_eq!(fields(&chat), expected.map(|name| format!("sampling.{name}")));
}

#[test]
fn the_pass_through_cannot_override_a_field() {
    let fields_of = [("model".to_owned(), Value::default())];
    let body = Struct { fields: fields_of.into() };
    let chat = ChatRequest { extra_body: Some(body), ..chat(vec![text(Role::User, "x")]) };
    assert_eq!(fields(&chat), ["extra_body.model"]);
}

fn number(number: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(number)) }
}

fn object(value: Value) -> Struct {
    Struct { fields: [("x".to_owned(), value)].into() }
}

/// A number inside of this many objects and lists in turn.
fn nested(depth: usize) -> Struct {
    let mut value = number(1.0);
    for level in 1..depth {
        let kind = if level % 2 == 0 {
            Kind::StructValue(object(value))
        } else {
            Kind::ListValue(ListValue { values: vec![value] })
        };
        value = Value { kind: Some(kind) };
    }
    object(value)
}

#[test]
fn json_is_bounded_in_depth_and_finite() {
    let with = |extra_body| ChatRequest { extra_body: Some(extra_body), ..chat(vec![text(Role::User, "x")]) };
    assert_eq!(violations(&with(nested(MAX_DEPTH))), []);
    assert_eq!(fields(&with(nested(MAX_DEPTH + 1))), ["extra_body.x"]);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(fields(&with(object(number(bad)))), ["extra_body.x"]);
    }
    let long = Struct { fields: [("x".repeat(65), number(f64::NAN))].into() };
    assert_eq!(fields(&with(long)), ["extra_body"]);
    let tool = Tool { name: "f".into(), parameters: Some(nested(100)), ..Tool::default() };
    let schema =
        JsonSchemaFormat { name: "s".into(), schema: Some(nested(100)), ..JsonSchemaFormat::default() };
    let format = ResponseFormat { format: Some(response_format::Format::JsonSchema(schema)) };
    let deep =
        ChatRequest { tools: vec![tool], response_format: Some(format), ..chat(vec![text(Role::User, "x")]) };
    assert_eq!(fields(&deep), ["tools[0].parameters", "response_format.json_schema.schema"]);
}

#[test]
fn all_json_of_a_request_is_bounded_in_number() {
    // A list of so many, itself among them.
    let list = |values| {
        let values = vec![number(1.0); values - 1];
        object(Value { kind: Some(Kind::ListValue(ListValue { values })) })
    };
    let tool = |values| Tool { name: "f".into(), parameters: Some(list(values)), ..Tool::default() };
    let with = |first, second, extra| ChatRequest {
        tools: vec![tool(first), tool(second)],
        extra_body: Some(list(extra)),
        ..chat(vec![text(Role::User, "x")])
    };
    let quarter = MAX_VALUES / 4;
    assert_eq!(violations(&with(2 * quarter, quarter, quarter)), []);
    assert_eq!(fields(&with(2 * quarter, quarter, quarter + 1)), ["extra_body.x"]);
    assert_eq!(fields(&with(2 * quarter, 2 * quarter + 1, 1)), ["tools[1].parameters", "extra_body.x"]);
}

/// Lists inside each other, in an object, as text.
fn nested_text(depth: usize) -> String {
    format!(r#"{{"x":{}1{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
}

#[test]
fn the_rules_hold_for_json_in_text() {
    let with = |extra_body_json: String| ChatRequest { extra_body_json, ..chat(vec![text(Role::User, "x")]) };
    let list = |values| format!(r#"{{"x":[{}0],"y":0}}"#, "0,".repeat(values - 3));
    for fine in
        [nested_text(MAX_DEPTH), list(MAX_VALUES), " {} ".into(), r#"{"x":[true,-1,"a",null]}"#.into()]
    {
        assert_eq!(violations(&with(fine)), []);
    }
    for (json, field, rule) in [
        (nested_text(MAX_DEPTH + 1), ".x", "must be at most 24 levels deep"),
        (nested_text(1000), ".x", "must be at most 24 levels deep"),
        (list(MAX_VALUES + 1), ".y", "must be at most 20000 values, with all JSON of the request"),
        (r#"{"mod\u0065l":1}"#.into(), ".model", "must not be set here: the request has a field for it"),
        (r#"{"x":1e999}"#.into(), ".x", "must be the text of a JSON object"),
        (r#"{"x":secret}"#.into(), ".x", "must be the text of a JSON object"),
        (r#"{"x":1}, "y":1}"#.into(), "", "must be the text of a JSON object"),
        ("[1]".into(), "", "must be the text of a JSON object"),
        (" ".into(), "", "must be the text of a JSON object"),
        (format!(r#"{{"{}":1e999}}"#, "x".repeat(65)), "", "must be the text of a JSON object"),
    ] {
        let expected = Violation { field: format!("extra_body_json{field}"), rule: rule.into() };
        assert_eq!(violations(&with(json)), [expected]);
    }
    // All JSON of a request counts together, whatever its form.
    let tool = |json: String| Tool { name: "f".into(), parameters_json: json, ..Tool::default() };
    let both = ChatRequest { tools: vec![tool(list(MAX_VALUES))], ..with("{\"x\":1}".into()) };
    assert_eq!(fields(&both), ["extra_body_json.x"]);
    let deep = ChatRequest { tools: vec![tool(nested_text(25))], ..chat(vec![text(Role::User, "x")]) };
    assert_eq!(fields(&deep), ["tools[0].parameters_json"]);
}

#[test]
fn json_comes_in_one_form() {
    let tool = Tool {
        name: "f".into(),
        parameters: Some(nested(1)),
        parameters_json: "{}".into(),
        ..Tool::default()
    };
    let format = |schema: Option<Struct>, schema_json: &str| {
        let schema =
            JsonSchemaFormat { name: "s".into(), schema, schema_json: schema_json.into(), strict: false };
        Some(ResponseFormat { format: Some(response_format::Format::JsonSchema(schema)) })
    };
    let twice = ChatRequest {
        tools: vec![tool],
        response_format: format(Some(nested(1)), "{}"),
        extra_body: Some(nested(1)),
        extra_body_json: "{}".into(),
        ..chat(vec![text(Role::User, "x")])
    };
    let expected = ["tools[0].parameters_json", "response_format.json_schema.schema_json", "extra_body_json"];
    assert_eq!(fields(&twice), expected);
    let formed = |schema: Option<Struct>, text_of: &str| ChatRequest {
        response_format: format(schema, text_of),
        ..chat(vec![text(Role::User, "x")])
    };
    assert_eq!(fields(&formed(None, "{}")), [] as [&str; 0]);
    assert_eq!(fields(&formed(None, "")), ["response_format.json_schema.schema"]);
}

#[test]
fn what_passes_the_depth_rule_also_passes_the_decoder() {
    use prost::Message as _;
    let mut deepest = Value { kind: Some(Kind::NumberValue(1.0)) };
    for _ in 1..MAX_DEPTH {
        deepest = Value { kind: Some(Kind::StructValue(object(deepest))) };
    }
    let schema =
        JsonSchemaFormat { name: "s".into(), schema: Some(object(deepest)), ..JsonSchemaFormat::default() };
    let format = ResponseFormat { format: Some(response_format::Format::JsonSchema(schema)) };
    let deep = ChatRequest { response_format: Some(format), ..chat(vec![text(Role::User, "x")]) };
    let streamed = StreamChatRequest { chat: Some(deep.clone()) };
    assert_eq!(violations(&deep), []);
    assert!(StreamChatRequest::decode(&*streamed.encode_to_vec()).is_ok());
}

#[test]
fn a_tool_choice_must_be_possible() {
    let choose = |choice, tools: &[&str]| ChatRequest {
        tool_choice: Some(ToolChoice { choice }),
        tools: tools.iter().map(|name| Tool { name: (*name).into(), ..Tool::default() }).collect(),
        ..chat(vec![text(Role::User, "x")])
    };
    let function = |name: &str| Some(tool_choice::Choice::Function(name.into()));
    let mode = |mode: ToolChoiceMode| Some(tool_choice::Choice::Mode(mode.into()));
    assert_eq!(fields(&choose(function("f"), &["f"])), [] as [&str; 0]);
    assert_eq!(fields(&choose(mode(ToolChoiceMode::Required), &["f"])), [] as [&str; 0]);
    assert_eq!(fields(&choose(mode(ToolChoiceMode::None), &[])), [] as [&str; 0]);
    assert_eq!(fields(&choose(function("g"), &["f"])), ["tool_choice.function"]);
    assert_eq!(fields(&choose(function("f"), &[])), ["tool_choice.function"]);
    assert_eq!(fields(&choose(mode(ToolChoiceMode::Required), &[])), ["tool_choice.mode"]);
    assert_eq!(fields(&choose(Some(tool_choice::Choice::Mode(9)), &[])), ["tool_choice.mode"]);
    assert_eq!(fields(&choose(None, &[])), ["tool_choice"]);
}
