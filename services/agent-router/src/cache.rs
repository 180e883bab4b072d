//! Earlier answers, kept for the time when no model can give one.
//!
//! Reading is a tier of the chain. Writing is behind the request: an answer is put into a bounded queue, and a task of
//! the cache's own encodes and stores it; when the queue is full the answer is not stored, and that is counted. So a store
//! that is slow or gone costs a request at most the response timeout of one read, and its breaker soon spares it that.

mod key;
mod policy;
mod store;
mod value;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::answer::Answer;
use crate::metrics::CacheMetrics;
use crate::settings::CacheSettings;
use crate::upstream::UpstreamError;
pub use key::CacheKey;
pub use policy::is_deterministic;
pub use store::Store;
use store::{StoreKeeper, Stored};
use value::Format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use value::check_value;

/// How long the writer rests after it has stored what there was. Meanwhile an answer wakes nobody: waking a task for each
/// one costs the request that made it more than everything else in [`AnswerCache::store_soon`].
const REST: Duration = Duration::from_millis(5);
/// Answers that are taken from the queue, and on their way to the store, at a time.
const BATCH: usize = 32;
/// How long what is queued at the end may take to be stored; a store that hangs must not hold the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The answers of the largest size that fit into the queue, whatever their number may be.
const LARGEST_QUEUED: usize = 64;

/// The answers of all agents.
#[derive(Debug)]
pub struct AnswerCache {
    stored: Stored,
    format: Format,
    queue: mpsc::Sender<Write>,
    room: Arc<Semaphore>,
    metrics: CacheMetrics,
}

/// The task that stores answers and keeps the store connected. Run it for as long as the cache is used.
#[derive(Debug)]
pub struct Upkeep {
    writer: Writer,
    keeper: StoreKeeper,
}

#[derive(Debug)]
struct Writer {
    stored: Stored,
    format: Format,
    queue: mpsc::Receiver<Write>,
    metrics: CacheMetrics,
}

#[derive(Debug)]
struct Write {
    key: CacheKey,
    answer: Answer,
    ttl: Duration,
    /// Its place in the queue, by size.
    _room: OwnedSemaphorePermit,
}

impl AnswerCache {
    /// The cache and the task behind it. A Redis that cannot be reached now is no error: it is tried again and again.
    pub fn open(settings: &CacheSettings, metrics: CacheMetrics) -> (Self, Upkeep) {
        let format =
            Format { max_bytes: settings.max_value_bytes, compress_from: settings.compress_from_bytes };
        let (stored, keeper) = Stored::open(&settings.store, format.max_stored_bytes());
        let (sender, receiver) = mpsc::channel(settings.write_queue);
        let room = format.max_bytes.saturating_mul(LARGEST_QUEUED).min(Semaphore::MAX_PERMITS);
        let writer = Writer { stored: stored.clone(), format, queue: receiver, metrics: metrics.clone() };
        let cache = Self { stored, format, queue: sender, room: Arc::new(Semaphore::new(room)), metrics };
        (cache, Upkeep { writer, keeper })
    }

    /// Names the store.
    pub fn name(&self) -> &str {
        self.stored.name()
    }

    /// What the store is.
    pub fn store(&self) -> Store {
        self.stored.kind()
    }

    /// The earlier answer to a question.
    ///
    /// # Errors
    /// There is none, or the store does not answer.
    pub async fn read(&self, key: CacheKey) -> Result<Answer, UpstreamError> {
        let found = self.stored.get(key).await;
        let result = found.and_then(|bytes| match bytes {
            None => Err(UpstreamError::CacheMiss),
            Some(bytes) => self.format.decode(&key, &bytes).map_err(|unusable| {
                warn!(%unusable, key = %key, "a stored answer cannot be used");
                self.metrics.unusable();
                UpstreamError::CacheMiss
            }),
        });
        match &result {
            Ok(_) => self.metrics.hit(),
            Err(UpstreamError::CacheMiss) => self.metrics.miss(),
            Err(_) => self.metrics.error(),
        }
        result
    }

    /// Has an answer stored soon. Never waits.
    pub fn store_soon(&self, key: CacheKey, answer: &Answer, ttl: Duration) {
        if !answer.is_worth_keeping() {
            return;
        }
        let Some(bytes) = self.format.size(answer) else {
            debug!(limit = self.format.max_bytes, "answer too large to be stored");
            self.metrics.too_large();
            return;
        };
        let queued = Arc::clone(&self.room).try_acquire_many_owned(bytes).ok().and_then(|room| {
            self.queue.try_send(Write { key, answer: answer.clone(), ttl, _room: room }).ok()
        });
        if queued.is_none() {
            self.metrics.dropped();
        }
    }
}

impl Upkeep {
    /// Keeps the store connected and stores what is queued until the cache is gone or `stop`, and then what is queued
    /// still, for a second.
    pub async fn run(self, stop: CancellationToken) {
        let Self { writer, keeper } = self;
        // The connection of the moment outlives its keeper: what is queued is written over it.
        tokio::join!(writer.run(stop.clone()), keeper.run(stop));
    }
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(1..) = stop.run_until_cancelled(self.queue.recv_many(&mut batch, BATCH)).await {
            join_all(batch.drain(..).map(|write| self.store(write))).await;
            if self.queue.is_empty() && stop.run_until_cancelled(sleep(REST)).await.is_none() {
                break;
            }
        }
        let flush = async {
            while let Ok(write) = self.queue.try_recv() {
                self.store(write).await;
            }
        };
        if tokio::time::timeout(FLUSH_TIMEOUT, flush).await.is_err() {
            while self.queue.try_recv().is_ok() {
                self.metrics.dropped();
            }
        }
    }

    async fn store(&self, Write { key, answer, ttl, _room }: Write) {
        let Some(value) = self.format.encode(&key, &answer) else {
            self.metrics.too_large();
            return;
        };
        match self.stored.set(key, value, ttl).await {
            Ok(()) => self.metrics.stored(),
            Err(error) => {
                debug!(%error, "answer not stored");
                self.metrics.failed();
            }
        }
    }
}

#[cfg(test)]
mod tests;
