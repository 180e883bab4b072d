//! The OpenAI protocol, as MAX Serve speaks it.

mod decoder;
mod request;

use aiplatform_proto::inference::v1::{ToolCall, Usage};
use reqwest::Url;
use resilience::Deadline;
use serde::Deserialize;
use service_kit::config::{Endpoint, Secret};

use super::finish::finish_reason;
use super::http_client::{HttpClient, whole};
use super::prefix::Prefix;
use super::span::AttemptSpan;
use super::stream::UpstreamStream;
use super::{UpstreamError, http_client};
use crate::answer::{Answer, AnswerStream, Origin, assistant_message};
use crate::chat::Chat;
use crate::settings::{Accepts, ModelTier, Timeouts};
pub(super) use decoder::OpenAiDecoder;

const PROVIDER: &str = "modular.max";

/// One server and the model to ask it for.
#[derive(Debug)]
pub struct OpenAiBackend {
    client: HttpClient,
    url: Url,
    authority: String,
    model: String,
    api_key: Option<Secret>,
    accepts: Accepts,
    timeouts: Timeouts,
    prefix: Prefix,
}

impl OpenAiBackend {
    /// The backend at an endpoint of a tier.
    pub fn new(client: HttpClient, endpoint: &Endpoint, tier: &ModelTier) -> Self {
        Self {
            client,
            url: endpoint.at("/v1/chat/completions"),
            authority: endpoint.authority(),
            model: tier.model.clone(),
            api_key: tier.api_key.clone(),
            accepts: tier.accepts,
            timeouts: tier.timeouts,
            prefix: Prefix::new(tier.prefix),
        }
    }

    /// What it takes of an answer that another has begun.
    pub(crate) fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Asks for a whole answer.
    pub async fn chat(&self, chat: &Chat, deadline: Deadline) -> Result<Answer, UpstreamError> {
        self.attempt(false, deadline).whole(self.ask(chat)).await
    }

    fn attempt(&self, streaming: bool, deadline: Deadline) -> AttemptSpan {
        AttemptSpan::new(PROVIDER, &self.model, &self.authority, streaming, deadline)
    }

    async fn ask(&self, chat: &Chat) -> Result<Answer, UpstreamError> {
        self.accepts.check(chat)?;
        let body = request::body(chat, &self.model, false)?;
        let response = self.client.post(&self.url, &body, self.api_key.as_ref(), "application/json").await?;
        let body = whole(response).await?;
        let completion: Completion =
            serde_json::from_slice(&body).map_err(|error| UpstreamError::malformed(&error))?;
        completion.into_answer(&self.model)
    }

    /// Asks for a streamed answer and waits for its first content.
    pub async fn open(&self, chat: &Chat, deadline: Deadline) -> Result<AnswerStream, UpstreamError> {
        let attempt = self.attempt(true, deadline);
        let request = async {
            self.accepts.check(chat)?;
            let mut body = request::body(chat, &self.model, true)?;
            if chat.goes_on() {
                self.prefix.add_to(&mut body);
            }
            self.client.post(&self.url, &body, self.api_key.as_ref(), "text/event-stream").await
        };
        let decoder = Box::<OpenAiDecoder>::default();
        UpstreamStream::open(attempt, request, decoder, &self.model, self.timeouts.idle).await
    }
}

#[derive(Debug, Deserialize)]
struct Completion {
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<WireUsage>,
    error: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    message: WireMessage,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct WireMessage {
    content: Option<String>,
    refusal: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<WireToolCall>>,
}

#[derive(Debug, Deserialize)]
struct WireToolCall {
    id: Option<String>,
    function: WireFunction,
}

#[derive(Debug, Deserialize)]
struct WireFunction {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Clone, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl Completion {
    fn into_answer(self, asked: &str) -> Result<Answer, UpstreamError> {
        if let Some(error) = self.error.filter(|error| !error.is_null()) {
            let body = serde_json::json!({ "error": error }).to_string();
            let (_, message) = http_client::describe(body.as_bytes());
            return Err(UpstreamError::interrupted(&message));
        }
        let choice = self.choices.into_iter().next();
        let choice = choice.ok_or_else(|| UpstreamError::Protocol("an answer without choices".into()))?;
        // As in a stream: without a reason, nobody knows whether this is all of it.
        let finish_reason = finish_reason(choice.finish_reason.as_deref())?;
        let finish_reason = finish_reason
            .ok_or_else(|| UpstreamError::Interrupted("the answer has no finish reason".into()))?;
        let message = choice.message;
        let tool_calls = message.tool_calls.into_iter().flatten().map(|call| ToolCall {
            id: call.id.unwrap_or_default(),
            name: call.function.name.unwrap_or_default(),
            arguments: call.function.arguments.unwrap_or_default(),
        });
        let tool_calls = tool_calls.collect();
        let reasoning = message.reasoning.or(message.reasoning_content).unwrap_or_default();
        let mut answer = assistant_message(message.content.unwrap_or_default());
        answer.tool_calls = tool_calls;
        answer.reasoning = reasoning;
        answer.refusal = message.refusal.unwrap_or_default();
        Ok(Answer {
            message: answer,
            finish_reason,
            usage: self.usage.map(Into::into),
            origin: Origin::model(self.model.as_deref().unwrap_or(asked)),
        })
    }
}

impl From<WireUsage> for Usage {
    fn from(usage: WireUsage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            output_tokens: usage.completion_tokens,
            cached_input_tokens: usage
                .prompt_tokens_details
                .and_then(|details| details.cached_tokens)
                .unwrap_or(0),
            reasoning_tokens: usage
                .completion_tokens_details
                .and_then(|details| details.reasoning_tokens)
                .unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aiplatform_proto::inference::v1::FinishReason;

    /// As MAX Serve 26.6 sends it, shortened.
    const UNARY: &str = r#"{"id":"9e67","choices":[{"finish_reason":"stop","index":0,
        "logprobs":{"content":[],"refusal":[]},"message":{"content":"hello","refusal":"","role":"assistant",
        "annotations":null,"tool_calls":null,"reasoning":null,"reasoning_content":null}}],"created":1795436768,
        "model":"tiny","object":"chat.completion","usage":{"completion_tokens":5,"prompt_tokens":3,"total_tokens":8,
        "completion_tokens_details":{"audio_tokens":null,"reasoning_tokens":0},
        "prompt_tokens_details":{"cached_tokens":2,"audio_tokens":null}}}"#;

    #[test]
    fn a_recorded_answer_is_understood() {
        let completion: Completion = serde_json::from_str(UNARY).unwrap();
        let answer = completion.into_answer("m").unwrap();
        assert_eq!(crate::answer::text_of(&answer.message), "hello");
        assert_eq!(answer.finish_reason, FinishReason::Stop);
        let usage = answer.usage.unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.cached_input_tokens), (3, 5, 2));
        assert_eq!(&*answer.origin.upstream_model, "tiny");
    }

    #[test]
    fn a_refusal_is_told_apart_from_an_answer() {
        let refused = UNARY.replace(r#""content":"hello","refusal":"""#, r#""content":null,"refusal":"no""#);
        let completion: Completion = serde_json::from_str(&refused).unwrap();
        let answer = completion.into_answer("m").unwrap();
        assert_eq!((answer.message.content.len(), answer.message.refusal.as_str()), (0, "no"));
        assert!(answer.is_whole() && !answer.is_worth_keeping());
    }

    #[test]
    fn an_error_or_nothing_in_the_place_of_an_answer_is_a_failure() {
        let error: Completion = serde_json::from_str(r#"{"error":{"message":"worker died"}}"#).unwrap();
        assert_eq!(error.into_answer("m").unwrap_err(), UpstreamError::Interrupted("worker died".into()));
        let empty: Completion = serde_json::from_str(r#"{"choices":[]}"#).unwrap();
        assert_eq!(empty.into_answer("m").unwrap_err().kind(), "protocol");
    }

    #[test]
    fn an_answer_that_was_given_up_or_does_not_say_why_it_ends_is_broken() {
        for reason in ["\"abort\"", "\"error\"", "\"\"", "null"] {
            let body = UNARY.replace("\"stop\"", reason);
            let completion: Completion = serde_json::from_str(&body).unwrap();
            assert_eq!(completion.into_answer("m").unwrap_err().kind(), "interrupted", "{reason}");
        }
    }
}
