use std::time::Duration;

use service_kit::config::{self, Endpoint, Environment, Seconds};

use super::*;
use crate::config::{HedgeConfig, MidStream, PrefixStyle, TierConfig};
use resilience::Window;

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
    let StoreSettings::Redis { settings: redis, .. } = settings.cache.unwrap().store else { panic!() };
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
    let cases: &[(Change<'_>, &str)] = &[
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
            &|c| c.agents[0].sampling.temperature = Some(3.0),
            "agents.0.sampling.temperature = 3.0: must be 0 to 2",
        ),
        (
            &|c| c.agents[0].sampling.top_p = Some(f64::NAN),
            "agents.0.sampling.top_p = not a finite number: must be over 0 and at most 1",
        ),
        (
            &|c| c.agents[0].degraded_text = Some(" ".into()),
            "agents.0.degraded_text = \"\": must not be empty",
        ),
        (
            &|c| {
                c.agents[0].degraded_text = Some("x".into());
                c.agents[0].tiers.pop();
            },
            "agents.0.degraded_text = x: must not be set without a message tier in `tiers`",
        ),
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
        assert_eq!(refusals(change), [*expected]);
    }
}

/// Refusals after a change of the first tier.
fn tier_refusals(change: impl FnOnce(&mut TierConfig)) -> Vec<String> {
    refusals(|config| {
        let mut max = tier(config, "max");
        change(&mut max);
        config.tiers.insert("max".into(), max);
    })
}

#[test]
fn extra_calls_that_make_no_sense_are_refused() {
    for attempts in [0, 11] {
        let expected = format!("tiers.max.attempts = {attempts}: must be from 1 to 10");
        assert_eq!(tier_refusals(|max| max.attempts = Some(attempts)), [expected]);
    }
    let none = tier_refusals(|max| max.context_tokens = Some(0));
    assert_eq!(none, ["tiers.max.context_tokens = 0: must be at least 1"]);
    let hedge = |hedge| tier_refusals(|max| max.hedge = Some(hedge));
    let (after, quantile) = (Some(Seconds::new(1)), Some(0.95));
    let both = hedge(HedgeConfig { after, quantile, ..HedgeConfig::default() });
    assert_eq!(both, ["tiers.max.hedge: must have either after or quantile"]);
    assert_eq!(hedge(HedgeConfig::default()), both);
    let zero = hedge(HedgeConfig { after: Some(Seconds::new(0)), ..HedgeConfig::default() });
    assert_eq!(zero, ["tiers.max.hedge.after = 0s: must be longer than 0"]);
    let all = hedge(HedgeConfig { quantile: Some(1.0), ..HedgeConfig::default() });
    assert_eq!(all, ["tiers.max.hedge.quantile = 1: must be at least 0.5 and under 1"]);
    let many = hedge(HedgeConfig { quantile, observations: Some(257), ..HedgeConfig::default() });
    assert_eq!(many, ["tiers.max.hedge.observations = 257: must be from 1 to 256"]);
    let floor = hedge(HedgeConfig { after, floor: after, ..HedgeConfig::default() });
    assert_eq!(floor, ["tiers.max.hedge.floor, hedge.observations: go with quantile, not with after"]);
}

#[test]
fn extra_calls_are_set_for_each_tier() {
    let settings = settings(|config| {
        let hedge = HedgeConfig { quantile: Some(0.9), ..HedgeConfig::default() };
        let max = TierConfig {
            attempts: Some(4),
            context_tokens: Some(8192),
            hedge: Some(hedge),
            ..tier(config, "max")
        };
        config.tiers.insert("max".into(), max);
        config.agents[0].retry_after_max_wait = Seconds::new(7);
    });
    let TierSettings::OpenAi(max) = &settings.tiers["max"] else { panic!() };
    assert_eq!((max.attempts, max.context_tokens), (4, Some(8192)));
    let floor = Duration::from_millis(50);
    assert_eq!(max.hedge, Some(HedgeSettings::Quantile { quantile: 0.9, floor, observations: 20 }));
    let TierSettings::Ollama(ollama) = &settings.tiers["ollama"] else { panic!() };
    assert_eq!((ollama.attempts, ollama.context_tokens, ollama.hedge), (2, None, None));
    assert_eq!(settings.agents[0].retry_after_max_wait, Duration::from_secs(7));
}

#[test]
fn a_breaker_is_what_its_section_says() {
    let default = settings(|_| {}).breaker;
    assert_eq!((default.window(), default.minimum_calls()), (Window::Count(100), 20));
    assert_eq!((default.failure_rate_percent(), default.slow_call()), (Some(50.0), None));
    let jitter = default.open_wait_policy().jitter();
    assert!((jitter - 0.15).abs() < 1e-9, "{jitter}");
    let changed = settings(|config| {
        let section = &mut config.circuit_breaker;
        section.recovery_jitter = 0.0;
        section.window_time = Some(Seconds::new(60));
        section.minimum_calls = 5;
        section.failure_rate_percent = 0.0;
        section.slow_call = Some(Seconds::new(2));
        section.slow_call_rate_percent = 90.0;
        section.ramp_percent = vec![10, 50];
    });
    let breaker = changed.breaker;
    assert_eq!((breaker.window(), breaker.minimum_calls()), (Window::Time { seconds: 60 }, 5));
    assert_eq!((breaker.failure_rate_percent(), breaker.slow_call_rate_percent()), (None, Some(90.0)));
    assert_eq!(breaker.slow_call(), Some(Duration::from_secs(2)));
    assert!(breaker.open_wait_policy().jitter() == 0.0);
    assert_ne!(breaker, settings(|config| config.circuit_breaker.ramp_percent = vec![]).breaker);
}

#[test]
fn breakers_that_make_no_sense_are_refused() {
    let cases: &[(Change<'_>, &str)] = &[
        (&|c| c.circuit_breaker.recovery_jitter = 1.0, "recovery_jitter = 1: must be at least 0 and under 1"),
        (&|c| c.circuit_breaker.window_calls = 0, "window_calls = 0: must be at least 1"),
        (
            &|c| c.circuit_breaker.window_time = Some(Seconds(Duration::from_millis(1500))),
            "window_time = 1s 500ms: must be from 1 to 1000000 whole seconds",
        ),
        (&|c| c.circuit_breaker.minimum_calls = 0, "minimum_calls = 0: must be at least 1"),
        (
            &|c| c.circuit_breaker.failure_rate_percent = 101.0,
            "failure_rate_percent = 101: must be from 0 to 100",
        ),
        (&|c| c.circuit_breaker.slow_call = Some(Seconds::new(0)), "slow_call = 0s: must be longer than 0"),
        (
            &|c| c.circuit_breaker.slow_call_rate_percent = 0.0,
            "slow_call_rate_percent = 0: must be over 0 and at most 100",
        ),
        (
            &|c| c.circuit_breaker.ramp_percent = vec![50, 10],
            "ramp_percent = [50, 10]: must be shares from 1 to 100 that do not fall",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(refusals(change), [format!("circuit_breaker.{expected}")]);
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

/// A configuration whose first tier is written so.
fn first_tier(change: impl FnOnce(&mut TierConfig)) -> Vec<String> {
    refusals(|config| change(config.tiers.get_mut("max").unwrap()))
}

fn endpoints(urls: &[&str]) -> Vec<Endpoint> {
    urls.iter().map(|url| url.parse().unwrap()).collect()
}

#[test]
fn a_base_url_may_end_with_v1_and_with_no_path_of_a_call() {
    let settings = settings(|config| {
        let max = config.tiers.get_mut("max").unwrap();
        max.endpoints =
            endpoints(&["http://a:1/v1", "http://b:2/v1/", "http://c:3/models/x/v1", "http://d:4"]);
    });
    let TierSettings::OpenAi(max) = &settings.tiers["max"] else { panic!() };
    let bases: Vec<String> = max.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(bases, ["http://a:1", "http://b:2", "http://c:3/models/x", "http://d:4"]);

    let refused = first_tier(|max| max.endpoints = endpoints(&["http://a:1/v1/chat/completions"]));
    assert_eq!(
        refused,
        [
            "tiers.max.endpoints.0 = http://a:1/v1/chat/completions: must be the base URL of the server, without /v1/chat/completions"
        ]
    );
    let refused = refusals(|config| {
        config.tiers.get_mut("ollama").unwrap().endpoints = endpoints(&["http://a:1/v1"]);
    });
    assert_eq!(
        refused,
        ["tiers.ollama.endpoints.0 = http://a:1/v1: must be the base URL of the server, without /v1"]
    );
    let refused = first_tier(|max| max.endpoints = endpoints(&["http://a:1", "http://a:1/v1"]));
    assert_eq!(refused, ["tiers.max.endpoints.1 = http://a:1/v1: must not be named twice"]);
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path
    };
    let gone = directory.path().join("gone");
    let (empty, blank) = (file("empty.pem", ""), file("blank", " \n"));
    let https = |max: &mut TierConfig| max.endpoints = endpoints(&["https://a:1"]);
    let refused = first_tier(|max| max.api_key_file = Some(gone.clone()));
    let expected = format!("tiers.max.api_key_file = {}: must be a file that can be read: ", gone.display());
    assert!(refused[0].starts_with(&expected), "{refused:?}");
    let refused = first_tier(|max| max.api_key_file = Some(blank.clone()));
    assert!(refused[0].ends_with(": its content must be visible ASCII characters"), "{refused:?}");
    let refused = first_tier(|max| {
        https(max);
        max.ca_file = Some(empty.clone());
    });
    assert!(refused[0].ends_with("empty.pem: must hold certificates (PEM)"), "{refused:?}");
    let refused = first_tier(|max| {
        https(max);
        max.client_cert_file = Some(empty.clone());
    });
    assert!(
        refused[0].starts_with("tiers.max.client_key_file: is required with the certificate "),
        "{refused:?}"
    );
    let refused = first_tier(|max| {
        https(max);
        max.client_cert_file = Some(empty.clone());
        max.client_key_file = Some(empty.clone());
    });
    assert!(refused[0].ends_with("empty.pem: must hold a certificate (PEM)"), "{refused:?}");
    assert!(refused[1].ends_with("empty.pem: must hold a private key (PEM)"), "{refused:?}");
    let refused = first_tier(|max| max.ca_file = Some(empty.clone()));
    assert!(
        refused.iter().any(|why| why.ends_with("must not be set where no endpoint is behind https")),
        "{refused:?}"
    );
}

#[test]
fn a_key_of_a_file_wins_and_ends_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, "of-the-file\n").unwrap();
    let mut config = Config::default();
    let max = config.tiers.get_mut("max").unwrap();
    (max.api_key, max.api_key_file) = (Some("written".to_owned().into()), Some(path.clone()));
    let settings = Settings::of(&config, &mut Problems::default()).unwrap();
    let TierSettings::OpenAi(max) = &settings.tiers["max"] else { panic!() };
    assert_eq!(max.api_key.as_ref().unwrap().expose(), "of-the-file");
    assert_eq!(config::ServiceConfig::files(&config), [path]);
}

#[test]
fn what_is_unset_by_default_can_be_set_by_the_environment() {
    let variables = [
        ("AIP__TIERS__MAX__IMAGES", "false"),
        ("AIP__TIERS__MAX__TOOLS", "true"),
        ("AIP__TIERS__MAX__MAX_REQUEST_BYTES", "4096"),
        ("AIP__TIERS__MAX__HTTP_VERSION", "http2"),
    ];
    let config = config::load::<Config>(None, &variables.into_iter().collect()).unwrap().config;
    let settings = Settings::of(&config, &mut Problems::default()).unwrap();
    let TierSettings::OpenAi(max) = &settings.tiers["max"] else { panic!() };
    assert_eq!((max.accepts.images, max.accepts.tools, max.max_request_bytes), (false, true, 4096));
    assert_eq!(max.connection.http, crate::config::HttpVersion::Http2);
    let wrong = [("AIP__TIERS__MAX__IMAGES", "maybe"), ("AIP__TIERS__MAX__MAX_REQUEST_BYTES", "-1")];
    let refused = config::load::<Config>(None, &wrong.into_iter().collect()).unwrap_err().to_string();
    assert!(
        refused.contains(
            "tiers.max.images = maybe (environment AIP__TIERS__MAX__IMAGES): must be true or false"
        ),
        "{refused}"
    );
    assert!(refused.contains("must be a whole number of at least 0"), "{refused}");
}
