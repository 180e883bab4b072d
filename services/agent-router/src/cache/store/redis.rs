//! Redis or Valkey. Two commands are used: an ACL user needs no more than the operator's guide says.

use std::sync::Arc;
use std::time::Duration;

use service_kit::redis::{self, Failure, FromRedisValue, Keeper, ParsingError, RedisSettings, Value, cmd};

use crate::cache::CacheKey;
use crate::upstream::UpstreamError;

/// Answers in a Redis. Clones share its connection.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Redis {
    redis: redis::Redis,
    key_prefix: Arc<str>,
    max_bytes: usize,
}

impl Redis {
    /// The store, unconnected, and what connects it. Values over `max_bytes` are not read in full.
    pub(super) fn open(settings: &RedisSettings, key_prefix: &str, max_bytes: usize) -> (Self, Keeper) {
        let (redis, keeper) = redis::Redis::open(settings.clone(), "the answer cache");
        (Self { redis, key_prefix: Arc::from(key_prefix), max_bytes }, keeper)
    }

    pub(super) fn name(&self) -> &str {
        self.redis.name()
    }

    /// The value under a key. No more of it than can be an answer is fetched, and a byte, so that too much is noticed.
    pub(super) async fn get(&self, key: CacheKey) -> Result<Option<Vec<u8>>, UpstreamError> {
        let mut command = cmd("GETRANGE");
        command.arg(self.key(key)).arg(0).arg(self.max_bytes);
        let found: Found = self.redis.run(&command).await.map_err(told)?;
        Ok(found.0)
    }

    pub(super) async fn set(
        &self,
        key: CacheKey,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), UpstreamError> {
        let milliseconds = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut command = cmd("SET");
        command.arg(self.key(key)).arg(value).arg("PX").arg(milliseconds);
        self.redis.run(&command).await.map_err(told)
    }

    fn key(&self, key: CacheKey) -> String {
        format!("{}{key}", self.key_prefix)
    }
}

/// What is under a key: GETRANGE tells "nothing" and "empty" not apart, and neither is an answer.
struct Found(Option<Vec<u8>>);

impl FromRedisValue for Found {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let bytes = Vec::<u8>::from_redis_value(value)?;
        Ok(Self((!bytes.is_empty()).then_some(bytes)))
    }
}

fn told(failure: Failure) -> UpstreamError {
    match failure {
        // Something else is kept under our key: that is no answer, and no fault of the server's.
        Failure::Refused { code, .. } if code == "WRONGTYPE" => UpstreamError::CacheMiss,
        Failure::Refused { text, .. } | Failure::Unavailable(text) => UpstreamError::CacheUnavailable(text),
    }
}
