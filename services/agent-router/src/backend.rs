//! One thing that a tier can call.

mod resume;

use std::sync::Arc;
use std::time::SystemTime;

use aiplatform_proto::inference::v1::{FinishReason, TierKind};
use resilience::{CircuitBreaker, Deadline, Rest, Tier};

use crate::answer::{Answer, AnswerStream, Origin, assistant_message};
pub use crate::cache::Store;
use crate::cache::{AnswerCache, CacheKey};
use crate::chat::Chat;
use crate::config::Kind;
use crate::upstream::UpstreamError;
use crate::upstream::ollama::OllamaBackend;
use crate::upstream::openai::OpenAiBackend;
pub use resume::Resumed;

/// What is behind a backend.
#[derive(Debug)]
pub enum Target {
    /// A server that speaks the OpenAI protocol.
    OpenAi(OpenAiBackend),
    /// An Ollama server.
    Ollama(OllamaBackend),
    /// The store of earlier answers.
    Cache(Arc<AnswerCache>),
    /// A fixed message.
    Message(String),
}

/// A backend: a name, a guard, and what is behind them.
#[derive(Debug)]
pub struct Backend {
    kind: Kind,
    name: String,
    breaker: Option<CircuitBreaker>,
    rest: Rest,
    target: Target,
}

impl Backend {
    /// A backend.
    pub fn new(kind: Kind, name: String, breaker: Option<CircuitBreaker>, target: Target) -> Self {
        Self { kind, name, breaker, rest: Rest::new(), target }
    }

    /// Asks for a whole answer.
    pub async fn chat(
        &self,
        chat: &Chat,
        key: CacheKey,
        deadline: Deadline,
    ) -> Result<Answer, UpstreamError> {
        match &self.target {
            Target::OpenAi(server) => server.chat(chat, deadline).await,
            Target::Ollama(server) => server.chat(chat, deadline).await,
            Target::Cache(cache) => cache.read(key).await,
            Target::Message(text) => Ok(degraded(text)),
        }
    }

    /// Asks for a streamed answer, and waits for its first content.
    pub async fn open(
        &self,
        chat: &Chat,
        key: CacheKey,
        deadline: Deadline,
    ) -> Result<AnswerStream, UpstreamError> {
        match &self.target {
            Target::OpenAi(server) => server.open(chat, deadline).await,
            Target::Ollama(server) => server.open(chat, deadline).await,
            Target::Cache(cache) => cache.read(key).await.map(Into::into),
            Target::Message(text) => Ok(degraded(text).into()),
        }
    }
}

impl resilience::Backend for Backend {
    fn name(&self) -> &str {
        &self.name
    }

    fn breaker(&self) -> Option<&CircuitBreaker> {
        self.breaker.as_ref()
    }

    fn rest(&self) -> Option<&Rest> {
        Some(&self.rest)
    }
}

/// The kind of a tier. `None` for one without backends, such as a cache tier where the cache is off.
pub fn kind_of(tier: &Tier<Backend>) -> Option<Kind> {
    tier.pool.members().first().map(|backend| backend.kind)
}

/// Whether models answer in a tier.
pub fn is_model(tier: &Tier<Backend>) -> bool {
    matches!(kind_of(tier), Some(Kind::Openai | Kind::Ollama))
}

fn degraded(text: &str) -> Answer {
    Answer {
        message: assistant_message(text.to_owned()),
        finish_reason: FinishReason::Stop,
        usage: None,
        origin: Origin { upstream_model: Arc::from(""), created_at: SystemTime::now(), cache_age: None },
    }
}

impl From<Kind> for TierKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Openai => Self::Openai,
            Kind::Ollama => Self::Ollama,
            Kind::Cache => Self::Cache,
            Kind::Message => Self::Message,
        }
    }
}
