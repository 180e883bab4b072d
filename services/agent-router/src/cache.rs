//! Earlier answers, kept for the time when no model can give one.
//!
//! Reading is a tier of the chain. Writing is behind the request: an answer is put into a bounded queue, and a task of
//! the cache's own stores it; when the queue is full the answer is not stored, and that is counted. So a store that is
//! slow or gone costs a request at most the response timeout of one read, and its breaker soon spares it that.

mod key;
mod store;
mod value;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::answer::Answer;
use crate::metrics::CacheMetrics;
use crate::settings::CacheSettings;
use crate::upstream::UpstreamError;
pub use key::CacheKey;
use store::Stored;
pub use store::{OpenError, Store};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use value::check_value;

/// How long what is queued at the end may take to be stored; a store that hangs must not hold the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The answers of all agents.
#[derive(Debug)]
pub struct AnswerCache {
    stored: Stored,
    max_value_bytes: usize,
    queue: mpsc::Sender<Write>,
    metrics: CacheMetrics,
}

/// The task that stores answers. Run it for as long as the cache is used.
#[derive(Debug)]
pub struct Writer {
    stored: Stored,
    queue: mpsc::Receiver<Write>,
    metrics: CacheMetrics,
}

#[derive(Debug)]
struct Write {
    key: CacheKey,
    value: Vec<u8>,
    ttl: Duration,
}

impl AnswerCache {
    /// The cache and the task that writes to it. A Redis that cannot be reached now is no error: it is tried again
    /// with every use.
    ///
    /// # Errors
    /// The URL is none that the client can use.
    pub fn open(settings: &CacheSettings, metrics: CacheMetrics) -> Result<(Self, Writer), OpenError> {
        let stored = Stored::open(settings)?;
        let (sender, receiver) = mpsc::channel(settings.write_queue);
        let writer = Writer { stored: stored.clone(), queue: receiver, metrics: metrics.clone() };
        let cache = Self { stored, max_value_bytes: settings.max_value_bytes, queue: sender, metrics };
        Ok((cache, writer))
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
            Some(bytes) => value::decode(&bytes).map_err(|unusable| {
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
        if !answer.is_whole() {
            return;
        }
        let value = value::encode(answer);
        if value.len() > self.max_value_bytes {
            debug!(bytes = value.len(), limit = self.max_value_bytes, "answer too large to be stored");
            self.metrics.too_large();
            return;
        }
        if self.queue.try_send(Write { key, value, ttl }).is_err() {
            self.metrics.dropped();
        }
    }
}

impl Writer {
    /// Stores what is queued until the cache is gone or `stop`, and then what is queued still, for a second.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(Some(write)) = stop.run_until_cancelled(self.queue.recv()).await {
            self.store(write).await;
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

    async fn store(&self, Write { key, value, ttl }: Write) {
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
