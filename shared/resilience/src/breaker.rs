//! The circuit breaker: a thin, thread-safe shell around the pure rules in [`rules`].
//!
//! Acquire in CLOSED loads one atomic word, which packs generation, state and what a permit has to measure. Everything else
//! takes the lock for one step of the rules. A record is such a step: an exact ring behind an uncontended lock measures
//! better than several atomic read-modify-writes, alone and contended, and needs no argument about their order. Rejections in
//! OPEN need neither: the end of the wait stands beside the word.
//!
//! Nobody's code runs inside the lock but the clock's. Events are put into rings there, which keeps them in order; who waits
//! for them is woken after the lock is gone, and that is when the random number for the next wait is drawn.
//!
//! A [`Permit`] is the only way to record an outcome, and settles exactly once: by a method or by its drop.

mod breaker_ref;
mod call;
mod config;
mod events;
mod operator;
mod outlook;
mod permit;
mod rejections;
mod rules;
mod short_name;
mod snapshot;
mod state;
mod sync;
mod window;
mod word;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::backoff::{Randomness, SplitMix64};
use crate::clock::Clock;
pub use breaker_ref::BreakerRef;
pub use call::CallFailed;
pub use config::{
    AfterHalfOpen, CircuitBreakerConfig, CircuitBreakerConfigBuilder, InvalidConfig, Mode, OnDrop, OpenWait,
};
pub(crate) use events::Feed;
pub use events::{Event, EventKind, Operator, Watched, Watcher};
pub use outlook::Outlook;
pub use permit::{BorrowedPermit, CallReport, Permit};
use rejections::{Rejections, Tally};
use rules::{Admitted, Change, Rejected, Rules, Settlement};
use short_name::ShortName;
pub use snapshot::Snapshot;
pub use state::{CallTotals, Outcome, RejectReason, State, Transition, TripReason};
use sync::{AtomicU64, Mutex, Ordering};
pub use window::{Window, WindowCounts};
use word::Word;

/// A call was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("circuit breaker is {}", self.what())]
#[non_exhaustive]
pub struct CallNotPermitted {
    /// The state that rejected it. Closed where a ramp admits only a share of the calls.
    pub state: State,
    /// When to come back: the rest of the open wait, or of a ramp's step. `None` when nobody can tell, as in half-open with
    /// all probes out, or forced open.
    pub retry_after: Option<Duration>,
}

impl CallNotPermitted {
    /// Why, in one word.
    pub fn reason(&self) -> RejectReason {
        match self.state {
            State::Open => RejectReason::OpenWait,
            State::HalfOpen => RejectReason::ProbesOut,
            State::ForcedOpen => RejectReason::ForcedOpen,
            // The other two admit everything.
            State::Closed | State::Disabled | State::MetricsOnly => RejectReason::Ramp,
        }
    }

    fn what(&self) -> &'static str {
        if self.reason() == RejectReason::Ramp {
            "closed and admits only a share of the calls"
        } else {
            self.state.as_str()
        }
    }
}

/// On cache lines of its own, as what every call writes must be: else it would take from other cores what they only read.
#[repr(align(64))]
struct OwnLines<T>(T);

/// In C's order, and that of how often it is needed: a call in CLOSED touches the first line and the two that `guarded`
/// begins with, and a look-up by name none besides, so that a call on one of thousands of breakers waits for few lines.
#[repr(C, align(64))]
struct Inner {
    word: AtomicU64,
    /// The end of the open wait, in nanoseconds of the clock. Means something while the word says OPEN; stored before it.
    open_until: AtomicU64,
    clock: Arc<dyn Clock>,
    short_name: ShortName,
    guarded: OwnLines<Mutex<Guarded>>,
    name: Arc<str>,
    feed: Arc<Feed>,
    /// The feed of the registry that holds the breaker.
    shared_feed: Option<Arc<Feed>>,
    /// Asked once ahead of each opening, never inside the lock.
    random: Arc<dyn Randomness>,
    /// Handles that are [`BreakerRef`]s.
    onlookers: AtomicUsize,
    rejections: Rejections,
}

#[repr(C)]
struct Guarded {
    rules: Rules,
    since: SystemTime,
    /// Of the last event.
    sequence: u64,
    transitions: Vec<(Transition, u64)>,
    tally: Tally,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.feed.close();
    }
}

/// Guards the calls to one backend. Clones share one breaker.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use resilience::{CircuitBreaker, CircuitBreakerConfig, ManualClock, OpenWait, State};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = ManualClock::new();
/// let wait = Duration::from_secs(30);
/// let config = CircuitBreakerConfig::tier().open_wait(OpenWait::fixed(wait)).build()?;
/// let breaker = CircuitBreaker::new("ollama", config, Arc::new(clock.clone()));
///
/// for _ in 0..3 {
///     breaker.acquire()?.failure();
/// }
/// let rejection = breaker.acquire().unwrap_err();
/// assert_eq!((rejection.state, rejection.retry_after), (State::Open, Some(wait)));
///
/// clock.advance(wait);
/// let probe = breaker.acquire()?;
/// assert_eq!(probe.state(), State::HalfOpen);
/// probe.success();
/// assert_eq!(breaker.state(), State::Closed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CircuitBreaker {
    inner: Arc<Inner>,
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.inner.name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl CircuitBreaker {
    /// How many events [`CircuitBreaker::history`] keeps. In a registry of very many breakers they are fewer: see
    /// [`CircuitBreakerRegistry::EVENTS`](crate::CircuitBreakerRegistry::EVENTS).
    pub const HISTORY: usize = 256;

    /// A closed breaker, unless the configuration wants another state. The jitter of its waits comes from the system's
    /// randomness.
    pub fn new(name: &str, config: CircuitBreakerConfig, clock: Arc<dyn Clock>) -> Self {
        Self::with_randomness(name, config, clock, Arc::new(SplitMix64::from_entropy()))
    }

    /// The same, with a source of jitter, so that a test can tell its waits in advance.
    pub fn with_randomness(
        name: &str,
        config: CircuitBreakerConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Randomness>,
    ) -> Self {
        Self::build(name, Arc::new(config), clock, random, None)
    }

    /// The same, telling a registry's feed too.
    pub(crate) fn with_feed(
        name: &str,
        config: Arc<CircuitBreakerConfig>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Randomness>,
        feed: Arc<Feed>,
    ) -> Self {
        Self::build(name, config, clock, random, Some(feed))
    }

    fn build(
        name: &str,
        config: Arc<CircuitBreakerConfig>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Randomness>,
        shared_feed: Option<Arc<Feed>>,
    ) -> Self {
        let rules = Rules::new(config, random.unit());
        let word = AtomicU64::new(Word::of(&rules).bits());
        let guarded =
            Guarded { rules, since: clock.wall(), sequence: 0, transitions: Vec::new(), tally: Tally::new() };
        let inner = Inner {
            word,
            open_until: AtomicU64::new(0),
            clock,
            short_name: ShortName::of(name),
            guarded: OwnLines(Mutex::new(guarded)),
            name: name.into(),
            feed: Feed::new(Self::HISTORY),
            shared_feed,
            random,
            onlookers: AtomicUsize::new(0),
            rejections: Rejections::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether this is its name.
    #[inline]
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.inner.short_name.is(name).unwrap_or_else(|| *self.inner.name == *name)
    }

    /// The configuration it goes by now.
    pub fn config(&self) -> Arc<CircuitBreakerConfig> {
        Arc::clone(self.inner.guarded.0.lock().rules.config())
    }

    /// The state now. Reading it never changes it.
    pub fn state(&self) -> State {
        self.word().state()
    }

    /// Asks to make a call. In CLOSED this is one atomic load, beside the permit's own reference count.
    ///
    /// # Errors
    /// The breaker does not admit it; the error says when to come back.
    #[inline]
    pub fn acquire(&self) -> Result<Permit, CallNotPermitted> {
        let (word, started) = self.admit()?;
        Ok(Permit::new(self.clone(), word, started))
    }

    /// Asks to make a call that this breaker outlives. In CLOSED this is one atomic load.
    ///
    /// # Errors
    /// The breaker does not admit it; the error says when to come back.
    #[inline]
    pub fn acquire_borrowed(&self) -> Result<BorrowedPermit<'_>, CallNotPermitted> {
        let (word, started) = self.admit()?;
        Ok(Permit::new(self, word, started))
    }

    /// Does what time alone brings about: ends a half-open state that has lasted too long and, where the configuration has
    /// that done automatically, begins half-open once the open wait has passed. Says in how long there will be something to do
    /// again, as things stand; `None` when nothing waits for time.
    ///
    /// Whoever wants it drives it, with a timer that is asked anew after each tick. There is no timer in here that could
    /// outlive a reset.
    pub fn tick(&self) -> Option<Duration> {
        let now = self.now();
        let due = self.step(|rules| rules.tick(now));
        due.map(|due| due.saturating_sub(now))
    }

    /// State and counts, read together.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.now();
        let mut guarded = self.inner.guarded.0.lock();
        let Guarded { rules, since, transitions, tally, .. } = &mut *guarded;
        let window = rules.counts(now);
        let (calls, minimum) = (window.calls(), rules.minimum_calls());
        let rejected = tally.total(&self.inner.rejections);
        Snapshot {
            state: rules.state(),
            since: *since,
            generation: rules.generation(),
            window,
            failure_rate_percent: snapshot::rate(window.failed(), calls, minimum),
            slow_call_rate_percent: snapshot::rate(window.slow(), calls, minimum),
            consecutive_failures: rules.consecutive_failures(),
            totals: CallTotals { rejected, ..rules.totals() },
            openings: rules.openings(),
            consecutive_openings: rules.openings_in_a_row(),
            next_probe_in: rules.open_until().map(|until| until.saturating_sub(now)),
            half_open_permits: rules.half_open_permits(),
            transitions: transitions.clone(),
        }
    }

    /// The last events, the oldest first: up to [`CircuitBreaker::HISTORY`] of them.
    pub fn history(&self) -> Vec<Event> {
        self.inner.feed.history()
    }

    /// Sees all events from now on.
    pub fn watch(&self) -> Watcher {
        self.inner.feed.watch()
    }

    /// Keeps no more than these last events from now on.
    pub(crate) fn bound_history(&self, events: usize) {
        self.inner.feed.bound(events);
    }

    /// A number that grows with every call that was settled or rejected, and with every change of state.
    pub(crate) fn activity(&self) -> u64 {
        let guarded = self.inner.guarded.0.lock();
        let CallTotals { success, failure, ignored, cancelled, late, .. } = guarded.rules.totals();
        let rejected = guarded.tally.total(&self.inner.rejections);
        success + failure + ignored + cancelled + late + rejected + guarded.rules.generation()
    }

    pub(super) fn now(&self) -> Duration {
        self.inner.clock.now()
    }

    #[inline]
    fn word(&self) -> Word {
        // Acquire, so that the end of the wait that belongs to an OPEN word is seen with it.
        Word::from_bits(self.inner.word.load(Ordering::Acquire))
    }

    #[inline]
    fn admit(&self) -> Result<(Word, Option<Duration>), CallNotPermitted> {
        let word = self.word();
        if word.admits_at_once() {
            return Ok((word, word.is_stamped().then(|| self.now())));
        }
        self.ask(word)
    }

    #[inline(never)]
    fn ask(&self, word: Word) -> Result<(Word, Option<Duration>), CallNotPermitted> {
        let inner = &*self.inner;
        let reject = |state, retry_after| {
            self.count_rejection(state);
            Err(CallNotPermitted { state, retry_after })
        };
        if word.state() == State::ForcedOpen {
            return reject(State::ForcedOpen, None);
        }
        let now = self.now();
        if word.state() == State::Open {
            let until = Duration::from_nanos(inner.open_until.load(Ordering::Relaxed));
            if now < until {
                return reject(State::Open, Some(until.saturating_sub(now)));
            }
        }
        let answer = self.step(|rules| rules.acquire(now).map(|Admitted { .. }| Word::of(rules)));
        match answer {
            Ok(word) => Ok((word, word.is_stamped().then_some(now))),
            Err(Rejected { state, retry_after }) => reject(state, retry_after),
        }
    }

    /// Settles a permit of `word`. `now` where the permit had to ask for the time anyway.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "what is being settled is known where it is called, and most of this falls away"
    )]
    fn settle(&self, word: Word, now: Option<Duration>, settlement: Settlement) {
        let admitted = admitted(word);
        let now = || now.unwrap_or_else(|| self.now());
        let mut guarded = self.inner.guarded.0.lock();
        guarded.rules.settle(now, admitted, settlement);
        if guarded.rules.has_changed() {
            let changes = self.inner.publish(&mut guarded, |change| state_changed(change, None));
            drop(guarded);
            self.tell(&changes);
        }
    }

    /// A probe has its first chunk, after `took` where that was measured. Says whether it has passed.
    fn pass(&self, word: Word, took: Option<Duration>) -> bool {
        let now = self.now();
        self.step(|rules| rules.pass(now, admitted(word), took))
    }

    fn step<T>(&self, step: impl FnOnce(&mut Rules) -> T) -> T {
        let mut guarded = self.inner.guarded.0.lock();
        let result = step(&mut guarded.rules);
        let changes = self.inner.publish(&mut guarded, |change| state_changed(change, None));
        drop(guarded);
        self.tell(&changes);
        result
    }

    /// Speaks of what happened, after the lock is gone.
    fn tell(&self, changes: &[Option<Change>; 2]) {
        let breaker = self.name();
        for Change { transition: Transition { from, to, reason }, wait, .. } in changes.iter().flatten() {
            if *to == State::Open {
                let open_wait_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                tracing::warn!(breaker, %from, %to, %reason, open_wait_ms, "circuit breaker opened");
            } else {
                tracing::info!(breaker, %from, %to, %reason, "circuit breaker changed state");
            }
        }
        if changes[0].is_some() {
            self.inner.wake();
        }
        if changes.iter().flatten().any(|change| change.transition.to == State::Open) {
            // An opening before this is done has the same number, and its wait replaces the one that had it first.
            let unit = self.inner.random.unit();
            self.inner.guarded.0.lock().rules.vary_next_wait(unit);
        }
    }
}

impl Inner {
    /// Makes known what the last step changed: to acquire by the word, to everybody by events.
    #[cold]
    fn publish(
        &self,
        guarded: &mut Guarded,
        kind: impl Fn(&Change) -> Option<EventKind>,
    ) -> [Option<Change>; 2] {
        let changes = guarded.rules.take_changes();
        for change in changes.iter().flatten() {
            let age = self.clock.now().saturating_sub(change.at);
            let wall = self.clock.wall();
            guarded.since = wall.checked_sub(age).unwrap_or(wall);
            self.end_rejections(guarded, guarded.since);
            match guarded.transitions.iter_mut().find(|(known, _)| *known == change.transition) {
                Some((_, times)) => *times += 1,
                None => guarded.transitions.push((change.transition, 1)),
            }
            if let Some(kind) = kind(change) {
                self.push(guarded, guarded.since, Some(change.generation), kind);
            }
        }
        if let Some(until) = guarded.rules.open_until() {
            let nanos = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
            self.open_until.store(nanos, Ordering::Relaxed);
        }
        let word = Word::of(&guarded.rules).bits();
        if word != self.word.load(Ordering::Relaxed) {
            self.word.store(word, Ordering::Release);
        }
        changes
    }

    fn push(&self, guarded: &mut Guarded, at: SystemTime, generation: Option<u64>, kind: EventKind) {
        guarded.sequence += 1;
        let generation = generation.unwrap_or(guarded.rules.generation());
        let event =
            Event { breaker: Arc::clone(&self.name), sequence: guarded.sequence, generation, at, kind };
        if let Some(shared) = &self.shared_feed {
            shared.push(event.clone());
        }
        self.feed.push(event);
    }

    fn wake(&self) {
        self.feed.wake();
        if let Some(shared) = &self.shared_feed {
            shared.wake();
        }
    }
}

#[inline]
fn admitted(word: Word) -> Admitted {
    Admitted { generation: word.generation(), state: word.state(), has_passed: word.has_passed() }
}

#[allow(clippy::unnecessary_wraps, reason = "the shape that publish takes")]
fn state_changed(change: &Change, by: Option<&Operator>) -> Option<EventKind> {
    let Transition { from, to, reason } = change.transition;
    Some(EventKind::StateChanged { from, to, reason, wait: change.wait, by: by.cloned() })
}

#[cfg(test)]
mod tests;
