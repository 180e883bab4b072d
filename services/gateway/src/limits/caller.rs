//! One caller's limits and what it has taken of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use resilience::Clock;
use service_kit::identity::{Count, KeyLimits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rate::{self, Pace, Rate};
use super::shared::{Price, SharedLimits};
use super::tokens::{Budget, MINUTE, Taken};
use super::who::Who;

/// One of the things that a caller may have at a time; without a limit it is nothing. Given back when dropped.
pub(super) type Slot = Option<OwnedSemaphorePermit>;

/// A number of things at a time.
#[derive(Debug)]
struct Slots {
    most: Count,
    free: Arc<Semaphore>,
}

impl Slots {
    fn new(most: Count) -> Self {
        let free = Semaphore::new(usize::try_from(most.get()).unwrap_or(Semaphore::MAX_PERMITS));
        Self { most, free: Arc::new(free) }
    }

    fn take(slots: Option<&Self>) -> Result<Slot, u32> {
        let Some(slots) = slots else { return Ok(None) };
        match Arc::clone(&slots.free).try_acquire_owned() {
            Ok(permit) => Ok(Some(permit)),
            Err(_none_free) => Err(slots.most.get()),
        }
    }

    fn all_free(slots: Option<&Self>) -> bool {
        slots.is_none_or(|slots| slots.free.available_permits() as u64 == u64::from(slots.most.get()))
    }
}

/// One caller's limits and what it has taken of them. A request carries it among its extensions.
#[derive(Debug)]
pub(super) struct CallerState {
    who: Who,
    limits: KeyLimits,
    rate: Option<Rate>,
    requests: Option<Slots>,
    streams: Option<Slots>,
    tokens: Option<Budget>,
    /// Where its requests and tokens are counted for all replicas.
    shared: Option<SharedLimits>,
    /// When it last asked for something, on the clock, in milliseconds.
    seen: AtomicU64,
}

impl CallerState {
    pub(super) fn new(
        who: Who,
        limits: KeyLimits,
        clock: &Arc<dyn Clock>,
        shared: Option<SharedLimits>,
    ) -> Self {
        Self {
            who,
            limits,
            rate: Pace::of(&limits).map(|pace| Rate::new(pace, Arc::clone(clock))),
            requests: limits.concurrent_requests.map(Slots::new),
            streams: limits.concurrent_streams.map(Slots::new),
            tokens: limits.tokens_per_minute.map(|most| Budget::new(most, Arc::clone(clock))),
            shared,
            seen: AtomicU64::new(0),
        }
    }

    /// Counts a request, where there is a rate.
    ///
    /// # Errors
    /// It is one too many; the time after which it would not be.
    pub(super) async fn count_request(&self) -> Result<Option<rate::Left>, Duration> {
        let Some(rate) = &self.rate else { return Ok(None) };
        if let Some(shared) = &self.shared {
            let pace = rate.pace();
            let price = Price { cost: pace.interval(), most: pace.refill() };
            if let Some(counted) = shared.take(&self.who.key("requests"), price).await {
                return counted.map(|owed| Some(pace.left(owed)));
            }
        }
        rate.take().map(Some)
    }

    /// Takes an estimate of tokens from a budget, which is this caller's.
    ///
    /// # Errors
    /// There are not so many left; the time after which there are.
    pub(super) async fn reserve(&self, budget: &Budget, estimate: u64) -> Result<Taken, Duration> {
        if let Some(shared) = &self.shared {
            let tokens = budget.at_most(estimate);
            let price = Price { cost: budget.time_for(tokens), most: MINUTE };
            if let Some(taken) = shared.take(&self.who.key("tokens"), price).await {
                return taken.map(|owed| {
                    budget.owes(owed);
                    Taken { tokens, together: true }
                });
            }
        }
        budget.reserve(estimate).map(|tokens| Taken { tokens, together: false })
    }

    /// Puts an estimate of tokens right.
    pub(super) fn settle(&self, taken: Taken, used: u64) {
        let Some(budget) = &self.tokens else { return };
        budget.settle(taken.tokens, used);
        if let Some(shared) = self.shared.as_ref().filter(|_| taken.together && used != taken.tokens) {
            shared.correct(self.who.key("tokens"), budget.time_for(used), budget.time_for(taken.tokens));
        }
    }

    pub(super) fn who(&self) -> &Who {
        &self.who
    }

    pub(super) fn limits(&self) -> &KeyLimits {
        &self.limits
    }

    pub(super) fn rate(&self) -> Option<&Rate> {
        self.rate.as_ref()
    }

    pub(super) fn tokens(&self) -> Option<&Budget> {
        self.tokens.as_ref()
    }

    /// Takes the place of a request.
    ///
    /// # Errors
    /// As many as may be at a time are under way.
    pub(super) fn begin_request(&self) -> Result<Slot, u32> {
        Slots::take(self.requests.as_ref())
    }

    /// Takes the place of a stream.
    ///
    /// # Errors
    /// As many as may be at a time are under way.
    pub(super) fn begin_stream(&self) -> Result<Slot, u32> {
        Slots::take(self.streams.as_ref())
    }

    pub(super) fn seen(&self, now: Duration) {
        self.seen.store(millis(now), Ordering::Relaxed);
    }

    /// Whether it is as if the caller had never asked for anything: to forget it then gives it nothing.
    pub(super) fn is_as_new(&self, now: Duration) -> bool {
        let refill = self.rate().map_or(0, |rate| millis(rate.pace().refill()) + 1);
        Slots::all_free(self.requests.as_ref())
            && Slots::all_free(self.streams.as_ref())
            && self.tokens.as_ref().is_none_or(Budget::is_whole)
            && self.seen.load(Ordering::Relaxed).saturating_add(refill) <= millis(now)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
