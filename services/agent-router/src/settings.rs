//! The configuration as types that cannot be wrong.

mod breaker;
mod cache;
mod pool;
mod tier;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aiplatform_proto::inference::v1::Sampling;
use aiplatform_proto::validation::MAX_MODEL_NAME;
use resilience::{BulkheadConfig, CircuitBreakerConfig};
use service_kit::config::Problems;
use service_kit::tls::Expiry;

use crate::config::{AgentCacheConfig, AgentConfig, CacheMode, Config, Kind, MidStream};
pub use cache::{CacheSettings, StoreSettings};
pub use pool::{HealthCheck, PoolSettings};
pub use tier::{Accepts, Connection, HedgeSettings, Identity, ModelTier, TierSettings, Timeouts};

/// The smallest limit of a message: the longest line of a stream ([`MAX_LINE`](crate::upstream::decode::MAX_LINE)) fits, with
/// what stands around it.
const LEAST_MESSAGE: usize = 1024 * 1024;

/// Everything that the router is built from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This replica's name, where one is configured.
    pub replica: Option<String>,
    /// Chats at a time.
    pub in_flight: BulkheadConfig,
    /// The settings of all breakers.
    pub breaker: CircuitBreakerConfig,
    /// The store of earlier answers, where it is wanted.
    pub cache: Option<CacheSettings>,
    /// The tiers that some agent uses, by name.
    pub tiers: BTreeMap<String, TierSettings>,
    /// The agents; the first is the default.
    pub agents: Vec<AgentSettings>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSettings {
    /// What clients ask for.
    pub name: Arc<str>,
    /// Put before every conversation.
    pub system_prompt: Option<String>,
    /// What becomes of a stream that breaks off after its first content.
    pub mid_stream: MidStream,
    /// How to sample where the request does not say. By the rules of a request.
    pub sampling: Sampling,
    /// What its message tier says instead of the tier's own text.
    pub degraded_text: Option<String>,
    /// The tiers, in order; each is in [`Settings::tiers`].
    pub tiers: Vec<String>,
    /// What earlier answers are used for.
    pub cache: AgentCacheConfig,
    /// The longest that a request waits for a backend that has named a time.
    pub retry_after_max_wait: Duration,
}

impl AgentSettings {
    /// A plain model, which these tiers offer.
    pub(crate) fn plain(model: &str, tiers: Vec<String>, retry_after_max_wait: Duration) -> Self {
        Self {
            name: Arc::from(model),
            system_prompt: None,
            sampling: Sampling::default(),
            degraded_text: None,
            mid_stream: MidStream::Error,
            retry_after_max_wait,
            tiers,
            cache: AgentCacheConfig::default(),
        }
    }
}

impl Settings {
    /// Checks a configuration. `None` when there are problems; they are added to `problems`.
    pub fn of(config: &Config, problems: &mut Problems) -> Option<Self> {
        let breaker = breaker::of(&config.circuit_breaker, problems);
        let cache = cache::of(config, problems);
        let agents = agents(config, problems);
        let used = |name: &str| agents.iter().any(|agent| agent.tiers.iter().any(|tier| tier == name));
        let tiers: BTreeMap<_, _> = config
            .tiers
            .iter()
            .filter_map(|(name, tier)| {
                // A tier that no agent uses is checked all the same: a mistake in it should not wait to be found.
                let settings = tier::of(name, tier, config.circuit_breaker.call_timeout.0, problems)?;
                used(name).then(|| (name.clone(), settings))
            })
            .collect();
        let largest = config.agent_router.max_message_bytes;
        problems.require(
            largest >= LEAST_MESSAGE,
            "agent_router.max_message_bytes",
            largest,
            "must be at least 1048576: the longest piece of a stream has to fit",
        );
        let most = config.agent_router.max_in_flight;
        let in_flight = BulkheadConfig::new(most);
        problems.require(in_flight.is_ok(), "agent_router.max_in_flight", most, "must be at least 1");
        if !problems.is_empty() {
            return None;
        }
        Some(Self {
            replica: config.agent_router.replica.clone(),
            in_flight: in_flight.ok()?,
            breaker: breaker?,
            cache,
            tiers,
            agents,
        })
    }

    /// When the certificates expire that are shown to model servers.
    pub fn expiries(&self) -> impl Iterator<Item = Expiry> {
        let models = self.tiers.values().filter_map(TierSettings::model);
        models.filter_map(|tier| tier.connection.identity.as_ref()?.expiry.clone())
    }
}

fn agents(config: &Config, problems: &mut Problems) -> Vec<AgentSettings> {
    problems.require(!config.agents.is_empty(), "agents", "[]", "must name at least one agent");
    let mut agents: Vec<AgentSettings> = Vec::new();
    for (index, agent) in config.agents.iter().enumerate() {
        let key = format!("agents.{index}");
        let length = agent.name.len();
        let rule = format!("must be 1 to {MAX_MODEL_NAME} bytes");
        problems.require((1..=MAX_MODEL_NAME).contains(&length), &format!("{key}.name"), &agent.name, &rule);
        let taken = agents.iter().any(|other| *other.name == *agent.name);
        problems.require(!taken, &format!("{key}.name"), &agent.name, "must be unique");
        agent.sampling.check(&key, problems);
        degraded_text(config, agent, &key, problems);
        agents.push(AgentSettings {
            name: Arc::from(agent.name.as_str()),
            system_prompt: agent.system_prompt.clone(),
            mid_stream: agent.mid_stream,
            sampling: agent.sampling.to_wire(),
            degraded_text: agent.degraded_text.clone(),
            tiers: chain(config, agent, &key, problems),
            cache: agent.cache,
            retry_after_max_wait: agent.retry_after_max_wait.0,
        });
    }
    agents
}

fn degraded_text(config: &Config, agent: &AgentConfig, key: &str, problems: &mut Problems) {
    let Some(text) = &agent.degraded_text else { return };
    let key = format!("{key}.degraded_text");
    problems.require(!text.trim().is_empty(), &key, "\"\"", "must not be empty");
    let says = |name: &String| config.tiers.get(name).is_some_and(|tier| tier.kind == Some(Kind::Message));
    problems.require(
        agent.tiers.iter().any(says),
        &key,
        text,
        "must not be set without a message tier in `tiers`",
    );
}

/// The tiers of an agent that are in use by this configuration.
fn chain(config: &Config, agent: &AgentConfig, key: &str, problems: &mut Problems) -> Vec<String> {
    let key = format!("{key}.tiers");
    for (index, name) in agent.tiers.iter().enumerate() {
        problems.require(config.tiers.contains_key(name), &key, name, "must be a tier under `tiers`");
        problems.require(!agent.tiers[..index].contains(name), &key, name, "must not be named twice");
    }
    let caches = config.cache.enabled && agent.cache.mode != CacheMode::Off;
    let kind = |name: &String| config.tiers.get(name).and_then(|tier| tier.kind);
    let mut tiers: Vec<String> =
        agent.tiers.iter().filter(|name| caches || kind(name) != Some(Kind::Cache)).cloned().collect();
    if !config.fallback_chain.enabled {
        tiers.truncate(1);
    }
    problems.require(
        !tiers.is_empty(),
        &key,
        format!("{:?}", agent.tiers),
        "must name at least one tier that is enabled",
    );
    let messages = tiers.iter().position(|name| kind(name) == Some(Kind::Message));
    let last = messages.is_none_or(|position| position + 1 == tiers.len());
    problems.require(last, &key, format!("{:?}", agent.tiers), "must have its message tier at the end");
    tiers
}

#[cfg(test)]
mod tests;
