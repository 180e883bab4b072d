//! The `gateway.limits` section: what protects the gateway from its callers, and them from one another.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use service_kit::config::{Problems, Seconds, SecretUrl};
use service_kit::grpc::Ping;
use service_kit::identity::KeyLimits;
use service_kit::redis::{RedisConfig, RedisSettings, Timeouts};
use service_kit::serving::ConnectionLimits;

/// How long Redis has for its answer, which a request waits for, and how long a connection may take to be made.
const TIMEOUTS: Timeouts =
    Timeouts { response: Duration::from_millis(50), connect: Duration::from_millis(500) };

/// The `gateway.limits` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Requests of all callers at a time, streams until their end. What is more is refused at once.
    pub max_in_flight: u32,
    /// Connections at a time, of both ports together. What is more is closed as it comes.
    pub max_connections: u32,
    /// How long a new connection may take until it has said which protocol it speaks.
    pub begin_timeout: Seconds,
    /// How long a connection of HTTP/1.1 is kept for its next request.
    pub keep_alive_timeout: Seconds,
    /// How long a client of HTTP/2 may be silent before it is asked whether it is still there.
    pub ping_interval: Seconds,
    /// How long it has for its answer.
    pub ping_timeout: Seconds,
    /// How long a client may take nothing of what is sent to it.
    pub write_timeout: Seconds,
    /// How long a request's body may take to arrive.
    pub body_timeout: Seconds,
    /// The Redis where gateways count together. Without it, each counts for itself.
    pub redis_url: Option<SecretUrl>,
    /// What is behind `redis_url`.
    pub redis: RedisConfig,
    /// What each caller may take, where its key does not say otherwise.
    pub per_caller: KeyLimits,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 1000,
            max_connections: 4096,
            begin_timeout: Seconds::new(10),
            keep_alive_timeout: Seconds::new(75),
            ping_interval: Seconds::new(30),
            ping_timeout: Seconds::new(10),
            write_timeout: Seconds::new(30),
            body_timeout: Seconds::new(30),
            redis_url: None,
            redis: RedisConfig::default(),
            per_caller: KeyLimits::default(),
        }
    }
}

impl LimitsConfig {
    /// What the listeners bear of connections.
    pub(crate) fn connections(&self) -> ConnectionLimits {
        ConnectionLimits {
            most: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            begin_timeout: self.begin_timeout.0,
            write_timeout: self.write_timeout.0,
        }
    }

    /// When clients are asked whether they are still there.
    pub(crate) fn ping(&self) -> Ping {
        Ping { interval: self.ping_interval.0, timeout: self.ping_timeout.0 }
    }

    /// The Redis where gateways count together. `None`: each counts for itself, or there is a problem.
    pub(crate) fn shared(&self, problems: &mut Problems) -> Option<RedisSettings> {
        self.redis.check("gateway.limits", self.redis_url.as_ref(), TIMEOUTS, problems)
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self, problems: &mut Problems) {
        let most = self.max_in_flight;
        problems.require(most >= 1, "gateway.limits.max_in_flight", most, "must be at least 1");
        let most = self.max_connections;
        problems.require(most >= 1, "gateway.limits.max_connections", most, "must be at least 1");
        for (key, time) in [
            ("gateway.limits.begin_timeout", self.begin_timeout),
            ("gateway.limits.keep_alive_timeout", self.keep_alive_timeout),
            ("gateway.limits.ping_interval", self.ping_interval),
            ("gateway.limits.ping_timeout", self.ping_timeout),
            ("gateway.limits.write_timeout", self.write_timeout),
            ("gateway.limits.body_timeout", self.body_timeout),
        ] {
            problems.require(!time.0.is_zero(), key, time, "must be longer than 0");
        }
        drop(self.shared(problems));
        self.per_caller.check("gateway.limits.per_caller", problems);
    }
}
