//! What a request may name as its model, and the chain behind each name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use resilience::{
    Backoff, Bulkhead, Capacity, CircuitBreakerRegistry, FallbackChain, FixedPool, InvalidConfig, Jitter,
    Pool, RegistryError, RetryBudget, RetryBudgetConfig, RetryPolicy, SystemClock, Tier,
};
use thiserror::Error;

use crate::backend::{Backend, Store, Target};
use crate::cache::AnswerCache;
use crate::config::{Affinity, AgentCacheConfig, Kind, MidStream};
use crate::pool::EndpointPool;
use crate::pool::make::Maker;
use crate::settings::{AgentSettings, HedgeSettings, ModelTier, Settings, TierSettings};
use crate::upstream::HttpClient;

/// Less time than this is not worth a call to a model.
const MODEL_MINIMUM: Duration = Duration::from_millis(100);
/// What earlier tiers leave for a later tier of models, of a cache and of a message.
const MODEL_RESERVE: Duration = Duration::from_secs(1);
const CACHE_RESERVE: Duration = Duration::from_millis(60);
const MESSAGE_RESERVE: Duration = Duration::from_millis(10);
/// The ceilings of the waits before a retry. At least half of a ceiling is waited: a server that has just answered 500 or
/// 503 needs a moment.
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(1);

/// Agents that cannot be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A breaker cannot be had.
    #[error(transparent)]
    Breaker(#[from] RegistryError),
    /// A tier's servers cannot be reached.
    #[error("tier `{tier}` has no HTTP client")]
    Client {
        /// The tier.
        tier: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// A setting makes no sense. The check of the configuration refuses it before.
    #[error("a tier has a setting that makes no sense")]
    Setting(#[from] InvalidConfig),
}

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
    /// What keeps to a backend in any of its tiers.
    pub affinity: Affinity,
}

/// All agents and plain models.
#[derive(Debug)]
pub struct Agents {
    by_name: BTreeMap<Arc<str>, Arc<Agent>>,
    default: Arc<Agent>,
    tiers: Vec<Arc<Tier<Backend>>>,
    pools: Vec<Arc<EndpointPool>>,
    since: SystemTime,
}

impl Agents {
    /// Builds the tiers, gives each backend its breaker, and puts them into chains.
    ///
    /// # Errors
    /// Two tiers want one backend's breaker with different settings, or a setting makes no sense.
    pub fn build(
        settings: &Settings,
        client: &HttpClient,
        cache: Option<&Arc<AnswerCache>>,
        breakers: &Arc<CircuitBreakerRegistry>,
    ) -> Result<Option<Self>, BuildError> {
        let mut tiers: HashMap<&str, Arc<Tier<Backend>>> = HashMap::new();
        let mut pools = Vec::new();
        for (name, tier) in &settings.tiers {
            let (built, servers) = build_tier(name, tier, settings, client, cache, breakers)?;
            tiers.insert(name, Arc::new(built));
            pools.extend(servers);
        }
        // One budget for all chains: they call the same backends.
        let budget = RetryBudget::new(RetryBudgetConfig::default(), Arc::new(SystemClock::new()));
        let chain = |names: &[String], longest_rest: Duration| {
            let tiers = names.iter().filter_map(|name| tiers.get(name.as_str()).cloned());
            FallbackChain::new(tiers.collect())
                .with_retry_budget(budget.clone())
                .with_longest_rest(longest_rest)
        };
        let affinity = |names: &[String]| {
            let tiers = names.iter().filter_map(|name| settings.tiers.get(name)?.model());
            tiers.map(|tier| tier.pool.affinity).max().unwrap_or_default()
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
                    chain: chain(&agent.tiers, agent.retry_after_max_wait),
                    models: models(settings, &agent.tiers),
                    cache: agent.cache,
                    keep_answers: keep_answers(agent),
                    affinity: affinity(&agent.tiers),
                })
            })
            .collect();
        let Some(default) = agents.first().cloned() else {
            return Ok(None);
        };
        let mut by_name: BTreeMap<_, _> =
            agents.into_iter().map(|agent| (Arc::clone(&agent.name), agent)).collect();
        // What the default agent has the patience for.
        let patience = settings.agents.first().map_or(Duration::ZERO, |agent| agent.retry_after_max_wait);
        for (model, names) in plain_models(settings) {
            let name: Arc<str> = Arc::from(model);
            by_name.entry(Arc::clone(&name)).or_insert_with(|| {
                Arc::new(Agent {
                    name,
                    plain: true,
                    system_prompt: None,
                    mid_stream: MidStream::Error,
                    chain: chain(&names, patience),
                    models: models(settings, &names),
                    cache: AgentCacheConfig::default(),
                    keep_answers: None,
                    affinity: affinity(&names),
                })
            });
        }
        let mut tiers: Vec<_> = tiers.into_values().collect();
        tiers.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(Self { by_name, default, tiers, pools, since: SystemTime::now() }))
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

    /// The pools of the tiers of model servers.
    pub fn pools(&self) -> impl Iterator<Item = &EndpointPool> {
        self.pools.iter().map(|pool| &**pool)
    }

    /// Removes the breakers that none of these agents uses. Says how many.
    pub fn forget_others(&self, breakers: &CircuitBreakerRegistry) -> usize {
        let used: BTreeSet<String> = self
            .tiers
            .iter()
            .flat_map(|tier| tier.breakers())
            .map(|breaker| breaker.name().to_owned())
            .collect();
        let all = breakers.all();
        let others = all.iter().filter(|breaker| !used.contains(breaker.name()));
        others.filter_map(|breaker| breakers.remove(breaker.name())).count()
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
    breakers: &Arc<CircuitBreakerRegistry>,
) -> Result<(Tier<Backend>, Option<Arc<EndpointPool>>), BuildError> {
    let kind = tier.kind();
    let models = |model: &ModelTier| {
        let maker = Maker {
            kind,
            tier: name.to_owned(),
            model: model.clone(),
            client: client.clone(),
            breaker: settings.breaker.clone(),
            breakers: Arc::clone(breakers),
        };
        maker.pool().map(Arc::new)
    };
    let fixed = |backends| -> Arc<dyn Pool<Backend>> { Arc::new(FixedPool::new(backends)) };
    let mut servers = None;
    let (pool, model) = match tier {
        TierSettings::OpenAi(model) | TierSettings::Ollama(model) => {
            let pool = models(model)?;
            servers = Some(Arc::clone(&pool));
            (pool as Arc<dyn Pool<Backend>>, Some(model))
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
            (fixed(backends.transpose()?.into_iter().collect()), None)
        }
        TierSettings::Message { text } => {
            let target = Target::Message(text.clone());
            (fixed(vec![Arc::new(Backend::new(kind, String::new(), None, target))]), None)
        }
    };
    let Some(model) = model else {
        let reserve = if kind == Kind::Cache { CACHE_RESERVE } else { MESSAGE_RESERVE };
        return Ok((Tier { reserve, ..Tier::of_pool(name, pool) }, None));
    };
    let timeouts = model.timeouts;
    let tier_of_pool = Tier {
        timeout: Some(timeouts.total),
        first_item_timeout: Some(timeouts.first_token),
        minimum: MODEL_MINIMUM.min(timeouts.total).min(timeouts.first_token),
        reserve: MODEL_RESERVE,
        max_calls: model.attempts,
        retry: RetryPolicy::new(model.attempts, retry_backoff()?)?,
        hedge: model.hedge.map(HedgeSettings::build).transpose()?,
        takes_hedges: true,
        capacity: model.context_tokens.map_or(Capacity::Unknown, Capacity::UpTo),
        bulkhead: Some(Bulkhead::new(model.pool.concurrency)),
        ..Tier::of_pool(name, pool)
    };
    Ok((tier_of_pool, servers))
}

/// The waits before retries: short, because a chain has other tiers to go to and a deadline to keep.
fn retry_backoff() -> Result<Backoff, InvalidConfig> {
    Backoff::exponential(RETRY_BASE, RETRY_CAP).map(|backoff| backoff.with_jitter(Jitter::Equal))
}
