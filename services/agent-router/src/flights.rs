//! Identical requests that are under way at the same time, answered once.
//!
//! The first to ask is the leader and goes on as if it were alone. Those that come while it is under way follow: they may
//! have its whole answer. A leader that ends without one, because it failed, was given up by its client or got what is not
//! for others, lets its followers go, and each goes on by itself: none inherits another's failure, and none follows a
//! second leader after the first, which would let a row of failures add up. How long a follower only waits, and when it asks
//! by itself meanwhile, is its own affair: [`Landings`] knows how long leaders usually take.
//!
//! The answer is handed over whole, also to followers that want a stream. Handing over pieces as they arrive would bind
//! the followers to a stream that may break in the middle, when they cannot fall back unseen any more, and would need a buffer
//! for each leader that every follower reads at a pace of its own. What is held here is one answer for as long as somebody
//! is about to take it.

mod landings;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

pub use landings::Landings;

type Landing<T> = watch::Receiver<Option<Arc<T>>>;
type UnderWay<K, T> = Arc<Mutex<HashMap<K, Flight<T>>>>;

/// When a leader set out, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// When.
    pub at: Instant,
    /// For a stream, which is whole when its client has read it, or for a whole answer.
    pub streaming: bool,
}

#[derive(Debug)]
struct Flight<T> {
    departure: Departure,
    landing: Landing<T>,
}

/// Requests under way, by what they ask. Clones share them.
#[derive(Debug)]
pub struct Flights<K, T> {
    under_way: UnderWay<K, T>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

/// How a request goes on.
#[derive(Debug)]
pub enum Seat<K: Hash + Eq, T> {
    /// By itself, with followers perhaps.
    Leader(Leader<K, T>),
    /// Behind an identical one.
    Follower(Follower<T>),
}

/// The first of identical requests. Dropped without an answer, it lets its followers go.
#[derive(Debug)]
pub struct Leader<K: Hash + Eq, T> {
    key: K,
    departure: Departure,
    answer: watch::Sender<Option<Arc<T>>>,
    under_way: UnderWay<K, T>,
}

/// A request that may have the answer of an identical one.
#[derive(Debug)]
pub struct Follower<T> {
    leader: Departure,
    landing: Landing<T>,
}

impl<K: Hash + Eq + Copy, T> Flights<K, T> {
    /// Follows the request that asks the same, or leads those that will.
    pub fn join(&self, key: K, streaming: bool) -> Seat<K, T> {
        let mut under_way = self.under_way.lock();
        if let Some(Flight { departure, landing }) = under_way.get(&key) {
            return Seat::Follower(Follower { leader: *departure, landing: landing.clone() });
        }
        let (answer, landing) = watch::channel(None);
        let departure = Departure { at: Instant::now(), streaming };
        under_way.insert(key, Flight { departure, landing });
        Seat::Leader(Leader { key, departure, answer, under_way: Arc::clone(&self.under_way) })
    }
}

impl<K: Hash + Eq, T> Leader<K, T> {
    /// When it set out, and for what.
    pub fn departure(&self) -> Departure {
        self.departure
    }

    /// Gives the answer to the followers. `answer` is called only when there are any.
    pub fn land(self, answer: impl FnOnce() -> T) {
        // Nobody joins any more: who comes now leads anew.
        self.leave();
        if self.answer.receiver_count() > 0 {
            self.answer.send_replace(Some(Arc::new(answer())));
        }
    }

    fn leave(&self) {
        let mut under_way = self.under_way.lock();
        // After a landing the key may be another leader's already.
        let ours = under_way
            .get(&self.key)
            .is_some_and(|flight| flight.landing.same_channel(&self.answer.subscribe()));
        if ours {
            under_way.remove(&self.key);
        }
    }
}

impl<K: Hash + Eq, T> Drop for Leader<K, T> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<T> Follower<T> {
    /// When its leader set out, and for what.
    pub fn leader(&self) -> Departure {
        self.leader
    }

    /// The leader's answer. `None` when it ended without one. May be dropped and asked again.
    pub async fn landed(&mut self) -> Option<Arc<T>> {
        self.landing.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests;
