//! What a request may name as its model, and the chain behind each name.
//!
//! A new configuration makes new agents, which take the place of the old ones between two requests: what is in flight keeps
//! the agents that it began with. What the configuration left as it was is carried over, with its connections and its
//! statistics: a tier whose settings are the same, and an agent whose own settings and tiers are the same. A changed one
//! starts anew, and says since when it counts. Only what bounds a tier's calls goes with the tier's name, whatever has changed: the
//! calls that are in flight are at the same servers as those that come.

mod current;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use resilience::{
    Backoff, Bulkhead, Capacity, CircuitBreaker, CircuitBreakerRegistry, FallbackChain, FixedPool,
    InvalidConfig, Jitter, Pool, RegistryError, RetryBudget, RetryBudgetConfig, RetryPolicy, SystemClock,
    Tier,
};
use thiserror::Error;

use crate::backend::{Backend, Store, Target};
use crate::cache::AnswerCache;
use crate::config::{Affinity, Kind};
use crate::flights::Landings;
use crate::pool::EndpointPool;
use crate::pool::make::Maker;
use crate::pool::rests::Rests;
use crate::settings::{AgentSettings, HedgeSettings, ModelTier, Settings, TierSettings};
use crate::upstream::HttpClient;
pub use current::CurrentAgents;

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
    /// Its own settings; those of a plain model say nothing but its tiers.
    pub settings: AgentSettings,
    /// Its tiers.
    pub chain: FallbackChain<Backend>,
    /// The models that may answer, by the upstreams' own names: sorted, each once.
    pub models: Vec<String>,
    /// How long its answers are kept; `None` when its chain has no cache.
    pub keep_answers: Option<Duration>,
    /// What keeps to a backend in any of its tiers.
    pub affinity: Affinity,
    /// How long its whole answers take, for those that follow an identical request.
    pub landings: Landings,
    /// Since when the statistics of its chain count.
    pub since: SystemTime,
}

/// All agents and plain models.
#[derive(Debug)]
pub struct Agents {
    by_name: BTreeMap<Arc<str>, Arc<Agent>>,
    default: Arc<str>,
    tiers: Vec<Arc<Tier<Backend>>>,
    /// The pools of the tiers of model servers, by tier.
    pools: BTreeMap<String, Arc<EndpointPool>>,
    budget: RetryBudget,
    rests: Rests,
    made_of: BTreeMap<String, TierSettings>,
}

impl Agents {
    /// Builds the tiers, gives each backend its breaker, and puts them into chains. What is as it was in `previous` is
    /// taken from there.
    ///
    /// A breaker or a tier's bound that is known by then keeps its settings until [`settle`](Self::settle).
    ///
    /// # Errors
    /// Two tiers want one backend's breaker with different settings, there are too many breakers, the system has no
    /// certificates to trust a server by, or a setting makes no sense.
    pub fn build(
        settings: &Settings,
        cache: Option<&Arc<AnswerCache>>,
        breakers: &Arc<CircuitBreakerRegistry>,
        previous: Option<&Self>,
    ) -> Result<Self, BuildError> {
        // One budget for all chains: they call the same backends.
        let fresh = || RetryBudget::new(RetryBudgetConfig::default(), Arc::new(SystemClock::new()));
        let budget = previous.map_or_else(fresh, |previous| previous.budget.clone());
        let rests = previous.map(|previous| previous.rests.clone()).unwrap_or_default();
        let known_stay = previous.is_some();
        let parts = Parts { settings, cache, breakers, budget: &budget, rests: &rests, known_stay, previous };
        let mut tiers: BTreeMap<&str, Arc<Tier<Backend>>> = BTreeMap::new();
        let mut pools = BTreeMap::new();
        let mut carried = BTreeSet::new();
        for (name, tier) in &settings.tiers {
            let old = previous.and_then(|previous| Some((previous, previous.tier_made_of(name, tier)?)));
            let (built, pool) = if let Some((previous, old)) = old {
                carried.insert(name.as_str());
                (Arc::clone(old), previous.pools.get(name).cloned())
            } else {
                let (built, pool) = parts.tier(name, tier)?;
                (Arc::new(built), pool)
            };
            tiers.insert(name, built);
            pools.extend(pool.map(|pool| (name.clone(), pool)));
        }
        let build = |settings: &AgentSettings, plain: bool| -> Result<Arc<Agent>, BuildError> {
            let old = previous.and_then(|previous| previous.by_name.get(&settings.name));
            let same_tiers = settings.tiers.iter().all(|name| carried.contains(name.as_str()));
            let old = old.filter(|old| same_tiers && old.plain == plain && old.settings == *settings);
            match old {
                Some(old) => Ok(Arc::clone(old)),
                None => parts.agent(settings, plain, &tiers).map(Arc::new),
            }
        };
        let mut by_name = BTreeMap::new();
        for agent in &settings.agents {
            by_name.insert(Arc::clone(&agent.name), build(agent, false)?);
        }
        // Plain models have the patience of the default agent.
        let patience = settings.agents.first().map_or(Duration::ZERO, |agent| agent.retry_after_max_wait);
        for (model, tiers) in plain_models(settings) {
            let model = AgentSettings::plain(model, tiers, patience);
            if !by_name.contains_key(&model.name) {
                by_name.insert(Arc::clone(&model.name), build(&model, true)?);
            }
        }
        // Settings name at least one agent.
        let default = settings.agents.first().map(|agent| Arc::clone(&agent.name)).unwrap_or_default();
        let tiers = tiers.into_values().collect();
        Ok(Self { by_name, default, tiers, pools, budget, rests, made_of: settings.tiers.clone() })
    }

    /// Gives the breakers and the tiers' bounds of these agents their settings. A breaker keeps its state, and a bound what it has
    /// found out, as far as these allow.
    pub fn settle(&self, settings: &Settings, breakers: &CircuitBreakerRegistry) {
        for breaker in breakers.all().iter().filter(|breaker| *breaker.config() != settings.breaker) {
            if self.uses(breaker) {
                breaker.reconfigure(settings.breaker.clone(), "configuration", "reloaded");
            }
        }
        for tier in &self.tiers {
            let model = settings.tiers.get(&*tier.name).and_then(TierSettings::model);
            if let (Some(bulkhead), Some(model)) = (&tier.bulkhead, model) {
                bulkhead.reconfigure(model.pool.concurrency);
            }
        }
    }

    /// Removes the breakers that none of these agents uses. Says how many.
    pub fn forget_others(&self, breakers: &CircuitBreakerRegistry) -> usize {
        let all = breakers.all();
        let others = all.iter().filter(|breaker| !self.uses(breaker));
        others.filter_map(|breaker| breakers.remove(breaker.name())).count()
    }

    fn uses(&self, breaker: &CircuitBreaker) -> bool {
        self.tiers.iter().flat_map(|tier| tier.breakers()).any(|used| used.name() == breaker.name())
    }

    /// The tier of this name, if it was made of these settings.
    fn tier_made_of(&self, name: &str, settings: &TierSettings) -> Option<&Arc<Tier<Backend>>> {
        self.made_of.get(name).filter(|made_of| *made_of == settings)?;
        self.tiers.iter().find(|tier| *tier.name == *name)
    }

    /// What bounds the calls of the tier of this name.
    fn bulkhead_of(&self, name: &str) -> Option<&Bulkhead> {
        self.tiers.iter().find(|tier| *tier.name == *name)?.bulkhead.as_ref()
    }

    /// The agent or plain model of this name; the default agent for an empty name.
    pub fn find(&self, name: &str) -> Option<Arc<Agent>> {
        let name = if name.is_empty() { &self.default } else { name };
        self.by_name.get(name).cloned()
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Agent>> {
        self.by_name.values()
    }

    /// Whether this is the default agent.
    pub fn is_default(&self, agent: &Agent) -> bool {
        agent.name == self.default
    }

    /// The tiers of all agents, by name.
    pub fn tiers(&self) -> &[Arc<Tier<Backend>>] {
        &self.tiers
    }

    /// The pools of the tiers of model servers.
    pub fn pools(&self) -> impl Iterator<Item = &EndpointPool> {
        self.pools.values().map(|pool| &**pool)
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

/// What tiers and agents are made from.
struct Parts<'a> {
    settings: &'a Settings,
    cache: Option<&'a Arc<AnswerCache>>,
    breakers: &'a Arc<CircuitBreakerRegistry>,
    budget: &'a RetryBudget,
    rests: &'a Rests,
    /// Whether breakers that exist are taken as they are: until the new agents are in use, a refusal must leave them so.
    known_stay: bool,
    previous: Option<&'a Agents>,
}

impl Parts<'_> {
    fn agent(
        &self,
        settings: &AgentSettings,
        plain: bool,
        tiers: &BTreeMap<&str, Arc<Tier<Backend>>>,
    ) -> Result<Agent, BuildError> {
        let mut chain = Vec::new();
        let mut keep_answers = None;
        for name in &settings.tiers {
            let made_of = self.settings.tiers.get(name);
            if let (Some(TierSettings::Message { .. }), Some(text)) = (made_of, &settings.degraded_text) {
                let own = TierSettings::Message { text: text.clone() };
                chain.push(Arc::new(self.tier(name, &own)?.0));
                continue;
            }
            if let Some(TierSettings::Cache { ttl }) = made_of {
                keep_answers = keep_answers.or(Some(*ttl));
            }
            chain.extend(tiers.get(name.as_str()).cloned());
        }
        Ok(Agent {
            name: Arc::clone(&settings.name),
            plain,
            settings: settings.clone(),
            chain: FallbackChain::new(chain)
                .with_retry_budget(self.budget.clone())
                .with_longest_rest(settings.retry_after_max_wait),
            models: models(self.settings, &settings.tiers),
            keep_answers,
            affinity: self.affinity(&settings.tiers),
            landings: Landings::default(),
            since: SystemTime::now(),
        })
    }

    fn breaker(&self, name: &str) -> Result<CircuitBreaker, RegistryError> {
        match self.breakers.get(name) {
            Some(known) if self.known_stay => Ok(known),
            Some(_) | None => self.breakers.get_or_create(name, &self.settings.breaker),
        }
    }

    fn affinity(&self, tiers: &[String]) -> Affinity {
        let tiers = tiers.iter().filter_map(|name| self.settings.tiers.get(name)?.model());
        tiers.map(|tier| tier.pool.affinity).max().unwrap_or_default()
    }

    fn pool(&self, name: &str, kind: Kind, model: &ModelTier) -> Result<EndpointPool, BuildError> {
        let failed = |source| BuildError::Client { tier: name.to_owned(), source };
        let maker = Maker {
            kind,
            tier: name.to_owned(),
            client: HttpClient::new(&model.connection, model.max_request_bytes).map_err(failed)?,
            model: model.clone(),
            breaker: self.settings.breaker.clone(),
            breakers: Arc::clone(self.breakers),
            rests: self.rests.clone(),
            known_stay: self.known_stay,
        };
        maker.pool()
    }

    fn tier(
        &self,
        name: &str,
        tier: &TierSettings,
    ) -> Result<(Tier<Backend>, Option<Arc<EndpointPool>>), BuildError> {
        let kind = tier.kind();
        let fixed = |backends| -> Arc<dyn Pool<Backend>> { Arc::new(FixedPool::new(backends)) };
        let mut servers = None;
        let (pool, model) = match tier {
            TierSettings::OpenAi(model) | TierSettings::Ollama(model) => {
                let pool = Arc::new(self.pool(name, kind, model)?);
                servers = Some(Arc::clone(&pool));
                (pool as Arc<dyn Pool<Backend>>, Some(model))
            }
            TierSettings::Cache { .. } => {
                let backends = self.cache.map(|cache| -> Result<_, BuildError> {
                    let name = cache.name().to_owned();
                    let breaker = match cache.store() {
                        Store::Redis => Some(self.breaker(&name)?),
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
            let mut tier = Tier::of_pool(name, pool);
            tier.reserve = reserve;
            return Ok((tier, None));
        };
        let known = self.previous.and_then(|previous| previous.bulkhead_of(name)).cloned();
        let timeouts = model.timeouts;
        let mut tier = Tier::of_pool(name, pool);
        tier.timeout = Some(timeouts.total);
        tier.first_item_timeout = Some(timeouts.first_token);
        tier.minimum = MODEL_MINIMUM.min(timeouts.total).min(timeouts.first_token);
        tier.reserve = MODEL_RESERVE;
        tier.max_calls = model.attempts;
        tier.retry = RetryPolicy::new(model.attempts, retry_backoff()?)?;
        tier.hedge = model.hedge.map(HedgeSettings::build).transpose()?;
        tier.takes_hedges = true;
        tier.capacity = model.context_tokens.map_or(Capacity::Unknown, Capacity::UpTo);
        tier.bulkhead = Some(known.unwrap_or_else(|| Bulkhead::new(model.pool.concurrency)));
        Ok((tier, servers))
    }
}

/// The waits before retries: short, because a chain has other tiers to go to and a deadline to keep.
fn retry_backoff() -> Result<Backoff, InvalidConfig> {
    Backoff::exponential(RETRY_BASE, RETRY_CAP).map(|backoff| backoff.with_jitter(Jitter::Equal))
}
