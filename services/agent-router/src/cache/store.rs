//! Where answers are stored: Redis, or this process' memory.

mod memory;
mod redis;

use std::time::Duration;

use service_kit::redis::Keeper;
use tokio_util::sync::CancellationToken;

use super::CacheKey;
use crate::settings::StoreSettings;
use crate::upstream::UpstreamError;
use memory::Memory;
use redis::Redis;

/// What a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Redis or Valkey.
    Redis,
    /// This process' memory.
    Memory,
}

/// A store. Clones share it.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    Redis(Redis),
    Memory(Memory),
}

/// What a store needs done while it is used.
#[derive(Debug)]
pub(super) struct StoreKeeper(Option<Keeper>);

impl StoreKeeper {
    pub(super) async fn run(self, stop: CancellationToken) {
        if let Some(keeper) = self.0 {
            keeper.run(stop).await;
        }
    }
}

impl Stored {
    /// The store, and the task that keeps it usable. Values over `max_bytes` are not read in full.
    pub(super) fn open(settings: &StoreSettings, max_bytes: usize) -> (Self, StoreKeeper) {
        match settings {
            StoreSettings::Memory { bytes } => (Self::Memory(Memory::new(*bytes)), StoreKeeper(None)),
            StoreSettings::Redis { settings, key_prefix } => {
                let (redis, keeper) = Redis::open(settings, key_prefix, max_bytes);
                (Self::Redis(redis), StoreKeeper(Some(keeper)))
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Redis(redis) => redis.name(),
            Self::Memory(_) => "memory",
        }
    }

    pub(super) fn kind(&self) -> Store {
        match self {
            Self::Redis(_) => Store::Redis,
            Self::Memory(_) => Store::Memory,
        }
    }

    pub(super) async fn get(&self, key: CacheKey) -> Result<Option<Vec<u8>>, UpstreamError> {
        match self {
            Self::Memory(memory) => Ok(memory.get(key).await),
            Self::Redis(redis) => redis.get(key).await,
        }
    }

    pub(super) async fn set(
        &self,
        key: CacheKey,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), UpstreamError> {
        match self {
            Self::Memory(memory) => {
                memory.set(key, value, ttl).await;
                Ok(())
            }
            Self::Redis(redis) => redis.set(key, value, ttl).await,
        }
    }
}
