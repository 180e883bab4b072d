//! The `cache` section, and what an agent says about earlier answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use service_kit::config::{Seconds, SecretUrl};
use service_kit::redis::RedisConfig;

/// The `cache` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Whether answers are stored and read. When not, cache tiers are left out of all chains.
    pub enabled: bool,
    /// The Redis that stores answers, as `redis[s]://[user:password@]host[:port][/database]`; `rediss` is TLS. Unset: this
    /// process' memory.
    pub redis_url: Option<SecretUrl>,
    /// What is behind `redis_url`.
    pub redis: RedisConfig,
    /// Stands before every key in Redis.
    pub key_prefix: String,
    /// The longest that Redis may take to answer.
    pub response_timeout: Seconds,
    /// The longest that a connection to Redis may take.
    pub connect_timeout: Seconds,
    /// The largest answer that is stored, before compression, in bytes.
    pub max_value_bytes: usize,
    /// Answers of this size or more are compressed, in bytes.
    pub compress_from_bytes: usize,
    /// The memory for answers where there is no Redis, in bytes.
    pub memory_bytes: u64,
    /// Answers that may wait to be stored; more are dropped and counted.
    pub write_queue: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            redis_url: None,
            redis: RedisConfig::default(),
            key_prefix: "aip:answer:".into(),
            response_timeout: Seconds(Duration::from_millis(50)),
            connect_timeout: Seconds(Duration::from_millis(500)),
            max_value_bytes: 256 * 1024,
            compress_from_bytes: 1024,
            memory_bytes: 64 * 1024 * 1024,
            write_queue: 1024,
        }
    }
}

/// What an agent uses earlier answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentCacheConfig {
    /// When they are read.
    pub mode: CacheMode,
    /// Whether identical deterministic requests that are in flight at the same time are answered once.
    pub coalesce: bool,
}

impl Default for AgentCacheConfig {
    fn default() -> Self {
        Self { mode: CacheMode::default(), coalesce: true }
    }
}

/// When an agent reads earlier answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// When the tiers before its cache tier have failed.
    #[default]
    Fallback,
    /// Before the models too, for deterministic requests.
    ReadThrough,
    /// Never: its cache tier is left out, and its answers are not stored.
    Off,
}
