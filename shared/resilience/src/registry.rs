//! Circuit breakers by name.
//!
//! A registry hands out one breaker for each name, from shared defaults and the exceptions to them. It is bounded: names that
//! come from outside, such as a host or a tenant, must not be able to fill the memory. What makes room is idleness, never
//! age: a breaker that somebody holds, that an operator holds, or that still waits for its probe is not given up, because its
//! state would be lost. What only looks at all breakers ([`CircuitBreakerRegistry::all`]) holds none.
//!
//! What is remembered of breakers is bounded together ([`CircuitBreakerRegistry::EVENTS`]): few breakers have long histories,
//! many have short ones. Whoever makes up names cannot have both.
//!
//! A look for idle breakers walks through all of them. It is made at most once in [`LOOK_AGAIN`], or every name that is refused
//! would cost as much, with all look-ups shut out meanwhile.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use parking_lot::RwLock;
use thiserror::Error;

use crate::backoff::{Randomness, SplitMix64};
use crate::breaker::{BreakerRef, CircuitBreaker, CircuitBreakerConfig, Feed, Watcher};
use crate::clock::Clock;

/// A registry did not give a breaker.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A known breaker was asked for with other settings than it has.
    #[error("circuit breaker `{name}` exists with a different configuration")]
    #[non_exhaustive]
    ConfigMismatch {
        /// The breaker.
        name: String,
    },
    /// There are as many breakers as there may be, and none of them is idle.
    #[error("no room for circuit breaker `{name}`: there are {limit} already")]
    #[non_exhaustive]
    Full {
        /// The breaker.
        name: String,
        /// The bound.
        limit: usize,
    },
}

/// How long nobody looks for idle breakers after somebody has.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Builds a [`CircuitBreakerRegistry`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct CircuitBreakerRegistryBuilder {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Randomness>,
    defaults: Arc<CircuitBreakerConfig>,
    overrides: HashMap<String, Arc<CircuitBreakerConfig>>,
    limit: usize,
    idle_after: Duration,
}

impl CircuitBreakerRegistryBuilder {
    /// The settings of every breaker that has none of its own.
    pub fn defaults(mut self, config: CircuitBreakerConfig) -> Self {
        self.defaults = Arc::new(config);
        self
    }

    /// The settings of the breaker of this name.
    pub fn override_for(mut self, name: &str, config: CircuitBreakerConfig) -> Self {
        self.overrides.insert(name.to_owned(), Arc::new(config));
        self
    }

    /// The most breakers that it holds. [`CircuitBreakerRegistry::DEFAULT_LIMIT`] unless set.
    pub fn limit(mut self, breakers: usize) -> Self {
        self.limit = breakers;
        self
    }

    /// How long nothing must have happened to a breaker before it may be given up.
    /// [`CircuitBreakerRegistry::DEFAULT_IDLE_AFTER`] unless set.
    pub fn idle_after(mut self, idle: Duration) -> Self {
        self.idle_after = idle;
        self
    }

    /// Where the jitter of all breakers' waits comes from. The system's randomness unless set.
    pub fn randomness(mut self, random: Arc<dyn Randomness>) -> Self {
        self.random = random;
        self
    }

    /// An empty registry.
    pub fn build(self) -> CircuitBreakerRegistry {
        CircuitBreakerRegistry {
            settings: self,
            breakers: RwLock::new(Breakers::new()),
            feed: Feed::new(CircuitBreakerRegistry::HISTORY),
        }
    }
}

/// Small, so that the table of ten thousand stays in a cache. The name is not kept a second time: a look-up reads the one that
/// lies beside the breaker's state, which is about to be needed anyway.
#[derive(Debug)]
struct Entry {
    breaker: CircuitBreaker,
    look: Box<Look>,
}

/// What was seen of a breaker when it was last asked whether it is idle.
#[derive(Debug)]
struct Look {
    /// [`CircuitBreaker::activity`], and when it was first seen to be that.
    activity: u64,
    since: Duration,
}

#[derive(Debug)]
struct Breakers {
    table: HashTable<Entry>,
    /// Keyed at random: names may come from outside.
    hashes: RandomState,
    /// How many events each of them keeps.
    history: usize,
    /// When somebody may look for idle ones again.
    look_again: Duration,
}

impl Breakers {
    fn new() -> Self {
        let (table, hashes) = (HashTable::new(), RandomState::new());
        Self { table, hashes, history: CircuitBreaker::HISTORY, look_again: Duration::ZERO }
    }

    fn get(&self, name: &str) -> Option<CircuitBreaker> {
        let entry = self.table.find(self.hashes.hash_one(name), |entry| entry.breaker.is_named(name));
        entry.map(|entry| entry.breaker.clone())
    }

    fn insert(&mut self, entry: Entry) {
        entry.breaker.bound_history(self.history);
        let Self { table, hashes, .. } = self;
        let hash_of = |entry: &Entry| hashes.hash_one(entry.breaker.name());
        table.insert_unique(hash_of(&entry), entry, hash_of);
        let history = history_among(self.table.len());
        if history < self.history {
            self.bound_histories(history);
        }
    }

    /// Some were removed. Histories grow again when only half as many breakers are left as they would do for, so that no
    /// coming and going at the edge walks through all of them each time.
    fn make_use_of_room(&mut self) {
        let history = history_among(self.table.len().saturating_mul(2));
        if history > self.history {
            self.bound_histories(history);
        }
    }

    fn bound_histories(&mut self, history: usize) {
        self.history = history;
        self.table.iter().for_each(|entry| entry.breaker.bound_history(history));
    }

    fn remove(&mut self, name: &str) -> Option<CircuitBreaker> {
        let found = self.table.find_entry(self.hashes.hash_one(name), |entry| entry.breaker.is_named(name));
        let removed = found.ok()?.remove().0.breaker;
        self.make_use_of_room();
        Some(removed)
    }
}

/// How many events each of so many breakers keeps.
fn history_among(breakers: usize) -> usize {
    let share = CircuitBreakerRegistry::EVENTS / breakers.checked_next_power_of_two().unwrap_or(usize::MAX);
    share.clamp(1, CircuitBreaker::HISTORY)
}

/// Holds circuit breakers by name, all on one clock.
#[derive(Debug)]
pub struct CircuitBreakerRegistry {
    settings: CircuitBreakerRegistryBuilder,
    breakers: RwLock<Breakers>,
    feed: Arc<Feed>,
}

impl CircuitBreakerRegistry {
    /// The most breakers that a registry holds unless it is told otherwise. With windows of up to 128 calls these take 14
    /// megabytes when they are new and some 40 at most, whatever happens to them; a test holds both. Longer windows come
    /// on top, and so do operators' words (see [`Operator`](crate::Operator)) and names of more than some tens of bytes.
    pub const DEFAULT_LIMIT: usize = 10_000;

    /// The most events that the histories of all its breakers keep together. Up to 1024 breakers have
    /// [`CircuitBreaker::HISTORY`] each, twice as many half as much, and so on: among ten thousand, each keeps its last 16.
    pub const EVENTS: usize = 1 << 18;

    /// How long nothing must have happened to a breaker before it may be given up, unless the registry is told otherwise.
    pub const DEFAULT_IDLE_AFTER: Duration = Duration::from_secs(3600);

    /// How many events its feed keeps for slow watchers.
    pub const HISTORY: usize = 1024;

    /// An empty registry with the default settings, the default configuration's included.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::builder(clock).build()
    }

    /// A registry with settings of its own.
    pub fn builder(clock: Arc<dyn Clock>) -> CircuitBreakerRegistryBuilder {
        CircuitBreakerRegistryBuilder {
            clock,
            random: Arc::new(SplitMix64::from_entropy()),
            defaults: Arc::default(),
            overrides: HashMap::new(),
            limit: Self::DEFAULT_LIMIT,
            idle_after: Self::DEFAULT_IDLE_AFTER,
        }
    }

    /// The breaker of this name, made from the overrides for it or else the defaults when there is none yet.
    ///
    /// A breaker that is known is given as it is, whatever its configuration has become.
    ///
    /// # Errors
    /// There is no room for another.
    pub fn breaker(&self, name: &str) -> Result<CircuitBreaker, RegistryError> {
        if let Some(breaker) = self.get(name) {
            return Ok(breaker);
        }
        let config = self.settings.overrides.get(name).unwrap_or(&self.settings.defaults);
        self.create(name, Arc::clone(config))
    }

    /// The breaker of this name, made with `config` when there is none yet.
    ///
    /// # Errors
    /// The breaker exists with another configuration, or there is no room for another.
    pub fn get_or_create(
        &self,
        name: &str,
        config: &CircuitBreakerConfig,
    ) -> Result<CircuitBreaker, RegistryError> {
        let breaker = match self.get(name) {
            Some(breaker) => breaker,
            None => self.create(name, Arc::new(config.clone()))?,
        };
        if *breaker.config() == *config {
            Ok(breaker)
        } else {
            Err(RegistryError::ConfigMismatch { name: name.to_owned() })
        }
    }

    /// The breaker of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<CircuitBreaker> {
        self.breakers.read().get(name)
    }

    /// All breakers, by name, to be looked at: as a [`BreakerRef`] each, which keeps none from being given up when it is idle.
    pub fn all(&self) -> Vec<BreakerRef> {
        let mut all = self.refs();
        all.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        all
    }

    /// How many breakers there are.
    pub fn len(&self) -> usize {
        self.breakers.read().table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.breakers.read().table.is_empty()
    }

    /// Removes a breaker. Who holds it may go on using it; the registry makes a new one for the name.
    pub fn remove(&self, name: &str) -> Option<CircuitBreaker> {
        self.breakers.write().remove(name)
    }

    /// Removes the breakers to which nothing has happened for long enough, and says how many. A breaker that somebody holds
    /// stays, and so does one whose state an operator wanted, and one that is still in its open wait. A state that the
    /// configuration wants is no reason: the next breaker of the name has it too.
    ///
    /// It learns of activity by looking: the first look at a breaker starts its time. A registry that nobody asks to do this
    /// does it when it is full, at most once a second.
    pub fn evict_idle(&self) -> usize {
        let now = self.settings.clock.now();
        self.evict(&mut self.breakers.write(), now)
    }

    /// Does for all breakers what time alone brings about: [`CircuitBreaker::tick`]. Says in how long there will be
    /// something to do again, as things stand.
    pub fn tick(&self) -> Option<Duration> {
        self.refs().iter().filter_map(|breaker| breaker.tick()).min()
    }

    /// Sees the events of all breakers, those of later ones included, from now on.
    pub fn watch(&self) -> Watcher {
        self.feed.watch()
    }

    /// All breakers, in no order.
    fn refs(&self) -> Vec<BreakerRef> {
        self.breakers.read().table.iter().map(|entry| BreakerRef::new(&entry.breaker)).collect()
    }

    fn create(&self, name: &str, config: Arc<CircuitBreakerConfig>) -> Result<CircuitBreaker, RegistryError> {
        let CircuitBreakerRegistryBuilder { clock, random, limit, idle_after, .. } = &self.settings;
        let now = clock.now();
        let full = || RegistryError::Full { name: name.to_owned(), limit: *limit };
        let is_full = |breakers: &Breakers| breakers.table.len() >= *limit;
        let is_over = |breakers: &Breakers| is_full(breakers) && now < breakers.look_again;
        if is_over(&self.breakers.read()) {
            return Err(full());
        }
        // Before the lock: clock and randomness are the caller's code.
        let breaker = CircuitBreaker::with_feed(
            name,
            config,
            Arc::clone(clock),
            Arc::clone(random),
            Arc::clone(&self.feed),
        );
        let mut breakers = self.breakers.write();
        // Somebody may have made it since it was looked for.
        if let Some(breaker) = breakers.get(name) {
            return Ok(breaker);
        }
        if is_over(&breakers) {
            return Err(full());
        }
        if is_full(&breakers) {
            breakers.look_again = now.saturating_add(LOOK_AGAIN.min(*idle_after));
            if self.evict(&mut breakers, now) == 0 {
                return Err(full());
            }
        }
        let look = Look { activity: breaker.activity(), since: now };
        breakers.insert(Entry { breaker: breaker.clone(), look: Box::new(look) });
        Ok(breaker)
    }

    fn evict(&self, breakers: &mut Breakers, now: Duration) -> usize {
        let before = breakers.table.len();
        breakers.table.retain(|Entry { breaker, look }| {
            let activity = breaker.activity();
            if activity != look.activity {
                **look = Look { activity, since: now };
            }
            let idle = now.saturating_sub(look.since) >= self.settings.idle_after;
            !idle || breaker.is_shared() || breaker.is_held() || breaker.is_waiting()
        });
        breakers.make_use_of_room();
        before - breakers.table.len()
    }
}

impl Drop for CircuitBreakerRegistry {
    fn drop(&mut self) {
        self.feed.close();
    }
}

#[cfg(test)]
mod tests;
