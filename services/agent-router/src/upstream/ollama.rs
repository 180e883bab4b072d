//! Ollama's own protocol: `POST /api/chat`, one JSON object a line.

mod request;
mod stream;

use aiplatform_proto::inference::v1::{FinishReason, ToolCall, Usage};
use resilience::Deadline;
use serde::Deserialize;
use service_kit::config::Endpoint;
use tracing::Instrument as _;

use super::UpstreamError;
use super::http_client::{HttpClient, whole};
use super::span::AttemptSpan;
use crate::answer::{Answer, AnswerStream, Origin, Pieces, assistant_message};
use crate::chat::Chat;
use crate::settings::{ModelTier, Timeouts};
pub use stream::OllamaStream;

const PROVIDER: &str = "ollama";

/// One server and the model to ask it for.
#[derive(Debug)]
pub struct OllamaBackend {
    client: HttpClient,
    url: String,
    authority: String,
    model: String,
    timeouts: Timeouts,
}

impl OllamaBackend {
    /// The backend at an endpoint of a tier.
    pub fn new(client: HttpClient, endpoint: &Endpoint, tier: &ModelTier) -> Self {
        Self {
            client,
            url: endpoint.at("/api/chat"),
            authority: endpoint.authority(),
            model: tier.model.clone(),
            timeouts: tier.timeouts,
        }
    }

    /// Asks for a whole answer.
    pub async fn chat(&self, chat: &Chat, deadline: Deadline) -> Result<Answer, UpstreamError> {
        let mut attempt = AttemptSpan::new(PROVIDER, &self.model, &self.authority, false, deadline);
        let result = self.ask(chat).instrument(attempt.span().clone()).await;
        match &result {
            Ok(answer) => attempt.succeed(answer.finish_reason, answer.usage.as_ref()),
            Err(error) => attempt.fail(error),
        }
        result
    }

    async fn ask(&self, chat: &Chat) -> Result<Answer, UpstreamError> {
        let body = request::body(chat, &self.model, false)?;
        let response = self.client.post(&self.url, &body, None, "application/json").await?;
        let body = whole(response).await?;
        let malformed =
            |error: serde_json::Error| UpstreamError::Protocol(format!("malformed answer: {error}"));
        let reply: Reply = serde_json::from_slice(&body).map_err(malformed)?;
        if let Some(error) = reply.error {
            return Err(UpstreamError::Interrupted(error));
        }
        if !reply.done {
            return Err(UpstreamError::Interrupted("the answer is not done".into()));
        }
        let (finish_reason, usage) = (reply.finish_reason(), reply.usage());
        let message = reply.message.unwrap_or_default();
        let tool_calls = message.tool_calls().collect();
        let mut answer = assistant_message(message.content);
        answer.tool_calls = tool_calls;
        answer.reasoning = message.thinking.unwrap_or_default();
        let finish_reason =
            if answer.tool_calls.is_empty() { finish_reason } else { FinishReason::ToolCalls };
        let origin = Origin::model(reply.model.as_deref().unwrap_or(&self.model));
        Ok(Answer { message: answer, finish_reason, usage, origin })
    }

    /// Asks for a streamed answer and waits for its first content.
    pub async fn open(&self, chat: &Chat, deadline: Deadline) -> Result<AnswerStream, UpstreamError> {
        let mut attempt = AttemptSpan::new(PROVIDER, &self.model, &self.authority, true, deadline);
        let posted = async {
            let body = request::body(chat, &self.model, true)?;
            self.client.post(&self.url, &body, None, "application/x-ndjson").await
        };
        let response = match posted.instrument(attempt.span().clone()).await {
            Ok(response) => response,
            Err(error) => {
                attempt.fail(&error);
                return Err(error);
            }
        };
        let mut stream = OllamaStream::new(response, attempt);
        let first = stream.first().await?;
        Ok(AnswerStream {
            first,
            origin: Origin::model(stream.model().unwrap_or(&self.model)),
            rest: Pieces::Ollama(Box::new(stream)),
            idle_timeout: self.timeouts.idle,
        })
    }
}

/// A whole answer, or one line of a stream.
#[derive(Debug, Deserialize)]
struct Reply {
    model: Option<String>,
    message: Option<WireMessage>,
    #[serde(default)]
    done: bool,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct WireMessage {
    #[serde(default)]
    content: String,
    thinking: Option<String>,
    tool_calls: Option<Vec<WireToolCall>>,
}

#[derive(Debug, Deserialize)]
struct WireToolCall {
    function: WireFunction,
}

#[derive(Debug, Deserialize)]
struct WireFunction {
    name: String,
    #[serde(default)]
    arguments: serde_json::Value,
}

impl WireMessage {
    /// Ollama gives its calls no ids; ours count them, so that a tool message can name its call.
    fn tool_calls(&self) -> impl Iterator<Item = ToolCall> {
        self.tool_calls.iter().flatten().enumerate().map(|(index, call)| ToolCall {
            id: format!("call_{index}"),
            name: call.function.name.clone(),
            arguments: call.function.arguments.to_string(),
        })
    }
}

impl Reply {
    fn finish_reason(&self) -> FinishReason {
        match self.done_reason.as_deref() {
            Some("length") => FinishReason::Length,
            // Versions before 0.2 give no reason.
            Some("stop") | None => FinishReason::Stop,
            Some(_) => FinishReason::Unspecified,
        }
    }

    fn usage(&self) -> Option<Usage> {
        let counted = self.prompt_eval_count.is_some() || self.eval_count.is_some();
        counted.then(|| Usage {
            input_tokens: self.prompt_eval_count.unwrap_or(0),
            output_tokens: self.eval_count.unwrap_or(0),
            ..Usage::default()
        })
    }
}
