//! Bounded concurrency: a slow backend may fill its own compartment, and no other.
//!
//! A slot is held for the length of a call. When all are taken, a few callers wait in line for a bounded time; the rest
//! are refused at once. Both bounds matter: without the first, memory grows with the trouble; without the second,
//! callers wait for slots that come after their deadline. Slots go to those who wait in the order in which they came:
//! nobody overtakes.
//!
//! The name and the two bounds are those of resilience4j's `Bulkhead` and of M. Nygard, "Release It!". The line is
//! tokio's `Semaphore`, which is fair and gives a slot back when a waiting future is dropped. A queue of our own, with
//! the newest served first under load, was left out: who has waited longest here has at most the bounded wait behind
//! them.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::breaker::InvalidConfig;
use crate::deadline::Deadline;

/// The settings of a [`Bulkhead`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkheadConfig {
    max_concurrent: NonZeroU32,
    max_waiting: u32,
    max_wait: Duration,
}

impl BulkheadConfig {
    /// At most `max_concurrent` calls at a time; nobody waits.
    ///
    /// # Errors
    /// It is zero, or more than tokio's semaphore counts (on 32-bit machines, 2^29 − 1).
    pub fn new(max_concurrent: u32) -> Result<Self, InvalidConfig> {
        let max_concurrent = NonZeroU32::new(max_concurrent)
            .filter(|slots| usize::try_from(slots.get()).is_ok_and(|slots| slots <= Semaphore::MAX_PERMITS))
            .ok_or(InvalidConfig { field: "bulkhead.max_concurrent", rule: "at least 1" })?;
        Ok(Self { max_concurrent, max_waiting: 0, max_wait: Duration::ZERO })
    }

    /// Besides, at most `max_waiting` callers wait for a slot, each for at most `max_wait`.
    ///
    /// # Errors
    /// One of them is zero: where nobody is to wait, leave this out.
    pub fn with_queue(mut self, max_waiting: u32, max_wait: Duration) -> Result<Self, InvalidConfig> {
        if max_waiting == 0 {
            return Err(InvalidConfig { field: "bulkhead.max_waiting", rule: "at least 1" });
        }
        if max_wait.is_zero() {
            return Err(InvalidConfig { field: "bulkhead.max_wait", rule: "longer than 0" });
        }
        (self.max_waiting, self.max_wait) = (max_waiting, max_wait);
        Ok(self)
    }

    /// Calls at a time.
    pub fn max_concurrent(&self) -> u32 {
        self.max_concurrent.get()
    }

    /// Callers that wait for a slot. Zero: nobody does.
    pub fn max_waiting(&self) -> u32 {
        self.max_waiting
    }

    /// How long each of them waits.
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }
}

/// There was no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BulkheadFull {
    /// All slots were taken, and so were all places in the line.
    #[error("bulkhead is full: all {slots} slots are taken and {waiting} callers wait")]
    Queue {
        /// The slots.
        slots: u32,
        /// The callers that waited already.
        waiting: u32,
    },
    /// No slot became free in time.
    #[error("bulkhead is full: none of {slots} slots became free within {waited:.1?}")]
    Wait {
        /// The slots.
        slots: u32,
        /// How long the caller waited.
        waited: Duration,
    },
}

/// A bulkhead's counts. Each is exact; together they are as of about one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkheadSnapshot {
    /// Slots taken, those included that are on their way to a waiting caller.
    pub in_flight: u32,
    /// Callers in line.
    pub waiting: u32,
    /// Slots given since the bulkhead was made.
    pub admitted: u64,
    /// Callers refused at once since the bulkhead was made, because the line was full.
    pub rejected_queue: u64,
    /// Callers refused since the bulkhead was made, because they had waited long enough.
    pub rejected_wait: u64,
    /// Callers that gave up waiting since the bulkhead was made: their futures were dropped.
    pub cancelled: u64,
}

impl BulkheadSnapshot {
    /// Callers refused since the bulkhead was made, for either reason.
    pub fn rejected(&self) -> u64 {
        self.rejected_queue + self.rejected_wait
    }
}

/// Bounds how many calls are made at a time. Clones share one bulkhead.
#[derive(Clone)]
pub struct Bulkhead {
    inner: Arc<Inner>,
}

struct Inner {
    config: BulkheadConfig,
    slots: Arc<Semaphore>,
    waiting: AtomicU32,
    admitted: AtomicU64,
    rejected_queue: AtomicU64,
    rejected_wait: AtomicU64,
    cancelled: AtomicU64,
}

impl Bulkhead {
    /// A bulkhead with all its slots free.
    pub fn new(config: BulkheadConfig) -> Self {
        let slots = usize::try_from(config.max_concurrent()).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            inner: Arc::new(Inner {
                config,
                slots: Arc::new(Semaphore::new(slots)),
                waiting: AtomicU32::new(0),
                admitted: AtomicU64::new(0),
                rejected_queue: AtomicU64::new(0),
                rejected_wait: AtomicU64::new(0),
                cancelled: AtomicU64::new(0),
            }),
        }
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &BulkheadConfig {
        &self.inner.config
    }

    /// A slot, if one is free now. Never takes one before those who wait. Counted as given, never as refused: who has
    /// none may still decide to wait.
    pub fn try_acquire(&self) -> Option<BulkheadPermit> {
        let slot = Arc::clone(&self.inner.slots).try_acquire_owned().ok()?;
        self.inner.admitted.fetch_add(1, Ordering::Relaxed);
        Some(BulkheadPermit { _slot: slot })
    }

    /// Takes a slot, or waits in line for one, for no longer than the configured wait. The place in line is taken when
    /// the future is first polled, and given back when it is dropped.
    ///
    /// # Errors
    /// There was no slot in time, or no place in the line.
    ///
    /// # Panics
    /// Where it has to wait, outside of a tokio runtime with a timer.
    pub async fn acquire(&self) -> Result<BulkheadPermit, BulkheadFull> {
        self.clone().wait(None).await
    }

    /// The same, and no longer than to this deadline.
    ///
    /// # Errors
    /// There was no slot in time, or no place in the line.
    ///
    /// # Panics
    /// Where it has to wait, outside of a tokio runtime with a timer.
    pub async fn acquire_before(&self, deadline: Deadline) -> Result<BulkheadPermit, BulkheadFull> {
        self.clone().wait(Some(deadline)).await
    }

    /// As [`Self::acquire`], without a borrow.
    pub(crate) async fn wait(self, deadline: Option<Deadline>) -> Result<BulkheadPermit, BulkheadFull> {
        if let Some(permit) = self.try_acquire() {
            return Ok(permit);
        }
        let Inner { config, slots, .. } = &*self.inner;
        let begun = Instant::now();
        let place = Place::take(&self.inner)?;
        let limit = Deadline::after(config.max_wait);
        let limit = deadline.map_or(limit, |deadline| deadline.min(limit));
        let slot = tokio::time::timeout_at(limit.instant(), Arc::clone(slots).acquire_owned()).await;
        place.leave();
        // The semaphore is never closed; if it were, no slot would come any more either.
        if let Ok(Ok(slot)) = slot {
            self.inner.admitted.fetch_add(1, Ordering::Relaxed);
            return Ok(BulkheadPermit { _slot: slot });
        }
        self.inner.rejected_wait.fetch_add(1, Ordering::Relaxed);
        Err(BulkheadFull::Wait { slots: config.max_concurrent(), waited: begun.elapsed() })
    }

    /// Its counts.
    pub fn snapshot(&self) -> BulkheadSnapshot {
        let inner = &*self.inner;
        let free = u32::try_from(inner.slots.available_permits()).unwrap_or(u32::MAX);
        BulkheadSnapshot {
            in_flight: inner.config.max_concurrent().saturating_sub(free),
            waiting: inner.waiting.load(Ordering::Relaxed),
            admitted: inner.admitted.load(Ordering::Relaxed),
            rejected_queue: inner.rejected_queue.load(Ordering::Relaxed),
            rejected_wait: inner.rejected_wait.load(Ordering::Relaxed),
            cancelled: inner.cancelled.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Bulkhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulkhead")
            .field("config", &self.inner.config)
            .field("counts", &self.snapshot())
            .finish_non_exhaustive()
    }
}

/// A slot. Given back when it is dropped.
#[must_use = "a slot that is dropped at once bounds nothing"]
#[derive(Debug)]
pub struct BulkheadPermit {
    _slot: OwnedSemaphorePermit,
}

/// A place in line. Dropped before it is left, it was given up.
struct Place<'a> {
    inner: &'a Inner,
    left: bool,
}

impl<'a> Place<'a> {
    fn take(inner: &'a Inner) -> Result<Self, BulkheadFull> {
        let longest = inner.config.max_waiting;
        let one_more = |waiting| (waiting < longest).then_some(waiting + 1);
        match inner.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Self { inner, left: false }),
            Err(waiting) => {
                inner.rejected_queue.fetch_add(1, Ordering::Relaxed);
                Err(BulkheadFull::Queue { slots: inner.config.max_concurrent(), waiting })
            }
        }
    }

    fn leave(mut self) {
        self.left = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.inner.waiting.fetch_sub(1, Ordering::Relaxed);
        if !self.left {
            self.inner.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
