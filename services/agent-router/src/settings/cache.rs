//! The store of earlier answers.

use service_kit::config::Problems;
use service_kit::redis::{RedisSettings, Timeouts};

use crate::config::{CacheConfig, Config};

/// The store of earlier answers.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// Where they are stored.
    pub store: StoreSettings,
    /// The largest answer that is stored, before compression, in bytes.
    pub max_value_bytes: usize,
    /// Answers of this size or more are compressed, in bytes.
    pub compress_from_bytes: usize,
    /// Answers that may wait to be stored.
    pub write_queue: usize,
}

/// Where answers are stored.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// This process' memory.
    Memory {
        /// The most that answers may take, in bytes.
        bytes: u64,
    },
    /// Redis or Valkey.
    Redis {
        /// How it is reached.
        settings: Box<RedisSettings>,
        /// Stands before every key.
        key_prefix: String,
    },
}

/// The largest limit for an answer, in bytes: a stored value says its length in 32 bits, and Redis holds no more in one.
const LARGEST_VALUE: usize = 512 * 1024 * 1024;

/// Checks the section. `None` when the cache is off or has problems.
pub(super) fn of(config: &Config, problems: &mut Problems) -> Option<CacheSettings> {
    let section = &config.cache;
    for (key, time) in
        [("response_timeout", section.response_timeout), ("connect_timeout", section.connect_timeout)]
    {
        problems.require(!time.0.is_zero(), &format!("cache.{key}"), time, "must be longer than 0");
    }
    let largest = section.max_value_bytes;
    problems.require(
        (1..=LARGEST_VALUE).contains(&largest),
        "cache.max_value_bytes",
        largest,
        "must be from 1 to 536870912",
    );
    problems.require(section.write_queue > 0, "cache.write_queue", section.write_queue, "must be at least 1");
    let store = store(section, problems)?;
    section.enabled.then(|| CacheSettings {
        store,
        max_value_bytes: section.max_value_bytes,
        compress_from_bytes: section.compress_from_bytes,
        write_queue: section.write_queue,
    })
}

fn store(section: &CacheConfig, problems: &mut Problems) -> Option<StoreSettings> {
    let timeouts = Timeouts { response: section.response_timeout.0, connect: section.connect_timeout.0 };
    let redis = section.redis.check("cache", section.redis_url.as_ref(), timeouts, problems);
    if section.redis_url.is_none() {
        return Some(StoreSettings::Memory { bytes: section.memory_bytes });
    }
    let key_prefix = section.key_prefix.clone();
    redis.map(|settings| StoreSettings::Redis { settings: Box::new(settings), key_prefix })
}

#[cfg(test)]
mod tests;
