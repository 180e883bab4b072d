//! The body of a chat completion request as a chat.
//!
//! Every field ends in one of four ways, which `docs/openai.md` lists and a test holds it to: it has a place in our API; it
//! is passed through to servers that speak the same protocol; it is OpenAI's own bookkeeping and changes nothing here; or it
//! cannot be done, and is refused by its name. What nobody has heard of is passed through, so that a server's own
//! extensions can be used. Ranges and lengths are not checked here: the rules of the API are, whoever asks.

mod message;
mod tools;
mod values;
mod well_formed;

use aiplatform_proto::inference::v1::{CacheMode, ChatRequest, Sampling};
use serde_json::Value;
use serde_json::value::RawValue;
use service_kit::status::Reason;
use tonic::Status;

use self::values::{MAX_BODY_VALUES, are_few};
use self::well_formed::WellFormed;
use super::object::{self, Object, Refusal};

/// Bytes that the name of a session may have.
const MAX_SESSION: usize = 256;
/// Fields that belong to OpenAI's platform and change no answer.
const IGNORED: &[&str] = &["metadata", "safety_identifier", "prompt_cache_retention"];

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    pub(super) chat: ChatRequest,
    pub(super) stream: bool,
    /// Whether a stream ends with a chunk that counts tokens.
    pub(super) include_usage: bool,
}

/// Reads a request. Errors say where, never what.
pub(super) fn read(body: &[u8]) -> Result<Asked, Status> {
    if !are_few(body) {
        let message = format!("the body must be of at most {MAX_BODY_VALUES} values");
        return Err(Reason::InvalidRequest.status(message).build());
    }
    let WellFormed = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    let json: &RawValue = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    let asked = Object::of("", json).and_then(completion);
    asked.map_err(|refusal| {
        let Refusal { param, rule } = refusal;
        if param.is_empty() {
            return Reason::InvalidRequest.status(format!("the body {rule}")).build();
        }
        Reason::InvalidRequest.status(format!("{param}: {rule}")).field(param, rule).build()
    })
}

/// What is told of a body that cannot be read: the mistake and its place. What is between is not repeated, because any JSON is
/// well-formed.
fn unreadable(error: &serde_json::Error) -> Status {
    let (said, line, column) = (error.to_string(), error.line(), error.column());
    // Those two are JSON.
    let rule = if said.starts_with("recursion limit exceeded") {
        "be at most 127 levels deep"
    } else if said.starts_with("number out of range") {
        "not hold a number that is too large"
    } else {
        return Reason::InvalidRequest.status(format!("the body is not JSON: {said}")).build();
    };
    Reason::InvalidRequest.status(format!("the body must {rule}: line {line} column {column}")).build()
}

fn completion(mut body: Object<'_>) -> Result<Asked, Refusal> {
    let stream = body.boolean("stream")?.unwrap_or(false);
    let include_usage = include_usage(&mut body, stream)?;
    refuse_impossible(&mut body)?;
    let aip = body.object("aip")?;
    let messages = body.required("messages")?;
    let tools = body.list("tools")?.unwrap_or_default();
    let mut chat = ChatRequest {
        model: body.text("model")?.unwrap_or_default(),
        messages: message::messages(messages)?,
        sampling: sampling(&mut body)?,
        tools: tools::tools(tools)?,
        tool_choice: body.take("tool_choice").map(tools::choice).transpose()?,
        response_format: tools::response_format(&mut body)?,
        session: session(&mut body)?,
        ..ChatRequest::default()
    };
    if let Some(aip) = aip {
        wishes(aip, &mut chat)?;
    }
    body.ignore(IGNORED);
    chat.extra_body_json = body.rest();
    Ok(Asked { chat, stream, include_usage })
}

fn include_usage(body: &mut Object<'_>, stream: bool) -> Result<bool, Refusal> {
    let Some(mut options) = body.object("stream_options")? else { return Ok(false) };
    if !stream {
        return body.refuse("stream_options", "must be set with stream: true only");
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.ignore(&["include_obfuscation"]);
    options.end()?;
    Ok(include_usage)
}

/// Whether a value of a field asks for nothing out of the ordinary.
type Accepts<'a> = &'a dyn Fn(&Value) -> bool;

/// Refuses what the answer would have no place for, rather than answer something else.
fn refuse_impossible(body: &mut Object<'_>) -> Result<(), Refusal> {
    let only = |values: &'static [Value]| move |value: &Value| values.contains(value);
    let none = |_: &Value| false;
    let rules: [(&str, Accepts<'_>, &str); 10] = [
        ("n", &|value| value.as_u64() == Some(1), "must be 1"),
        ("logprobs", &only(&[Value::Bool(false)]), "must be false"),
        ("top_logprobs", &|value| value.as_u64() == Some(0), "must be 0"),
        ("store", &only(&[Value::Bool(false)]), "must be false: nothing is stored to be fetched later"),
        ("modalities", &is_text, "must be [\"text\"]"),
        ("service_tier", &is_default_service, "must be auto or default"),
        ("audio", &none, "must not be set: answers are text"),
        ("web_search_options", &none, "must not be set: nothing searches the web"),
        ("functions", &none, "must not be set: use tools"),
        ("function_call", &none, "must not be set: use tool_choice"),
    ];
    for (name, accepts, rule) in rules {
        if body.value(name).is_some_and(|value| !accepts(&value)) {
            return body.refuse(name, rule);
        }
    }
    Ok(())
}

fn is_text(value: &Value) -> bool {
    value.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind == "text"))
}

fn is_default_service(value: &Value) -> bool {
    value == "auto" || value == "default"
}

fn sampling(body: &mut Object<'_>) -> Result<Option<Sampling>, Refusal> {
    const POSITIVE: &str = "must be a whole number of 1 to 4294967295";
    let older = body.whole("max_tokens", POSITIVE)?;
    let newer = body.whole("max_completion_tokens", POSITIVE)?;
    if older.is_some() && newer.is_some() && older != newer {
        return body.refuse("max_tokens", "must be left out or equal to max_completion_tokens");
    }
    let sampling = Sampling {
        temperature: body.number("temperature")?,
        top_p: body.number("top_p")?,
        top_k: body.whole("top_k", POSITIVE)?,
        max_tokens: newer.or(older),
        stop: stop(body)?,
        seed: body.whole("seed", "must be a whole number of 64 bits")?,
        presence_penalty: body.number("presence_penalty")?,
        frequency_penalty: body.number("frequency_penalty")?,
    };
    Ok((sampling != Sampling::default()).then_some(sampling))
}

fn stop(body: &mut Object<'_>) -> Result<Vec<String>, Refusal> {
    let Some(json) = body.take("stop") else { return Ok(Vec::new()) };
    let texts = object::read(json).map(|text: String| vec![text]).or_else(|| object::read(json));
    texts.map_or_else(|| body.refuse("stop", "must be a string or a list of strings"), Ok)
}

/// Whose requests meet the same server: what OpenAI keeps its prompt cache by.
fn session(body: &mut Object<'_>) -> Result<String, Refusal> {
    let user = body.text("user")?;
    let key = body.text("prompt_cache_key")?;
    let (name, session) = match (key, user) {
        (Some(key), _) => ("prompt_cache_key", key),
        (None, user) => ("user", user.unwrap_or_default()),
    };
    if session.len() > MAX_SESSION {
        return body.refuse(name, format!("must be at most {MAX_SESSION} bytes"));
    }
    Ok(session)
}

/// What OpenAI's protocol has no field for.
fn wishes(mut aip: Object<'_>, chat: &mut ChatRequest) -> Result<(), Refusal> {
    chat.allow_degraded = aip.boolean("allow_degraded")?;
    chat.tier = aip.text("tier")?.unwrap_or_default();
    let cache = match aip.text("cache")?.as_deref() {
        None => CacheMode::Unspecified,
        Some("default") => CacheMode::Default,
        Some("bypass") => CacheMode::Bypass,
        Some("only") => CacheMode::Only,
        Some(_) => return aip.refuse("cache", "must be default, bypass or only"),
    };
    chat.cache = cache.into();
    if let Some(session) = aip.text("session")? {
        chat.session = session;
    }
    aip.end()
}

#[cfg(test)]
mod tests;
