//! The rules that the comments in `proto/` state for a chat, checked.

use crate::inference::v1::{
    CacheMode, ChatRequest, ContentPart, Message, ResponseFormat, Role, Sampling, Tool, content_part,
    response_format,
};

/// A field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field, as a path from the request.
    pub field: String,
    /// What it must be.
    pub rule: String,
}

/// Messages that a conversation may have.
pub const MAX_MESSAGES: usize = 128;
/// Tools that a request may name.
pub const MAX_TOOLS: usize = 128;
/// Stop texts that a request may name.
pub const MAX_STOPS: usize = 4;
/// Parts that a message may have.
pub const MAX_PARTS: usize = 64;
/// Bytes of a session's name.
const MAX_SESSION: usize = 256;
/// Bytes of the name of a model or tier.
pub const MAX_MODEL_NAME: usize = 256;
/// Broken rules that are told; one is enough to refuse a request.
pub const MAX_VIOLATIONS: usize = 16;
/// Bytes of a name.
pub const MAX_NAME: usize = 64;

/// Keys of `extra_body` that this API has fields for.
const RESERVED: &[&str] = &[
    "frequency_penalty",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "n",
    "presence_penalty",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
];

/// Checks a chat. Empty when every rule holds.
pub fn violations(chat: &ChatRequest) -> Vec<Violation> {
    let mut found = Found::default();
    for (field, name) in [("model", &chat.model), ("tier", &chat.tier)] {
        found.require(name.len() <= MAX_MODEL_NAME, field, format!("must be at most {MAX_MODEL_NAME} bytes"));
    }
    let session = chat.session.len() <= MAX_SESSION;
    found.require(session, "session", format!("must be at most {MAX_SESSION} bytes"));
    found.messages(&chat.messages);
    if let Some(sampling) = &chat.sampling {
        found.sampling(sampling);
    }
    found.tools(&chat.tools);
    found.response_format(chat.response_format.as_ref());
    if CacheMode::try_from(chat.cache).is_err() {
        found.add("cache", "must be a known cache mode");
    }
    for key in chat.extra_body.iter().flat_map(|body| body.fields.keys()) {
        if RESERVED.contains(&key.as_str()) {
            found.add(format!("extra_body.{key}"), "must not be set here: the request has a field for it");
        }
    }
    found.0
}

#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        if self.0.len() >= MAX_VIOLATIONS {
            return;
        }
        self.0.push(Violation { field: field.into(), rule: rule.into() });
    }

    fn require(&mut self, holds: bool, field: impl Into<String>, rule: impl Into<String>) {
        if !holds {
            self.add(field, rule);
        }
    }

    fn messages(&mut self, messages: &[Message]) {
        let count = messages.len();
        self.require(
            (1..=MAX_MESSAGES).contains(&count),
            "messages",
            format!("must be 1 to {MAX_MESSAGES} messages"),
        );
        for (index, message) in messages.iter().take(MAX_MESSAGES).enumerate() {
            self.message(&format!("messages[{index}]"), message);
        }
        if let Some(last) = messages.last() {
            let field = format!("messages[{}].role", count - 1);
            self.require(last.role() != Role::System, field, "must not be system in the last message");
        }
    }

    fn message(&mut self, field: &str, message: &Message) {
        let role = Role::try_from(message.role).unwrap_or(Role::Unspecified);
        self.require(role != Role::Unspecified, format!("{field}.role"), "must be a known role");
        if matches!(role, Role::User | Role::System) {
            self.require(
                !message.content.is_empty(),
                format!("{field}.content"),
                "must have at least one part",
            );
        }
        let few = message.content.len() <= MAX_PARTS;
        self.require(few, format!("{field}.content"), format!("must have at most {MAX_PARTS} parts"));
        for (index, part) in message.content.iter().take(MAX_PARTS).enumerate() {
            self.part(&format!("{field}.content[{index}]"), part);
        }
        let only_assistant = message.tool_calls.is_empty() || role == Role::Assistant;
        self.require(
            only_assistant,
            format!("{field}.tool_calls"),
            "must be empty but in an assistant message",
        );
        let names_call = (role == Role::Tool) != message.tool_call_id.is_empty();
        self.require(
            names_call,
            format!("{field}.tool_call_id"),
            "must be set in a tool message and in no other",
        );
        self.require(
            message.name.len() <= MAX_NAME,
            format!("{field}.name"),
            format!("must be at most {MAX_NAME} bytes"),
        );
    }

    fn part(&mut self, field: &str, part: &ContentPart) {
        match &part.part {
            None => self.add(field, "must be text or image_url"),
            Some(content_part::Part::Text(_)) => {}
            Some(content_part::Part::ImageUrl(url)) => {
                let usable = url.starts_with("https://") || url.starts_with("data:image/");
                self.require(usable, format!("{field}.image_url"), "must be an https or data:image URL");
            }
        }
    }

    fn sampling(&mut self, sampling: &Sampling) {
        let ranges = [
            ("temperature", sampling.temperature, 0.0..=2.0, "must be 0 to 2"),
            ("top_p", sampling.top_p, f64::MIN_POSITIVE..=1.0, "must be over 0 and at most 1"),
            ("presence_penalty", sampling.presence_penalty, -2.0..=2.0, "must be -2 to 2"),
            ("frequency_penalty", sampling.frequency_penalty, -2.0..=2.0, "must be -2 to 2"),
        ];
        for (name, value, range, rule) in ranges {
            let holds = value.is_none_or(|value| range.contains(&value));
            self.require(holds, format!("sampling.{name}"), rule);
        }
        self.require(sampling.top_k != Some(0), "sampling.top_k", "must be at least 1");
        self.require(sampling.max_tokens != Some(0), "sampling.max_tokens", "must be at least 1");
        let stops = sampling.stop.len();
        self.require(stops <= MAX_STOPS, "sampling.stop", format!("must be at most {MAX_STOPS} texts"));
        let filled = sampling.stop.iter().all(|stop| !stop.is_empty());
        self.require(filled, "sampling.stop", "must not hold an empty text");
    }

    fn tools(&mut self, tools: &[Tool]) {
        self.require(tools.len() <= MAX_TOOLS, "tools", format!("must be at most {MAX_TOOLS} tools"));
        for (index, tool) in tools.iter().take(MAX_TOOLS).enumerate() {
            self.require(is_identifier(&tool.name), format!("tools[{index}].name"), identifier_rule());
        }
    }

    fn response_format(&mut self, format: Option<&ResponseFormat>) {
        match format.map(|format| &format.format) {
            Some(None) => self.add("response_format", "must be json_object or json_schema"),
            Some(Some(response_format::Format::JsonSchema(schema))) => {
                self.require(
                    is_identifier(&schema.name),
                    "response_format.json_schema.name",
                    identifier_rule(),
                );
                self.require(schema.schema.is_some(), "response_format.json_schema.schema", "must be set");
            }
            Some(Some(response_format::Format::JsonObject(_))) | None => {}
        }
    }
}

fn is_identifier(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn identifier_rule() -> String {
    format!("must be 1 to {MAX_NAME} letters, digits, _ or -")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let no_part = Message { content: vec![ContentPart { part: None }], ..text(Role::User, "") };
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
        let expected =
            ["temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "max_tokens"];
        assert_eq!(fields(&chat), expected.map(|name| format!("sampling.{name}")));
    }

    #[test]
    fn the_pass_through_cannot_override_a_field() {
        let fields_of = [("model".to_owned(), prost_types::Value::default())];
        let body = prost_types::Struct { fields: fields_of.into() };
        let chat = ChatRequest { extra_body: Some(body), ..chat(vec![text(Role::User, "x")]) };
        assert_eq!(fields(&chat), ["extra_body.model"]);
    }
}
