//! One thing that a tier can call.

mod resume;

use std::sync::Arc;
use std::time::Duration;

use aiplatform_proto::inference::v1::{FinishReason, TierKind};
use reqwest::Url;
use resilience::{
    AttemptOutcome, CallError as _, Candidate, CircuitBreaker, Deadline, FailureShare, InFlight, Outcome,
    PeakEwma, PeakEwmaConfig, Rest, Silence, SystemClock, Tier, stable_hash,
};

use crate::answer::{Answer, AnswerStream, Origin, Piece, assistant_message};
pub use crate::cache::Store;
use crate::cache::{AnswerCache, CacheKey};
use crate::chat::Chat;
use crate::config::Kind;
use crate::upstream::ollama::OllamaBackend;
use crate::upstream::openai::OpenAiBackend;
use crate::upstream::{HttpClient, UpstreamError};
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
    rest: Arc<Rest>,
    silence: Silence,
    load: PeakEwma,
    failures: FailureShare,
    /// Of its name, for affinity.
    hash: u64,
    /// What is asked for to find out whether it is there.
    health: Option<(HttpClient, Url)>,
    target: Target,
}

impl Backend {
    /// A backend.
    pub fn new(kind: Kind, name: String, breaker: Option<CircuitBreaker>, target: Target) -> Self {
        let clock = Arc::new(SystemClock::new());
        let load = PeakEwma::new(PeakEwmaConfig::default(), clock.clone());
        let hash = stable_hash(name.as_bytes());
        Self {
            kind,
            name,
            breaker,
            rest: Arc::default(),
            silence: Silence::new(),
            load,
            failures: FailureShare::new(clock),
            hash,
            health: None,
            target,
        }
    }

    /// The same, which rests whenever others of its name do.
    #[must_use]
    pub fn with_rest(mut self, rest: Arc<Rest>) -> Self {
        self.rest = rest;
        self
    }

    /// The same, with a URL that answers when the server is there.
    #[must_use]
    pub fn with_health_check(mut self, client: HttpClient, url: Url) -> Self {
        self.health = Some((client, url));
        self
    }

    /// Whether it answers its health check in time. One without a check never does.
    pub async fn is_reachable(&self, timeout: Duration) -> bool {
        match &self.health {
            Some((client, url)) => client.reaches(url, timeout).await,
            None => false,
        }
    }

    /// Has the server load the model, where it is of a kind that loads models when they are asked for, and waits until it has.
    ///
    /// # Errors
    /// It cannot.
    pub async fn load_model(&self) -> Result<(), UpstreamError> {
        match &self.target {
            Target::Ollama(server) => server.load().await,
            Target::OpenAi(_) | Target::Cache(_) | Target::Message(_) => Ok(()),
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the next call to it would cost.
    pub fn load(&self) -> &PeakEwma {
        &self.load
    }

    /// How many of its recent calls it has not answered, for what may be its own fault.
    pub fn failures(&self) -> &FailureShare {
        &self.failures
    }

    /// How affinity sees it.
    pub fn candidate(&self) -> Candidate {
        Candidate { hash: self.hash, in_flight: self.load.in_flight() }
    }

    /// Asks for a whole answer.
    pub async fn chat(
        &self,
        chat: &Chat,
        key: CacheKey,
        deadline: Deadline,
    ) -> Result<Answer, UpstreamError> {
        let mut call = self.load.begin();
        let answer = match &self.target {
            Target::OpenAi(server) => server.chat(chat, deadline).await,
            Target::Ollama(server) => server.chat(chat, deadline).await,
            Target::Cache(cache) => cache.read(key).await,
            Target::Message(text) => Ok(degraded(text)),
        };
        match &answer {
            Ok(answer) => {
                call.ended(answer.origin.cold_start);
                self.failures.record(false);
            }
            Err(error) => self.failed(&mut call, error),
        }
        answer
    }

    /// Asks for a streamed answer, and waits for its first content.
    pub async fn open(
        &self,
        chat: &Chat,
        key: CacheKey,
        deadline: Deadline,
    ) -> Result<AnswerStream, UpstreamError> {
        let call = self.load.begin();
        let opened = match &self.target {
            Target::OpenAi(server) => server.open(chat, deadline).await,
            Target::Ollama(server) => server.open(chat, deadline).await,
            Target::Cache(cache) => cache.read(key).await.map(Into::into),
            Target::Message(text) => Ok(degraded(text).into()),
        };
        self.hand_over(call, opened)
    }

    /// Tells those who choose among backends of a call that failed.
    fn failed(&self, call: &mut InFlight, error: &UpstreamError) {
        let verdict = error.verdict();
        let failed = verdict.breaker == Outcome::Failure || verdict.outcome == AttemptOutcome::Overloaded;
        if failed || matches!(error, UpstreamError::ModelMissing(_)) {
            call.failed();
            self.failures.record(true);
        } else if matches!(error, UpstreamError::Refused(_)) {
            // Nobody knows yet whose fault that is: a server that refuses alone what others take is not well.
            call.refused();
            self.failures.record(true);
        } else if verdict.outcome == AttemptOutcome::Rejected
            && !matches!(error, UpstreamError::Unsupported(_))
        {
            call.refused();
        } else {
            call.ignored();
        }
    }

    /// Tells them how a stream began, and leaves the call to it.
    fn hand_over(
        &self,
        mut call: InFlight,
        opened: Result<AnswerStream, UpstreamError>,
    ) -> Result<AnswerStream, UpstreamError> {
        match &opened {
            Ok(opened) => {
                match &opened.first {
                    Piece::End(end) => call.ended(end.cold_start),
                    Piece::Delta(_) if self.kind.tells_cold_starts() => call.begun(),
                    Piece::Delta(_) => call.answered(),
                }
                self.failures.record(false);
            }
            Err(error) => self.failed(&mut call, error),
        }
        let mut stream = opened?;
        stream.rest.hold(call);
        Ok(stream)
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

    fn silence(&self) -> Option<&Silence> {
        Some(&self.silence)
    }

    fn tells_cold_starts(&self) -> bool {
        self.kind.tells_cold_starts()
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
        origin: Origin::model(""),
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
