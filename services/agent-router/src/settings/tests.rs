use std::time::Duration;

use service_kit::config::{self, Environment, Seconds};

use super::*;
use crate::config::{MidStream, PrefixStyle, TierConfig};

fn refusals(change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = Config::default();
    change(&mut config);
    let mut problems = Problems::default();
    let settings = Settings::of(&config, &mut problems);
    assert_eq!(settings.is_none(), !problems.is_empty());
    problems.found().iter().map(ToString::to_string).collect()
}

fn settings(change: impl FnOnce(&mut Config)) -> Settings {
    let mut config = Config::default();
    change(&mut config);
    Settings::of(&config, &mut Problems::default()).unwrap()
}

fn tier(config: &mut Config, name: &str) -> TierConfig {
    config.tiers.remove(name).unwrap_or_default()
}

#[test]
fn the_defaults_make_the_four_tier_chain() {
    let settings = settings(|_| {});
    assert_eq!(settings.agents[0].tiers, ["max", "ollama", "cache", "degraded"]);
    assert_eq!(settings.breaker.failure_threshold(), 3);
    let TierSettings::OpenAi(max) = &settings.tiers["max"] else { panic!() };
    assert_eq!(
        (max.timeouts.total, max.timeouts.first_token),
        (Duration::from_secs(5), Duration::from_secs(3))
    );
}

#[test]
fn each_named_environment_variable_has_its_effect() {
    let variables = [
        ("CIRCUIT_BREAKER_ENABLED", "false"),
        ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "7"),
        ("CIRCUIT_BREAKER_TIMEOUT_SECONDS", "2"),
        ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", "11"),
        ("MAX_SERVE_ENDPOINT", "http://a:1,http://b:2"),
        ("OLLAMA_CPU_ENDPOINT", "http://c:3"),
        ("REDIS_URL", "redis://cache:6379"),
        ("DEGRADED_MESSAGE", "later"),
        ("GRACEFUL_SHUTDOWN_ENABLED", "no"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "60"),
        ("PRESTOP_DELAY_SECONDS", "1"),
    ];
    let config = config::load::<Config>(None, &variables.into_iter().collect()).unwrap().config;
    assert!(!config.shutdown.graceful);
    assert_eq!(config.shutdown.termination_grace_period, Seconds::new(60));
    assert_eq!(config.shutdown.prestop_delay, Seconds::new(1));
    let settings = Settings::of(&config, &mut Problems::default()).unwrap();
    assert!(!settings.breaker.is_enabled());
    assert_eq!(settings.breaker.failure_threshold(), 7);
    assert_eq!(settings.breaker.open_wait(), Duration::from_secs(11));
    let TierSettings::OpenAi(max) = &settings.tiers["max"] else { panic!() };
    assert_eq!(
        max.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["http://a:1", "http://b:2"]
    );
    assert_eq!(max.timeouts.total, Duration::from_secs(2));
    let TierSettings::Ollama(ollama) = &settings.tiers["ollama"] else { panic!() };
    assert_eq!(ollama.endpoints[0].to_string(), "http://c:3");
    let StoreSettings::Redis(redis) = settings.cache.unwrap().store else { panic!() };
    assert_eq!(redis.name(), "redis/cache:6379");
    assert!(matches!(&settings.tiers["degraded"], TierSettings::Message { text } if text == "later"));

    let off: Environment = [("FALLBACK_CHAIN_ENABLED", "0"), ("CACHE_ENABLED", "0")].into_iter().collect();
    let config = config::load::<Config>(None, &off).unwrap().config;
    let settings = Settings::of(&config, &mut Problems::default()).unwrap();
    assert_eq!(settings.agents[0].tiers, ["max"]);
    assert!(settings.cache.is_none());
}

#[test]
fn without_a_cache_its_tier_is_left_out() {
    let settings = settings(|config| config.cache.enabled = false);
    assert_eq!(settings.agents[0].tiers, ["max", "ollama", "degraded"]);
}

#[test]
fn a_tier_is_told_to_go_on_in_its_own_words() {
    let settings = settings(|_| {});
    let prefix = |name: &str| match &settings.tiers[name] {
        TierSettings::OpenAi(tier) | TierSettings::Ollama(tier) => tier.prefix,
        other @ (TierSettings::Cache { .. } | TierSettings::Message { .. }) => panic!("{other:?}"),
    };
    assert_eq!(prefix("max"), PrefixStyle::ChatTemplateKwargs);
    assert_eq!(prefix("ollama"), PrefixStyle::AssistantMessage);
    assert_eq!(settings.agents[0].mid_stream, MidStream::Error);
}

type Change<'a> = &'a dyn Fn(&mut Config);

#[test]
fn nonsense_is_refused_with_key_value_and_rule() {
    let cases: [(Change<'_>, &str); 11] = [
        (
            &|c| c.circuit_breaker.failure_threshold = 0,
            "circuit_breaker.failure_threshold = 0: must be at least 1",
        ),
        (
            &|c| c.circuit_breaker.recovery_timeout = Seconds::new(0),
            "circuit_breaker.recovery_timeout = 0s: must be longer than 0",
        ),
        (
            &|c| c.circuit_breaker.half_open_calls = 0,
            "circuit_breaker.half_open_calls = 0: must be at least 1",
        ),
        (&|c| c.agents[0].tiers = vec!["maxx".into()], "agents.0.tiers = maxx: must be a tier under `tiers`"),
        (&|c| c.agents[0].tiers = vec![], "agents.0.tiers = []: must name at least one tier that is enabled"),
        (&|c| c.agents.push(c.agents[0].clone()), "agents.1.name = assistant: must be unique"),
        (
            &|c| c.agents[0].tiers = vec!["degraded".into(), "max".into()],
            "agents.0.tiers = [\"degraded\", \"max\"]: must have its message tier at the end",
        ),
        (
            &|c| {
                let max = TierConfig { ttl: Some(Seconds::new(1)), ..tier(c, "max") };
                c.tiers.insert("max".into(), max);
            },
            "tiers.max.ttl: does not apply to a tier of kind openai",
        ),
        (
            &|c| {
                let max = TierConfig { timeout: Some(Seconds::new(0)), ..tier(c, "max") };
                c.tiers.insert("max".into(), max);
            },
            "tiers.max.timeout = 0s: must be longer than 0",
        ),
        (
            &|c| {
                let prefix = Some(PrefixStyle::ContinueFinalMessage);
                let ollama = TierConfig { prefix, ..tier(c, "ollama") };
                c.tiers.insert("ollama".into(), ollama);
            },
            "tiers.ollama.prefix = continue_final_message: must be assistant_message or none for ollama, which knows \
             no others",
        ),
        (
            &|c| {
                let degraded = TierConfig { prefix: Some(PrefixStyle::None), ..tier(c, "degraded") };
                c.tiers.insert("degraded".into(), degraded);
            },
            "tiers.degraded.prefix: does not apply to a tier of kind message",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(refusals(change), [expected]);
    }
}

#[test]
fn a_redis_url_that_cannot_work_is_refused_without_its_password() {
    let variables = [("REDIS_URL", "http://user:hunter2@cache")];
    let error = config::load::<Config>(None, &variables.into_iter().collect()).unwrap_err().to_string();
    assert!(
        error.starts_with("cache.redis_url = http://user:redacted@cache/ (environment REDIS_URL)"),
        "{error}"
    );
}
