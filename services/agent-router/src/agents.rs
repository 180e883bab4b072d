//! What a request may name as its model, and the chain behind each name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use resilience::{CircuitBreakerRegistry, FallbackChain, RegistryError, Tier};
use service_kit::config::Endpoint;

use crate::backend::{Backend, Store, Target};
use crate::cache::AnswerCache;
use crate::config::{AgentCacheConfig, Kind, MidStream};
use crate::settings::{AgentSettings, ModelTier, Settings, TierSettings};
use crate::upstream::HttpClient;
use crate::upstream::ollama::OllamaBackend;
use crate::upstream::openai::OpenAiBackend;

/// Less time than this is not worth a call to a model.
const MODEL_MINIMUM: Duration = Duration::from_millis(100);
/// What earlier tiers leave for a later tier of models, of a cache and of a message.
const MODEL_RESERVE: Duration = Duration::from_secs(1);
const CACHE_RESERVE: Duration = Duration::from_millis(60);
const MESSAGE_RESERVE: Duration = Duration::from_millis(10);

/// An agent or a plain model.
#[derive(Debug)]
pub struct Agent {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is a plain model: one model's tiers without an agent's prompt and fallback.
    pub plain: bool,
    /// Put before every conversation.
    pub system_prompt: Option<String>,
    /// What becomes of a stream that breaks off after its first content.
    pub mid_stream: MidStream,
    /// Its tiers.
    pub chain: FallbackChain<Backend>,
    /// The models that may answer, by the upstreams' own names: sorted, each once.
    pub models: Vec<String>,
    /// What earlier answers are used for.
    pub cache: AgentCacheConfig,
    /// How long its answers are kept; `None` when its chain has no cache.
    pub keep_answers: Option<Duration>,
}

/// All agents and plain models.
#[derive(Debug)]
pub struct Agents {
    by_name: BTreeMap<Arc<str>, Arc<Agent>>,
    default: Arc<Agent>,
    tiers: Vec<Arc<Tier<Backend>>>,
    since: SystemTime,
}

impl Agents {
    /// Builds the tiers, gives each backend its breaker, and puts them into chains.
    ///
    /// # Errors
    /// Two tiers want one backend's breaker with different settings.
    pub fn build(
        settings: &Settings,
        client: &HttpClient,
        cache: Option<&Arc<AnswerCache>>,
        breakers: &CircuitBreakerRegistry,
    ) -> Result<Option<Self>, RegistryError> {
        let mut tiers: HashMap<&str, Arc<Tier<Backend>>> = HashMap::new();
        for (name, tier) in &settings.tiers {
            let built = build_tier(name, tier, settings, client, cache, breakers)?;
            tiers.insert(name, Arc::new(built));
        }
        let chain = |names: &[String]| {
            let tiers = names.iter().filter_map(|name| tiers.get(name.as_str()).cloned());
            FallbackChain::new(tiers.collect())
        };
        let keep_answers = |agent: &AgentSettings| {
            agent.tiers.iter().find_map(|name| match settings.tiers.get(name) {
                Some(TierSettings::Cache { ttl }) => Some(*ttl),
                Some(TierSettings::OpenAi(_) | TierSettings::Ollama(_) | TierSettings::Message { .. })
                | None => None,
            })
        };
        let agents: Vec<Arc<Agent>> = settings
            .agents
            .iter()
            .map(|agent| {
                Arc::new(Agent {
                    name: Arc::clone(&agent.name),
                    plain: false,
                    system_prompt: agent.system_prompt.clone(),
                    mid_stream: agent.mid_stream,
                    chain: chain(&agent.tiers),
                    models: models(settings, &agent.tiers),
                    cache: agent.cache,
                    keep_answers: keep_answers(agent),
                })
            })
            .collect();
        let Some(default) = agents.first().cloned() else {
            return Ok(None);
        };
        let mut by_name: BTreeMap<_, _> =
            agents.into_iter().map(|agent| (Arc::clone(&agent.name), agent)).collect();
        for (model, names) in plain_models(settings) {
            let name: Arc<str> = Arc::from(model);
            by_name.entry(Arc::clone(&name)).or_insert_with(|| {
                Arc::new(Agent {
                    name,
                    plain: true,
                    system_prompt: None,
                    mid_stream: MidStream::Error,
                    chain: chain(&names),
                    models: models(settings, &names),
                    cache: AgentCacheConfig::default(),
                    keep_answers: None,
                })
            });
        }
        let mut tiers: Vec<_> = tiers.into_values().collect();
        tiers.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(Self { by_name, default, tiers, since: SystemTime::now() }))
    }

    /// The agent or plain model of this name; the default agent for an empty name.
    pub fn find(&self, name: &str) -> Option<Arc<Agent>> {
        if name.is_empty() { Some(Arc::clone(&self.default)) } else { self.by_name.get(name).cloned() }
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Agent>> {
        self.by_name.values()
    }

    /// Whether this is the default agent.
    pub fn is_default(&self, agent: &Agent) -> bool {
        agent.name == self.default.name
    }

    /// The tiers of all agents, by name.
    pub fn tiers(&self) -> &[Arc<Tier<Backend>>] {
        &self.tiers
    }

    /// When they were built: since when their statistics count.
    pub fn since(&self) -> SystemTime {
        self.since
    }
}

/// The models of these tiers, sorted, each once.
fn models(settings: &Settings, tiers: &[String]) -> Vec<String> {
    let models = tiers.iter().filter_map(|name| model_of(settings, name));
    models.collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
}

fn model_of<'a>(settings: &'a Settings, tier: &str) -> Option<&'a str> {
    match settings.tiers.get(tier)? {
        TierSettings::OpenAi(tier) | TierSettings::Ollama(tier) => Some(&tier.model),
        TierSettings::Cache { .. } | TierSettings::Message { .. } => None,
    }
}

/// The upstream models, each with the tiers that offer it.
fn plain_models(settings: &Settings) -> BTreeMap<&str, Vec<String>> {
    let mut models: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    // In the order of the agents' chains, so that the faster tier is asked first.
    let names = settings.agents.iter().flat_map(|agent| &agent.tiers);
    for name in names {
        let Some(model) = model_of(settings, name) else {
            continue;
        };
        let tiers = models.entry(model).or_default();
        if !tiers.contains(name) {
            tiers.push(name.clone());
        }
    }
    models
}

fn build_tier(
    name: &str,
    tier: &TierSettings,
    settings: &Settings,
    client: &HttpClient,
    cache: Option<&Arc<AnswerCache>>,
    breakers: &CircuitBreakerRegistry,
) -> Result<Tier<Backend>, RegistryError> {
    let kind = tier.kind();
    let models = |tier: &ModelTier, target: &dyn Fn(&Endpoint) -> Target| {
        let backends = tier.endpoints.iter().map(|endpoint| {
            let path = endpoint.url().path().trim_end_matches('/');
            let name = format!("{}{path}/{}", endpoint.authority(), tier.model);
            let breaker = breakers.get_or_create(&name, &settings.breaker)?;
            Ok(Arc::new(Backend::new(kind, name, Some(breaker), target(endpoint))))
        });
        backends.collect::<Result<Vec<_>, RegistryError>>()
    };
    let (backends, timeouts) = match tier {
        TierSettings::OpenAi(model) => {
            let target = |endpoint: &_| Target::OpenAi(OpenAiBackend::new(client.clone(), endpoint, model));
            (models(model, &target)?, Some(model.timeouts))
        }
        TierSettings::Ollama(model) => {
            let target = |endpoint: &_| Target::Ollama(OllamaBackend::new(client.clone(), endpoint, model));
            (models(model, &target)?, Some(model.timeouts))
        }
        TierSettings::Cache { .. } => {
            let backends = cache.map(|cache| -> Result<_, RegistryError> {
                let name = cache.name().to_owned();
                let breaker = match cache.store() {
                    Store::Redis => Some(breakers.get_or_create(&name, &settings.breaker)?),
                    Store::Memory => None,
                };
                Ok(Arc::new(Backend::new(kind, name, breaker, Target::Cache(Arc::clone(cache)))))
            });
            (backends.transpose()?.into_iter().collect(), None)
        }
        TierSettings::Message { text } => {
            let target = Target::Message(text.clone());
            (vec![Arc::new(Backend::new(kind, String::new(), None, target))], None)
        }
    };
    let (minimum, reserve) = match kind {
        Kind::Openai | Kind::Ollama => (MODEL_MINIMUM, MODEL_RESERVE),
        Kind::Cache => (Duration::ZERO, CACHE_RESERVE),
        Kind::Message => (Duration::ZERO, MESSAGE_RESERVE),
    };
    Ok(Tier {
        timeout: timeouts.map(|timeouts| timeouts.total),
        first_item_timeout: timeouts.map(|timeouts| timeouts.first_token),
        minimum: timeouts.map_or(minimum, |timeouts| minimum.min(timeouts.total).min(timeouts.first_token)),
        reserve,
        ..Tier::new(name, backends)
    })
}
