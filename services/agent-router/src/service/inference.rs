//! `InferenceService`: walks the agent's chain and says how it went.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aiplatform_proto::inference::v1 as wire;
use aiplatform_proto::inference::v1::inference_service_server::InferenceService;
use aiplatform_proto::time::to_proto_timestamp;
use resilience::{
    Attempt, AttemptOutcome, Bulkhead, BulkheadPermit, ChainError, Deadline, SkipReason, Tier, Trail, Walk,
};
use service_kit::paging::page;
use service_kit::status::Reason;
use service_kit::tenant::Tenant;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use uuid::Uuid;

use super::coalesce::{Came, Coalescer, Joined};
use super::convert;
use super::given_up::GivenUp;
use super::shared::{land, shared_answer, shared_stream};
use super::size::MessageSize;
use super::stream::{ResponseStream, Streamed, Successors};
use super::told::{detour, summary, tier_that};
use crate::agents::{Agent, CurrentAgents};
use crate::answer::Answer;
use crate::backend::{Backend, is_model, kind_of};
use crate::cache::{AnswerCache, CacheKey, is_deterministic};
use crate::chat::Chat;
use crate::config::{CacheMode, Kind, MidStream};
use crate::metrics::ChainMetrics;
use crate::pool::affinity;
use crate::upstream::UpstreamError;

/// What is kept of a deadline for writing the response.
const RESPONSE_MARGIN: Duration = Duration::from_millis(10);
/// When a client that was refused for want of room should come back.
const COME_BACK: Duration = Duration::from_secs(1);

/// Answers chats.
#[derive(Debug, Clone)]
pub struct Inference {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    agents: CurrentAgents,
    cache: Option<Arc<AnswerCache>>,
    coalescer: Coalescer,
    metrics: ChainMetrics,
    in_flight: Bulkhead,
    size: MessageSize,
}

/// A chat on its way through a chain.
pub(super) struct Asked {
    chat: Chat,
    pub(super) agent: Arc<Agent>,
    key: CacheKey,
    deadline: Deadline,
    pub(super) started: Instant,
    /// Its place among the chats that this process answers at a time.
    _place: BulkheadPermit,
}

impl Inference {
    /// The service for these agents. No message is over `max_message_bytes`.
    pub fn new(
        agents: CurrentAgents,
        cache: Option<Arc<AnswerCache>>,
        metrics: ChainMetrics,
        in_flight: Bulkhead,
        max_message_bytes: usize,
    ) -> Self {
        let (coalescer, size) = (Coalescer::default(), MessageSize::new(max_message_bytes));
        Self { shared: Arc::new(Shared { agents, cache, coalescer, metrics, in_flight, size }) }
    }

    fn admit(&self, request: wire::ChatRequest, extensions: &tonic::Extensions) -> Result<Asked, Status> {
        let started = Instant::now();
        // Before anything is done for it: under overload, a refusal must cost nothing.
        let place = self.shared.in_flight.try_acquire().ok_or_else(|| {
            let limit = self.shared.in_flight.config().max_concurrent();
            let message = format!("this replica answers {limit} chats already");
            Reason::Overloaded
                .status(message)
                .with("limit", limit.to_string())
                .retry_after(Some(COME_BACK))
                .build()
        })?;
        let (chat, agent) = Chat::admit(request, &self.shared.agents.get())?;
        let tenant = extensions.get::<Tenant>().cloned().unwrap_or_default();
        let key = CacheKey::of(&tenant, &agent, &chat);
        let outer = extensions.get::<Deadline>().map(|deadline| deadline.instant());
        // The layer around every call sets one; without it, a chat has the default of a unary call.
        let outer = outer.unwrap_or_else(|| started + Duration::from_secs(60));
        let deadline = Deadline::at(outer.checked_sub(RESPONSE_MARGIN).unwrap_or(outer));
        Ok(Asked { chat, agent, key, deadline, started, _place: place })
    }

    /// Keeps an answer that a model gave, where the agent and the request want that.
    fn keep(&self, asked: &Asked, tier: &Tier<Backend>, answer: &Answer) {
        let keeps = asked.agent.keep_answers.filter(|_| asked.chat.may_store() && asked.may_repeat(tier));
        if let (Some(cache), Some(ttl)) = (&self.shared.cache, keeps) {
            cache.store_soon(asked.key, answer, ttl);
        }
    }

    /// Leads identical requests or follows one, where that is safe.
    fn join(&self, asked: &Asked, streaming: bool) -> Joined {
        if !asked.may_share() {
            return Joined::Alone;
        }
        self.shared.coalescer.join(asked.key, asked.deadline, streaming, &asked.agent.landings)
    }

    fn refused(&self, asked: &Asked, error: ChainError<UpstreamError>) -> Status {
        let attempts = match &error {
            ChainError::Stopped { attempts, .. }
            | ChainError::Exhausted { attempts, .. }
            | ChainError::DeadlineExceeded { attempts, .. } => attempts,
        };
        self.shared.metrics.record(attempts);
        let tried = summary(attempts);
        let agent = &*asked.agent.name;
        match error {
            ChainError::Stopped { error, attempts, .. } => {
                let tier = tier_that(&attempts, |outcome| outcome == AttemptOutcome::Rejected);
                info!(agent, tier, kind = error.kind(), "request refused by an upstream");
                reason_of(&error).status(error.to_string()).with("tier", tier).with("attempts", tried).build()
            }
            ChainError::DeadlineExceeded { attempts, .. } => {
                warn!(agent, tried, "deadline passed before any tier answered");
                let tier = tier_that(&attempts, |outcome| {
                    matches!(outcome, AttemptOutcome::Timeout | AttemptOutcome::Skipped(SkipReason::Deadline))
                });
                let message = format!("the deadline passed before any tier answered: {tried}");
                Reason::DeadlineExceeded.status(message).with("tier", tier).with("attempts", tried).build()
            }
            ChainError::Exhausted { attempts, retry_after, .. } => {
                warn!(agent, tried, "no tier answered");
                let pinned = !asked.chat.request().tier.is_empty();
                why_exhausted(&attempts, pinned)
                    .status(format!("no tier answered: {tried}"))
                    .with("agent", agent)
                    .with("attempts", tried)
                    .retry_after(retry_after)
                    .build()
            }
        }
    }

    fn tell(&self, asked: &Asked, attempts: &[Attempt]) {
        self.shared.metrics.record(attempts);
        let Some(answered) = attempts.last() else {
            return;
        };
        let agent = &*asked.agent.name;
        let tier = &*answered.tier;
        if let Some(detour) = detour(attempts) {
            info!(agent, tier, tried = summary(attempts), "answered by a {}", detour.as_str());
        } else {
            tracing::debug!(agent, tier, "answered");
        }
    }
}

/// The reason of a walk that no tier answered: one that holds for every backend that was asked, or would have been.
fn why_exhausted(attempts: &[Attempt], pinned: bool) -> Reason {
    let outcomes: Vec<_> = attempts
        .iter()
        .map(|attempt| attempt.outcome)
        .filter(|outcome| {
            !matches!(
                outcome,
                AttemptOutcome::Skipped(SkipReason::Request | SkipReason::Deadline | SkipReason::Budget)
                    | AttemptOutcome::Miss
            )
        })
        .collect();
    let all = |is: fn(&AttemptOutcome) -> bool| !outcomes.is_empty() && outcomes.iter().all(is);
    let overloaded = |outcome: &AttemptOutcome| {
        matches!(
            outcome,
            AttemptOutcome::Overloaded | AttemptOutcome::Skipped(SkipReason::Bulkhead | SkipReason::Resting)
        )
    };
    if all(overloaded) {
        Reason::Overloaded
    } else if pinned && all(|outcome| *outcome == AttemptOutcome::Skipped(SkipReason::Breaker)) {
        Reason::CircuitOpen
    } else {
        Reason::AllTiersUnavailable
    }
}

fn reason_of(error: &UpstreamError) -> Reason {
    match error {
        UpstreamError::ContextLength(_) => Reason::ContextLengthExceeded,
        UpstreamError::ContentPolicy(_) => Reason::ContentPolicy,
        UpstreamError::Refused(_) => Reason::InvalidRequest,
        // None of these ends a walk by itself.
        UpstreamError::Connection(_)
        | UpstreamError::ConnectTimeout(_)
        | UpstreamError::Status { .. }
        | UpstreamError::Overloaded { .. }
        | UpstreamError::Protocol(_)
        | UpstreamError::Interrupted(_)
        | UpstreamError::Silent(_)
        | UpstreamError::ModelMissing(_)
        | UpstreamError::Unsupported(_)
        | UpstreamError::CacheMiss
        | UpstreamError::CacheUnavailable(_) => Reason::AllTiersUnavailable,
    }
}

impl Asked {
    /// The tiers that the request itself rules out.
    fn exclusion(&self) -> impl Fn(&Tier<Backend>) -> Option<&'static str> + Send + Sync + use<> {
        let request = self.chat.request();
        let pinned = request.tier.clone();
        let degraded = self.chat.allows_degraded();
        let cache = request.cache();
        move |tier| {
            if !pinned.is_empty() && *tier.name != *pinned {
                return Some("the request is pinned to another tier");
            }
            match (kind_of(tier)?, cache) {
                (Kind::Openai | Kind::Ollama, wire::CacheMode::Only) => {
                    Some("the request wants an earlier answer only")
                }
                (Kind::Cache, wire::CacheMode::Bypass) => Some("the request bypasses the cache"),
                (Kind::Message, _) if !degraded => Some("the request refuses a degraded answer"),
                _ => None,
            }
        }
    }

    fn walk<'a>(
        &'a self,
        streaming: bool,
        exclude: &'a (dyn Fn(&Tier<Backend>) -> Option<&'static str> + Send + Sync),
        trail: &'a Trail,
    ) -> Walk<'a, Backend> {
        let affinity = affinity::key(&self.chat, self.agent.affinity);
        let mut walk = Walk::new(self.deadline);
        walk.started = self.started;
        walk.streaming = streaming;
        walk.affinity = affinity;
        walk.exclude = exclude;
        walk.first = self.first();
        walk.trail = Some(trail);
        walk
    }

    /// The cache's tier, where it is read before the models.
    fn first(&self) -> Option<&str> {
        let reads = self.agent.settings.cache.mode == CacheMode::ReadThrough && self.is_repeatable();
        let mut tiers = self.agent.chain.tiers().iter();
        let cache = tiers.find(|tier| kind_of(tier) == Some(Kind::Cache)).filter(|_| reads);
        cache.map(|tier| &*tier.name)
    }

    fn is_repeatable(&self) -> bool {
        is_deterministic(self.chat.request().sampling.as_ref())
    }

    /// Whether it may have the answer of an identical request that is under way.
    fn may_share(&self) -> bool {
        let kept =
            self.agent.settings.cache.coalesce && self.agent.keep_answers.is_some() && self.chat.may_store();
        kept && self.chat.request().tier.is_empty() && self.is_repeatable()
    }

    /// Whether this tier's answer may be given again. An agent that repeats answers before it asks its models repeats those of its
    /// first model only: a lesser one's would outlive the outage in which they were given.
    fn may_repeat(&self, tier: &Tier<Backend>) -> bool {
        let first = self.agent.chain.tiers().iter().find(|tier| is_model(tier));
        self.agent.settings.cache.mode != CacheMode::ReadThrough
            || first.is_some_and(|first| first.name == tier.name)
    }
}

#[tonic::async_trait]
impl InferenceService for Inference {
    async fn chat(
        &self,
        request: Request<wire::ChatRequest>,
    ) -> Result<Response<wire::ChatResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let asked = self.admit(request, &extensions)?;
        let joined = self.join(&asked, false);
        let exclude = asked.exclusion();
        let (chat, key) = (&asked.chat, asked.key);
        let size = self.shared.size;
        let ask = |backend: Arc<Backend>, deadline| async move {
            size.fits(backend.kind(), backend.chat(chat, key, deadline).await?)
        };
        let metrics = &self.shared.metrics;
        let given_up = GivenUp::new(&asked.agent.name, metrics);
        let came = {
            let own = pin!(async {
                let walk = asked.walk(false, &exclude, given_up.trail());
                let mut served = asked.agent.chain.open(walk, ask).await?;
                if let Some(mut guard) = served.guard.take() {
                    guard.cold_start(served.answer.origin.cold_start);
                    guard.success();
                }
                Ok::<_, ChainError<UpstreamError>>(served)
            });
            joined.or_own(own, metrics, given_up.trail()).await
        };
        let own = given_up.for_another();
        let (served, lead) = match came {
            Came::Own(served, lead) => (served, lead),
            Came::Shared(landed) => {
                return size.checked(shared_answer(&asked, &landed, own, metrics)).map(Response::new);
            }
        };
        let served = served.map_err(|error| self.refused(&asked, error))?;
        self.tell(&asked, &served.attempts);
        let tier = &asked.agent.chain.tiers()[served.tier];
        let answer = served.answer;
        let served_by =
            served.attempts.last().map(|answered| convert::served_by(tier, answered, &answer.origin));
        if is_model(tier) {
            self.keep(&asked, tier, &answer);
            land(lead, &asked.agent, tier, &answer, served_by.as_ref());
        }
        let response = wire::ChatResponse {
            id: new_id(),
            model: asked.agent.name.to_string(),
            created_at: Some(to_proto_timestamp(answer.origin.created_at)),
            message: Some(answer.message),
            finish_reason: answer.finish_reason.into(),
            usage: answer.usage,
            served_by,
            attempts: convert::attempts(&served.attempts),
        };
        size.checked(response).map(Response::new)
    }

    type StreamChatStream = ResponseStream;

    async fn stream_chat(
        &self,
        request: Request<wire::StreamChatRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let Some(request) = request.chat else {
            let status = Reason::InvalidRequest.status("chat: must be set").field("chat", "must be set");
            return Err(status.build());
        };
        let asked = self.admit(request, &extensions)?;
        let joined = self.join(&asked, true);
        let exclude = asked.exclusion();
        let (chat, key) = (&asked.chat, asked.key);
        let ask = |backend: Arc<Backend>, deadline| async move { backend.open(chat, key, deadline).await };
        let metrics = &self.shared.metrics;
        let given_up = GivenUp::new(&asked.agent.name, metrics);
        let came = {
            let own = pin!(asked.agent.chain.open(asked.walk(true, &exclude, given_up.trail()), ask));
            joined.or_own(own, metrics, given_up.trail()).await
        };
        let own = given_up.for_another();
        let (served, lead) = match came {
            Came::Own(served, lead) => (served, lead),
            Came::Shared(landed) => {
                return Ok(Response::new(shared_stream(asked, &landed, own, metrics)));
            }
        };
        let served = served.map_err(|error| self.refused(&asked, error))?;
        self.tell(&asked, &served.attempts);
        let tier = Arc::clone(&asked.agent.chain.tiers()[served.tier]);
        let model_answers = is_model(&tier);
        let answered = served.attempts.last();
        let served_by = answered.map(|answered| convert::served_by(&tier, answered, &served.answer.origin));
        let start = wire::StreamStart {
            id: new_id(),
            model: asked.agent.name.to_string(),
            created_at: Some(to_proto_timestamp(served.answer.origin.created_at)),
            served_by: served_by.clone(),
            attempts: convert::attempts(&served.attempts),
        };
        let successors = (asked.agent.settings.mid_stream == MidStream::Continue).then(|| Successors {
            agent: Arc::clone(&asked.agent),
            chat: asked.chat.clone(),
            exclude: Box::new(exclude),
            deadline: asked.deadline,
            started: asked.started,
        });
        let this = self.clone();
        let answering = Arc::clone(&tier);
        let on_whole = move |answer: &Answer| {
            if model_answers {
                this.keep(&asked, &answering, answer);
                land(lead, &asked.agent, &answering, answer, served_by.as_ref());
            }
        };
        let streamed = Streamed {
            tier,
            answer: served.answer,
            guard: served.guard,
            attempts: served.attempts,
            start,
            successors,
            metrics: self.shared.metrics.clone(),
            on_whole: Box::new(on_whole),
        };
        Ok(Response::new(streamed.into_stream()))
    }

    async fn list_models(
        &self,
        request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        let request = request.into_inner();
        let agents = self.shared.agents.get();
        let models = agents.all().map(|agent| wire::Model {
            name: agent.name.to_string(),
            kind: if agent.plain { wire::ModelKind::Plain } else { wire::ModelKind::Agent }.into(),
            tiers: agent.chain.tiers().iter().map(|tier| tier.name.to_string()).collect(),
            default: agents.is_default(agent),
        });
        let (models, next_page_token) =
            page(models.collect(), |model| model.name.clone(), request.page_size, &request.page_token)?;
        Ok(Response::new(wire::ListModelsResponse { models, next_page_token }))
    }
}

/// The name of an answer.
pub(super) fn new_id() -> String {
    format!("chat-{}", Uuid::now_v7().simple())
}

#[cfg(test)]
mod tests;
