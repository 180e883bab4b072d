use resilience::{Backend as _, Rest, SplitMix64, State, SystemClock};
use service_kit::auth::Audience;
use service_kit::config::Seconds;
use service_kit::dns::{Resolver, Resolving};
use service_kit::metrics::Registry;
use tokio::sync::watch;

use super::*;
use crate::config::{AgentConfig, SamplingConfig};
use crate::metrics::PoolMetrics;
use crate::pool::dns;

struct Running {
    reload: RouterReload,
    config: Config,
}

impl Running {
    fn new() -> Self {
        let config = Config::default();
        let settings = Settings::of(&config, &mut Problems::default()).unwrap();
        let breakers = Arc::new(CircuitBreakerRegistry::new(Arc::new(SystemClock::new())));
        let agents = Agents::build(&settings, None, &breakers, None).unwrap();
        let mut registry = Registry::default();
        let reload = RouterReload {
            started: config.clone(),
            agents: CurrentAgents::new(agents),
            cache: None,
            breakers,
            metrics: ChainMetrics::register(&mut registry),
            guard: Guard::new(&config.security, Audience::Gateways, &mut registry).unwrap(),
            tls: LiveTls::of_listeners("agent_router", &config.agent_router.tls).unwrap(),
        };
        Self { reload, config }
    }

    fn change(&mut self, change: impl FnOnce(&mut Config)) -> Result<(), Problems> {
        change(&mut self.config);
        self.reload.prepare(&self.config).map(Prepared::apply)
    }

    fn agent(&self, name: &str) -> Option<Arc<crate::agents::Agent>> {
        self.reload.agents.get().find(name)
    }

    fn breakers(&self) -> Vec<String> {
        self.reload.breakers.all().iter().map(|breaker| breaker.name().to_owned()).collect()
    }
}

fn agent(name: &str, tiers: &[&str]) -> AgentConfig {
    AgentConfig {
        name: name.to_owned(),
        system_prompt: None,
        sampling: SamplingConfig::default(),
        degraded_text: None,
        retry_after_max_wait: Seconds::new(2),
        mid_stream: crate::config::MidStream::Error,
        tiers: tiers.iter().map(|tier| (*tier).to_owned()).collect(),
        cache: crate::config::AgentCacheConfig::default(),
    }
}

const MAX: &str = "max:8000/meta-llama/Llama-3.1-8B-Instruct";
const OLLAMA: &str = "ollama:11434/llama3.1:8b";

#[tokio::test]
async fn what_stays_the_same_is_carried_over_with_its_statistics() {
    let mut running = Running::new();
    let before = running.agent("assistant").unwrap();
    running.change(|config| config.agents.push(agent("new", &["ollama"]))).unwrap();
    assert!(Arc::ptr_eq(&before, &running.agent("assistant").unwrap()));
    let new = running.agent("new").unwrap();
    assert!(Arc::ptr_eq(&new.chain.tiers()[0], &before.chain.tiers()[1]), "the tier is shared");

    running.change(|config| config.agents[0].system_prompt = Some("be brief".into())).unwrap();
    let changed = running.agent("assistant").unwrap();
    assert!(!Arc::ptr_eq(&before, &changed) && changed.since > before.since);
    assert!(Arc::ptr_eq(&before.chain.tiers()[0], &changed.chain.tiers()[0]), "its tiers are as they were");

    let change = |config: &mut Config| config.tiers.get_mut("max").unwrap().timeout = Some(Seconds::new(7));
    running.change(change).unwrap();
    let slower = running.agent("assistant").unwrap();
    assert_eq!(slower.chain.tiers()[0].timeout, Some(std::time::Duration::from_secs(7)));
    assert!(Arc::ptr_eq(&slower.chain.tiers()[1], &changed.chain.tiers()[1]));
    assert!(Arc::ptr_eq(&new, &running.agent("new").unwrap()), "it has nothing to do with that tier");
}

#[tokio::test]
async fn breakers_keep_their_state_take_new_settings_and_go_with_their_backends() {
    let mut running = Running::new();
    assert_eq!(running.breakers(), [MAX, OLLAMA]);
    let breaker = running.reload.breakers.get(MAX).unwrap();
    breaker.open("a test", "to see it stay");
    running.change(|config| config.circuit_breaker.failure_threshold = 7).unwrap();
    let same = running.reload.breakers.get(MAX).unwrap();
    assert_eq!((same.state(), same.config().failure_threshold()), (State::Open, 7));
    assert_eq!(breaker.config().failure_threshold(), 7, "it is the same breaker");

    let other = "http://other:1".parse::<service_kit::config::Endpoint>().unwrap();
    running.change(|config| config.tiers.get_mut("ollama").unwrap().endpoints = vec![other]).unwrap();
    assert_eq!(running.breakers(), [MAX, "other:1/llama3.1:8b"]);
    running.change(|config| config.fallback_chain.enabled = false).unwrap();
    assert_eq!(running.breakers(), [MAX]);
    assert_eq!(running.reload.breakers.get(MAX).unwrap().state(), State::Open);
}

#[tokio::test]
async fn a_server_rests_for_all_its_tiers_and_for_those_of_the_next_configuration() {
    let mut running = Running::new();
    let rests = |running: &Running, name: &str| {
        let agents = running.reload.agents.get();
        let tier = agents.tiers().iter().find(|tier| *tier.name == *name).cloned().unwrap();
        tier.pool.members()[0].rest().unwrap().left()
    };
    let twin = |config: &mut Config| {
        config.tiers.insert("twin".into(), config.tiers["max"].clone());
        config.agents.push(agent("second", &["twin"]));
    };
    running.change(twin).unwrap();
    let max = running.agent("assistant").unwrap();
    max.chain.tiers()[0].pool.members()[0].rest().unwrap().begin(Rest::LONGEST);
    assert!(rests(&running, "twin").is_some());
    let change = |config: &mut Config| config.tiers.get_mut("max").unwrap().timeout = Some(Seconds::new(7));
    running.change(change).unwrap();
    assert!(rests(&running, "max").is_some() && rests(&running, "ollama").is_none());
}

#[tokio::test]
async fn a_tier_that_changes_counts_the_calls_that_are_under_way() {
    let mut running = Running::new();
    let bulkhead =
        |running: &Running| running.agent("assistant").unwrap().chain.tiers()[0].bulkhead.clone().unwrap();
    let bound = |config: &mut Config, max| {
        let concurrency = crate::config::ConcurrencyConfig {
            adaptive: Some(false),
            max: Some(max),
            ..crate::config::ConcurrencyConfig::default()
        };
        config.tiers.get_mut("max").unwrap().concurrency = Some(concurrency);
    };
    running.change(|config| bound(config, 2)).unwrap();
    let mut held: Vec<_> = std::iter::from_fn(|| bulkhead(&running).try_acquire()).collect();
    assert_eq!(held.len(), 2);

    let slower = |config: &mut Config| config.tiers.get_mut("max").unwrap().timeout = Some(Seconds::new(7));
    running.change(slower).unwrap();
    assert!(bulkhead(&running).try_acquire().is_none(), "the two are at the same servers");
    assert_eq!(bulkhead(&running).snapshot().in_flight, 2);

    let mut config = running.config.clone();
    bound(&mut config, 5);
    drop(running.reload.prepare(&config).unwrap());
    assert_eq!(bulkhead(&running).snapshot().limit, 2, "what is not applied changes nothing");
    running.change(|config| bound(config, 3)).unwrap();
    held.extend(std::iter::from_fn(|| bulkhead(&running).try_acquire()));
    assert_eq!((held.len(), bulkhead(&running).snapshot().limit), (3, 3));
}

#[tokio::test]
async fn a_limit_that_was_found_out_survives_other_settings() {
    let mut running = Running::new();
    let ollama =
        |running: &Running| running.agent("assistant").unwrap().chain.tiers()[1].bulkhead.clone().unwrap();
    let initial = ollama(&running).snapshot().limit;
    ollama(&running).try_acquire().unwrap().overloaded();
    let found = ollama(&running).snapshot().limit;
    assert!(found < initial);
    let slower =
        |config: &mut Config| config.tiers.get_mut("ollama").unwrap().timeout = Some(Seconds::new(7));
    running.change(slower).unwrap();
    assert_eq!(ollama(&running).snapshot().limit, found);
}

#[tokio::test]
async fn what_is_not_valid_changes_nothing() {
    let mut running = Running::new();
    let before = running.reload.agents.get();
    let refused = running.change(|config| config.agents[0].tiers = vec!["maxx".into()]).unwrap_err();
    assert_eq!(refused.found()[0].to_string(), "agents.0.tiers = maxx: must be a tier under `tiers`");
    assert!(Arc::ptr_eq(&before, &running.reload.agents.get()));
    assert_eq!(running.breakers(), [MAX, OLLAMA]);
}

#[tokio::test]
async fn what_was_prepared_and_is_not_applied_changes_nothing() {
    let running = Running::new();
    let before = running.reload.agents.get();
    let mut config = running.config.clone();
    config.circuit_breaker.failure_threshold = 7;
    config.tiers.get_mut("ollama").unwrap().endpoints = vec!["http://other:1".parse().unwrap()];
    let prepared = running.reload.prepare(&config).unwrap();
    assert!(Arc::ptr_eq(&before, &running.reload.agents.get()));
    drop(prepared);
    assert!(Arc::ptr_eq(&before, &running.reload.agents.get()));
    assert_eq!(running.breakers(), [MAX, OLLAMA]);
    assert_ne!(running.reload.breakers.get(MAX).unwrap().config().failure_threshold(), 7);
}

#[tokio::test]
async fn what_needs_a_restart_stays_as_it_was() {
    let mut running = Running::new();
    running.change(|config| config.cache.enabled = false).unwrap();
    let agent = running.agent("assistant").unwrap();
    let tiers: Vec<&str> = agent.chain.tiers().iter().map(|tier| &*tier.name).collect();
    assert_eq!(tiers, ["max", "ollama", "cache", "degraded"]);
}

#[tokio::test]
async fn an_agent_that_is_gone_lives_on_where_it_is_in_use() {
    let mut running = Running::new();
    running.change(|config| config.agents.push(agent("second", &["max", "degraded"]))).unwrap();
    let in_use = running.agent("second").unwrap();
    running.change(|config| drop(config.agents.pop())).unwrap();
    assert!(running.agent("second").is_none());
    assert_eq!(in_use.chain.tiers().len(), 2);
    assert_eq!(running.breakers(), [MAX, OLLAMA]);
}

/// Resolves every name to two addresses, once it is told to.
#[derive(Debug)]
struct Slow {
    asked: watch::Sender<bool>,
    answers: watch::Sender<bool>,
}

impl Resolver for Slow {
    fn resolve<'a>(&'a self, _host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            self.asked.send_replace(true);
            self.answers.subscribe().wait_for(|answers| *answers).await.unwrap();
            Ok(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()])
        })
    }
}

/// Has a configuration change while names are asked for.
async fn change_while_names_are_asked_for(running: &mut Running, change: impl FnOnce(&mut Config)) {
    let slow = Slow { asked: watch::Sender::new(false), answers: watch::Sender::new(false) };
    let (agents, breakers) = (running.reload.agents.clone(), Arc::clone(&running.reload.breakers));
    let (randomness, metrics) = (SplitMix64::seeded(1), PoolMetrics::default());
    let reload = async {
        slow.asked.subscribe().wait_for(|asked| *asked).await.unwrap();
        running.change(change).unwrap();
        slow.answers.send_replace(true);
    };
    tokio::join!(dns::look(&agents, &breakers, &slow, &randomness, &metrics), reload);
}

#[tokio::test]
async fn names_that_change_during_a_reload_cost_no_new_backend_its_breaker() {
    let mut running = Running::new();
    change_while_names_are_asked_for(&mut running, |config| {
        let mut other = config.tiers["ollama"].clone();
        other.endpoints = vec!["http://127.0.0.9:1".parse().unwrap()];
        config.tiers.insert("other".into(), other);
        config.agents.push(agent("second", &["other"]));
    })
    .await;
    let mut breakers = running.breakers();
    breakers.sort();
    let pinned = |name: &str, address: u8| format!("{name}@10.0.0.{address}");
    let expected = [
        "127.0.0.9:1/llama3.1:8b".to_owned(),
        pinned(MAX, 1),
        pinned(MAX, 2),
        pinned(OLLAMA, 1),
        pinned(OLLAMA, 2),
    ];
    assert_eq!(breakers, expected);
}

#[tokio::test]
async fn a_tier_that_a_reload_has_replaced_follows_its_names_no_more() {
    let mut running = Running::new();
    change_while_names_are_asked_for(&mut running, |config| {
        for tier in ["max", "ollama"] {
            config.tiers.get_mut(tier).unwrap().timeout = Some(Seconds::new(7));
        }
    })
    .await;
    assert_eq!(running.breakers(), [MAX, OLLAMA]);
}
