//! One step of a chain, and what is behind it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::Attempt;
use super::hedge::Hedge;
use super::pool::{FixedPool, Pool};
use super::rest::Rest;
use super::silence::Silence;
use super::trail::Trail;
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

    /// Where it is kept until when the backend wants to be left alone: a walk that is told so keeps it here, and every
    /// walk looks. `None`, the default: nobody keeps it.
    fn rest(&self) -> Option<&Rest> {
        None
    }

    /// Where it is kept for how long the backend has been waited for in vain. `None`, the default: nobody keeps it, and waits
    /// too short to blame the backend never add up to a failure. One that hangs is then not found out by clients in a hurry, nor
    /// behind hedges that always win.
    fn silence(&self) -> Option<&Silence> {
        None
    }

    /// Whether the ends of its answers say how long it took to start for them ([`CallGuard::cold_start`](super::CallGuard::cold_start)).
    /// Then nobody is told before the end how fast it was. False by default.
    fn tells_cold_starts(&self) -> bool {
        false
    }
}

/// One step of a chain.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tier<B> {
    /// Its name, unique in the chain.
    pub name: Arc<str>,
    /// The longest that a unary call may take, its retries at the same backend included. `None`: the deadline alone
    /// limits it, and a call that it cuts off is given up, as when the client goes away. A backend that hangs is then not
    /// found out, unless its breaker's [`OnDrop`](crate::OnDrop) says from when on that is a failure.
    pub timeout: Option<Duration>,
    /// The longest that a streamed call may take to its first content, its retries at the same backend included.
    /// `None`: as for [`Tier::timeout`].
    pub first_item_timeout: Option<Duration>,
    /// The shortest time worth trying. With less, the tier is passed over, and no retry is begun.
    pub minimum: Duration,
    /// What the tiers that are asked before this one leave it of the deadline.
    pub reserve: Duration,
    /// Bounds the calls to all its backends together. A call waits for its slot before its time begins to run. `None`:
    /// nothing bounds them. Chains that share the tier share the bulkhead.
    pub bulkhead: Option<Bulkhead>,
    /// How often, and after which waits, each backend is asked that says it may be asked again, once the others have had their
    /// turn. By default none is asked twice.
    pub retry: RetryPolicy,
    /// The most calls that one walk makes here, to all backends together: first calls, failovers, retries and hedges to them.
    /// By default as many as there are backends, times what [`Tier::retry`] allows each.
    pub max_calls: u32,
    /// After which time a second call is made in parallel to a slow one: to another backend, else to the next tier that
    /// takes hedges. `None`: never.
    pub hedge: Option<Hedge>,
    /// Whether another tier's slow calls may be hedged here. Not where an answer is only better than none.
    pub takes_hedges: bool,
    /// How large a request it takes.
    pub capacity: Capacity,
    /// Its backends.
    pub pool: Arc<dyn Pool<B>>,
}

impl<B: Backend> Tier<B> {
    /// A tier of these backends, tried in this order, that the deadline alone limits: no timeouts, no minimum, no
    /// reserve, no bulkhead, no retries, no hedges. Where a backend may hang, give it a [`Tier::timeout`].
    pub fn new(name: &str, backends: Vec<Arc<B>>) -> Self {
        Self::of_pool(name, Arc::new(FixedPool::new(backends)))
    }

    /// The same, with backends from a pool.
    pub fn of_pool(name: &str, pool: Arc<dyn Pool<B>>) -> Self {
        Self {
            name: Arc::from(name),
            timeout: None,
            first_item_timeout: None,
            minimum: Duration::ZERO,
            reserve: Duration::ZERO,
            bulkhead: None,
            retry: RetryPolicy::none(),
            max_calls: u32::MAX,
            hedge: None,
            takes_hedges: false,
            capacity: Capacity::Any,
            pool,
        }
    }

    /// The breakers of the backends that it has now.
    pub fn breakers(&self) -> Vec<CircuitBreaker> {
        self.pool.members().iter().filter_map(|backend| backend.breaker().cloned()).collect()
    }

    /// The limit of one visit to a backend.
    pub(super) fn limit(&self, streaming: bool) -> Option<Duration> {
        if streaming { self.first_item_timeout } else { self.timeout }
    }
}

/// How large a request a tier takes, in a unit of the caller's choice, such as tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Capacity {
    /// It does not look at the request's size.
    #[default]
    Any,
    /// Nobody has said.
    Unknown,
    /// So much.
    UpTo(u64),
}

impl Capacity {
    /// Whether it is known to be larger. What nobody has said is not: a server may cut a request that is too large for it
    /// down to its size without a word, and answer a question that nobody asked.
    pub fn exceeds(self, other: Self) -> bool {
        matches!((self, other), (Self::UpTo(this), Self::UpTo(other)) if this > other)
    }

    /// Whether it may be asked with what was too much for `outgrown`.
    pub(super) fn may_take_more_than(self, outgrown: Self) -> bool {
        self == Self::Any || self.exceeds(outgrown)
    }

    /// Whether it is known not to be larger.
    pub(super) fn is_within(self, other: Self) -> bool {
        matches!((self, other), (Self::UpTo(this), Self::UpTo(other)) if this <= other)
    }
}

/// What one walk asks of the chain.
#[non_exhaustive]
pub struct Walk<'a, B> {
    /// When the answer must be there.
    pub deadline: Deadline,
    /// When the request arrived: attempts are timed from here.
    pub started: Instant,
    /// Whether the answer is a stream: then [`Tier::first_item_timeout`] applies.
    pub streaming: bool,
    /// Requests with the same affinity do best with the same backend of a pool. See [`Pool::candidates`].
    pub affinity: Option<u64>,
    /// The rule by which the request itself rules a tier out, with the reason in words.
    pub exclude: &'a (dyn Fn(&Tier<B>) -> Option<&'static str> + Send + Sync),
    /// The rule by which it rules out single backends of the other tiers, with the reason in words.
    pub skip_backend: &'a (dyn Fn(&B) -> Option<&'static str> + Send + Sync),
    /// The name of the tier that is asked before all others, and at its own place again when it has no answer then. One that
    /// fails is not.
    pub first: Option<&'a str>,
    /// What an earlier walk for the same request has done: this walk's record goes on from there. It is not counted
    /// again in the chain's statistics.
    pub attempts: Vec<Attempt>,
    /// Where the walk leaves its attempts when it is dropped before its end. `None`, the default: nowhere.
    pub trail: Option<&'a Trail>,
}

impl<B> Walk<'_, B> {
    /// A walk that begins now, for an answer that is whole, with nothing ruled out.
    pub fn new(deadline: Deadline) -> Self {
        Self {
            deadline,
            started: Instant::now(),
            streaming: false,
            affinity: None,
            exclude: &|_| None,
            skip_backend: &|_| None,
            first: None,
            attempts: Vec::new(),
            trail: None,
        }
    }
}

impl<B> fmt::Debug for Walk<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk")
            .field("deadline", &self.deadline)
            .field("streaming", &self.streaming)
            .field("affinity", &self.affinity)
            .field("first", &self.first)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
