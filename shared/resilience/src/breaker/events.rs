//! What happened to a breaker, for those who look back and those who watch.
//!
//! One ring serves both. A watcher is a position in it: it pulls, so that nothing of a watcher's ever runs inside a breaker,
//! events arrive in the order in which they happened, and a watcher that is too slow loses the oldest and learns how many.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::state::{State, TripReason};
use super::sync::{AtomicBool, Mutex, Ordering};

/// Who did something, and why. Events are kept, so that both are cut to [`Operator::MAX_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Who, such as a person or a replica.
    pub actor: Arc<str>,
    /// Why, in their words.
    pub reason: Arc<str>,
}

impl Operator {
    /// What an event keeps of an actor or a reason at most, in bytes: whole characters of it.
    pub const MAX_BYTES: usize = 256;

    pub(super) fn new(actor: &str, reason: &str) -> Self {
        Self { actor: cut(actor).into(), reason: cut(reason).into() }
    }
}

fn cut(words: &str) -> &str {
    let longest = Operator::MAX_BYTES.min(words.len());
    (0..=longest).rev().find_map(|end| words.get(..end)).unwrap_or_default()
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A state was entered.
    #[non_exhaustive]
    StateChanged {
        /// The state before.
        from: State,
        /// The state after.
        to: State,
        /// Why.
        reason: TripReason,
        /// How long it waits for its first probe, where it opened.
        wait: Option<Duration>,
        /// Who wanted it, where somebody did.
        by: Option<Operator>,
    },
    /// Calls were rejected. Sampled: one event for the first, second, fourth, eighth … rejection of a generation. While
    /// several threads are rejected one may be told late: before there are a quarter more, or when the generation ends.
    #[non_exhaustive]
    CallRejected {
        /// The state that rejected them. Closed where a ramp admits only a share of the calls.
        state: State,
        /// How many in this generation so far.
        count: u64,
    },
    /// An operator started the breaker afresh.
    #[non_exhaustive]
    Reset {
        /// The state before; after it the breaker is closed.
        from: State,
        /// Who.
        by: Operator,
    },
    /// Somebody ended the open wait early: the next call is a probe. The state and its generation stay.
    #[non_exhaustive]
    WaitEnded {
        /// Who.
        by: Operator,
    },
    /// The configuration changed.
    #[non_exhaustive]
    ConfigChanged {
        /// Whether a window changed its shape or a state was entered, so that a new generation began.
        new_generation: bool,
        /// Who.
        by: Operator,
    },
}

/// Something that happened to a breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The breaker's name.
    pub breaker: Arc<str>,
    /// Counts the breaker's events from 1, without a gap.
    pub sequence: u64,
    /// The generation after it.
    pub generation: u64,
    /// When, by the wall clock.
    pub at: SystemTime,
    /// What.
    pub kind: EventKind,
}

/// What a watcher sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// Something happened.
    Event(Event),
    /// So many events passed unseen, because the watcher was too slow.
    Lost(u64),
}

/// The last events, and those who wait for more.
#[derive(Debug)]
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    closed: AtomicBool,
    news: Notify,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Event>,
    capacity: usize,
    /// Events ever pushed, and so the position of the next one.
    pushed: u64,
}

impl Feed {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        // Grows with the first events: of ten thousand breakers, most never have any.
        let ring = Ring { events: VecDeque::new(), capacity, pushed: 0 };
        Arc::new(Self { ring: Mutex::new(ring), closed: AtomicBool::new(false), news: Notify::new() })
    }

    /// Adds an event, without waking anybody. Bounded work, so that it may run inside the breaker's lock, which is what
    /// keeps the events in order.
    pub(super) fn push(&self, event: Event) {
        let mut ring = self.ring.lock();
        if ring.events.len() >= ring.capacity {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
        ring.pushed += 1;
    }

    /// Keeps so many events from now on, and forgets the older ones.
    pub(super) fn bound(&self, capacity: usize) {
        let mut ring = self.ring.lock();
        ring.capacity = capacity;
        let surplus = ring.events.len().saturating_sub(capacity);
        if surplus > 0 {
            ring.events.drain(..surplus);
            ring.events.shrink_to_fit();
        }
    }

    /// Wakes those who wait. To be called after the breaker's lock is gone.
    pub(super) fn wake(&self) {
        self.news.notify_waiters();
    }

    /// Lets watchers see the end.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn history(&self) -> Vec<Event> {
        self.ring.lock().events.iter().cloned().collect()
    }

    pub(crate) fn watch(self: &Arc<Self>) -> Watcher {
        let next = self.ring.lock().pushed;
        Watcher { feed: Arc::clone(self), next }
    }
}

/// Sees the events from the moment when it was made.
///
/// Dropping it at an await loses nothing: an event is taken only when it is returned.
#[derive(Debug)]
pub struct Watcher {
    feed: Arc<Feed>,
    next: u64,
}

impl Watcher {
    /// The next thing to see, waiting for it. `None` once whatever it watches is gone and all was seen.
    pub async fn next(&mut self) -> Option<Watched> {
        loop {
            let feed = Arc::clone(&self.feed);
            // Enlisted before looking, so that no event can slip between the look and the wait.
            let mut news = std::pin::pin!(feed.news.notified());
            news.as_mut().enable();
            let closed = feed.closed.load(Ordering::Acquire);
            if let Some(watched) = self.try_next() {
                return Some(watched);
            }
            if closed {
                return None;
            }
            news.await;
        }
    }

    /// The next thing to see, if there is one already.
    pub fn try_next(&mut self) -> Option<Watched> {
        let ring = self.feed.ring.lock();
        let oldest = ring.pushed - ring.events.len() as u64;
        if self.next < oldest {
            let lost = oldest - self.next;
            self.next = oldest;
            return Some(Watched::Lost(lost));
        }
        let index = usize::try_from(self.next - oldest).ok()?;
        let event = ring.events.get(index)?.clone();
        drop(ring);
        self.next += 1;
        Some(Watched::Event(event))
    }
}
