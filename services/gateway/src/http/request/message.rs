//! The messages of a request.

use aiplatform_proto::inference::v1::{ContentPart, Message, Role, ToolCall, content_part};
use serde_json::value::RawValue;

use super::super::object::{Object, Refusal, element, read};

/// Where Anthropic's servers are to begin a cache of the prompt; some clients send it to everybody. It changes no answer.
const CACHE_CONTROL: &str = "cache_control";

pub(super) fn messages(list: &RawValue) -> Result<Vec<Message>, Refusal> {
    let list: Option<Vec<&RawValue>> = read(list);
    let list = list.ok_or_else(|| Refusal::new("messages", "must be a list"))?;
    list.into_iter().enumerate().map(|(index, json)| message(&element("messages", index), json)).collect()
}

fn message(path: &str, json: &RawValue) -> Result<Message, Refusal> {
    let mut object = Object::of(path, json)?;
    let role = match object.required_text("role")?.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        "function" => return object.refuse("role", "must be tool, where it was function"),
        _ => return object.refuse("role", "must be system, developer, user, assistant or tool"),
    };
    let mut refusal = String::new();
    let mut message = Message {
        role: role.into(),
        content: content(&mut object, &mut refusal)?,
        tool_calls: tool_calls(&mut object)?,
        tool_call_id: object.text("tool_call_id")?.unwrap_or_default(),
        name: object.text("name")?.unwrap_or_default(),
        reasoning: reasoning(&mut object)?,
        refusal: String::new(),
    };
    message.refusal = object.text("refusal")?.unwrap_or(refusal);
    for (name, rule) in
        [("audio", "must not be set: only text"), ("function_call", "must not be set: use tool_calls")]
    {
        if object.take(name).is_some() {
            return object.refuse(name, rule);
        }
    }
    // Clients send back the answers that they were given, with all that those had. OpenAI's own add what they read in them.
    object.ignore(&["annotations", "parsed", CACHE_CONTROL]);
    object.end()?;
    Ok(message)
}

fn reasoning(message: &mut Object<'_>) -> Result<String, Refusal> {
    let newer = message.text("reasoning")?;
    let older = message.text("reasoning_content")?;
    Ok(newer.or(older).unwrap_or_default())
}

fn text(text: String) -> ContentPart {
    ContentPart { part: Some(content_part::Part::Text(text)) }
}

/// What is said. Parts that are refusals are put into `refusal`.
fn content(message: &mut Object<'_>, refusal: &mut String) -> Result<Vec<ContentPart>, Refusal> {
    let Some(json) = message.take("content") else { return Ok(Vec::new()) };
    if let Some(said) = read(json) {
        return Ok(vec![text(said)]);
    }
    let Some(parts) = read::<Vec<&RawValue>>(json) else {
        return message.refuse("content", "must be a string or a list of parts");
    };
    let path = message.path("content");
    let parts = parts.into_iter().enumerate();
    let parts = parts.map(|(index, json)| part(&element(&path, index), json, refusal));
    parts.filter_map(Result::transpose).collect()
}

fn part(path: &str, json: &RawValue, refusal: &mut String) -> Result<Option<ContentPart>, Refusal> {
    let mut object = Object::of(path, json)?;
    let kind = object.required_text("type")?;
    let part = match kind.as_str() {
        "text" => Some(text(object.required_text("text")?)),
        "refusal" => {
            refusal.push_str(&object.required_text("refusal")?);
            None
        }
        "image_url" => {
            let Some(mut image) = object.object("image_url")? else {
                return object.refuse("image_url", "must be set");
            };
            let url = image.required_text("url")?;
            image.ignore(&["detail"]);
            image.end()?;
            Some(ContentPart { part: Some(content_part::Part::ImageUrl(url)) })
        }
        _ => return object.refuse("type", "must be text or image_url"),
    };
    object.ignore(&[CACHE_CONTROL]);
    object.end()?;
    Ok(part)
}

fn tool_calls(message: &mut Object<'_>) -> Result<Vec<ToolCall>, Refusal> {
    let path = message.path("tool_calls");
    let calls = message.list("tool_calls")?.unwrap_or_default();
    calls.into_iter().enumerate().map(|(index, json)| tool_call(&element(&path, index), json)).collect()
}

fn tool_call(path: &str, json: &RawValue) -> Result<ToolCall, Refusal> {
    let mut object = Object::of(path, json)?;
    if object.text("type")?.is_some_and(|kind| kind != "function") {
        return object.refuse("type", "must be function");
    }
    let id = object.required_text("id")?;
    let Some(mut function) = object.object("function")? else {
        return object.refuse("function", "must be set");
    };
    let name = function.required_text("name")?;
    let arguments = function.text("arguments")?.unwrap_or_default();
    function.ignore(&["parsed_arguments"]);
    function.end()?;
    // Some clients send the pieces of a stream back, which are counted.
    object.ignore(&["index"]);
    object.end()?;
    Ok(ToolCall { id, name, arguments })
}
