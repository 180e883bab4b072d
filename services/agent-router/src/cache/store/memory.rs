//! This process' memory.

use std::sync::Arc;
use std::time::Duration;

use moka::Expiry;
use moka::future::Cache;

use crate::cache::CacheKey;

/// What an entry takes beside its value, in bytes.
const ENTRY_BYTES: usize = 128;

/// Answers in memory, the least used of which go first.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Memory {
    entries: Cache<CacheKey, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
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

    /// A rewritten answer is as fresh as a new one; moka would leave it what was left of the old one's time.
    fn expire_after_update(
        &self,
        _key: &CacheKey,
        entry: &Entry,
        _updated_at: std::time::Instant,
        _left: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

impl Memory {
    /// A store of at most this many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let weigh = |_: &CacheKey, entry: &Entry| {
            u32::try_from(entry.value.len().saturating_add(ENTRY_BYTES)).unwrap_or(u32::MAX)
        };
        Self { entries: Cache::builder().max_capacity(bytes).weigher(weigh).expire_after(ByEntry).build() }
    }

    pub(super) async fn get(&self, key: CacheKey) -> Option<Vec<u8>> {
        self.entries.get(&key).await.map(|entry| entry.value.to_vec())
    }

    pub(super) async fn set(&self, key: CacheKey, value: Vec<u8>, ttl: Duration) {
        self.entries.insert(key, Entry { value: Arc::from(value), ttl }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rewritten_answer_has_its_whole_time() {
        let (store, key) = (Memory::new(1 << 20), CacheKey::of_digest([1; 32]));
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(3600));
        store.set(key, b"old".to_vec(), short).await;
        store.set(key, b"new".to_vec(), long).await;
        // moka has a clock of its own. Longer than this does no harm.
        tokio::time::sleep(2 * short).await;
        assert_eq!(store.get(key).await.as_deref(), Some(b"new".as_slice()));
        store.set(key, b"newest".to_vec(), Duration::ZERO).await;
        assert_eq!(store.get(key).await, None);
    }
}
