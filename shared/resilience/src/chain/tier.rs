//! One step of a chain, and what is behind it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::RetryPolicy;
use crate::breaker::CircuitBreaker;
use crate::bulkhead::Bulkhead;
use crate::deadline::Deadline;

/// Something that can be called, and its guard.
pub trait Backend: Send + Sync + 'static {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// The breaker that guards it. `None` for a backend that cannot fail, such as a fixed message.
    fn breaker(&self) -> Option<&CircuitBreaker>;
}

/// One step of a chain.
#[derive(Debug)]
pub struct Tier<B> {
    /// Its name, unique in the chain.
    pub name: Arc<str>,
    /// The longest that a unary call may take, its retries at the same backend included. `None`: the deadline alone
    /// limits it.
    pub timeout: Option<Duration>,
    /// The longest that a streamed call may take to its first content, its retries at the same backend included.
    /// `None`: the deadline alone limits it.
    pub first_item_timeout: Option<Duration>,
    /// The shortest time worth trying. With less, the tier is passed over, and no retry is begun.
    pub minimum: Duration,
    /// What earlier tiers leave of the deadline for this one.
    pub reserve: Duration,
    /// Bounds the calls to all its backends together. A call waits for its slot before its time begins to run. `None`:
    /// nothing bounds them. Chains that share the tier share the bulkhead.
    pub bulkhead: Option<Bulkhead>,
    /// How often, and after which waits, a backend is asked again that says it may be.
    pub retry: RetryPolicy,
    /// Its backends, in the order in which they are tried.
    pub backends: Vec<Arc<B>>,
}

impl<B: Backend> Tier<B> {
    /// A tier that the deadline alone limits: no timeouts, no minimum, no reserve, no bulkhead, no retries.
    pub fn new(name: &str, backends: Vec<Arc<B>>) -> Self {
        Self {
            name: Arc::from(name),
            timeout: None,
            first_item_timeout: None,
            minimum: Duration::ZERO,
            reserve: Duration::ZERO,
            bulkhead: None,
            retry: RetryPolicy::none(),
            backends,
        }
    }

    /// The breakers of its backends.
    pub fn breakers(&self) -> impl Iterator<Item = &CircuitBreaker> {
        self.backends.iter().filter_map(|backend| backend.breaker())
    }

    /// The limit of one visit to a backend.
    pub(super) fn limit(&self, streaming: bool) -> Option<Duration> {
        if streaming { self.first_item_timeout } else { self.timeout }
    }
}

/// What one walk asks of the chain.
pub struct Walk<'a, B> {
    /// When the answer must be there.
    pub deadline: Deadline,
    /// When the request arrived: attempts are timed from here.
    pub started: Instant,
    /// Whether the answer is a stream: then [`Tier::first_item_timeout`] applies.
    pub streaming: bool,
    /// The rule by which the request itself rules a tier out, with the reason in words.
    pub exclude: &'a (dyn Fn(&Tier<B>) -> Option<&'static str> + Send + Sync),
}

impl<B> fmt::Debug for Walk<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk")
            .field("deadline", &self.deadline)
            .field("streaming", &self.streaming)
            .finish_non_exhaustive()
    }
}
