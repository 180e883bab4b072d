//! Ollama's own protocol: `POST /api/chat`, one JSON object a line.

mod calls;
mod decoder;
mod request;

use std::time::Duration;

use aiplatform_proto::inference::v1::{FinishReason, Usage};
use reqwest::Url;
use resilience::Deadline;
use serde::Deserialize;
use service_kit::config::Endpoint;
use uuid::Uuid;

use super::UpstreamError;
use super::finish;
use super::http_client::{HttpClient, whole};
use super::prefix::Prefix;
use super::span::AttemptSpan;
use super::stream::UpstreamStream;
use crate::answer::{Answer, AnswerStream, Origin, assistant_message};
use crate::chat::Chat;
use crate::settings::{Accepts, ModelTier, Timeouts};
pub(super) use calls::CallIds;
use calls::WireToolCall;
pub(super) use decoder::OllamaDecoder;

const PROVIDER: &str = "ollama";

/// One server and the model to ask it for.
#[derive(Debug)]
pub struct OllamaBackend {
    client: HttpClient,
    url: Url,
    load_url: Url,
    authority: String,
    model: String,
    accepts: Accepts,
    timeouts: Timeouts,
    prefix: Prefix,
}

impl OllamaBackend {
    /// The backend at an endpoint of a tier.
    pub fn new(client: HttpClient, endpoint: &Endpoint, tier: &ModelTier) -> Self {
        Self {
            client,
            url: endpoint.at("/api/chat"),
            load_url: endpoint.at("/api/generate"),
            authority: endpoint.authority(),
            model: tier.model.clone(),
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
        let response = self.client.post(&self.url, &body, None, "application/json").await?;
        let body = whole(response).await?;
        let reply: Reply = serde_json::from_slice(&body).map_err(|error| UpstreamError::malformed(&error))?;
        if let Some(error) = reply.error {
            return Err(UpstreamError::interrupted(&error));
        }
        if !reply.done {
            return Err(UpstreamError::Interrupted("the answer is not done".into()));
        }
        let (finish_reason, usage, cold_start) = (reply.finish_reason()?, reply.usage(), reply.cold_start());
        let message = reply.message.unwrap_or_default();
        let mut ids = CallIds::new(Uuid::new_v4());
        let mut answer = assistant_message(message.content);
        answer.tool_calls = message.tool_calls.into_iter().flatten().map(|call| ids.next(call).1).collect();
        answer.reasoning = message.thinking.unwrap_or_default();
        let finish_reason =
            if answer.tool_calls.is_empty() { finish_reason } else { FinishReason::ToolCalls };
        let origin = Origin::model(reply.model.as_deref().unwrap_or(&self.model));
        let origin = Origin { cold_start, ..origin };
        Ok(Answer { message: answer, finish_reason, usage, origin })
    }

    /// Has the server load the model, and waits until it has. Without a prompt it generates nothing.
    pub async fn load(&self) -> Result<(), UpstreamError> {
        let body = serde_json::json!({ "model": self.model, "stream": false });
        let response = self.client.post(&self.load_url, &body, None, "application/json").await?;
        let body = whole(response).await?;
        let reply: Reply = serde_json::from_slice(&body).map_err(|error| UpstreamError::malformed(&error))?;
        reply.error.map_or(Ok(()), |error| Err(UpstreamError::interrupted(&error)))
    }

    /// Asks for a streamed answer and waits for its first content.
    pub async fn open(&self, chat: &Chat, deadline: Deadline) -> Result<AnswerStream, UpstreamError> {
        let attempt = self.attempt(true, deadline);
        let request = async {
            self.accepts.check(chat)?;
            let body = request::body(chat, &self.model, true)?;
            self.client.post(&self.url, &body, None, "application/x-ndjson").await
        };
        let decoder = Box::new(OllamaDecoder::new(CallIds::new(Uuid::new_v4())));
        UpstreamStream::open(attempt, request, decoder, &self.model, self.timeouts.idle).await
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
    /// In nanoseconds, as all durations.
    load_duration: Option<u64>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct WireMessage {
    #[serde(default)]
    content: String,
    thinking: Option<String>,
    tool_calls: Option<Vec<WireToolCall>>,
}

impl Reply {
    fn finish_reason(&self) -> Result<FinishReason, UpstreamError> {
        // Versions before 0.2 give no reason, and it is `done` that says that the answer is whole.
        Ok(finish::finish_reason(self.done_reason.as_deref())?.unwrap_or(FinishReason::Stop))
    }

    /// How long the model was loaded for this answer: of one that was loaded, some milliseconds.
    fn cold_start(&self) -> Duration {
        self.load_duration.map(Duration::from_nanos).unwrap_or_default()
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
