//! The rules that the comments in `proto/` state for a chat, checked.

mod json;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::inference::v1::{
    CacheMode, ChatRequest, ContentPart, Message, ResponseFormat, Role, Sampling, Tool, ToolChoice,
    ToolChoiceMode, content_part, response_format, tool_choice,
};
pub use json::{MAX_DEPTH, MAX_VALUES};

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
/// Calls that a message may make.
pub const MAX_TOOL_CALLS: usize = 128;
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
        found.require(
            name.len() <= MAX_MODEL_NAME,
            field,
            format_args!("must be at most {MAX_MODEL_NAME} bytes"),
        );
    }
    let session = chat.session.len() <= MAX_SESSION;
    found.require(session, "session", format_args!("must be at most {MAX_SESSION} bytes"));
    found.messages(&chat.messages);
    if let Some(sampling) = &chat.sampling {
        found.sampling(sampling);
    }
    found.tools(&chat.tools);
    found.tool_choice(chat.tool_choice.as_ref(), &chat.tools);
    found.response_format(chat.response_format.as_ref());
    if CacheMode::try_from(chat.cache).is_err() {
        found.add("cache", "must be a known cache mode");
    }
    found.json_fields("extra_body", chat.extra_body.as_ref(), &chat.extra_body_json, |found, field, name| {
        if RESERVED.contains(&name) {
            found.add(format_args!("{field}.{name}"), "must not be set here: the request has a field for it");
        }
    });
    found.violations
}

/// Checks how to sample, wherever it is said. Fields are named as in a request: `sampling.temperature`. Empty when every
/// rule holds.
pub fn sampling_violations(sampling: &Sampling) -> Vec<Violation> {
    let mut found = Found::default();
    found.sampling(sampling);
    found.violations
}

#[derive(Default)]
struct Found {
    violations: Vec<Violation>,
    /// Values of JSON so far.
    values: usize,
}

impl Found {
    fn add(&mut self, field: impl fmt::Display, rule: impl fmt::Display) {
        if self.violations.len() >= MAX_VIOLATIONS {
            return;
        }
        self.violations.push(Violation { field: field.to_string(), rule: rule.to_string() });
    }

    /// Field and rule are written out only when it does not hold: most requests break no rule.
    fn require(&mut self, holds: bool, field: impl fmt::Display, rule: impl fmt::Display) {
        if !holds {
            self.add(field, rule);
        }
    }

    fn messages(&mut self, messages: &[Message]) {
        let count = messages.len();
        self.require(
            (1..=MAX_MESSAGES).contains(&count),
            "messages",
            format_args!("must be 1 to {MAX_MESSAGES} messages"),
        );
        for (index, message) in messages.iter().take(MAX_MESSAGES).enumerate() {
            self.message(format_args!("messages[{index}]"), message);
        }
        if let Some(last) = messages.last() {
            self.require(
                last.role() != Role::System,
                format_args!("messages[{}].role", count - 1),
                "must not be system in the last message",
            );
        }
    }

    fn message(&mut self, field: fmt::Arguments<'_>, message: &Message) {
        let role = Role::try_from(message.role).unwrap_or(Role::Unspecified);
        self.require(role != Role::Unspecified, format_args!("{field}.role"), "must be a known role");
        if matches!(role, Role::User | Role::System) {
            self.require(
                !message.content.is_empty(),
                format_args!("{field}.content"),
                "must have at least one part",
            );
        }
        // A model that is asked nothing answers something made up, and some chat templates fail on it.
        let blank = role == Role::User && !message.content.is_empty() && message.content.iter().all(is_blank);
        self.require(
            !blank,
            format_args!("{field}.content"),
            "must hold more than white space in a user message",
        );
        let few = message.content.len() <= MAX_PARTS;
        self.require(
            few,
            format_args!("{field}.content"),
            format_args!("must have at most {MAX_PARTS} parts"),
        );
        for (index, part) in message.content.iter().take(MAX_PARTS).enumerate() {
            self.part(format_args!("{field}.content[{index}]"), part);
        }
        let only_assistant = message.tool_calls.is_empty() || role == Role::Assistant;
        self.require(
            only_assistant,
            format_args!("{field}.tool_calls"),
            "must be empty but in an assistant message",
        );
        let only_assistant = message.refusal.is_empty() || role == Role::Assistant;
        self.require(
            only_assistant,
            format_args!("{field}.refusal"),
            "must be empty but in an assistant message",
        );
        self.require(
            message.tool_calls.len() <= MAX_TOOL_CALLS,
            format_args!("{field}.tool_calls"),
            format_args!("must be at most {MAX_TOOL_CALLS} calls"),
        );
        let names_call = (role == Role::Tool) != message.tool_call_id.is_empty();
        self.require(
            names_call,
            format_args!("{field}.tool_call_id"),
            "must be set in a tool message and in no other",
        );
        self.require(
            message.name.len() <= MAX_NAME,
            format_args!("{field}.name"),
            format_args!("must be at most {MAX_NAME} bytes"),
        );
    }

    fn part(&mut self, field: fmt::Arguments<'_>, part: &ContentPart) {
        match &part.part {
            None => self.add(field, "must be text or image_url"),
            Some(content_part::Part::Text(_)) => {}
            Some(content_part::Part::ImageUrl(url)) => {
                let usable = url.starts_with("https://") || url.starts_with("data:image/");
                self.require(usable, format_args!("{field}.image_url"), "must be an https or data:image URL");
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
            self.require(holds, format_args!("sampling.{name}"), rule);
        }
        self.require(sampling.top_k != Some(0), "sampling.top_k", "must be at least 1");
        self.require(sampling.max_tokens != Some(0), "sampling.max_tokens", "must be at least 1");
        let stops = sampling.stop.len();
        self.require(stops <= MAX_STOPS, "sampling.stop", format_args!("must be at most {MAX_STOPS} texts"));
        let filled = sampling.stop.iter().all(|stop| !stop.is_empty());
        self.require(filled, "sampling.stop", "must not hold an empty text");
    }

    fn tools(&mut self, tools: &[Tool]) {
        self.require(tools.len() <= MAX_TOOLS, "tools", format_args!("must be at most {MAX_TOOLS} tools"));
        for (index, tool) in tools.iter().take(MAX_TOOLS).enumerate() {
            self.require(is_identifier(&tool.name), format_args!("tools[{index}].name"), IdentifierRule);
            let field = format_args!("tools[{index}].parameters");
            self.json(field, tool.parameters.as_ref(), &tool.parameters_json);
        }
    }

    fn tool_choice(&mut self, choice: Option<&ToolChoice>, tools: &[Tool]) {
        match choice.map(|choice| &choice.choice) {
            None => {}
            Some(None) => self.add("tool_choice", "must be a mode or a function"),
            Some(Some(tool_choice::Choice::Function(name))) => {
                let known = tools.iter().any(|tool| tool.name == *name);
                self.require(known, "tool_choice.function", "must be one of the tools");
            }
            Some(Some(tool_choice::Choice::Mode(mode))) => match ToolChoiceMode::try_from(*mode) {
                Err(_) => self.add("tool_choice.mode", "must be a known mode"),
                Ok(ToolChoiceMode::Required) => {
                    self.require(!tools.is_empty(), "tool_choice.mode", "must not be required without tools");
                }
                Ok(ToolChoiceMode::Unspecified | ToolChoiceMode::Auto | ToolChoiceMode::None) => {}
            },
        }
    }

    fn response_format(&mut self, format: Option<&ResponseFormat>) {
        match format.map(|format| &format.format) {
            Some(None) => self.add("response_format", "must be json_object or json_schema"),
            Some(Some(response_format::Format::JsonSchema(schema))) => {
                self.require(is_identifier(&schema.name), "response_format.json_schema.name", IdentifierRule);
                let field = "response_format.json_schema.schema";
                let given = schema.schema.is_some() || !schema.schema_json.is_empty();
                self.require(given, field, "must be set");
                self.json(format_args!("{field}"), schema.schema.as_ref(), &schema.schema_json);
            }
            Some(Some(response_format::Format::JsonObject(_))) | None => {}
        }
    }
}

fn is_blank(part: &ContentPart) -> bool {
    matches!(&part.part, Some(content_part::Part::Text(text)) if text.trim().is_empty())
}

fn is_identifier(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// The rule that [`is_identifier`] checks.
struct IdentifierRule;

impl fmt::Display for IdentifierRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be 1 to {MAX_NAME} letters, digits, _ or -")
    }
}
