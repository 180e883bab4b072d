//! How a tier's pool of servers is used.

use std::time::Duration;

use resilience::{AdaptiveConfig, BulkheadConfig, InvalidConfig};
use service_kit::config::{Problems, Seconds};

use crate::config::{Affinity, ConcurrencyConfig, Kind, TierConfig};

/// How a tier's pool of servers is used.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    /// How many calls its servers are given at a time, all together.
    pub concurrency: BulkheadConfig,
    /// What keeps to one server.
    pub affinity: Affinity,
    /// How often the names of endpoints are asked for. `None`: a name is one server.
    pub dns_interval: Option<Duration>,
    /// How servers are checked while their breakers are open. `None`: not at all.
    pub health_check: Option<HealthCheck>,
    /// How long servers may take to load their model before a request needs it. `None`: they are not told to.
    pub preload: Option<Duration>,
}

/// How a server is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// How often names are asked for when nothing else is said.
const DNS_INTERVAL: Duration = Duration::from_secs(10);
/// How often servers are checked when nothing else is said, and how long they may take.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a model may take to load when nothing else is said: a large one, from a slow disk.
const PRELOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// The limits of a tier that sets none.
struct Limits {
    min: u32,
    initial: u32,
    max: u32,
    max_wait: Duration,
}

impl Limits {
    /// A GPU server batches: some hundred calls side by side, and a short wait is worth a better answer. A CPU server answers one or a few
    /// at a time: it is the tier that must not be drowned when the one before it is gone.
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Ollama => Self { min: 1, initial: 4, max: 16, max_wait: Duration::ZERO },
            Kind::Openai | Kind::Cache | Kind::Message => {
                Self { min: 8, initial: 256, max: 1024, max_wait: Duration::from_millis(100) }
            }
        }
    }
}

/// Checks a tier's pool. `None` when it has problems.
pub(super) fn of(
    kind: Kind,
    tier: &TierConfig,
    key: impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<PoolSettings> {
    let section = tier.concurrency.clone().unwrap_or_default();
    let concurrency = match concurrency(kind, &section) {
        Ok(concurrency) => Some(concurrency),
        Err((field, value, rule)) => {
            problems.add(key(&format!("concurrency.{field}")), value, rule);
            None
        }
    };
    Some(PoolSettings {
        concurrency: concurrency?,
        affinity: tier.affinity.unwrap_or_default(),
        dns_interval: dns_interval(tier, &key, problems),
        health_check: health_check(kind, tier, &key, problems),
        preload: preload(kind, tier, &key, problems),
    })
}

fn dns_interval(
    tier: &TierConfig,
    key: impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<Duration> {
    let section = tier.dns.clone().unwrap_or_default();
    let interval = section.interval.unwrap_or(Seconds(DNS_INTERVAL));
    // A name server is shared: it must not be asked in a loop.
    let rule = "must be at least 1s";
    problems.require(interval.0 >= Duration::from_secs(1), &key("dns.interval"), interval, rule);
    section.resolve.unwrap_or(true).then_some(interval.0)
}

fn health_check(
    kind: Kind,
    tier: &TierConfig,
    key: impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<HealthCheck> {
    let section = tier.health_check.clone().unwrap_or_default();
    let default = if kind == Kind::Ollama { "/api/version" } else { "/health" };
    let path = section.path.unwrap_or_else(|| default.into());
    problems.require(path.starts_with('/'), &key("health_check.path"), &path, "must begin with a slash");
    let interval = section.interval.unwrap_or(Seconds(CHECK_INTERVAL));
    let timeout = section.timeout.unwrap_or(Seconds(CHECK_TIMEOUT));
    for (field, time) in [("interval", interval), ("timeout", timeout)] {
        let rule = "must be longer than 0";
        problems.require(!time.0.is_zero(), &key(&format!("health_check.{field}")), time, rule);
    }
    let check = HealthCheck { path, interval: interval.0, timeout: timeout.0 };
    section.enabled.unwrap_or(true).then_some(check)
}

fn preload(
    kind: Kind,
    tier: &TierConfig,
    key: impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<Duration> {
    let section = tier.preload.clone().unwrap_or_default();
    let timeout = section.timeout.unwrap_or(Seconds(PRELOAD_TIMEOUT));
    let rule = "must be longer than 0";
    problems.require(!timeout.0.is_zero(), &key("preload.timeout"), timeout, rule);
    (kind == Kind::Ollama && section.enabled.unwrap_or(true)).then_some(timeout.0)
}

type Refusal = (&'static str, String, String);

fn concurrency(kind: Kind, section: &ConcurrencyConfig) -> Result<BulkheadConfig, Refusal> {
    let Limits { min, initial, max, max_wait } = Limits::of(kind);
    // A bound that is given moves the defaults of the others; only what is given is refused.
    let max = section.max.unwrap_or(max.max(section.min.unwrap_or(0)).max(section.initial.unwrap_or(0)));
    let min = section.min.unwrap_or(min.min(max).min(section.initial.unwrap_or(u32::MAX)));
    let initial = section.initial.unwrap_or(initial.min(max).max(min));
    let max_wait = section.max_wait.map_or(max_wait, |wait| wait.0);
    if max == 0 {
        return Err(("max", max.to_string(), "must be at least 1".into()));
    }
    let config = if section.adaptive.unwrap_or(true) {
        AdaptiveConfig::new(min, initial, max).and_then(BulkheadConfig::adaptive)
    } else {
        for (field, given) in [("min", section.min), ("initial", section.initial)] {
            if let Some(given) = given {
                return Err((field, given.to_string(), "applies only to an adaptive limit".into()));
            }
        }
        BulkheadConfig::new(max)
    };
    let config = config.map_err(|InvalidConfig { field, rule, .. }| match field {
        "concurrency.min" => ("min", min.to_string(), format!("must be {rule}")),
        "concurrency.initial" => ("initial", initial.to_string(), "must be from min to max".to_owned()),
        _ => ("max", max.to_string(), "must be at least min".to_owned()),
    })?;
    if max_wait.is_zero() {
        return Ok(config);
    }
    config
        .with_queue(config.max_concurrent(), max_wait)
        .map_err(|invalid| ("max_wait", format!("{max_wait:?}"), format!("must be {}", invalid.rule)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> ConcurrencyConfig {
        ConcurrencyConfig::default()
    }

    #[test]
    fn the_tier_of_the_last_resort_is_small_and_nobody_waits_for_it() {
        let ollama = concurrency(Kind::Ollama, &section()).unwrap();
        assert_eq!(
            (ollama.max_concurrent(), ollama.max_waiting(), ollama.max_wait()),
            (16, 0, Duration::ZERO)
        );
        let openai = concurrency(Kind::Openai, &section()).unwrap();
        assert_eq!((openai.max_concurrent(), openai.max_waiting()), (1024, 1024));
        assert_eq!(openai.max_wait(), Duration::from_millis(100));
    }

    #[test]
    fn one_bound_that_is_given_moves_the_others() {
        for (given, max) in [
            (ConcurrencyConfig { max: Some(2), ..section() }, 2),
            (ConcurrencyConfig { min: Some(50), ..section() }, 50),
            (ConcurrencyConfig { initial: Some(40), ..section() }, 40),
            (ConcurrencyConfig { adaptive: Some(false), max: Some(3), ..section() }, 3),
        ] {
            assert_eq!(concurrency(Kind::Ollama, &given).unwrap().max_concurrent(), max, "{given:?}");
        }
        let waits = ConcurrencyConfig { max_wait: Some(Seconds::new(1)), ..section() };
        assert_eq!(concurrency(Kind::Ollama, &waits).unwrap().max_wait(), Duration::from_secs(1));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (given, field, rule) in [
            (ConcurrencyConfig { min: Some(0), ..section() }, "min", "must be at least 1"),
            (ConcurrencyConfig { max: Some(0), ..section() }, "max", "must be at least 1"),
            (ConcurrencyConfig { min: Some(9), max: Some(8), ..section() }, "max", "must be at least min"),
            (
                ConcurrencyConfig { initial: Some(9), max: Some(8), ..section() },
                "initial",
                "must be from min to max",
            ),
            (
                ConcurrencyConfig { adaptive: Some(false), min: Some(1), ..section() },
                "min",
                "applies only to an adaptive limit",
            ),
        ] {
            let (refused, _, why) = concurrency(Kind::Ollama, &given).unwrap_err();
            assert_eq!((refused, why.as_str()), (field, rule), "{given:?}");
        }
    }
}
