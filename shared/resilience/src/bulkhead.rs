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
//!
//! How many slots there are is a number, or found out by the bulkhead itself within bounds ([`BulkheadConfig::adaptive`]): then
//! each slot measures the call that holds it, and a slot too many is taken away when its call ends, never before.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::breaker::{InvalidConfig, Outcome};
use crate::chain::AttemptOutcome;
use crate::classify::Verdict;
use crate::clock::{Clock as _, SystemClock};
use crate::deadline::Deadline;
use crate::limit::{AdaptiveConfig, AdaptiveLimit, Measured};

/// The settings of a [`Bulkhead`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkheadConfig {
    max_concurrent: NonZeroU32,
    adaptive: Option<AdaptiveConfig>,
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
        Ok(Self { max_concurrent, adaptive: None, max_waiting: 0, max_wait: Duration::ZERO })
    }

    /// As many calls at a time as turn out to be good, within these bounds; nobody waits.
    ///
    /// # Errors
    /// The upper bound is more than tokio's semaphore counts.
    pub fn adaptive(bounds: AdaptiveConfig) -> Result<Self, InvalidConfig> {
        Ok(Self { adaptive: Some(bounds), ..Self::new(bounds.max())? })
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

    /// Calls at a time; where that is adaptive, at most.
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
#[non_exhaustive]
pub enum BulkheadFull {
    /// All slots were taken, and so were all places in the line.
    #[error("bulkhead is full: all {slots} slots are taken and {waiting} callers wait")]
    #[non_exhaustive]
    Queue {
        /// The slots.
        slots: u32,
        /// The callers that waited already.
        waiting: u32,
    },
    /// No slot became free in time.
    #[error("bulkhead is full: none of {slots} slots became free within {waited:.1?}")]
    #[non_exhaustive]
    Wait {
        /// The slots.
        slots: u32,
        /// How long the caller waited.
        waited: Duration,
    },
}

/// A bulkhead's counts. Each is exact; together they are as of about one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BulkheadSnapshot {
    /// Slots that there are now. Calls that began when there were more may still be under way.
    pub limit: u32,
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
    config: Mutex<BulkheadConfig>,
    slots: Arc<Semaphore>,
    size: Mutex<Size>,
    clock: SystemClock,
    /// What finds out how many slots are good. `None` where that is given.
    limit: Mutex<Option<AdaptiveLimit>>,
    /// Whether there is such a limit. Read without its lock: a call that sees it late is not measured.
    is_measured: AtomicBool,
    /// Whether the size may change. Where it never does, a slot is given back without a lock.
    is_resized: AtomicBool,
    waiting: AtomicU32,
    admitted: AtomicU64,
    rejected_queue: AtomicU64,
    rejected_wait: AtomicU64,
    cancelled: AtomicU64,
}

/// How many slots there are, and are to be.
struct Size {
    limit: u32,
    /// Slots over the limit whose calls have not ended. They are not given again.
    surplus: u32,
}

impl Bulkhead {
    /// A bulkhead with all its slots free.
    pub fn new(config: BulkheadConfig) -> Self {
        let limit = config.adaptive.map_or(config.max_concurrent(), |bounds| bounds.initial());
        let clock = SystemClock::new();
        let is_adaptive = config.adaptive.is_some();
        Self {
            inner: Arc::new(Inner {
                config: Mutex::new(config),
                slots: Arc::new(Semaphore::new(permits(limit))),
                size: Mutex::new(Size { limit, surplus: 0 }),
                limit: Mutex::new(config.adaptive.map(|bounds| AdaptiveLimit::new(bounds, clock.now()))),
                clock,
                is_measured: AtomicBool::new(is_adaptive),
                is_resized: AtomicBool::new(is_adaptive),
                waiting: AtomicU32::new(0),
                admitted: AtomicU64::new(0),
                rejected_queue: AtomicU64::new(0),
                rejected_wait: AtomicU64::new(0),
                cancelled: AtomicU64::new(0),
            }),
        }
    }

    /// Its configuration.
    pub fn config(&self) -> BulkheadConfig {
        *self.inner.config.lock()
    }

    /// Takes another configuration. Calls under way keep their slots: where there are fewer from now on, the next caller gets one
    /// when enough of them have ended. A number of slots that was found out stays, as far as the new bounds allow, with all that it
    /// was found out by.
    pub fn reconfigure(&self, config: BulkheadConfig) {
        let inner = &*self.inner;
        // One at a time, from the configuration to the slots.
        let mut current = inner.config.lock();
        if *current == config {
            return;
        }
        *current = config;
        inner.is_resized.store(true, Ordering::Relaxed);
        let mut limit = inner.limit.lock();
        *limit = config.adaptive.map(|bounds| match limit.take() {
            Some(found) => found.within(bounds),
            None => AdaptiveLimit::new(bounds, inner.clock.now()),
        });
        inner.is_measured.store(limit.is_some(), Ordering::Relaxed);
        inner.resize(limit.as_ref().map_or(config.max_concurrent(), AdaptiveLimit::limit));
    }

    /// A slot, if one is free now. Never takes one before those who wait. Counted as given, never as refused: who has
    /// none may still decide to wait.
    pub fn try_acquire(&self) -> Option<BulkheadPermit> {
        let slot = Arc::clone(&self.inner.slots).try_acquire_owned().ok()?;
        Some(BulkheadPermit::new(&self.inner, slot))
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
        let config = self.config();
        let begun = Instant::now();
        let place = Place::take(&self.inner, config.max_waiting)?;
        let limit = Deadline::after(config.max_wait);
        let limit = deadline.map_or(limit, |deadline| deadline.min(limit));
        let slot =
            tokio::time::timeout_at(limit.instant(), Arc::clone(&self.inner.slots).acquire_owned()).await;
        place.leave();
        // The semaphore is never closed; if it were, no slot would come any more either.
        if let Ok(Ok(slot)) = slot {
            return Ok(BulkheadPermit::new(&self.inner, slot));
        }
        self.inner.rejected_wait.fetch_add(1, Ordering::Relaxed);
        Err(BulkheadFull::Wait { slots: self.inner.size.lock().limit, waited: begun.elapsed() })
    }

    /// Its counts.
    pub fn snapshot(&self) -> BulkheadSnapshot {
        let inner = &*self.inner;
        let (limit, in_flight) = inner.taken();
        BulkheadSnapshot {
            limit,
            in_flight,
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
            .field("config", &self.config())
            .field("counts", &self.snapshot())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// The slots that there are, and those that are taken.
    fn taken(&self) -> (u32, u32) {
        let size = self.size.lock();
        let free = u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX);
        (size.limit, (size.limit + size.surplus).saturating_sub(free))
    }

    fn resize(&self, to: u32) {
        let mut size = self.size.lock();
        if to >= size.limit {
            let more = to - size.limit;
            let kept = more.min(size.surplus);
            size.surplus -= kept;
            self.slots.add_permits(permits(more - kept));
        } else {
            let fewer = size.limit - to;
            let taken = u32::try_from(self.slots.forget_permits(permits(fewer))).unwrap_or(fewer);
            size.surplus += fewer.saturating_sub(taken);
        }
        size.limit = to;
    }
}

fn permits(slots: u32) -> usize {
    usize::try_from(slots).unwrap_or(Semaphore::MAX_PERMITS)
}

/// A slot. Given back when it is dropped.
///
/// Where the bulkhead finds out its size, the slot says how its call went. A slot that is dropped without a word says nothing.
#[must_use = "a slot that is dropped at once bounds nothing"]
pub struct BulkheadPermit {
    slot: Option<OwnedSemaphorePermit>,
    inner: Arc<Inner>,
    /// When it was taken, where that is measured. `None` after its word, too: it has one.
    taken_at: Option<Duration>,
}

impl BulkheadPermit {
    fn new(inner: &Arc<Inner>, slot: OwnedSemaphorePermit) -> Self {
        inner.admitted.fetch_add(1, Ordering::Relaxed);
        let taken_at = inner.is_measured.load(Ordering::Relaxed).then(|| inner.clock.now());
        Self { slot: Some(slot), inner: Arc::clone(inner), taken_at }
    }

    /// Whether anybody wants to know how its call goes.
    #[cfg(feature = "tower")]
    pub(crate) fn is_measured(&self) -> bool {
        self.taken_at.is_some()
    }

    /// The call was answered, or its first content is there. The slot stays taken.
    pub fn answered(&mut self, measured: Measured) {
        self.tell(|limit, now, taken_at, in_flight| {
            limit.answered(now, measured, now.saturating_sub(taken_at), in_flight)
        });
    }

    /// The same, after `latency`: whoever says so only later, or knows what of the time does not count.
    pub fn answered_after(&mut self, measured: Measured, latency: Duration) {
        self.tell(|limit, now, _taken_at, in_flight| limit.answered(now, measured, latency, in_flight));
    }

    /// How long it has been taken, where that is measured.
    pub(crate) fn held(&self) -> Option<Duration> {
        Some(self.inner.clock.now().saturating_sub(self.taken_at?))
    }

    /// The call was cut off by its time limit. The slot stays taken.
    pub fn timed_out(&mut self) {
        self.tell(|limit, now, _taken_at, in_flight| limit.timed_out(now, in_flight));
    }

    /// The backend said that it has too much to do. The slot stays taken.
    pub fn overloaded(&mut self) {
        self.tell(|limit, now, _taken_at, in_flight| limit.overloaded(now, in_flight));
    }

    /// The call ended so: says what that means for the load, if anything. The slot stays taken.
    pub(crate) fn ended_as(&mut self, verdict: &Verdict) {
        match verdict.outcome {
            AttemptOutcome::Overloaded => self.overloaded(),
            // One that a hurried client caused says nothing about the load.
            AttemptOutcome::Timeout if verdict.breaker == Outcome::Failure => self.timed_out(),
            AttemptOutcome::Timeout
            | AttemptOutcome::Success
            | AttemptOutcome::Failure
            | AttemptOutcome::Rejected
            | AttemptOutcome::Miss
            | AttemptOutcome::Cancelled
            | AttemptOutcome::Skipped(_) => {}
        }
    }

    fn tell(&mut self, word: impl FnOnce(&mut AdaptiveLimit, Duration, Duration, u32) -> u32) {
        let Some(taken_at) = self.taken_at.take() else { return };
        // All of it within the lock, so that the last word is also the last to resize, and knows what the one before it did.
        let mut limit = self.inner.limit.lock();
        let Some(limit) = &mut *limit else { return };
        let (before, in_flight) = self.inner.taken();
        let wanted = word(limit, self.inner.clock.now(), taken_at, in_flight);
        if wanted != before {
            self.inner.resize(wanted);
        }
    }
}

impl fmt::Debug for BulkheadPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkheadPermit").field("taken_at", &self.taken_at).finish_non_exhaustive()
    }
}

impl Drop for BulkheadPermit {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        if !self.inner.is_resized.load(Ordering::Relaxed) {
            return;
        }
        let mut size = self.inner.size.lock();
        if size.surplus > 0 {
            size.surplus -= 1;
            slot.forget();
        } else {
            // Within the lock: a slot on its way back must not be missed by who takes slots away.
            drop(slot);
        }
    }
}

/// A place in line. Dropped before it is left, it was given up.
struct Place<'a> {
    inner: &'a Inner,
    left: bool,
}

impl<'a> Place<'a> {
    fn take(inner: &'a Inner, longest: u32) -> Result<Self, BulkheadFull> {
        let one_more = |waiting| (waiting < longest).then_some(waiting + 1);
        match inner.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Self { inner, left: false }),
            Err(waiting) => {
                inner.rejected_queue.fetch_add(1, Ordering::Relaxed);
                Err(BulkheadFull::Queue { slots: inner.size.lock().limit, waiting })
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
