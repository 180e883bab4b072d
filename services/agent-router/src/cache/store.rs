//! Where answers are stored: Redis, or this process' memory.

use std::sync::Arc;
use std::time::Duration;

use moka::Expiry;
use moka::future::Cache;
use redis::AsyncCommands as _;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use thiserror::Error;
use tokio::time::Instant;

use super::CacheKey;
use crate::settings::CacheSettings;
use crate::upstream::UpstreamError;

/// What a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// A Redis server.
    Redis,
    /// This process' memory.
    Memory,
}

/// A store that cannot be opened.
#[derive(Debug, Error)]
#[error("cache.redis_url cannot be used")]
pub struct OpenError(#[from] redis::RedisError);

/// A store. Clones share it.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    Redis(Redis),
    Memory(Cache<CacheKey, Entry>),
}

#[derive(Clone)]
pub(super) struct Redis {
    name: Arc<str>,
    key_prefix: Arc<str>,
    response_timeout: Duration,
    manager: ConnectionManager,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    value: Arc<[u8]>,
    ttl: Duration,
}

struct ByEntry;

#[allow(clippy::disallowed_types, reason = "moka's trait names std's Instant")]
impl Expiry<CacheKey, Entry> for ByEntry {
    fn expire_after_create(
        &self,
        _key: &CacheKey,
        entry: &Entry,
        _created_at: std::time::Instant,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

impl Stored {
    pub(super) fn open(settings: &CacheSettings) -> Result<Self, OpenError> {
        let Some(url) = &settings.redis_url else {
            let cache = Cache::builder()
                .max_capacity(settings.memory_bytes)
                .weigher(|_, entry: &Entry| u32::try_from(entry.value.len() + 128).unwrap_or(u32::MAX))
                .expire_after(ByEntry)
                .build();
            return Ok(Self::Memory(cache));
        };
        let client = redis::Client::open(url.expose())?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(settings.response_timeout))
            .set_number_of_retries(1);
        let manager = ConnectionManager::new_lazy_with_config(client, config)?;
        Ok(Self::Redis(Redis {
            name: Arc::from(format!("redis/{}", url.authority())),
            key_prefix: Arc::from(settings.key_prefix.as_str()),
            response_timeout: settings.response_timeout,
            manager,
        }))
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Redis(redis) => &redis.name,
            Self::Memory(_) => "memory",
        }
    }

    pub(super) fn kind(&self) -> Store {
        match self {
            Self::Redis(_) => Store::Redis,
            Self::Memory(_) => Store::Memory,
        }
    }

    pub(super) async fn get(&self, key: CacheKey) -> Result<Option<Arc<[u8]>>, UpstreamError> {
        match self {
            Self::Memory(cache) => Ok(cache.get(&key).await.map(|entry| entry.value)),
            Self::Redis(redis) => {
                let mut manager = redis.manager.clone();
                let name = redis.key(key);
                let found: Option<Vec<u8>> = redis.within(manager.get(name)).await?;
                Ok(found.map(Arc::from))
            }
        }
    }

    pub(super) async fn set(
        &self,
        key: CacheKey,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), UpstreamError> {
        match self {
            Self::Memory(cache) => {
                cache.insert(key, Entry { value: Arc::from(value), ttl }).await;
                Ok(())
            }
            Self::Redis(redis) => {
                let mut manager = redis.manager.clone();
                let name = redis.key(key);
                let seconds = ttl.as_secs().max(1);
                redis.within(manager.set_ex(name, value, seconds)).await
            }
        }
    }
}

impl Redis {
    fn key(&self, key: CacheKey) -> String {
        format!("{}{key}", self.key_prefix)
    }

    /// Waits no longer than the response timeout, a reconnection included: that goes on behind the request.
    async fn within<T>(&self, call: impl Future<Output = redis::RedisResult<T>>) -> Result<T, UpstreamError> {
        let deadline = Instant::now() + self.response_timeout;
        match tokio::time::timeout_at(deadline, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(UpstreamError::CacheUnavailable(error.to_string())),
            Err(_) => {
                let limit = self.response_timeout;
                Err(UpstreamError::CacheUnavailable(format!("no answer within {limit:?}")))
            }
        }
    }
}
